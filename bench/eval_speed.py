"""How long scoring takes once the detections are there: `python bench/eval_speed.py [IMAGES] [DETECTIONS]`.

Draws truths and detections at random (750 images with 20 detections each by default) and prints the seconds
of the COCO evaluation alone and of a whole report with 1,000 bootstrap draws. Goal: COCO under 2 s.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

import metrics
from detection.detections import Detections, GroundTruth
from evaluation import results


def random_boxes(rng: np.random.Generator, count: int) -> np.ndarray:
    """Return (count, 4) float32 xyxy boxes in a picture of 800 x 600."""
    corner = rng.uniform(0, 500, (count, 2))
    return np.hstack([corner, corner + rng.uniform(20, 300, (count, 2))]).astype(np.float32)


def random_split(images: int, per_image: int) -> tuple[list[GroundTruth], list[Detections]]:
    """Return truths of 0 to 3 boxes, and detections of which half are near one."""
    rng = np.random.default_rng(0)
    truths, detections = [], []
    for _ in range(images):
        count = int(rng.integers(0, 4))
        truth = GroundTruth(random_boxes(rng, count), rng.integers(1, 7, count))
        boxes, labels = random_boxes(rng, per_image), rng.integers(1, 7, per_image)
        if count:
            copied = rng.integers(0, count, per_image // 2)
            boxes[: len(copied)] = truth.boxes[copied] + rng.normal(0, 8, (len(copied), 4))
            labels[: len(copied)] = truth.labels[copied]
        scores = np.sort(rng.random(per_image))[::-1].astype(np.float32)
        truths.append(truth)
        detections.append(Detections(boxes, scores, labels))
    return truths, detections


def seconds(work: Callable[[], object]) -> float:
    """Return the best of three."""
    times = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure and print."""
    images = int(sys.argv[1]) if len(sys.argv) > 1 else 750
    per_image = int(sys.argv[2]) if len(sys.argv) > 2 else 20
    truths, detections = random_split(images, per_image)
    print(f"{images} images, {per_image} detections each, best of three")
    print(
        f"  COCO, 12 numbers and per class: {seconds(lambda: metrics.coco_summary(truths, detections)):.2f} s"
    )
    print(
        f"  whole report, 1,000 draws:      {seconds(lambda: results.build_report(truths, detections)):.2f} s"
    )


if __name__ == "__main__":
    main()
