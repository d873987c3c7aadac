"""A detector that finds what it is told to, at once or when it is let go, and a live server around it."""

import contextlib
import io
import socket
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import uvicorn
from conftest import LONGEST_S, wait_until
from PIL import Image as PillowImage

from detection.detections import CLASS_NAMES, Detections
from schemas import ModelCard, NetworkConfig, OperatingPoint
from settings import ApiSettings

PISTOL, KNIFE, PHONE = (CLASS_NAMES.index(name) for name in ("pistol", "knife", "smartphone"))
OPERATING_POINT = OperatingPoint(
    score_threshold=0.6, rule="test", split="val", precision=0.9, recall=0.8, image_recall=0.9,
    false_alarms_per_1000=10, weapon_images=100, weapon_free_images=100,
)  # fmt: skip


def make_card(**changes) -> ModelCard:
    network = NetworkConfig(architecture="fake", min_size=32, max_size=48, box_detections_per_img=5)
    given = {"network": network, "class_names": CLASS_NAMES, "operating_point": OPERATING_POINT, **changes}
    return ModelCard(**given)


def found(*items: tuple[int, float]) -> Detections:
    """Return detections (label, score), best first, each in a box of its own."""
    boxes = [[10 * i, 1, 10 * i + 8.5, 5] for i in range(len(items))]
    labels, scores = [label for label, _ in items], [score for _, score in items]
    rows = np.full((len(items), len(CLASS_NAMES)), 0.01, np.float32)
    for row, label, score in zip(rows, labels, scores, strict=True):
        row[label] = score
    return Detections(
        np.array(boxes, np.float32).reshape(-1, 4),
        np.array(scores, np.float32),
        np.array(labels, np.int64),
        rows,
    )


class FakeDetector:
    """Answers what it was given. Waits for `gate`, when told to wait."""

    def __init__(self, detections: Detections | None = None, card: ModelCard | None = None) -> None:
        self.card = card or make_card()
        self.detections = found((PISTOL, 0.9), (PHONE, 0.5)) if detections is None else detections
        self.calls: list[dict[str, Any]] = []
        self.gate = threading.Event()
        self.gate.set()
        self.error: Exception | None = None

    def detect(self, image, *, nms_iou=None, max_detections=None, probabilities=False) -> Detections:
        self.calls.append({"shape": image.shape, "nms_iou": nms_iou, "max_detections": max_detections})
        assert self.gate.wait(LONGEST_S), "the test never let the detector go"
        if self.error is not None:
            raise self.error
        kept = self.detections.take(slice(max_detections))
        return Detections(kept.boxes, kept.scores, kept.labels, kept.probabilities if probabilities else None)

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep detect waiting until the block ends or the gate is set."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    @property
    def seen(self) -> list[tuple[int, ...]]:
        """The shapes of the pictures sent, without those that warm up."""
        return [call["shape"] for call in self.calls if call["shape"] != (32, 48, 3)]


class RememberingDetector(FakeDetector):
    """Counts how many pictures it was given earlier are still in memory."""

    def __init__(self) -> None:
        super().__init__()
        self.given: list[weakref.ref[Any]] = []
        self.kept = 0

    def detect(self, image, **options) -> Detections:
        self.kept = max(self.kept, sum(given() is not None for given in self.given))
        self.given.append(weakref.ref(image))
        return super().detect(image, **options)


def api_settings(**changes) -> ApiSettings:
    given = {"model_dir": Path("unused"), "api_watch_seconds": 0.05, "api_workers": 1, **changes}
    given.setdefault("api_allowed_hosts", ("*",))
    return ApiSettings(**given)


def png(size_wh=(40, 30), colour=(200, 30, 30)) -> bytes:
    """Return a picture of one colour, with a strip of another below: else it would be noted as blank."""
    stream = io.BytesIO()
    picture = PillowImage.new("RGB", size_wh, colour)
    picture.paste(tuple(255 - value for value in colour), (0, size_wh[1] * 9 // 10, *size_wh))
    picture.save(stream, "PNG")
    return stream.getvalue()


class _QuietServer(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield  # signals belong to pytest


@contextlib.contextmanager
def live_server(
    app, *, until_ready: bool = True, listening: socket.socket | None = None, **options
) -> Iterator[tuple[httpx.Client, uvicorn.Server]]:
    """Serve app on a free port, or the given socket; stop as SIGTERM would."""
    listening = listening or socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, **options)
    server = _QuietServer(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"

    def started() -> bool:
        assert thread.is_alive(), "the server ended before it served"
        return server.started

    with httpx.Client(base_url=address, timeout=LONGEST_S) as client:
        try:
            wait_until(started)
            if until_ready:
                wait_until(lambda: client.get("/ready").status_code == 200)
            yield client, server
        finally:
            server.should_exit = True
            thread.join(LONGEST_S)
            assert not thread.is_alive(), "the server did not stop"
