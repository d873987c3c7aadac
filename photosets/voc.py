"""A Pascal VOC file on disk -> the boxes of one picture, upright, inside it, and what had to be repaired.

BrokenAnnotation (ValueError)   the file says nothing that can be used
  WrongSize                     it was written for a picture of another shape
UnknownName (ValueError)        it names an object that is not one of class_names
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detection import imaging

RepairKind = Literal[
    "dropped box",
    "clipped box",
    "swapped corners",
    "turned boxes",
    "scaled boxes",
    "rotated box",
    "repeated box",
]
Boxes = NDArray[np.float64]

MIN_BOX_SIDE = 1.0  # pixels; a thinner box holds no pixel
SAME_CORNER = 1.0  # pixels by which rounding moves a corner: two objects of a class never lie so close
CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


class BrokenAnnotation(ValueError):
    """The file is no Pascal VOC annotation, or an object of it has no usable box."""


class WrongSize(BrokenAnnotation):
    """The file was written for a picture of another shape."""


class UnknownName(ValueError):
    """The file names an object that is not one of class_names; the message is that name, quoted."""


@dataclass(frozen=True, slots=True, eq=False)
class Annotation:
    """What a person says is in one picture.

    Attributes:
        boxes: (N, 4) float64, xyxy pixels of the upright picture, inside it, sides of at least 1 pixel.
        labels: (N,) int64, indices into class_names, never 0. N = 0 for a negative.
        difficult: (N,) bool, which objects the person marked as hard to recognise.
        objects: how many objects the file lists, unusable ones included.
        repairs: what was done to them, in words.
    """

    boxes: Boxes
    labels: NDArray[np.int64]
    difficult: NDArray[np.bool_]
    objects: int
    repairs: list[tuple[RepairKind, str]] = field(default_factory=list)


def read_annotation(path: Path, class_names: tuple[str, ...], header: imaging.ImageHeader) -> Annotation:
    """Read the annotation of the picture that header describes.

    Raises:
        BrokenAnnotation, UnknownName, OSError: it cannot be used; the message says why.
    """
    tree = _parse(path)
    repairs: list[tuple[RepairKind, str]] = []
    elements = list(tree.iter("object"))
    labels = np.array([_label(element, class_names) for element in elements], np.int64)
    boxes = np.reshape([_box(element, repairs) for element in elements], (-1, 4)).astype(float)
    difficult = np.array([_flag(element, "difficult") for element in elements], np.bool_)
    boxes = _fit(boxes, _stated_size(tree), header, repairs)
    boxes, kept = _repair(boxes, header.size_wh, repairs)
    boxes, labels, difficult = boxes[kept], labels[kept], difficult[kept]
    once = _first_of_each(boxes, labels, repairs)
    return Annotation(boxes[once], labels[once], difficult[once], len(elements), repairs)


def read_names(path: Path) -> set[str]:
    """Return the names of the objects in a file, whether or not their boxes can be used.

    Raises:
        BrokenAnnotation, OSError: it cannot be read.
    """
    return {_text(element, "name") for element in _parse(path).iter("object")}


def annotation_xml(
    image_name: str,
    size_wh: tuple[int, int],
    names: Sequence[str],
    boxes: Sequence[Sequence[float]],
    difficult: Sequence[bool] = (),
) -> bytes:
    """Return the Pascal VOC file of one picture.

    Args:
        image_name: of the picture's file.
        size_wh: pixels of the picture.
        names: (N,) class names.
        boxes: (N, 4) xyxy pixels.
        difficult: (N,) which of them are hard to recognise; none of them if empty.
    """
    tree = ElementTree.Element("annotation")
    ElementTree.SubElement(tree, "filename").text = image_name
    size = ElementTree.SubElement(tree, "size")
    for key, value in zip(("width", "height", "depth"), (*size_wh, 3), strict=True):
        ElementTree.SubElement(size, key).text = str(value)
    for name, box, hard in zip(names, boxes, difficult or [False] * len(names), strict=True):
        element = ElementTree.SubElement(tree, "object")
        ElementTree.SubElement(element, "name").text = name
        if hard:
            ElementTree.SubElement(element, "difficult").text = "1"
        corners = ElementTree.SubElement(element, "bndbox")
        for key, side in zip(CORNERS, box, strict=True):
            ElementTree.SubElement(corners, key).text = str(side)
    ElementTree.indent(tree)
    content: bytes = ElementTree.tostring(tree, encoding="utf-8")
    return content


# --- the file ---------------------------------------------------------------------------------------


def _parse(path: Path) -> ElementTree.Element:
    """Return the root <annotation>, its tags in lower case and without namespace."""
    tree = _tree(path.read_bytes())
    for element in tree.iter():
        element.tag = element.tag.rpartition("}")[2].lower()
    if tree.tag != "annotation":
        raise BrokenAnnotation(
            f"expected Pascal VOC, with <annotation> around all, found <{tree.tag}>: export as Pascal VOC"
        )
    objects = sum(1 for element in tree.iter("object") for _ in element.iter("bndbox"))
    if sum(1 for _ in tree.iter("bndbox")) > objects:
        raise BrokenAnnotation("expected every <bndbox> in an <object>, found one outside")
    return tree


def _tree(content: bytes) -> ElementTree.Element:
    """Parse XML, also in the encodings that the parser lacks and with single bytes of another one.

    Raises:
        BrokenAnnotation: it is no XML, or declares an encoding that does not exist.
    """
    try:
        return ElementTree.fromstring(content)
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        found = _DECLARED.match(content)
        declared = found[1].decode("ascii") if found else "utf-8"
        try:
            return _decoded_tree(content, (declared, "utf-8", "latin-1"))
        except LookupError:
            raise BrokenAnnotation(f"declares the encoding {declared!r}, which does not exist") from None
        except ElementTree.ParseError:
            raise BrokenAnnotation(f"no XML: {error}") from error


def _decoded_tree(content: bytes, encodings: tuple[str, ...]) -> ElementTree.Element:
    """Parse content as the first of encodings that gives XML; the last one of all takes any bytes."""
    *first, last = encodings
    for encoding in first:
        try:
            return ElementTree.fromstring(content.decode(encoding))
        except (UnicodeError, ElementTree.ParseError):
            continue
    return ElementTree.fromstring(content.decode(last))


def _text(element: ElementTree.Element, tag: str) -> str:
    return (element.findtext(tag) or "").strip()


def _flag(element: ElementTree.Element, tag: str) -> bool:
    return _text(element, tag).lower() in ("1", "true")


def _label(element: ElementTree.Element, class_names: tuple[str, ...]) -> int:
    name = _text(element, "name")
    if name not in class_names[1:]:
        raise UnknownName(repr(name))
    return class_names.index(name)


def _box(element: ElementTree.Element, repairs: list[tuple[RepairKind, str]]) -> list[float]:
    """Return the corners of one object; a rotated one's are those of the upright box around it."""
    name = _text(element, "name")
    written = [element.findtext(f"bndbox/{key}") for key in CORNERS]
    if None in written:
        raise BrokenAnnotation(f"an object ({name}) has no complete bndbox")
    try:
        box = [float(corner or "") for corner in written]
        angle = _rotation(element)
    except ValueError as error:
        raise BrokenAnnotation(f"an object ({name}) has a number that is none: {error}") from error
    if not np.isfinite([*box, angle]).all():
        raise BrokenAnnotation(f"an object ({name}) has a corner or a rotation that is no finite number")
    if angle % 180 == 0:
        return box
    repairs.append(("rotated box", f"{box} is turned by {angle:g} degrees; widened to the box around it"))
    return _around(box, angle)


def _rotation(element: ElementTree.Element) -> float:
    """Return the angle in degrees that CVAT keeps beside a box: the box was turned about its middle."""
    for attribute in element.iterfind("attributes/attribute"):
        if _text(attribute, "name").lower() == "rotation":
            return float(_text(attribute, "value"))
    return 0.0


def _around(box: list[float], angle: float) -> list[float]:
    """Return the upright box around a box that was turned about its middle by angle degrees."""
    x1, y1, x2, y2 = box
    cos, sin = abs(np.cos(np.radians(angle))), abs(np.sin(np.radians(angle)))
    width, height = abs(x2 - x1), abs(y2 - y1)
    half_w, half_h = (width * cos + height * sin) / 2, (width * sin + height * cos) / 2
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    return [float(x - half_w), float(y - half_h), float(x + half_w), float(y + half_h)]


def _stated_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Return the (width, height) that the file states, None where it states none."""
    width, height = (_text(tree, f"size/{key}") for key in ("width", "height"))
    stated = (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)
    return stated if all(stated) else None


# --- its boxes --------------------------------------------------------------------------------------


def _fit(
    boxes: Boxes,
    annotated_wh: tuple[int, int] | None,
    header: imaging.ImageHeader,
    repairs: list[tuple[RepairKind, str]],
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


def _scale(
    boxes: Boxes, from_wh: tuple[int, int], to_wh: tuple[int, int], repairs: list[tuple[RepairKind, str]]
) -> Boxes:
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


def _repair(
    boxes: Boxes, size_wh: tuple[int, int], repairs: list[tuple[RepairKind, str]]
) -> tuple[Boxes, NDArray[np.bool_]]:
    """Put corners in order and clip to the picture; return also which boxes still cover a pixel: (N,)."""
    ordered = np.concatenate(
        [np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], 1
    )
    clipped = ordered.clip(0, [*size_wh, *size_wh])
    keep = (clipped[:, 2:] - clipped[:, :2] >= MIN_BOX_SIDE).all(axis=1)
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


def _first_of_each(
    boxes: Boxes, labels: NDArray[np.int64], repairs: list[tuple[RepairKind, str]]
) -> NDArray[np.bool_]:
    """Return which objects to keep, (N,): of several with one label and one place, the first."""
    near = (np.abs(boxes[:, None] - boxes[None]) <= SAME_CORNER).all(axis=2)
    same = np.triu(near & (labels[:, None] == labels[None]), k=1)
    repeated = same.any(axis=0)
    for box in boxes[repeated]:
        repairs.append(("repeated box", f"{box.tolist()} is there more than once; counted once"))
    kept: NDArray[np.bool_] = ~repeated
    return kept
