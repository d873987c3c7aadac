"""CVAT for images 1.1: one XML file of all pictures, which lie in images/ or beside it."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from detection import imaging
from photosets.annotations import (
    Written,
    around,
    finite,
    note_masks,
    note_outlines,
    turned,
)
from photosets.layout import SIDE_NAMES, Side, WrongLayout, flat_stem, pictures_in, posix
from photosets.pairs import Pair, Problem
from photosets.voc_folders import root_tag

KIND = "CVAT"
CORNERS = ("xtl", "ytl", "xbr", "ybr")
NOT_OBJECTS = ("tag",)  # of the whole picture


@dataclass(frozen=True, slots=True)
class CvatPicture:
    """The objects of one picture in a CVAT file."""

    path: Path
    within: str
    element: ElementTree.Element

    def read(self, header: imaging.ImageHeader) -> Written:  # noqa: ARG002
        """Return what the file says of the picture, as Source.read does."""
        written = Written(size_wh=_size_wh(self.element))
        outlines = masks = 0
        for shape in self._shapes():
            name, what = shape.get("label", ""), f"an object ({shape.get('label', '')})"
            match shape.tag:
                case "box":
                    *box, angle = finite([*map(shape.get, CORNERS), shape.get("rotation") or "0"], what)
                    written.add(name, turned(box, angle, written.repairs))
                case "polygon":
                    text = (shape.get("points") or "").replace(";", ",")
                    written.add(name, around(finite(text.split(","), what)))
                    outlines += 1
                case "ellipse":
                    x, y, half_w, half_h, angle = finite(
                        [*map(shape.get, ("cx", "cy", "rx", "ry")), shape.get("rotation") or "0"], what
                    )
                    box = [x - half_w, y - half_h, x + half_w, y + half_h]
                    written.add(name, turned(box, angle, written.repairs))
                    outlines += 1
                case "mask":
                    x, y, width, height = finite([*map(shape.get, ("left", "top", "width", "height"))], what)
                    written.add(name, [x, y, x + width, y + height])
                    masks += 1
                case _:
                    written.lose(name, f"is a {shape.tag}, which has no box: draw one")
        note_outlines(written, outlines)
        note_masks(written, masks)
        return written

    def names(self) -> set[str]:
        """Return the names of the picture's objects, as Source.names does."""
        return {shape.get("label", "") for shape in self._shapes()}

    def _shapes(self) -> list[ElementTree.Element]:
        return [shape for shape in self.element if shape.get("label") and shape.tag not in NOT_OBJECTS]


def evidence(folder: Path) -> str | None:
    """Return what in folder speaks for this layout, None if nothing does."""
    path = _file(folder)
    return None if path is None else path.name


def class_names(folder: Path) -> set[str]:
    """Return the names of the objects."""
    return {name for element in _images(folder)[1] for name in CvatPicture(folder, "", element).names()}


def find_pairs(folder: Path, sides: Collection[Side], *, negatives: bool) -> list[Pair]:  # noqa: ARG001
    """Return the pictures that the file lists, and those that lie beside them unlisted.

    Raises:
        WrongLayout: the file cannot be read, or is of a video.
    """
    path, elements = _images(folder)
    pairs: dict[str, Pair] = {}
    listed: set[Path] = set()
    for element in elements:
        name = element.get("name", "")
        relative = PurePosixPath(posix(name))
        image_path, side = _find(folder, relative, element), _side(element)
        source, stem = CvatPicture(path, name, element), flat_stem(PurePosixPath(posix(name).lstrip("/")))
        problem = None
        if stem in pairs:
            problem = Problem("broken annotation", path, f"{name} is there twice; the first is used")
            stem = f"{stem} again"
        elif image_path is not None:
            listed.add(image_path)
        pairs[stem] = Pair(stem, image_path, source, side, problem)
    unlisted = (path for inside in {path.parent for path in listed} for path in pictures_in(inside))
    found = [
        *pairs.values(),
        *(Pair(path.stem, path, None, "train") for path in unlisted if path not in listed),
    ]
    return sorted((pair for pair in found if pair.side in sides), key=lambda pair: pair.stem)


def _file(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    return next((path for path in sorted(folder.glob("*.xml")) if root_tag(path) == "annotations"), None)


def _images(folder: Path) -> tuple[Path, list[ElementTree.Element]]:
    path = _file(folder)
    assert path is not None, "there is evidence"
    state = path.stat()
    return path, _parsed(path, state.st_mtime_ns, state.st_size)


@functools.lru_cache(maxsize=4)
def _parsed(path: Path, _changed_ns: int, _size: int) -> list[ElementTree.Element]:
    try:
        tree = ElementTree.parse(path).getroot()
    except (ElementTree.ParseError, OSError) as error:
        raise WrongLayout(f"expected CVAT's XML in {path}: {error}") from error
    if tree.find("track") is not None:
        raise WrongLayout(
            f"{path} is of a video, whose pictures it does not name: export as CVAT for images 1.1"
        )
    return tree.findall("image")


def _size_wh(element: ElementTree.Element) -> tuple[int, int] | None:
    width, height = element.get("width", ""), element.get("height", "")
    stated = (int(width), int(height)) if width.isdecimal() and height.isdecimal() else (0, 0)
    return stated if all(stated) else None


def _side(element: ElementTree.Element) -> Side:
    return SIDE_NAMES.get(element.get("subset", "").lower(), "train")


def _find(folder: Path, relative: PurePosixPath, element: ElementTree.Element) -> Path | None:
    """Return the picture: its name may begin with folders that the export has or has not."""
    subset = element.get("subset", "")
    bases = (folder / "images", folder / "images" / subset, folder)
    wanted = (relative, PurePosixPath(relative.name))
    return next((path for path in _under(bases, wanted) if path.is_file()), None)


def _under(bases: Collection[Path], wanted: Collection[PurePosixPath]) -> Iterator[Path]:
    for name in wanted:
        for base in bases:
            yield base / name
