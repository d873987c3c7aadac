"""A model's two points: from which score a weapon is an alarm, and from which a person should look."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from detection.detections import SIX, Classes, Detections, GroundTruth
from evaluation.alarms import ImageAlarms, image_alarms, measure_operating_point
from evaluation.intervals import FalseAlarmBound
from evaluation.matching import best_f1_threshold
from schemas import OperatingPoint

MAX_FALSE_ALARMS_PER_1000 = 50.0  # default budget of the alarm point
MAX_UNSURE_PER_1000 = 200.0  # and of the unsure point: weapon-free images that a person looks at in vain


@dataclass(frozen=True)
class _Choice:
    """A threshold and the sentence that says how it was chosen; high: its FalseAlarmBound, if known."""

    score_threshold: float
    rule: str
    high: float | None = None


def choose_points(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Classes = SIX,
    *,
    groups: Sequence[str] | None = None,
    split: str = "val",
    max_false_alarms_per_1000: float = MAX_FALSE_ALARMS_PER_1000,
    max_unsure_per_1000: float = MAX_UNSURE_PER_1000,
) -> tuple[OperatingPoint, OperatingPoint | None]:
    """Choose the alarm point and the unsure point below it, each by choose_operating_point.

    Args:
        truths: one per image of the split; none of them picked for what a model got wrong in it.
        detections: see choose_operating_point, and so the others.
        classes: likewise.
        groups: likewise.
        split: likewise.
        max_false_alarms_per_1000: budget of the alarm point.
        max_unsure_per_1000: budget of the unsure point, the larger one.

    Returns:
        Both; None in place of the unsure point where its rule finds nothing below the alarm point.
    """
    alarm = choose_operating_point(
        truths, detections, classes, groups=groups, split=split,
        max_false_alarms_per_1000=max_false_alarms_per_1000,
    )  # fmt: skip
    unsure = choose_operating_point(
        truths, detections, classes, groups=groups, split=split,
        max_false_alarms_per_1000=max_unsure_per_1000,
    )  # fmt: skip
    return alarm, unsure if unsure.score_threshold < alarm.score_threshold else None


def choose_operating_point(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Classes = SIX,
    *,
    groups: Sequence[str] | None = None,
    split: str = "val",
    max_false_alarms_per_1000: float = MAX_FALSE_ALARMS_PER_1000,
) -> OperatingPoint:
    """Choose a threshold: highest image-level weapon recall among those that surely keep to the budget.

    Surely: the upper end of the 95 % interval of false alarms does (FalseAlarmBound). Where no threshold's
    does, as with few images, the measured number has to, and `rule` says so.

    The threshold is the score of an observed weapon image, so that an alarm at score >= threshold catches
    it; among thresholds of equal recall the highest is taken, rounded down to a whole hundredth (a stop of
    the page's slider) if that keeps to the budget too. Where that rule cannot decide (no weapon-free
    image, no weapon image, or no threshold within the budget) the threshold of best F1 over weapons'
    boxes is taken, then of best F1 over all classes, and `rule` says so. With nothing found at all it is 1.

    Args:
        truths: one per image of the split.
        detections: one per image, down to a low score.
        classes: what labels mean, and which are weapons.
        groups: each image's recording; by default each image is one of its own.
        split: name of the split, kept in the result.
        max_false_alarms_per_1000: budget, in weapon-free images out of 1,000 that may raise an alarm.
    """
    alarms = image_alarms(truths, detections, classes)
    if not (~alarms.armed).any():
        chosen: _Choice | str = f"no weapon-free image in {split}"
    elif not alarms.armed.any():
        chosen = f"no weapon image in {split}"
    else:
        chosen = _within_budget(alarms, FalseAlarmBound(alarms, groups), max_false_alarms_per_1000)
    if isinstance(chosen, str):
        threshold, rule = best_f1_threshold(truths, detections, classes)
        chosen = _Choice(threshold, f"{rule} ({chosen})")
    point = measure_operating_point(
        chosen.score_threshold, truths, detections, classes, rule=chosen.rule, split=split
    )
    return point.model_copy(update={"false_alarms_per_1000_high": chosen.high})


def _within_budget(alarms: ImageAlarms, bound: FalseAlarmBound, budget: float) -> _Choice | str:
    """Return the lowest threshold that keeps to the budget, surely or as measured; or why there is none."""
    allowed = f"{budget:g} false alarms per 1,000 weapon-free images"
    measured = [one for one in _candidates(alarms) if alarms.false_alarms_per_1000(one) <= budget]
    if not measured:
        return f"no threshold keeps to {allowed}"
    rule = f"highest image-level weapon recall with at most {allowed}"
    for threshold in measured:
        high = bound.at(threshold)
        if high <= budget:
            return _Choice(threshold, f"{rule} at the upper end of the 95 % interval", high)
    too_few = f"{bound.images} from {bound.recordings} recordings are too few to bound it"
    return _Choice(measured[0], f"{rule} as measured ({too_few})", bound.at(measured[0]))


def _candidates(alarms: ImageAlarms) -> list[float]:
    """Return the scores of weapon images, lowest first, each after itself rounded down to a hundredth."""
    scores = np.unique(alarms.scores[alarms.armed & (alarms.scores >= 0)]).tolist()
    return [threshold for score in scores for threshold in (math.floor(100 * score) / 100, score)]
