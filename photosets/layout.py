"""Where the pictures and annotations of a data set lie: the folders of a root, and the pairs in them."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from detection import imaging
from detection.names import first_few

FOLDER_NAME = "Sohas_weapon-Detection"
DOWNLOADED_IN = "Weapons and similar handled objects"  # where the original repository keeps that folder
FOLDERS = {  # side -> (pictures, annotations)
    "train": ("images", "annotations/xmls"),
    "test": ("images_test", "annotations_test/xmls"),
}


class DatasetError(ValueError):
    """The data on disk cannot be used; the message says what to change."""


class WrongLayout(DatasetError):
    """The folder does not hold images/ and annotations/xmls/."""


class DuplicateStem(DatasetError):
    """Two pictures in one folder have the same stem."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture and its annotation, or the one of them that is there."""

    stem: str
    image_path: Path | None
    xml_path: Path | None

    def is_whole(self, *, negatives: bool) -> bool:
        """Whether this is a sample."""
        return self.image_path is not None and (self.xml_path is not None or negatives)


def find_root(folder: Path) -> Path:
    """Return the folder that holds images/: folder, Sohas_weapon-Detection/ in it, or a download's folder.

    Raises:
        WrongLayout: neither does.
    """
    if not folder.is_dir():
        raise WrongLayout(
            f"there is no folder {folder}: check the path, or fetch the data with dataset.py download"
        )
    for root in (folder, folder / FOLDER_NAME, folder / DOWNLOADED_IN / FOLDER_NAME):
        if any((root / images).is_dir() for images, _ in FOLDERS.values()):
            return root
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise WrongLayout(
        f"expected images/ and annotations/xmls/ in {folder} or in a {FOLDER_NAME} in it; found {names}"
    )


def find_pairs(root: Path, side: str, *, negatives: bool) -> Iterator[Pair]:
    """Yield the pictures and annotations of one side of a root, sorted by stem; either may be missing."""
    images_folder, xmls_folder = (root / name for name in FOLDERS[side])
    if not images_folder.is_dir():
        return
    if not xmls_folder.is_dir() and not negatives:
        raise WrongLayout(
            f"expected the annotations of {images_folder} in {xmls_folder}, which does not exist; "
            "if none of the pictures shows an object, say so with --negatives"
        )
    images = _by_stem(images_folder, imaging.SUFFIXES)
    xmls = _by_stem(xmls_folder, frozenset((".xml",))) if xmls_folder.is_dir() else {}
    for stem in sorted(images.keys() | xmls.keys()):
        yield Pair(stem, images.get(stem), xmls.get(stem))


def _by_stem(folder: Path, suffixes: frozenset[str]) -> dict[str, Path]:
    """Map each file's stem to its path. Stems are NFC: macOS writes accents decomposed, XML tools do not."""
    paths: dict[str, Path] = {}
    twice: list[str] = []
    with os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries)
    for name in names:
        stem, dot, suffix = name.rpartition(".")
        if f"{dot}{suffix.lower()}" not in suffixes or name.startswith("."):
            continue
        stem = unicodedata.normalize("NFC", stem)
        if stem in paths:
            twice.append(f"{paths[stem].name} and {name}")
        paths[stem] = folder / name
    if twice:
        raise DuplicateStem(
            f"{first_few(twice)} in {folder} have the same name but for the suffix: an annotation could mean "
            "either; rename or remove one of them"
        )
    return paths
