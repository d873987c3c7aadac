"""What decoding in a process of its own costs a photo, from the bytes to the boxes.

    python bench/decode_speed.py --model weights/starter
    python bench/decode_speed.py                                  decoding alone

Both ways take turns on the same photos, so that whatever else the machine does falls on both alike; the
ratio of the medians is what to compare.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))


# isort: split
import argparse
import io
import statistics
import time
from collections.abc import Callable

import numpy as np
import psutil
from PIL import Image as PillowImage

from detection import detector as detectors
from detection import imaging
from detection.decoding import Decoders

MEGAPIXELS = (0.3, 1, 12)
PHOTO = Path(__file__).parents[1] / "photos" / "01-pistol-in-a-hand.jpg"


def photo(megapixels: float) -> bytes:
    """Return the sample photo as a JPEG of that size, with a camera's noise."""
    height = round((megapixels * 1e6 * 3 / 4) ** 0.5)
    picture = PillowImage.fromarray(imaging.decode_image(PHOTO.read_bytes())).resize(
        (height * 4 // 3, height)
    )
    noise = np.random.default_rng(0).normal(0, 6, (*picture.size[::-1], 3))
    pixels = (np.asarray(picture) + noise).clip(0, 255).astype(np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(pixels).save(stream, "JPEG", quality=90)
    return stream.getvalue()


def milliseconds(work: Callable[[bytes], object], content: bytes) -> float:
    """Return how long the work takes once."""
    began = time.perf_counter()
    work(content)
    return (time.perf_counter() - began) * 1000


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--model", type=Path, help="model folder; without it nothing is detected")
    parser.add_argument("--rounds", type=int, default=20, help="times that each way gets each photo")
    options = parser.parse_args()
    detector = detectors.load_folder(options.model) if options.model else None
    decoders = Decoders(1, imaging.MAX_PIXELS, 60)
    decoders.start()

    def look(decode: Callable[[bytes], imaging.Image], content: bytes) -> None:
        image = decode(content)
        if detector is not None:
            detector.detect(image)

    print(
        "| photo | in the service, ms | in a process of its own, ms | ratio |\n| --- | ---: | ---: | ---: |"
    )
    for megapixels in MEGAPIXELS:
        content = photo(megapixels)
        here: list[float] = []
        apart: list[float] = []
        for _ in range(options.rounds + 1):
            here.append(milliseconds(lambda given: look(imaging.decode_image, given), content))
            apart.append(milliseconds(lambda given: look(decoders.decode, given), content))
        first, second = statistics.median(here[1:]), statistics.median(apart[1:])
        print(
            f"| {megapixels:g} megapixels | {first:.1f} | {second:.1f} | {second / first:.3f} |", flush=True
        )
    memory = psutil.Process(decoders.all[0].pid).memory_full_info()
    print(f"\nThe process takes {memory.rss / 1e6:.0f} MB, {memory.uss / 1e6:.0f} MB of them its own.")
    decoders.close()


if __name__ == "__main__":
    main()
