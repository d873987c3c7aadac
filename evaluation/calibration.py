"""Do scores say how often boxes are right: made so on a split, and measured on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy.optimize import isotonic_regression, minimize

from detection.calibration import calibrate, logit
from detection.detections import CLASS_NAMES, SIX, Classes, Detections, GroundTruth
from evaluation.intervals import group_indices
from evaluation.matching import match_class
from metrics import Bools, Floats
from schemas import Band, Calibration

FEWEST_TO_FIT = 20  # right boxes of a class, and wrong ones: with fewer, all classes are fitted together
SLOPES, OFFSETS = (0.05, 20.0), (-20.0, 20.0)  # a slope above 0 keeps the order, whatever the data say
FOLDS = 5
BINS = 10
FEWEST_IN_BAND = 30  # boxes: the share of right ones is then known to about 0.15
BAND_RIGHT: tuple[tuple[Literal["strong", "likely"], float], ...] = (("strong", 0.9), ("likely", 0.6))


def fit_calibration(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES
) -> dict[str, Calibration]:
    """Fit each class's scores to whether its boxes were right (at IoU 0.5).

    Args:
        truths: one per image.
        detections: one per image, with the network's own scores, down to a low one.
        class_names: index 0 is background.

    Returns:
        By class name. A class with fewer than FEWEST_TO_FIT right or wrong boxes gets the fit of all classes
        together; where that too is of fewer, the result is empty and scores stay as they are.
    """
    boxes = {
        name: scored_boxes(truths, detections, [label]) for label, name in enumerate(class_names) if label > 0
    }
    together = _fit(*scored_boxes(truths, detections, range(1, len(class_names))))
    if together is None:
        return {}
    return {name: _fit(scores, right) or together for name, (scores, right) in boxes.items()}


def scored_boxes(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], labels: Sequence[int]
) -> tuple[Floats, Bools]:
    """Return the scores of all boxes of some classes, (N,), and whether each was right, (N,)."""
    matches = [match_class(truths, detections, label) for label in labels]
    scores = np.concatenate([np.zeros(0), *(one.scores for one in matches)])
    return scores, np.concatenate([np.zeros(0, bool), *(one.hits[0] for one in matches)])


def weapon_boxes(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Classes = SIX
) -> tuple[Floats, Bools]:
    """Return scored_boxes of the weapons."""
    return scored_boxes(truths, detections, classes.weapons)


def _fit(scores: Floats, right: Bools) -> Calibration | None:
    """Return the slope and offset of least log loss; None with too few boxes right or wrong.

    Source:
        Platt, Probabilistic outputs for support vector machines, 1999: targets a little inside 0 and 1, so
        that boxes which one score divides cleanly do not make the slope infinite.
    """
    hits, misses = int(right.sum()), int((~right).sum())
    if min(hits, misses) < FEWEST_TO_FIT:
        return None
    odds = logit(scores)
    targets = np.where(right, (hits + 1) / (hits + 2), 1 / (misses + 2))

    def loss(given: Floats) -> tuple[float, Floats]:
        z = given[0] * odds + given[1]
        errors = np.exp(-np.logaddexp(0, -z)) - targets
        return float((np.logaddexp(0, z) - targets * z).mean()), np.array(
            [(errors * odds).mean(), errors.mean()]
        )

    best = minimize(loss, np.array([1.0, 0.0]), jac=True, method="L-BFGS-B", bounds=[SLOPES, OFFSETS])
    return Calibration(slope=float(best.x[0]), offset=float(best.x[1]))


def cross_fitted(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], class_names: Sequence[str] = CLASS_NAMES,
    *, groups: Sequence[str] | None = None,
) -> list[Detections] | None:  # fmt: skip
    """Return each image's detections calibrated by a fit on other recordings than its own.

    A fit flatters itself on what it was fitted to. None where there is one recording only.

    Args:
        truths: see fit_calibration, and so the next two.
        detections: likewise.
        class_names: likewise.
        groups: each image's recording; by default each image is one of its own.
    """
    group_of = group_indices(groups, len(truths))
    if len(np.unique(group_of)) < 2:
        return None
    fold_of = group_of % FOLDS
    result = list(detections)
    for fold in np.unique(fold_of):
        others = np.flatnonzero(fold_of != fold).tolist()
        fitted = fit_calibration([truths[i] for i in others], [detections[i] for i in others], class_names)
        for i in np.flatnonzero(fold_of == fold).tolist():
            result[i] = calibrate(detections[i], fitted, class_names)
    return result


@dataclass(frozen=True)
class ReliabilityBin:
    """Boxes of about one score: how many, their mean score, and the share of them that were right."""

    boxes: int
    score: float
    right: float


@dataclass(frozen=True)
class Reliability:
    """How far scores of weapons' boxes are from how often they were right.

    Attributes:
        scores: which scores: raw, the network's own; calibrated, by fits on other recordings; served, as
            the model gives them.
        error: the expected calibration error: |mean score - share right|, mean over all boxes.
        bins: of BINS equal spans of the score, those with boxes in them, lowest first.
    """

    scores: Literal["raw", "calibrated", "served"]
    error: float
    bins: tuple[ReliabilityBin, ...]


def measure_reliability(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Classes = SIX,
    *, scores: Literal["raw", "calibrated", "served"],
) -> Reliability | None:  # fmt: skip
    """Measure the scores of weapons' boxes; None where there is not one box."""
    values, right = weapon_boxes(truths, detections, classes)
    if not len(values):
        return None
    bin_of = np.minimum((values * BINS).astype(int), BINS - 1)
    bins = tuple(
        ReliabilityBin(int(mine.sum()), float(values[mine].mean()), float(right[mine].mean()))
        for mine in (bin_of == i for i in range(BINS))
        if mine.any()
    )
    error = sum(one.boxes * abs(one.score - one.right) for one in bins) / len(values)
    return Reliability(scores, error, bins)


def choose_bands(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Classes = SIX
) -> tuple[Band, ...]:
    """Choose the bands weak, likely and strong, by how often weapons' boxes in each were right.

    strong begins where at least 9 of 10 boxes are right, likely where 6 of 10 are, by isotonic regression:
    so that it is true of the lower end of a band too, and not made up for by its upper end. Each holds
    FEWEST_IN_BAND boxes or more, else it is left out and the band below reaches up. Empty with fewer than
    that many boxes over all.

    Args:
        truths: one per image.
        detections: one per image, with the scores that people will see.
        classes: what labels mean, and which are weapons.
    """
    scores, right = weapon_boxes(truths, detections, classes)
    if len(scores) < FEWEST_IN_BAND:
        return ()
    order = np.lexsort((~right, scores))  # of equal scores the right ones first, which pools them
    scores, right = scores[order], right[order]
    share = isotonic_regression(right.astype(np.float64)).x
    bands, end = [], len(scores)
    for name, wanted in BAND_RIGHT:
        start = int(np.searchsorted(share, wanted - 1e-9))
        if end - start >= FEWEST_IN_BAND:
            bands.append(_band(name, scores[start], right[start:end]))
            end = start
    return (_band("weak", 0.0, right[:end]), *reversed(bands))


def _band(name: Literal["weak", "likely", "strong"], score_from: float, right: Bools) -> Band:
    return Band(name=name, score_from=score_from, boxes=len(right), right=_share(right))


def _share(right: Bools) -> float | None:
    return float(right.mean()) if len(right) else None


def measure_bands(
    bands: Sequence[Band], truths: Sequence[GroundTruth], detections: Sequence[Detections],
    classes: Classes = SIX,
) -> tuple[Band, ...]:  # fmt: skip
    """Return the same spans with what was right in them on these images."""
    scores, right = weapon_boxes(truths, detections, classes)
    band_of = np.searchsorted([band.score_from for band in bands], scores, side="right") - 1
    return tuple(
        _band(band.name, band.score_from, right[band_of == place]) for place, band in enumerate(bands)
    )
