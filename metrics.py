"""The mAP family: COCO's numbers by COCOeval, and the original project's protocol. Fractions, no percent."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from faster_coco_eval import COCO, COCOeval_faster
from numpy.typing import NDArray

from detection.detections import CLASS_NAMES, Detections, GroundTruth

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

IOU = 0.5  # what counts as "on the object" wherever one number is enough
COCO_IOUS: Floats = np.linspace(0.5, 0.95, 10)
MAX_DETECTIONS = 100  # per image and class, COCO's


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
    check_pairs(truths, detections, class_names)
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


def check_pairs(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str]
) -> None:
    """See that each image has its detections and every label a name; ValueError otherwise."""
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
