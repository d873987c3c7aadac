"""What test files share: waiting, servers that are processes, a real MLflow tracker, a small real model."""

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any, TypeVar

# Before torch is loaded, here and in every server: several workers with a thread per core hinder each other.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import hypothesis
import pytest
import requests

# The same examples everywhere, and no clock: a busy machine is no failure.
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("steady")

T = TypeVar("T")

# --- waiting ----------------------------------------------------------------------------------------

LONGEST_S = 600.0  # for whatever is waited for: what takes seconds here, on a machine a hundred times busier


def wait_until(
    condition: Callable[[], T],
    *,
    process: subprocess.Popen[Any] | None = None,
    log: Path | None = None,
    every_s: float = 0.02,
) -> T:
    """Return what condition returns, once that is true.

    Args:
        condition: asked again and again.
        process: what makes the condition true; once it has ended, nobody waits any longer.
        log: what the process printed; its end is shown when the wait fails.
        every_s: seconds between two questions.
    """
    end = time.monotonic() + LONGEST_S
    while True:
        status = None if process is None else process.poll()  # before asking: its last deed may be the one
        if answer := condition():
            return answer
        if status is not None or time.monotonic() > end:
            why = f"did not happen in {LONGEST_S:g} s" if status is None else f"process ended with {status}"
            said = f":\n{log.read_text(errors='replace')[-3000:]}" if log else ""
            pytest.fail(why + said)
        time.sleep(every_s)


def answers(url: str) -> bool:
    """Say whether url is answered with a success."""
    try:
        with requests.Session() as session:
            session.trust_env = False  # a proxy from the environment is no way to this machine
            return session.get(url, timeout=LONGEST_S).ok
    except requests.RequestException:
        return False


@contextmanager
def environment_watched() -> Iterator[list[str]]:
    """Give the names of the variables that this process sets or removes while the block lasts."""
    changed: list[str] = []
    watching = [True]

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.putenv", "os.unsetenv") and watching:
            changed.append(os.fsdecode(arguments[0]))

    sys.addaudithook(watch)  # cannot be removed
    try:
        yield changed
    finally:
        watching.clear()


# --- servers ----------------------------------------------------------------------------------------

# Below the ports that the system hands out by itself, so that neither a connection nor another test's
# socket takes one between this and the server's start; each worker begins elsewhere.
_ports = itertools.count(os.getpid() * 50)


def free_port() -> int:
    """Return a port of 127.0.0.1 on which nobody listens, another one at every call."""
    for number in _ports:
        port = 12_000 + number % 20_000
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there is always a next port")


@contextmanager
def running(
    command: Sequence[str], log: Path, *, ready: Callable[[], object], cwd: Path, **environment: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server while the block lasts: from when ready() is true; what it prints goes to log."""
    with log.open("ab") as stream:
        process = subprocess.Popen(
            command, stdout=stream, stderr=stream, cwd=cwd, env={**os.environ, **environment}
        )
    try:
        wait_until(ready, process=process, log=log)
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[Any], number: int = signal.SIGTERM) -> int:
    """Ask process to stop, wait until it has, and return its exit status."""
    process.send_signal(number)
    try:
        return process.wait(LONGEST_S)
    finally:
        process.kill()  # one that would not; nothing if it has ended


class TrackerServer:
    """`mlflow server` with SQLite and a local artifact folder, on a free port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._running = ExitStack()
        self._is_up = False

    def start(self) -> None:
        if self._is_up:
            return
        command = [
            sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port),
            "--workers", "1", "--backend-store-uri", f"sqlite:///{self.folder}/mlflow.db",
            "--artifacts-destination", str(self.folder / "artifacts"),
        ]  # fmt: skip
        server = running(
            command, self.folder / "log.txt", cwd=self.folder, ready=lambda: answers(f"{self.uri}/health"),
            MLFLOW_SERVER_ENABLE_JOB_EXECUTION="false", MLFLOW_DISABLE_TELEMETRY="true",
        )  # fmt: skip
        self._running.enter_context(server)
        self._is_up = True

    def stop(self) -> None:
        self._is_up = False
        self._running.close()


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
    """Address of a tracker that is up, for a test that lets it take its time."""
    tracker_server.start()
    monkeypatch.setattr("tracking.tracker.ANSWER_SECONDS", LONGEST_S)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracker_server.uri)
    return tracker_server.uri


@pytest.fixture(scope="session")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a real, untrained network of half a megabyte or so."""
    from small_network import small_detector  # here: it brings PyTorch

    folder = tmp_path_factory.mktemp("model") / "small"
    small_detector().save_folder(folder)
    return folder
