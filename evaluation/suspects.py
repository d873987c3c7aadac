"""Labels of the truth that are probably wrong, by what a model is confident of."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Literal

import numpy as np
from defusedcsv import csv

from detection.detections import Classes, Detections, GroundTruth
from detection.names import class_name
from detection.overlaps import box_iou
from evaluation.matching import Corners, corners
from evaluation.mistakes import TOUCHING_IOU, Diagnosis
from metrics import IOU, Floats

Doubt = Literal["no box", "other class", "badly placed", "two boxes"]
SAME_PLACE_IOU = 0.75  # from which two boxes of the truth are one place twice, as in FiftyOne's recipe


@dataclass(frozen=True)
class Suspect:
    """A label that a person should look at again.

    Attributes:
        picture: file stem; index: its place among the images of the report.
        doubt: no box where the model is confident; a box of another class; a box beside the object; two boxes
            in one place.
        truth: class name of the label, "" where there is none.
        called: what the model says, or the class of the second box.
        score: of the detection; 0 for two boxes.
        iou: of the two boxes.
        box: xyxy pixels of the upright picture: of the label, or of the detection where there is no label.
        agreed: whether the model of another report says so too; None if there is no other.
    """

    picture: str
    index: int
    doubt: Doubt
    truth: str
    called: str
    score: float
    iou: float
    box: Corners
    agreed: bool | None = None

    @property
    def sentence(self) -> str:
        """Say in English what is suspected."""
        truth, called = class_name(self.truth, "en"), class_name(self.called, "en")
        if self.doubt == "no box":
            return f"{called} {self.score:.2f} where there is no box"
        if self.doubt == "other class":
            return f"labelled {truth}, looks like {called} ({self.score:.2f})"
        if self.doubt == "badly placed":
            return f"the box of a {truth} lies beside it ({self.score:.2f}, IoU {self.iou:.2f})"
        return f"two boxes in one place: {truth} and {called} (IoU {self.iou:.2f})"


def find_suspects(
    names: Sequence[str], truths: Sequence[GroundTruth], detections: Sequence[Detections],
    diagnoses: Sequence[Diagnosis], classes: Classes,
) -> tuple[Suspect, ...]:  # fmt: skip
    """Return the suspected labels, the most certain first.

    A detection is confident if it scores at least as well as its class's objects do on average where they
    were found: a class that a model scores low needs less. Boxes that two models doubt deserve most trust.

    Args:
        names: file stems.
        truths: one per image.
        detections: one per image, at or above the score threshold of the report.
        diagnoses: of these, by diagnose.
        classes: what labels mean.

    Source:
        The threshold: Northcutt, Jiang and Chuang, "Confident Learning", JAIR 70, 2021, section 3.1 (an
        object that was not found has no score, and is left out of the mean). The three ways in which a box
        can be wrong: Tkachenko, Thyagarajan and Mueller, "ObjectLab", 2023. Two boxes in one place: the
        threshold of find_duplicates in FiftyOne's recipe "Removing Duplicate Objects".
    """
    confident = confident_scores(detections, diagnoses, len(classes.names))
    suspects: list[Suspect] = []
    for index, (truth, found, one) in enumerate(zip(truths, detections, diagnoses, strict=True)):
        sure = np.flatnonzero(found.scores >= confident[found.labels]).tolist()
        suspects += _doubted(names[index], index, (truth, found, one), sure, classes.names)
        suspects += _in_one_place(names[index], index, truth, classes.names)
    return tuple(sorted(suspects, key=lambda one: (-(one.score or one.iou), one.index)))


def confident_scores(
    detections: Sequence[Detections], diagnoses: Sequence[Diagnosis], classes: int
) -> Floats:
    """Return (C,) the mean score of right detections of each class; infinity where there is none."""
    right = [np.array([kind == "correct" for kind in one.kinds], bool) for one in diagnoses]
    empty = np.zeros(0)
    labels = np.concatenate([empty, *(f.labels[r] for f, r in zip(detections, right, strict=True))])
    scores = np.concatenate([empty, *(f.scores[r] for f, r in zip(detections, right, strict=True))])
    counts = np.bincount(labels.astype(np.int64), minlength=classes)
    sums = np.bincount(labels.astype(np.int64), weights=scores, minlength=classes)
    means: Floats = np.divide(sums, counts, out=np.full(classes, np.inf), where=counts > 0)
    return means


def _doubted(
    name: str, index: int, image: tuple[GroundTruth, Detections, Diagnosis], sure: Sequence[int],
    class_names: Sequence[str],
) -> Iterator[Suspect]:  # fmt: skip
    """Yield what the confident detections of one image say against its labels, each place once."""
    truth, found, one = image
    overlaps = box_iou(found.boxes, truth.boxes)
    places: list[int] = []
    for d in sure:
        kind, t = one.kinds[d], int(one.truth_of[d])
        if places and box_iou(found.boxes[[d]], found.boxes[places]).max() >= IOU:
            continue
        doubt: Doubt
        if kind == "background" and overlaps[d].max(initial=0.0) < TOUCHING_IOU:
            doubt, label, box, iou = "no box", "", found.boxes[d], 0.0
        elif kind in ("class", "localisation") and not one.found[t]:
            doubt = "other class" if kind == "class" else "badly placed"
            label, box, iou = class_names[truth.labels[t]], truth.boxes[t], float(one.iou[d])
        else:
            continue
        places.append(d)
        called, score = class_names[found.labels[d]], float(found.scores[d])
        yield Suspect(name, index, doubt, label, called, score, iou, corners(box))


def _in_one_place(name: str, index: int, truth: GroundTruth, class_names: Sequence[str]) -> Iterator[Suspect]:
    iou = np.triu(box_iou(truth.boxes, truth.boxes), k=1)
    for a, b in np.argwhere(iou >= SAME_PLACE_IOU):
        first, second = class_names[truth.labels[a]], class_names[truth.labels[b]]
        box = corners(truth.boxes[a])
        yield Suspect(name, index, "two boxes", first, second, 0.0, float(iou[a, b]), box)


def suspects_csv(suspects: Sequence[Suspect], paths: Sequence[str] = ()) -> str:
    """Return the suspects as CSV, each with its picture's path if these are given, one per image."""
    stream = io.StringIO()
    columns = [field.name for field in fields(Suspect) if field.name not in ("box", "index")]
    table = csv.writer(stream, lineterminator="\n")
    table.writerow(["path", *columns, "x1", "y1", "x2", "y2", "sentence"])
    for one in suspects:
        row = ["" if value is None else value for value in (getattr(one, name) for name in columns)]
        table.writerow([paths[one.index] if paths else "", *row, *one.box, one.sentence])
    return stream.getvalue()
