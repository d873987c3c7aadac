"""What the tests of cameras share: clips, an RTSP server, cameras, and something that serves HTTP."""

from __future__ import annotations

import contextlib
import functools
import socket
import subprocess
import threading
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import av
import numpy as np
import pytest
from conftest import free_port, running

from cameras import alerts as telling
from cameras.config import Camera, one_camera
from cameras.events import Event, EventStore, ReviewedMeanwhile
from schemas import ModelCard
from tests.fake_api import CARD, OPERATING_POINT, FakeApi, detection

SYSTEM_PYTHON = "/usr/bin/python3"  # Debian's gi is of Debian's Python
ROOT = Path(__file__).parents[2]
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
# Points: alarm from 0.6, unsure from 0.3.
POINTS: ModelCard = CARD.model_copy(
    update={
        "unsure_point": OPERATING_POINT.model_copy(update={"score_threshold": 0.3}),
        "weights_sha256": "f" * 64,
    }
)
PISTOL = detection("pistol", 0.91, 20, 25, 60, 75)


def write_clip(
    path: Path, shades: Sequence[int], *, rate: int = 10, size_wh: tuple[int, int] = (160, 120)
) -> Path:
    """A video whose frames are each of one grey shade, so that a test can tell them apart."""
    images = (np.full((size_wh[1], size_wh[0], 3), shade, np.uint8) for shade in shades)
    return write_video(path, images, rate=rate, size_wh=size_wh)


def write_video(path: Path, images, *, rate: int, size_wh: tuple[int, int]) -> Path:
    """A video of images; H.264, each frame decodable soon after its predecessor's loss."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=rate, options={"g": "5", "bf": "0"})
        stream.width, stream.height = size_wh
        stream.pix_fmt = "yuv420p"
        for image in images:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def camera(address: object, name: str = "till", **fields) -> Camera:
    return one_camera(name, str(address), **fields)


def an_event(event_id: str = "a", *, at: datetime = NOON, picture: bytes = b"jpeg", **fields) -> Event:
    values = {
        "camera": "till", "verdict": "alarm", "started_at": at, "ended_at": at + timedelta(seconds=2),
        "track": 1, "frames": 3, "label": "knife", "box": [10.0, 20.0, 30.0, 60.0], "score": 0.8,
        "best_score": 0.9, "scores": [[0.0, 0.7], [0.5, 0.8], [1.0, 0.9]], "quiet": False,
        "model_name": "weapon-detector", "model_version": "3", "weights_sha256": "0" * 64,
        "alarm_point": 0.6, "unsure_point": 0.4, "width": 64, "height": 96, "picture": picture,
    }  # fmt: skip
    return Event(id=event_id, **{**values, **fields})


@pytest.fixture
def api() -> Iterator[FakeApi]:
    """An API that finds a pistol in every picture."""
    with FakeApi([PISTOL], card=POINTS) as running:
        yield running


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EventStore]:
    """Events of one test."""
    made = EventStore(str(tmp_path / "events.db"))
    yield made
    made.close()


@pytest.fixture(autouse=True)
def quick_alerts(monkeypatch):
    """Alerts that failed are tried again at once; for each file of tests that imports it."""
    monkeypatch.setattr(telling, "FIRST_WAIT_S", 0.05)
    monkeypatch.setattr(telling, "LONGEST_WAIT_S", 0.2)
    monkeypatch.setattr(telling, "LOOK_EVERY_S", 0.05)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    """Two seconds that get lighter."""
    return write_clip(tmp_path / "clip.mp4", range(20, 220, 10))


@functools.cache
def rtsp_absent() -> str:
    """Why no RTSP server can be started here; "" where one can."""
    script = "import gi; gi.require_version('GstRtspServer', '1.0'); from gi.repository import GstRtspServer"
    with contextlib.suppress(OSError):
        if subprocess.run([SYSTEM_PYTHON, "-c", script], capture_output=True).returncode == 0:
            return ""
    return "needs Debian's gir1.2-gst-rtsp-server-1.0, gstreamer1.0-plugins-good and -bad, and python3-gi"


class RtspServer:
    """Plays a clip at url while started; may be killed, frozen and started again at the same address."""

    def __init__(self, clip: Path, log: Path, login: str = "") -> None:
        self.clip, self.log, self.login, self.port = clip, log, login, free_port()
        self.method = "basic"  # or digest
        self.place = f"127.0.0.1:{self.port}/clip"
        self.url = f"rtsp://{self.place}"

    @contextlib.contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [
            SYSTEM_PYTHON,
            str(Path(__file__).with_name("rtsp_server.py")),
            str(self.port),
            str(self.clip),
        ]
        command += [self.login, self.method] if self.login else []
        with running(command, self.log, ready=self._listens, cwd=self.log.parent) as process:
            yield process

    def _listens(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0


@pytest.fixture
def rtsp(tmp_path: Path) -> RtspServer:
    """A server of a clip that gets lighter; not yet up."""
    if why := rtsp_absent():
        pytest.skip(why)
    return RtspServer(write_clip(tmp_path / "clip.h264", range(16, 236, 10)), tmp_path / "rtsp.log")


def first_for_the_late(store: EventStore, *, guards: int) -> list[str]:
    """Let so many confirm event a at the same moment; return who was first, as each of the others is told."""
    late: list[str] = []

    def judge(name: str) -> None:
        try:
            store.judge("a", "confirmed", by=name)
        except ReviewedMeanwhile as error:
            late.append(error.event.reviewed_by)

    threads = [threading.Thread(target=judge, args=(f"guard {i}",)) for i in range(guards)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return late
