"""The model as MLflow itself serves it: `mlflow models serve` and `mlflow.pyfunc.load_model`.

MLflow keeps this file beside the model folder ("models from code") and runs it; nothing is pickled.
Our own API does not use it: it downloads the model folder and runs no code from the store.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

from detection.alarm import alarm_threshold, verdict_of
from detection.detections import Detections
from detection.detector import Detector, load_folder
from detection.imaging import Image, ImageError, decode_image, notes_on
from detection.overlaps import one_name_each
from schemas import Box, Detection, ModelCard

ARTIFACT = "detector"  # the model folder's name inside the logged model


class WeaponDetector(PythonModel):
    """One row in, one record out: {"alarm", "verdict", "detections", "image_size", "error"}."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the network from the model folder that was logged with this file."""
        self.detector: Detector = load_folder(Path(context.artifacts[ARTIFACT]))

    def predict(
        self,
        context: PythonModelContext,  # noqa: ARG002 # MLflow passes it
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> list[dict[str, Any]]:
        """Detect in each picture of the column `image`.

        Args:
            context: unused.
            model_input: a table whose column `image` holds encoded picture files, as bytes or base64.
            params: score_threshold, in [0, 1]: keep detections of at least this score. Below 0, or
                absent: the model's operating point.

        Returns:
            One record per row, in order. A picture that cannot be read gets "error" and no detections.
        """
        threshold = float((params or {}).get("score_threshold", -1.0))
        if threshold < 0:
            threshold = alarm_threshold(self.detector.card)
        return [self._record(content, threshold) for content in model_input["image"]]

    def _record(self, content: bytes | str, score_threshold: float) -> dict[str, Any]:
        try:
            image = decode_image(_to_bytes(content))
        except ImageError as error:
            nothing = dict.fromkeys(("alarm", "verdict", "detections", "image_size"))
            return {**nothing, "error": str(error)}
        found = self.detector.detect(image)
        return to_record(image, found, self.detector.card, score_threshold)


def to_record(image: Image, found: Detections, card: ModelCard, score_threshold: float) -> dict[str, Any]:
    """Return the JSON record of what was found in image."""
    height, width = image.shape[:2]
    kept = one_name_each(found.above(score_threshold), card)
    verdict = verdict_of(found, card, notes_on(image))
    return {
        "alarm": verdict == "alarm",
        "verdict": verdict,
        "detections": [
            _detection(card, int(label), float(score), box.tolist()).model_dump(exclude_none=True)
            for label, score, box in zip(kept.labels, kept.scores, kept.boxes, strict=True)
        ],
        "image_size": {"width": width, "height": height},
        "error": None,
    }


def _detection(card: ModelCard, label: int, score: float, xyxy: list[float]) -> Detection:
    x1, y1, x2, y2 = xyxy
    box = Box(x1=x1, y1=y1, x2=x2, y2=y2)
    name = card.class_names[label]
    return Detection(label=name, dangerous=name in card.dangerous, score=score, box=box)


def _to_bytes(content: bytes | str) -> bytes:
    """Return the file's content. Over HTTP it comes as base64 text, which MLflow does not always decode."""
    if isinstance(content, bytes) and not content.isascii():
        return content  # no picture file is plain ASCII
    try:
        return base64.b64decode(content, validate=True)
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"expected a picture file as bytes or base64 text: {error}") from error


mlflow.models.set_model(WeaponDetector())
