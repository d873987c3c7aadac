"""Photos on their way to the API and back, some at a time, while the page goes on being used."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from typing import Generic, TypeVar

import streamlit as st

from client import ServiceError
from detection import imaging
from page import memory
from page.pictures import thumbnail
from page.session import Failure, Page, Photo
from schemas import ImageResult

AT_ONCE = 3  # requests of one person under way
Said = TypeVar("Said")
Outcome = ImageResult | Failure | None  # None: still being checked


class Checks(Generic[Said]):
    """What one person has asked for; asked in AT_ONCE threads, collected by whoever draws the page.

    Attributes:
        stopped: what the person no longer wants to wait for.
    """

    def __init__(self) -> None:
        self._pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="check")
        self._under_way: dict[Hashable, Future[Said]] = {}
        self.stopped: set[Hashable] = set()

    def start(self, key: Hashable, ask: Callable[[], Said]) -> None:
        """Have ask called in its turn, unless that is so already."""
        if key not in self._under_way:
            self._under_way[key] = self._pool.submit(ask)

    def take(self, key: Hashable) -> Said | None:
        """Return what ask has returned, once; None before that."""
        future = self._under_way.get(key)
        if future is None or not future.done():
            return None
        del self._under_way[key]
        return future.result()

    def keep_only(self, keys: set[Hashable]) -> None:
        """Ask no more about anything else: photos that were taken away."""
        for key in [key for key in self._under_way if key not in keys]:
            self._under_way.pop(key).cancel()
        self.stopped &= keys

    def stop(self) -> None:
        """Ask for nothing more; what is under way comes to its end and is kept."""
        for key in [key for key, future in self._under_way.items() if future.cancel()]:
            del self._under_way[key]
            self.stopped.add(key)

    def wait(self, seconds: float) -> None:
        """Wait until all has been answered, but no longer than that."""
        wait(list(self._under_way.values()), seconds)


def checks() -> Checks[ImageResult | ServiceError]:
    """Return this person's checks."""
    under_way: Checks[ImageResult | ServiceError] = st.session_state.setdefault("checks", Checks())
    return under_way


def check(page: Page, photos: Sequence[Photo]) -> list[Outcome]:
    """Return what is known of each photo by now, and have the rest asked about."""
    under_way = checks()
    under_way.keep_only({page.key_of(photo) for photo in photos})
    return [_outcome(page, photo, under_way, with_thumbnail=len(photos) > 1) for photo in photos]


def _outcome(
    page: Page, photo: Photo, under_way: Checks[ImageResult | ServiceError], *, with_thumbnail: bool
) -> Outcome:
    key, session_id = page.key_of(photo), memory.session_id()
    said = under_way.take(key)
    if said is not None:
        return page.take(photo, said)
    known = page.known(photo)
    if known is not None:
        return known
    if key in under_way.stopped:
        return Failure(page.text("error_stopped"))

    def ask() -> ImageResult | ServiceError:
        said = page.ask(photo)
        if with_thumbnail and isinstance(said, ImageResult):
            with suppress(imaging.ImageError):  # kept for the grid: drawing it then would make the page wait
                thumbnail(page, photo, said, session_id)
        return said

    under_way.start(key, ask)
    return None
