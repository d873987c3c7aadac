"""A real MLflow tracker for the tests that need one, and a real model small enough to log in no time."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
import requests

# The same examples everywhere, and no clock: a busy machine is no failure.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("steady")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class TrackerServer:
    """`mlflow server` with SQLite and a local artifact folder, on a free port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        if self._process is not None:
            return
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        light = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, cwd=self.folder, env={**os.environ, **light}
            )
        end = time.monotonic() + 300
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                pytest.fail(f"the tracker did not start:\n{(self.folder / 'log.txt').read_text()[-3000:]}")
            time.sleep(0.2)

    def _answers(self) -> bool:
        try:
            return requests.get(f"{self.uri}/health", timeout=2).ok
        except requests.RequestException:
            return False

    def stop(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


@pytest.fixture(scope="session")
def tracker_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrackerServer]:
    """One tracker for all tests; a test that stops it starts it again."""
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("NO_PROXY", "127.0.0.1,localhost")
        environment.setenv("no_proxy", "127.0.0.1,localhost")
        server = TrackerServer(tmp_path_factory.mktemp("tracker"))
        try:
            server.start()
            yield server
        finally:
            server.stop()


@pytest.fixture
def tracker_uri(tracker_server: TrackerServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Address of a tracker that is up. MLflow's own state is put back after the test."""
    tracker_server.start()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker_server.uri)
    return tracker_server.uri


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a real, untrained network of half a megabyte or so."""
    import torch

    from detections import CLASS_NAMES
    from detector import Detector, network_config
    from schemas import ModelCard

    torch.manual_seed(0)
    config = network_config(
        "fasterrcnn_mobilenet_v2_fpn", min_size=64, max_size=96, fpn_channels=16, box_head_width=16
    )
    folder = tmp_path_factory.mktemp("model") / "small"
    Detector(ModelCard(network=config, class_names=CLASS_NAMES)).save_folder(folder)
    return folder
