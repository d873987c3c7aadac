"""From one file and what a caller asked for to what crosses the border."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from detection import drawing, imaging
from detection.alarm import alarm_threshold, verdict_of
from detection.appearance import Appearance, appearance
from detection.detections import Detections
from detection.overlaps import one_name_each
from detection.runtime import AnyDetector
from detection.tiles import detect_in, frames_of
from schemas import Box, Detection, ImageResult, ImageSize, ModelCard, Tiles, TimeMs
from serving.bodies import SentFile
from serving.negotiation import JSON, PICTURE_FORMATS
from serving.problems import ApiProblem
from serving.queue import Ran

MOST = 1000  # detections in an answer


class PredictQuery(BaseModel):
    """What a caller may choose. A misspelt name is an error."""

    model_config = ConfigDict(extra="forbid")

    score_threshold: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, examples=[0.5],
        description="Keep detections of at least this score. By default the model's operating point.",
    )  # fmt: skip
    labels: list[str] = Field(
        default_factory=list, examples=[["pistol", "knife"]],
        description="Keep only these labels of the model's; may be repeated. By default all.",
    )  # fmt: skip
    nms_iou: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False, examples=[0.5],
        description="Overlap above which the lower of two boxes of a label goes. By default the model's.",
    )  # fmt: skip
    max_detections: int | None = Field(
        None, ge=1, le=MOST, examples=[20],
        description="Keep this many of the best that are left. By default the model's.",
    )  # fmt: skip
    probabilities: bool = Field(False, description="Add each detection's probability of every class.")
    tiles: Tiles = Field(
        "1x1",
        description="Overlapping tiles looked at too, for small objects: 5 or 10 times the work, and more "
        "false alarms. auto: by the picture's size, none where it is small.",
    )


def check_labels(query: PredictQuery, card: ModelCard) -> None:
    """Raise ApiProblem if a label is not the model's."""
    unknown = sorted(set(query.labels) - {*card.class_names[1:]})
    if unknown:
        names = ", ".join(repr(name[:50]) for name in unknown[:5])
        message = (
            f"Expected one of {', '.join(card.class_names[1:])}, got {names}. "
            f"Name several one by one: {'&'.join(f'labels={name}' for name in card.class_names[1:3])}."
        )
        raise ApiProblem("invalid-parameters", message, errors=[{"parameter": "labels", "message": message}])


ALL = 1_000_000
IMAGE_PROBLEMS = {imaging.NotAnImage: "not-an-image", imaging.ImageTooLarge: "image-too-large"}
NOTHING = Appearance(brightness=0, sharpness=0)
Decode = Callable[[bytes], imaging.Image]  # raises imaging.ImageError


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one file gave: all its detections, or the problem in their place.

    The image itself is not kept: a request's pictures are in memory one after the other, not together.
    """

    size_wh: tuple[int, int] = (0, 0)
    notes: tuple[str, ...] = ()
    detections: Detections = field(default_factory=Detections.empty)
    shown: Detections = field(default_factory=Detections.empty)  # those that were asked for
    picture: bytes = b""  # annotated, where asked for
    problem: ApiProblem | None = None
    decode_ms: float = 0
    inference_ms: float = 0
    encode_ms: float = 0
    views: int = 0  # the whole picture and its tiles
    appearance: Appearance = NOTHING


def look_at(
    detector: AnyDetector,
    file: SentFile,
    query: PredictQuery,
    media_type: str,
    decode: Decode,
    stopped: Callable[[], bool] = lambda: False,
) -> Look:
    """Decode one file, run the detector on it and, if a picture is wanted, draw. Runs in an inference thread.

    Only as many pictures are in memory as there are threads: what waits in the queue is the file.

    Raises:
        Stopped: stopped, which is asked before each of several views, said that nobody waits any more.
    """
    card = detector.card
    began = time.perf_counter()
    try:
        image = decode(file.content)
        decoded = time.perf_counter()
        frames = frames_of((image.shape[0], image.shape[1]), query.tiles, card.network)
        # All of them, since the verdict looks at all: what is not wanted is cut off only afterwards.
        found = detect_in(
            detector, image, frames, nms_iou=query.nms_iou, max_detections=ALL,
            probabilities=query.probabilities, stopped=stopped,
        )  # fmt: skip
        detected = time.perf_counter()
        shown, picture = choose(found, card, query), b""
        if media_type != JSON:
            picture = draw(image, to_detections(shown, card), PICTURE_FORMATS[media_type])
    except imaging.ImageError as error:
        return Look(problem=ApiProblem(_problem_name(error), as_sentence(error)))
    ended = time.perf_counter()
    return Look(
        size_wh=(image.shape[1], image.shape[0]),
        notes=imaging.notes_on(image),
        detections=found,
        shown=shown,
        picture=picture,
        decode_ms=(decoded - began) * 1000,
        inference_ms=(detected - decoded) * 1000,
        encode_ms=(ended - detected) * 1000,
        views=len(frames),
        appearance=appearance(image),
    )


def _problem_name(error: imaging.ImageError) -> str:
    return next((name for kind, name in IMAGE_PROBLEMS.items() if isinstance(error, kind)), "bad-image")


def as_sentence(error: Exception) -> str:
    """Return the error's message with a capital letter and a full stop."""
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def to_result(file: SentFile, ran: Ran[Look], card: ModelCard, request_id: str) -> ImageResult:
    """Return the answer for one file."""
    look = ran.value
    if look.problem is not None:
        return ImageResult(file=file.name, error=look.problem.document(request_id))
    width, height = look.size_wh
    times = {"decode": look.decode_ms, "queue": ran.queue_ms, "inference": look.inference_ms}
    notes: dict[str, Any] = {"notes": list(look.notes)} if look.notes else {}
    verdict = verdict_of(look.detections, card, look.notes)
    return ImageResult(
        **notes,
        file=file.name,
        image_size=ImageSize(width=width, height=height),
        alarm=verdict == "alarm",
        verdict=verdict,
        detections=to_detections(look.shown, card),
        time_ms=TimeMs(**{stage: round(value, 2) for stage, value in times.items()}),
    )


def score_threshold(card: ModelCard, query: PredictQuery) -> float:
    """Return the threshold of this answer."""
    return alarm_threshold(card) if query.score_threshold is None else query.score_threshold


def choose(found: Detections, card: ModelCard, query: PredictQuery) -> Detections:
    """Return the detections that the caller asked for, one for each object."""
    kept = found.above(score_threshold(card, query))
    if query.labels:
        kept = kept.of([card.class_names.index(name) for name in query.labels if name in card.class_names])
    named = one_name_each(kept.take(slice(MOST)), card)  # which takes the square of their number
    return named.take(slice(query.max_detections or card.network.box_detections_per_img))


def to_detections(found: Detections, card: ModelCard) -> list[Detection]:
    """Return detections as they cross the wire."""
    answer = []
    for i, (label, score, box) in enumerate(zip(found.labels, found.scores, found.boxes, strict=True)):
        name = card.class_names[label]
        x1, y1, x2, y2 = (shortest(value) for value in box)
        fields: dict[str, Any] = {
            "label": name,
            "dangerous": name in card.dangerous,
            "score": shortest(score),
        }
        fields["box"] = Box(x1=x1, y1=y1, x2=x2, y2=y2)
        if found.probabilities is not None:
            row = zip(card.class_names, found.probabilities[i], strict=True)
            fields["probabilities"] = {class_name: shortest(value) for class_name, value in row}
        answer.append(Detection(**fields))
    return answer


def shortest(value: np.float32) -> float:
    """Return a float32 as the shortest decimal that reads back as the same float32."""
    return float(str(value))


def draw(image: imaging.Image, found: Sequence[Detection], image_format: str) -> bytes:
    """Draw detections on their image and encode that."""
    return imaging.encode_image(drawing.draw_detections(image, found), image_format)
