"""What video recorders speak: the API of DeepStack and CodeProject.AI, over the same queue and limits.

Frigate's detector "deepstack", Blue Iris, Agent DVR and Home Assistant send one picture and expect boxes.

Source:
    DeepStack's object detection API, as its own client (deepstack-sdk 0.2) and Frigate's plug-in use it.
"""

from __future__ import annotations

import time
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, ValidationError

from detection.alarm import alarm_threshold
from detection.names import printable
from serving.bodies import SentFile, read_form
from serving.openapi import RECORDER_BODY, problems
from serving.predict import PredictQuery, to_result
from serving.problems import RECORDERS_PREFIX, ApiProblem, note_on
from serving.routes import ServiceDep, look_in_time, record

PART = "image"
recorder_router = APIRouter(prefix=RECORDERS_PREFIX)


class Prediction(BaseModel):
    """One object, in whole pixels of the picture."""

    label: str
    confidence: float = Field(ge=0, le=1, description="The score of /predict.")
    x_min: int
    y_min: int
    x_max: int
    y_max: int


class Predictions(BaseModel):
    """What a recorder is answered. Errors have success false, error, code and the fields of a problem."""

    success: Literal[True] = True
    predictions: list[Prediction]
    duration: int = Field(description="Milliseconds from request to answer.")
    code: Literal[200] = 200


@recorder_router.post("/custom/{model}", include_in_schema=False)
@recorder_router.post(
    "/detection",
    responses=problems("bad-multipart", "bad-image", "upload-timeout", "body-too-large", "image-too-large")
    | problems("not-multipart", "not-an-image", "compressed-body", "unauthorized", "too-many-requests")
    | problems("invalid-parameters", "missing-file", "too-many-files")
    | problems("internal-error", "not-ready", "queue-full", "deadline-exceeded"),
    openapi_extra={"requestBody": RECORDER_BODY},
)
async def detection(request: Request, service: ServiceDep) -> Predictions:
    """Answer a recorder: the objects in one picture, in the words of DeepStack.

    min_confidence can raise the model's alarm point and never lowers it: what is answered rings a bell there.
    """
    began = time.perf_counter()
    served = service.host.served
    note = note_on(request.scope)
    if any(request.headers.get(name) for name in ("x-api-key", "authorization")):
        note["caller"] = service.keys.holder(_key_in_headers(request))

    async def asked() -> tuple[list[SentFile], PredictQuery]:
        try:
            form = await read_form(request, max_files=1, part=PART, takes_texts=True)
        except ApiProblem:
            if "caller" not in note:
                service.keys.holder(None)  # a stranger is told about the key and nothing else
            raise
        if "caller" not in note:
            note["caller"] = service.keys.holder(form.texts.get("api_key"))
        point = max(alarm_threshold(served.detector.card), _min_confidence(form.texts))
        return form.files, PredictQuery(score_threshold=point)

    with service.share.request_of(note.get("caller") or note["client"]):
        [file], [look] = await look_in_time(request, service, served, asked)
    card = served.detector.card
    if look.value.problem is not None:
        service.metrics.files.labels("error").inc()
        raise look.value.problem
    result = to_result(file, look, card, note["request_id"])
    record(service.metrics, note, [result], [look.value], card)
    predictions = [
        Prediction(
            label=one.label, confidence=one.score, x_min=round(one.box.x1), y_min=round(one.box.y1),
            x_max=round(one.box.x2), y_max=round(one.box.y2),
        )
        for one in result.detections or ()
    ]  # fmt: skip
    return Predictions(predictions=predictions, duration=round(1000 * (time.perf_counter() - began)))


def _key_in_headers(request: Request) -> str:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    return request.headers.get("x-api-key", bearer)


def _min_confidence(texts: dict[str, str]) -> float:
    """Return what the form asks for, 0 if nothing."""
    given = texts.get("min_confidence", "").strip() or "0"
    try:
        asked = PredictQuery.model_validate({"score_threshold": given}).score_threshold
    except ValidationError as error:
        detail = f"Expected min_confidence to be a number from 0 to 1, got {printable(given[:50])!r}."
        errors = [{"parameter": "min_confidence", "message": "Expected a number from 0 to 1"}]
        raise ApiProblem("invalid-parameters", detail, errors=errors) from error
    return asked or 0.0
