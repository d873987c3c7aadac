"""The MLflow tracker: is it there, and a run that loses no metric when it is not.

RegistryError             the tracker or the registry cannot do what was asked; the message says why
  TrackerUnreachable      nobody answers at the tracker's address, or not to us
"""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import json
import logging
import math
import os
import platform
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlparse

import mlflow
import requests
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param, RunTag
from mlflow.environment_variables import (
    MLFLOW_DISABLE_TELEMETRY,
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR,
    MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD,
    MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD,
    MLFLOW_HTTP_REQUEST_MAX_RETRIES,
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT,
)
from mlflow.exceptions import MlflowException
from mlflow.telemetry import set_telemetry_client

ROOT = Path(__file__).parent
CONNECT_SECONDS, ANSWER_SECONDS = 4, 10  # how long a tracker that is up may take, on a busy machine
RETRY_SECONDS = 3.0  # between two looks whether a lost tracker is back
PATIENCE_SECONDS = 60.0  # how long the end of a run waits for a lost tracker
SYSTEM_SECONDS = 15.0  # between two measurements of processor, memory, disk and network
SERVER_ERROR_TRIES = 3  # before an operation at which the server fails is given up
LONGEST_PARAM = 500  # characters; older trackers refuse more. config.json always has the whole
METRICS_FILE, UNSENT_FILE = "metrics.jsonl", "unsent.json"
SYSTEM = "system/"  # begins the name of every metric of the machine
FAILURE = "failure"  # the tag of a run that says why it failed
LIBRARIES = ("torch", "torchvision", "detecto", "mlflow", "numpy", "pillow", "safetensors")

log = logging.getLogger("weapon-detector.tracker")


_LOGIN = re.compile(r"(?<=://)[^/\s@]+@")


def shown(text: str) -> str:
    """Return text without the names and passwords in its addresses: http://name:password@host -> http://host."""
    return _LOGIN.sub("", text)


class RegistryError(RuntimeError):
    """The tracker or the registry cannot do what was asked; the message says why and what to do.

    A message may reach strangers, by the API or a log, so it never holds a password.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message))


class TrackerUnreachable(RegistryError):
    """Nobody answers at the tracker's address, or not to us."""


# --- is it there ------------------------------------------------------------------------------------


def check_tracker(tracking_uri: str) -> None:
    """Make sure that the tracker answers, within a few seconds.

    Raises:
        TrackerUnreachable: it does not, or not to us; the message says what to do.
    """
    ask_version(tracking_uri)
    with connection(tracking_uri) as client:
        client.search_experiments(max_results=1)


def is_server(tracking_uri: str) -> bool:
    """Return whether tracking_uri is that of a server, and not of a database used directly."""
    return tracking_uri.startswith(("http://", "https://"))


def ask_version(tracking_uri: str) -> None:
    """Ask the server for its version, once: MLflow's own client would try for minutes.

    Raises:
        TrackerUnreachable: no server answers.
    """
    if not is_server(tracking_uri):
        return
    try:
        answer = requests.get(
            f"{tracking_uri.rstrip('/')}/version", timeout=(CONNECT_SECONDS, ANSWER_SECONDS)
        )
    except requests.ReadTimeout as error:
        raise TrackerUnreachable(
            f"The MLflow tracker at {tracking_uri} did not answer in {ANSWER_SECONDS} seconds. "
            "Look at its log, or set MLFLOW_TRACKING_URI to another one's address."
        ) from error
    except (requests.ConnectionError, requests.ConnectTimeout) as error:
        raise TrackerUnreachable(
            f"No MLflow tracker answers at {tracking_uri}. Start one (`make demo` and `docker compose -f "
            "mlflow_tracker.compose.yaml up` do), or set MLFLOW_TRACKING_URI to its address."
        ) from error
    except requests.RequestException as error:
        raise TrackerUnreachable(
            f"Expected MLFLOW_TRACKING_URI to be an address such as http://127.0.0.1:5000, got "
            f"{tracking_uri!r}: {error}"
        ) from error
    if answer.status_code != requests.codes.ok or not answer.text[:1].isdigit():
        raise TrackerUnreachable(
            f"What answers at {tracking_uri} is no MLflow tracker, or one that is not ready (HTTP "
            f"{answer.status_code} for /version). Set MLFLOW_TRACKING_URI to the tracker's address."
        )


def _settle_mlflow() -> None:
    """Set MLflow's switches, once, before there are threads.

    MLflow reads them from the environment at each call, and os.environ fails threads that read it while
    another one changes it.
    """
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]
    MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT.set(True)  # type: ignore[no-untyped-call]
    # It would repeat for minutes, also what is then there twice. What may be repeated is repeated by us.
    MLFLOW_HTTP_REQUEST_MAX_RETRIES.set(0)  # type: ignore[no-untyped-call]
    # Files go through the tracker, unless the environment says otherwise: MLflow would go past it, to the S3
    # store's own address, which often only the tracker reaches.
    for switch in (MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD, MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD):
        if not switch.is_set():  # type: ignore[no-untyped-call]
            switch.set(False)  # type: ignore[no-untyped-call]
    # Its makers are not told how it is used; nothing has been sent before the first call.
    MLFLOW_DISABLE_TELEMETRY.set(True)  # type: ignore[no-untyped-call]
    set_telemetry_client()  # type: ignore[no-untyped-call]
    logging.getLogger("mlflow").setLevel(logging.ERROR)


_settle_mlflow()


def use_tracker(tracking_uri: str) -> None:
    """Tell MLflow where the tracker is: parts of it look there, whatever its client was told.

    It writes that to os.environ when it changes, so a program says it before it starts threads.
    """
    mlflow.set_tracking_uri(tracking_uri)


@contextlib.contextmanager
def connection(tracking_uri: str) -> Iterator[MlflowClient]:
    """Give MLflow's client, and turn its errors into sentences."""
    use_tracker(tracking_uri)
    try:
        yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except MlflowException as error:
        raise _in_a_sentence(error, tracking_uri) from error
    except requests.RequestException as error:
        raise TrackerUnreachable(f"The tracker at {tracking_uri} failed: {error}") from error


def _in_a_sentence(error: MlflowException, tracking_uri: str) -> RegistryError:
    if "Invalid Host header" in str(error):
        return TrackerUnreachable(
            f"The tracker at {tracking_uri} refuses to be called by that name. Add its name and port to "
            "MLFLOW_SERVER_ALLOWED_HOSTS where the tracker runs."
        )
    if error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
        return TrackerUnreachable(
            f"The tracker at {tracking_uri} does not let us in: {error.message} Set "
            "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
        )
    return RegistryError(f"The tracker at {tracking_uri} refused: {error.message}")


def wait_for_tracker(tracking_uri: str, patience_seconds: float) -> None:
    """Wait until the tracker answers.

    Raises:
        TrackerUnreachable: it did not in that time.
    """
    end = time.monotonic() + patience_seconds
    while True:
        try:
            check_tracker(tracking_uri)
        except RegistryError:
            if time.monotonic() > end:
                raise
            time.sleep(RETRY_SECONDS)
        else:
            return


# --- where a run comes from -------------------------------------------------------------------------


def git_commit() -> str:
    """Return the commit of the project's folder, with "-dirty" if files differ from it; "" outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a model's numbers, and of Python."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def who() -> str:
    """Return user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid-{os.getuid()}"
    return f"{user}@{platform.node()}"


# --- a run ------------------------------------------------------------------------------------------


class Figure(Protocol):
    """What can draw itself into a file: a matplotlib figure."""

    def savefig(self, fname: Path, *, bbox_inches: str) -> None:
        """Write the picture."""


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


class TrainingRun:
    """One MLflow run. Nothing here raises or waits when the tracker goes away in the middle.

    Metrics are also appended to metrics.jsonl in folder, so that not even a crash loses one.

    Attributes:
        run_id: MLflow's; "" where active is false.
        active: False in all but one of several processes: every method then does nothing.
        url: the run's page; "" where there is no server.
        step: the last step at which the training logged something.
    """

    def __init__(
        self, tracking_uri: str, run_id: str, experiment_id: str, *, folder: Path, active: bool = True
    ) -> None:
        self.run_id, self.active, self.folder, self.url, self.step = run_id, active, folder, "", 0
        self._address = {"tracking_uri": tracking_uri, "run_id": run_id, "experiment_id": experiment_id}
        self._status = "FINISHED"
        self._files: list[tuple[str, str | None]] = []
        self._tags: dict[str, str] = {}
        self._data: dict[str, tuple[str, Mapping[str, object], Sequence[str]]] = {}
        if active:
            if is_server(tracking_uri):
                self.url = f"{shown(tracking_uri).rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"
            self._client = MlflowClient(tracking_uri=tracking_uri)
            self._outbox = Outbox(tracking_uri)
            self._lock = threading.Lock()  # metrics come from the training loop and from SystemMetrics
            self._known: set[tuple[str, int]] = set()

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Log numbers at a step. After a resumption, a step that was logged before keeps its value."""
        if not self.active:
            return
        if not all(key.startswith(SYSTEM) for key in metrics):
            self.step = max(self.step, step)
        now = int(time.time() * 1000)
        made = [
            Metric(key, float(value), now, step)
            for key, value in metrics.items()
            if (key, step) not in self._known
        ]
        if made:
            with self._lock:
                _append_metrics(self.folder / METRICS_FILE, made)
            self._send_metrics(made)

    def _send_metrics(self, metrics: list[Metric]) -> None:
        for start in range(0, len(metrics), 1000):  # what one request may hold
            batch = metrics[start : start + 1000]
            self._outbox.put("metrics", partial(self._client.log_batch, self.run_id, metrics=batch))

    def resend(self) -> None:
        """Take up what earlier processes of this run logged, and send what they may have failed to.

        The tracker keeps one of each.
        """
        if not self.active:
            return
        on_paper = read_metrics(self.folder / METRICS_FILE)
        _end_last_line(self.folder / METRICS_FILE)
        self._known = {(metric.key, metric.step) for metric in on_paper}
        self.step = max((metric.step for metric in on_paper if not metric.key.startswith(SYSTEM)), default=0)
        self._send_metrics(on_paper)
        unsent = self.folder / UNSENT_FILE
        if unsent.is_file():
            waiting = json.loads(unsent.read_text(encoding="utf-8"))
            for file, artifact_path in waiting["files"]:
                self.log_artifact(Path(file), artifact_path)
            for name, (fingerprint, profile, folders) in waiting.get("data", {}).items():
                self.log_dataset(name, fingerprint, profile, folders=folders)
            self.set_tags(waiting.get("tags", {}))
            unsent.unlink()  # close() writes it anew if need be

    def log_artifact(self, path: Path, artifact_path: str | None = None) -> None:
        """Log a file or a folder, which must stay as it is until the run ends."""
        if self.active:
            self._files.append((str(path), artifact_path))
            send = self._client.log_artifacts if path.is_dir() else self._client.log_artifact
            self._outbox.put(path.name, partial(send, self.run_id, str(path), artifact_path))

    log_artifacts = log_artifact

    def log_text(self, text: str, artifact_file: str) -> None:
        """Log text as a file; it is also written under folder."""
        if self.active:
            path = self._path_of(artifact_file)
            path.write_text(text, encoding="utf-8")
            self.log_artifact(path, _parent(artifact_file))

    def log_figure(self, figure: Figure, artifact_file: str) -> None:
        """Log a matplotlib figure as a picture; it is also written under folder."""
        if self.active:
            path = self._path_of(artifact_file)
            figure.savefig(path, bbox_inches="tight")
            self.log_artifact(path, _parent(artifact_file))

    def _path_of(self, artifact_file: str) -> Path:
        path = self.folder / artifact_file
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def log_dataset(
        self, name: str, fingerprint: str, profile: Mapping[str, object], *, folders: Sequence[str]
    ) -> None:
        """Log which data went in.

        Args:
            name: the split: train, val or test.
            fingerprint: SHA-256 of names, boxes and bytes; MLflow keeps the first 36 characters as its
                digest and the whole in the profile.
            profile: counts of images and boxes.
            folders: where the pictures were read from.
        """
        if self.active:
            self._data[name] = (fingerprint, profile, folders)
            data = Dataset(
                name=name, digest=fingerprint[:36], source_type="local",
                source=json.dumps({"folders": list(folders)}),
                profile=json.dumps({"fingerprint": fingerprint, **profile}, default=str),
            )  # fmt: skip
            given = DatasetInput(data, tags=[InputTag("mlflow.data.context", name)])
            self._outbox.put(f"data set {name}", partial(log_inputs, self._client, self.run_id, [given]))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set tags of the run."""
        if self.active:
            self._tags.update(tags)
            made = [RunTag(key, str(value)) for key, value in tags.items()]
            self._outbox.put("tags", partial(self._client.log_batch, self.run_id, tags=made))

    def set_status(self, status: str) -> None:
        """Choose how the run will end: FINISHED (else assumed), KILLED or FAILED."""
        self._status = status

    def interrupted(self) -> None:
        """Say that a person stopped the run; it can be resumed."""
        self.set_status("KILLED")

    def failed(self, error: BaseException) -> None:
        """Say that error ended the run, and in a tag which one it was; a person's interruption is none."""
        if isinstance(error, KeyboardInterrupt):
            self.interrupted()
        else:
            self.set_status("FAILED")
            self.set_tags({FAILURE: _shortened(f"{type(error).__name__}: {error}")})

    def close(self, *, patience_seconds: float = PATIENCE_SECONDS) -> None:
        """Send what waits and end the run. What cannot be sent stays in folder, for sync()."""
        if not self.active:
            return
        self._outbox.put("the end", partial(self._client.set_terminated, self.run_id, self._status))
        if not self._outbox.close(patience_seconds):
            waiting = {"files": self._files, "data": self._data, "tags": self._tags}
            unsent = {**self._address, "status": self._status, **waiting}
            text = json.dumps(unsent, indent=2, default=str)
            (self.folder / UNSENT_FILE).write_text(text + "\n", encoding="utf-8")
            log.warning(
                "The tracker did not come back in %.0f seconds. Nothing is lost: once it is back, run "
                "`python registry.py sync %s`.", patience_seconds, self.folder,
            )  # fmt: skip


def sync(folder: Path) -> str:
    """Send what a run could not send before it ended and return the run's id.

    Raises:
        RegistryError: nothing waits in folder, or the tracker cannot be used.
    """
    path = folder / UNSENT_FILE
    try:
        unsent = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RegistryError(f"Nothing waits in {folder}: there is no {UNSENT_FILE}.") from error
    check_tracker(unsent["tracking_uri"])
    with connection(unsent["tracking_uri"]):
        run = TrainingRun(unsent["tracking_uri"], unsent["run_id"], unsent["experiment_id"], folder=folder)
        run.resend()
        run.set_status(unsent["status"])
        run.close()
    if path.exists():
        raise TrackerUnreachable(f"The tracker at {unsent['tracking_uri']} went away again; try later.")
    return run.run_id


def _parent(artifact_file: str) -> str | None:
    folder, _, _ = artifact_file.rpartition("/")
    return folder or None


def _append_metrics(path: Path, metrics: list[Metric]) -> None:
    """Append one line per step; the lock of the caller keeps lines whole."""
    first = metrics[0]
    values = {m.key: m.value if math.isfinite(m.value) else str(m.value) for m in metrics}
    line = json.dumps({"step": first.step, "timestamp": first.timestamp, "metrics": values})
    with path.open("a", encoding="utf-8") as file:
        file.write(line + "\n")


def _end_last_line(path: Path) -> None:
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


class SystemMetrics:
    """Measures processor, memory, disk, network and GPU while a run lasts, through MLflow's monitors.

    Every measurement stands at the last step that the training logged, so that it can be laid beside the
    losses. Where the machine cannot be measured, one sentence is said and the run goes on without.
    """

    def __init__(self, run: TrainingRun, tracking_uri: str) -> None:
        self._run, self._tracking_uri, self._end = run, tracking_uri, threading.Event()
        self._thread = threading.Thread(target=self._work, name="system-metrics", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        try:
            # Its own thread is not used: that ends for good when the tracker is away once.
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            monitor: Any = SystemMetricsMonitor(self._run.run_id, tracking_uri=self._tracking_uri)  # type: ignore[no-untyped-call]
            while not self._end.wait(SYSTEM_SECONDS):
                self._log(monitor)
        except Exception as error:  # noqa: BLE001 # no training may die of its machine's curves
            log.warning(
                "The machine is not measured from here on, the training goes on (%s: %s).",
                type(error).__name__, error,
            )  # fmt: skip

    def _log(self, monitor: Any) -> None:
        monitor.collect_metrics()
        measured = monitor.aggregate_metrics()
        self._run.log_metrics({f"{SYSTEM}{key}": value for key, value in measured.items()}, self._run.step)
        for each in monitor.monitors:
            each.clear_metrics()

    def close(self) -> None:
        """Stop measuring."""
        self._end.set()
        self._thread.join()


# --- starting and ending a run ----------------------------------------------------------------------


@contextlib.contextmanager
def training_run(
    tracking_uri: str,
    experiment: str,
    run_name: str | None,
    config: Mapping[str, Any],
    *,
    folder: Path,
    resume_run_id: str | None = None,
    active: bool = True,
    patience_seconds: float = PATIENCE_SECONDS,
) -> Iterator[TrainingRun]:
    """Start or resume an MLflow run, and end it as the block ends.

    Args:
        tracking_uri: the tracker's address.
        experiment: made if absent.
        run_name: None: MLflow invents one.
        config: logged as parameters, and whole as config.json.
        folder: of the run, on this machine; gets metrics.jsonl, texts and figures.
        resume_run_id: the run to go on with.
        active: False in all but one of several processes.
        patience_seconds: how long to wait at the end for a tracker that went away.

    Raises:
        RegistryError: the tracker cannot be used; nothing has been started then.
    """
    if not active:
        yield TrainingRun(tracking_uri, "", "", folder=folder, active=False)
        return
    folder.mkdir(parents=True, exist_ok=True)
    check_tracker(tracking_uri)
    if resume_run_id is None:
        _make_room(folder)
    with connection(tracking_uri) as client:
        run_id, experiment_id = _open_run(client, experiment, run_name, resume_run_id, tracking_uri)
    run = TrainingRun(tracking_uri, run_id, experiment_id, folder=folder)
    try:
        with connection(tracking_uri) as client:
            _log_config(client, run_id, config)
            _log_environment(client, run_id)
        run.resend()
        with contextlib.closing(SystemMetrics(run, tracking_uri)):
            yield run
    except BaseException as error:
        run.failed(error)
        raise
    finally:
        run.close(patience_seconds=patience_seconds)


def _make_room(folder: Path) -> None:
    """Remove an earlier run's metrics.jsonl, unless it holds what the tracker has not got."""
    if (folder / UNSENT_FILE).exists():
        raise RegistryError(
            f"{folder} holds metrics of an earlier run that the tracker has not got. Send them with "
            f"`python registry.py sync {folder}`, or choose another folder."
        )
    (folder / METRICS_FILE).unlink(missing_ok=True)


def _open_run(
    client: MlflowClient, experiment: str, run_name: str | None, resume_run_id: str | None, tracking_uri: str
) -> tuple[str, str]:
    """Make or reopen a run and return its id and its experiment's."""
    if resume_run_id is not None:
        try:
            run = client.get_run(resume_run_id)
        except MlflowException as error:
            raise RegistryError(
                f"The run {resume_run_id} to go on with is not at {tracking_uri} ({error.message}). Set "
                "MLFLOW_TRACKING_URI to the tracker it was started at, or start anew in another folder."
            ) from error
        client.update_run(resume_run_id, status="RUNNING")
        if FAILURE in run.data.tags:
            client.delete_tag(resume_run_id, FAILURE)
        return resume_run_id, run.info.experiment_id
    experiment_id = open_experiment(client, experiment, tracking_uri)
    tags = {
        "mlflow.user": who(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_commit().removesuffix("-dirty"),
    }
    return client.create_run(experiment_id, tags=tags, run_name=run_name).info.run_id, experiment_id


def open_experiment(client: MlflowClient, name: str, tracking_uri: str) -> str:
    """Make the experiment if there is none of that name, and return its id."""
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=_beside_database(tracking_uri)))
        except MlflowException as error:
            found = client.get_experiment_by_name(name)  # another run made it in between
            if error.error_code != "RESOURCE_ALREADY_EXISTS" or found is None:
                raise
    if found.lifecycle_stage != "active":
        raise RegistryError(
            f"The experiment {name!r} was deleted at {tracking_uri}. Restore it on MLflow's page, or choose "
            "another name."
        )
    if is_server(tracking_uri) and urlparse(found.artifact_location).scheme in ("", "file"):
        raise RegistryError(
            f"The experiment {name!r} keeps its files in {found.artifact_location}, which its tracker takes "
            "for a folder of this machine. It was made by a tracker without --artifacts-destination; choose "
            "another experiment name."
        )
    return str(found.experiment_id)


def _beside_database(tracking_uri: str) -> str | None:
    """Return where a store without a server keeps files: beside its database, not in today's folder."""
    if not tracking_uri.startswith("sqlite:///"):
        return None  # a server decides for itself
    return (Path(tracking_uri.removeprefix("sqlite:///")).resolve().parent / "artifacts").as_uri()


def _log_config(client: MlflowClient, run_id: str, config: Mapping[str, Any]) -> None:
    """Log config as parameters, and whole as config.json."""
    log_params(client, run_id, config)
    client.log_dict(run_id, dict(config), "config.json")


def log_inputs(client: MlflowClient, run_id: str, given: list[DatasetInput]) -> None:
    """Log the data sets of a run.

    Two runs that log the same data at once can both find it new to MLflow, which then refuses the second;
    by then it is known.
    """
    try:
        client.log_inputs(run_id, given)
    except MlflowException as error:
        if "unique" not in str(error).lower():
            raise
        client.log_inputs(run_id, given)


def log_params(client: MlflowClient, run_id: str, config: Mapping[str, Any]) -> None:
    """Log parameters. MLflow refuses to change one, so what a resumption changes becomes a tag."""
    params = {key: _shortened(value) for key, value in _flattened(config)}
    before = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in params.items() if key not in before]
    changed = {key: value for key, value in params.items() if before.get(key, value) != value}
    for start in range(0, len(new), 100):  # what one request may hold
        client.log_batch(run_id, params=new[start : start + 100])
    client.log_batch(run_id, tags=[RunTag(f"resumed_with.{key}", value) for key, value in changed.items()])


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _shortened(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 3] + "..."


def _log_environment(client: MlflowClient, run_id: str) -> None:
    """Log git commit, library versions, machine, and every installed package."""
    tags = {f"version.{name}": version for name, version in library_versions().items()}
    tags |= {"git_commit": git_commit(), "platform": platform.platform(), "cpus": str(os.cpu_count())}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()})
    client.log_text(run_id, "\n".join(packages) + "\n", "environment.txt")
