"""How good detections are: COCO numbers, alarm operating points, confusions, intervals. numpy and COCOeval.

Everywhere: IoU of a match is 0.5 unless said; a detection counts at a threshold when score >= threshold;
matching is greedy, best score first, each truth box taken once. Fractions, never percent.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Literal

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from detections import CLASS_NAMES, LOOKALIKES, WEAPONS, Detections, GroundTruth
from schemas import AlarmPoint, ClassThreshold, MeasuredTables, OperatingPoint

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU = 0.5  # what counts as "on the object" wherever one number is enough
COCO_IOUS: Floats = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100  # per image and class, COCO's
MAX_FALSE_ALARMS_PER_1000 = 50.0  # default budget of an alarm operating point


# --- COCO -------------------------------------------------------------------------------------------


def coco_summary(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> dict[str, float]:
    """Return COCO's 12 numbers and each class's AP and AR, by faster-coco-eval.

    Args:
        truths: one per image.
        detections: one per image, in the order of truths; 100 per image and class count.
        class_names: index 0 is background.

    Returns:
        map, map_50, map_75, map_small, map_medium, map_large, mar_1, mar_10, mar_100, mar_small,
        mar_medium, mar_large, and per class ap/NAME, ap50/NAME, ar/NAME, all in [0, 1]. What COCO calls -1
        (a class or a size without one truth box) is left out, and takes no part in any mean: with no truth
        box at all the dict is empty.

    Raises:
        ValueError: truths and detections differ in number, or a label is not in class_names.
    """
    _check_pairs(truths, detections, class_names)
    if not sum(len(truth.labels) for truth in truths):
        return {}
    evaluation = _coco_evaluation(truths, detections, class_names)
    precision, recall = evaluation["precision"], evaluation["recall"]  # (T, R, K, A, M), (T, K, A, M)
    values = {
        "map": _mean(precision[:, :, :, 0, 2]),
        "map_50": _mean(precision[0, :, :, 0, 2]),
        "map_75": _mean(precision[5, :, :, 0, 2]),
        "mar_1": _mean(recall[:, :, 0, 0]),
        "mar_10": _mean(recall[:, :, 0, 1]),
        "mar_100": _mean(recall[:, :, 0, 2]),
    }
    for area, name in enumerate(("small", "medium", "large"), start=1):
        values[f"map_{name}"] = _mean(precision[:, :, :, area, 2])
        values[f"mar_{name}"] = _mean(recall[:, :, area, 2])
    for k, name in enumerate(class_names[1:]):
        values[f"ap/{name}"] = _mean(precision[:, :, k, 0, 2])
        values[f"ap50/{name}"] = _mean(precision[0, :, k, 0, 2])
        values[f"ar/{name}"] = _mean(recall[:, k, 0, 2])
    return {key: value for key, value in values.items() if value >= 0}


def original_protocol(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> dict[str, float]:
    """Return the keys of coco_summary on the single best detection of each class in each image.

    The original project measured so (detecto's predict_top): the second object of a class in an image can
    never be found, and mar_1 equals mar_100. Never compare it with standard COCO numbers.
    """
    return coco_summary(truths, [found.best_per_class() for found in detections], class_names)


def _check_pairs(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str]
) -> None:
    if len(truths) != len(detections):
        raise ValueError(f"want one Detections per image: {len(truths)} truths, {len(detections)} detections")
    everything: list[GroundTruth | Detections] = [*truths, *detections]
    for one in everything:
        if len(one.labels) and not 0 < one.labels.min() <= one.labels.max() < len(class_names):
            raise ValueError(
                f"want labels 1 to {len(class_names) - 1}, got {one.labels.min()} to {one.labels.max()}: "
                "were the truths read with the class names of this model?"
            )


def _coco_evaluation(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str]
) -> dict[str, Floats]:
    """Return COCOeval's precision (T, R, K, A, M) and recall (T, K, A, M); -1 where there is no truth."""
    truth_set, found_set = COCO(), COCO()
    for dataset, per_image in ((truth_set, truths), (found_set, detections)):
        dataset.dataset = {
            "images": [{"id": i} for i in range(len(truths))],
            "categories": [{"id": k, "name": name} for k, name in enumerate(class_names) if k],
            "annotations": _coco_annotations(per_image),
        }
        dataset.createIndex()
    evaluation = COCOeval_faster(truth_set, found_set, "bbox", print_function=lambda *_: None)
    evaluation.evaluate()
    evaluation.accumulate()
    return {key: np.asarray(evaluation.eval[key], np.float64) for key in ("precision", "recall")}


def _coco_annotations(per_image: Sequence[GroundTruth] | Sequence[Detections]) -> list[dict[str, object]]:
    annotations: list[dict[str, object]] = []
    images: list[GroundTruth | Detections] = list(per_image)
    for image, one in enumerate(images):
        xywh = one.boxes.astype(np.float64)
        xywh[:, 2:] -= xywh[:, :2]
        scores = one.scores if isinstance(one, Detections) else np.ones(len(one.labels))
        for box, label, score in zip(xywh.tolist(), one.labels.tolist(), scores.tolist(), strict=True):
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": box,
                    "area": box[2] * box[3],
                    "iscrowd": 0,
                    "score": score,
                }
            )
    return annotations


def _mean(values: Floats) -> float:
    """Return the mean over what has truth, -1 if nothing has."""
    valid = values[values > -1]
    return float(valid.mean()) if len(valid) else -1.0


# --- matching ---------------------------------------------------------------------------------------


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return the (N, M) intersection over union of (N, 4) and (M, 4) xyxy boxes."""
    a64, b64 = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a64[..., 2:], b64[..., 2:]) - np.maximum(a64[..., :2], b64[..., :2])
    overlap = np.prod(np.clip(sides, 0, None), axis=-1)
    area_a = np.prod(a64[..., 2:] - a64[..., :2], axis=-1)
    area_b = np.prod(b64[..., 2:] - b64[..., :2], axis=-1)
    union = area_a + area_b - overlap
    iou: Floats = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou


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


# --- precision, recall and thresholds ---------------------------------------------------------------


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
    _check_pairs(truths, detections, class_names)
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


# --- alarms -----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class ImageAlarms:
    """The highest weapon score of each image, and whether a weapon is in it.

    Attributes:
        scores: (I,) float32, as the detector gave them; -1 where no weapon was detected.
        armed: (I,) a pistol or knife is in the truth.
    """

    scores: NDArray[np.float32]
    armed: Bools

    def recall(self, score_threshold: float) -> float:
        """Return the share of weapon images that raise an alarm; 0 without weapon images."""
        return float((self.scores[self.armed] >= score_threshold).sum() / max(self.armed.sum(), 1))

    def false_alarms_per_1000(self, score_threshold: float) -> float:
        """Return false alarms per 1,000 weapon-free images; 0 without weapon-free images."""
        free = ~self.armed
        return float(1000 * (self.scores[free] >= score_threshold).sum() / max(free.sum(), 1))


def image_alarms(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> ImageAlarms:
    """Reduce each image to one alarm score: its best pistol or knife, wherever in the picture."""
    _check_pairs(truths, detections, class_names)
    weapons = weapon_labels(class_names)
    best = [found.of(weapons).scores[:1] for found in detections]
    scores = np.array([score[0] if len(score) else -1.0 for score in best], np.float32)
    armed = np.array([bool(np.isin(truth.labels, weapons).any()) for truth in truths], bool)
    return ImageAlarms(scores, armed)


def weapon_labels(class_names: Sequence[str]) -> list[int]:
    """Return the indices of pistol and knife in class_names."""
    return [label for label, name in enumerate(class_names) if name in WEAPONS]


def alarm_curve(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> tuple[AlarmPoint, ...]:
    """Return what an alarm at each of the thresholds 0.00, 0.01, ... 1.00 would catch and cost.

    Exact at those thresholds, which are the stops of a slider. Without weapon-free images
    false_alarms_per_1000 is 0 and means nothing: see OperatingPoint.weapon_free_images.
    """
    alarms = image_alarms(truths, detections, class_names)
    return tuple(
        AlarmPoint(
            score_threshold=threshold,
            image_recall=alarms.recall(threshold),
            false_alarms_per_1000=alarms.false_alarms_per_1000(threshold),
        )
        for threshold in np.linspace(0, 1, 101).round(2).tolist()
    )


def choose_operating_point(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    class_names: Sequence[str] = CLASS_NAMES,
    *,
    split: str = "val",
    max_false_alarms_per_1000: float = MAX_FALSE_ALARMS_PER_1000,
) -> OperatingPoint:
    """Choose the alarm threshold: highest image-level weapon recall within the false alarm budget.

    The threshold is the score of an observed weapon image, so that an alarm at score >= threshold catches
    it; among thresholds of equal recall the highest is taken, rounded down to a whole hundredth (a stop of
    the page's slider) if that keeps to the budget too. Where that rule cannot decide (no weapon-free
    image, no weapon image, or no threshold within the budget) the threshold of best F1 over pistol and knife
    boxes is taken, then of best F1 over all classes, and `rule` says so. With nothing found at all it is 1.

    Args:
        truths: one per image of the split.
        detections: one per image, down to a low score.
        class_names: index 0 is background.
        split: name of the split, kept in the result.
        max_false_alarms_per_1000: budget, in weapon-free images out of 1,000 that may raise an alarm.
    """
    alarms = image_alarms(truths, detections, class_names)
    if not (~alarms.armed).any():
        why = f"no weapon-free image in {split}"
    elif not alarms.armed.any():
        why = f"no weapon image in {split}"
    else:
        budget = f"{max_false_alarms_per_1000:g} false alarms per 1,000 weapon-free images"
        threshold = _alarm_threshold(alarms, max_false_alarms_per_1000)
        if threshold is not None:
            rule = f"highest image-level weapon recall with at most {budget}"
            return measure_operating_point(threshold, truths, detections, class_names, rule=rule, split=split)
        why = f"no threshold keeps to {budget}"
    threshold, rule = _best_f1_threshold(truths, detections, class_names)
    rule = f"{rule} ({why})"
    return measure_operating_point(threshold, truths, detections, class_names, rule=rule, split=split)


def _alarm_threshold(alarms: ImageAlarms, max_false_alarms_per_1000: float) -> float | None:
    """Return the lowest score of a weapon image that keeps to the budget, None if none does."""
    candidates = np.unique(alarms.scores[alarms.armed & (alarms.scores >= 0)])
    for score in candidates.tolist():
        hundredth = math.floor(100 * score) / 100
        for threshold in (hundredth, score):
            if alarms.false_alarms_per_1000(threshold) <= max_false_alarms_per_1000:
                return float(threshold)
    return None


def _best_f1_threshold(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str]
) -> tuple[float, str]:
    weapons, every = weapon_labels(class_names), list(range(1, len(class_names)))
    for labels, of_what in ((weapons, "pistol and knife"), (every, "all")):
        if labels:
            curve = score_curve([match_class(truths, detections, label) for label in labels])
            if len(curve.f1) and curve.f1.max() > 0:
                return _fraction(curve.scores[curve.f1.argmax()]), f"best F1 over {of_what} boxes"
    return 1.0, "1, because nothing was found at any score"


def measure_operating_point(
    score_threshold: float,
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    class_names: Sequence[str] = CLASS_NAMES,
    *,
    rule: str,
    split: str,
) -> OperatingPoint:
    """Measure a given threshold on a split.

    Precision and recall count pistol boxes and knife boxes at IoU 0.5, each against its own class: a pistol
    called a knife is a false detection and a miss here, yet still an alarm in image_recall.
    """
    alarms = image_alarms(truths, detections, class_names)
    found = [one.above(score_threshold) for one in detections]
    matches = [match_class(truths, found, label) for label in weapon_labels(class_names)]
    hits = sum(int(one.hits[0].sum()) for one in matches)
    return OperatingPoint(
        score_threshold=score_threshold,
        rule=rule,
        split=split,
        precision=hits / max(sum(len(one.scores) for one in matches), 1),
        recall=hits / max(sum(int(one.boxes.sum()) for one in matches), 1),
        image_recall=alarms.recall(score_threshold),
        false_alarms_per_1000=alarms.false_alarms_per_1000(score_threshold),
        weapon_images=int(alarms.armed.sum()),
        weapon_free_images=int((~alarms.armed).sum()),
    )


# --- what goes wrong --------------------------------------------------------------------------------

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
    _check_pairs(truths, detections, class_names)
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
        weapon: pistol, knife or "any".
        lookalike: billete, monedero, smartphone, tarjeta or "any".
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
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> tuple[LookalikeCell, ...]:
    """Return weapon x look-alike, both ways, "any" included on both sides; 15 cells for the six classes.

    Args:
        truths: one per image.
        detections: one per image, at or above the score threshold in question.
        class_names: weapons and look-alikes not among them are left out.
    """
    _check_pairs(truths, detections, class_names)
    carried = [_carried_labels(truth, found) for truth, found in zip(truths, detections, strict=True)]
    boxes = [(int(label), on) for pair in carried for label, on in pair]
    weapons = {name: class_names.index(name) for name in WEAPONS if name in class_names}
    lookalikes = {name: class_names.index(name) for name in LOOKALIKES if name in class_names}
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


# --- intervals --------------------------------------------------------------------------------------

RECALL_POINTS: Floats = np.linspace(0, 1, 101)


@dataclass(frozen=True)
class Interval:
    """A 95 % interval."""

    low: float
    high: float


def average_precision(matches: ClassMatches, weights: Ints) -> Floats:
    """Return COCO's AP (area over 101 recall points) for weighted images; all weights 1 is COCO's own.

    Args:
        matches: of one class at T IoU thresholds.
        weights: (B, I) how often each image counts, in each of B draws.

    Returns:
        (B, T); nan in draws without a truth box.
    """
    boxes = (weights @ matches.boxes).astype(np.float64)
    seen = np.cumsum(weights[:, matches.images], axis=1, dtype=np.int64)
    result = np.full((len(weights), len(matches.hits)), np.nan)
    for t, hits in enumerate(matches.hits):
        where = np.flatnonzero(hits)
        right = np.cumsum(weights[:, matches.images[where]], axis=1, dtype=np.int64)
        precision = right / np.maximum(seen[:, where], 1)
        envelope = np.maximum.accumulate(precision[:, ::-1], axis=1)[:, ::-1]
        envelope = np.hstack([envelope, np.zeros((len(weights), 1))])  # beyond the last recall
        for b in np.flatnonzero(boxes):
            result[b, t] = envelope[b, np.searchsorted(right[b] / boxes[b], RECALL_POINTS)].mean()
    return result


def bootstrap_intervals(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    class_names: Sequence[str] = CLASS_NAMES,
    *,
    score_threshold: float,
    groups: Sequence[str] | None = None,
    draws: int = 1000,
    seed: int = 0,
) -> dict[str, Interval]:
    """Return 95 % intervals from drawing the recordings again, with replacement.

    Frames of one recording look alike, so a recording is drawn whole: drawing its frames singly would take
    them for so many independent pictures, and the intervals would be too narrow. Matching happens once;
    only the weight of each image differs between draws.

    Args:
        truths: one per image.
        detections: one per image.
        class_names: index 0 is background.
        score_threshold: of the alarm.
        groups: each image's recording; by default each image is one of its own.
        draws: how many times.
        seed: of the drawing.

    Returns:
        map, map_50, ap/NAME, ap50/NAME as in coco_summary, image_recall and false_alarms_per_1000; without
        what is in no recording, or in one only, which says nothing of others.

    Raises:
        ValueError: groups and truths differ in number.
    """
    _check_pairs(truths, detections, class_names)
    if not truths:
        return {}
    group_of = _group_indices(groups or [str(i) for i in range(len(truths))], len(truths))
    weights = _drawn(group_of, draws, seed)
    values = _bootstrap_ap(truths, detections, class_names, weights, group_of)
    spans = {key: _interval(value) for key, value in values.items()}
    alarms = image_alarms(truths, detections, class_names)
    raised = alarms.scores >= score_threshold
    for key, among, per in (
        ("image_recall", alarms.armed, 1),
        ("false_alarms_per_1000", ~alarms.armed, 1000),
    ):
        span = _share_interval(raised, among, weights, group_of)
        if span:
            spans[key] = Interval(per * span.low, per * span.high)
    return spans


def _group_indices(groups: Sequence[str], images: int) -> Ints:
    """Return each image's group as an index, in order of first appearance."""
    if len(groups) != images:
        raise ValueError(f"want one group per image: {images} images, {len(groups)} groups")
    order = {group: i for i, group in enumerate(dict.fromkeys(groups))}
    return np.array([order[group] for group in groups], np.int64)


def _drawn(group_of: Ints, draws: int, seed: int) -> Ints:
    """Return (draws, I) how often each image counts when as many groups as there are are drawn."""
    count = int(group_of.max()) + 1
    per_group = np.random.default_rng(seed).multinomial(count, [1 / count] * count, draws)
    weights: Ints = per_group[:, group_of]
    return weights


def _share_interval(raised: Bools, among: Bools, weights: Ints, group_of: Ints) -> Interval | None:
    """Return the interval of the share of raised among some images; None if they say nothing of others.

    Where all or none are raised, drawing again could only show the same: there it is Wilson's interval for
    n of n, each recording counting once.
    """
    recordings = len(np.unique(group_of[among]))
    hits = int((among & raised).sum())
    if hits in (0, int(among.sum())):
        if not recordings:
            return None
        edge = 1.96**2 / (recordings + 1.96**2)
        return Interval(0.0, edge) if hits == 0 else Interval(1 - edge, 1.0)
    if recordings < 2:
        return None
    images = (weights @ among).astype(np.float64)
    share = np.divide(weights @ (among & raised), images, where=images > 0, out=images * np.nan)
    return _interval(share)


def _bootstrap_ap(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str],
    weights: Ints, group_of: Ints,
) -> dict[str, Floats]:  # fmt: skip
    every, values, holding = [], {}, np.zeros(len(truths), bool)
    for label, name in enumerate(class_names[1:], start=1):
        matches = match_class(truths, detections, label, COCO_IOUS)
        holding |= matches.boxes > 0
        if matches.boxes.any():
            chunks = np.array_split(weights, max(1, weights.size // 250_000))  # keeps memory under 100 MB
            ap = np.concatenate([average_precision(matches, chunk) for chunk in chunks])
            every.append(ap)
            if len(np.unique(group_of[matches.boxes > 0])) > 1:
                values[f"ap/{name}"], values[f"ap50/{name}"] = ap.mean(axis=1), ap[:, 0]
    if len(np.unique(group_of[holding])) > 1:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RuntimeWarning)  # a draw without any truth box has no mean
            values["map"] = np.nanmean(np.stack(every).mean(axis=2), axis=0)
            values["map_50"] = np.nanmean(np.stack(every)[:, :, 0], axis=0)
    return values


def _interval(values: Floats) -> Interval:
    low, high = np.nanpercentile(values, [2.5, 97.5])
    return Interval(float(low), float(high))


# --- the report -------------------------------------------------------------------------------------

OFFICIAL_TEST_IMAGES = 857
# Some of their names, from every part of them. A new division of the same pictures, of which there are many,
# puts most of these on its other side.
OFFICIAL_TEST_NAMES = frozenset((
    "ABbframe00325", "ABmframe00262", "ABsframe00121", "HBbframe00181", "DefenseAndSurvive14",
    "DefenseKnifeAttack0155", "KravMagaKnifeDefenseTechniques078", "KravMagaKnifeDefenseTechniques230",
    "billete_2355", "img4864", "knife_1286", "monedero_1193",
))  # fmt: skip
# Cell 30 of the original project's notebook: best box per class, 829 to 832 of the 857 test images.
ORIGINAL_PUBLISHED = {
    "map": 0.6765, "map_50": 0.9004, "map_75": 0.7826, "map_medium": 0.4914, "map_large": 0.7083,
    "mar_1": 0.7361, "mar_10": 0.7361, "mar_100": 0.7361,
}  # fmt: skip
CURVE_POINTS = 150
CARD_CURVE_STEP = 4  # of those, every fourth goes into model.json: enough to draw


@dataclass(frozen=True)
class CurvePoint:
    """Precision, recall and F1 of one class at one score threshold, from raw counts."""

    score_threshold: float
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class ClassResult:
    """One class: how much of it there is, COCO's numbers, and raw counts at the report's threshold.

    ap, ap50 and ar are None without truth boxes; precision without detections; recall without truth boxes.
    best is the threshold of best F1 on this split; curve runs from low to high score.
    """

    name: str
    boxes: int
    images: int
    ap: float | None
    ap50: float | None
    ar: float | None
    right: int
    detections: int
    precision: float | None
    recall: float | None
    best: ClassThreshold | None
    curve: tuple[CurvePoint, ...]


@dataclass(frozen=True)
class ExampleBox:
    """One box to draw.

    Attributes:
        label: class name.
        box: xyxy pixels of the upright image.
        score: of a detection; None for a truth box.
        kind: of a detection; for a truth box "correct" if it was found, else None.
    """

    label: str
    box: tuple[float, float, float, float]
    score: float | None = None
    kind: ErrorKind | None = None


@dataclass(frozen=True)
class ImageResult:
    """How well one image went at the report's threshold.

    Attributes:
        name: file stem.
        index: place among the images of the report.
        quality: panoptic quality, sum of IoU over right detections / (right + half of false and missed);
            1 is perfect, and stands for a negative with nothing detected.
        problems: sentences; empty when nothing is wrong.
        truth: the boxes of the truth.
        found: the detections, best score first.
    """

    name: str
    index: int
    quality: float
    problems: tuple[str, ...]
    truth: tuple[ExampleBox, ...]
    found: tuple[ExampleBox, ...]


@dataclass(frozen=True)
class Latency:
    """Milliseconds per image on a warm detector: decode from file to pixels, detect from pixels to boxes."""

    images: int
    decode_median_ms: float
    detect_median_ms: float
    detect_p95_ms: float
    machine: str

    @classmethod
    def of(cls, decode_ms: Sequence[float], detect_ms: Sequence[float], machine: str) -> Latency:
        """Sum up the times of single images, in milliseconds."""
        return cls(
            len(detect_ms), float(np.median(decode_ms)), float(np.median(detect_ms)),
            float(np.percentile(detect_ms, 95)), machine,
        )  # fmt: skip


@dataclass(frozen=True)
class SliceResult:
    """The same images, changed, at the same threshold."""

    name: str
    map: float | None
    map_50: float | None
    image_recall: float
    false_alarms_per_1000: float


@dataclass(frozen=True)
class Report:
    """Everything measured of one model on one split.

    Attributes:
        title: what the figures are to be called: "official test" or "local test", "local val".
        split: train, val or test.
        model: name and version, or folder.
        images: how many; negatives: without any object; recordings: how many they come from, None if unknown.
        class_names: background first.
        coco: keys of coco_summary, 100 detections per image and class.
        original: the same keys on the single best box of each class in each image.
        original_subset: the same on the images that the original project's loader kept; empty if not asked.
        published: the original's own figures, where they may be compared with; else empty.
        intervals: 95 %, by key of coco, and image_recall, false_alarms_per_1000; from drawing recordings
            again, or pictures where recordings are unknown.
        classes: one per class.
        operating_point: as chosen, on the split it names; the threshold of all counts in this report.
        measured: the same threshold on this split.
        alarm_curve: thresholds 0.00 to 1.00 on this split.
        confusion: (C, C) counts, row = truth, column = detection, background first.
        lookalikes: weapon x look-alike.
        errors: by class of the detection, missed by class of the truth.
        worst: images that went worst, worst first; best: best first.
        latency: None if not measured.
        robustness: changed images, the unchanged first; empty if not measured.
        data: roots, fingerprint, and whatever else says what was measured.
        notes: sentences on what these figures cannot tell.
    """

    title: str
    split: str
    model: str
    created_at: str
    images: int
    negatives: int
    recordings: int | None
    class_names: tuple[str, ...]
    coco: dict[str, float]
    original: dict[str, float]
    original_subset: dict[str, float]
    published: dict[str, float]
    intervals: dict[str, Interval]
    classes: tuple[ClassResult, ...]
    operating_point: OperatingPoint
    measured: OperatingPoint
    alarm_curve: tuple[AlarmPoint, ...]
    confusion: tuple[tuple[int, ...], ...]
    lookalikes: tuple[LookalikeCell, ...]
    errors: tuple[ErrorCounts, ...]
    worst: tuple[ImageResult, ...]
    best: tuple[ImageResult, ...]
    latency: Latency | None = None
    robustness: tuple[SliceResult, ...] = ()
    data: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def score_threshold(self) -> float:
        """The threshold of all counts."""
        return self.operating_point.score_threshold


def build_report(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    class_names: Sequence[str] = CLASS_NAMES,
    *,
    names: Sequence[str] | None = None,
    groups: Sequence[str] | None = None,
    operating_point: OperatingPoint | None = None,
    split: str = "val",
    official: bool = False,
    model: str = "",
    data: Mapping[str, str] | None = None,
    draws: int = 1000,
    examples: int = 12,
) -> Report:
    """Measure everything that can be measured from truths and detections alone.

    Args:
        truths: one per image.
        detections: one per image, down to a low score.
        class_names: index 0 is background.
        names: file stems, for the best and worst images.
        groups: each image's recording, for the intervals; see bootstrap_intervals.
        operating_point: the model's; by default one is chosen on these very images, and a note says so.
        split: train, val or test.
        official: the images are the official test split, all of it; else the title says local.
        model: name and version, or folder.
        data: what says which data it was: roots, fingerprint.
        draws: of the bootstrap.
        examples: how many worst images, and half as many best.

    Raises:
        ValueError: no image, or lists of different length, or a label outside class_names.
    """
    _check_pairs(truths, detections, class_names)
    if not truths:
        raise ValueError(f"expected at least one image in the {split} split, got none")
    point = operating_point or choose_operating_point(truths, detections, class_names, split=split)
    found = [one.above(point.score_threshold) for one in detections]
    diagnoses = [diagnose(truth, one) for truth, one in zip(truths, found, strict=True)]
    stems = names or [f"image {i}" for i in range(len(truths))]
    ranked = rank_images(stems, truths, found, diagnoses, class_names)
    coco = coco_summary(truths, detections, class_names)
    thresholds = class_thresholds(truths, detections, class_names)
    measured = measure_operating_point(
        point.score_threshold, truths, detections, class_names, rule=f"chosen on {point.split}", split=split
    )
    return Report(
        title=f"{'official' if official else 'local'} {split}",
        split=split,
        model=model,
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
        images=len(truths),
        negatives=sum(not len(truth.labels) for truth in truths),
        recordings=len(set(groups)) if groups else None,
        class_names=tuple(class_names),
        coco=coco,
        original=original_protocol(truths, detections, class_names),
        original_subset={},
        published=dict(ORIGINAL_PUBLISHED) if official else {},
        intervals=bootstrap_intervals(
            truths, detections, class_names, score_threshold=point.score_threshold, groups=groups, draws=draws
        ),
        classes=tuple(
            _class_result(label, class_names, truths, detections, coco, thresholds, point.score_threshold)
            for label in range(1, len(class_names))
        ),
        operating_point=point,
        measured=measured,
        alarm_curve=alarm_curve(truths, detections, class_names),
        confusion=tuple(tuple(row) for row in confusion_matrix(truths, found, class_names).tolist()),
        lookalikes=lookalike_table(truths, found, class_names),
        errors=error_counts(truths, diagnoses, found, class_names),
        worst=tuple(one for one in ranked if one.problems)[:examples],
        best=tuple(one for one in reversed(ranked) if len(truths[one.index].labels))[: examples // 2],
        data=dict(data or {}),
        notes=tuple(
            _notes(
                coco,
                point,
                measured,
                chosen_here=operating_point is None or point.split == split,
                groups=groups,
            )
        ),
    )


def _class_result(
    label: int, class_names: Sequence[str], truths: Sequence[GroundTruth], detections: Sequence[Detections],
    coco: Mapping[str, float], thresholds: Mapping[str, ClassThreshold], score_threshold: float,
) -> ClassResult:  # fmt: skip
    name = class_names[label]
    matches = match_class(truths, detections, label)
    curve = score_curve([matches])
    boxes, above = int(matches.boxes.sum()), matches.scores >= score_threshold
    right, count = int(matches.hits[0][above].sum()), int(above.sum())
    keep = np.unique(np.linspace(0, len(curve.scores) - 1, CURVE_POINTS).astype(int))[::-1]
    points = [
        (curve.scores[i], curve.precision[i], curve.recall[i], curve.f1[i]) for i in keep if len(curve.f1)
    ]
    return ClassResult(
        name=name,
        boxes=boxes,
        images=int((matches.boxes > 0).sum()),
        ap=coco.get(f"ap/{name}"),
        ap50=coco.get(f"ap50/{name}"),
        ar=coco.get(f"ar/{name}"),
        right=right,
        detections=count,
        precision=right / count if count else None,
        recall=right / boxes if boxes else None,
        best=thresholds.get(name),
        curve=tuple(CurvePoint(*map(float, point)) for point in points) if boxes else (),
    )


def _notes(
    coco: Mapping[str, float], point: OperatingPoint, measured: OperatingPoint, *, chosen_here: bool,
    groups: Sequence[str] | None,
) -> Iterator[str]:  # fmt: skip
    if chosen_here:
        yield (
            "The operating point was chosen on these very images, so its recall and false alarms are "
            "flattering; on new images expect worse."
        )
    if groups and len(set(groups)) == 1:
        yield (
            f"All images come from one recording ({groups[0]}), which says nothing of others: there are no "
            "intervals."
        )
    if not measured.weapon_free_images:
        yield "No image here is free of weapons, so false alarms could not be measured."
    elif measured.weapon_free_images < 100:
        yield (
            f"Only {measured.weapon_free_images} images are free of weapons: one false alarm more or less "
            f"moves the rate by {1000 / measured.weapon_free_images:.0f} per 1,000."
        )
    if not measured.weapon_images:
        yield "No image here shows a weapon, so weapon recall could not be measured."
    if "map_small" not in coco:
        yield (
            "No object here is smaller than 32 x 32 pixels: nothing can be said about small or distant "
            "weapons."
        )
    if point.score_threshold >= 1:
        yield "The model found nothing right at any score, so no threshold could be chosen."


def rank_images(
    names: Sequence[str],
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    diagnoses: Sequence[Diagnosis],
    class_names: Sequence[str] = CLASS_NAMES,
) -> list[ImageResult]:
    """Return the images, worst first: by quality, then by missed weapons and how sure a false weapon was."""
    weapons = weapon_labels(class_names)
    keyed = []
    for i, (truth, found, one) in enumerate(zip(truths, detections, diagnoses, strict=True)):
        right = np.array([kind == "correct" for kind in one.kinds], bool)
        lost = int(np.isin(truth.labels[~one.found], weapons).sum())
        false_score = float(found.take(~right).of(weapons).scores.max(initial=0.0))
        result = _image_result(names[i], i, truth, found, one, class_names)
        keyed.append(((result.quality, -lost, -false_score, i), result))
    return [result for _, result in sorted(keyed, key=lambda pair: pair[0])]


def _image_result(
    name: str, index: int, truth: GroundTruth, found: Detections, one: Diagnosis, class_names: Sequence[str]
) -> ImageResult:
    right = np.array([kind == "correct" for kind in one.kinds], bool)
    total = right.sum() + 0.5 * (~right).sum() + 0.5 * (~one.found).sum()
    called = [class_names[label] for label in found.labels]
    return ImageResult(
        name=name,
        index=index,
        quality=float(one.iou[right].sum() / total) if total else 1.0,
        problems=tuple(_problems(truth, found, one, class_names)),
        truth=tuple(
            ExampleBox(class_names[label], _corners(box), kind="correct" if right else None)
            for box, label, right in zip(truth.boxes, truth.labels, one.found, strict=True)
        ),
        found=tuple(
            ExampleBox(label, _corners(box), float(score), kind)
            for label, box, score, kind in zip(called, found.boxes, found.scores, one.kinds, strict=True)
        ),
    )


def _corners(box: NDArray[np.float32]) -> tuple[float, float, float, float]:
    x1, y1, x2, y2 = (round(float(value), 1) for value in box)
    return x1, y1, x2, y2


def _problems(
    truth: GroundTruth, found: Detections, one: Diagnosis, class_names: Sequence[str]
) -> Iterator[str]:
    for d, kind in enumerate(one.kinds):
        said = f"{class_names[found.labels[d]]} {found.scores[d]:.2f}"
        really = class_names[truth.labels[one.truth_of[d]]] if one.truth_of[d] >= 0 else ""
        if kind == "class":
            yield f"{said} is a {really}"
        elif kind == "localisation":
            yield f"{said} is badly placed (IoU {one.iou[d]:.2f})"
        elif kind == "duplicate":
            yield f"{said} is a second box on one {really}"
        elif kind == "background":
            yield f"{said} is nothing"
    for label in truth.labels[one.missed]:
        yield f"{class_names[label]} missed"


def card_tables(report: Report) -> MeasuredTables | None:
    """Return what the model card keeps of the report's curves and tables; None for the training split."""
    if report.split not in ("val", "test"):
        return None
    return MeasuredTables.model_validate({
        "split": report.split,
        "precision_recall": {
            result.name: [
                {"score_threshold": p.score_threshold, "precision": p.precision, "recall": p.recall}
                for p in result.curve[::CARD_CURVE_STEP]
            ]
            for result in report.classes if result.curve
        },
        "confusion": report.confusion,
        "lookalikes": [asdict(cell) for cell in report.lookalikes],
    })  # fmt: skip


def flat_metrics(report: Report) -> dict[str, float]:
    """Return the report's main figures by MLflow name: split/word; what could not be measured is left out."""
    point = report.measured
    values: dict[str, float | None] = {
        "recordings": report.recordings,
        **report.coco,
        **{
            f"original_protocol/{key}": value
            for key, value in report.original.items()
            if key.startswith("ma")
        },
        "alarm/score_threshold": point.score_threshold,
        "alarm/image_recall": point.image_recall if point.weapon_images else None,
        "alarm/false_alarms_per_1000": point.false_alarms_per_1000 if point.weapon_free_images else None,
        "alarm/precision": point.precision,
        "alarm/recall": point.recall if point.weapon_images else None,
    }
    for cell in report.lookalikes:
        if cell.weapon == cell.lookalike == "any":
            values["lookalike_alarm_rate"] = cell.called_weapon_share
            values["weapon_as_lookalike_rate"] = cell.called_lookalike_share
    for key, interval in report.intervals.items():
        name = f"alarm/{key}" if f"alarm/{key}" in values else key
        if values.get(name) is not None and math.isfinite(interval.low + interval.high):
            values[f"{name}/low"], values[f"{name}/high"] = interval.low, interval.high
    if report.latency:
        values["latency/detect_median_ms"] = report.latency.detect_median_ms
        values["latency/detect_p95_ms"] = report.latency.detect_p95_ms
    return {f"{report.split}/{key}": value for key, value in values.items() if value is not None}
