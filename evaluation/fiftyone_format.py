"""A report's pictures as a data set of FiftyOne on disk; FiftyOne itself is not needed to write it.

The layout is FiftyOne's own, samples.json and metadata.json (fiftyone.types.FiftyOneDataset), in the form
without a version: it holds no ids of a database, and every release reads it. Pictures stay where they are.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from evaluation.matching import Corners
from evaluation.pictures import FoundBox, Pictures, SeenPicture
from evaluation.report import writing
from evaluation.suspects import Suspect

FOLDER = "fiftyone"


def write_fiftyone(pictures: Pictures, suspects: Sequence[Suspect], folder: Path) -> Path:
    """Write a data set into fiftyone/ in the folder of a report and return its path.

    Each picture has ground_truth and predictions; a detection its score, and both whether they are right: the
    attribute mistake is correct, localisation, class, duplicate, background or missed, at the alarm point.
    Detections below that point have the tag "below the alarm point". Pictures with a suspected label have the
    tag "suspected label", and say what in suspected.

    Raises:
        evaluation.report.ReportError: the folder cannot be written.
    """
    said = defaultdict(list)
    for one in suspects:
        said[one.index].append(one.sentence)
    samples = [_sample(one, pictures, said[index]) for index, one in enumerate(pictures.pictures)]
    metadata = {
        "media_type": "image",
        "info": {
            "model": pictures.model, "data": pictures.title, "alarm_from": pictures.score_threshold,
            "classes": list(pictures.class_names[1:]),
        },
    }  # fmt: skip
    target = folder / FOLDER
    with writing(folder):
        target.mkdir(parents=True, exist_ok=True)
        (target / "samples.json").write_text(json.dumps({"samples": samples}), encoding="utf-8")
        (target / "metadata.json").write_text(json.dumps(metadata), encoding="utf-8")
    return target


def how_to_open(folder: Path) -> str:
    """Return what a person types to look at the data set."""
    return (
        f"data set of FiftyOne: {folder}; where FiftyOne is installed, in Python: import fiftyone as fo; "
        f'fo.launch_app(fo.Dataset.from_dir("{folder}", dataset_type=fo.types.FiftyOneDataset)).wait()'
    )


def _sample(picture: SeenPicture, pictures: Pictures, suspected: Sequence[str]) -> dict[str, Any]:
    point = pictures.score_threshold
    above = picture.above(point)
    right = {one.truth for one in above if one.kind == "correct"}
    touched = {one.truth for one in above}
    truth = [
        _detection(picture, box.label, box.box)
        | {"mistake": "correct" if i in right else "not found" if i in touched else "missed"}
        for i, box in enumerate(picture.truth)
    ]
    return {
        "filepath": picture.path,
        "tags": ["suspected label"] if suspected else [],
        "metadata": {
            "_cls": "ImageMetadata", "width": picture.size_wh[0], "height": picture.size_wh[1],
        },
        "ground_truth": {"_cls": "Detections", "detections": truth},
        "predictions": {
            "_cls": "Detections", "detections": [_prediction(picture, one, point) for one in picture.found],
        },
        "quality": picture.quality(point),
        "mistakes": picture.mistakes(point),
        "suspected": list(suspected),
    }  # fmt: skip


def _prediction(picture: SeenPicture, one: FoundBox, point: float) -> dict[str, Any]:
    return _detection(picture, one.label, one.box) | {
        "confidence": one.score,
        "mistake": one.kind,
        "tags": [] if one.score >= point else ["below the alarm point"],
    }


def _detection(picture: SeenPicture, label: str, box: Corners) -> dict[str, Any]:
    """Return a box as FiftyOne has it: left, top, width, height as shares of the upright picture."""
    (x1, y1, x2, y2), (width, height) = box, picture.size_wh
    place = [x1 / width, y1 / height, (x2 - x1) / width, (y2 - y1) / height]
    return {"_cls": "Detection", "label": label, "bounding_box": place, "tags": []}
