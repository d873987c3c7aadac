"""YOLO: a text file for each picture, a line for each object: class number and box or outline, as shares.

data.yaml names classes and folders (Ultralytics, Roboflow, CVAT); obj.data and obj.names do (darknet, CVAT);
or classes.txt the classes alone (LabelImg, Label Studio). Labels lie in labels/ where pictures lie in
images/, else beside them. Shares are of the upright picture, as Ultralytics reads them.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import yaml

from detection import imaging
from photosets.annotations import BrokenAnnotation, Source, Written, around, finite, note_outlines
from photosets.layout import (
    SIDES,
    Side,
    WrongLayout,
    files_below,
    flat_stem,
    locate,
    posix,
    side_folders,
)
from photosets.pairs import Pair, paired

KIND = "YOLO"
ROUNDED = 2e-6  # share of a side by which a box written with six digits reaches outside
LARGEST = 2.0  # a share beyond it is no share
DIGITS = 11  # of a pixel: what is left is the rounding of the machine's own numbers


@dataclass(frozen=True, slots=True)
class YoloFile:
    """The label file of one picture."""

    path: Path
    class_names: Mapping[int, str]
    named_in: str
    keypoints: bool = False
    within: str = ""

    def read(self, header: imaging.ImageHeader) -> Written:
        """Return what it says, as Source.read does."""
        written = Written()
        outlines = 0
        for number, line in enumerate(self._lines(), 1):
            label, *shares = finite(line, f"line {number}")
            name = self._name(label, number)
            if self.keypoints:
                shares = shares[:4]
            if len(shares) == 4:
                x, y, width, height = shares
                box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
            elif len(shares) >= 6 and len(shares) % 2 == 0:
                box = around(shares)
                outlines += 1
            else:
                raise BrokenAnnotation(_odd_line(number, len(line)))
            if max(map(abs, box)) > LARGEST:
                raise BrokenAnnotation(
                    f"line {number} has {max(map(abs, shares)):g}: expected shares, 0 to 1, not pixels"
                )
            written.add(name, _pixels(box, header.size_wh))
        note_outlines(written, outlines)
        return written

    def names(self) -> set[str]:
        """Return the names of its objects, as Source.names does."""
        return {
            self._name(finite(line[:1], f"line {number}")[0], number)
            for number, line in enumerate(self._lines(), 1)
        }

    def _lines(self) -> list[list[str]]:
        text = self.path.read_text(encoding="utf-8-sig", errors="replace")
        return [line.split() for line in text.splitlines() if line.strip()]

    def _name(self, label: float, number: int) -> str:
        if label not in self.class_names:
            named = f"{len(self.class_names)} classes, {min(self.class_names)} to {max(self.class_names)}"
            raise BrokenAnnotation(f"line {number} is of class {label:g}, {self.named_in} names {named}")
        return self.class_names[int(label)]


@dataclass(frozen=True)
class _Plan:
    """What the list of classes says.

    Attributes:
        path: the list.
        class_names: by number.
        places: side -> folders, lists of pictures, or pictures, as the list writes them.
        bases: what those are relative to.
        keypoints: whether boxes are followed by points of the body.
    """

    path: Path
    class_names: Mapping[int, str]
    places: Mapping[Side, list[str]] = field(default_factory=dict)
    bases: tuple[Path, ...] = ()
    keypoints: bool = False


def evidence(folder: Path) -> str | None:
    """Return what in folder speaks for this layout, None if nothing does."""
    path = _list_of(folder)
    return None if path is None else path.name


def class_names(folder: Path) -> set[str]:
    """Return the names of the classes."""
    return set(_plan(folder).class_names.values())


def find_pairs(folder: Path, sides: Collection[Side], *, negatives: bool) -> list[Pair]:  # noqa: ARG001
    """Return the pictures and label files of those sides; either of a pair may be missing.

    Raises:
        WrongLayout: the list of classes cannot be used, or the folder it names for training is not there.
        DuplicateStem: two pictures of a side share a stem.
    """
    plan = _plan(folder)
    images: dict[Side, dict[str, Path]] = {}
    for side in SIDES:
        images[side] = {}
        for place in _places(folder, plan, side):
            images[side] |= _pictures(place, (place.parent, *plan.bases, folder))
    if images["val"] and images["val"].items() <= images["train"].items():
        images["val"] = {}  # "val: the same folder", for who has no other
    pairs: list[Pair] = []
    for side in SIDES:
        if side in sides:
            pairs += paired(side, images[side], _labels(images[side], plan))
    return pairs


def _labels(images: Mapping[str, Path], plan: _Plan) -> dict[str, Source]:
    """Return the label files of pictures, and those in the same folders that have no picture."""
    labels: dict[str, Source] = {}
    folders: dict[Path, Path] = {}
    known: set[Path] = set()
    for stem, path in images.items():
        inside = folders.setdefault(path.parent, _labels_folder(path.parent))
        label = inside / f"{path.stem}.txt"
        known.add(label)
        if label.is_file():
            labels[stem] = _file(label, plan)
    for inside in set(folders.values()):
        for label in sorted(inside.glob("*.txt")):
            if label not in known and _is_label(label):
                labels.setdefault(flat_stem(PurePosixPath(label.name)), _file(label, plan))
    return labels


def _file(path: Path, plan: _Plan) -> YoloFile:
    return YoloFile(path, plan.class_names, plan.path.name, plan.keypoints)


def _labels_folder(images: Path) -> Path:
    """Return labels/train for images/train, and train/labels for train/images; the same folder without."""
    parts = list(images.parts)
    for position in range(len(parts) - 1, -1, -1):
        if parts[position] == "images":
            found = Path(*parts[:position], "labels", *parts[position + 1 :])
            return found if found.is_dir() else images
    return images


def _is_label(path: Path) -> bool:
    """Say whether a text file begins like a label file: with a number."""
    with path.open(encoding="utf-8", errors="replace") as file:
        words = file.readline().split()
    return len(words) >= 4 and words[0].replace(".", "", 1).isdigit()


# --- what the list of classes says -------------------------------------------------------------------


def _list_of(folder: Path) -> Path | None:
    """Return the file that names the classes."""
    if not folder.is_dir():
        return None
    for path in sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")]):
        if path.name in ("data.yaml", "data.yml", "dataset.yaml") or _names_classes(path):
            return path
    if (folder / "obj.names").is_file():
        return folder / "obj.names"
    listed = folder / "classes.txt"
    if listed.is_file() and ((folder / "labels").is_dir() or any(map(_is_label, folder.glob("*.txt")))):
        return listed
    return None


def _names_classes(path: Path) -> bool:
    try:
        document = _yaml(path)
    except WrongLayout:
        return False
    return "names" in document and bool({"train", "val", "path", "nc"} & document.keys())


def _plan(folder: Path) -> _Plan:
    path = _list_of(folder)
    assert path is not None, "there is evidence"
    if path.suffix == ".txt":
        return _Plan(path, _numbered(_lines(path), path))
    if path.name == "obj.names":
        return _Plan(path, _numbered(_lines(path), path), _darknet(folder), (folder,))
    document = _yaml(path)
    bases = [folder]
    if isinstance(document.get("path"), str) and (inside := locate(document["path"], [folder])):
        bases.insert(0, inside)
    given = {side: document.get(side, document.get("valid") if side == "val" else None) for side in SIDES}
    places = {side: _words(value) for side, value in given.items() if value}
    return _Plan(
        path, _numbered(document.get("names"), path), places, tuple(bases), bool(document.get("kpt_shape"))
    )


def _yaml(path: Path) -> dict[str, Any]:
    r"""Return a YAML file; Windows paths in it, "C:\data" too, come out with slashes."""
    try:
        document = yaml.safe_load(posix(path.read_text(encoding="utf-8-sig")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise WrongLayout(f"expected YAML in {path}: {' '.join(str(error).split())}") from error
    if not isinstance(document, dict):
        raise WrongLayout(f"expected names and folders in {path}, got {str(document)[:80]!r}")
    return document


def _numbered(names: object, path: Path) -> dict[int, str]:
    """Return the classes by number, of a list or of a table with numbers, holes and all."""
    try:
        if isinstance(names, dict):
            numbered = {int(number): str(name) for number, name in names.items()}
        else:
            assert isinstance(names, list)
            numbered = dict(enumerate(map(str, names)))
    except (AssertionError, TypeError, ValueError):
        numbered = {}
    if not numbered:
        raise WrongLayout(
            f"expected the names of the classes in {path}, as in names: [pistol, knife]; found none"
        )
    return numbered


def _lines(path: Path) -> list[str]:
    text = path.read_text(encoding="utf-8-sig", errors="replace")
    return [line.strip() for line in text.splitlines() if line.strip()]


def _words(value: object) -> list[str]:
    return [str(word) for word in value] if isinstance(value, list) else [str(value)]


def _darknet(folder: Path) -> dict[Side, list[str]]:
    """Return what obj.data says of sides: train = data/train.txt."""
    path = folder / "obj.data"
    pairs = [line.partition("=") for line in (_lines(path) if path.is_file() else [])]
    settings = {name.strip(): value.strip() for name, _, value in pairs}
    named = {side: settings.get(side, settings.get("valid") if side == "val" else None) for side in SIDES}
    return {side: [value] for side, value in named.items() if value}


def _places(folder: Path, plan: _Plan, side: Side) -> Iterator[Path]:
    """Yield the folders and lists of the pictures of a side."""
    if not plan.places:
        yield from _usual(folder, side)
        return
    for written in plan.places.get(side, ()):
        found = locate(written, plan.bases or (folder,))
        if found is not None:
            yield found
        elif side == "train":  # a test that an export does not hold is not missed
            raise WrongLayout(
                f"{plan.path} says {side}: {written}, which is not in {folder} either: correct the path"
            )


def _usual(folder: Path, side: Side) -> Iterator[Path]:
    """Yield the folders in which the pictures of a side lie where nothing names them."""
    pictures = folder / "images"
    named = [*side_folders(pictures), *side_folders(folder)]
    for of, inside in named:
        if of == side:
            yield inside / "images" if (inside / "images").is_dir() else inside
    if not named and side == "train":
        yield pictures if pictures.is_dir() else folder


def _pictures(place: Path, bases: tuple[Path, ...]) -> dict[str, Path]:
    """Return the pictures of a folder, or of a list of pictures, by stem."""
    if place.is_dir():
        return files_below(place, imaging.SUFFIXES)
    if place.suffix.lower() in imaging.SUFFIXES:
        return {flat_stem(PurePosixPath(place.name)): place}
    found: dict[str, Path] = {}
    for line in _lines(place):
        path = locate(line, bases) or bases[0] / posix(line)
        found[flat_stem(PurePosixPath(path.name))] = path
    return found


# --- one line ----------------------------------------------------------------------------------------


def _odd_line(number: int, count: int) -> str:
    if count == 6:
        return (
            f"line {number} has 6 numbers, the last a model's score: expected what a person says: "
            "class, x, y, width, height"
        )
    return (
        f"line {number} has {count} numbers: expected class, x, y, width, height, or class and x, y of three "
        "corners or more"
    )


def _pixels(box: list[float], size_wh: tuple[int, int]) -> list[float]:
    """Return xyxy shares as pixels; what rounding moved outside the picture lies on its edge."""
    shares = np.array(box)
    shares[(shares < 0) & (shares > -ROUNDED)] = 0
    shares[(shares > 1) & (shares < 1 + ROUNDED)] = 1
    pixels: list[float] = (shares * np.array([*size_wh, *size_wh])).round(DIGITS).tolist()
    return pixels
