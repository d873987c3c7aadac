"""What goes wrong: each mistake by its kind, classes confused, and weapons taken for look-alikes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from detection.detections import CLASS_NAMES, SIX, Classes, Detections, GroundTruth
from detection.overlaps import box_iou
from evaluation.matching import match_boxes
from metrics import IOU, Bools, Floats, Ints, check_pairs

ErrorKind = Literal["correct", "localisation", "class", "duplicate", "background"]
TOUCHING_IOU = 0.1  # less overlap than this is another place in the picture


@dataclass(frozen=True, eq=False)
class Diagnosis:
    """What each detection in one image is, and which truth boxes were found.

    Attributes:
        kinds: (D,) per detection: correct; localisation (its class, IoU 0.1 to 0.5); class (IoU at least 0.5
            with a box of another class); duplicate (the box has a better detection); background (the rest).
        iou: (D,) with the truth box that decided the kind; 0 for background.
        truth_of: (D,) index of that truth box, -1 for background.
        found: (G,) the truth box has a correct detection.
        missed: (G,) no correct detection and none of the errors above accounts for it.
    """

    kinds: tuple[ErrorKind, ...]
    iou: Floats
    truth_of: Ints
    found: Bools
    missed: Bools


def diagnose(truth: GroundTruth, found: Detections) -> Diagnosis:
    """Say of each detection in one image what it is, and of each truth box whether it was found.

    Args:
        truth: the image's boxes.
        found: its detections at or above the score threshold in question.
    """
    iou = box_iou(found.boxes, truth.boxes)
    same = found.labels[:, None] == truth.labels[None]
    taken = match_boxes(np.where(same, iou, 0.0), np.array([IOU]))[0]
    kinds, best_iou, truth_of = [], np.zeros(len(found)), np.full(len(found), -1)
    for d in range(len(found)):
        kind, index = _kind(iou[d], same[d], int(taken[d]))
        kinds.append(kind)
        if index >= 0:
            best_iou[d], truth_of[d] = iou[d, index], index
    correct = np.zeros(len(truth.labels), bool)
    correct[taken[taken >= 0]] = True
    touched = correct.copy()
    touched[truth_of[truth_of >= 0]] = True
    return Diagnosis(tuple(kinds), best_iou, truth_of, correct, ~touched)


def _kind(iou: Floats, same: Bools, taken: int) -> tuple[ErrorKind, int]:
    """Return what one detection is and the truth box that says so; iou and same are (G,)."""
    if taken >= 0:
        return "correct", taken
    if not len(iou):
        return "background", -1
    own, other = np.where(same, iou, -1.0), np.where(same, -1.0, iou)
    if own.max() >= IOU:
        return "duplicate", int(own.argmax())
    if other.max() >= IOU:
        return "class", int(other.argmax())
    if own.max() >= TOUCHING_IOU:
        return "localisation", int(own.argmax())
    return "background", -1


@dataclass(frozen=True)
class ErrorCounts:
    """Detections of one class by kind, and truth boxes of it that nothing accounts for."""

    label: str
    correct: int
    localisation: int
    wrong_class: int
    duplicate: int
    background: int
    missed: int


def error_counts(
    truths: Sequence[GroundTruth], diagnoses: Sequence[Diagnosis], detections: Sequence[Detections],
    class_names: Sequence[str] = CLASS_NAMES,
) -> tuple[ErrorCounts, ...]:  # fmt: skip
    """Count by class what diagnose found; detections are those it was given."""
    counts: dict[tuple[int, str], int] = defaultdict(int)
    for truth, one, found in zip(truths, diagnoses, detections, strict=True):
        for label, kind in zip(found.labels.tolist(), one.kinds, strict=True):
            counts[label, kind] += 1
        for label in truth.labels[one.missed].tolist():
            counts[label, "missed"] += 1
    kinds = ("correct", "localisation", "class", "duplicate", "background", "missed")
    return tuple(
        ErrorCounts(name, *(counts[label, kind] for kind in kinds))
        for label, name in enumerate(class_names)
        if label
    )


def confusion_matrix(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> Ints:
    """Count what each truth box was called, and each detection's truth.

    Matching is greedy across classes: the best-scored detection takes the free truth box it overlaps most
    at IoU 0.5, whatever either is called.

    Args:
        truths: one per image.
        detections: one per image, at or above the score threshold in question.
        class_names: index 0 is background.

    Returns:
        (C, C) counts, row = truth, column = detection. Column 0: truth boxes not found; row 0: detections
        on no free box; [0, 0] is 0.
    """
    check_pairs(truths, detections, class_names)
    counts = np.zeros((len(class_names), len(class_names)), np.int64)
    for truth, found in zip(truths, detections, strict=True):
        taken = match_boxes(box_iou(found.boxes, truth.boxes), np.array([IOU]))[0]
        hit = taken >= 0
        np.add.at(counts, (truth.labels[taken[hit]], found.labels[hit]), 1)
        np.add.at(counts, (np.zeros_like(found.labels[~hit]), found.labels[~hit]), 1)
        lost = np.setdiff1d(np.arange(len(truth.labels)), taken[hit])
        np.add.at(counts, (truth.labels[lost], np.zeros_like(lost)), 1)
    return counts


@dataclass(frozen=True)
class LookalikeCell:
    """One weapon against one look-alike, or against all; boxes of the truth, and how many were mixed up.

    Attributes:
        weapon: the name of one, or "any".
        lookalike: likewise.
        lookalike_boxes: truth boxes of the look-alike.
        called_weapon: of those, carry a detection of the weapon (IoU at least 0.5): a false alarm.
        weapon_boxes: truth boxes of the weapon.
        called_lookalike: of those, carry a detection of the look-alike and none of any weapon: a missed one.
    """

    weapon: str
    lookalike: str
    lookalike_boxes: int
    called_weapon: int
    weapon_boxes: int
    called_lookalike: int

    @property
    def called_weapon_share(self) -> float | None:
        """Share of look-alike boxes taken for the weapon; None without such boxes."""
        return self.called_weapon / self.lookalike_boxes if self.lookalike_boxes else None

    @property
    def called_lookalike_share(self) -> float | None:
        """Share of weapon boxes taken for the look-alike alone; None without such boxes."""
        return self.called_lookalike / self.weapon_boxes if self.weapon_boxes else None


def lookalike_table(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Classes = SIX
) -> tuple[LookalikeCell, ...]:
    """Return weapon x look-alike, both ways, "any" included on both sides; 15 cells for the six classes.

    Args:
        truths: one per image.
        detections: one per image, at or above the score threshold in question.
        classes: weapons, and the look-alikes that the others are.
    """
    check_pairs(truths, detections, classes.names)
    carried = [_carried_labels(truth, found) for truth, found in zip(truths, detections, strict=True)]
    boxes = [(int(label), on) for pair in carried for label, on in pair]
    weapons = {classes.names[label]: label for label in classes.weapons}
    lookalikes = {classes.names[label]: label for label in classes.lookalikes}
    if not weapons or not lookalikes:
        return ()
    all_weapons = frozenset(weapons.values())
    cells = []
    for weapon, weapon_ids in _with_any(weapons):
        for lookalike, lookalike_ids in _with_any(lookalikes):
            on_lookalikes = [on for label, on in boxes if label in lookalike_ids]
            on_weapons = [on for label, on in boxes if label in weapon_ids]
            called_weapon = sum(bool(on & weapon_ids) for on in on_lookalikes)
            called_lookalike = sum(bool(on & lookalike_ids) and not on & all_weapons for on in on_weapons)
            cells.append(
                LookalikeCell(
                    weapon, lookalike, len(on_lookalikes), called_weapon, len(on_weapons), called_lookalike
                )
            )
    return tuple(cells)


def _carried_labels(truth: GroundTruth, found: Detections) -> list[tuple[int, frozenset[int]]]:
    """Return each truth box's label and the labels of the detections on it."""
    on = box_iou(truth.boxes, found.boxes) >= IOU
    return [
        (label, frozenset(found.labels[row].tolist()))
        for label, row in zip(truth.labels.tolist(), on, strict=True)
    ]


def _with_any(labels: dict[str, int]) -> list[tuple[str, frozenset[int]]]:
    return [
        *((name, frozenset((label,))) for name, label in labels.items()),
        ("any", frozenset(labels.values())),
    ]
