"""Folders of pictures and Pascal VOC files: the original data set's, the challenge's, and both side by side.

images/, annotations/xmls/          the original's, with images_test/ and annotations_test/xmls/
JPEGImages/ or images/, Annotations/    the challenge's, CVAT's and Label Studio's; ImageSets/Main/val.txt and
                                    the like name the sides, if they are there
train/, valid/, test/               Roboflow's: pictures and XML files side by side
the folder itself                   LabelImg's: likewise
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from detection import imaging
from photosets.annotations import Source
from photosets.layout import FOLDERS, Side, WrongLayout, files_by_stem, side_folders
from photosets.pairs import Pair, paired
from photosets.voc import VocFile

KIND = "Pascal VOC"
PICTURES = ("JPEGImages", "images")


def evidence(folder: Path) -> str | None:
    """Return what in folder speaks for this layout, None if nothing does."""
    for _, xmls in FOLDERS.values():
        if (folder / xmls).is_dir():
            return f"{xmls}/"
    if _challenge(folder) is not None:
        return "Annotations/"
    for _, inside in (("train", folder), *side_folders(folder)):
        if (xml := _first_voc(inside)) is not None:
            return str(xml.relative_to(folder))
    return None


def is_plain(folder: Path) -> bool:
    """Say whether folder is at least laid out for pictures alone, as negatives are."""
    return any((folder / images).is_dir() for images, _ in FOLDERS.values())


def find_pairs(folder: Path, sides: Collection[Side], *, negatives: bool) -> list[Pair]:
    """Return the pictures and annotations of those sides; either of a pair may be missing.

    Raises:
        WrongLayout: pictures lie where no annotation can, and negatives does not say that none is needed.
        DuplicateStem: two pictures of a folder share a stem.
    """
    if evidence(folder) is None or any((folder / xmls).is_dir() for _, xmls in FOLDERS.values()):
        return [pair for side in sides for pair in _original(folder, side, negatives=negatives)]
    if (pictures := _challenge(folder)) is not None:
        pairs = paired("train", files_by_stem(pictures, imaging.SUFFIXES), _xmls(folder / "Annotations"))
        return [pair for pair in _listed(folder, pairs) if pair.side in sides]
    return [
        pair
        for side, inside in (("train", folder), *side_folders(folder)) if side in sides
        for pair in paired(side, files_by_stem(inside, imaging.SUFFIXES), _xmls(inside))
    ]  # fmt: skip


def _original(root: Path, side: Side, *, negatives: bool) -> list[Pair]:
    images_folder, xmls_folder = (root / name for name in FOLDERS[side])
    if not images_folder.is_dir():
        return []
    if not xmls_folder.is_dir() and not negatives:
        raise WrongLayout(
            f"expected the annotations of {images_folder} in {xmls_folder}, which does not exist; "
            "if none of the pictures shows an object, say so with --negatives"
        )
    return paired(side, files_by_stem(images_folder, imaging.SUFFIXES), _xmls(xmls_folder))


def _challenge(folder: Path) -> Path | None:
    """Return the folder of pictures beside Annotations/, None if there is none."""
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    if "Annotations" not in names or _first_voc(folder / "Annotations") is None:
        return None
    return next((folder / name for name in PICTURES if name in names), None)


def _listed(folder: Path, pairs: list[Pair]) -> Iterator[Pair]:
    """Give each pair the side whose list in ImageSets/Main names it; train if none does."""
    sides: dict[str, Side] = {}
    for side in ("train", "test", "val"):  # a picture of two lists must not train
        path = folder / "ImageSets" / "Main" / f"{side}.txt"
        if path.is_file():
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
            sides |= {line.split()[0]: side for line in lines if line.strip()}
    for pair in pairs:
        yield Pair(pair.stem, pair.image_path, pair.annotation, sides.get(pair.stem, "train"))


def _xmls(folder: Path) -> Mapping[str, Source]:
    if not folder.is_dir():
        return {}
    return {stem: VocFile(path) for stem, path in files_by_stem(folder, (".xml",)).items()}


def _first_voc(folder: Path) -> Path | None:
    """Return the first XML file of a folder, None if that is another tool's, or there is none."""
    if not folder.is_dir():
        return None
    path = next(iter(sorted(folder.glob("*.[xX][mM][lL]"))), None)
    return path if path is not None and root_tag(path) in ("annotation", "") else None


def root_tag(path: Path) -> str:
    """Return the tag around all of an XML file, in lower case; empty if it cannot be read."""
    try:
        with path.open("rb") as file:
            for _, element in ElementTree.iterparse(file, events=("start",)):
                return str(element.tag).rpartition("}")[2].lower()
    except (ElementTree.ParseError, ValueError, LookupError, OSError):
        pass
    return ""
