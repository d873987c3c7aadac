"""Reviewed events as pictures with boxes, for training: what a person confirmed, and what was dismissed."""

from __future__ import annotations

import io
import re
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from cameras.events import Event, EventStore, Review
from photosets.voc import annotation_xml


class Exported(NamedTuple):
    """One picture of a data set.

    Attributes:
        event_id, camera: of the event whose best frame it is.
        name: of its files, without an ending.
        review: what a person said.
        size_wh: pixels of the picture.
        labels, boxes: objects and where they are, xyxy pixels.
        picture: a JPEG file; b"" while only planned.
    """

    event_id: str
    camera: str
    name: str
    review: Review
    size_wh: tuple[int, int]
    labels: list[str]
    boxes: list[list[float]]
    picture: bytes = b""

    def files(self) -> dict[str, bytes]:
        """Return what is written, by its path in the root: Pascal VOC, as training reads it."""
        xml = annotation_xml(f"{self.name}.jpg", self.size_wh, self.labels, self.boxes)
        return {f"images/{self.name}.jpg": self.picture, f"annotations/xmls/{self.name}.xml": xml}


def planned(store: EventStore) -> list[Exported]:
    """Return what the reviewed events become, oldest first, without their pictures.

    A confirmed one has the box that raised it; a dismissed one shows no weapon and is a negative, whatever
    else is in it. One picture may hold both: it is exported once for each, and the person sees both names.

    Raises:
        EventsError: the events cannot be read.
    """
    return [
        Exported(
            event_id=kept.id,
            camera=kept.camera,
            name=_name(kept),
            review=kept.review,
            size_wh=(kept.width, kept.height),
            labels=[kept.label] if kept.review == "confirmed" else [],
            boxes=[kept.box] if kept.review == "confirmed" else [],
        )
        for kept in reversed(store.events())
        if kept.review is not None
    ]


def _name(kept: Event) -> str:
    camera = re.sub(r"\W+", "-", kept.camera)
    return f"camera-{camera}-{kept.started_at:%Y%m%dT%H%M%S}-{kept.id[:8]}"


def reviewed(store: EventStore, wanted: Sequence[Exported] | None = None) -> Iterator[Exported]:
    """Yield every reviewed event's best frame, or those of wanted; what has no picture any more is left out.

    Raises:
        EventsError: the events cannot be read.
    """
    for each in planned(store) if wanted is None else wanted:
        picture = store.picture(each.event_id)
        if picture:
            yield each._replace(picture=picture)


def write(store: EventStore, folder: Path) -> Counter[Review]:
    """Write every reviewed event into a data set root, and return how many were said to be what.

    Raises:
        EventsError: the events cannot be read.
        OSError: the folder cannot be written.
    """
    counts: Counter[Review] = Counter()
    for each in reviewed(store):
        for path, content in each.files().items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_bytes(content)
        counts[each.review] += 1
    return counts


def zipped(store: EventStore, wanted: Sequence[Exported], root: str) -> bytes:
    """Return a ZIP file with a data set root of that name.

    Raises:
        EventsError: the events cannot be read.
    """
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_STORED) as archive:  # JPEG does not get smaller
        for each in reviewed(store, wanted):
            for path, content in each.files().items():
                archive.writestr(f"{root}/{path}", content)
    return stream.getvalue()
