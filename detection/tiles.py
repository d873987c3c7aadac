"""A picture looked at as a whole and in overlapping tiles, which show small objects larger; merged by class.

Boxes are xyxy pixels. A view is the whole picture or a tile; its frame is its place in the picture.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detection.detections import Detections
from detection.imaging import Image
from detection.overlaps import areas, intersections, iou
from detection.runtime import AnyDetector, BatchDetector
from schemas import NetworkConfig, Tiles

Frames = NDArray[np.int64]
A_SIDE: dict[Tiles, int] = {"1x1": 1, "2x2": 2, "3x3": 3}
OVERLAP = 0.2  # of a tile's side, with the next: what is no larger than this is whole in some tile
NEAR_EDGE = 0.02  # of a tile's side: a box that ends closer to the edge goes on behind it
INSIDE = 0.5  # of the smaller of two views' boxes: if so much of it lies in the other, they show one object


class Stopped(Exception):
    """The work was given up between two views."""


def frames_of(size_hw: tuple[int, int], tiles: Tiles, network: NetworkConfig) -> Frames:
    """Return the frames to look at: the whole picture, then tiles of one size, row by row.

    "auto" takes the most tiles that the network need not enlarge: enlarged, they show no more than they
    hold, and raise false alarms (MODEL_CARD.md, "Tiles").

    Args:
        size_hw: of the upright picture, pixels.
        tiles: how many, across x down.
        network: what it shrinks a picture to.

    Returns:
        (V, 4). A picture of a few pixels has fewer tiles: none comes twice.
    """
    height, width = size_hw
    a_side = _largest(size_hw, network) if tiles == "auto" else A_SIDE[tiles]
    frames = [(0, 0, width, height)]
    frames += [(x1, y1, x2, y2) for y1, y2 in _spans(height, a_side) for x1, x2 in _spans(width, a_side)]
    return np.array(list(dict.fromkeys(frames)), np.int64)


def _sides(a_side: int) -> float:
    """Return how many sides of a tile the picture's side is long."""
    return a_side - (a_side - 1) * OVERLAP


def _largest(size_hw: tuple[int, int], network: NetworkConfig) -> int:
    shrunk = max(min(size_hw) / network.min_size, max(size_hw) / network.max_size)
    return next((n for n in (3, 2) if shrunk >= _sides(n)), 1)


def _spans(side: int, a_side: int) -> list[tuple[int, int]]:
    length = math.ceil(side / _sides(a_side))
    starts = [round(i * (side - length) / max(1, a_side - 1)) for i in range(a_side)]
    return [(start, start + length) for start in starts]


def detect_in(
    detector: AnyDetector,
    image: Image,
    frames: Frames,
    *,
    nms_iou: float | None = None,
    max_detections: int | None = None,
    probabilities: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Detections:
    """Return what a detector finds in the frames of an image, each object once, in the image's pixels.

    Args:
        detector: of any runtime; one that looks at several pictures at once is given tiles together.
        image: (H, W, 3) uint8 RGB, upright.
        frames: what frames_of gave.
        nms_iou: see Detector.detect, in each view and between them.
        max_detections: likewise, in each view and of all.
        probabilities: likewise.
        stopped: asked before each pass of the network, where there are several.

    Raises:
        Stopped: it said so.
    """
    asked: dict[str, Any] = {"nms_iou": nms_iou, "max_detections": max_detections}
    asked["probabilities"] = probabilities
    if len(frames) == 1:
        return detector.detect(image, **asked)
    network, found = detector.card.network, list[Detections]()
    for some in _batches(detector, frames):
        if stopped():
            raise Stopped
        views = [image[y1:y2, x1:x2] for x1, y1, x2, y2 in some]
        if len(views) > 1 and isinstance(detector, BatchDetector):
            found += detector.detect_many(views, **asked)
        else:
            found += [detector.detect(view, **asked) for view in views]
    found = [_best_of_each_class(one, network.box_detections_per_img) for one in found]
    merged = merge(frames, found, network.box_nms_thresh if nms_iou is None else nms_iou)
    return merged.take(slice(network.box_detections_per_img if max_detections is None else max_detections))


def _best_of_each_class(found: Detections, most: int) -> Detections:
    """Return the best of each class: with nms_iou=1 there are thousands, and merging takes their square."""
    best = [np.flatnonzero(found.labels == label)[:most] for label in np.unique(found.labels)]
    return found.take(np.sort(np.concatenate([*best, np.zeros(0, np.int64)])))


def _batches(detector: AnyDetector, frames: Frames) -> Iterator[Frames]:
    """Yield the whole picture, then tiles, as many as pay in one pass."""
    at_once = detector.at_once if isinstance(detector, BatchDetector) else 1
    yield frames[:1]
    for start in range(1, len(frames), at_once):
        yield frames[start : start + at_once]


def merge(frames: Frames, found: Sequence[Detections], nms_iou: float) -> Detections:
    """Return what several views of one picture show, each object of a class once, best score first.

    Of a class, the better score of two boxes of one object stays. A box that a tile's inner edge cuts goes in
    any case: it is a part of what the next tile or the whole picture shows.

    Args:
        frames: (V, 4), the whole picture first.
        found: one per view, boxes in that view's own pixels.
        nms_iou: overlap above which two boxes of a class are one object.

    Returns:
        Boxes in the picture's pixels.
    """
    view = np.repeat(np.arange(len(frames)), [len(one) for one in found])
    every = _in_the_picture(frames[view], found)
    is_cut = cut_boxes(every.boxes, frames[view], frames[0])
    best_first = np.argsort(-every.scores, kind="stable")
    kept: list[int] = []
    for label in np.unique(every.labels):
        left = best_first[~is_cut[best_first] & (every.labels[best_first] == label)]
        while len(left):
            first, left = left[0], left[1:]
            kept.append(first)
            one, others = every.boxes[first], every.boxes[left]
            # The network has compared the boxes of one view; another sees it coarsely, or a part of it.
            smaller = np.minimum(areas(one), areas(others))
            inside = (intersections(one, others) >= INSIDE * smaller) & (view[left] != view[first])
            left = left[~(inside | (iou(one, others) > nms_iou))]
    return every.take(best_first[np.isin(best_first, kept)])


def _in_the_picture(frame: Frames, found: Sequence[Detections]) -> Detections:
    """Return the detections of all views one after the other, boxes moved to where their view's frame is.

    Args:
        frame: (N, 4) of each box's view.
        found: N detections.
    """
    rows = [one.probabilities for one in found if one.probabilities is not None]
    return Detections(
        np.concatenate([one.boxes for one in found]) + frame[:, [0, 1, 0, 1]].astype(np.float32),
        np.concatenate([one.scores for one in found]),
        np.concatenate([one.labels for one in found]),
        np.concatenate(rows) if len(rows) == len(found) else None,
    )


def cut_boxes(boxes: NDArray[np.float32], frame: Frames, whole: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return which boxes end at an edge of their tile that is no edge of the picture.

    Args:
        boxes: (N, 4), in the picture's pixels.
        frame: (N, 4) of each box's view.
        whole: (4,) the picture's.
    """
    near = NEAR_EDGE * np.tile(frame[:, 2:] - frame[:, :2], 2)
    is_cut: NDArray[np.bool_] = ((np.abs(boxes - frame) <= near) & (frame != whole)).any(axis=1)
    return is_cut
