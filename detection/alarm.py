"""The one alarm rule: alarm, unsure or none. The API, the logged model, the page and cameras ask here."""

from __future__ import annotations

from collections.abc import Sequence

from detection.card import classes_of
from detection.detections import Detections
from schemas import ModelCard, Verdict


def alarm_threshold(card: ModelCard) -> float:
    """Return the score from which a weapon is an alarm: the operating point, measured on validation."""
    return card.operating_point.score_threshold if card.operating_point else card.network.box_score_thresh


def unsure_threshold(card: ModelCard) -> float:
    """Return the score from which a person is asked to look.

    A card without an unsure point has nothing between alarm and none: the alarm's score serves for both.
    """
    return card.unsure_point.score_threshold if card.unsure_point else alarm_threshold(card)


def verdict_of(found: Detections, card: ModelCard, notes: Sequence[str] = ()) -> Verdict:
    """Return what is to be said of a picture; there is no answer "safe".

    Look-alikes play no part, so that a weapon under the better score of a phone counts like any other. A
    picture in which little can be seen is never "none".

    Args:
        found: everything, not only what somebody asked to see.
        card: of the model that found it.
        notes: of imaging.notes_on the picture: too dark, blank, partly missing.
    """
    weapons = found.of(classes_of(card).weapons)
    if len(weapons.above(alarm_threshold(card))):
        return "alarm"
    return "unsure" if notes or len(weapons.above(unsure_threshold(card))) else "none"


def weapon_score(found: Detections, card: ModelCard) -> float:
    """Return the best score of any weapon, however low; 0 where none was found."""
    weapons = found.of(classes_of(card).weapons)
    return float(weapons.scores[0]) if len(weapons) else 0.0
