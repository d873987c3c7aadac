"""What the validation split chooses for a model: calibration, points and bands; and its way into the card."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from detection.calibration import calibrate
from detection.card import classes_of
from detection.detections import SIX, Classes, Detections, GroundTruth
from evaluation.alarms import alarm_curve
from evaluation.calibration import (
    Reliability,
    choose_bands,
    cross_fitted,
    fit_calibration,
    measure_reliability,
)
from evaluation.matching import class_thresholds
from evaluation.points import MAX_FALSE_ALARMS_PER_1000, MAX_UNSURE_PER_1000, choose_points
from evaluation.results import Report, card_tables, flat_metrics
from schemas import Band, Calibration, ModelCard, OperatingPoint


@dataclass(frozen=True)
class Chosen:
    """Everything that depends on the scores of one model on its validation split.

    Attributes:
        calibration: by class name; empty where there are too few boxes to fit one.
        detections: the split's, calibrated.
        operating_point: on calibrated scores, and so the next two.
        unsure_point: below the operating point; None where there is none.
        bands: weak, likely, strong.
        reliability: of the network's own scores, and of calibrated ones by fits on other recordings; empty
            without calibration.
    """

    calibration: dict[str, Calibration]
    detections: list[Detections]
    operating_point: OperatingPoint
    unsure_point: OperatingPoint | None
    bands: tuple[Band, ...]
    reliability: tuple[Reliability, ...]

    def onto(self, card: ModelCard) -> ModelCard:
        """Return the card with what was chosen in place of what was there."""
        fields = ("calibration", "operating_point", "unsure_point", "bands")
        return card.model_copy(update={name: getattr(self, name) for name in fields})


def uncalibrated(card: ModelCard) -> ModelCard:
    """Return the card with which a detector gives the network's own scores, as choose() wants them."""
    return card.model_copy(update={"calibration": {}})


def choose(
    truths: Sequence[GroundTruth],
    detections: Sequence[Detections],
    classes: Classes = SIX,
    *,
    groups: Sequence[str],
    max_false_alarms_per_1000: float = MAX_FALSE_ALARMS_PER_1000,
    max_unsure_per_1000: float = MAX_UNSURE_PER_1000,
) -> Chosen:
    """Calibrate the scores, then choose points and bands on the calibrated ones.

    Args:
        truths: one per image of the validation split; none of them picked for what a model got wrong in it.
        detections: one per image, with the network's own scores, down to a low one.
        classes: what labels mean, and which are weapons.
        groups: each image's recording.
        max_false_alarms_per_1000: budget of the alarm point.
        max_unsure_per_1000: budget of the unsure point.
    """
    calibration = fit_calibration(truths, detections, classes.names)
    found = [calibrate(one, calibration, classes.names) for one in detections]
    alarm, unsure = choose_points(
        truths, found, classes, groups=groups, split="val",
        max_false_alarms_per_1000=max_false_alarms_per_1000, max_unsure_per_1000=max_unsure_per_1000,
    )  # fmt: skip
    measured = []
    if calibration:
        measured = [measure_reliability(truths, detections, classes, scores="raw")]
        fitted = cross_fitted(truths, detections, classes.names, groups=groups)
        if fitted is not None:
            measured.append(measure_reliability(truths, fitted, classes, scores="calibrated"))
    return Chosen(
        calibration, found, alarm, unsure, choose_bands(truths, found, classes),
        tuple(one for one in measured if one is not None),
    )  # fmt: skip


def with_reliability(report: Report, chosen: Chosen) -> Report:
    """Return the validation's report with before and after in place of scores that were fitted to it."""
    return dataclasses.replace(report, reliability=chosen.reliability or report.reliability)


def into_card(card: ModelCard, chosen: Chosen, report: Report, truths: Sequence[GroundTruth]) -> ModelCard:
    """Return the card with what was chosen and measured; what a test measured at other points goes.

    Args:
        card: the model's.
        chosen: on the validation split.
        report: of the same split, at the points chosen.
        truths: of the same images.
    """
    return chosen.onto(card).model_copy(
        update={
            "class_thresholds": class_thresholds(truths, chosen.detections, card.class_names),
            "alarm_curve": alarm_curve(truths, chosen.detections, classes_of(card)),
            "tested_alarm": None,
            "video": None,
            "metrics": flat_metrics(report),
            "tables": card_tables(report),
        }
    )
