"""Whether an export finds what PyTorch finds: the figures that decide, on the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from detection.alarm import alarm_threshold, unsure_threshold
from detection.card import classes_of
from detection.detections import Detections, GroundTruth
from evaluation.alarms import image_alarms
from evaluation.intervals import Interval, alarm_intervals
from metrics import coco_summary
from schemas import ComparedFigure, ModelCard

MOST_MAP_LOST = 0.003  # 0.3 points
ROUNDING = 1e-9


@dataclass(frozen=True, eq=False)
class Reference:
    """What PyTorch finds in the validation split, which exports are held against.

    Attributes:
        card: the model's, with its points.
        truths: one per image.
        groups: each image's recording.
        figures: PyTorch's, by name.
        intervals: 95 %, of the alarm's figures, where there is one.
    """

    card: ModelCard
    truths: Sequence[GroundTruth]
    groups: Sequence[str]
    figures: dict[str, float]
    intervals: dict[str, Interval]


def refer(
    card: ModelCard, truths: Sequence[GroundTruth], groups: Sequence[str], detections: Sequence[Detections]
) -> Reference:
    """Return the reference that PyTorch's detections make."""
    intervals: dict[str, Interval] = {}
    alarms = image_alarms(truths, detections, classes_of(card))
    for prefix, threshold in _points(card).items():
        spans = alarm_intervals(alarms, groups, score_threshold=threshold)
        intervals |= {prefix + name: span for name, span in spans.items()}
    return Reference(card, truths, groups, _figures(card, truths, detections), intervals)


def compare(reference: Reference, detections: Sequence[Detections]) -> dict[str, ComparedFigure]:
    """Return an export's figures beside PyTorch's.

    Args:
        reference: of the same images.
        detections: the export's, one per image.
    """
    mine = _figures(reference.card, reference.truths, detections)
    return {
        name: ComparedFigure(
            torch=value,
            exported=mine[name],
            low=reference.intervals[name].low if name in reference.intervals else None,
            high=reference.intervals[name].high if name in reference.intervals else None,
        )
        for name, value in reference.figures.items()
    }


def objections(figures: dict[str, ComparedFigure]) -> list[str]:
    """Return in words what speaks against an export; nothing where it may be served."""
    found = []
    for name, figure in figures.items():
        beside = f"{name} is {figure.exported:.4g} beside PyTorch's {figure.torch:.4g}"
        if name == "map" and figure.torch - figure.exported > MOST_MAP_LOST + ROUNDING:
            found.append(f"{beside}: more than {MOST_MAP_LOST:g} less")
        if figure.low is None or figure.high is None:
            continue
        if not figure.low - ROUNDING <= figure.exported <= figure.high + ROUNDING:
            found.append(f"{beside}: outside its interval, {figure.low:.4g} to {figure.high:.4g}")
    return found


def _points(card: ModelCard) -> dict[str, float]:
    """Return what the names of a point's figures begin with, and its threshold."""
    points = {"": alarm_threshold(card)}
    if card.unsure_point is not None:
        points["unsure/"] = unsure_threshold(card)
    return points


def _figures(
    card: ModelCard, truths: Sequence[GroundTruth], detections: Sequence[Detections]
) -> dict[str, float]:
    summary = coco_summary(truths, detections, card.class_names)
    figures: dict[str, float] = {name: summary[name] for name in ("map", "map_50") if name in summary}
    alarms = image_alarms(truths, detections, classes_of(card))
    for prefix, threshold in _points(card).items():
        figures[f"{prefix}image_recall"] = alarms.recall(threshold)
        figures[f"{prefix}false_alarms_per_1000"] = alarms.false_alarms_per_1000(threshold)
    return figures
