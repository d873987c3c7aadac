"""Data in any layout -> a new folder in Pascal VOC, COCO or YOLO, from which the same samples are read.

voc     images/ and annotations/xmls/, images_val/ ..., images_test/ ...
coco    train/, valid/ and test/, each with its pictures and _annotations.coco.json
yolo    data.yaml, train/images/ and train/labels/, valid/ ..., test/ ...

Validation pictures of the source's own get a place of their own; where it has none, the new folder has none
either, and is divided by the same rule into the same sides. Pictures are linked or copied as they are. YOLO
has no place for "difficult".
"""

from __future__ import annotations

import json
import os
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import yaml

from photosets.classes import class_rule
from photosets.coco import ROBOFLOW
from photosets.layout import FOLDERS, SIDES, DatasetError, Side
from photosets.report import DatasetReport
from photosets.samples import Annotated, EmptySplit, read_undivided
from photosets.voc import annotation_xml

Format = Literal["voc", "coco", "yolo"]
SIDE_FOLDERS: dict[Side, str] = {"train": "train", "val": "valid", "test": "test"}  # as Roboflow names them


class UnusableOutput(DatasetError):
    """The folder to write is not new, or two pictures would get one name in it."""


@dataclass
class Converted:
    """What converting came to.

    Attributes:
        pictures: how many were written, by side.
        report: what reading found.
    """

    pictures: Counter[Side] = field(default_factory=Counter)
    report: DatasetReport = field(default_factory=DatasetReport)


def convert(
    roots: Sequence[Path],
    folder: Path,
    to: Format,
    *,
    classes: str = "",
    negatives: bool = False,
    advance: Callable[[], object] = lambda: None,
) -> Converted:
    """Write roots into folder in another layout. Boxes are those of the upright pictures.

    Args:
        roots: as for read_samples.
        folder: new or empty.
        to: the layout.
        classes: as for read_samples; the names written are those of the classes.
        negatives: as for read_samples; such pictures get an annotation without objects.
        advance: called after each picture.

    Raises:
        DatasetError: as read_samples; nothing is left in folder then.
        UnusableOutput: folder holds something, or two pictures would get one name.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UnusableOutput(
            f"expected a new or empty folder to write to, {folder} holds something: choose another"
        )
    result, rule = Converted(), class_rule(classes)
    writer = WRITERS[to](folder, rule.class_names)
    taken: dict[tuple[Side, str], Path] = {}
    pictures = list(
        read_undivided(roots, rule, result.report, negatives=negatives)
    )  # all, before a file is made
    if not pictures:
        raise EmptySplit(f"there is no usable picture in {', '.join(map(str, roots))}")
    for one in pictures:
        other = taken.setdefault((one.side, one.stem.casefold()), one.image_path)
        if other != one.image_path:
            raise UnusableOutput(
                f"{other} and {one.image_path} would get one name: convert their folders one by one"
            )
    for one in pictures:
        writer.add(one, _file_name(one))
        result.pictures[one.side] += 1
        advance()
    writer.finish()
    return result


def _file_name(one: Annotated) -> str:
    """Return the picture's name in the new folder: its own, with the folders that it lay in before it."""
    if unicodedata.normalize("NFC", one.image_path.stem) == one.stem:
        return one.image_path.name
    return f"{one.stem}{one.image_path.suffix}"


def _place(source: Path, path: Path) -> None:
    """Link a file to another place or, on another disk, copy it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, path)
    except OSError:
        shutil.copyfile(source, path)


class _Voc:
    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder, self.class_names = folder, class_names

    def add(self, one: Annotated, name: str) -> None:
        """Write a picture and its XML file."""
        images, xmls = (self.folder / place for place in FOLDERS[one.side])
        _place(one.image_path, images / name)
        xmls.mkdir(parents=True, exist_ok=True)
        said = one.annotation
        (xmls / f"{Path(name).stem}.xml").write_bytes(
            annotation_xml(
                name, one.size_wh, [self.class_names[label] for label in said.labels], said.boxes.tolist(),
                said.difficult.tolist(),
            )
        )  # fmt: skip

    def finish(self) -> None:
        """Do nothing: each picture has its own file."""


class _Coco:
    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder = folder
        categories = [{"id": label, "name": name} for label, name in enumerate(class_names) if label]
        self.documents: dict[Side, dict[str, Any]] = {
            side: {"images": [], "annotations": [], "categories": categories} for side in SIDES
        }

    def add(self, one: Annotated, name: str) -> None:
        """Write a picture and note its objects."""
        _place(one.image_path, self.folder / SIDE_FOLDERS[one.side] / name)
        images, objects = (self.documents[one.side][key] for key in ("images", "annotations"))
        width, height = one.size_wh
        images.append({"id": len(images), "file_name": name, "width": width, "height": height})
        said = one.annotation
        for box, label, hard in zip(said.boxes.tolist(), said.labels.tolist(), said.difficult, strict=True):
            x, y, across, down = box[0], box[1], box[2] - box[0], box[3] - box[1]
            entry = {
                "id": len(objects), "image_id": len(images) - 1, "category_id": label,
                "bbox": [x, y, across, down], "area": across * down, "iscrowd": 0,
            }  # fmt: skip
            objects.append({**entry, "difficult": 1} if hard else entry)

    def finish(self) -> None:
        """Write the list of each side."""
        for side, document in self.documents.items():
            if document["images"]:
                text = json.dumps(document, indent=1, ensure_ascii=True)
                (self.folder / SIDE_FOLDERS[side] / ROBOFLOW).write_text(text + "\n", encoding="utf-8")


class _Yolo:
    def __init__(self, folder: Path, class_names: Sequence[str]) -> None:
        self.folder, self.names = folder, list(class_names[1:])
        self.sides: set[Side] = set()

    def add(self, one: Annotated, name: str) -> None:
        """Write a picture and its label file."""
        self.sides.add(one.side)
        inside = self.folder / SIDE_FOLDERS[one.side]
        _place(one.image_path, inside / "images" / name)
        (inside / "labels").mkdir(parents=True, exist_ok=True)
        width, height = one.size_wh
        lines = []
        for (x1, y1, x2, y2), label in zip(one.annotation.boxes.tolist(), one.annotation.labels, strict=True):
            shares = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join([str(label - 1), *(f"{share:.17g}" for share in shares)]) + "\n")
        (inside / "labels" / f"{Path(name).stem}.txt").write_text("".join(lines), encoding="utf-8")

    def finish(self) -> None:
        """Write data.yaml; without validation pictures, val is train, as YOLO's trainers want one."""
        places: dict[str, str] = {
            side: f"{SIDE_FOLDERS[side]}/images" for side in SIDES if side in self.sides
        }
        places.setdefault("val", places.get("train", f"{SIDE_FOLDERS['train']}/images"))
        document = {**places, "nc": len(self.names), "names": dict(enumerate(self.names))}
        (self.folder / "data.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")


WRITERS: dict[Format, type[_Voc] | type[_Coco] | type[_Yolo]] = {"voc": _Voc, "coco": _Coco, "yolo": _Yolo}
