"""What one process of the API holds: settings, model, queue, decoders and counters."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from functools import partial
from typing import Any

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from detection.appearance import BRIGHTNESS_EDGES, SCORE_EDGES, SHARPNESS_EDGES
from detection.decoding import Decoders
from serving.gate import FairShare, KeyRing
from serving.models import (
    FallbackSource,
    FolderSource,
    LoadDetector,
    ModelHost,
    ModelSource,
    RegistrySource,
    ServedModel,
)
from serving.queue import InferenceQueue
from settings import ApiSettings
from tracking import tracker, versions


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
        # What `archive.py report` compares with the validation split.
        self.weapon_score = Histogram(
            "weapon_score", "Best score of a weapon in a picture, 0 where there is none", **make,
            buckets=SCORE_EDGES,
        )  # fmt: skip
        self.brightness = Histogram(
            "picture_brightness", "Mean shade of a picture", **make, buckets=BRIGHTNESS_EDGES
        )
        self.sharpness = Histogram(
            "picture_sharpness", "Variance of a picture's Laplacian", **make, buckets=SHARPNESS_EDGES
        )
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
    queue = InferenceQueue(settings.api_workers, settings.api_queue_size)
    seconds = min(settings.api_decode_seconds, settings.api_deadline_seconds)
    decoders = Decoders(settings.api_workers, settings.api_max_pixels, seconds)
    metrics = ApiMetrics()
    host = ModelHost(source, queue.run_aside, settings.api_watch_seconds)
    metrics.waiting.set_function(lambda: queue.waiting)
    metrics.watch_trouble.set_function(lambda: host.trouble is not None)
    share = FairShare(settings.api_caller_requests, settings.api_caller_requests_per_minute)
    uploads = asyncio.Semaphore(settings.api_max_uploads)
    return Service(settings, queue, decoders, host, metrics, KeyRing(settings.named_keys), share, uploads)


def make_source(settings: ApiSettings, load_detector: LoadDetector) -> ModelSource:
    """Return where models come from: MODEL_DIR if set, else the registry, else API_FALLBACK_DIR."""
    if settings.model_dir is not None:
        return FolderSource(settings.model_dir, settings.model_name, load_detector)
    tracker.use_tracker(settings.mlflow_tracking_uri)  # while there is one thread
    registered = RegistrySource(
        settings.model_name,
        settings.model_version,
        settings.model_alias,
        find_version=partial(versions.find_version, tracking_uri=settings.mlflow_tracking_uri),
        download_version=versions.download_version,
        load_detector=load_detector,
        list_versions=partial(versions.list_versions, tracking_uri=settings.mlflow_tracking_uri),
        public_uri=settings.mlflow_public_uri,
        kept_in=settings.api_cache_dir,
    )
    if settings.api_fallback_dir is None or settings.model_version is not None:
        return registered
    folder = FolderSource(settings.api_fallback_dir, settings.model_name, load_detector)
    return FallbackSource(registered, folder)
