"""Small data sets as other tools lay them out: the same two pictures, the same boxes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image as PillowImage

from photosets import synthetic

SIZE_WH = (100, 80)
BOXES = {"a": [("pistol", (10, 20, 30, 40)), ("knife", (50.5, 20, 70.25, 60))], "b": []}


def picture(path: Path, *, size=SIZE_WH, orientation: int = 1) -> Path:
    """Write a grey picture; size is as stored."""
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    PillowImage.new("RGB", size, "grey").save(path, exif=exif)
    return path


def written(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def coco_document(**changes: Any) -> dict[str, Any]:
    """COCO of pictures a.jpg and b.jpg; category ids have holes, as Roboflow's and CVAT's have."""
    ids = {"pistol": 3, "knife": 17}
    objects = [(ids[name], box) for name, box in BOXES["a"]]
    document = {
        "images": [
            {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80},
            {"id": 9, "file_name": "b.jpg", "width": 100, "height": 80},
        ],
        "categories": [{"id": 0, "name": "weapons"}, *({"id": i, "name": n} for n, i in ids.items())],
        "annotations": [
            {"id": k, "image_id": 7, "category_id": i, "bbox": [x1, y1, x2 - x1, y2 - y1], "iscrowd": 0}
            for k, (i, (x1, y1, x2, y2)) in enumerate(objects)
        ],
    }
    return document | changes


def coco(root: Path, inside: str = "train", **changes: Any) -> Path:
    """One folder of a Roboflow export; return the list."""
    for stem in BOXES:
        picture(root / inside / f"{stem}.jpg")
    return written(root / inside / "_annotations.coco.json", json.dumps(coco_document(**changes)))


YOLO_A = "0 0.2 0.375 0.2 0.25\n1 0.60375 0.5 0.1975 0.5\n"


def yolo(root: Path, images="train/images", labels="train/labels", data: str | None = None) -> None:
    """A folder of an Ultralytics or Roboflow export, and its data.yaml unless data is empty."""
    for stem in BOXES:
        picture(root / images / f"{stem}.jpg")
    written(root / labels / "a.txt", YOLO_A)
    written(root / labels / "b.txt", "")
    if data != "":
        written(root / "data.yaml", data or f"train: {images}\nnames: [pistol, knife]\n")


def voc(folder: Path, xmls: Path | None = None) -> None:
    """Pictures and XML files side by side, or the latter in a folder of their own."""
    for stem, objects in BOXES.items():
        picture(folder / f"{stem}.jpg")
        names, boxes = zip(*objects, strict=True) if objects else ((), ())
        inside = xmls or folder
        inside.mkdir(parents=True, exist_ok=True)
        synthetic.write_voc(inside / f"{stem}.xml", f"{stem}.jpg", SIZE_WH, names, boxes)


CVAT_A = (
    '<box label="pistol" xtl="10" ytl="20" xbr="30" ybr="40" occluded="0"/>'
    '<box label="knife" xtl="50.5" ytl="20" xbr="70.25" ybr="60"/>'
)


def cvat(root: Path, shapes: str = CVAT_A, *, images="images", name="a.jpg", extra="") -> Path:
    for stem in BOXES:
        picture(root / images / f"{stem}.jpg")
    head = '<image id="{}" name="{}" width="100" height="80"{}>'
    return written(
        root / "annotations.xml",
        f"<annotations><version>1.1</version><meta/>{head.format(0, name, extra)}{shapes}</image>"
        f"{head.format(1, 'b.jpg', extra)}</image></annotations>",
    )


def labelled(label: str, x: float, y: float, w: float, h: float, **more: Any) -> dict[str, Any]:
    """One box of Label Studio, in percent."""
    value = {"x": x, "y": y, "width": w, "height": h, "rotation": 0, "rectanglelabels": [label]}
    return {
        "type": "rectanglelabels", "original_width": 100, "original_height": 80, "image_rotation": 0,
        "value": value | more,
    }  # fmt: skip


STUDIO_A = [labelled("pistol", 10, 25, 20, 25), labelled("knife", 50.5, 25, 19.75, 50)]


def label_studio(root: Path, results: Any = STUDIO_A, image="/data/upload/1/a.jpg") -> Path:
    for stem in BOXES:
        picture(root / "images" / f"{stem}.jpg")
    tasks = [
        {"id": 1, "data": {"image": image}, "annotations": [{"result": results}]},
        {"id": 2, "data": {"image": "/data/local-files/?d=set/b.jpg"}, "annotations": [{"result": []}]},
    ]
    return written(root / "export.json", json.dumps(tasks))
