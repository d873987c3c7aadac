"""The example photographs of the page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import streamlit as st

from detection import imaging
from page.session import Page
from page.texts import markdown_safe

GALLERY = Path(__file__).parents[1] / "photos"
GALLERY_SUFFIXES = (".jpg", ".jpeg")
THUMBNAIL_SIDE = 300


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


@cache
def thumbnail(path: str) -> bytes:
    """Return a gallery picture at button size. These are the project's own pictures: sharing them is fine."""
    image = imaging.shrink(imaging.decode_image(Path(path).read_bytes()), THUMBNAIL_SIDE)
    height, width = image.shape[:2]
    side = min(height, width * 3 // 4)
    top, left = (height - side) // 2, (width - side * 4 // 3) // 2
    return imaging.encode_image(image[top : top + side, left : left + side * 4 // 3])
