"""How a picture looks, in two numbers: how bright it is, and how sharp; and the columns to count them in."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detection.imaging import Image

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # BT.601
# By which distributions of pictures are compared: upper ends of their columns.
BRIGHTNESS_EDGES = tuple(range(8, 256, 8))
SHARPNESS_EDGES = tuple(
    float(f"{10 ** (i / 4):.3g}") for i in range(21)
)  # 1 to 100,000, in fourths of a power
SCORE_EDGES = tuple(i / 20 for i in range(1, 20))
SAMPLES = 128  # a side: pixels that brightness is taken from
PATCHES, PATCH = 5, 96  # a side: patches that sharpness is taken from, and pixels of each


@dataclass(frozen=True, slots=True)
class Appearance:
    """How a picture looks.

    Attributes:
        brightness: mean shade, 0 (black) to 255 (white).
        sharpness: variance of the Laplacian in shades squared; low where everything is blurred or plain.
    """

    brightness: float
    sharpness: float


def appearance(image: Image) -> Appearance:
    """Return how an image looks, from a part of its pixels: a millisecond or two, however large it is.

    Source:
        Pech-Pacheco et al., Diatom autofocusing in brightfield microscopy, ICPR 2000: variance of the
        Laplacian.
    """
    height, width = image.shape[:2]
    samples = image[:: max(1, height // SAMPLES), :: max(1, width // SAMPLES)]
    laplacians = [_laplacian(_grey(image[y : y + PATCH, x : x + PATCH])) for y, x in _corners(height, width)]
    values = np.concatenate([one.ravel() for one in laplacians])
    return Appearance(float(_grey(samples).mean()), float(values.var()) if values.size else 0.0)


def _corners(height: int, width: int) -> list[tuple[int, int]]:
    """Return where patches begin: all over the picture, in its own resolution; few where it is small."""
    down, across = (
        {int(at) for at in np.linspace(0, max(0, side - PATCH), PATCHES)} for side in (height, width)
    )
    return [(y, x) for y in sorted(down) for x in sorted(across)]


def _grey(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    grey: NDArray[np.float32] = pixels.astype(np.float32) @ LUMA
    return grey


def _laplacian(grey: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return what each inner pixel differs from its four neighbours, times four."""
    centre = grey[1:-1, 1:-1]
    return grey[:-2, 1:-1] + grey[2:, 1:-1] + grey[1:-1, :-2] + grey[1:-1, 2:] - 4 * centre
