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
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFilter

from detection import imaging
from detection.files import write_atomically

KEPT_SIDE = 1600  # longer side of a kept photo, pixels
SEARCH_SIDE = 640  # faces are looked for at this size
SMALLEST_FACE = 36  # pixels at that size
FACE_MARGIN = 0.25  # of the face's sides, around it


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


def find_faces(image: imaging.Image) -> NDArray[np.int64]:
    """Return the faces seen from the front, (N, 4) xyxy pixels with a margin; better one too many.

    Source:
        The LBP cascade of OpenCV that scikit-image carries (skimage.data.lbp_frontal_face_cascade_filename).
    """
    from skimage.data import lbp_frontal_face_cascade_filename  # slow to import, and seldom needed
    from skimage.feature import Cascade

    small = imaging.shrink(image, SEARCH_SIDE)
    cascade = Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
    found = cascade.detect_multi_scale(
        img=small, scale_factor=1.15, step_ratio=1, min_neighbor_number=3,
        min_size=(SMALLEST_FACE, SMALLEST_FACE), max_size=(SEARCH_SIDE, SEARCH_SIDE),
    )  # fmt: skip
    factor = image.shape[1] / small.shape[1]
    height, width = image.shape[:2]
    boxes = []
    for face in found:
        x, y, w, h = (face[key] * factor for key in ("c", "r", "width", "height"))
        box = (x - FACE_MARGIN * w, y - FACE_MARGIN * h, x + (1 + FACE_MARGIN) * w, y + (1 + FACE_MARGIN) * h)
        boxes.append(np.clip(box, 0, (width, height, width, height)))
    return np.array(boxes).reshape(-1, 4).round().astype(np.int64)


def blur(image: imaging.Image, boxes: NDArray[np.int64]) -> imaging.Image:
    """Return image with each box beyond recognition: reduced to a few pixels across, then smoothed."""
    picture = PillowImage.fromarray(image)
    for x1, y1, x2, y2 in boxes.tolist():
        part = picture.crop((x1, y1, x2, y2))
        coarse = part.resize((6, 6), PillowImage.Resampling.BOX).resize(
            part.size, PillowImage.Resampling.BILINEAR
        )
        picture.paste(coarse.filter(ImageFilter.GaussianBlur(max(part.size) / 16)), (x1, y1))
    return np.asarray(picture)
