"""What a camera says to people, in its language: never more than that a person must look."""

from __future__ import annotations

from collections.abc import Sequence

from detection.confirmation import Track
from detection.names import class_name
from schemas import Band, Verdict

TEXTS: dict[str, dict[Verdict, str]] = {
    "en": {
        "alarm": "possible weapon, a person must confirm",
        "unsure": "not sure, a person must look closely",
    },
    "ru": {
        "alarm": "возможно, оружие: человек должен подтвердить",
        "unsure": "неясно: человек должен присмотреться",
    },
}
BANDS = {
    "en": {"weak": "weak", "likely": "likely", "strong": "strong"},
    "ru": {"weak": "слабо", "likely": "вероятно", "strong": "сильно"},
}
DETAILS = {
    "en": "{name}, {band}score {score:.2f}, seen in {frames} frames",
    "ru": "{name}, {band}оценка {score:.2f}, видно на кадрах: {frames}",
}


def alarm_text(track: Track, bands: Sequence[Band], language: str) -> str:
    """Return what is said of a confirmed object, in one line.

    Args:
        track: alarm or unsure.
        bands: of the model, in the order of their scores; none are known of an older model.
        language: "en" or "ru".
    """
    reached = [band.name for band in bands if track.score >= band.score_from]
    band = f"{BANDS[language][reached[-1]]}, " if reached else ""
    name = class_name(track.best.detection.label, language)
    details = DETAILS[language].format(name=name, band=band, score=track.score, frames=len(track.recent))
    return f"{TEXTS[language][track.verdict]}: {details}"
