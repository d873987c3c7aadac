"""Keeps a corrected photo, with faces blurred, in the layout of the data set: train.py --data takes it.

FOLDER/images/NAME.jpg and FOLDER/annotations/xmls/NAME.xml (Pascal VOC). Called only after a person has
agreed; where FEEDBACK_DIR is not set, nothing here runs.
"""

from __future__ import annotations

import hashlib
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detection import imaging
from detection.faces import blur, find_faces
from detection.files import write_atomically

KEPT_SIDE = 1600  # longer side of a kept photo, pixels


Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


class Correction(NamedTuple):
    """One object that is really in the photo: its class in the data set, and its box."""

    label: str
    box: Corners


def keep(folder: Path, image: imaging.Image, corrections: Sequence[Correction]) -> int:
    """Write the photo with what is really in it, and return how many faces were blurred.

    The same photo corrected again replaces the earlier correction.

    Args:
        folder: made if absent.
        image: (H, W, 3) uint8 RGB; kept at most KEPT_SIDE pixels long.
        corrections: boxes in pixels of image; none means that there is nothing to find in it.

    Raises:
        OSError: the folder cannot be written.
    """
    small = imaging.shrink(image, KEPT_SIDE)
    factor = small.shape[1] / image.shape[1]
    faces = find_faces(small)
    name = f"feedback-{hashlib.sha256(image.tobytes()).hexdigest()[:16]}"
    photo, annotation = folder / "images" / f"{name}.jpg", folder / "annotations" / "xmls" / f"{name}.xml"
    photo.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(photo, imaging.encode_image(blur(small, faces), quality=92))
    height, width = small.shape[:2]
    scaled = [Correction(c.label, _times(c.box, factor)) for c in corrections]
    annotation.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(annotation, to_voc(photo.name, (width, height), scaled))
    return len(faces)


def _times(box: Corners, factor: float) -> Corners:
    x1, y1, x2, y2 = box
    return x1 * factor, y1 * factor, x2 * factor, y2 * factor


def to_voc(file_name: str, size_wh: tuple[int, int], corrections: Sequence[Correction]) -> bytes:
    """Return the Pascal VOC annotation: whole pixels, inside the picture."""
    root = ET.Element("annotation")
    for tag, value in (("folder", "images"), ("filename", file_name)):
        ET.SubElement(root, tag).text = value
    size = ET.SubElement(root, "size")
    for tag, number in (("width", size_wh[0]), ("height", size_wh[1]), ("depth", 3)):
        ET.SubElement(size, tag).text = str(number)
    for label, (x1, y1, x2, y2) in corrections:
        thing = ET.SubElement(root, "object")
        for tag, value in (("name", label), ("pose", "Unspecified"), ("truncated", "0"), ("difficult", "0")):
            ET.SubElement(thing, tag).text = value
        place = ET.SubElement(thing, "bndbox")
        corners = (("xmin", x1, 0), ("ymin", y1, 1), ("xmax", x2, 0), ("ymax", y2, 1))
        for tag, coordinate, axis in corners:
            ET.SubElement(place, tag).text = str(int(np.clip(round(coordinate), 0, size_wh[axis])))
    ET.indent(root)
    return bytes(ET.tostring(root, encoding="utf-8", xml_declaration=True))
