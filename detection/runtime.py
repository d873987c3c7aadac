"""What everybody needs of a detector, whatever library runs its network."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from detection.detections import Detections
from detection.imaging import Image
from schemas import ModelCard, RuntimeInfo


class AnyDetector(Protocol):
    """A network that is loaded and says what it sees; detection.detector.Detector is one."""

    @property
    def card(self) -> ModelCard:
        """What model.json holds."""

    def detect(
        self,
        image: Image,
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> Detections:
        """Return every detection in image, best first."""


@runtime_checkable
class BatchDetector(AnyDetector, Protocol):
    """One that can look at several pictures in one pass."""

    @property
    def at_once(self) -> int:
        """How many pictures of one size pay in one pass."""

    def batched_size(self, size_hw: Sequence[int]) -> tuple[int, ...]:
        """Return height and width at which the network sees an image of size_hw; a pass has one of them."""

    def detect_many(
        self,
        images: Sequence[Image],
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> list[Detections]:
        """Return what detect finds in each image."""


def run_by(detector: AnyDetector) -> RuntimeInfo | None:
    """Return what runs a detector's network and why nothing else does, where runtimes.load chose it."""
    info: RuntimeInfo | None = getattr(detector, "run_by", None)
    return info


def warm_up(detector: AnyDetector) -> None:
    """Run once on grey, so that the first person does not wait for lazy set-up."""
    network = detector.card.network
    detector.detect(np.full((network.min_size, network.max_size, 3), 128, np.uint8))
