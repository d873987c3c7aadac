"""Truths and detections to look into, and the pictures they are of."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detection.detections import CLASS_NAMES, Detections, GroundTruth

PISTOL, KNIFE, BANKNOTE, WALLET, PHONE, CARD = range(1, 7)
A, B, C = (10, 10, 60, 50), (70, 10, 110, 80), (10, 60, 50, 88)
SIZE_WH = (120, 90)


@dataclass(frozen=True)
class Shot:
    """One picture on disk and its truth."""

    image_path: Path
    truth: GroundTruth
    size_wh: tuple[int, int] = SIZE_WH

    @property
    def name(self) -> str:
        return self.image_path.stem


def truth(*objects) -> GroundTruth:
    """Return the truth of one image: (label, box) each."""
    boxes = np.array([box for _, box in objects], np.float32).reshape(-1, 4)
    return GroundTruth(boxes, np.array([label for label, _ in objects], np.int64))


def found(*objects) -> Detections:
    """Return the detections of one image: (label, box, score) each, best score first."""
    boxes = np.array([box for _, box, _ in objects], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in objects], np.float32)
    return Detections(boxes, scores, np.array([label for label, _, _ in objects], np.int64))


def random_images(count: int, seed: int = 0) -> tuple[list[GroundTruth], list[Detections]]:
    """Return images in which objects and detections lie on and beside one another."""
    random = np.random.default_rng(seed)

    def boxes(number: int) -> np.ndarray:
        corner = random.integers(0, 40, (number, 2)) * 1.0
        return np.concatenate([corner, corner + random.integers(20, 60, (number, 2))], axis=1).astype(
            np.float32
        )

    truths, detections = [], []
    for _ in range(count):
        some, many = int(random.integers(0, 4)), int(random.integers(0, 7))
        truths.append(GroundTruth(boxes(some), random.integers(1, len(CLASS_NAMES), some)))
        near = truths[-1].boxes[random.integers(0, max(some, 1), many)] if some else boxes(many)
        shaken = (near + random.normal(0, 4, near.shape)).astype(np.float32)
        scores = np.sort(random.uniform(0.05, 1, many).astype(np.float32))[::-1]
        detections.append(Detections(shaken, scores.copy(), random.integers(1, len(CLASS_NAMES), many)))
    return truths, detections
