"""Scores become probabilities, by what a model's card says. Nothing else changes a score."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from detection.detections import Detections
from schemas import Calibration

NEAREST = 1e-12  # to 0 and 1: beyond, the logit would be infinite


def logit(scores: NDArray[np.floating]) -> NDArray[np.float64]:
    """Return log(s / (1 - s)) of (N,) scores in [0, 1], finite at both ends too."""
    inside = np.clip(scores.astype(np.float64), NEAREST, 1 - NEAREST)
    odds: NDArray[np.float64] = np.log(inside) - np.log1p(-inside)
    return odds


def calibrate(
    found: Detections, calibration: Mapping[str, Calibration], class_names: Sequence[str]
) -> Detections:
    """Return detections with calibrated scores, best first.

    Within a class the order stays; between classes it may change. Detections.probabilities stay the
    network's own.

    Args:
        found: with the network's scores.
        calibration: by class name, as in a model card; a class that is not in it keeps its scores. Empty
            for a model without one, which gets found back as it is.
        class_names: background first.
    """
    if not calibration:
        return found
    scores = found.scores.copy()
    for label, name in enumerate(class_names):
        if name in calibration:
            mine, one = found.labels == label, calibration[name]
            scores[mine] = np.exp(-np.logaddexp(0, -(one.slope * logit(scores[mine]) + one.offset)))
    order = np.argsort(-scores, kind="stable")
    return Detections(found.boxes, scores, found.labels, found.probabilities).take(order)
