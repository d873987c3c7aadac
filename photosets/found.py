"""Which layout a folder has, found by looking; and the folders of data in it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from photosets import coco, cvat, labelstudio, unpacking, voc_folders, yolo
from photosets.layout import DOWNLOADED_IN, FOLDER_NAME, Side, WrongLayout
from photosets.pairs import Pair

LAYOUTS: tuple[ModuleType, ...] = (voc_folders, coco, yolo, cvat, labelstudio)
NAMED = (
    "images/ with annotations/xmls/ (Pascal VOC), pictures and XML files side by side, "
    "_annotations.coco.json or annotations/instances_*.json (COCO), data.yaml with images/, labels/ (YOLO), "
    "annotations.xml (CVAT), a JSON export of Label Studio, or data-1.tar.gz with SHA256SUMS (a pack)"
)


@dataclass(frozen=True)
class Root:
    """A folder of data and how it is laid out.

    Attributes:
        path: the folder.
        kind: what people call the layout.
        list_pairs: see find_pairs.
        list_names: of the folder: the names of its classes; None where only the annotations have them.
    """

    path: Path
    kind: str
    list_pairs: Callable[..., list[Pair]]
    list_names: Callable[[Path], set[str]] | None

    def find_pairs(self, sides: Collection[Side], *, negatives: bool) -> list[Pair]:
        """Return the pictures and annotations of those sides; either of a pair may be missing.

        Raises:
            DatasetError: pictures and annotations cannot be told together.
        """
        return self.list_pairs(self.path, sides, negatives=negatives)

    def class_names(self) -> set[str] | None:
        """Return the names that the layout's own list has, None if it has none."""
        return None if self.list_names is None else self.list_names(self.path)

    @property
    def name(self) -> str:
        """What to call the folder where its place says nothing."""
        return self.path.parent.name if self.path.name == FOLDER_NAME else self.path.name


def find_roots(folders: Iterable[Path]) -> list[Root]:
    """Return the roots that folders are or hold, each once; a pack is unpacked and may hold several.

    Raises:
        DatasetError: there is no such folder, its layout is unknown or two at once, or a pack is damaged.
    """
    roots: dict[Path, Root] = {}
    for folder in dict.fromkeys(folders):
        inside = unpacking.unpacked(folder) if unpacking.is_pack(folder) else [folder]
        for one in inside:
            root = find_root(one)
            roots.setdefault(root.path, root)
    return list(roots.values())


def find_root(folder: Path) -> Root:
    """Return the root that a folder is, or that lies in it, as downloads and unpacked archives have it.

    Raises:
        WrongLayout: there is no such folder, or it has no layout that is known, or two at once.
    """
    if not folder.is_dir():
        raise WrongLayout(
            f"there is no folder {folder}: check the path, or fetch the data with dataset.py download"
        )
    for path in _candidates(folder):
        found = {layout: evidence for layout in LAYOUTS if (evidence := layout.evidence(path)) is not None}
        if len(found) > 1:
            seen = " and ".join(f"{layout.KIND} ({evidence})" for layout, evidence in found.items())
            raise WrongLayout(
                f"expected one layout in {path}, found {seen}: keep the annotations of one alone"
            )
        if found or voc_folders.is_plain(path):
            layout = next(iter(found), voc_folders)
            return Root(path, layout.KIND, layout.find_pairs, getattr(layout, "class_names", None))
    names = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    raise WrongLayout(f"expected {NAMED} in {folder}; found {names}")


def _candidates(folder: Path) -> Sequence[Path]:
    """Return the folders that may be meant: itself, the original's in it, or the only one in it."""
    inside = [path for path in folder.iterdir() if not path.name.startswith(".")]
    only = [path for path in inside if path.is_dir()] if len(inside) == 1 else []
    known = [folder / FOLDER_NAME, folder / DOWNLOADED_IN / FOLDER_NAME]
    return [folder, *(path for path in known if path.is_dir()), *only]
