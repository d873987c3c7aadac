"""A report on disk: report.json, plots as PNG, drawn examples and one HTML page."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage
from pydantic import TypeAdapter, ValidationError

from detection import drawing, imaging
from evaluation import looking
from evaluation.mistakes import LookalikeCell
from evaluation.pictures import PICTURES_FILE, Picture, Pictures, write_pictures
from evaluation.plots import RELIABILITY_LABELS, draw_figures, draw_plots, drawn, title_of
from evaluation.results import ImageResult, Report
from evaluation.spots import Spot, curve_spots
from evaluation.suspects import suspects_csv
from evaluation.video import VideoResult, table_rows

EXAMPLE_PX = 480  # longer side of an example picture, before captions are drawn
MOST_SUSPECTS = 100  # shown in the page; the CSV holds all
COMPARE_FILE = "compare.html"
SUSPECTS_FILE = "suspected_labels.csv"
LOOK_KINDS = (
    ("mistakes", "every mistake"), ("missed", "missed"), ("class", "wrong class"),
    ("localisation", "badly placed"), ("duplicate", "second box"), ("background", "nothing there"),
    ("silent", "weapon images without an alarm"), ("false", "false alarms"),
    ("alarms", "both"), ("cell", "confusions"), ("alarmed", "look-alikes taken for a weapon"),
    ("hidden", "weapons taken for a look-alike"), ("correct", "right"), ("all", "everything"),
)  # fmt: skip
log = logging.getLogger(__name__)
_ADAPTER = TypeAdapter(Report)
_VIDEO = TypeAdapter(VideoResult)


class ReportError(ValueError):
    """The report cannot be written or read; the message says why."""


def write_report(
    report: Report, folder: Path, samples: Sequence[Picture] = (), pictures: Pictures | None = None,
    compared_with: str = "",
) -> Path:  # fmt: skip
    """Write report.json, plots/*.png, examples/*.jpg and report.html, which holds all of them.

    With pictures, the page lets a person look into the errors too, and pictures.json keeps what it shows.

    Args:
        report: of metrics.build_report.
        folder: made if absent; files of an earlier report in it are overwritten.
        samples: the images of the report in its order, for the examples; without them there are none.
        pictures: what was said about each image.
        compared_with: the model of compare.html, if there is one in the folder.

    Returns:
        The path of report.html.

    Raises:
        ReportError: the folder cannot be written.
    """
    figures = draw_figures(report)
    plots = draw_plots(figures)
    examples = draw_examples(report, samples)
    page = render_page(
        report, plots, examples, pictures, curve_spots(report, figures) if pictures else {}, compared_with
    )
    paths = [one.path for one in pictures.pictures] if pictures else []
    files = {
        **plots, **examples,
        "report.json": _ADAPTER.dump_json(report, indent=1),
        SUSPECTS_FILE: suspects_csv(report.suspects, paths).encode(),
        "report.html": page.encode(),
    }  # fmt: skip
    with writing(folder):
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        if pictures:
            write_pictures(pictures, folder)
        for name, is_there in ((PICTURES_FILE, pictures), (COMPARE_FILE, compared_with)):
            if not is_there:  # of an earlier report
                (folder / name).unlink(missing_ok=True)
    return folder / "report.html"


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Say in a sentence why the folder cannot be written.

    Raises:
        ReportError: it cannot.
    """
    try:
        yield
    except OSError as error:
        raise ReportError(
            f"cannot write the report into {folder}: {error.strerror}. Choose another folder."
        ) from error


def write_video(result: VideoResult, folder: Path) -> Path:
    """Write video.json alone, for clips that were scored without photographs, and return its path.

    Raises:
        ReportError: the folder cannot be written.
    """
    path = folder / "video.json"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_VIDEO.dump_json(result, indent=1))
    return path


def check_writable(folder: Path) -> None:
    """Make sure that a report can be written, before hours of work go into it.

    Raises:
        ReportError: the folder cannot be made or written.
    """
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass


def read_report(path: Path) -> Report:
    """Read a report.json, or the one in a folder.

    Raises:
        ReportError: there is none, or it is not one of this version.
    """
    file = path / "report.json" if path.is_dir() else path
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise ReportError(f"expected a report at {file}: {error.strerror}") from error
    except ValidationError as error:
        raise ReportError(
            f"{file} is not a report of this version: {error.error_count()} fields differ"
        ) from error


def draw_examples(report: Report, samples: Sequence[Picture]) -> dict[str, bytes]:
    """Return the worst and best images with detections and missed boxes drawn, JPEG files by name.

    A picture that cannot be read any more is left out: a long run is not lost for it.
    """
    examples = {}
    for group, results in (("worst", report.worst), ("best", report.best)):
        for result in results if samples else ():
            try:
                image = imaging.decode_image(samples[result.index].image_path.read_bytes())
            except (imaging.ImageError, OSError) as error:
                log.warning("no example of %s: %s", result.name, error)
                continue
            examples[example_name(group, result)] = imaging.encode_image(
                draw_example(image, result, report.weapons), quality=82
            )
    return examples


def example_name(group: str, result: ImageResult) -> str:
    """Return the file name of an example, relative to the report's folder."""
    return f"examples/{group}_{result.index:05d}.jpg"


def draw_example(image: imaging.Image, result: ImageResult, weapons: Collection[str]) -> imaging.Image:
    """Draw what was detected, and the truth boxes without a right detection as "truth: NAME".

    Args:
        image: (H, W, 3) uint8 RGB, the image of result; its longer side is cut to EXAMPLE_PX.
        result: its boxes.
        weapons: names of what is drawn as a weapon.
    """
    scale = min(1.0, EXAMPLE_PX / max(image.shape[:2]))
    picture = PillowImage.fromarray(image)
    small = np.asarray(picture.resize([max(1, round(side * scale)) for side in picture.size]))
    shown = [*result.found, *(box for box in result.truth if box.kind != "correct")]
    captions = [
        f"truth: {title_of(box.label)}" if box.score is None else f"{title_of(box.label)} {box.score:.2f}"
        for box in shown
    ]
    boxes = np.array([box.box for box in shown], np.float32).reshape(-1, 4) * np.float32(scale)
    return drawing.draw_boxes(
        small, boxes, captions, drawing.styles_of([box.label in weapons for box in shown])
    )


COCO_ROWS = (
    ("map", "mAP, IoU 0.50 to 0.95"),
    ("map_50", "mAP at IoU 0.50"),
    ("map_75", "mAP at IoU 0.75"),
    ("map_small", "mAP, boxes under 32 x 32 px"),
    ("map_medium", "mAP, boxes up to 96 x 96 px"),
    ("map_large", "mAP, larger boxes"),
    ("mar_1", "mean recall, 1 box per class and image"),
    ("mar_10", "mean recall, 10 boxes"),
    ("mar_100", "mean recall, 100 boxes"),
    ("mar_small", "mean recall, boxes under 32 x 32 px"),
    ("mar_medium", "mean recall, boxes up to 96 x 96 px"),
    ("mar_large", "mean recall, larger boxes"),
)


def render_page(
    report: Report, plots: Mapping[str, bytes], examples: Mapping[str, bytes],
    pictures: Pictures | None = None, spots: Mapping[str, Sequence[Spot]] | None = None,
    compared_with: str = "",
) -> str:  # fmt: skip
    """Return report.html: one page that needs no other file and no network.

    Args:
        report: what it shows.
        plots: of draw_plots.
        examples: of draw_examples; empty for none.
        pictures: what its numbers and curves lead to; None for nothing.
        spots: of curve_spots, with pictures.
        compared_with: the model of compare.html, if there is one beside the page.
    """
    environment = looking.page_environment()
    environment.filters |= {"in_english": in_english, "drawn": drawn}
    return environment.get_template("report_template.html").render(
        report=report,
        plots={Path(name).stem: looking.data_url(content, "png") for name, content in plots.items()},
        worst=_shown("worst", report.worst, examples),
        best=_shown("best", report.best, examples),
        rows=[row for row in COCO_ROWS if row[0] in report.coco],
        lookalikes=lookalike_rows(report.lookalikes),
        reliability_labels=RELIABILITY_LABELS,
        video_rows=table_rows(report.video.figures) if report.video else [],
        weapons=report.weapons,
        spots=spots or {},
        look_kinds=LOOK_KINDS,
        look_lowest=pictures.lowest_score if pictures else 0,
        most_suspects=MOST_SUSPECTS,
        compare_page=COMPARE_FILE if compared_with else "",
        other_model=compared_with,
        **(_look(report, pictures) if pictures else {}),
    )


def _look(report: Report, pictures: Pictures) -> dict[str, Any]:
    order = looking.worst_first(pictures)
    suspected = list(dict.fromkeys(one.index for one in report.suspects[:MOST_SUSPECTS]))
    keep = looking.worth_keeping(pictures, order, suspected)
    small = looking.small_pictures(pictures.pictures, keep)
    return looking.look_context(looking.look_data([pictures], [pictures.model], order, small))


def _shown(
    group: str, results: Sequence[ImageResult], examples: Mapping[str, bytes]
) -> list[tuple[ImageResult, str]]:
    """Return each example with the address of its picture, empty without one."""
    names = [example_name(group, result) for result in results]
    return [
        (result, looking.data_url(examples[name], "jpeg") if name in examples else "")
        for result, name in zip(results, names, strict=True)
    ]


def lookalike_rows(cells: Sequence[LookalikeCell]) -> list[tuple[str, list[LookalikeCell]]]:
    """Return the cells by look-alike, "any" last, each row in the order of the weapons."""
    names = list(dict.fromkeys(cell.lookalike for cell in cells))
    return [(name, [cell for cell in cells if cell.lookalike == name]) for name in names]


def in_english(sentence: str) -> str:
    """Return a sentence with the English names of the classes in it."""
    return " ".join(title_of(word) for word in sentence.split(" "))
