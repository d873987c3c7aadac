"""Reviewed events as pictures with boxes, for training: what a person confirmed, and what was dismissed."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from cameras.events import EventStore, Review


class Exported(NamedTuple):
    """One picture of a data set: its name without an ending, JPEG file, and objects, boxes in xyxy pixels."""

    name: str
    review: Review
    picture: bytes
    size_wh: tuple[int, int]
    labels: list[str]
    boxes: list[list[float]]


def reviewed(store: EventStore) -> Iterator[Exported]:
    """Yield every reviewed event's best frame, oldest first.

    A confirmed one has the box that raised it; a dismissed one shows no weapon and is a negative, whatever
    else is in it. One picture may hold both: it is exported once for each, and the person sees both names.

    Raises:
        EventsError: the events cannot be read.
    """
    for kept in reversed(store.events()):
        picture = store.picture(kept.id) if kept.review else b""
        if kept.review is None or not picture:
            continue
        camera = re.sub(r"\W+", "-", kept.camera)
        is_weapon = kept.review == "confirmed"
        yield Exported(
            name=f"camera-{camera}-{kept.started_at:%Y%m%dT%H%M%S}-{kept.id[:8]}",
            review=kept.review,
            picture=picture,
            size_wh=(kept.width, kept.height),
            labels=[kept.label] if is_weapon else [],
            boxes=[kept.box] if is_weapon else [],
        )
