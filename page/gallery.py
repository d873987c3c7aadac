"""The example photographs of the page."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import numpy as np
import streamlit as st
from PIL import Image

from detection import imaging
from page.frames import CLIP_FRAMES_PER_SECOND, Frame, encode_frames
from page.session import Page, Photo
from page.texts import markdown_safe

GALLERY = Path(__file__).parents[1] / "photos"
GALLERY_SUFFIXES = (".jpg", ".jpeg")
THUMBNAIL_SIDE = 300
CLIP_SCENES = (  # picture of the example clip, and for how many seconds
    ("11-coffee-nothing-to-find.jpg", 2.0),
    ("01-pistol-in-a-hand.jpg", 3.0),
    ("09-mug-nothing-to-find.jpg", 2.0),
    ("02-knife-in-a-hand.jpg", 0.5),
    ("09-mug-nothing-to-find.jpg", 1.5),
)
CLIP_SIZE = (640, 480)
CLIP_ZOOM = 0.04  # of the picture's sides in a second: so that something moves


def gallery_ui(page: Page) -> None:
    """Draw the examples in a row; a press on one has it checked."""
    with st.container(key="gallery"):
        for path in sorted(path for path in GALLERY.iterdir() if path.suffix in GALLERY_SUFFIXES):
            name = page.example_name(path.stem)
            with st.container(key=f"thumb_example_{path.stem}", gap=None):
                st.image(thumbnail(str(path)), width="stretch", alt="")
                st.button(
                    markdown_safe(name), key=f"example_{path.stem}", width="stretch",
                    on_click=st.session_state.__setitem__, args=("examples", {path.name}),
                )  # fmt: skip


def chosen_examples() -> list[Path]:
    """Return the examples that the person has chosen."""
    return [GALLERY / name for name in sorted(st.session_state.get("examples", ()))]


def is_example(photo: Photo) -> bool:
    """Say whether a photo is one of the gallery, put in by whatever way."""
    return photo.digest in _digests()


@cache
def _digests() -> frozenset[str]:
    paths = (path for path in GALLERY.iterdir() if path.suffix in GALLERY_SUFFIXES)
    return frozenset(Photo(path.name, path.read_bytes()).digest for path in paths)


@cache
def thumbnail(path: str) -> bytes:
    """Return a gallery picture at button size. These are the project's own pictures: sharing them is fine."""
    image = imaging.shrink(imaging.decode_image(Path(path).read_bytes()), THUMBNAIL_SIDE)
    height, width = image.shape[:2]
    side = min(height, width * 3 // 4)
    top, left = (height - side) // 2, (width - side * 4 // 3) // 2
    return imaging.encode_image(image[top : top + side, left : left + side * 4 // 3])


@cache
def example_clip() -> bytes:
    """Return a short film of the gallery's pictures, as an MP4 file."""
    return encode_frames(_clip_frames())


def _clip_frames() -> Iterator[Frame]:
    began = 0
    for name, seconds in CLIP_SCENES:
        scene = Image.fromarray(imaging.decode_image((GALLERY / name).read_bytes()))
        for number in range(round(seconds * CLIP_FRAMES_PER_SECOND)):
            cut = CLIP_ZOOM * number / CLIP_FRAMES_PER_SECOND / 2
            part = (cut * scene.width, cut * scene.height, (1 - cut) * scene.width, (1 - cut) * scene.height)
            image = np.asarray(scene.resize(CLIP_SIZE, Image.Resampling.BILINEAR, part), np.uint8)
            yield Frame((began + number) / CLIP_FRAMES_PER_SECOND, image)
        began += round(seconds * CLIP_FRAMES_PER_SECOND)
