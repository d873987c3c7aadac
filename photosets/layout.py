"""What the folders of data sets have in common: names of sides, files in a folder, paths as others wrote."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Collection, Iterator
from pathlib import Path, PurePosixPath
from typing import Literal

from detection import imaging
from detection.names import first_few

Side = Literal["train", "val", "test"]

FOLDER_NAME = "Sohas_weapon-Detection"
DOWNLOADED_IN = "Weapons and similar handled objects"  # where the original repository keeps that folder
FOLDERS: dict[Side, tuple[str, str]] = {  # side -> (pictures, annotations); the original has no val
    "train": ("images", "annotations/xmls"),
    "val": ("images_val", "annotations_val/xmls"),
    "test": ("images_test", "annotations_test/xmls"),
}
SIDES: tuple[Side, ...] = ("train", "val", "test")
SIDE_NAMES: dict[str, Side] = {  # as tools call the folder of a side
    "train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test",
    "testing": "test",
}  # fmt: skip


class DatasetError(ValueError):
    """The data on disk cannot be used; the message says what to change."""


class WrongLayout(DatasetError):
    """The folder is laid out in no way that is known, in two at once, or its list of classes is missing."""


class DuplicateStem(DatasetError):
    """Two pictures in one folder have the same stem."""


def side_named(name: str) -> Side | None:
    """Return the side that a folder or file of that name is of: train2017, valid, Test; None if of none."""
    return SIDE_NAMES.get(re.sub(r"[\d_-]+$", "", name.lower()))


def side_folders(folder: Path) -> Iterator[tuple[Side, Path]]:
    """Yield the folders in folder that are called after a side, sorted by name."""
    for path in sorted(folder.iterdir()) if folder.is_dir() else ():
        side = side_named(path.name)
        if side is not None and path.is_dir():
            yield side, path


def files_by_stem(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Map each file's stem to its path. Stems are NFC: macOS writes accents decomposed, XML tools do not.

    Raises:
        DuplicateStem: two files have the same.
    """
    return _by_stem(folder, (path for path in _files(folder, suffixes)))


def files_below(folder: Path, suffixes: Collection[str]) -> dict[str, Path]:
    """Map the flat stem of each file in folder and in the folders in it to its path.

    Raises:
        DuplicateStem: two files have the same.
    """
    found: list[Path] = []
    for inside, folders, _ in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += _files(Path(inside), suffixes)
    return _by_stem(folder, found)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder, sorted by name, not those in the folders in it."""
    return list(_files(folder, imaging.SUFFIXES))


def flat_stem(path: PurePosixPath) -> str:
    """Return the stem of a picture whose path is relative: clip_1/frame_7.jpg is clip_1_frame_7."""
    return unicodedata.normalize("NFC", "_".join((*path.parent.parts, path.stem)))


def posix(text: str) -> str:
    """Return a path as this machine writes it, whoever wrote it: backslashes are Windows's."""
    return text.strip().replace("\\", "/")


def locate(text: str, bases: Collection[Path]) -> Path | None:
    r"""Return the file or folder that a path in somebody's file means: where it is now, or None.

    Tried are the path as it stands, then without the ".." before it, which Roboflow writes in vain, then,
    for C:\Users\me\data\train\images, its ends: a folder's of two names and more.
    """
    name = posix(text)
    for base in bases:
        if (base / name).exists():
            return base / name
    parts = [part for part in re.sub(r"^[A-Za-z]:", "", name).split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        for base in bases:
            found = base.joinpath(*parts[start:])
            if found.is_file() or (found.exists() and start < max(1, len(parts) - 1)):
                return found
    return None


def _files(folder: Path, suffixes: Collection[str]) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        _, dot, suffix = name.rpartition(".")
        if f"{dot}{suffix.lower()}" in suffixes and not name.startswith("."):
            yield folder / name


def _by_stem(folder: Path, files: Iterator[Path] | list[Path]) -> dict[str, Path]:
    paths: dict[str, Path] = {}
    twice: list[str] = []
    for path in files:
        stem = flat_stem(PurePosixPath(path.relative_to(folder)))
        if stem in paths:
            twice.append(f"{paths[stem].name} and {path.name}")
        paths[stem] = path
    if twice:
        raise DuplicateStem(
            f"{first_few(twice)} in {folder} have the same name but for the suffix: an annotation could mean "
            "either; rename or remove one of them"
        )
    return paths
