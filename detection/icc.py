"""A picture's embedded colour profile, and the way from it to sRGB.

Cameras of the last years write Display P3, editors Adobe RGB or ProPhoto: taken for sRGB, such numbers show
other colours than the photographer saw. A profile that is sRGB within rounding, damaged or of an unreasonable
size leaves the numbers as they are.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
from PIL import Image as PillowImage
from PIL import ImageCms, features

MAX_PROFILE_BYTES = 4_000_000  # a printer's tables are about 2 MB, a camera's profile 600 bytes
SAME_WITHIN = 2  # of 255: what one library's rounding of sRGB differs from another's
MODES = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # a profile's colour space -> Pillow's mode


def to_srgb(picture: PillowImage.Image, profile: object) -> PillowImage.Image:
    """Return an L, RGB or CMYK picture in sRGB, mode RGB.

    Args:
        picture: its numbers mean what the profile says.
        profile: the ICC profile's bytes; anything else is no profile.
    """
    if isinstance(profile, bytes) and 128 < len(profile) <= MAX_PROFILE_BYTES:
        transform = _transform(profile, picture.mode)
        if transform is not None:
            return transform.apply(picture)
    return picture.convert("RGB")


@lru_cache(maxsize=8)  # a camera's photos all have the same profile
def _transform(profile: bytes, mode: str) -> ImageCms.ImageCmsTransform | None:
    """Return what turns that mode's numbers into sRGB, or None where nothing has to be turned or can be."""
    if not features.check("littlecms2"):
        return None
    try:
        source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if MODES.get(source.profile.xcolor_space.strip()) != mode:
            return None
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC  # white stays white
        srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
        transform = ImageCms.ImageCmsTransform(source, srgb, mode, "RGB", intent)
        if not _keeps_light_and_dark(transform, mode) or _changes_nothing(transform, mode):
            return None
    except (OSError, ValueError):  # a damaged profile is no reason to refuse the picture
        return None
    return transform


def _keeps_light_and_dark(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether white stays light and black dark: a damaged profile may still be read, and blacken a photo."""
    inks = PillowImage.new(mode, (2, 1), 0)
    inks.putpixel((1, 0), (255,) * len(inks.getbands()))
    first, second = np.asarray(transform.apply(inks))[0]
    dark, light = (second, first) if mode == "CMYK" else (first, second)
    return int(light.min()) > 200 and int(dark.max()) < 80


def _changes_nothing(transform: ImageCms.ImageCmsTransform, mode: str) -> bool:
    """Whether colours from the whole range stay as they are, within rounding."""
    if mode == "CMYK":  # inks are no colours yet
        return False
    steps = np.linspace(0, 255, 17).round().astype(np.uint8)
    grid = steps[None] if mode == "L" else np.stack(np.meshgrid(steps, steps, steps), -1).reshape(17, -1, 3)
    sample = PillowImage.fromarray(grid)
    before, after = sample.convert("RGB"), transform.apply(sample)
    return int(np.abs(np.asarray(before, np.int16) - np.asarray(after)).max()) <= SAME_WITHIN
