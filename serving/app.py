"""The application: routes, what every request passes, errors as problems, start and end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response

from detection import runtimes
from detection.decoding import DecoderMissing, Decoders
from detection.devices import NoSuchDevice, choose_device
from detection.runtime import AnyDetector
from serving.bodies import BodyLimit
from serving.cores import granted_cores
from serving.deepstack import recorder_router
from serving.gate import AllowedHosts, RequestFrame
from serving.labelstudio import studio_router
from serving.models import LoadDetector, ModelSource, NoModel, ServedModel
from serving.negotiation import JSON
from serving.openapi import problems
from serving.predict import as_sentence
from serving.problems import ApiProblem, problem_response
from serving.queue import QueueFull
from serving.routes import check_key, open_router, router
from serving.service import Service, make_service, make_source
from serving.together import for_threads
from settings import ApiSettings

log = logging.getLogger("mlapi")


def create_app(
    settings: ApiSettings, load_detector: LoadDetector | None = None, source: ModelSource | None = None
) -> FastAPI:
    """Build the application. Nothing is loaded before it starts.

    Args:
        settings: everything configurable.
        load_detector: folder -> detector; runtimes.load on the chosen device by default.
        source: where models come from; by the settings by default.

    Raises:
        NoSuchDevice: the chosen device is not in this machine.
    """
    load = load_detector or default_loader(settings)
    service = make_service(settings, source or make_source(settings, load))
    app = FastAPIOffline(
        title="Weapon detector",
        description="Finds weapons in hands: pistols, knives, or what the model served calls dangerous. "
        "A possible weapon: a person must confirm.",
        version="1",
        lifespan=_lifespan,
        generate_unique_id_function=lambda route: route.name,
    )
    app.state.service = service
    app.include_router(open_router)
    guards = [Depends(check_key)] if settings.api_keys else []
    app.include_router(router, dependencies=guards, responses=problems("unauthorized") if guards else {})
    app.include_router(recorder_router)  # its key may come in the form
    app.include_router(studio_router)  # its key may come as a password
    _translate_errors(app, keyed=bool(settings.api_keys))
    service.host.on_swap = partial(_show_model, app)
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


def _show_model(app: FastAPI, served: ServedModel) -> None:
    """Show a model that is served now in the metrics, and its classes in the document."""
    service: Service = app.state.service
    service.metrics.show_model(served)
    for parameter in app.openapi()["paths"]["/predict"]["post"]["parameters"]:
        if parameter["name"] == "labels":
            card = served.detector.card
            parameter["schema"]["items"]["enum"] = list(card.class_names[1:])
            parameter["schema"]["examples"] = [list(card.dangerous)]


def default_loader(settings: ApiSettings) -> LoadDetector:
    """Return what loads a model folder by the settings.

    Raises:
        NoSuchDevice: the chosen device is not in this machine.
    """
    device = "cpu"
    if settings.api_device != "cpu":
        if runtimes.torch_installed():
            device = str(choose_device(settings.api_device))
        elif settings.api_device == "cuda":
            raise NoSuchDevice(
                "a graphics card needs PyTorch, which is not installed here: choose cpu, or in containers "
                "the image api-torch"
            )

    def load(folder: Path) -> AnyDetector:
        runtime, threads = settings.api_runtime, granted_cores()
        return for_threads(runtimes.load(folder, runtime=runtime, device=device, threads=threads))

    return load


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
