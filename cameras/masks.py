"""Where a camera is wrong again and again: the mask that would keep it quiet there."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from cameras.events import Event
from detection.overlaps import box_iou

ENOUGH = 3  # dismissed events at one place
SAME_PLACE_IOU = 0.5
AROUND = 0.25  # of the boxes' sides, beyond their middles: a mask hides what has its middle in it

Corner = tuple[float, float]


def suggested_mask(dismissed: Sequence[Event]) -> tuple[Corner, ...] | None:
    """Return a mask, corners in shares of the picture, over where the newest event was wrong.

    Args:
        dismissed: the events of one camera that people dismissed, newest first.

    Returns:
        None while fewer than ENOUGH of them lie where the newest does.
    """
    boxes = np.array([_share(event) for event in dismissed if event.box and event.width], np.float64)
    if len(boxes) < ENOUGH:
        return None
    same = boxes[box_iou(boxes[:1], boxes)[0] >= SAME_PLACE_IOU]
    if len(same) < ENOUGH:
        return None
    middles, sides = (same[:, :2] + same[:, 2:]) / 2, (same[:, 2:] - same[:, :2]).mean(axis=0)
    low = (middles.min(axis=0) - AROUND * sides).clip(0, 1).round(3)
    high = (middles.max(axis=0) + AROUND * sides).clip(0, 1).round(3)
    (x1, y1), (x2, y2) = low.tolist(), high.tolist()
    return (x1, y1), (x2, y1), (x2, y2), (x1, y2)


def _share(event: Event) -> NDArray[np.float64]:
    return np.array(event.box, np.float64) / (event.width, event.height, event.width, event.height)
