"""What a model said about each picture, picture by picture: kept beside a report, to look into its errors."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from pydantic import TypeAdapter, ValidationError

from detection.detections import Detections, GroundTruth
from detection.names import printable
from detection.overlaps import box_iou
from evaluation.matching import Corners, corners, match_boxes
from evaluation.mistakes import ErrorKind, diagnose
from evaluation.results import Report
from metrics import IOU

PICTURES_FILE = "pictures.json"
LOWEST_SCORE = 0.05  # detections below it are not kept, unless a point of the model lies lower still


class Picture(Protocol):
    """What an example needs of a photosets.samples.Sample."""

    @property
    def image_path(self) -> Path:
        """The picture's file."""


class Pictured(Picture, Protocol):
    """What is needed of one beside that."""

    @property
    def name(self) -> str:
        """What to call it."""

    @property
    def size_wh(self) -> tuple[int, int]:
        """Pixels of the upright picture."""

    @property
    def truth(self) -> GroundTruth:
        """What a person says is in it."""


@dataclass(frozen=True)
class TrueBox:
    """A box of the truth: its class by name, xyxy pixels of the upright picture."""

    label: str
    box: Corners


@dataclass(frozen=True)
class FoundBox:
    """A detection, and what it is.

    A better detection decides of a worse one, never the other way round, so all of this holds at every
    score threshold that the detection passes.

    Attributes:
        label: class name.
        box: xyxy pixels of the upright picture.
        score: 0 to 1.
        kind: as evaluation.mistakes.diagnose says.
        iou: with the box of the truth that decided the kind; 0 without one.
        truth: index of that box, -1 for none.
        taken: index of the box that it takes in the confusion matrix, -1 for none.
        on: indices of all boxes of the truth that it overlaps by at least IoU 0.5.
    """

    label: str
    box: Corners
    score: float
    kind: ErrorKind
    iou: float
    truth: int
    taken: int
    on: tuple[int, ...]


@dataclass(frozen=True)
class SeenPicture:
    """One picture: its file, its truth and what was found, best score first."""

    name: str
    path: str
    size_wh: tuple[int, int]
    truth: tuple[TrueBox, ...]
    found: tuple[FoundBox, ...]

    def above(self, score_threshold: float) -> list[FoundBox]:
        """Return what was found from a score on."""
        return [one for one in self.found if one.score >= score_threshold]

    def quality(self, score_threshold: float) -> float:
        """Return the panoptic quality from a score on, as evaluation.results.ImageResult has it."""
        found = self.above(score_threshold)
        right = [one.iou for one in found if one.kind == "correct"]
        total = len(right) + 0.5 * (len(found) - len(right)) + 0.5 * (len(self.truth) - len(right))
        return sum(right) / total if total else 1.0

    def mistakes(self, score_threshold: float) -> int:
        """Return how many detections from a score on are wrong, and how many objects nothing accounts for."""
        found = self.above(score_threshold)
        touched = {one.truth for one in found}
        wrong = sum(one.kind != "correct" for one in found)
        return wrong + sum(index not in touched for index in range(len(self.truth)))


@dataclass(frozen=True)
class Pictures:
    """All pictures of a report, in its order.

    Attributes:
        model: name and version, or folder.
        title: of the report: "local test".
        fingerprint: of the data; pictures of two models can be compared where it is the same.
        score_threshold: of an alarm, and of all counts in the report.
        unsure_threshold: None for a model without an unsure point.
        class_names: background first.
        weapons: those of them that are dangerous.
    """

    model: str
    title: str
    fingerprint: str
    score_threshold: float
    unsure_threshold: float | None
    class_names: tuple[str, ...]
    weapons: tuple[str, ...]
    pictures: tuple[SeenPicture, ...]

    @property
    def lowest_score(self) -> float:
        """The score from which detections are kept."""
        points = (LOWEST_SCORE, self.score_threshold, self.unsure_threshold)
        return min(point for point in points if point is not None)


_ADAPTER = TypeAdapter(Pictures)


class PicturesError(ValueError):
    """There is no usable record of pictures; the message says why."""


def look_at_pictures(
    report: Report, samples: Sequence[Pictured], detections: Sequence[Detections]
) -> Pictures:
    """Return what was said about each picture.

    Args:
        report: of these samples and detections.
        samples: the pictures.
        detections: one per picture, down to a low score.
    """
    about = Pictures(
        model=report.model, title=report.title, fingerprint=report.data.get("Fingerprint", ""),
        score_threshold=report.score_threshold,
        unsure_threshold=report.unsure_point.score_threshold if report.unsure_point else None,
        class_names=report.class_names, weapons=report.weapons, pictures=(),
    )  # fmt: skip
    seen = (
        see(sample, found.above(about.lowest_score), report.class_names)
        for sample, found in zip(samples, detections, strict=True)
    )
    return Pictures(**{**vars(about), "pictures": tuple(seen)})


def see(sample: Pictured, found: Detections, class_names: Sequence[str]) -> SeenPicture:
    """Return what was said about one picture."""
    truth = sample.truth
    diagnosis = diagnose(truth, found)
    overlaps = box_iou(found.boxes, truth.boxes)
    taken = match_boxes(overlaps, np.array([IOU]))[0]
    return SeenPicture(
        name=sample.name,
        path=printable(str(sample.image_path.absolute())),
        size_wh=sample.size_wh,
        truth=tuple(
            TrueBox(class_names[label], corners(box))
            for box, label in zip(truth.boxes, truth.labels, strict=True)
        ),
        found=tuple(
            FoundBox(
                class_names[found.labels[d]], corners(found.boxes[d]), float(found.scores[d]), kind,
                iou=round(float(diagnosis.iou[d]), 4), truth=int(diagnosis.truth_of[d]), taken=int(taken[d]),
                on=tuple(np.flatnonzero(overlaps[d] >= IOU).tolist()),
            )
            for d, kind in enumerate(diagnosis.kinds)
        ),
    )  # fmt: skip


def write_pictures(pictures: Pictures, folder: Path) -> None:
    """Write pictures.json into the folder of a report."""
    (folder / PICTURES_FILE).write_bytes(_ADAPTER.dump_json(pictures))


def read_pictures(path: Path) -> Pictures:
    """Read the pictures.json beside a report; path is the report's folder or its report.json.

    Raises:
        PicturesError: there is none, or it is not one of this version.
    """
    file = (path if path.is_dir() else path.parent) / PICTURES_FILE
    try:
        return _ADAPTER.validate_json(file.read_bytes())
    except OSError as error:
        raise PicturesError(
            f"expected {file}, which evaluate.py writes beside a report, but: {error.strerror}"
        ) from error
    except ValidationError as error:
        raise PicturesError(
            f"{file} is not of this version: {error.error_count()} fields differ; evaluate that model again"
        ) from error


def script_json(value: object) -> str:
    """Return JSON that may stand within a script element: no text in it can close the element."""
    text = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
