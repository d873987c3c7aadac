"""A training run at the tracker that loses no metric when the tracker goes away."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, RunTag
from mlflow.exceptions import MlflowException

from tracking.outbox import (
    METRICS_FILE,
    PATIENCE_SECONDS,
    UNSENT_FILE,
    Outbox,
    append_metrics,
    end_last_line,
    read_metrics,
)
from tracking.provenance import git_commit, log_config, log_environment, log_inputs, shortened, who
from tracking.tracker import RegistryError, TrackerUnreachable, check_tracker, connection, is_server, shown

SYSTEM_SECONDS = 15.0  # between two measurements of processor, memory, disk and network
SYSTEM = "system/"  # begins the name of every metric of the machine
PARENT = "mlflow.parentRunId"  # the tag by which MLflow's page puts a run under another
FAILURE = "failure"  # the tag of a run that says why it failed
log = logging.getLogger("weapon-detector.tracker")


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
                append_metrics(self.folder / METRICS_FILE, made)
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
        end_last_line(self.folder / METRICS_FILE)
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
            self.set_tags({FAILURE: shortened(f"{type(error).__name__}: {error}")})

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
    parent_run_id: str | None = None,
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
        parent_run_id: the run that a new one is a part of.

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
        run_id, experiment_id = _open_run(
            client, experiment, run_name, resume_run_id, tracking_uri, parent_run_id
        )
    run = TrainingRun(tracking_uri, run_id, experiment_id, folder=folder)
    try:
        with connection(tracking_uri) as client:
            log_config(client, run_id, config)
            log_environment(client, run_id)
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
    client: MlflowClient, experiment: str, run_name: str | None, resume_run_id: str | None, tracking_uri: str,
    parent_run_id: str | None,
) -> tuple[str, str]:  # fmt: skip
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
    tags = origin_tags() | ({} if parent_run_id is None else {PARENT: parent_run_id})
    return client.create_run(experiment_id, tags=tags, run_name=run_name).info.run_id, experiment_id


def origin_tags() -> dict[str, str]:
    """Return the tags of a new run that say who started which program of which commit."""
    return {
        "mlflow.user": who(),
        "mlflow.source.name": Path(sys.argv[0]).name,
        "mlflow.source.type": "LOCAL",
        "mlflow.source.git.commit": git_commit().removesuffix("-dirty"),
    }


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
