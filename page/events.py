"""Cameras' events as the page reads them: the database and what is wrong with it, times, pictures."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import numpy as np
import streamlit as st

from cameras.events import Between, Event, EventsError, EventStore, Review, Trouble
from detection import drawing, imaging
from detection.names import class_name
from page.session import PICTURES, SHOWN_SIDE, THUMBNAILS, Page
from schemas import Verdict

WAIT_S = 3.0  # a person waits; the watcher is more patient
LASTS_S = 120.0  # a lens's trouble that was noticed so lately still lasts
THUMBNAIL_SIDE = 400
STATES = ("open", "confirmed", "dismissed", "all")
KINDS = ("alarm", "unsure", "lens")

log = logging.getLogger("web")


@st.cache_resource(show_spinner=False)
def store_of(address: str) -> EventStore:
    """Return the one way to the database that all sessions share; one that failed is tried again."""
    return EventStore(address, wait_s=WAIT_S)


def open_store(page: Page) -> EventStore:
    """Return the events.

    Raises:
        EventsError: they cannot be read.
    """
    if page.settings.watch_events is None:
        raise EventsError("no events are kept", "address")
    return store_of(page.settings.watch_events.get_secret_value())


def sentence(page: Page, error: EventsError) -> str:
    """Return what to tell a person about an error; who runs the page finds the rest of it in its log."""
    log.warning("%s", error)
    return page.text(f"events_{error.kind}")


# --- which events -----------------------------------------------------------------------------------


class Choice(NamedTuple):
    """Which events a person wants to see; None is all."""

    state: str = "open"
    kind: str | None = None
    camera: str | None = None
    day: date | None = None

    def events(self, store: EventStore, zone: tzinfo) -> list[Event]:
        """Return those of objects, newest first."""
        if self.kind == "lens":
            return []
        review: Review | None = None
        if self.state in ("confirmed", "dismissed"):
            review = "confirmed" if self.state == "confirmed" else "dismissed"
        verdict: Verdict | None = None
        if self.kind is not None:
            verdict = "alarm" if self.kind == "alarm" else "unsure"
        return store.events(
            camera=self.camera, review="open" if self.state == "open" else review, verdict=verdict,
            between=self._between(zone),
        )  # fmt: skip

    def troubles(self, store: EventStore, zone: tzinfo) -> list[Trouble]:
        """Return those of lenses, newest first; nobody reviews them, and open are those that last."""
        if self.kind not in (None, "lens") or (self.kind is None and self.state != "all"):
            return []
        return store.troubles(camera=self.camera, between=self._between(zone))

    def _between(self, zone: tzinfo) -> Between | None:
        if self.day is None:
            return None
        start = datetime.combine(self.day, time(), zone)
        return start, datetime.combine(self.day + timedelta(days=1), time(), zone)


def lasting(troubles: Sequence[Trouble]) -> list[Trouble]:
    """Return the troubles that still last, so that somebody has to go and look."""
    since = datetime.now(UTC) - timedelta(seconds=LASTS_S)
    return [each for each in troubles if each.ended_at >= since]


# --- times ------------------------------------------------------------------------------------------


def zone_of_visitor() -> tzinfo:
    """Return the time zone of the person's browser; UTC where it does not say."""
    try:
        return ZoneInfo(st.context.timezone or "UTC")
    except (ZoneInfoNotFoundError, ValueError):
        return UTC


def when(page: Page, moment: datetime, zone: tzinfo) -> str:
    """Return a moment for a person: the time alone if it is today."""
    local = moment.astimezone(zone)
    if local.date() == datetime.now(zone).date():
        return f"{local:%H:%M:%S}"
    return f"{day_words(page, local.date())} {local:%H:%M:%S}"


def day_words(page: Page, day: date) -> str:
    """Return a day as people in that language write it."""
    return f"{day:%d.%m.%Y}" if page.language == "ru" else f"{day:%Y-%m-%d}"


# --- pictures ---------------------------------------------------------------------------------------


def answer_words(page: Page, kept: Event) -> str:
    """Return what the event says, or what a person said of it, in the band's large words."""
    name = class_name(kept.label, page.language)
    if kept.review == "confirmed":
        return page.text("review_was_confirmed", name=name)
    if kept.review == "dismissed":
        return page.text("review_was_dismissed")
    return page.text("band_alarm", found=name) if kept.verdict == "alarm" else page.text("band_unsure")


def best_frame(page: Page, store: EventStore, kept: Event, session_id: str) -> bytes:
    """Return the best frame with its box, as a JPEG file.

    Raises:
        imaging.ImageError: there is no picture any more, or none that can be read.
        EventsError: it cannot be read.
    """
    name = f"event {kept.id} {kept.best_score}"
    image = PICTURES.get(session_id, name, lambda: _shrunk(store.picture(kept.id), SHOWN_SIDE))
    return imaging.encode_image(_boxed(page, image, kept, caption=True))


def thumbnail(page: Page, store: EventStore, kept: Event, session_id: str) -> bytes:
    """Return the best frame small, with its box; drawn once.

    Raises:
        imaging.ImageError: there is no picture any more, or none that can be read.
        EventsError: it cannot be read.
    """

    def make() -> bytes:
        image = _shrunk(store.picture(kept.id), THUMBNAIL_SIDE)
        return imaging.encode_image(_boxed(page, image, kept, caption=False), quality=80)

    return THUMBNAILS.get(session_id, f"event {kept.id} {kept.best_score} {kept.verdict}", make)


def _shrunk(content: bytes, side: int) -> imaging.Image:
    if not content:
        raise imaging.NotAnImage("expected a picture, got nothing")
    return imaging.shrink(imaging.decode_image(content), side)


def _boxed(page: Page, image: imaging.Image, kept: Event, *, caption: bool) -> imaging.Image:
    style = drawing.WEAPON if kept.verdict == "alarm" else drawing.UNSURE_WEAPON
    words = class_name(kept.label, page.language) if caption else ""
    boxes = np.array([kept.box], np.float32) * (image.shape[1] / kept.width)
    return drawing.draw_boxes(image, boxes, [words], [style], mat=caption)
