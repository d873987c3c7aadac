"""Metrics on their way to the tracker: kept on disk, sent by a thread of their own, none lost."""

from __future__ import annotations

import contextlib
import json
import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import requests
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tracking.tracker import RETRY_SECONDS, TrackerUnreachable, ask_version, shown

PATIENCE_SECONDS = 60.0  # how long the end of a run waits for a lost tracker
SERVER_ERROR_TRIES = 3  # before an operation at which the server fails is given up
METRICS_FILE, UNSENT_FILE = "metrics.jsonl", "unsent.json"
log = logging.getLogger("weapon-detector.tracker")


class Outbox:
    """Does operations on the tracker in order, on a thread of its own.

    An operation that fails because the tracker is away is tried again until it succeeds; those behind
    it wait. One that the tracker refuses is dropped with a warning: it would be refused again.
    """

    def __init__(self, tracking_uri: str) -> None:
        self._tracking_uri = tracking_uri
        self._waiting: queue.Queue[tuple[str, Callable[[], object]] | None] = queue.Queue()
        self._given_up = threading.Event()
        self._away = False
        self._thread = threading.Thread(target=self._work, name="mlflow-outbox", daemon=True)
        self._thread.start()

    def put(self, description: str, operation: Callable[[], object]) -> None:
        """Have operation done after all before it. Returns at once."""
        self._waiting.put((description, operation))

    def close(self, patience_seconds: float) -> bool:
        """Return whether everything was done, waiting for that at most patience_seconds."""
        self._waiting.put(None)
        self._thread.join(patience_seconds)
        self._given_up.set()
        return not self._thread.is_alive()

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            tries = iter(range(SERVER_ERROR_TRIES))
            while not self._done(*item, tries):
                if self._given_up.wait(RETRY_SECONDS):
                    return

    def _done(self, description: str, operation: Callable[[], object], tries: Iterator[int]) -> bool:
        """Try once. False: the tracker is away, or answers with a server error and tries are left."""
        try:
            ask_version(self._tracking_uri)
            operation()
        except (TrackerUnreachable, requests.RequestException) as error:
            return self._is_away(error)
        except Exception as error:  # noqa: BLE001 # a training of days must not die of its log
            if _is_server_error(error) and next(tries, None) is not None:
                return self._is_away(error)
            log.warning("MLflow did not take %s and will not get it: %s", description, error)
        if self._away:
            self._away = False
            log.warning("The tracker at %s answers again; it gets what waited.", shown(self._tracking_uri))
        return True

    def _is_away(self, error: Exception) -> bool:
        if not self._away:
            self._away = True
            reason = str(error)
            if not isinstance(error, TrackerUnreachable):
                reason = f"The MLflow tracker at {self._tracking_uri} does not answer as it should ({error})."
            reason = shown(reason)
            log.warning("%s Training goes on; what is to be logged is kept and sent later.", reason)
        return False


def _is_server_error(error: Exception) -> bool:
    if not isinstance(error, MlflowException):
        return False
    status: int = error.get_http_status_code()  # type: ignore[no-untyped-call]
    return status >= 500


def append_metrics(path: Path, metrics: list[Metric]) -> None:
    """Append one line per step; the lock of the caller keeps lines whole."""
    first = metrics[0]
    values = {m.key: m.value if math.isfinite(m.value) else str(m.value) for m in metrics}
    line = json.dumps({"step": first.step, "timestamp": first.timestamp, "metrics": values})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def end_last_line(path: Path) -> None:
    """Let what is appended next begin a line, after a crash in the middle of one."""
    if path.is_file() and not path.read_bytes().endswith(b"\n"):
        with path.open("a", encoding="utf-8") as file:
            file.write("\n")


def read_metrics(path: Path) -> list[Metric]:
    """Read metrics.jsonl; a last line cut short by a crash is left out."""
    if not path.is_file():
        return []
    metrics = []
    for line in path.read_text(encoding="utf-8").splitlines():
        with contextlib.suppress(json.JSONDecodeError):
            entry = json.loads(line)
            metrics += [
                Metric(key, float(value), entry["timestamp"], entry["step"])
                for key, value in entry["metrics"].items()
            ]
    return metrics
