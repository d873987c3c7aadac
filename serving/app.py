"""The model API: photos in, weapons and look-alikes out.

Run it with the registry's champion:      python mlapi.py
or with a model folder and no tracker:    MODEL_DIR=weights/starter python mlapi.py
All settings:                             python mlapi.py --help
"""

from __future__ import annotations

import threads  # noqa: F401 - before torch

# isort: split
import asyncio
import hashlib
import logging
import socket
import threading
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, Literal

import prometheus_client
import torch
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel
from pythonjsonlogger.core import RESERVED_ATTRS
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

import detector
import imaging
import registry
from answers import (
    JSON,
    PICTURE_FORMATS,
    Look,
    PredictQuery,
    alarm_threshold,
    as_sentence,
    check_labels,
    choose_media_type,
    look_at,
    score_threshold,
    to_result,
)
from decoding import DecoderMissing, Decoders
from detections import WEAPONS, Detections
from devices import NoSuchDevice, choose_device
from gate import (
    BACKLOG,
    PROBLEM_JSON,
    PROBLEMS,
    TYPE_PREFIX,
    AllowedHosts,
    ApiProblem,
    BodyLimit,
    BoundedConnection,
    FairShare,
    KeyRing,
    RequestFrame,
    SentFile,
    note_on,
    problem_response,
    read_files,
)
from schemas import ImageResult, ModelCard, ModelInfo, ModelList, ModelName, PredictResponse
from serving import (
    FallbackSource,
    FolderSource,
    InferenceQueue,
    LoadDetector,
    ModelHost,
    ModelSource,
    NoModel,
    QueueFull,
    Ran,
    RegistrySource,
    ServedModel,
    granted_cores,
)
from settings import ApiSettings, api_settings

log = logging.getLogger("mlapi")

# --- the document -----------------------------------------------------------------------------------

PICTURE = {"schema": {"type": "string", "format": "binary"}}
PREDICT_BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "additionalProperties": False,
                "properties": {
                    "file": {
                        "type": "array",
                        "minItems": 1,
                        "items": PICTURE["schema"],
                        "description": f"Photos to look at: {', '.join(imaging.FORMATS)}.",
                    }
                },
            }
        },
        JSON: {
            "schema": {
                "type": "object",
                "required": ["images"],
                "additionalProperties": False,
                "properties": {
                    "images": {
                        "type": "array",
                        "minItems": 1,
                        "items": {"type": "string", "format": "byte"},
                        "description": "The same photos in base64.",
                    }
                },
            }
        },
    },
}
PREDICT_EXAMPLE = {
    "model": {"name": "weapon-detector", "version": "7", "alias": "champion"},
    "score_threshold": 0.62,
    "results": [
        {
            "file": "street.jpg",
            "image_size": {"width": 1280, "height": 720},
            "alarm": True,
            "detections": [
                {
                    "label": "pistol",
                    "dangerous": True,
                    "score": 0.91,
                    "box": {"x1": 412.5, "y1": 233.0, "x2": 498.1, "y2": 301.7},
                }
            ],
            "time_ms": {"decode": 9.1, "queue": 0.2, "inference": 212.4},
        }
    ],
}
PREDICT_ANSWER: dict[str, Any] = {
    "description": "What was found, one result per file; or, by the Accept header, the annotated picture",
    "content": {JSON: {"example": PREDICT_EXAMPLE}} | dict.fromkeys(PICTURE_FORMATS, PICTURE),
    "headers": {
        "X-Alarm": {"description": "With a picture: what `alarm` says.", "schema": {"type": "boolean"}}
    },
}
PROBLEM_DETAILS = {  # examples of what a problem says, beside its fixed title
    "bad-multipart": "The multipart body cannot be read: Content-Type names no boundary.",
    "bad-image": "The picture cannot be used.",
    "unauthorized": "Send the key as 'X-API-Key: KEY' or 'Authorization: Bearer KEY'.",
    "not-acceptable": "Expected one file for an answer in image/jpeg, got 2. Ask for application/json.",
    "upload-timeout": "The upload took over 30 s. Send smaller or fewer files.",
    "body-too-large": "Expected a body of at most 20,000,000 bytes, got more. Send fewer or smaller files.",
    "image-too-large": "Expected at most 40,000,000 pixels, got 9000 x 6000.",
    "not-multipart": "Expected multipart/form-data with a part named 'file', or application/json, got "
    "'image/jpeg'.",
    "compressed-body": "Expected a body without Content-Encoding, got 'gzip': photos are compressed.",
    "too-many-requests": "Expected at most 8 requests at once from one caller, got more. Try again in 1 s.",
    "not-an-image": "The picture is damaged or cut short: image file is truncated.",
    "invalid-parameters": "score_threshold: Input should be less than or equal to 1, got '80'.",
    "missing-file": "Expected at least one file in a part named 'file', got 'image'.",
    "too-many-files": "Expected at most 8 files in one request, got more. Send several requests.",
    "internal-error": "It is in the log under request id 1f0c5a7e9b3d4e2f8a6c7d8e9f0a1b2c.",
    "not-ready": "The model is being loaded.",
    "queue-full": "Every place in the queue is taken; try again in 2 s.",
    "deadline-exceeded": "The answer took over 30 s. Try again, or send fewer files.",
}

# --- what the process holds -------------------------------------------------------------------------


class ApiMetrics:
    """What Prometheus reads at /metrics. Numbers only."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        make: Any = {"registry": self.registry, "namespace": "weapon_api"}
        self.requests = Counter("requests", "Requests answered", ["route", "method", "status"], **make)
        self.seconds = Histogram("request_seconds", "Whole request", ["route"], **make)
        self.stage_seconds = Histogram(
            "stage_seconds", "One picture in each stage", ["stage"], **make,
            buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30),
        )  # fmt: skip
        self.detections = Counter(
            "detections", "Detections of at least the model's own operating point", ["label"], **make
        )
        self.alarms = Counter("alarms", "Pictures with a possible weapon at the operating point", **make)
        self.files = Counter("files", "Files by outcome", ["outcome"], **make)
        self.waiting = Gauge("queue_length", "Requests that wait for a worker", **make)
        self.watch_trouble = Gauge(
            "watch_trouble", "1 while the newest model cannot be looked up or served: see /model", **make
        )
        self.model = Gauge("model_info", "1 for the model served", ["name", "version", "alias"], **make)
        prometheus_client.ProcessCollector(registry=self.registry)

    def observe(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one answer."""
        self.requests.labels(route, method, str(status)).inc()
        self.seconds.labels(route).observe(seconds)

    def show_model(self, served: ServedModel) -> None:
        """Name the model served from now on."""
        self.model.clear()
        name = served.name
        self.model.labels(name.name, name.version or "", name.alias or "").set(1)


@dataclass(frozen=True)
class Service:
    """Everything the routes share."""

    settings: ApiSettings
    queue: InferenceQueue
    decoders: Decoders
    host: ModelHost
    metrics: ApiMetrics
    keys: KeyRing
    share: FairShare
    uploads: asyncio.Semaphore


def make_service(settings: ApiSettings, source: ModelSource) -> Service:
    """Build the queue, sized to the cores granted, and what watches the model."""
    set_up = partial(torch.set_num_threads, granted_cores())  # each thread has its own number
    queue = InferenceQueue(settings.api_workers, settings.api_queue_size, set_up)
    seconds = min(settings.api_decode_seconds, settings.api_deadline_seconds)
    decoders = Decoders(settings.api_workers, settings.api_max_pixels, seconds)
    metrics = ApiMetrics()
    host = ModelHost(source, queue.run_aside, settings.api_watch_seconds)
    host.on_swap = metrics.show_model
    metrics.waiting.set_function(lambda: queue.waiting)
    metrics.watch_trouble.set_function(lambda: host.trouble is not None)
    share = FairShare(settings.api_caller_requests, settings.api_caller_requests_per_minute)
    uploads = asyncio.Semaphore(settings.api_max_uploads)
    return Service(settings, queue, decoders, host, metrics, KeyRing(settings.named_keys), share, uploads)


def make_source(settings: ApiSettings, load_detector: LoadDetector) -> ModelSource:
    """Return where models come from: MODEL_DIR if set, else the registry, else API_FALLBACK_DIR."""
    if settings.model_dir is not None:
        return FolderSource(settings.model_dir, settings.model_name, load_detector)
    registry.use_tracker(settings.mlflow_tracking_uri)  # while there is one thread
    registered = RegistrySource(
        settings.model_name,
        settings.model_version,
        settings.model_alias,
        find_version=partial(registry.find_version, tracking_uri=settings.mlflow_tracking_uri),
        download_version=registry.download_version,
        load_detector=load_detector,
        list_versions=partial(registry.list_versions, tracking_uri=settings.mlflow_tracking_uri),
        public_uri=settings.mlflow_public_uri,
        kept_in=settings.api_cache_dir,
    )
    if settings.api_fallback_dir is None or settings.model_version is not None:
        return registered
    folder = FolderSource(settings.api_fallback_dir, settings.model_name, load_detector)
    return FallbackSource(registered, folder)


# --- routes -----------------------------------------------------------------------------------------

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


def problems(*names: str) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI description of these problems, by status."""
    responses: dict[int | str, dict[str, Any]] = {}
    for name in names:
        status, title = PROBLEMS[name]
        response = responses.setdefault(status, {"description": "", "content": {PROBLEM_JSON: {}}})
        response["description"] = "; ".join(filter(None, [response["description"], title]))
        content = response["content"][PROBLEM_JSON]
        content["schema"] = {"$ref": "#/components/schemas/Problem"}
        example = {"type": TYPE_PREFIX + name, "title": title, "status": status}
        example["detail"] = PROBLEM_DETAILS[name]
        content.setdefault("examples", {})[name] = {"value": example}
    return responses


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
        dangerous=list(WEAPONS),
        version_url=served.version_url,
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
    """Find pistols, knives and the things taken for them in one or several photos.

    With several files, one that cannot be read has `error` in place of detections; with one file, that
    error is the answer. `alarm` is about all that the model found, whatever the parameters leave out. Any
    alarm is a possible weapon: a person must confirm.
    """
    media_type = choose_media_type(", ".join(request.headers.getlist("accept")))
    served = service.host.served  # one model for the whole request, whatever is loaded meanwhile
    card = served.detector.card
    check_labels(query, card)
    note = note_on(request.scope)
    with service.share.request_of(note.get("caller") or note["client"]):
        files, looks = await _look_in_time(request, query, service, served, media_type)
    if len(files) == 1 and looks[0].value.problem is not None:
        service.metrics.files.labels("error").inc()
        raise looks[0].value.problem
    results = [
        to_result(file, look, card, query, note["request_id"])
        for file, look in zip(files, looks, strict=True)
    ]
    threshold = score_threshold(card, query)
    _record(service.metrics, note, results, [look.value.detections for look in looks], card)
    note["score_threshold"] = threshold
    if media_type != JSON:
        service.metrics.stage_seconds.labels("encode").observe(looks[0].value.encode_ms / 1000)
        headers = {"X-Alarm": str(bool(results[0].alarm)).lower()}
        return Response(looks[0].value.picture, media_type=media_type, headers=headers)
    answer = PredictResponse(model=served.name, score_threshold=threshold, results=results)
    return Response(answer.model_dump_json(exclude_unset=True), media_type=JSON)


async def _look_in_time(
    request: Request, query: PredictQuery, service: Service, served: ServedModel, media_type: str
) -> tuple[list[SentFile], list[Ran[Look]]]:
    """Read the files and look at each, all before the deadline."""
    settings, note = service.settings, note_on(request.scope)
    service.queue.check_room(full=service.uploads.locked())  # refuse before the upload, not after it
    limit = f"{settings.api_deadline_seconds:g} s"
    files: list[SentFile] = []
    try:
        async with asyncio.timeout(settings.api_deadline_seconds):
            async with service.uploads:
                files = await read_files(request, max_files=settings.api_max_files)
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


def _digests(files: Sequence[SentFile]) -> list[str]:
    return [hashlib.sha256(file.content).hexdigest() for file in files]


async def _run(
    request: Request, queue: InferenceQueue, work: Sequence[Callable[[], Look]]
) -> list[Ran[Look]]:
    """Run a request's work in one place, one file after the other, so that many files wait no longer for it.

    When the client goes away or the time is up, what has not begun is dropped.
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


def _one_after_the_other(
    work: Sequence[Callable[[], Look]], dropped: threading.Event, submitted: float
) -> list[Ran[Look]]:
    looks = []
    for piece in work:
        if dropped.is_set():
            break
        began = time.perf_counter()
        looks.append(Ran(piece(), (began - submitted) * 1000, (time.perf_counter() - began) * 1000))
    return looks


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _record(
    metrics: ApiMetrics,
    note: dict[str, Any],
    results: Sequence[ImageResult],
    found: Sequence[Detections],
    card: ModelCard,
) -> None:
    """Count what the model found at its own point, whatever the caller asked to see, and log it."""
    point = alarm_threshold(card)
    labels = Tally(card.class_names[label] for each in found for label in each.above(point).labels)
    for result in results:
        metrics.files.labels("error" if result.error else "ok").inc()
        metrics.alarms.inc(bool(result.alarm))
        for stage, milliseconds in (result.time_ms.model_dump() if result.time_ms else {}).items():
            metrics.stage_seconds.labels(stage).observe(milliseconds / 1000)
    for label, count in labels.items():
        metrics.detections.labels(label).inc(count)
    note |= {"operating_point": point, "detections": dict(labels)}
    note |= {"alarms": sum(bool(result.alarm) for result in results)}
    note |= {"time_ms": [result.time_ms.model_dump() if result.time_ms else None for result in results]}


# --- the application --------------------------------------------------------------------------------


def create_app(
    settings: ApiSettings, load_detector: LoadDetector | None = None, source: ModelSource | None = None
) -> FastAPI:
    """Build the application. Nothing is loaded before it starts.

    Args:
        settings: everything configurable.
        load_detector: folder -> detector; detector.load_folder on the chosen device by default.
        source: where models come from; by the settings by default.

    Raises:
        NoSuchDevice: the chosen device is not in this machine.
    """
    load = load_detector or partial(detector.load_folder, device=choose_device(settings.api_device))
    service = make_service(settings, source or make_source(settings, load))
    app = FastAPIOffline(
        title="Weapon detector",
        description="Finds pistols and knives in hands. A possible weapon: a person must confirm.",
        version="1",
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.include_router(open_router)
    guards = [Depends(check_key)] if settings.api_keys else []
    app.include_router(router, dependencies=guards, responses=problems("unauthorized") if guards else {})
    _translate_errors(app, keyed=bool(settings.api_keys))
    bodies = app.openapi()["paths"]["/predict"]["post"]["requestBody"]["content"]
    for media_type, name in (("multipart/form-data", "file"), (JSON, "images")):
        bodies[media_type]["schema"]["properties"][name]["maxItems"] = settings.api_max_files
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    if settings.api_cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.api_cors_origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID"],
            expose_headers=["X-Request-ID", "X-Alarm", "Retry-After"],
        )  # fmt: skip
    app.add_middleware(AllowedHosts, hosts=settings.allowed_hosts)
    app.add_middleware(
        RequestFrame, observe=service.metrics.observe, send_seconds=settings.api_deadline_seconds
    )
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load and follow the model beside the requests; at the end, finish what was accepted."""
    service: Service = app.state.service
    starting = asyncio.create_task(_start_decoders(service.decoders))
    watching = asyncio.create_task(service.host.watch())
    yield
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    await starting
    if not service.queue.close(service.settings.api_deadline_seconds):
        log.error("a worker is stuck and is left behind")
    service.decoders.close()


async def _start_decoders(decoders: Decoders) -> None:
    try:
        await asyncio.to_thread(decoders.start)
    except (DecoderMissing, OSError) as error:
        log.error(f"no photo can be decoded: {error}")


def _translate_errors(app: FastAPI, *, keyed: bool) -> None:
    """Turn every error that a route can raise into a problem document, in this one place.

    Args:
        app: gets the handlers.
        keyed: whether routes with details want a key.
    """

    @app.exception_handler(ApiProblem)
    async def problem(request: Request, error: ApiProblem) -> Response:
        return problem_response(error, request.scope)

    @app.exception_handler(NoModel)
    async def not_ready(request: Request, error: NoModel) -> Response:
        headers = {"Retry-After": "5"}
        detail = as_sentence(error)
        if request.url.path == "/ready" and keyed:  # a stranger learns no addresses
            detail = "No model is loaded. GET /model with a key says why."
        return problem_response(ApiProblem("not-ready", detail, headers=headers), request.scope)

    @app.exception_handler(QueueFull)
    async def queue_full(request: Request, error: QueueFull) -> Response:
        headers = {"Retry-After": str(error.retry_after_seconds)}
        return problem_response(ApiProblem("queue-full", as_sentence(error), headers=headers), request.scope)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {
                "parameter": ".".join(str(part) for part in item["loc"][1:])[:100],
                "message": "There is no such parameter; /docs lists those there are"
                if item["type"] == "extra_forbidden"
                else f"{item['msg']}, got {str(item['input'])[:50]!r}",
            }
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['parameter']}: {item['message']}" for item in errors) + "."
        return problem_response(ApiProblem("invalid-parameters", detail, errors=errors), request.scope)

    @app.exception_handler(HTTPException)
    async def http_error(request: Request, error: HTTPException) -> Response:
        names = {404: "not-found", 405: "method-not-allowed"}
        name = names.get(error.status_code, "bad-request")
        details = {
            "not-found": "/docs lists what there is.",
            "method-not-allowed": f"{request.method} is not among what this address takes; see /docs.",
        }
        found = ApiProblem(name, details.get(name, str(error.detail)), headers=error.headers)
        return problem_response(found, request.scope)


def logging_config(level: str) -> dict[str, Any]:
    """Return the logging set-up: one JSON object a line, for ours and uvicorn's loggers alike."""
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {
            "json": {
                "()": "pythonjsonlogger.json.JsonFormatter",
                "format": "{levelname}{name}{message}",
                "style": "{",
                "timestamp": "time",
                "reserved_attrs": [*RESERVED_ATTRS, "color_message"],
                "rename_fields": {"levelname": "level", "name": "logger"},
            }
        },
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
        "root": {"handlers": ["stderr"], "level": "WARNING"},
        "filters": {"told_by_us": {"()": lambda: _is_not_told_by_us}},
        "loggers": {
            "uvicorn.error": {"filters": ["told_by_us"]},
            "mlapi": {"level": level.upper()},
            "py.warnings": {"level": "ERROR"},
            "uvicorn": {"level": "INFO"},
        },
    }


def _is_not_told_by_us(record: logging.LogRecord) -> bool:
    """Leave out uvicorn's error for a client that never reads: the request's own line says 499."""
    return "returned without completing response" not in record.getMessage()


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens there, or say why none can and exit."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        where = f"{host}:{port}"
        raise SystemExit(f"error: cannot listen on {where}: {error}. Set API_PORT to a free port.") from error
    # asyncio turns Nagle's algorithm off on sockets of its own making only; with it, each answer waits 40 ms
    # for the client's delayed acknowledgement. Accepted connections inherit the option.
    listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listening


def main() -> None:
    """Serve until told to stop."""
    settings = api_settings()
    logging.captureWarnings(True)
    try:
        app = create_app(settings)
    except NoSuchDevice as error:
        raise SystemExit(f"error: API_DEVICE={settings.api_device}: {error}") from error
    config = uvicorn.Config(
        app,
        log_config=logging_config(settings.api_log_level),
        access_log=False,
        server_header=False,
        http=BoundedConnection,
        backlog=BACKLOG,
        ws="none",
        timeout_graceful_shutdown=int(settings.api_deadline_seconds) + 5,
    )
    listening = listen(settings.api_host, settings.api_port)
    host, port = listening.getsockname()[:2]
    log.info("listening", extra={"url": f"http://{f'[{host}]' if ':' in host else host}:{port}"})
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
