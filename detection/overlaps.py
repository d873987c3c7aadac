"""Which boxes lie on one another, and one name for each object."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from detection.alarm import alarm_threshold
from detection.card import classes_of
from detection.detections import Detections
from schemas import ModelCard

Floats = NDArray[np.float64]
ONE_OBJECT_IOU = 0.5  # from which two boxes of different classes are two names for one object
PART = 0.8  # of the smaller box within a better one of the same weapon: a barrel in its pistol


def areas(boxes: NDArray[np.floating]) -> Floats:
    """Return the (...) areas of (..., 4) xyxy boxes."""
    sides = boxes[..., 2:].astype(np.float64) - boxes[..., :2]
    area: Floats = np.prod(sides, axis=-1)
    return area


def intersections(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return the areas that boxes a and b have in common, (..., 4) xyxy each, as numpy pairs them."""
    high, low = np.minimum(a[..., 2:], b[..., 2:]), np.maximum(a[..., :2], b[..., :2])
    common: Floats = np.prod(np.clip(high.astype(np.float64) - low, 0, None), axis=-1)
    return common


def iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return the intersection over union of boxes a and b, (..., 4) xyxy each, as numpy pairs them."""
    common = intersections(a, b)
    union = areas(a) + areas(b) - common
    shares: Floats = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return shares


def box_iou(a: NDArray[np.floating], b: NDArray[np.floating]) -> Floats:
    """Return the (N, M) intersection over union of (N, 4) and (M, 4) xyxy boxes."""
    return iou(a[:, None], b[None])


def one_name_each(found: Detections, card: ModelCard) -> Detections:
    """Return found with one name for each object: of boxes of different classes on one place, the best stays.

    A weapon within a better box of the same kind, or around it, is part of the same weapon and goes too. No
    look-alike hides a weapon: one at the alarm threshold stays in place of the look-alike, whatever that
    one's score; below it, a weapon that is outdone stays beside it; only a better weapon removes a weapon.
    For what people read: an evaluation counts each class by itself and wants them all.

    Args:
        found: what is to be shown, best score first.
        card: of the model that found it.
    """
    is_weapon = np.isin(found.labels, classes_of(card).weapons)
    called = is_weapon & (found.scores >= alarm_threshold(card))
    on_one_place = box_iou(found.boxes, found.boxes) >= ONE_OBJECT_IOU
    smaller = np.minimum.outer(areas(found.boxes), areas(found.boxes))
    is_part = intersections(found.boxes[:, None], found.boxes[None]) >= PART * np.maximum(smaller, 1e-9)
    kept = np.zeros(len(found), bool)
    for i in np.argsort(~called, kind="stable"):  # called weapons first, and each kind best first
        is_same = found.labels == found.labels[i]
        others = kept & on_one_place[i] & ~is_same
        whole = kept & is_part[i] & is_same & is_weapon[i]
        kept[i] = not ((others & is_weapon if is_weapon[i] else others) | whole).any()
    return found.take(kept)
