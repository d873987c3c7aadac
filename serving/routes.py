"""The routes of the API."""

from __future__ import annotations

import asyncio
import hashlib
import threading
import time
from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Annotated, Any, Literal, Protocol

import prometheus_client
from fastapi import APIRouter, Depends, Query, Request, Security
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from detection.alarm import alarm_threshold, unsure_threshold, weapon_score
from detection.runtime import run_by
from detection.tiles import Stopped
from schemas import ImageResult, ModelCard, ModelInfo, ModelList, ModelName, PredictResponse
from serving.bodies import SentFile, read_files
from serving.models import ServedModel
from serving.negotiation import JSON, choose_media_type
from serving.openapi import PREDICT_ANSWER, PREDICT_BODY, problems
from serving.predict import (
    Look,
    PredictQuery,
    check_labels,
    look_at,
    score_threshold,
    to_result,
)
from serving.problems import ApiProblem, note_on
from serving.queue import InferenceQueue, Ran
from serving.service import ApiMetrics, Service

api_key_header = APIKeyHeader(name="X-API-Key", auto_error=False)
bearer = HTTPBearer(auto_error=False)


def get_service(request: Request) -> Service:
    """Return what create_app put there."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


def check_key(
    request: Request,
    service: ServiceDep,
    key: Annotated[str | None, Security(api_key_header)],
    token: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> None:
    """Let only holders of a key in, and note who it is."""
    note_on(request.scope)["caller"] = service.keys.holder(
        key if key is not None else token.credentials if token else None
    )


open_router = APIRouter()  # for whoever watches over the process: no key, no secret
router = APIRouter()


class Health(BaseModel):
    """The process lives."""

    status: Literal["ok"] = "ok"


class Readiness(BaseModel):
    """The model answers."""

    status: Literal["ready"] = "ready"
    model: ModelName


@open_router.head("/health", include_in_schema=False)
@open_router.get("/health")
async def health() -> Health:
    """Answer while the process lives."""
    return Health()


@open_router.head("/ready", include_in_schema=False)
@open_router.get("/ready", responses=problems("not-ready"))
async def ready(service: ServiceDep) -> Readiness:
    """Answer 200 once a model is loaded and warmed up, else 503 with the reason.

    503 too while a worker has been at one picture for longer than a whole request may take.
    """
    busy = service.queue.busy_seconds
    if busy > service.settings.api_deadline_seconds:
        detail = f"A worker has been stuck with one picture for {busy:.0f} s."
        raise ApiProblem("not-ready", detail, headers={"Retry-After": "5"})
    served = service.host.served
    if not service.decoders.ready:
        raise ApiProblem(
            "not-ready", "The decoding processes are being started.", headers={"Retry-After": "5"}
        )
    return Readiness(model=served.name)


@router.get("/metrics", include_in_schema=False)
async def metrics(service: ServiceDep) -> Response:
    """Answer what Prometheus reads."""
    content = prometheus_client.generate_latest(service.metrics.registry)
    return Response(content, media_type=prometheus_client.CONTENT_TYPE_LATEST)


@router.get("/model", responses=problems("not-ready"))
async def model(service: ServiceDep) -> ModelInfo:
    """Say which model is served: classes, operating point, metrics, run, data fingerprint."""
    served = service.host.served
    return ModelInfo(
        model=served.name,
        source=served.source,
        loaded_at=served.loaded_at,
        card=served.detector.card,
        dangerous=list(served.detector.card.dangerous),
        version_url=served.version_url,
        runtime=run_by(served.detector),
        watch_error=service.host.trouble,
    )


@router.get("/models")
async def models(service: ServiceDep) -> ModelList:
    """List what could be served: every version of the registered model with its aliases, newest first."""
    listed = await asyncio.to_thread(service.host.listed)
    return ModelList(name=service.settings.model_name, versions=listed)


@router.post(
    "/predict",
    response_model=PredictResponse,
    responses={200: PREDICT_ANSWER}
    | problems("bad-multipart", "bad-image", "not-acceptable", "upload-timeout", "body-too-large")
    | problems("image-too-large", "not-multipart", "not-an-image", "invalid-parameters", "missing-file")
    | problems("compressed-body", "too-many-requests")
    | problems("too-many-files", "internal-error", "not-ready", "queue-full", "deadline-exceeded"),
    openapi_extra={"requestBody": PREDICT_BODY},
)
async def predict(request: Request, query: Annotated[PredictQuery, Query()], service: ServiceDep) -> Response:
    """Find weapons and the things taken for them in one or several photos.

    With several files, one that cannot be read has `error` in place of detections; with one file, that
    error is the answer. `verdict` and `alarm` are about all that the model found, whatever the parameters
    leave out. `alarm` is a possible weapon: a person must confirm. `unsure` asks a person to look closely.
    `none` is no proof that there is no weapon.
    """
    media_type = choose_media_type(", ".join(request.headers.getlist("accept")))
    served = service.host.served  # one model for the whole request, whatever is loaded meanwhile
    card = served.detector.card
    check_labels(query, card)
    note = note_on(request.scope)

    async def asked() -> tuple[list[SentFile], PredictQuery]:
        return await read_files(request, max_files=service.settings.api_max_files), query

    with service.share.request_of(note.get("caller") or note["client"]):
        files, looks = await look_in_time(request, service, served, asked, media_type)
    if len(files) == 1 and looks[0].value.problem is not None:
        service.metrics.files.labels("error").inc()
        raise looks[0].value.problem
    results = [
        to_result(file, look, card, note["request_id"]) for file, look in zip(files, looks, strict=True)
    ]
    threshold = score_threshold(card, query)
    record(service.metrics, note, results, [look.value for look in looks], card)
    note |= {"score_threshold": threshold, "views": sum(look.value.views for look in looks)}
    if media_type != JSON:
        service.metrics.stage_seconds.labels("encode").observe(looks[0].value.encode_ms / 1000)
        headers = {"X-Alarm": str(bool(results[0].alarm)).lower(), "X-Verdict": str(results[0].verdict)}
        return Response(looks[0].value.picture, media_type=media_type, headers=headers)
    answer = PredictResponse(model=served.name, score_threshold=threshold, results=results)
    return Response(answer.model_dump_json(exclude_unset=True), media_type=JSON)


async def look_in_time(
    request: Request,
    service: Service,
    served: ServedModel,
    asked: Callable[[], Awaitable[tuple[list[SentFile], PredictQuery]]],
    media_type: str = JSON,
) -> tuple[list[SentFile], list[Ran[Look]]]:
    """Read the files and look at each, all before the deadline.

    Args:
        request: whose body nobody has read.
        service: its queue and limits.
        served: what looks.
        asked: reads the body; returns its files and what is wanted of them.
        media_type: of the answer.
    """
    settings, note = service.settings, note_on(request.scope)
    service.queue.check_room(full=service.uploads.locked())  # refuse before the upload, not after it
    limit = f"{settings.api_deadline_seconds:g} s"
    files: list[SentFile] = []
    try:
        async with asyncio.timeout(settings.api_deadline_seconds):
            async with service.uploads:
                files, query = await asked()
            note |= {"files": len(files), "bytes": sum(len(file.content) for file in files)}
            note |= {"file_sha256": await asyncio.to_thread(_digests, files)}  # megabytes: not in the loop
            note |= {"model_version": served.name.version}
            note |= {"weights_sha256": served.detector.card.weights_sha256}
            if len(files) > 1 and media_type != JSON:
                detail = f"Expected one file for an answer in {media_type}, got {len(files)}. Ask for {JSON}."
                raise ApiProblem("not-acceptable", detail)
            work = [
                partial(look_at, served.detector, file, query, media_type, service.decoders.decode)
                for file in files
            ]
            return files, await _run(request, service.queue, work)
    except TimeoutError as error:
        if not files:
            detail = f"The upload took over {limit}. Send smaller or fewer files."
            raise ApiProblem("upload-timeout", detail, headers={"Connection": "close"}) from error
        detail = f"The answer took over {limit}. Try again, or send fewer files."
        raise ApiProblem("deadline-exceeded", detail, headers={"Retry-After": "5"}) from error


class Work(Protocol):
    """What is to be done with one file."""

    def __call__(self, *, stopped: Callable[[], bool]) -> Look:
        """Look at it, or raise Stopped."""


def _digests(files: Sequence[SentFile]) -> list[str]:
    return [hashlib.sha256(file.content).hexdigest() for file in files]


async def _run(request: Request, queue: InferenceQueue, work: Sequence[Work]) -> list[Ran[Look]]:
    """Run a request's work in one place, one file after the other, so that many files wait no longer for it.

    When the client goes away or the time is up, what has not begun is dropped, and so are the tiles of a
    picture that nobody has looked at yet.
    """
    dropped = threading.Event()
    future = queue.submit(partial(_one_after_the_other, work, dropped, time.perf_counter()))
    gone = asyncio.ensure_future(_wait_until_gone(request))
    either: set[asyncio.Future[Any]] = {future, gone}
    try:
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if not future.done():
            raise ClientDisconnect
        return future.result().value
    finally:
        dropped.set()
        gone.cancel()
        future.cancel()


def _one_after_the_other(work: Sequence[Work], dropped: threading.Event, submitted: float) -> list[Ran[Look]]:
    looks = []
    with suppress(Stopped):
        for piece in work:
            if dropped.is_set():
                break
            began = time.perf_counter()
            look = piece(stopped=dropped.is_set)
            looks.append(Ran(look, (began - submitted) * 1000, (time.perf_counter() - began) * 1000))
    return looks


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def record(
    metrics: ApiMetrics,
    note: dict[str, Any],
    results: Sequence[ImageResult],
    looks: Sequence[Look],
    card: ModelCard,
) -> None:
    """Count what the model found at its own point, whatever the caller asked to see, and log it."""
    point = alarm_threshold(card)
    labels = Tally(card.class_names[label] for look in looks for label in look.detections.above(point).labels)
    for result in results:
        metrics.files.labels("error" if result.error else "ok").inc()
        metrics.alarms.inc(bool(result.alarm))
        for stage, milliseconds in (result.time_ms.model_dump() if result.time_ms else {}).items():
            metrics.stage_seconds.labels(stage).observe(milliseconds / 1000)
    for look in looks:
        if look.problem is None:
            metrics.weapon_score.observe(weapon_score(look.detections, card))
            metrics.brightness.observe(look.appearance.brightness)
            metrics.sharpness.observe(look.appearance.sharpness)
    for label, count in labels.items():
        metrics.detections.labels(label).inc(count)
    note |= {"operating_point": point, "unsure_point": unsure_threshold(card), "detections": dict(labels)}
    note |= {"alarms": sum(bool(result.alarm) for result in results)}
    note |= {"unsure": sum(result.verdict == "unsure" for result in results)}
    note |= {"time_ms": [result.time_ms.model_dump() if result.time_ms else None for result in results]}
