"""The example photographs of the page."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import streamlit as st

from detection import imaging
from page.session import Page

GALLERY = Path(__file__).parents[1] / "photos"
GALLERY_SUFFIXES = (".jpg", ".jpeg")


def gallery_ui(page: Page) -> list[Path]:
    """Draw the examples, and return those the person chose."""
    pictures = sorted(path for path in GALLERY.iterdir() if path.suffix in GALLERY_SUFFIXES)
    chosen: set[str] = st.session_state.setdefault("examples", set())
    with st.container(horizontal=True, key="gallery"):
        for path in pictures:
            name = page.example_name(path.stem)
            with st.container(width=150, gap="xsmall"):
                st.image(thumbnail(str(path)), width=150, alt=name)
                is_chosen = path.name in chosen
                st.button(
                    page.text("gallery_remove" if is_chosen else "gallery_add"),
                    key=f"example_{path.stem}",
                    help=name,
                    type="primary" if is_chosen else "secondary",
                    width="stretch",
                    on_click=chosen.symmetric_difference_update,
                    args=({path.name},),
                )
    return [path for path in pictures if path.name in chosen]


@cache
def thumbnail(path: str) -> bytes:
    """Return a gallery picture at button size. These are the project's own pictures: sharing them is fine."""
    image = imaging.shrink(imaging.decode_image(Path(path).read_bytes()), 300)
    height, width = image.shape[:2]
    side = min(height, width * 3 // 4)
    top, left = (height - side) // 2, (width - side * 4 // 3) // 2
    return imaging.encode_image(image[top : top + side, left : left + side * 4 // 3])
