"""The model API: photos in, weapons and look-alikes out.

Run it with the registry's champion:      python mlapi.py
or with a model folder and no tracker:    MODEL_DIR=weights/starter python mlapi.py
All settings:                             python mlapi.py --help
"""

from __future__ import annotations

import asyncio
import re
import socket
import time
from collections import Counter as Tally
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Annotated, Any

import numpy as np
import prometheus_client
import torch
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Query, Request, Security
from fastapi.exceptions import RequestValidationError
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer
from fastapi_offline import FastAPIOffline
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from pydantic import BaseModel, ConfigDict, Field
from pythonjsonlogger.core import RESERVED_ATTRS
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect
from starlette.responses import Response

import detector
import imaging
import registry
from detections import CLASS_NAMES, WEAPONS, Detections
from gate import (
    ApiProblem,
    BodyLimit,
    KeyRing,
    RequestFrame,
    SentFile,
    note_on,
    problem_response,
    read_files,
)
from schemas import (
    Box,
    Detection,
    ImageResult,
    ImageSize,
    ModelCard,
    ModelInfo,
    PredictResponse,
    TimeMs,
)
from serving import (
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

CORES_PER_WORKER = 4  # beyond a few threads one picture gains little: more workers use the cores better


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
        self.detections = Counter("detections", "Detections answered", ["label"], **make)
        self.alarms = Counter("alarms", "Pictures with a possible weapon at the operating point", **make)
        self.files = Counter("files", "Files by outcome", ["outcome"], **make)
        self.waiting = Gauge("queue_length", "Pictures that wait for a worker", **make)
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
    host: ModelHost
    metrics: ApiMetrics
    keys: KeyRing
    uploads: asyncio.Semaphore


def make_service(settings: ApiSettings, source: ModelSource) -> Service:
    """Build the queue, sized to the cores granted, and what watches the model."""
    cores = granted_cores()
    workers = settings.api_workers or max(1, cores // CORES_PER_WORKER)
    threads = max(1, cores // workers)
    queue = InferenceQueue(workers, settings.api_queue_size, partial(torch.set_num_threads, threads))
    metrics = ApiMetrics()
    host = ModelHost(source, lambda work: queue.submit([work])[0], settings.api_watch_seconds)
    host.on_swap = metrics.show_model
    metrics.waiting.set_function(lambda: queue.waiting)
    keys = KeyRing([key.get_secret_value() for key in settings.api_keys])
    return Service(settings, queue, host, metrics, keys, asyncio.Semaphore(settings.api_max_uploads))


def make_source(settings: ApiSettings, load_detector: LoadDetector) -> ModelSource:
    """Return where models come from: MODEL_DIR if set, else the registry."""
    if settings.model_dir is not None:
        return FolderSource(settings.model_dir, settings.model_name, load_detector)
    return RegistrySource(
        settings.model_name,
        settings.model_version,
        settings.model_alias,
        find_version=partial(registry.find_version, tracking_uri=settings.mlflow_tracking_uri),
        download_version=registry.download_version,
        load_detector=load_detector,
    )


# --- routes -----------------------------------------------------------------------------------------

api_key_header = APIKeyHeader(name="X-API-Key", auto_error=False)
bearer = HTTPBearer(auto_error=False)


def get_service(request: Request) -> Service:
    """Return what create_app put there."""
    service: Service = request.app.state.service
    return service


ServiceDep = Annotated[Service, Depends(get_service)]


def check_key(
    service: ServiceDep,
    key: Annotated[str | None, Security(api_key_header)],
    token: Annotated[HTTPAuthorizationCredentials | None, Security(bearer)],
) -> None:
    """Let only holders of a key in, where keys are set."""
    service.keys.check(key if key is not None else token.credentials if token else None)


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {status: {"description": "A problem document", "content": content} for status in statuses}


open_router = APIRouter()
router = APIRouter(dependencies=[Depends(check_key)], responses=_problems(401))


class PredictQuery(BaseModel):
    """What a caller may choose. A misspelt name is an error."""

    model_config = ConfigDict(extra="forbid")

    score_threshold: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False,
        description="keep detections of at least this score; the model's operating point by default",
    )  # fmt: skip
    labels: list[str] = Field(
        default_factory=list, description="keep only these labels; may be repeated; all by default",
        json_schema_extra={"items": {"type": "string", "enum": list(CLASS_NAMES[1:])}},
    )  # fmt: skip
    nms_iou: float | None = Field(
        None, gt=0, le=1, allow_inf_nan=False,
        description="overlap above which the lower of two boxes of a label goes; the model's by default",
    )  # fmt: skip
    max_detections: int | None = Field(
        None, ge=1, le=1000, description="keep this many of the best that are left; the model's by default"
    )
    probabilities: bool = Field(False, description="add each detection's probability of every class")


@open_router.get("/health")
async def health() -> dict[str, str]:
    """Answer while the process lives."""
    return {"status": "ok"}


@open_router.get("/ready", responses=_problems(503))
async def ready(service: ServiceDep) -> dict[str, Any]:
    """Answer 200 once a model is loaded and warmed up, else 503 with the reason."""
    return {"status": "ready", "model": service.host.served.name.model_dump()}


@open_router.get("/metrics", include_in_schema=False, dependencies=[Depends(check_key)])
async def metrics(service: ServiceDep) -> Response:
    """Answer what Prometheus reads."""
    content = prometheus_client.generate_latest(service.metrics.registry)
    return Response(content, media_type=prometheus_client.CONTENT_TYPE_LATEST)


@router.get("/model", responses=_problems(503))
async def model(service: ServiceDep) -> ModelInfo:
    """Say which model is served, its classes, operating point, metrics, run and data."""
    served = service.host.served
    return ModelInfo(
        model=served.name,
        source=served.source,
        loaded_at=served.loaded_at,
        card=served.detector.card,
        dangerous=list(WEAPONS),
        watch_error=service.host.trouble,
    )


@router.post(
    "/predict", response_model=PredictResponse, responses=_problems(400, 406, 408, 413, 415, 422, 503, 504)
)
async def predict(request: Request, query: Annotated[PredictQuery, Query()], service: ServiceDep) -> Response:
    """Find pistols, knives and their look-alikes in one or several photos."""
    media_type = choose_media_type(request.headers.get("accept", ""))
    served = service.host.served
    service.queue.check_room()  # refuse before the upload, not after it
    files, looks = await _look_in_time(request, query, service, served)
    if len(files) > 1 and media_type != JSON:
        raise ApiProblem(
            "not-acceptable", f"Expected one file for an answer in {media_type}, got {len(files)}."
        )
    if len(files) == 1 and looks[0].value.problem is not None:
        raise looks[0].value.problem
    card = served.detector.card
    threshold = default_threshold(card) if query.score_threshold is None else query.score_threshold
    kept = [choose(look.value.detections, card, threshold, query) for look in looks]
    request_id = note_on(request.scope)["request_id"]
    results = [
        to_result(file, look, found, card, request_id)
        for file, look, found in zip(files, looks, kept, strict=True)
    ]
    _record(service.metrics, note_on(request.scope), results, threshold)
    if media_type == JSON:
        answer = PredictResponse(model=served.name, score_threshold=threshold, results=results)
        return Response(answer.model_dump_json(exclude_unset=True), media_type=JSON)
    return await _annotated(service.metrics, looks[0].value.image, results[0], media_type)


async def _look_in_time(
    request: Request, query: PredictQuery, service: Service, served: ServedModel
) -> tuple[list[SentFile], list[Ran[Look]]]:
    """Read the files and look at each, all before the deadline."""
    settings, note = service.settings, note_on(request.scope)
    limit = f"{settings.api_deadline_seconds:g} s"
    files: list[SentFile] = []
    try:
        async with asyncio.timeout(settings.api_deadline_seconds):
            async with service.uploads:
                files = await read_files(request, max_files=settings.api_max_files)
            note |= {"files": len(files), "bytes": sum(len(file.content) for file in files)}
            note |= {"model_version": served.name.version}
            work = [partial(look_at, served, file, query, settings.api_max_pixels) for file in files]
            return files, await _run(request, service.queue, work)
    except TimeoutError as error:
        if not files:
            detail = f"The upload took over {limit}. Send smaller or fewer files."
            raise ApiProblem("upload-timeout", detail) from error
        detail = f"The answer took over {limit}. Try again, or send fewer files."
        raise ApiProblem("deadline-exceeded", detail, headers={"Retry-After": "5"}) from error


async def _run(
    request: Request, queue: InferenceQueue, work: Sequence[Callable[[], Look]]
) -> list[Ran[Look]]:
    """Run the work; drop what has not begun when the client goes away or the time is up."""
    futures = queue.submit(work)
    everything = asyncio.gather(*futures)
    gone = asyncio.ensure_future(_wait_until_gone(request))
    waited_for: set[asyncio.Future[Any]] = {everything, gone}
    try:
        await asyncio.wait(waited_for, return_when=asyncio.FIRST_COMPLETED)
        if not everything.done():
            raise ClientDisconnect
        return everything.result()
    finally:
        gone.cancel()
        for future in futures:
            future.cancel()


async def _wait_until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


# --- one picture ------------------------------------------------------------------------------------


NO_IMAGE: imaging.Image = np.zeros((0, 0, 3), np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Look:
    """What one file gave: an image with detections, or the problem in their place."""

    image: imaging.Image = field(default_factory=lambda: NO_IMAGE)
    detections: Detections = field(default_factory=Detections.empty)
    problem: ApiProblem | None = None
    decode_ms: float = 0
    inference_ms: float = 0


def look_at(served: ServedModel, file: SentFile, query: PredictQuery, max_pixels: int) -> Look:
    """Decode one file and run the detector on it. Runs in an inference thread."""
    began = time.perf_counter()
    try:
        image = imaging.decode_image(file.content, max_pixels=max_pixels)
    except imaging.ImageError as error:
        return Look(problem=ApiProblem(IMAGE_PROBLEMS.get(type(error), "bad-image"), _sentence(error)))
    decoded = time.perf_counter()
    found = served.detector.detect(image, nms_iou=query.nms_iou, probabilities=query.probabilities)
    ended = time.perf_counter()
    return Look(image, found, None, (decoded - began) * 1000, (ended - decoded) * 1000)


IMAGE_PROBLEMS = {imaging.NotAnImage: "not-an-image", imaging.ImageTooLarge: "image-too-large"}


def _sentence(error: Exception) -> str:
    text = str(error)
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


def default_threshold(card: ModelCard) -> float:
    """Return the score from which a weapon is an alarm: the operating point, measured on validation."""
    return card.operating_point.score_threshold if card.operating_point else card.network.box_score_thresh


def choose(found: Detections, card: ModelCard, threshold: float, query: PredictQuery) -> Detections:
    """Return the detections that the caller asked for."""
    kept = found.above(threshold)
    if query.labels:
        kept = kept.of([card.class_names.index(name) for name in query.labels if name in card.class_names])
    return kept.take(slice(query.max_detections))


def to_result(
    file: SentFile, ran: Ran[Look], chosen: Detections, card: ModelCard, request_id: str
) -> ImageResult:
    """Return the answer for one file. The alarm looks at every detection, not only at those chosen."""
    look = ran.value
    if look.problem is not None:
        return ImageResult(file=file.name, error=look.problem.document(request_id))
    height, width = look.image.shape[:2]
    weapons = look.detections.of([card.class_names.index(name) for name in WEAPONS])
    times = {"decode": look.decode_ms, "queue": ran.queue_ms, "inference": look.inference_ms}
    return ImageResult(
        file=file.name,
        image_size=ImageSize(width=width, height=height),
        alarm=len(weapons.above(default_threshold(card))) > 0,
        detections=to_detections(chosen, card),
        time_ms=TimeMs(**{stage: round(value, 2) for stage, value in times.items()}),
    )


def to_detections(found: Detections, card: ModelCard) -> list[Detection]:
    """Return detections as they cross the wire."""
    answer = []
    for i, (label, score, box) in enumerate(zip(found.labels, found.scores, found.boxes, strict=True)):
        name = card.class_names[label]
        x1, y1, x2, y2 = (shortest(value) for value in box)
        fields: dict[str, Any] = {"label": name, "dangerous": name in WEAPONS, "score": shortest(score)}
        fields["box"] = Box(x1=x1, y1=y1, x2=x2, y2=y2)
        if found.probabilities is not None:
            row = zip(card.class_names, found.probabilities[i], strict=True)
            fields["probabilities"] = {class_name: shortest(value) for class_name, value in row}
        answer.append(Detection(**fields))
    return answer


def shortest(value: Any) -> float:
    """Return a float32 as the shortest decimal that reads back as the same float32."""
    return float(str(value))


def _record(metrics: ApiMetrics, note: dict[str, Any], results: list[ImageResult], threshold: float) -> None:
    """Count what was found and add it to the request's log line."""
    labels: Tally[str] = Tally()
    for result in results:
        metrics.files.labels("error" if result.error else "ok").inc()
        metrics.alarms.inc(bool(result.alarm))
        labels.update(detection.label for detection in result.detections or [])
        for stage, milliseconds in (result.time_ms.model_dump() if result.time_ms else {}).items():
            metrics.stage_seconds.labels(stage).observe(milliseconds / 1000)
    for label, count in labels.items():
        metrics.detections.labels(label).inc(count)
    note |= {"score_threshold": threshold, "detections": dict(labels)}
    note |= {"alarms": sum(bool(result.alarm) for result in results)}
    note |= {"time_ms": [result.time_ms.model_dump() if result.time_ms else None for result in results]}


# --- a picture as the answer ------------------------------------------------------------------------

JSON = "application/json"
PICTURE_FORMATS = {"image/jpeg": "JPEG", "image/png": "PNG"}
ENGLISH = {"billete": "banknote", "monedero": "wallet", "tarjeta": "bank card"}


def choose_media_type(accept: str) -> str:
    """Return the media type to answer in, by the Accept header's preferences (RFC 9110, 12.5.1).

    Raises:
        ApiProblem: it takes none of JSON, JPEG and PNG.
    """
    wanted = []
    for item in accept.split(","):
        name, *parameters = (part.strip().lower() for part in item.split(";"))
        quality = next((part[2:] for part in parameters if part.startswith("q=")), "1")
        weight = float(quality) if re.fullmatch(r"[01](\.\d{0,3})?", quality) else 0.0
        if name and weight > 0:
            wanted.append((-weight, name))
    for _, name in sorted(wanted, key=lambda item: item[0]):
        for offered in (JSON, *PICTURE_FORMATS):
            if name in (offered, "*/*", offered.split("/")[0] + "/*"):
                return offered
    if wanted:
        raise ApiProblem("not-acceptable", f"Expected Accept to name {JSON}, image/jpeg or image/png.")
    return JSON


async def _annotated(
    metrics: ApiMetrics, image: imaging.Image, result: ImageResult, media_type: str
) -> Response:
    """Return the picture with its boxes drawn in."""
    began = time.perf_counter()
    content = await asyncio.to_thread(draw_result, image, result, PICTURE_FORMATS[media_type])
    metrics.stage_seconds.labels("encode").observe(time.perf_counter() - began)
    return Response(content, media_type=media_type, headers={"X-Alarm": str(bool(result.alarm)).lower()})


def draw_result(image: imaging.Image, result: ImageResult, image_format: str) -> bytes:
    """Draw a result's detections on its image and encode that."""
    found = result.detections or []
    boxes = [[item.box.x1, item.box.y1, item.box.x2, item.box.y2] for item in found]
    captions = [f"{ENGLISH.get(item.label, item.label)} {item.score:.2f}" for item in found]
    drawn = imaging.draw_boxes(
        image, np.array(boxes, np.float32).reshape(-1, 4), captions, [item.dangerous for item in found]
    )
    return imaging.encode_image(drawn, image_format)


# --- the application --------------------------------------------------------------------------------


def create_app(
    settings: ApiSettings, load_detector: LoadDetector | None = None, source: ModelSource | None = None
) -> FastAPI:
    """Build the application. Nothing is loaded before it starts.

    Args:
        settings: everything configurable.
        load_detector: folder -> detector; detector.load_folder on the chosen device by default.
        source: where models come from; by the settings by default.
    """
    load = load_detector or partial(detector.load_folder, device=settings.api_device)
    service = make_service(settings, source or make_source(settings, load))
    app = FastAPIOffline(
        title="Weapon detector",
        description="Finds pistols and knives in hands. A possible weapon: a person must confirm.",
        version="1",
        lifespan=_lifespan,
    )
    app.state.service = service
    app.include_router(open_router)
    app.include_router(router)
    _translate_errors(app)
    app.add_middleware(BodyLimit, max_bytes=settings.max_body_bytes)
    app.add_middleware(RequestFrame, observe=service.metrics.observe)
    if settings.api_cors_origins:
        app.add_middleware(
            CORSMiddleware, allow_origins=list(settings.api_cors_origins), allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "X-API-Key", "X-Request-ID"], expose_headers=["X-Request-ID"],
        )  # fmt: skip
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load and follow the model beside the requests; at the end, finish what was accepted."""
    service: Service = app.state.service
    watching = asyncio.create_task(service.host.watch())
    yield
    watching.cancel()
    with suppress(asyncio.CancelledError):
        await watching
    service.queue.close()


def _translate_errors(app: FastAPI) -> None:
    """Turn every error that a route can raise into a problem document, in this one place."""

    @app.exception_handler(ApiProblem)
    async def problem(request: Request, error: ApiProblem) -> Response:
        return problem_response(error, request.scope)

    @app.exception_handler(NoModel)
    async def not_ready(request: Request, error: NoModel) -> Response:
        headers = {"Retry-After": "5"}
        return problem_response(ApiProblem("not-ready", _sentence(error), headers=headers), request.scope)

    @app.exception_handler(QueueFull)
    async def queue_full(request: Request, error: QueueFull) -> Response:
        headers = {"Retry-After": str(error.retry_after_seconds)}
        return problem_response(ApiProblem("queue-full", _sentence(error), headers=headers), request.scope)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        errors = [
            {"parameter": ".".join(str(part) for part in item["loc"][1:]), "message": item["msg"]}
            for item in error.errors()
        ]
        detail = "; ".join(f"{item['parameter']}: {item['message']}" for item in errors)
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
        "loggers": {"mlapi": {"level": level.upper()}, "uvicorn": {"level": "INFO"}},
    }


def main() -> None:
    """Serve until told to stop."""
    settings = api_settings()
    config = uvicorn.Config(
        create_app(settings),
        log_config=logging_config(settings.api_log_level),
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=int(settings.api_deadline_seconds) + 5,
    )
    family = socket.AF_INET6 if ":" in settings.api_host else socket.AF_INET
    try:
        listening = socket.create_server((settings.api_host, settings.api_port), family=family, backlog=2048)
    except OSError as error:
        where = f"{settings.api_host}:{settings.api_port}"
        raise SystemExit(f"error: cannot listen on {where}: {error}. Set API_PORT to a free port.") from error
    uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
