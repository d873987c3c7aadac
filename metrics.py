"""How good detections are: COCO numbers, alarm operating points, confusions, intervals. numpy and COCOeval.

Everywhere: IoU of a match is 0.5 unless said; a detection counts at a threshold when score >= threshold;
matching is greedy, best score first, each truth box taken once. Fractions, never percent.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from detections import CLASS_NAMES, WEAPONS, Detections, GroundTruth
from schemas import AlarmPoint, ClassThreshold, OperatingPoint

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
    for one in (*truths, *detections):
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
    it; among thresholds of equal recall the highest is taken. Where that rule cannot decide (no weapon-free
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
    within = (t for t in candidates.tolist() if alarms.false_alarms_per_1000(t) <= max_false_alarms_per_1000)
    return next(within, None)


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
