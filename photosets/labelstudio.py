"""Label Studio's JSON export: a list of tasks with boxes in percent; pictures lie beside it or in images/.

Label Studio keeps uploads under a name of its own, 1a2b3c4d-photo.jpg for photo.jpg; either is found.
"""

from __future__ import annotations

import math
import re
import urllib.parse
from collections.abc import Collection, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from detection import imaging
from photosets import json_files
from photosets.annotations import BrokenAnnotation, Written, around, finite, note_outlines
from photosets.layout import Side, WrongLayout, flat_stem, pictures_in, side_folders
from photosets.pairs import Pair, Problem

KIND = "Label Studio"
_UPLOADED = re.compile(r"^[0-9a-f]{8}-(?=.)")
LABELS = ("rectanglelabels", "polygonlabels", "ellipselabels", "brushlabels", "keypointlabels", "labels")
Entry = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Task:
    """What a person said of one picture in Label Studio."""

    path: Path
    within: str
    results: list[Entry]
    opinions: int

    def read(self, header: imaging.ImageHeader) -> Written:
        """Return what the file says of the picture, as Source.read does."""
        written = Written(size_wh=self._size_wh())
        outlines = 0
        for result in self._objects():
            name, value = _label(result), result["value"]
            if result.get("image_rotation"):
                raise BrokenAnnotation(
                    f"an object ({name}) was drawn on the picture turned by {result['image_rotation']} "
                    "degrees: turn it back in Label Studio"
                )
            box = _box(value, name, written.size_wh or header.size_wh)
            if box is None:
                written.lose(name, f"is a {result.get('type')}, which has no box: draw one")
                continue
            if value.get("rotation"):
                written.repairs.append(
                    (
                        "rotated box",
                        f"is turned by {value['rotation']} degrees; widened to the box around it",
                    )
                )
            outlines += "width" not in value
            written.add(name, box)
        note_outlines(written, outlines)
        if self.opinions > 1:
            written.repairs.append(
                (
                    "second opinion",
                    f"{self.opinions} people annotated the picture; the first one's boxes are used",
                )
            )
        return written

    def names(self) -> set[str]:
        """Return the names of the picture's objects, as Source.names does."""
        return {_label(result) for result in self._objects()}

    def _objects(self) -> list[Entry]:
        if any(not isinstance(result["value"], dict) for result in self.results):
            raise BrokenAnnotation("an object has a value that is no table of numbers and labels")
        return [result for result in self.results if _label(result)]

    def _size_wh(self) -> tuple[int, int] | None:
        for result in self.results:
            width, height = result.get("original_width"), result.get("original_height")
            if isinstance(width, int) and isinstance(height, int) and width > 0 and height > 0:
                return width, height
        return None


def evidence(folder: Path) -> str | None:
    """Return what in folder speaks for this layout, None if nothing does."""
    found = next(_files(folder), None)
    return None if found is None else found.name


def class_names(folder: Path) -> set[str]:
    """Return the names of the objects."""
    names: set[str] = set()
    for path in _files(folder):
        for entry in json_files.load(path):
            task = _task(path, "", entry)
            with suppress(BrokenAnnotation):  # reading it says so
                names |= task.names() if task else set()
    return names


def find_pairs(folder: Path, sides: Collection[Side], *, negatives: bool) -> list[Pair]:  # noqa: ARG001
    """Return the pictures of all tasks, and those that lie beside them without one; all of them train.

    Raises:
        WrongLayout: a task names no picture.
    """
    if "train" not in sides:
        return []
    bases = [folder, folder / "images", *(inside for _, inside in side_folders(folder))]
    pictures = {path.name: path for base in bases if base.is_dir() for path in pictures_in(base)}
    pairs: list[Pair] = []
    used: set[str] = set()
    for path in _files(folder):
        for entry in json_files.load(path):
            name = _file_name(entry, path)
            found = next((other for other in _spellings(name, pictures) if other in pictures), None)
            task = _task(path, name, entry)
            problem = None
            if found is not None and found in used:
                problem = Problem("broken annotation", path, f"{name} has two tasks; the first one is used")
            used |= {found} if found is not None else set()
            stem = flat_stem(PurePosixPath(found or name))
            pairs.append(Pair(stem, pictures[found] if found else None, task, "train", problem))
    pairs += [Pair(path.stem, path, None, "train") for name, path in pictures.items() if name not in used]
    return sorted(pairs, key=lambda pair: pair.stem)


def _files(folder: Path) -> Iterator[Path]:
    """Yield the exports in a folder: lists of tasks."""
    for path in sorted(folder.glob("*.json")) if folder.is_dir() else ():
        if path.is_file() and json_files.begins_with(path, "["):
            document = json_files.load(path)
            if document and all(isinstance(task, dict) for task in document) and "data" in document[0]:
                yield path


def _task(path: Path, name: str, entry: Entry) -> Task | None:
    """Return what the first person said; None if nobody said anything."""
    everything = _tables(entry.get("annotations") or [], entry, path)
    said = [one for one in everything if not one.get("was_cancelled")]
    if not said:
        return None
    results = _tables(said[0].get("result") or [], entry, path)
    return Task(path, name, [one for one in results if "value" in one], len(said))


def _tables(value: object, entry: Entry, path: Path) -> list[Entry]:
    """Return a list of tables that a task holds, if it is one."""
    if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
        raise WrongLayout(f"expected lists of tables in {path}, task {entry.get('id')} has {str(value)[:80]}")
    return value


def _file_name(entry: Entry, path: Path) -> str:
    """Return the name of a task's picture: of an upload, a local file, or an address."""
    data = entry.get("data")
    table = data if isinstance(data, dict) else {}
    for value in (table.get("image"), table.get("img"), *table.values()):
        if isinstance(value, str) and value:
            address = urllib.parse.urlsplit(value)
            local = urllib.parse.parse_qs(address.query).get("d", [address.path or value])[0]
            return PurePosixPath(urllib.parse.unquote(local).replace("\\", "/")).name
    raise WrongLayout(f"expected data with an image in every task of {path}, task {entry.get('id')} has none")


def _spellings(name: str, pictures: Mapping[str, Path]) -> Iterator[str]:
    """Yield the names that a picture may have here, the likeliest first."""
    yield name
    yield _UPLOADED.sub("", name)
    yield from (other for other in pictures if _UPLOADED.sub("", other) == name)


def _label(result: Entry) -> str:
    for key in LABELS:
        if found := result["value"].get(key):
            return str(found[0] if isinstance(found, list) else found)
    return ""


def _box(value: Entry, name: str, size_wh: tuple[int, int]) -> list[float] | None:
    """Return xyxy pixels of a shape in percent; None if it is none that a box can be put around."""
    what = f"an object ({name})"
    width, height = size_wh
    if "width" in value:
        keys = ("x", "y", "width", "height")
        x, y, w, h = finite([value.get(key) for key in keys], what)
        angle = finite([value.get("rotation") or 0], what)[0]
        return _turned_about_corner(
            x * width / 100, y * height / 100, w * width / 100, h * height / 100, angle
        )
    if "radiusX" in value:
        x, y, across, down = finite([value.get(key) for key in ("x", "y", "radiusX", "radiusY")], what)
        shares = [x - across, y - down, x + across, y + down]
    elif isinstance(points := value.get("points"), list) and points:
        pairs = [point for point in points if isinstance(point, list)]
        shares = around(finite([number for point in pairs for number in point], what))
    else:
        return None
    return [share * side / 100 for share, side in zip(shares, (width, height) * 2, strict=True)]


def _turned_about_corner(x: float, y: float, width: float, height: float, angle: float) -> list[float]:
    """Return the box around one that Label Studio turned about its upper left corner, clockwise."""
    if not angle:
        return [x, y, x + width, y + height]
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    corners = [(0.0, 0.0), (width, 0.0), (0.0, height), (width, height)]
    xs = [x + across * cos - down * sin for across, down in corners]
    ys = [y + across * sin + down * cos for across, down in corners]
    return [min(xs), min(ys), max(xs), max(ys)]
