"""Runs in a real MLflow tracker that restarts, stays away, refuses."""

import json
import math
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from conftest import LONGEST_S, TrackerServer, environment_watched, free_port, wait_until
from mlflow import MlflowClient
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException

from tracking import logged_model, outbox, provenance, tracker, versions
from tracking import run as runs
from tracking.run import TrainingRun
from tracking.tracker import RegistryError

training_run = partial(runs.training_run, patience_seconds=LONGEST_S)


@pytest.fixture(autouse=True)
def quick_retries(monkeypatch):
    monkeypatch.setattr(tracker, "RETRY_SECONDS", 0.2)


def history(uri: str, run: TrainingRun, key: str) -> list[tuple[int, float]]:
    return [(point.step, point.value) for point in MlflowClient(uri).get_metric_history(run.run_id, key)]


def artifacts(uri: str, run: TrainingRun, folder: str | None = None) -> set[str]:
    return {item.path for item in MlflowClient(uri).list_artifacts(run.run_id, folder)}


def test_restart_in_the_middle_loses_nothing(tracker_server: TrackerServer, tracker_uri, tmp_path, caplog):
    with training_run(tracker_uri, "restart", "r", {}, folder=tmp_path) as run:
        for step in range(5):
            run.log_metrics({"train/loss": 1 / (step + 1)}, step)
        tracker_server.stop()
        for step in range(5, 10):
            run.log_metrics({"train/loss": 1 / (step + 1)}, step)
        run.log_text("kept", "while-away.txt")
        tracker_server.start()
        for step in range(10, 15):
            run.log_metrics({"train/loss": 1 / (step + 1)}, step)
    assert history(tracker_uri, run, "train/loss") == [(step, 1 / (step + 1)) for step in range(15)]
    assert "while-away.txt" in artifacts(tracker_uri, run)
    assert MlflowClient(tracker_uri).get_run(run.run_id).info.status == "FINISHED"
    assert not (tmp_path / "unsent.json").exists()


def test_tracker_that_stays_away_gets_everything_by_sync(tracker_server, tracker_uri, tmp_path, caplog):
    with training_run(tracker_uri, "away", "r", {}, folder=tmp_path, patience_seconds=0.1) as run:
        run.log_metrics({"val/map": 0.25}, 0)
        tracker_server.stop()
        run.log_metrics({"val/map": 0.5}, 1)
        run.log_text("a\nb\n", "splits/train.txt")
        run.log_dataset("train", "a" * 64, {"images": 3}, folders=["/data"])
        run.set_tags({"note": "hello"})
    wait_until(lambda: "does not answer" in caplog.text or "No MLflow tracker answers" in caplog.text)
    assert f"python registry.py sync {tmp_path}" in caplog.text
    with pytest.raises(tracker.TrackerUnreachable):
        runs.sync(tmp_path)
    tracker_server.start()
    with pytest.raises(
        RegistryError, match="holds metrics of an earlier run"
    ):  # and not mixed up with a new run
        training_run(tracker_uri, "away", "next", {}, folder=tmp_path).__enter__()
    assert runs.sync(tmp_path) == run.run_id
    assert history(tracker_uri, run, "val/map") == [(0, 0.25), (1, 0.5)]
    assert artifacts(tracker_uri, run, "splits") == {"splits/train.txt"}
    found = MlflowClient(tracker_uri).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert found.data.tags["note"] == "hello"
    assert found.inputs is not None
    assert [given.dataset.name for given in found.inputs.dataset_inputs] == ["train"]
    with pytest.raises(RegistryError, match="Nothing waits"):
        runs.sync(tmp_path)


def test_tracker_away_at_the_start_is_an_error_before_anything_is_done(tmp_path):
    nobody = f"http://127.0.0.1:{free_port()}"
    with (
        pytest.raises(tracker.TrackerUnreachable, match="No MLflow tracker answers"),
        training_run(nobody, "e", "r", {}, folder=tmp_path),
    ):
        pytest.fail("the block must not run")


def test_resumed_run_goes_on_and_keeps_what_it_had(tracker_uri, tmp_path):
    with training_run(tracker_uri, "resume", "r", {"lr": 0.1, "minutes": 5}, folder=tmp_path) as run:
        run.log_metrics({"train/loss": 2.0}, 0)
        run.log_metrics({"train/loss": 1.0}, 1)
        run.interrupted()
    client = MlflowClient(tracker_uri)
    assert client.get_run(run.run_id).info.status == "KILLED"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "timest')  # as kill -9 leaves it
    again = {"lr": 0.1, "minutes": 9, "epochs": 3}
    with training_run(
        tracker_uri, "resume", "r", again, folder=tmp_path, resume_run_id=run.run_id
    ) as resumed:
        assert client.get_run(run.run_id).info.status == "RUNNING"
        resumed.log_metrics({"train/loss": 1.5}, 1)  # the step is done again after the checkpoint
        resumed.log_metrics({"train/loss": 0.5}, 2)
    assert resumed.run_id == run.run_id
    assert history(tracker_uri, run, "train/loss") == [(0, 2.0), (1, 1.0), (2, 0.5)]
    assert [metric.value for metric in outbox.read_metrics(tmp_path / "metrics.jsonl")] == [2.0, 1.0, 0.5]
    data = client.get_run(run.run_id).data
    assert data.params == {"lr": "0.1", "minutes": "5", "epochs": "3"}
    assert data.tags["resumed_with.minutes"] == "9"


def test_metrics_file_keeps_numbers_that_json_has_no_word_for(tmp_path):
    path = tmp_path / "metrics.jsonl"
    outbox.append_metrics(path, [Metric("a", math.nan, 2, 7), Metric("b", -math.inf, 2, 7)])
    assert json.loads(path.read_text())["metrics"] == {"a": "nan", "b": "-inf"}
    nan, infinite = outbox.read_metrics(path)
    assert math.isnan(nan.value)
    assert (infinite.key, infinite.step, infinite.timestamp, infinite.value) == ("b", 7, 2, -math.inf)


def test_run_to_resume_that_the_tracker_does_not_know(tracker_uri, tmp_path):
    with pytest.raises(RegistryError, match="The run 0123 to go on with is not at"):
        training_run(tracker_uri, "e", "r", {}, folder=tmp_path, resume_run_id="0123").__enter__()


@pytest.mark.parametrize(("error", "status", "failure"), [
    (ValueError("boom"), "FAILED", "ValueError: boom"),
    (RuntimeError("boom " * 1000), "FAILED", f"RuntimeError: {'boom ' * 1000}"[:497] + "..."),
    (KeyboardInterrupt("boom"), "KILLED", None),
])  # fmt: skip
def test_error_in_the_training_ends_the_run_and_goes_on_up(tracker_uri, tmp_path, error, status, failure):
    with (
        pytest.raises(type(error), match="boom"),
        training_run(tracker_uri, "ends", "r", {}, folder=tmp_path) as run,
    ):
        raise error
    found = MlflowClient(tracker_uri).get_run(run.run_id)
    assert (found.info.status, found.data.tags.get("failure")) == (status, failure)


def test_resumed_run_no_longer_says_why_it_failed_before(tracker_uri, tmp_path):
    with (
        pytest.raises(ValueError, match="boom"),
        training_run(tracker_uri, "again", "r", {}, folder=tmp_path) as run,
    ):
        raise ValueError("boom")
    with training_run(tracker_uri, "again", "r", {}, folder=tmp_path, resume_run_id=run.run_id):
        pass
    found = MlflowClient(tracker_uri).get_run(run.run_id)
    assert found.info.status == "FINISHED"
    assert "failure" not in found.data.tags


def test_run_that_fails_while_it_is_being_set_up_ends_as_failed(tracker_uri, tmp_path):
    class Odd:
        def __str__(self) -> str:
            raise RuntimeError("no word for this")

    with pytest.raises(RuntimeError, match="no word for this"):
        training_run(tracker_uri, "set-up", "r", {"odd": Odd()}, folder=tmp_path).__enter__()
    client = MlflowClient(tracker_uri)
    experiment = client.get_experiment_by_name("set-up")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert (run.info.status, run.data.tags["failure"]) == ("FAILED", "RuntimeError: no word for this")


def test_long_and_nested_configuration(tracker_uri, tmp_path):
    config = {"data": ["x" * 400, "y" * 400], "nested": {"lr": 0.1, "none": None}, "roots": []}
    with training_run(tracker_uri, "config", "r", config, folder=tmp_path) as run:
        pass
    client = MlflowClient(tracker_uri)
    params = client.get_run(run.run_id).data.params
    assert params["nested.lr"] == "0.1"
    assert params["nested.none"] == "null"
    assert len(params["data"]) == 500
    whole = client.download_artifacts(run.run_id, "config.json", str(tmp_path))
    assert json.loads(Path(whole).read_text()) == config


def test_data_environment_and_files_are_logged(tracker_uri, tmp_path):
    report = tmp_path / "report"
    report.mkdir()
    (report / "report.json").write_text("{}")
    with training_run(tracker_uri, "things", "r", {}, folder=tmp_path) as run:
        counts = {"images": 3, "boxes": {"knife": 2}}
        run.log_dataset("train", "a" * 64, counts, folders=["/data/a/images", "/data/b/images"])
        run.log_text("1 0.5", "curves/loss.txt")
        run.log_artifacts(report, "report")
        run.set_tags({"note": "hello"})
    found = MlflowClient(tracker_uri).get_run(run.run_id)
    assert found.inputs is not None
    (given,) = found.inputs.dataset_inputs
    assert given.dataset.name == "train"
    assert given.dataset.digest == "a" * 36
    assert json.loads(given.dataset.source) == {"folders": ["/data/a/images", "/data/b/images"]}
    assert json.loads(given.dataset.profile or "") == {
        "fingerprint": "a" * 64,
        "images": 3,
        "boxes": {"knife": 2},
    }
    assert found.data.tags["note"] == "hello"
    assert found.data.tags["version.python"].startswith("3.")
    assert {"config.json", "environment.txt", "curves", "report"} <= artifacts(tracker_uri, run)
    assert artifacts(tracker_uri, run, "report") == {"report/report.json"}
    assert (tmp_path / "curves" / "loss.txt").read_bytes() == b"1 0.5"


def test_machine_is_measured_at_the_steps_of_the_training(tracker_uri, tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "SYSTEM_SECONDS", 0.05)

    def measured_at() -> set[int]:
        found = outbox.read_metrics(tmp_path / "metrics.jsonl")
        return {metric.step for metric in found if metric.key == "system/cpu_utilization_percentage"}

    with training_run(tracker_uri, "system", "r", {}, folder=tmp_path) as run:
        for step in (20, 40):
            run.log_metrics({"train/loss": 1.0}, step)
            wait_until(lambda step=step: step in measured_at())
    measured = MlflowClient(tracker_uri).get_run(run.run_id).data.metrics
    assert measured["system/system_memory_usage_megabytes"] > 0
    steps = {step for step, _ in history(tracker_uri, run, "system/cpu_utilization_percentage")}
    assert {20, 40} <= steps <= {0, 20, 40}


def test_machine_that_cannot_be_measured_costs_its_curves_and_not_the_training(
    tracker_uri, tmp_path, monkeypatch, caplog
):
    for module in [name for name in sys.modules if name.startswith("mlflow.system_metrics")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "psutil", None)  # as where it is not installed
    with training_run(tracker_uri, "unmeasured", "r", {}, folder=tmp_path) as run:
        run.log_metrics({"train/loss": 1.0}, 20)
    assert MlflowClient(tracker_uri).get_run(run.run_id).info.status == "FINISHED"
    assert history(tracker_uri, run, "train/loss") == [(20, 1.0)]
    (said,) = [line.getMessage() for line in caplog.records if line.name == "weapon-detector.tracker"]
    assert said.startswith("The machine is not measured from here on, the training goes on (")
    assert "psutil" in said


def test_monitor_that_fails_in_the_middle_costs_what_would_have_come(
    tracker_uri, tmp_path, monkeypatch, caplog
):
    import psutil

    def broken() -> None:
        raise OSError("no such counter")

    monkeypatch.setattr(runs, "SYSTEM_SECONDS", 0.05)
    with training_run(tracker_uri, "broken", "r", {}, folder=tmp_path) as run:
        monkeypatch.setattr(psutil, "virtual_memory", broken)
        wait_until(lambda: "OSError: no such counter" in caplog.text)
        run.log_metrics({"train/loss": 1.0}, 20)
    assert MlflowClient(tracker_uri).get_run(run.run_id).info.status == "FINISHED"
    assert history(tracker_uri, run, "train/loss") == [(20, 1.0)]


def test_what_the_tracker_refuses_does_not_stop_what_follows(tracker_uri, tmp_path, caplog):
    with training_run(tracker_uri, "refuses", "r", {}, folder=tmp_path) as run:
        run.log_metrics({"a metric name with a bad character: *": 1.0}, 0)
        run.log_artifact(tmp_path / "absent.txt")
        run.log_metrics({"good": 1.0}, 0)
    assert history(tracker_uri, run, "good") == [(0, 1.0)]
    assert "MLflow did not take metrics" in caplog.text
    assert "MLflow did not take absent.txt" in caplog.text


def test_other_processes_log_nothing(tmp_path):
    nobody = f"http://127.0.0.1:{free_port()}"
    with training_run(nobody, "e", "r", {"a": 1}, folder=tmp_path, active=False) as run:
        run.log_metrics({"loss": 1.0}, 0)
        run.log_text("x", "x.txt")
        run.log_dataset("train", "f", {}, folders=[])
        run.log_artifact(tmp_path)
        run.set_tags({"a": "b"})
        run.interrupted()
    assert (run.active, run.run_id, run.url) == (False, "", "")
    assert list(tmp_path.iterdir()) == []


def test_new_run_in_a_used_folder_does_not_get_the_old_numbers(tracker_uri, tmp_path):
    for name in ("old", "new"):
        with training_run(tracker_uri, "used", name, {}, folder=tmp_path) as run:
            run.log_metrics({name: 1.0}, 0)
    assert set(MlflowClient(tracker_uri).get_run(run.run_id).data.metrics) == {"new"}


def test_deleted_experiment_is_named(tracker_uri, tmp_path):
    client = MlflowClient(tracker_uri)
    client.delete_experiment(client.create_experiment("gone"))
    with pytest.raises(RegistryError, match="The experiment 'gone' was deleted"):
        training_run(tracker_uri, "gone", "r", {}, folder=tmp_path).__enter__()


def test_two_runs_that_start_at_once_share_a_new_experiment(tracker_uri):
    made: list[str] = []

    class Slower(MlflowClient):
        """Looks for the experiment just before another run makes it."""

        def get_experiment_by_name(self, name: str) -> Any:
            if made:
                return super().get_experiment_by_name(name)
            made.append(MlflowClient(tracker_uri).create_experiment(name))
            return None

    assert runs.open_experiment(Slower(tracker_uri), "shared", tracker_uri) == made[0]


def test_experiment_that_keeps_files_on_the_clients_disk_is_refused():
    class Old:
        lifecycle_stage, artifact_location, experiment_id = "active", "/mlflow/artifacts/1", "1"

    class Client(MlflowClient):
        def __init__(self) -> None:
            pass

        def get_experiment_by_name(self, name: str) -> Any:
            return Old()

    with pytest.raises(RegistryError, match="keeps its files in /mlflow/artifacts/1"):
        runs.open_experiment(Client(), "old", "http://127.0.0.1:5000")


def test_database_used_directly_needs_no_server(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MLflow makes ./mlruns beside a database
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(uri)
    client.create_experiment("direct", artifact_location=str(tmp_path / "artifacts"))
    with training_run(uri, "direct", "r", {}, folder=tmp_path / "run") as run:
        run.log_metrics({"val/map": 0.5}, 0)
    assert run.url == ""
    assert history(uri, run, "val/map") == [(0, 0.5)]


SECRET = "http://mluser:s3cretpass@127.0.0.1:9"  # nothing listens at the discard port


def test_no_message_holds_the_trackers_password():
    with pytest.raises(tracker.TrackerUnreachable) as caught:
        tracker.check_tracker(SECRET)
    assert "at http://127.0.0.1:9." in str(caught.value)
    assert "mluser" not in str(caught.value)
    assert "s3cretpass" not in str(caught.value)
    odd = tracker.RegistryError("API request to postgresql+psycopg://a:b@db/x failed; https://y/z@1 stays")
    assert str(odd) == "API request to postgresql+psycopg://db/x failed; https://y/z@1 stays"


class RefusingOnce:
    """A client whose tracker hears of the data set from another run at the same time."""

    def __init__(self, message: str) -> None:
        self.message, self.asked = message, 0

    def log_inputs(self, run_id, given):
        self.asked += 1
        if self.asked == 1:
            raise MlflowException(self.message)


def test_data_that_two_runs_log_at_once_is_logged_by_both():
    client: Any = RefusingOnce("(sqlite3.IntegrityError) UNIQUE constraint failed: datasets.experiment_id")
    provenance.log_inputs(client, "run", [])
    assert client.asked == 2
    full: Any = RefusingOnce("the disk is full")
    with pytest.raises(MlflowException, match="disk is full"):
        provenance.log_inputs(full, "run", [])


def test_no_variable_of_the_environment_changes_while_a_run_lasts(tracker_uri, small_model, tmp_path):
    """Threads read the environment meanwhile, and one that reads while another writes can fail."""
    tracker.use_tracker(tracker_uri)
    with environment_watched() as changed:
        with training_run(tracker_uri, "still", "r", {"lr": 0.1}, folder=tmp_path / "run") as run:
            run.log_metrics({"train/loss": 1.0}, 0)
            run.log_text("kept", "note.txt")
        made = logged_model.log_and_register(
            small_model, name="still", tracking_uri=tracker_uri, run_id=run.run_id, patience_seconds=LONGEST_S
        )
        versions.download_version(made, tmp_path / "got")
    assert history(tracker_uri, run, "train/loss") == [(0, 1.0)]
    assert (tmp_path / "got" / "model.json").is_file()
    assert changed == []
