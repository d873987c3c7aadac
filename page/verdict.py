"""The answer to a photo, as the API gave it: its words, its band, and the title of the browser's tab.

No slider, filter or file of the page takes part in it: the verdict is the API's alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Literal, NamedTuple

import streamlit as st

from detection.alarm import alarm_threshold, unsure_threshold
from detection.drawing import boxes_of
from detection.names import class_name
from detection.overlaps import ONE_OBJECT_IOU, iou
from page.session import Failure, Page, strongest
from schemas import Detection, ImageResult

Kind = Literal["alarm", "unsure", "none", "failed", "waiting"]
KINDS: tuple[Kind, ...] = ("alarm", "unsure", "failed", "waiting", "none")  # what wants a look comes first
NOTE_TEXTS = {
    "too-dark": "note_too_dark",
    "blank": "note_blank",
    "partly-missing": "note_partly_missing",
}


class Band(NamedTuple):
    """An answer in words: a few large ones, and below them what to do or to know."""

    kind: Kind
    title: str
    more: str = ""


def kind_of(outcome: ImageResult | Failure | None) -> Kind:
    """Return what a photo's answer is; None is a photo that is still being checked.

    Without a verdict, from an API that knows none, only its alarm is one, and nothing is "none".
    """
    if outcome is None:
        return "waiting"
    if isinstance(outcome, Failure):
        return "failed"
    return outcome.verdict or ("alarm" if outcome.alarm else "unsure")


def band_of(page: Page, outcome: ImageResult | Failure) -> Band:
    """Return the answer to one photo."""
    if isinstance(outcome, Failure):
        return Band("failed", page.text("band_failed"), outcome.sentence)
    kind, found = kind_of(outcome), outcome.detections or []
    if kind == "alarm":
        names = names_of(page, [d for d in signs(page, found) if is_alarm(page, d)])
        title = page.text("band_alarm", found=names) if names else page.text("tab_alarm")
        return Band("alarm", title, page.text("band_alarm_more"))
    if kind == "unsure":
        return Band("unsure", page.text("band_unsure"), unsure_words(page, outcome))
    seen = names_of(page, [d for d in shown_at_first(page, outcome) if not d.dangerous])
    more = [page.text("band_none_seen", found=seen)] if seen else []
    return Band("none", page.text("band_none"), " ".join((*more, missed_words(page))))


def names_of(page: Page, detections: Sequence[Detection]) -> str:
    """Return each label once in words, the surest first."""
    return ", ".join(class_name(d.label, page.language) for d in strongest(detections))


def unsure_words(page: Page, result: ImageResult) -> str:
    """Return why a person should look closely."""
    words = [page.text(NOTE_TEXTS.get(note, "note_other")) for note in result.notes or ()]
    found = result.detections or []
    weak = strongest(signs(page, found))
    if weak:
        name = class_name(weak[0].label, page.language)
        rival = rival_of(weak[0], found)
        if rival is not None:
            other = class_name(rival.label, page.language)
            words.append(page.text("unsure_rival", name=name, other=other))
        else:
            words.append(page.text("unsure_weapon", name=name))
    return " ".join(words or [page.text("unsure_look")])


def rival_of(weapon: Detection, found: Sequence[Detection]) -> Detection | None:
    """Return the look-alike that the model would rather call what stands in the weapon's place."""
    better = [d for d in found if not d.dangerous and d.score > weapon.score]
    place = boxes_of([weapon])
    return next((d for d in better if float(iou(place, boxes_of([d]))[0]) >= ONE_OBJECT_IOU), None)


def is_alarm(page: Page, detection: Detection) -> bool:
    """Say whether a weapon reaches the alarm's score."""
    return page.info is None or detection.score >= alarm_threshold(page.info.card)


def signs(page: Page, detections: Sequence[Detection]) -> list[Detection]:
    """Return the weapons for which a person should look: those from the unsure point on."""
    least = unsure_threshold(page.info.card) if page.info else 0.0
    return [d for d in detections if d.dangerous and d.score >= least]


def shown_at_first(page: Page, result: ImageResult) -> list[Detection]:
    """Return what a photo shows at first: every sign of a weapon, and sure look-alikes."""
    wanted = signs(page, result.detections or ())
    wanted += [d for d in result.detections or () if not d.dangerous and is_alarm(page, d)]
    return sorted(wanted, key=lambda d: (not d.dangerous, -d.score))


def missed_words(page: Page) -> str:
    """Return how many weapons are missed where nothing is found, as measured on the best photos there are."""
    alarm = page.info.card.alarm if page.info else None
    if alarm is None:
        return page.text("missed_unmeasured")
    point = alarm.unsure_point or alarm.operating_point
    missed = max(1, round(100 * (1 - point.image_recall)))
    return page.text("missed", missed=missed, split=page.text(f"split_{point.split}"))


def band_ui(band: Band) -> None:
    """Draw an answer across the whole width; only one that asks for action interrupts a screen reader."""
    role = "status" if band.kind == "waiting" else "alert"
    more = f"<p class='verdict-more'>{escape(band.more)}</p>" if band.more else ""
    st.html(
        f"<div class='verdict verdict-{band.kind}' role='{role}'>"
        f"<div><p class='verdict-title'>{escape(band.title)}</p>{more}</div></div>"
    )


def title_ui(page: Page, kind: Kind | None = None) -> None:
    """Name the browser's tab: a guard who looks elsewhere sees the alarm there."""
    words = {"alarm": page.text("tab_alarm"), "unsure": page.text("tab_unsure")}.get(kind or "", "")
    st.set_page_config(page_title=f"{words} · {page.text('title')}" if words else page.text("title"))


def notice_ui(words: str, kind: str = "notice") -> None:
    """Say something beside the answer, without interrupting a screen reader."""
    st.html(f"<p class='notice notice-{kind}' role='status'>{escape(words)}</p>")
