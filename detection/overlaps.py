"""Which boxes lie on one another, and one name for each object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detection.alarm import alarm_threshold
from detection.detections import WEAPONS, Detections
from schemas import ModelCard

Floats = NDArray[np.float64]
ONE_OBJECT_IOU = 0.5  # from which two boxes of different classes are two names for one object


def intersections(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return the (N, M) areas that (N, 4) and (M, 4) xyxy boxes have in common."""
    a64, b64 = a.astype(np.float64)[:, None], b.astype(np.float64)[None]
    sides = np.minimum(a64[..., 2:], b64[..., 2:]) - np.maximum(a64[..., :2], b64[..., :2])
    common: Floats = np.prod(np.clip(sides, 0, None), axis=-1)
    return common


def areas(boxes: NDArray[np.floating]) -> Floats:
    """Return the (N,) areas of (N, 4) xyxy boxes."""
    sides = boxes.astype(np.float64)
    area: Floats = np.prod(sides[:, 2:] - sides[:, :2], axis=-1)
    return area


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return the (N, M) intersection over union of (N, 4) and (M, 4) xyxy boxes."""
    overlap = intersections(a, b)
    union = areas(a)[:, None] + areas(b)[None] - overlap
    iou: Floats = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return iou


def one_name_each(found: Detections, card: ModelCard) -> Detections:
    """Return found with one name for each object: of boxes of different classes on one place, the best stays.

    No look-alike hides a weapon. A weapon at the alarm threshold stays in place of the look-alike, whatever
    that one's score; below it, a weapon that is outdone stays beside it; only a better weapon removes a
    weapon. For what people read: an evaluation counts each class by itself and wants them all.

    Args:
        found: what is to be shown, best score first.
        card: of the model that found it.
    """
    is_weapon = np.isin(found.labels, [card.class_names.index(name) for name in WEAPONS])
    called = is_weapon & (found.scores >= alarm_threshold(card))
    on_one_place = box_iou(found.boxes, found.boxes) >= ONE_OBJECT_IOU
    kept = np.zeros(len(found), bool)
    for i in np.argsort(~called, kind="stable"):  # called weapons first, and each kind best first
        others = kept & on_one_place[i] & (found.labels != found.labels[i])
        kept[i] = not (others & is_weapon if is_weapon[i] else others).any()
    return found.take(kept)
