"""A box that a person draws on a picture, with mouse, finger or pen."""

from __future__ import annotations

import base64
from collections.abc import Callable

import streamlit as st

from detection import imaging

HTML = "<div class='sheet'><img draggable='false'><div class='mark' hidden></div></div>"
CSS = """
.sheet { position: relative; cursor: crosshair; touch-action: none; user-select: none; line-height: 0; }
.sheet img { width: 100%; }
.mark { position: absolute; box-sizing: border-box; border: 3px solid #fbbf24; outline: 1px solid #111;
  pointer-events: none; }
"""
JS = """
const within = value => Math.min(100, Math.max(0, value));
export default function ({ parentElement, data, setStateValue }) {
  const sheet = parentElement.querySelector('.sheet');
  const picture = sheet.querySelector('img'), mark = sheet.querySelector('.mark');
  if (picture.src !== data.picture) picture.src = data.picture;
  picture.alt = data.alt;
  let from = null;
  const place = event => {
    const all = picture.getBoundingClientRect();
    const across = (event.clientX - all.left) / all.width, down = (event.clientY - all.top) / all.height;
    return [within(100 * across), within(100 * down)];
  };
  const between = (one, other) => [
    Math.min(one[0], other[0]), Math.min(one[1], other[1]),
    Math.max(one[0], other[0]), Math.max(one[1], other[1]),
  ].map(Math.round);
  const show = box => {
    mark.hidden = !box;
    if (box) Object.assign(mark.style, {
      left: box[0] + '%', top: box[1] + '%', width: box[2] - box[0] + '%', height: box[3] - box[1] + '%',
    });
  };
  show(data.box);
  sheet.onpointerdown = event => {
    from = place(event);
    sheet.setPointerCapture(event.pointerId);
    event.preventDefault();
  };
  sheet.onpointermove = event => { if (from) show(between(from, place(event))); };
  sheet.onpointerup = event => {
    if (!from) return;
    const box = between(from, place(event));
    from = null;
    if (box[2] > box[0] && box[3] > box[1]) setStateValue('box', box);
    else show(data.box);
  };
}
"""
Percent = tuple[int, int, int, int]  # left, top, right, bottom of a box, in percent of the picture's sides


def box_drawing_ui(
    image: imaging.Image, box: Percent | None, alt: str, key: str, on_draw: Callable[[Percent], None]
) -> None:
    """Draw the picture and on it the box, which a person may draw anew.

    Args:
        image: (H, W, 3) uint8 RGB.
        box: as it is now; None before there is one.
        alt: the picture in words.
        key: of the widget.
        on_draw: called with the new box.
    """

    def drawn() -> None:
        corners = st.session_state[key].get("box")
        if isinstance(corners, list) and len(corners) == 4:
            left, top, right, bottom = (min(100, max(0, int(corner))) for corner in corners)
            if left < right and top < bottom:
                on_draw((left, top, right, bottom))

    picture = base64.b64encode(imaging.encode_image(image, quality=80)).decode()
    drawing = st.components.v2.component("box_drawing", html=HTML, css=CSS, js=JS)
    drawing(
        key=key, data={"picture": f"data:image/jpeg;base64,{picture}", "alt": alt, "box": box},
        on_box_change=drawn,
    )  # fmt: skip
