"""Boxes onto a picture and crops out of it. Pillow draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from detection.imaging import Image
from detection.names import class_name, score_text
from schemas import Detection

# Told apart with any colour vision, and by line style without any: look-alikes have corners only.
DANGEROUS_COLOR = (194, 65, 12)
UNSURE_COLOR = (251, 191, 36)
HARMLESS_COLOR = (0, 114, 178)
FONT_PATH = Path(__file__).parents[1] / "fonts" / "DejaVuSans-Bold.ttf"
MAT_COLOR = (15, 20, 27)
MIN_DRAWN_SIDE = 480  # a smaller picture is enlarged before drawing: a caption needs some pixels
MIN_FONT_PX = 11
CROP_MARGIN = 0.15  # of the box's sides: a little of what is around helps a person judge


class Style(NamedTuple):
    """How a box is drawn: the colours of its line and its caption's letters, and what of the frame."""

    color: tuple[int, int, int]
    letters: str = "white"
    line: Literal["whole", "corners", "dashes"] = "whole"


WEAPON, UNSURE_WEAPON = Style(DANGEROUS_COLOR), Style(UNSURE_COLOR, letters="black")
LOOKALIKE = Style(HARMLESS_COLOR, line="corners")


def boxes_of(detections: Sequence[Detection]) -> NDArray[np.float32]:
    """Return the boxes of an answer, (N, 4) xyxy pixels of the upright photo."""
    return np.array([list(d.box.model_dump().values()) for d in detections], np.float32).reshape(-1, 4)


def draw_detections(image: Image, detections: Sequence[Detection], language: str = "en") -> Image:
    """Draw detections on a copy of image, each captioned with its name and score."""
    captions = [f"{class_name(d.label, language)} {score_text(d.score, language)}" for d in detections]
    return draw_boxes(image, boxes_of(detections), captions, styles_of([d.dangerous for d in detections]))


def styles_of(dangerous: Sequence[bool]) -> list[Style]:
    """Return how boxes of weapons and of look-alikes are drawn where nothing more is known of them."""
    return [WEAPON if is_dangerous else LOOKALIKE for is_dangerous in dangerous]


def draw_boxes(
    image: Image,
    boxes: NDArray[np.float32],
    captions: Sequence[str],
    styles: Sequence[Style],
    *,
    mat: bool = False,
) -> Image:
    """Draw thin boxes with captions outside them.

    Lines and letters grow with the picture, so that they read the same at any size it is shown at. No
    caption leaves the frame, nor lies on a weapon while there is room elsewhere. A picture
    whose longer side has less than MIN_DRAWN_SIDE pixels is enlarged by a whole factor first.

    Args:
        image: (H, W, 3) uint8 RGB; stays as it is.
        boxes: (N, 4) xyxy pixels of image, the most important first; drawn last, on top.
        captions: N texts, Latin or Cyrillic; "" for a box without one.
        styles: N.
        mat: add a dark strip on top for the captions that would lie on a weapon anywhere else.

    Returns:
        A new (k * H, k * W, 3) image, k = 1 unless the picture is that small; higher by the mat, if any.
    """
    if not len(boxes) == len(captions) == len(styles):
        raise ValueError(
            f"want as many captions and styles as boxes, got {len(captions)}, {len(styles)}, {len(boxes)}"
        )
    scale = max(1, round(MIN_DRAWN_SIDE / max(image.shape[:2])))
    picture = PillowImage.fromarray(image)
    picture = picture.resize((picture.width * scale, picture.height * scale), PillowImage.Resampling.BICUBIC)
    frames = [_clip(box * scale, picture.size) for box in np.asarray(boxes, np.float64).reshape(-1, 4)]
    weapons = [frame for frame, style in zip(frames, styles, strict=True) if style.color != HARMLESS_COLOR]
    draw = ImageDraw.Draw(picture)
    for frame, style in reversed(list(zip(frames, styles, strict=True))):
        _draw_frame(draw, frame, style)
    chips: list[_Chip] = []
    for frame, caption, style in zip(frames, captions, styles, strict=True):
        if caption:
            chips.append(_chip(draw, frame, caption, style, [chip.place for chip in chips], weapons, mat))
    strip = round(max((-chip.place[1] for chip in chips), default=0))
    if strip > 0:
        matted = PillowImage.new("RGB", (picture.width, picture.height + strip), MAT_COLOR)
        matted.paste(picture, (0, strip))
        picture, draw = matted, ImageDraw.Draw(matted)
    for chip in chips:
        _draw_chip(draw, chip, max(0, strip))
    return np.asarray(picture)


_Point = tuple[float, float]
_Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture drawn on


def _clip(box: NDArray[np.float64], size_wh: tuple[int, int]) -> _Rectangle:
    width, height = size_wh
    x1, x2 = sorted(np.clip(box[[0, 2]], 0, width - 1).round().tolist())
    y1, y2 = sorted(np.clip(box[[1, 3]], 0, height - 1).round().tolist())
    return x1, y1, x2, y2


class _Chip(NamedTuple):
    """A caption and where it goes; y1 below 0 is on the mat."""

    caption: str
    style: Style
    font: ImageFont.FreeTypeFont
    padding: int
    place: _Rectangle


def line_width(size_wh: tuple[int, int], style: Style) -> int:
    """Return how many pixels a box's line is wide on a picture of that size."""
    return max(2, round(max(size_wh) / (500 if style.line == "corners" else 360)))


def _draw_frame(draw: ImageDraw.ImageDraw, frame: _Rectangle, style: Style) -> None:
    """Draw one frame over a dark one that is a little wider, so that it shows on any ground."""
    width = line_width(draw.im.size, style)
    halo = max(1, width // 3)
    for color, wide in ((MAT_COLOR, width + 2 * halo), (style.color, width)):
        for start, end in _strokes(frame, style, width):
            draw.line([*start, *end], fill=color, width=wide)


def _strokes(frame: _Rectangle, style: Style, width: int) -> list[tuple[_Point, _Point]]:
    """Return the lines that a frame is made of: its sides, their dashes, or their ends at the corners."""
    x1, y1, x2, y2 = frame
    corners = [(x1, y1), (x2, y1), (x2, y2), (x1, y2)]
    strokes = []
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        strokes += [
            (_between(start, end, a), _between(start, end, b)) for a, b in _spans(start, end, style, width)
        ]
    return strokes


def _spans(start: _Point, end: _Point, style: Style, width: int) -> list[tuple[float, float]]:
    """Return which parts of a side are drawn, as fractions of it."""
    if style.line == "whole":
        return [(0.0, 1.0)]
    if style.line == "corners":
        return [(0.0, 0.25), (0.75, 1.0)]
    length = abs(end[0] - start[0]) + abs(end[1] - start[1])
    dashes = max(1, round(length / (7 * width)))  # a dash is four line widths long, a gap three
    return [(i / dashes, (i + 4 / 7) / dashes) for i in range(dashes)]


def _between(start: _Point, end: _Point, part: float) -> _Point:
    return start[0] + (end[0] - start[0]) * part, start[1] + (end[1] - start[1]) * part


def _chip(
    draw: ImageDraw.ImageDraw, frame: _Rectangle, caption: str, style: Style,
    taken: list[_Rectangle], weapons: list[_Rectangle], mat: bool,
) -> _Chip:  # fmt: skip
    """Return caption with the place at the side of frame where it hides least."""
    font, padding = _caption_font(draw, caption)
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    size = (right - left + 2 * padding, bottom - top + 2 * padding)
    place = caption_place(frame, size, draw.im.size, taken, weapons)
    if mat and any(_overlap(place, weapon) for weapon in weapons):
        place = mat_place(frame, size, draw.im.size, taken)
    return _Chip(caption, style, font, padding, place)


def _draw_chip(draw: ImageDraw.ImageDraw, chip: _Chip, strip: int) -> None:
    x1, y1, x2, y2 = chip.place
    draw.rectangle((x1, y1 + strip, x2, y2 + strip), fill=chip.style.color)
    left, top, _, _ = draw.textbbox((0, 0), chip.caption, font=chip.font)
    at = (x1 + chip.padding - left, y1 + strip + chip.padding - top)
    draw.text(at, chip.caption, fill=chip.style.letters, font=chip.font)


def _caption_font(draw: ImageDraw.ImageDraw, caption: str) -> tuple[ImageFont.FreeTypeFont, int]:
    """Return the font and the padding with which caption is legible and no wider than the picture."""
    width, height = draw.im.size
    size = max(MIN_FONT_PX, round(min(max(width, height) / 42, min(width, height) / 9)))
    while True:
        font, padding = ImageFont.truetype(str(FONT_PATH), size), max(2, size // 4)
        if size <= MIN_FONT_PX or font.getlength(caption) + 2 * padding < width:
            return font, padding
        size -= 1


def caption_place(
    frame: _Rectangle, size: tuple[float, float], size_wh: tuple[int, int], taken: list[_Rectangle],
    weapons: Sequence[_Rectangle] = (),
) -> _Rectangle:  # fmt: skip
    """Return where a caption of that size goes: above, below or beside frame, else inside.

    On no weapon and off the other captions if it can; where all of these are taken, some rows farther off.
    """
    x1, y1, x2, y2 = frame
    width, height = size
    last_x, last_y = max(0.0, size_wh[0] - 1 - width), max(0.0, size_wh[1] - 1 - height)
    columns = (min(x1, last_x), min(max(x2 - width, 0), last_x))
    outside = [(x, y) for y in (y1 - height, y2) for x in columns if 0 <= y <= last_y]
    beside = [
        (x, min(y1 + k * height, last_y)) for k in range(4) for x in (x2, x1 - width) if 0 <= x <= last_x
    ]
    inside = [(x, min(max(y, 0), last_y)) for y in (y1, y2 - height) for x in columns]
    rows = (y for k in (1, 2) for y in (y1 - (k + 1) * height, y2 + k * height))
    farther = [(x, y) for y in rows for x in columns if 0 <= y <= last_y]
    places = [(x, y, x + width, y + height) for x, y in outside + beside + inside + farther]

    def hidden(place: _Rectangle) -> tuple[float, float]:
        return sum(_overlap(place, each) for each in weapons), sum(_overlap(place, each) for each in taken)

    return min(places, key=hidden)


def mat_place(
    frame: _Rectangle, size: tuple[float, float], size_wh: tuple[int, int], taken: list[_Rectangle]
) -> _Rectangle:
    """Return where a caption of that size goes on the strip above the picture, off the others there."""
    width, height = size
    x = max(0.0, min(frame[0], size_wh[0] - 1 - width))
    y = -height
    while any(_overlap((x, y, x + width, y + height), other) for other in taken):
        y -= height
    return x, y, x + width, y + height


def _overlap(a: _Rectangle, b: _Rectangle) -> float:
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    return max(0.0, width) * max(0.0, height)


def crop_boxes(image: Image, boxes: NDArray[np.float32], *, margin: float = CROP_MARGIN) -> list[Image]:
    """Return what is in each box and, where there is some, margin times its width and height around it.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy pixels of image.
        margin: at least 0.
    """
    frames = crop_frames(image.shape[:2], boxes, margin=margin)
    return [image[top:bottom, left:right] for left, top, right, bottom in frames]


def crop_frames(
    size_hw: tuple[int, ...], boxes: NDArray[np.float32], *, margin: float = CROP_MARGIN
) -> list[tuple[int, int, int, int]]:
    """Return what crop_boxes cuts out of an image of that size: left, top, right, bottom in whole pixels."""
    height, width = size_hw
    frames = []
    for x1, y1, x2, y2 in np.asarray(boxes, np.float64).reshape(-1, 4):
        margin_x, margin_y = margin * (x2 - x1), margin * (y2 - y1)
        left, right = np.clip([np.floor(x1 - margin_x), np.ceil(x2 + margin_x)], 0, width).astype(int)
        top, bottom = np.clip([np.floor(y1 - margin_y), np.ceil(y2 + margin_y)], 0, height).astype(int)
        left, top = min(left, width - 1), min(top, height - 1)
        frames.append((int(left), int(top), int(max(right, left + 1)), int(max(bottom, top + 1))))
    return frames
