"""From a photo to what an exported network takes, with Pillow and numpy, as PyTorch's path prepares it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from detection.imaging import WHITE, Image
from schemas import NetworkConfig, SecondLookConfig

Floats = NDArray[np.float32]


def input_size(size_hw: Sequence[int], min_size: int, max_size: int) -> list[int]:
    """Return the height and width at which the network sees an image of size_hw.

    Its shorter side becomes min_size, or less where its longer side would be more than max_size.
    """
    scale = min(min_size / min(size_hw), max_size / max(size_hw))
    return [max(1, round(side * scale)) for side in size_hw]


def unaveraged_size(size_hw: Sequence[int], min_size: int, max_size: int) -> list[int]:
    """Return the same for a network with antialias=False: torchvision rounds down."""
    scale = min(min_size / min(size_hw), max_size / max(size_hw))
    return [int(side * scale) for side in size_hw]


def prepare(image: Image, network: NetworkConfig, divisor: int) -> tuple[Floats, tuple[int, int]]:
    """Return an image as the network takes it: resized, normalised, and padded with zeros.

    Args:
        image: (H, W, 3) uint8 RGB, upright.
        network: of the model card.
        divisor: the sides of the result are multiples of it.

    Returns:
        (1, 3, H', W'), and the height and width in it that the image fills.
    """
    resize = _averaged if network.antialias else _sampled
    pixels = resize(image, network)
    height, width = pixels.shape[:2]
    std = np.asarray(network.image_std, np.float32)
    scale = (1 / (WHITE * std)).astype(np.float32)
    offset = (-np.asarray(network.image_mean, np.float32) / std).astype(np.float32)
    batch = np.zeros((1, 3, -(-height // divisor) * divisor, -(-width // divisor) * divisor), np.float32)
    inside = batch[0, :, :height, :width]
    np.multiply(pixels.transpose(2, 0, 1), scale[:, None, None], out=inside)
    inside += offset[:, None, None]
    return batch, (height, width)


def _averaged(image: Image, network: NetworkConfig) -> NDArray[np.uint8]:
    height, width = input_size(image.shape[:2], network.min_size, network.max_size)
    if (height, width) == image.shape[:2]:
        return image
    resized = PillowImage.fromarray(image).resize((width, height), PillowImage.Resampling.BILINEAR)
    return np.asarray(resized)


def _sampled(image: Image, network: NetworkConfig) -> Floats:
    """Interpolate between the four nearest pixels, however much smaller the result is."""
    height, width = unaveraged_size(image.shape[:2], network.min_size, network.max_size)
    top, bottom, down = _neighbours(image.shape[0], height)
    left, right, across = _neighbours(image.shape[1], width)
    rows = _between(image[top].astype(np.float32), image[bottom].astype(np.float32), down[:, None, None])
    return _between(rows[:, left], rows[:, right], across[None, :, None])


def _between(first: Floats, second: Floats, share: Floats) -> Floats:
    return first + (second - first) * share


def _neighbours(side: int, new_side: int) -> tuple[NDArray[np.int64], NDArray[np.int64], Floats]:
    """Return, for each new pixel, the two old ones it lies between and the second's share."""
    at = np.maximum((np.arange(new_side) + 0.5) * (side / new_side) - 0.5, 0)
    first = np.minimum(at.astype(np.int64), side - 1)
    return first, np.minimum(first + 1, side - 1), (at - first).astype(np.float32)


def cut_out(image: Image, boxes: Floats, config: SecondLookConfig) -> Floats:
    """Return the surroundings of each box as a square crop, (N, 3, size_px, size_px) in [0, 1].

    As second_look.cut_out: a side of config.context times the box's longer side, black beyond the picture.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (N, 4) xyxy pixels of image.
        config: size_px, context and smallest_px.
    """
    height, width = image.shape[:2]
    size = (config.size_px, config.size_px)
    longer = (boxes[:, 2:] - boxes[:, :2]).max(axis=1)
    half = np.maximum(longer * np.float32(config.context), np.float32(config.smallest_px))[:, None] / 2
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    corners = np.concatenate((centres - half, centres + half), axis=1).round().astype(int).tolist()
    crops = np.zeros((len(boxes), 3, *size), np.float32)
    for crop, (x1, y1, x2, y2) in zip(crops, corners, strict=True):
        left, top = min(max(x1, 0), width - 1), min(max(y1, 0), height - 1)
        inside = PillowImage.fromarray(image[top : max(y2, top + 1), left : max(x2, left + 1)])
        # Across, then down, as Pillow itself does it: so the black rows above and below are only narrow ones.
        wide = inside.crop((x1 - left, 0, x2 - left, inside.height))
        narrow = wide.resize((config.size_px, inside.height), PillowImage.Resampling.BILINEAR)
        square = narrow.crop((0, y1 - top, config.size_px, y2 - top))
        resized = square.resize(size, PillowImage.Resampling.BILINEAR)
        crop[:] = np.asarray(resized).transpose(2, 0, 1) / np.float32(WHITE)
    return crops
