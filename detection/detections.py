"""What a detector says about one image, how long it took, and the classes that it knows by default."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schemas import DANGEROUS

BACKGROUND = "__background__"
WEAPONS = DANGEROUS
LOOKALIKES = ("billete", "monedero", "smartphone", "tarjeta")
CLASS_NAMES = (BACKGROUND, *WEAPONS, *LOOKALIKES)


@dataclass(frozen=True)
class Classes:
    """What a model tells apart, and what of it is dangerous.

    Attributes:
        names: background first; a label is an index into them.
        dangerous: those of names that are weapons; the others are look-alikes.
    """

    names: tuple[str, ...]
    dangerous: tuple[str, ...]

    @property
    def weapons(self) -> list[int]:
        """The labels of what is dangerous, in their order."""
        return [label for label, name in enumerate(self.names) if name in self.dangerous]

    @property
    def lookalikes(self) -> list[int]:
        """The labels of the others, without the background."""
        return [label for label, name in enumerate(self.names) if label and name not in self.dangerous]


SIX = Classes(CLASS_NAMES, WEAPONS)  # where nobody names classes of their own


@dataclass(frozen=True, slots=True, eq=False)
class Detections:
    """Detections in one image, best score first.

    Attributes:
        boxes: (N, 4) float32, xyxy pixels of the upright original image.
        scores: (N,) float32 in [0, 1], descending.
        labels: (N,) int64, indices into class_names; 0 is background and never occurs.
        probabilities: (N, C) float32, the softmax over class_names for each box, background first;
            None where nobody asked for them.
    """

    boxes: NDArray[np.float32]
    scores: NDArray[np.float32]
    labels: NDArray[np.int64]
    probabilities: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        n = len(self.scores)
        if self.boxes.shape != (n, 4) or self.labels.shape != (n,):
            raise ValueError(
                f"want boxes ({n}, 4) and labels ({n},) for {n} scores, "
                f"got {self.boxes.shape} and {self.labels.shape}"
            )
        if self.probabilities is not None and len(self.probabilities) != n:
            raise ValueError(f"want {n} rows of probabilities, got {len(self.probabilities)}")

    def __len__(self) -> int:
        return len(self.scores)

    @classmethod
    def empty(cls) -> Detections:
        """Return the answer "nothing found"."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))

    def take(self, index: NDArray[np.bool_] | NDArray[np.int64] | slice) -> Detections:
        """Return the detections that index selects, in its order."""
        probabilities = None if self.probabilities is None else self.probabilities[index]
        return Detections(self.boxes[index], self.scores[index], self.labels[index], probabilities)

    def above(self, score_threshold: float) -> Detections:
        """Return the detections whose score is at least score_threshold."""
        return self.take(self.scores >= score_threshold)

    def of(self, labels: Collection[int]) -> Detections:
        """Return the detections whose label is one of labels."""
        return self.take(np.isin(self.labels, list(labels)))

    def best_per_class(self) -> Detections:
        """Return the single best detection of each class, as detecto's predict_top does."""
        _, first = np.unique(self.labels, return_index=True)  # scores descend, so first is best
        return self.take(np.sort(first))


@dataclass(frozen=True, slots=True, eq=False)
class GroundTruth:
    """What a person says is in one image, for scoring a detector.

    Attributes:
        boxes: (N, 4) float32, xyxy pixels of the upright original image, x1 < x2 and y1 < y2.
        labels: (N,) int64, indices into class_names, never 0. N = 0 for a negative.
    """

    boxes: NDArray[np.float32]
    labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.boxes.shape != (len(self.labels), 4):
            raise ValueError(f"want boxes ({len(self.labels)}, 4), got {self.boxes.shape}")


@dataclass(frozen=True)
class Latency:
    """Milliseconds per image on a warm detector: decode from file to pixels, detect from pixels to boxes."""

    images: int
    decode_median_ms: float
    detect_median_ms: float
    detect_p95_ms: float
    machine: str

    @classmethod
    def of(cls, decode_ms: Sequence[float], detect_ms: Sequence[float], machine: str) -> Latency:
        """Sum up the times of single images, in milliseconds."""
        return cls(
            len(detect_ms), float(np.median(decode_ms)), float(np.median(detect_ms)),
            float(np.percentile(detect_ms, 95)), machine,
        )  # fmt: skip
