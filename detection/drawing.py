"""Boxes onto a picture and crops out of it. Pillow draws."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageDraw, ImageFont

from detection.imaging import Image
from detection.names import class_name, percent
from schemas import Detection

# Okabe and Ito's vermilion and blue: told apart with any colour vision, and by line style without any.
DANGEROUS_COLOR = (213, 94, 0)
HARMLESS_COLOR = (0, 114, 178)
FONT_PATH = Path(__file__).parents[1] / "fonts" / "DejaVuSans-Bold.ttf"
MIN_DRAWN_SIDE = 480  # a smaller picture is enlarged before drawing: a caption needs some pixels
MIN_FONT_PX = 11
CROP_MARGIN = 0.15  # of the box's sides: a little of what is around helps a person judge


def boxes_of(detections: Sequence[Detection]) -> NDArray[np.float32]:
    """Return the boxes of an answer, (N, 4) xyxy pixels of the upright photo."""
    return np.array([list(d.box.model_dump().values()) for d in detections], np.float32).reshape(-1, 4)


def draw_detections(image: Image, detections: Sequence[Detection], language: str = "en") -> Image:
    """Draw detections on a copy of image, each captioned with its name and how sure the model is."""
    boxes = boxes_of(detections)
    captions = [f"{class_name(d.label, language)} {percent(d.score, language)}" for d in detections]
    return draw_boxes(image, boxes, captions, [d.dangerous for d in detections])


def draw_boxes(
    image: Image, boxes: NDArray[np.float32], captions: Sequence[str], dangerous: Sequence[bool]
) -> Image:
    """Draw boxes with captions: thick solid vermilion for weapons, thin dashed blue for look-alikes.

    Lines and letters grow with the picture, so that they read the same at any size it is shown at. No
    caption leaves the frame. A picture whose longer side has less than MIN_DRAWN_SIDE pixels is
    enlarged by a whole factor first.

    Args:
        image: (H, W, 3) uint8 RGB; stays as it is.
        boxes: (N, 4) xyxy pixels of image, the most important first; drawn last, on top.
        captions: N texts, Latin or Cyrillic.
        dangerous: N flags: whether the box is a weapon's.

    Returns:
        A new (k * H, k * W, 3) image, k = 1 unless the picture is that small.
    """
    if not len(boxes) == len(captions) == len(dangerous):
        raise ValueError(
            f"want as many captions and flags as boxes, got {len(captions)}, {len(dangerous)}, {len(boxes)}"
        )
    scale = max(1, round(MIN_DRAWN_SIDE / max(image.shape[:2])))
    picture = PillowImage.fromarray(image)
    picture = picture.resize((picture.width * scale, picture.height * scale), PillowImage.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    frames = [_clip(box * scale, picture.size) for box in np.asarray(boxes, np.float64).reshape(-1, 4)]
    for frame, is_dangerous in reversed(list(zip(frames, dangerous, strict=True))):
        _draw_frame(draw, frame, is_dangerous)
    taken: list[_Rectangle] = []
    for frame, caption, is_dangerous in zip(frames, captions, dangerous, strict=True):
        taken.append(_draw_caption(draw, frame, caption, is_dangerous, taken))
    return np.asarray(picture)


_Rectangle = tuple[float, float, float, float]  # x1, y1, x2, y2 in pixels of the picture drawn on


def _clip(box: NDArray[np.float64], size_wh: tuple[int, int]) -> _Rectangle:
    width, height = size_wh
    x1, x2 = sorted(np.clip(box[[0, 2]], 0, width - 1).round().tolist())
    y1, y2 = sorted(np.clip(box[[1, 3]], 0, height - 1).round().tolist())
    return x1, y1, x2, y2


def _line_width(size_wh: tuple[int, int], is_dangerous: bool) -> int:
    return max(2, round(max(size_wh) / (160 if is_dangerous else 240)))


def _draw_frame(draw: ImageDraw.ImageDraw, frame: _Rectangle, is_dangerous: bool) -> None:
    """Draw one frame over a white one that is a little wider, so that it shows on any ground."""
    x1, y1, x2, y2 = frame
    width = _line_width(draw.im.size, is_dangerous)
    halo = max(1, width // 3)
    draw.rectangle((x1 - halo, y1 - halo, x2 + halo, y2 + halo), outline="white", width=width + 2 * halo)
    if is_dangerous:
        draw.rectangle(frame, outline=DANGEROUS_COLOR, width=width)
        return
    inset = width / 2
    corners = [
        (x1 + inset, y1 + inset),
        (x2 - inset, y1 + inset),
        (x2 - inset, y2 - inset),
        (x1 + inset, y2 - inset),
    ]
    for start, end in zip(corners, corners[1:] + corners[:1], strict=True):
        _draw_dashes(draw, np.array(start), np.array(end), width)


def _draw_dashes(draw: ImageDraw.ImageDraw, start: NDArray[Any], end: NDArray[Any], width: int) -> None:
    length = float(np.hypot(*(end - start)))
    dashes = max(1, round(length / (7 * width)))  # a dash is four line widths long, a gap three
    for i in range(dashes):
        first, last = start + (end - start) * i / dashes, start + (end - start) * (i + 4 / 7) / dashes
        draw.line([*first.tolist(), *last.tolist()], fill=HARMLESS_COLOR, width=width)


def _draw_caption(
    draw: ImageDraw.ImageDraw, frame: _Rectangle, caption: str, is_dangerous: bool, taken: list[_Rectangle]
) -> _Rectangle:
    """Write caption at the side of frame where it hides least, and return the place it took."""
    font, padding = _caption_font(draw, caption)
    left, top, right, bottom = draw.textbbox((0, 0), caption, font=font)
    size = (right - left + 2 * padding, bottom - top + 2 * padding)
    place = caption_place(frame, size, draw.im.size, taken)
    draw.rectangle(place, fill=DANGEROUS_COLOR if is_dangerous else HARMLESS_COLOR)
    draw.text((place[0] + padding - left, place[1] + padding - top), caption, fill="white", font=font)
    return place


def _caption_font(draw: ImageDraw.ImageDraw, caption: str) -> tuple[ImageFont.FreeTypeFont, int]:
    """Return the font and the padding with which caption is legible and no wider than the picture."""
    width, height = draw.im.size
    size = max(MIN_FONT_PX, round(min(max(width, height) / 28, min(width, height) / 7)))
    while True:
        font, padding = ImageFont.truetype(str(FONT_PATH), size), max(2, size // 4)
        if size <= MIN_FONT_PX or font.getlength(caption) + 2 * padding < width:
            return font, padding
        size -= 1


def caption_place(
    frame: _Rectangle, size: tuple[float, float], size_wh: tuple[int, int], taken: list[_Rectangle]
) -> _Rectangle:
    """Return where a caption of that size goes: above, below or inside frame, off the others if it can.

    Where all of these are taken, one or two rows farther off.
    """
    x1, y1, x2, y2 = frame
    width, height = size
    last_x, last_y = max(0.0, size_wh[0] - 1 - width), max(0.0, size_wh[1] - 1 - height)
    columns = (min(x1, last_x), min(max(x2 - width, 0), last_x))
    outside = [(x, y) for y in (y1 - height, y2) for x in columns if 0 <= y <= last_y]
    inside = [(x, min(max(y, 0), last_y)) for y in (y1, y2 - height) for x in columns]
    rows = (y for k in (1, 2) for y in (y1 - (k + 1) * height, y2 + k * height))
    farther = [(x, y) for y in rows for x in columns if 0 <= y <= last_y]
    places = [(x, y, x + width, y + height) for x, y in outside + inside + farther]
    return min(places, key=lambda place: sum(_overlap(place, other) for other in taken))


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
