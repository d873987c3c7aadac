"""Which detection is which true object, and the curves and thresholds that follow.

In all of evaluation: IoU of a match is 0.5 unless said; a detection counts at a threshold when
score >= threshold; matching is greedy, best score first, each truth box taken once. Fractions, never percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from detection.detections import CLASS_NAMES, Classes, Detections, GroundTruth
from detection.overlaps import box_iou
from metrics import IOU, MAX_DETECTIONS, Bools, Floats, Ints, check_pairs
from schemas import ClassThreshold

Corners: TypeAlias = tuple[float, float, float, float]  # xyxy pixels


def match_boxes(iou: Floats, iou_thresholds: Floats) -> Ints:
    """Give each detection the free truth box it overlaps most, best score first, as COCO does.

    Args:
        iou: (D, G), detections by descending score against truth boxes.
        iou_thresholds: (T,).

    Returns:
        (T, D) index of the truth box, -1 for a detection that gets none.
    """
    matched = np.full((len(iou_thresholds), len(iou)), -1, np.int64)
    if not iou.size:
        return matched
    free = np.ones((len(iou_thresholds), iou.shape[1]), bool)
    rows = np.arange(len(iou_thresholds))
    for d, overlaps in enumerate(iou):
        if overlaps.max() < iou_thresholds.min():
            continue
        best = np.where(free & (overlaps >= iou_thresholds[:, None] - 1e-12), overlaps, -1.0).argmax(axis=1)
        hit = free[rows, best] & (overlaps[best] >= iou_thresholds - 1e-12)
        matched[hit, d] = best[hit]
        free[rows[hit], best[hit]] = False
    return matched


@dataclass(frozen=True, eq=False)
class ClassMatches:
    """Every detection of one class in a split, best score first, and whether it found a box.

    Attributes:
        scores: (D,) descending.
        images: (D,) index of each one's image.
        hits: (T, D) true where the detection took a truth box at that IoU threshold.
        boxes: (I,) truth boxes of the class in each image.
    """

    scores: Floats
    images: Ints
    hits: Bools
    boxes: Ints


def match_class(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    label: int,
    iou_thresholds: Floats | None = None,
) -> ClassMatches:
    """Match the detections of one class to its truth boxes, image by image, at each IoU threshold.

    Args:
        truths: one per image.
        detections: one per image, in the order of truths.
        label: index into class_names.
        iou_thresholds: (T,); by default 0.5 alone.
    """
    thresholds = np.array([IOU]) if iou_thresholds is None else iou_thresholds
    scores, images, hits = [np.zeros(0)], [np.zeros(0, np.int64)], [np.zeros((len(thresholds), 0), bool)]
    for image, (truth, found) in enumerate(zip(truths, detections, strict=True)):
        mine = np.flatnonzero(found.labels == label)[:MAX_DETECTIONS]
        iou = box_iou(found.boxes[mine], truth.boxes[truth.labels == label])
        scores.append(found.scores[mine].astype(np.float64))
        images.append(np.full(len(mine), image))
        hits.append(match_boxes(iou, thresholds) >= 0)
    boxes = np.array([np.count_nonzero(truth.labels == label) for truth in truths], np.int64)
    every_score = np.concatenate(scores)
    order = np.argsort(-every_score, kind="stable")
    return ClassMatches(
        every_score[order], np.concatenate(images)[order], np.concatenate(hits, axis=1)[:, order], boxes
    )


@dataclass(frozen=True, eq=False)
class ScoreCurve:
    """Precision, recall and F1 from raw counts at every observed score, highest first; all (S,)."""

    scores: Floats
    precision: Floats
    recall: Floats
    f1: Floats


def score_curve(matches: Sequence[ClassMatches]) -> ScoreCurve:
    """Count hits and false detections of some classes together at every score that occurs.

    Precision here is hits / detections as they are, not COCO's interpolated curve, which overstates it.

    Args:
        matches: at IoU 0.5 first; boxes and detections of all of them are summed.
    """
    scores = np.concatenate([one.scores for one in matches])
    hits = np.concatenate([one.hits[0] for one in matches])
    order = np.argsort(-scores, kind="stable")
    scores, hits = scores[order], hits[order]
    last = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores pass a threshold together
    found = np.cumsum(hits)[last].astype(np.float64)
    boxes = sum(int(one.boxes.sum()) for one in matches)
    precision = found / (last + 1)
    recall = found / max(boxes, 1)
    return ScoreCurve(scores[last], precision, recall, 2 * found / np.maximum(last + 1 + boxes, 1))


def class_thresholds(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> dict[str, ClassThreshold]:
    """Return, by class name, the score threshold of best F1 at IoU 0.5.

    Of equal F1 the highest threshold is taken. A class without truth boxes or without one right detection
    has no such threshold and is left out.
    """
    check_pairs(truths, detections, class_names)
    thresholds = {}
    for label, name in enumerate(class_names[1:], start=1):
        curve = score_curve([match_class(truths, detections, label)])
        if len(curve.f1) and curve.f1.max() > 0:
            best = int(curve.f1.argmax())
            thresholds[name] = ClassThreshold(
                score_threshold=_fraction(curve.scores[best]),
                precision=curve.precision[best],
                recall=curve.recall[best],
                f1=curve.f1[best],
            )
    return thresholds


def _fraction(score: float) -> float:
    return float(np.clip(score, 0.0, 1.0))


def best_f1_threshold(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Classes
) -> tuple[float, str]:
    """Return the score threshold with the best F1 over all classes together, and how it was chosen."""
    every = list(range(1, len(classes.names)))
    of_weapons = " and ".join(classes.names[label] for label in classes.weapons)
    for labels, of_what in ((classes.weapons, of_weapons), (every, "all")):
        if labels:
            curve = score_curve([match_class(truths, detections, label) for label in labels])
            if len(curve.f1) and curve.f1.max() > 0:
                return _fraction(curve.scores[curve.f1.argmax()]), f"best F1 over {of_what} boxes"
    return 1.0, "1, because nothing was found at any score"


def corners(box: Floats) -> Corners:
    """Return a box as report.json holds it: xyxy pixels, to a tenth."""
    x1, y1, x2, y2 = (round(float(value), 1) for value in box)
    return x1, y1, x2, y2
