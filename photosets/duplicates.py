"""Which pictures are the same, or nearly: SHA-256 of the bytes, and a perceptual hash of what they show."""

from __future__ import annotations

import hashlib
import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import imagehash
import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from detection import imaging

SIDE = 64  # pixels a picture is shrunk to before its frequencies are taken
FREQUENCIES = 16  # lowest ones kept per axis: 256 bits
# Bits of 256: the same picture again, re-encoded, resized, a little cropped, or the next video frame.
NEAR = 40
_ROWS_AT_ONCE = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What is needed to find a picture again.

    Attributes:
        sha256: of the file's bytes.
        bits: (4,) uint64, the perceptual hash; mirrored: that of the mirror image.
        error: why the picture could not be decoded; its bits are then meaningless.
    """

    sha256: str
    bits: NDArray[np.uint64]
    mirrored: NDArray[np.uint64]
    error: str | None = None


@dataclass(frozen=True, slots=True)
class Pair:
    """Two near pictures, by their positions, first < second; distance in bits of 256."""

    first: int
    second: int
    distance: int
    mirrored: bool


def look_at(paths: Sequence[Path], *, advance: Callable[[], object]) -> list[Look]:
    """Decode and hash every picture on all cores, in order; advance is called after each."""
    with ThreadPoolExecutor(max_workers=os.cpu_count()) as pool:  # Pillow and hashlib let other threads run
        looks = []
        for look in pool.map(_look_at, paths):
            looks.append(look)
            advance()
    return looks


def _look_at(path: Path) -> Look:
    nothing = np.zeros(4, np.uint64)
    try:
        content = path.read_bytes()
    except OSError as error:
        return Look("", nothing, nothing, str(error))
    sha256 = hashlib.sha256(content).hexdigest()
    try:
        image = imaging.decode_image(content)
    except imaging.ImageError as error:
        return Look(sha256, nothing, nothing, str(error))
    return Look(sha256, *perceptual_hash(image))


def perceptual_hash(image: imaging.Image) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the hash of an image and of its mirror image.

    Returns:
        Two (4,) uint64: for each of the lowest 16 x 16 spatial frequencies, whether it is above the median.

    Source:
        Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010, section 3.2.1.
    """
    straight = PillowImage.fromarray(image)
    straight.thumbnail((2 * SIDE, 2 * SIDE), PillowImage.Resampling.BOX)  # else each hash shrinks all pixels
    mirrored = straight.transpose(PillowImage.Transpose.FLIP_LEFT_RIGHT)
    hashes = (imagehash.phash(each, hash_size=FREQUENCIES) for each in (straight, mirrored))
    first, second = (np.packbits(each.hash).view(np.uint64) for each in hashes)
    return first, second


def same_bytes(looks: Sequence[Look]) -> list[list[int]]:
    """Return the positions of the pictures that are byte for byte the same, a list for each set of them."""
    positions: dict[str, list[int]] = defaultdict(list)
    for position, look in enumerate(looks):
        if look.sha256:
            positions[look.sha256].append(position)
    return [group for group in positions.values() if len(group) > 1]


def near_pairs(looks: Sequence[Look], *, near: int = NEAR) -> Iterator[Pair]:
    """Yield every pair of decodable pictures at most near bits apart, either way round, same bytes excepted.

    Compares all with all: 2 s for 6,000 pictures, growing with the square.
    """
    usable = np.array([position for position, look in enumerate(looks) if look.error is None], np.int64)
    if not len(usable):
        return
    bits = np.stack([looks[position].bits for position in usable])  # (N, 4)
    mirrored = np.stack([looks[position].mirrored for position in usable])
    for start in range(0, len(usable), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        straight = _distances(bits[rows], bits[start:])
        turned = _distances(mirrored[rows], bits[start:])
        nearest = np.minimum(straight, turned)
        for row, column in np.argwhere(np.triu(nearest <= near, k=1)).tolist():
            first, second = int(usable[start + row]), int(usable[start + column])
            if looks[first].sha256 != looks[second].sha256:
                is_mirrored = bool(turned[row, column] < straight[row, column])
                yield Pair(first, second, int(nearest[row, column]), is_mirrored)


def _distances(a: NDArray[np.uint64], b: NDArray[np.uint64]) -> NDArray[np.uint16]:
    """Return in how many bits each row of a (N, 4) differs from each row of b (M, 4): (N, M)."""
    total = np.zeros((len(a), len(b)), np.uint16)
    for word in range(a.shape[1]):
        total += np.bitwise_count(a[:, None, word] ^ b[None, :, word])
    return total
