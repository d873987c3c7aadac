"""A Pascal VOC file on disk: what it says of one picture, and how it is written."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from detection import imaging
from photosets.annotations import BrokenAnnotation, Repairs, Written, finite, turned

CORNERS = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""^\s*<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)["']""")


@dataclass(frozen=True, slots=True)
class VocFile:
    """The Pascal VOC file of one picture."""

    path: Path
    within: str = ""

    def read(self, header: imaging.ImageHeader) -> Written:  # noqa: ARG002
        """Return what it says, as Source.read does."""
        tree = _parse(self.path)
        written = Written(size_wh=_stated_size(tree))
        for element in tree.iter("object"):
            box = _box(element, written.repairs)
            written.add(_text(element, "name"), box, difficult=_flag(element, "difficult"))
        return written

    def names(self) -> set[str]:
        """Return the names of its objects, as Source.names does."""
        return {_text(element, "name") for element in _parse(self.path).iter("object")}


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


def _box(element: ElementTree.Element, repairs: Repairs) -> list[float]:
    """Return the corners of one object; a rotated one's are those of the upright box around it."""
    name = _text(element, "name")
    written = [element.findtext(f"bndbox/{key}") for key in CORNERS]
    if None in written:
        raise BrokenAnnotation(f"an object ({name}) has no complete bndbox")
    *box, angle = finite([*written, _rotation(element)], f"an object ({name})")
    return turned(box, angle, repairs)


def _rotation(element: ElementTree.Element) -> str:
    """Return the angle in degrees that CVAT keeps beside a box: the box was turned about its middle."""
    for attribute in element.iterfind("attributes/attribute"):
        if _text(attribute, "name").lower() == "rotation":
            return _text(attribute, "value")
    return "0"


def _stated_size(tree: ElementTree.Element) -> tuple[int, int] | None:
    """Return the (width, height) that the file states, None where it states none."""
    width, height = (_text(tree, f"size/{key}") for key in ("width", "height"))
    stated = (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)
    return stated if all(stated) else None
