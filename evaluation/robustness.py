"""The same photographs darker, blurred, compressed, smaller and turned, with their boxes."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageEnhance, ImageFilter

from detection import imaging

Boxes = NDArray[np.float32]
Change = Callable[[imaging.Image, Boxes], tuple[imaging.Image, Boxes]]
DARKER = 0.35  # share of the light that is left
BLUR = 0.006  # standard deviation, of the longer side: 5 pixels of 800
JPEG_QUALITY = 30
ROTATION = 10.0  # degrees, against the clock


def darken(image: imaging.Image, boxes: Boxes) -> tuple[imaging.Image, Boxes]:
    """Leave DARKER of the light."""
    return np.asarray(ImageEnhance.Brightness(PillowImage.fromarray(image)).enhance(DARKER)), boxes


def blur(image: imaging.Image, boxes: Boxes) -> tuple[imaging.Image, Boxes]:
    """Blur by BLUR of the longer side, as out of focus."""
    kernel = ImageFilter.GaussianBlur(BLUR * max(image.shape[:2]))
    return np.asarray(PillowImage.fromarray(image).filter(kernel)), boxes


def compress(image: imaging.Image, boxes: Boxes) -> tuple[imaging.Image, Boxes]:
    """Store and read again as JPEG of quality JPEG_QUALITY."""
    stream = io.BytesIO(imaging.encode_image(image, "JPEG", quality=JPEG_QUALITY))
    return imaging.decode_image(stream.getvalue()), boxes


def halve(image: imaging.Image, boxes: Boxes) -> tuple[imaging.Image, Boxes]:
    """Halve both sides, as from twice as far."""
    height, width = image.shape[:2]
    small = max(1, width // 2), max(1, height // 2)
    scale = np.array([small[0] / width, small[1] / height] * 2, np.float32)
    return np.asarray(PillowImage.fromarray(image).resize(small)), boxes * scale


def rotate(image: imaging.Image, boxes: Boxes) -> tuple[imaging.Image, Boxes]:
    """Turn by ROTATION against the clock on a larger canvas of the mean colour.

    A turned box is drawn around the ellipse that filled the old one: around its corners it would be too
    large for nearly every object.
    """
    mean = tuple(int(value) for value in image.mean(axis=(0, 1)))
    turned = PillowImage.fromarray(image).rotate(
        ROTATION, PillowImage.Resampling.BILINEAR, expand=True, fillcolor=mean
    )
    height, width = image.shape[:2]
    cos, sin = np.cos(np.radians(ROTATION)), np.sin(np.radians(ROTATION))
    x, y = (boxes[:, 0] + boxes[:, 2] - width) / 2, (boxes[:, 1] + boxes[:, 3] - height) / 2
    half_w, half_h = (boxes[:, 2] - boxes[:, 0]) / 2, (boxes[:, 3] - boxes[:, 1]) / 2
    new_x, new_y = cos * x + sin * y + turned.width / 2, cos * y - sin * x + turned.height / 2
    new_w, new_h = np.hypot(cos * half_w, sin * half_h), np.hypot(sin * half_w, cos * half_h)
    corners = np.stack([new_x - new_w, new_y - new_h, new_x + new_w, new_y + new_h], axis=1)
    return np.asarray(turned), corners.astype(np.float32).clip(0, [turned.width, turned.height] * 2)


CHANGES: dict[str, Change] = {
    f"darker ({DARKER:.0%} of the light)": darken,
    f"blurred (sigma {BLUR:.1%} of the longer side)": blur,
    f"JPEG quality {JPEG_QUALITY}": compress,
    "half size": halve,
    f"rotated {ROTATION:g} degrees": rotate,
}
