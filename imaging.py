"""Images in and out: bytes -> upright RGB array -> network input, and boxes -> picture.

The only file that opens an image. numpy and Pillow, no torch.

ImageError          400
  NotAnImage        415
  ImageTooLarge     413
"""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as PillowImage

Image = NDArray[np.uint8]  # (H, W, 3) RGB, upright

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
MAX_PIXELS = 40_000_000  # a 40-megapixel photo decodes to 120 MB; phones make 12 to 50


class ImageError(ValueError):
    """The bytes cannot be used as an image."""

    status = 400


class NotAnImage(ImageError):
    """The bytes are no image of a known format, or are cut short."""

    status = 415


class ImageTooLarge(ImageError):
    """The image has more pixels than allowed."""

    status = 413


class ImageHeader(NamedTuple):
    """What an image file says of itself before any pixel is decoded.

    size_wh is that of the upright picture. orientation is the EXIF one, 1 (as stored) to 8; from 5 on the
    stored picture lies on its side.
    """

    size_wh: tuple[int, int]
    orientation: int


def read_header(source: Path | bytes) -> ImageHeader:
    """Read the upright size and the EXIF orientation of an image file without decoding it.

    Raises:
        NotAnImage: the file is no image of a known format; the pixels themselves are not looked at.
        OSError: the file cannot be read.
    """
    stream = io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
    with stream, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # nothing is decoded, so no size is too large here
        try:
            picture = PillowImage.open(stream, formats=FORMATS)
            orientation = picture.getexif().get(ExifTags.Base.Orientation, 1)
        except (UnidentifiedImageError, SyntaxError, ValueError) as error:
            raise NotAnImage(f"expected a picture ({', '.join(FORMATS)}), got something else") from error
    width, height = picture.size
    if orientation not in range(1, 9):
        orientation = 1
    return ImageHeader((height, width) if orientation >= 5 else (width, height), orientation)


def decode_image(image_bytes: bytes, *, max_pixels: int = MAX_PIXELS) -> Image:
    """Decode an image file into an upright RGB image.

    The EXIF orientation is applied; alpha is composited on white; grey and palette images become RGB;
    of an animation the first frame is taken.

    Args:
        image_bytes: the file's content: JPEG, PNG, WebP, BMP, TIFF or GIF.
        max_pixels: width x height allowed, checked before any pixel is decoded.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        NotAnImage: the bytes are none of these formats, or are cut short.
        ImageTooLarge: the picture has more than max_pixels pixels.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own size warning: ours is the limit below
            picture = PillowImage.open(io.BytesIO(image_bytes), formats=FORMATS)
    except UnidentifiedImageError as error:
        raise NotAnImage(f"expected a picture ({', '.join(FORMATS)}), got something else") from error
    width, height = picture.size
    if width * height > max_pixels:
        raise ImageTooLarge(f"expected at most {max_pixels} pixels, got {width} x {height}")
    try:
        picture.load()
    except (OSError, SyntaxError, ValueError) as error:
        raise NotAnImage(f"the picture is damaged or cut short: {error}") from error
    return np.asarray(_to_rgb(ImageOps.exif_transpose(picture)))


def _to_rgb(picture: PillowImage.Image) -> PillowImage.Image:
    if picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info:
        picture = picture.convert("RGBA")
        white = PillowImage.new("RGBA", picture.size, (255, 255, 255, 255))
        return PillowImage.alpha_composite(white, picture).convert("RGB")
    return picture.convert("RGB")


def to_chw(image: Image) -> NDArray[np.float32]:
    """Turn an image into what the network takes: (3, H, W) float32 in [0, 1].

    Normalising and resizing happen inside the network and nowhere else.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
        raise ValueError(f"want an (H, W, 3) uint8 RGB image, got {image.shape} {image.dtype}")
    return np.ascontiguousarray(image.transpose(2, 0, 1), dtype=np.float32) / np.float32(255)
