"""Alarms by picture: how many weapons are found at which price in false alarms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detection.detections import SIX, Classes, Detections, GroundTruth
from evaluation.matching import match_class
from metrics import Bools, check_pairs
from schemas import AlarmPoint, OperatingPoint


@dataclass(frozen=True, eq=False)
class ImageAlarms:
    """The highest weapon score of each image, and whether a weapon is in it.

    Attributes:
        scores: (I,) float32, as the detector gave them; -1 where no weapon was detected.
        armed: (I,) a weapon is in the truth.
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
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Classes = SIX
) -> ImageAlarms:
    """Reduce each image to one alarm score: its best weapon, wherever in the picture."""
    check_pairs(truths, detections, classes.names)
    weapons = classes.weapons
    best = [found.of(weapons).scores[:1] for found in detections]
    scores = np.array([score[0] if len(score) else -1.0 for score in best], np.float32)
    armed = np.array([bool(np.isin(truth.labels, weapons).any()) for truth in truths], bool)
    return ImageAlarms(scores, armed)


def alarm_curve(
    truths: Sequence[GroundTruth], detections: Sequence[Detections], classes: Classes = SIX
) -> tuple[AlarmPoint, ...]:
    """Return what an alarm at each of the thresholds 0.00, 0.01, ... 1.00 would catch and cost.

    Exact at those thresholds, which are the stops of a slider. Without weapon-free images
    false_alarms_per_1000 is 0 and means nothing: see OperatingPoint.weapon_free_images.
    """
    alarms = image_alarms(truths, detections, classes)
    return tuple(
        AlarmPoint(
            score_threshold=threshold,
            image_recall=alarms.recall(threshold),
            false_alarms_per_1000=alarms.false_alarms_per_1000(threshold),
        )
        for threshold in np.linspace(0, 1, 101).round(2).tolist()
    )


def measure_operating_point(
    score_threshold: float,
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Classes = SIX,
    *,
    rule: str,
    split: str,
) -> OperatingPoint:
    """Measure a given threshold on a split.

    Precision and recall count weapons' boxes at IoU 0.5, each against its own class: a pistol
    called a knife is a false detection and a miss here, yet still an alarm in image_recall.
    """
    alarms = image_alarms(truths, detections, classes)
    found = [one.above(score_threshold) for one in detections]
    matches = [match_class(truths, found, label) for label in classes.weapons]
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
