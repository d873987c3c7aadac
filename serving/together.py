"""Pictures that come while a graphics card is busy go through the network together, in its next pass."""

from __future__ import annotations

import threading
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from detection.detections import Detections
from detection.imaging import Image
from detection.runtime import AnyDetector, BatchDetector, run_by
from schemas import ModelCard, RuntimeInfo


@dataclass(eq=False)
class _Piece:
    """One picture that a thread waits for: what is asked of it, and its answer or error."""

    image: Image
    asked: dict[str, Any]
    bucket: Hashable
    answer: Detections | None = None
    error: BaseException | None = None

    @property
    def done(self) -> bool:
        return self.answer is not None or self.error is not None


class Together:
    """A detector for several threads: whoever finds it idle looks at once, at all that waits and fits.

    What fits has the same size in the network and the same options. Nobody waits for company: a pass begins
    as soon as the one before has ended.

    Args:
        detector: gives each picture of a pass what it gives it alone.
    """

    def __init__(self, detector: BatchDetector) -> None:
        self._detector = detector
        self._state = threading.Condition()
        self._waiting: list[_Piece] = []
        self._busy = False

    @property
    def card(self) -> ModelCard:
        """What model.json holds."""
        return self._detector.card

    @property
    def run_by(self) -> RuntimeInfo | None:
        """What runs the network."""
        return run_by(self._detector)

    @property
    def at_once(self) -> int:
        """How many pictures of one size pay in one pass."""
        return self._detector.at_once

    def batched_size(self, size_hw: Sequence[int]) -> tuple[int, ...]:
        """Return height and width at which the network sees an image of size_hw."""
        return self._detector.batched_size(size_hw)

    def detect_many(self, images: Sequence[Image], **asked: Any) -> list[Detections]:
        """Return what detect finds in each image, which are a batch as they are."""
        return self._detector.detect_many(images, **asked)

    def detect(
        self,
        image: Image,
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> Detections:
        """Return every detection in image, best first; see detector.Detector.detect."""
        asked = {"nms_iou": nms_iou, "max_detections": max_detections, "probabilities": probabilities}
        bucket = (self.batched_size(image.shape[:2]), *asked.values())
        piece = _Piece(image, asked, bucket)
        with self._state:
            self._waiting.append(piece)
            self._state.wait_for(lambda: piece.done or not self._busy)
            pieces = [] if piece.done else self._take(piece)
        if pieces:
            try:
                self._look_at(pieces)
            finally:
                with self._state:
                    self._busy = False
                    self._state.notify_all()
        if piece.error is not None:
            raise piece.error
        assert piece.answer is not None
        return piece.answer

    def _take(self, piece: _Piece) -> list[_Piece]:
        """Take a piece and those that fit it, in the order in which they came."""
        self._busy = True
        fitting = [other for other in self._waiting if other.bucket == piece.bucket and other is not piece]
        pieces = [piece, *fitting[: self.at_once - 1]]
        self._waiting = [other for other in self._waiting if other not in pieces]
        return pieces

    def _look_at(self, pieces: Sequence[_Piece]) -> None:
        """Fill in each piece's answer or error; where a pass fails, each has one of its own."""
        asked = pieces[0].asked
        try:
            found = self._detector.detect_many([piece.image for piece in pieces], **asked)
            for piece, answer in zip(pieces, found, strict=True):
                piece.answer = answer
        except Exception as error:  # noqa: BLE001 - of a single picture its caller gets it
            if len(pieces) == 1:
                pieces[0].error = error
                return
            for piece in pieces:
                self._look_at([piece])


def for_threads(detector: AnyDetector) -> AnyDetector:
    """Return what threads share: a detector that gathers pictures, where several pay in one pass."""
    if isinstance(detector, BatchDetector) and detector.at_once > 1:
        return Together(detector)
    return detector
