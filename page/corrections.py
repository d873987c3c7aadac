"""Keeps a corrected photo, with faces blurred, in the layout of the data set: train.py --data takes it.

FOLDER/images/NAME.jpg and FOLDER/annotations/xmls/NAME.xml (Pascal VOC). Called only after a person has
agreed; where FEEDBACK_DIR is not set, nothing here runs.
"""

from __future__ import annotations

import hashlib
import time
import xml.etree.ElementTree as ET
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from detection import imaging
from detection.faces import WithoutFaces, without_faces
from detection.files import write_atomically

KEPT_SIDE = 1600  # longer side of a kept photo, pixels
DAY_S = 86400.0


Corners = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels


class Correction(NamedTuple):
    """One object that is really in the photo: its class in the data set, and its box."""

    label: str
    box: Corners

    def times(self, factor: float) -> Correction:
        """Return it in a picture so many times as large."""
        x1, y1, x2, y2 = self.box
        return Correction(self.label, (x1 * factor, y1 * factor, x2 * factor, y2 * factor))


def prepared(image: imaging.Image, corrections: Sequence[Correction]) -> WithoutFaces:
    """Return the picture as it would be kept: faces blurred, but nothing that lies in an object's box."""
    return without_faces(image, np.array([each.box for each in corrections], np.float64).reshape(-1, 4))


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
    scaled = [each.times(small.shape[1] / image.shape[1]) for each in corrections]
    kept, faces = prepared(small, scaled)
    name = f"feedback-{hashlib.sha256(image.tobytes()).hexdigest()[:16]}"
    photo, annotation = folder / "images" / f"{name}.jpg", folder / "annotations" / "xmls" / f"{name}.xml"
    photo.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(photo, imaging.encode_image(kept, quality=92))
    height, width = small.shape[:2]
    annotation.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(annotation, to_voc(photo.name, (width, height), scaled))
    return faces


def forget_old(folder: Path, days: float) -> int:
    """Delete the corrected photos that were kept longer than so many days ago; return how many.

    Raises:
        OSError: the folder cannot be read or written.
    """
    before, forgotten = time.time() - days * DAY_S, 0
    for photo in (folder / "images").glob("feedback-*.jpg"):
        if photo.stat().st_mtime < before:
            (folder / "annotations" / "xmls" / f"{photo.stem}.xml").unlink(missing_ok=True)
            photo.unlink()
            forgotten += 1
    return forgotten


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
