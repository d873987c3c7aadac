"""What a file says of one picture -> its boxes, upright, inside it, and what had to be repaired.

Every layout's reader makes a Written of what stands in the file; the rest is the same for all of them.

BrokenAnnotation (ValueError)   the file says nothing that can be used
  WrongSize                     it was written for a picture of another shape
UnknownName (ValueError)        it names an object that no class is known for; see photosets/classes.py
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from detection import imaging
from detection.names import first_few
from photosets.classes import ClassRule

RepairKind = Literal[
    "dropped box",
    "clipped box",
    "swapped corners",
    "turned boxes",
    "scaled boxes",
    "rotated box",
    "repeated box",
    "outlines",
    "masks",
    "names left out",
    "second opinion",
]
Boxes = NDArray[np.float64]
Repairs = list[tuple[RepairKind, str]]

MIN_BOX_SIDE = 1.0  # pixels; a thinner box holds no pixel
ROUNDING = 1e-6  # pixels by which a box changes when it is written in other numbers
SAME_CORNER = 1.0  # pixels by which rounding moves a corner: two objects of a class never lie so close


class BrokenAnnotation(ValueError):
    """The file is no annotation of its layout, or an object of it has no usable box."""


class WrongSize(BrokenAnnotation):
    """The file was written for a picture of another shape."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """What a person says is in one picture.

    Attributes:
        boxes: (N, 4) float64, xyxy pixels of the upright picture, inside it, sides of at least 1 pixel.
        labels: (N,) int64, indices into class_names, never 0. N = 0 for a negative.
        difficult: (N,) bool, which objects the person marked as hard to recognise.
        objects: how many objects the file lists, unusable ones included, those of names left out not.
        repairs: what was done to them, in words.
    """

    boxes: Boxes
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    objects: int
    repairs: Repairs = field(default_factory=list)


@dataclass(slots=True)
class Written:
    """What a file says of one picture, before anything is checked.

    Attributes:
        names: (N,) of the objects.
        boxes: (N, 4) xyxy pixels of the picture that they were drawn on, in any order of the corners.
        difficult: (N,) which objects are hard to recognise; none of them if empty.
        size_wh: of the picture that they were drawn on, None if that is the upright one.
        lost: names of further objects, of which nothing can be used.
        repairs: what was done to them so far.
    """

    names: list[str] = field(default_factory=list)
    boxes: list[Sequence[float]] = field(default_factory=list)
    difficult: list[bool] = field(default_factory=list)
    size_wh: tuple[int, int] | None = None
    lost: list[str] = field(default_factory=list)
    repairs: Repairs = field(default_factory=list)

    def add(self, name: str, box: Sequence[float], *, difficult: bool = False) -> None:
        """Note an object."""
        self.names.append(name)
        self.boxes.append(box)
        self.difficult.append(difficult)

    def lose(self, name: str, why: str) -> None:
        """Note an object of which nothing can be used."""
        self.lost.append(name)
        self.repairs.append(("dropped box", f"an object ({name}) {why}"))


class Source(Protocol):
    """Where the annotation of one picture stands."""

    @property
    def path(self) -> Path:
        """The file."""

    @property
    def within(self) -> str:
        """Where in the file, for a file that holds several: the picture's name; else empty."""

    def read(self, header: imaging.ImageHeader) -> Written:
        """Return what it says of the picture that header describes.

        Raises:
            BrokenAnnotation, OSError: it cannot be used; the message says why.
        """

    def names(self) -> set[str]:
        """Return the names of its objects, whether or not their boxes can be used.

        Raises:
            BrokenAnnotation, OSError: it cannot be read.
        """


def annotate(source: Source, rule: ClassRule, header: imaging.ImageHeader) -> Annotation:
    """Return what source says is in the picture that header describes.

    Raises:
        BrokenAnnotation, UnknownName, OSError: it cannot be used; the message says why.
    """
    written = source.read(header)
    repairs = written.repairs
    meanings, lost = rule.meanings(written.names), rule.meanings(written.lost)
    index = {name: label for label, name in enumerate(rule.class_names)}
    wanted = np.array([meaning is not None for meaning in meanings], np.bool_)
    if left_out := sorted({name for name, use in zip(written.names, wanted, strict=True) if not use}):
        count = int((~wanted).sum())
        repairs.append(("names left out", f"{count} objects called {first_few(left_out)}, as --classes says"))
    labels = np.array([index[meaning] for meaning in meanings if meaning is not None], np.int64)
    boxes = np.reshape(written.boxes, (-1, 4)).astype(float)[wanted]
    difficult = np.array(written.difficult or [False] * len(wanted), np.bool_)[wanted]
    boxes = _fit(boxes, written.size_wh, header, repairs)
    boxes, kept = _repair(boxes, header.size_wh, repairs)
    boxes, labels, difficult = boxes[kept], labels[kept], difficult[kept]
    once = _first_of_each(boxes, labels, repairs)
    objects = len(kept) + sum(meaning is not None for meaning in lost)
    return Annotation(boxes[once], labels[once], difficult[once], objects, repairs)


def finite(values: Sequence[object], what: str) -> list[float]:
    """Return values as numbers.

    Raises:
        BrokenAnnotation: one of them is no finite number; the message begins with what.
    """
    try:
        numbers = [float(value) for value in values]  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise BrokenAnnotation(f"{what} has a number that is none: {error}") from error
    if not np.isfinite(numbers).all():
        raise BrokenAnnotation(f"{what} has a corner or a rotation that is no finite number")
    return numbers


def turned(box: Sequence[float], angle: float, repairs: Repairs) -> list[float]:
    """Return the upright box around a box that was turned about its middle by angle degrees."""
    if angle % 180 == 0:
        return list(box)
    repairs.append(
        ("rotated box", f"{list(box)} is turned by {angle:g} degrees; widened to the box around it")
    )
    x1, y1, x2, y2 = box
    cos, sin = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    width, height = abs(x2 - x1), abs(y2 - y1)
    half_w, half_h = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return [float(x - half_w), float(y - half_h), float(x + half_w), float(y + half_h)]


def around(points: Sequence[float]) -> list[float]:
    """Return the box around x1, y1, x2, y2, ..., the corners of an outline.

    Raises:
        BrokenAnnotation: these are no pairs, or fewer than two of them.
    """
    if len(points) < 4 or len(points) % 2:
        raise BrokenAnnotation(
            f"an outline has {len(points)} numbers: expected x and y of three corners or more"
        )
    xs, ys = points[::2], points[1::2]
    return [min(xs), min(ys), max(xs), max(ys)]


def note_outlines(written: Written, count: int) -> None:
    """Note how many boxes were taken around outlines."""
    if count:
        written.repairs.append(
            ("outlines", f"{count} objects have an outline; the boxes around them are used")
        )


def note_masks(written: Written, count: int) -> None:
    """Note how many boxes stand for masks."""
    if count:
        written.repairs.append(("masks", f"{count} objects have a mask; the boxes beside them are used"))


# --- its boxes --------------------------------------------------------------------------------------


def _fit(
    boxes: Boxes,
    annotated_wh: tuple[int, int] | None,
    header: imaging.ImageHeader,
    repairs: Repairs,
) -> Boxes:
    """Bring boxes from the picture they were drawn on to the upright picture on disk.

    They may have been drawn on the picture as it is stored, of a photograph taken on its side, and on a
    smaller or larger copy.

    Raises:
        WrongSize: they were drawn on a picture of another shape.
    """
    size_wh = header.size_wh
    if annotated_wh is None or annotated_wh == size_wh:
        return boxes
    stored_wh = size_wh[::-1] if header.orientation >= 5 else size_wh
    if _same_shape(annotated_wh, size_wh):
        return _scale(boxes, annotated_wh, size_wh, repairs)
    if not _same_shape(annotated_wh, stored_wh):
        raise WrongSize(
            f"was written for a picture of {annotated_wh[0]} x {annotated_wh[1]}, this one is {size_wh[0]} x "
            f"{size_wh[1]}, of another shape: its boxes would miss the objects"
        )
    if annotated_wh != stored_wh:
        boxes = _scale(boxes, annotated_wh, stored_wh, repairs)
    repairs.append(("turned boxes", "were drawn before the EXIF orientation was applied; turned upright"))
    return _turn(boxes, size_wh, header.orientation)


def _same_shape(one_wh: tuple[int, int], other_wh: tuple[int, int]) -> bool:
    """Say whether one picture is a smaller copy of the other, its sides rounded to pixels."""
    (small_w, small_h), (large_w, large_h) = sorted((one_wh, other_wh))
    return abs(small_h - large_h * small_w / large_w) <= 1 or abs(small_w - large_w * small_h / large_h) <= 1


def _scale(boxes: Boxes, from_wh: tuple[int, int], to_wh: tuple[int, int], repairs: Repairs) -> Boxes:
    copy, picture = (f"{width} x {height}" for width, height in (from_wh, to_wh))
    repairs.append(("scaled boxes", f"were drawn on a copy of {copy}, the picture is {picture}; scaled"))
    scaled: Boxes = boxes * np.array([to_wh[0] / from_wh[0], to_wh[1] / from_wh[1]] * 2)
    return scaled


def _turn(boxes: Boxes, size_wh: tuple[int, int], orientation: int) -> Boxes:
    """Turn boxes on the stored picture to the upright one of size_wh; orientation is EXIF's, 5 to 8."""
    width, height = size_wh
    x1, y1, x2, y2 = boxes.T
    turned = {  # EXIF orientation -> the same corners in the upright picture
        5: (y1, x1, y2, x2),
        6: (width - y2, x1, width - y1, x2),
        7: (width - y2, height - x2, width - y1, height - x1),
        8: (y1, height - x2, y2, height - x1),
    }
    return np.stack(turned[orientation], axis=1)


def _repair(boxes: Boxes, size_wh: tuple[int, int], repairs: Repairs) -> tuple[Boxes, NDArray[np.bool_]]:
    """Put corners in order and clip to the picture; return also which boxes still cover a pixel: (N,)."""
    ordered = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )
    clipped = ordered.clip(0, [*size_wh, *size_wh])
    keep = (clipped[:, 2:] - clipped[:, :2] >= MIN_BOX_SIDE - ROUNDING).all(axis=1)
    picture = f"the {size_wh[0]} x {size_wh[1]} picture"
    for was, in_order, now, kept in zip(boxes, ordered, clipped, keep, strict=True):
        numbers = was.tolist()
        if not kept:
            repairs.append(("dropped box", f"{numbers} covers no pixel of {picture}"))
            continue
        if (in_order != was).any():
            repairs.append(("swapped corners", f"{numbers} has a minimum above its maximum; put in order"))
        if (now != in_order).any():
            repairs.append(("clipped box", f"{numbers} reaches outside {picture}"))
    return clipped, keep


def _first_of_each(boxes: Boxes, labels: NDArray[np.int64], repairs: Repairs) -> NDArray[np.bool_]:
    """Return which objects to keep, (N,): of several with one label and one place, the first."""
    near = (np.abs(boxes[:, None] - boxes[None]) <= SAME_CORNER).all(axis=2)
    same = np.triu(near & (labels[:, None] == labels[None]), k=1)
    repeated = same.any(axis=0)
    for box in boxes[repeated]:
        repairs.append(("repeated box", f"{box.tolist()} is there more than once; counted once"))
    kept: NDArray[np.bool_] = ~repeated
    return kept
