"""The one alarm rule: when a weapon is called. The API, the logged model, the page and cameras ask here."""

from __future__ import annotations

from detection.detections import WEAPONS, Detections
from schemas import ModelCard


def alarm_threshold(card: ModelCard) -> float:
    """Return the score from which a weapon is an alarm: the operating point, measured on validation."""
    return card.operating_point.score_threshold if card.operating_point else card.network.box_score_thresh


def is_alarm(found: Detections, card: ModelCard) -> bool:
    """Return whether one of all that a model found is a weapon at its alarm threshold or above.

    Args:
        found: everything, not only what somebody asked to see.
        card: of the model that found it.
    """
    weapons = found.of([card.class_names.index(name) for name in WEAPONS])
    return len(weapons.above(alarm_threshold(card))) > 0
