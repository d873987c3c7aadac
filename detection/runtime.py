"""What everybody needs of a detector, whatever library runs its network."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from detection.detections import Detections
from detection.imaging import Image
from schemas import ModelCard


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


def warm_up(detector: AnyDetector) -> None:
    """Run once on grey, so that the first person does not wait for lazy set-up."""
    network = detector.card.network
    detector.detect(np.full((network.min_size, network.max_size, 3), 128, np.uint8))
