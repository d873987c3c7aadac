"""What a page holds to look into errors: pictures, boxes and the script that filters them.

The page needs no other file and no network, and a content security policy lets this one script run.
"""

from __future__ import annotations

import base64
import hashlib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2

from detection import imaging
from evaluation.pictures import FoundBox, Pictures, SeenPicture, script_json
from evaluation.plots import figure, percent, title_of

HERE = Path(__file__).parent
PICTURE_PX = 360  # longer side of a kept picture
MOST_PICTURES = 500  # kept in one page: about 6 MB
QUALITY = 55  # of WebP
log = logging.getLogger(__name__)

Difference = Literal["found", "wrong", "alarm", "false_alarm"]


@dataclass(frozen=True)
class Finding:
    """What one of two models alone says of a picture.

    Attributes:
        kind: a right detection of an object; a wrong detection; an alarm; a false alarm.
        truth: class name of the object, "" for none.
        called: class name of the detection, "" for none.
        score: of the detection.
        side: 0 or 1: which of the two.
    """

    kind: Difference
    truth: str
    called: str
    score: float
    side: int


def page_environment() -> jinja2.Environment:
    """Return what renders the pages of evaluation/*_template.html; all text in them is escaped."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, loader=jinja2.FileSystemLoader(HERE)
    )
    environment.filters |= {"percent": percent, "figure": figure, "english": title_of}
    return environment


def data_url(content: bytes, kind: str) -> str:
    """Return the content of a picture as an address."""
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


def worst_first(pictures: Pictures) -> list[int]:
    """Return the indices of pictures, the worst first, as evaluation.results.rank_images has them."""
    point, weapons = pictures.score_threshold, pictures.weapons

    def key(index: int) -> tuple[float, int, float, int]:
        picture = pictures.pictures[index]
        found = picture.above(point)
        taken = {one.truth for one in found if one.kind == "correct"}
        lost = sum(box.label in weapons for i, box in enumerate(picture.truth) if i not in taken)
        wrong = [one.score for one in found if one.kind != "correct" and one.label in weapons]
        return picture.quality(point), -lost, -max(wrong, default=0.0), index

    return sorted(range(len(pictures.pictures)), key=key)


def worth_keeping(pictures: Pictures, order: Sequence[int], first: Sequence[int] = ()) -> list[int]:
    """Return which pictures the page keeps: with a mistake at the alarm point, then at the unsure point.

    Args:
        pictures: of the report.
        order: their indices, the worst first.
        first: indices of pictures that are kept before all others.
    """
    wrong = [i for i in order if pictures.pictures[i].mistakes(pictures.score_threshold)]
    unsure = pictures.unsure_threshold
    doubtful = [i for i in order if pictures.pictures[i].mistakes(unsure)] if unsure is not None else []
    return list(dict.fromkeys([*first, *wrong, *doubtful]))[:MOST_PICTURES]


def small_pictures(pictures: Sequence[SeenPicture], keep: Sequence[int]) -> dict[int, str]:
    """Return small pictures as addresses, by index; one that cannot be read any more is left out."""
    small = {}
    for index in keep:
        try:
            image = imaging.decode_image(Path(pictures[index].path).read_bytes())
        except (imaging.ImageError, OSError) as error:
            log.warning("no picture of %s: %s", pictures[index].name, error)
            continue
        content = imaging.encode_image(imaging.shrink(image, PICTURE_PX), "WEBP", quality=QUALITY)
        small[index] = data_url(content, "webp")
    return small


def look_data(
    sides: Sequence[Pictures], names: Sequence[str], order: Sequence[int], small: Mapping[int, str],
    findings: Mapping[int, Sequence[Finding]] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return what the script reads.

    Args:
        sides: the pictures as one model saw them, or as two did.
        names: what to call these models.
        order: indices of those to show, the worst first.
        small: of small_pictures.
        findings: of two models, by index; of one model the script finds them at any score.
    """
    about = sides[0]
    labels = {"": 0} | {name: label for label, name in enumerate(about.class_names)}
    places = {index: place for place, index in enumerate(small)}
    return {
        "titles": [title_of(name) for name in about.class_names],
        "weapons": [labels[name] for name in about.weapons],
        "sides": [
            {"name": name, "from": side.score_threshold} for name, side in zip(names, sides, strict=True)
        ],
        "images": list(small.values()),
        "pictures": [
            {
                "index": index,
                "name": about.pictures[index].name,
                "path": about.pictures[index].path,
                "size": about.pictures[index].size_wh,
                "image": places.get(index),
                "truth": [[labels[box.label], *box.box] for box in about.pictures[index].truth],
                "sides": [[_row(box, labels) for box in side.pictures[index].found] for side in sides],
                **(
                    {
                        "findings": [
                            [one.kind, labels[one.truth], labels[one.called], one.score, one.side]
                            for one in findings[index]
                        ]
                    }
                    if findings is not None
                    else {}
                ),
            }
            for index in order
        ],
    }


def _row(box: FoundBox, labels: Mapping[str, int]) -> list[Any]:
    return [labels[box.label], *box.box, box.score, box.kind, box.truth, box.taken, box.on]


def look_context(data: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the templates need beside their own figures: data, script, and the script's hash."""
    script = (HERE / "pictures.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    return {"look_data": script_json(data), "script": script, "script_hash": digest}
