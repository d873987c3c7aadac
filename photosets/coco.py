"""COCO JSON: one file lists pictures, categories and objects; the pictures lie beside it or in images/.

train/_annotations.coco.json        Roboflow's, with valid/ and test/
annotations/instances_train.json    the challenge's and CVAT's, with images/, images/train/ or train2017/
*.json                              one file of all pictures, which train; Label Studio's result.json

What a picture's entry states of its size says whether boxes were drawn before or after its EXIF orientation
was applied, as of Pascal VOC.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from detection import imaging
from photosets import json_files
from photosets.annotations import (
    BrokenAnnotation,
    Written,
    around,
    finite,
    note_masks,
    note_outlines,
)
from photosets.layout import (
    SIDE_NAMES,
    Side,
    WrongLayout,
    flat_stem,
    pictures_in,
    posix,
    side_folders,
    side_named,
)
from photosets.pairs import Pair, Problem

KIND = "COCO"
ROBOFLOW = "_annotations.coco.json"
Entry = Mapping[str, Any]


@dataclass(slots=True)
class CocoPicture:
    """The objects of one picture in a COCO file."""

    path: Path
    within: str
    size_wh: tuple[int, int] | None
    categories: Mapping[str, str]
    objects: list[Entry] = field(default_factory=list)

    def read(self, header: imaging.ImageHeader) -> Written:  # noqa: ARG002
        """Return what the file says of the picture, as Source.read does."""
        written = Written(size_wh=self.size_wh)
        outlines = masks = 0
        for entry in self.objects:
            name, outline = self._name(entry), entry.get("segmentation")
            if entry.get("bbox"):
                box = _box(entry["bbox"], name)
                masks += isinstance(outline, dict)
            elif isinstance(outline, list) and outline:
                box = around(_points(outline, name))
                outlines += 1
            else:
                what = "a mask" if outline else "no outline"
                written.lose(name, f"has no bbox and {what}: export boxes too")
                continue
            written.add(name, box, difficult=bool(entry.get("difficult") or entry.get("iscrowd")))
        note_outlines(written, outlines)
        note_masks(written, masks)
        return written

    def names(self) -> set[str]:
        """Return the names of the picture's objects, as Source.names does."""
        return {self._name(entry) for entry in self.objects}

    def _name(self, entry: Entry) -> str:
        number = str(entry.get("category_id"))
        if number not in self.categories:
            raise BrokenAnnotation(
                f"an object is of category {number}, which categories does not list "
                f"({', '.join(self.categories)})"
            )
        return self.categories[number]


def evidence(folder: Path) -> str | None:
    """Return what in folder speaks for this layout, None if nothing does."""
    found = next(_files(folder), None)
    return None if found is None else str(found[1].relative_to(folder))


def find_pairs(folder: Path, sides: Collection[Side], *, negatives: bool) -> list[Pair]:  # noqa: ARG001
    """Return the pictures that the files list, and those that lie beside them unlisted.

    Raises:
        WrongLayout: a file is no COCO.
    """
    pairs: list[Pair] = []
    listed: set[Path] = set()
    beside: dict[Path, Side] = {}
    for side, path in _files(folder):
        of_file = list(_pairs(path, side, _bases(folder, path, side)))
        pairs += of_file
        for pair in of_file:
            if pair.image_path is not None:
                listed.add(pair.image_path)
                beside.setdefault(pair.image_path.parent, pair.side)
    for inside, side in beside.items():
        pairs += [Pair(path.stem, path, None, side) for path in pictures_in(inside) if path not in listed]
    return sorted((pair for pair in pairs if pair.side in sides), key=lambda pair: pair.stem)


def class_names(folder: Path) -> set[str]:
    """Return the names of the categories that some object has."""
    names: set[str] = set()
    for _, path in _files(folder):
        document = json_files.load(path)
        used = {str(entry.get("category_id")) for entry in document["annotations"] if isinstance(entry, dict)}
        names |= {name for number, name in _categories(document, path).items() if number in used}
    return names


def _files(folder: Path) -> Iterator[tuple[Side, Path]]:
    """Yield the COCO files of a folder and the side that each is of."""
    for side, inside in side_folders(folder):
        for path in _json_in(inside):
            yield side, path
    for inside in (folder / "annotations", folder):
        found = _json_in(inside)
        instances = [path for path in found if path.name.startswith("instances_")]
        for path in instances or found:
            yield _side_in_name(path.stem), path


def _json_in(folder: Path) -> list[Path]:
    if not folder.is_dir():
        return []
    return [path for path in sorted(folder.glob("*.json")) if path.is_file() and _is_coco(path)]


def _is_coco(path: Path) -> bool:
    if path.name == ROBOFLOW:
        return True
    if not json_files.begins_with(path, "{"):
        return False
    try:
        document = json_files.load(path)
    except WrongLayout:
        return "coco" in path.name.lower() or path.name.startswith("instances_")
    return isinstance(document, dict) and {"images", "annotations", "categories"} <= document.keys()


def _side_in_name(stem: str) -> Side:
    words = (side_named(word) for word in re.split(r"[^A-Za-z0-9]+", stem))
    return next((side for side in words if side is not None), "train")


def _bases(folder: Path, path: Path, side: Side) -> list[Path]:
    """Return the folders in which the pictures of a COCO file may lie, the likeliest first."""
    wide = [path.parent, path.parent / "images", folder / "images", folder]
    narrow = [inside for base in wide[2:] for of, inside in side_folders(base) if of == side]
    return [base for base in dict.fromkeys([wide[0], wide[1], *narrow, *wide[2:]]) if base.is_dir()]


def _pairs(path: Path, side: Side, bases: Sequence[Path]) -> Iterator[Pair]:
    document = json_files.load(path)
    if not isinstance(document, dict) or not all(
        isinstance(document.get(key), list) for key in ("images", "annotations", "categories")
    ):
        raise WrongLayout(
            f"expected COCO in {path}: an object with the lists images, annotations, categories"
        )
    categories = _categories(document, path)
    objects: dict[str, list[Entry]] = defaultdict(list)  # ids may be numbers or text
    for entry in document["annotations"]:
        if not isinstance(entry, dict):
            raise WrongLayout(f"expected tables in the list annotations of {path}, got {str(entry)[:80]}")
        objects[str(entry.get("image_id"))].append(entry)
    sources: dict[str, CocoPicture] = {}
    claimed: dict[str, set[str]] = defaultdict(set)  # image id -> pictures that have it
    split: dict[str, Side] = {}
    for entry in document["images"]:
        name = _file_name(entry, path)
        claimed[str(entry.get("id"))].add(name)
        split[name] = SIDE_NAMES.get(str(entry.get("split")).lower(), side)
        sources.setdefault(name, CocoPicture(path, name, _size_wh(entry), categories))
    for number, names in claimed.items():
        for name in names:
            sources[name].objects += objects.get(number, [])
    shared = {name: number for number, names in claimed.items() if len(names) > 1 for name in names}
    for name, source in sources.items():
        relative = _relative(name)
        image_path = _find(relative, bases)
        problem = None
        if name in shared:
            problem = Problem(
                "broken annotation", path,
                f"{name}: {len(claimed[shared[name]])} pictures have the id {shared[name]}: its boxes "
                "could be of any; left out",
            )  # fmt: skip
        yield Pair(flat_stem(_without_side(relative)), image_path, source, split[name], problem)
    for number in sorted(objects.keys() - claimed.keys()):
        detail = f"{len(objects[number])} objects are of image {number}, which images does not list; left out"
        yield Pair(f"image {number}", None, None, side, Problem("missing image", path, detail))


def _categories(document: Mapping[str, Any], path: Path) -> dict[str, str]:
    try:
        return {str(entry["id"]): str(entry["name"]) for entry in document["categories"]}
    except (KeyError, TypeError) as error:
        raise WrongLayout(f"expected categories with id and name in {path}") from error


def _file_name(entry: object, path: Path) -> str:
    if not isinstance(entry, dict) or not isinstance(entry.get("file_name"), str) or not entry["file_name"]:
        raise WrongLayout(f"expected a file_name for every entry of images in {path}, got {str(entry)[:80]}")
    return str(entry["file_name"])


def _size_wh(entry: Entry) -> tuple[int, int] | None:
    try:
        stated = int(entry.get("width") or 0), int(entry.get("height") or 0)
    except (TypeError, ValueError, OverflowError):
        return None
    return stated if min(stated) > 0 else None


def _relative(name: str) -> PurePosixPath:
    return PurePosixPath(posix(name))


def _find(relative: PurePosixPath, bases: Sequence[Path]) -> Path | None:
    """Return the picture of that name, else of its last part alone, in the first base that has it."""
    for wanted in (relative, PurePosixPath(relative.name)):
        for base in bases:
            if (base / wanted).is_file():
                return base / wanted
    return None


def _without_side(relative: PurePosixPath) -> PurePosixPath:
    """Return the path without the folders before it that say nothing of the picture itself."""
    parts = list(relative.parts) or ["."]
    if relative.is_absolute() or re.match(r"[A-Za-z]:", parts[0]):
        return PurePosixPath(relative.name)
    while len(parts) > 1 and (parts[0] in (".", "..", "images") or side_named(parts[0]) is not None):
        parts.pop(0)
    return PurePosixPath(*parts)


def _box(values: object, name: str) -> list[float]:
    if not isinstance(values, list) or len(values) != 4:
        raise BrokenAnnotation(f"an object ({name}) has a bbox that is not x, y, width, height: {values}")
    x, y, width, height = finite(values, f"an object ({name})")
    return [x, y, x + width, y + height]


def _points(outline: Sequence[object], name: str) -> list[float]:
    """Return the corners of all parts of an outline, x and y in turn."""
    parts = outline if isinstance(outline[0], list) else [outline]
    return finite(
        [value for part in parts if isinstance(part, list) for value in part], f"an object ({name})"
    )
