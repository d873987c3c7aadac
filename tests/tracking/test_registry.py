"""Versions in a real MLflow tracker: registered, found, downloaded, promoted, rolled back."""

import base64
import errno
import hashlib
import http.server
import importlib.metadata
import io
import json
import os
import shutil
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
import requests
from conftest import LONGEST_S, TrackerServer, answers, free_port, running
from fake_detector import PHONE, PISTOL, make_card
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput
from mlflow.store.artifact.http_artifact_repo import HttpArtifactRepository
from PIL import Image
from rich.console import Console

import registry
from detection.card import read_card, write_card
from detection.detections import CLASS_NAMES, Detections
from docs.import_graph import code, imports
from schemas import Export, NetworkGeometry, OperatingPoint
from tracking import comparison, logged_model, provenance, tables, tracker
from tracking.aliases import champion_line, read_history
from tracking.champion import PromotionRefused, interval, not_told_apart, objections, promote, rollback
from tracking.tracker import RegistryError
from tracking.versions import (
    OURS,
    RECALL,
    RegisteredVersion,
    VersionNotFound,
    check_name,
    download_version,
    find_version,
    list_versions,
)

ROOT = Path(__file__).parents[2]


def point() -> OperatingPoint:
    return OperatingPoint(
        score_threshold=0.62, rule="at most 50 false alarms", split="val", precision=0.8, recall=0.7,
        image_recall=0.9, false_alarms_per_1000=40.0, weapon_images=10, weapon_free_images=25,
    )  # fmt: skip


def model_folder(small_model: Path, folder: Path, **metrics: float) -> Path:
    """Copy the small model and give it numbers, with "__" for the slash of val/map."""
    shutil.copytree(small_model, folder)
    card = read_card(folder)
    measured = {key.replace("__", "/"): value for key, value in metrics.items()}
    changed = card.model_copy(
        update={
            "metrics": measured,
            "operating_point": point(),
            "unsure_point": point().model_copy(update={"score_threshold": 0.31}),
            "data_fingerprint": "f" * 64,
            "git_commit": "c" * 40,
        }
    )
    write_card(folder, changed)
    return folder


def import_model(small_model: Path, folder: Path, name: str, uri: str, **metrics: float) -> RegisteredVersion:
    made, _ = logged_model.import_folder(
        model_folder(small_model, folder, **metrics), name=name, experiment="imports", tracking_uri=uri
    )
    return made


def version(number: str, **tags: object) -> RegisteredVersion:
    """A version with these tags, "__" for the slash of val/map; those that are None are left out."""
    values = {key.replace("__", "/"): str(value) for key, value in tags.items() if value is not None}
    return RegisteredVersion("m", number, None, "", values, "http://127.0.0.1:1")


def experiment_id(client: MlflowClient, name: str) -> str:
    found = client.get_experiment_by_name(name)
    assert found is not None
    return str(found.experiment_id)


@pytest.fixture(scope="module")
def two(tracker_server, small_model, tmp_path_factory) -> tuple[RegisteredVersion, RegisteredVersion]:
    """Two versions of "two", the first made from the folder its tag `source` names."""
    tracker_server.start()
    folder = tmp_path_factory.mktemp("two")
    first = import_model(small_model, folder / "a", "two", tracker_server.uri, val__map=0.512345678)
    second = import_model(small_model, folder / "b", "two", tracker_server.uri, val__map=0.6)
    return first, second


def stored_files(server: TrackerServer, found: RegisteredVersion) -> list[Path]:
    """Return what the tracker keeps of a logged model."""
    source = str(MlflowClient(server.uri).get_model_version(found.name, found.version).source)
    model_id = source.removeprefix("models:/")
    return [path for path in server.folder.glob(f"artifacts/*/models/{model_id}/**/*") if path.is_file()]


# --- register, find, download -----------------------------------------------------------------------


def test_first_version_is_champion_and_the_next_challenger(two, tracker_uri):
    first, second = two
    assert (first.version, first.alias) == ("1", "champion")
    assert (second.version, second.alias) == ("2", "challenger")
    assert find_version("two", tracking_uri=tracker_uri).version == "1"


def test_new_numbers_for_the_same_weights_are_a_new_version(two):
    first, second = two
    assert first.tags["sha256.weights.safetensors"] == second.tags["sha256.weights.safetensors"]
    assert first.version != second.version


def test_version_carries_metrics_operating_point_data_and_commit(two):
    made = two[0]
    assert made.measured("val/map") == pytest.approx(0.512346)
    assert made.tags["operating_point.score_threshold"] == "0.62"
    assert made.tags["unsure_point.score_threshold"] == "0.31"
    assert "operating_point.false_alarms_per_1000_high" not in made.tags, "it was not asked for"
    assert made.tags["data_fingerprint"] == "f" * 64
    assert made.tags["git_commit"] == "c" * 40
    assert Path(made.tags["source"]).name == "a"


def test_run_and_logged_model_show_the_numbers(two, tracker_uri):
    client = MlflowClient(tracker_uri)
    run = client.get_run(two[0].run_id)
    assert run.info.status == "FINISHED"
    assert run.data.metrics["model/val/map"] == pytest.approx(0.512345678)
    assert run.outputs is not None
    (made,) = run.outputs.model_outputs
    numbers = client.get_logged_model(made.model_id).metrics or []
    assert {metric.key: metric.value for metric in numbers} == {"model/val/map": pytest.approx(0.512345678)}


def test_download_gives_the_same_two_files(two, tracker_uri, tmp_path):
    got = download_version(two[0], tmp_path / "got")
    assert sorted(path.name for path in got.iterdir()) == ["model.json", "weights.safetensors"]
    for file in ("model.json", "weights.safetensors"):
        assert (got / file).read_bytes() == (Path(two[0].tags["source"]) / file).read_bytes()


def test_same_folder_is_imported_once(two, tracker_uri):
    folder = Path(two[0].tags["source"])
    found, is_new = logged_model.import_folder(
        folder, name="two", experiment="imports", tracking_uri=tracker_uri
    )
    assert (found.version, is_new) == ("1", False)
    assert len(list_versions("two", tracking_uri=tracker_uri)) == 2


def test_a_logged_model_is_filed_under_its_runs_experiment(two, tracker_uri):
    client = MlflowClient(tracker_uri)
    found = client.get_model_version("two", "1")
    logged = client.get_logged_model(str(found.source).removeprefix("models:/"))
    assert logged.experiment_id == client.get_run(str(found.run_id)).info.experiment_id != "0"


def with_export(small_model: Path, folder: Path) -> Path:
    """Return a model folder with the files of an export, which say nothing."""
    model_folder(small_model, folder)
    (folder / "openvino-int8").mkdir()
    contents = {"openvino-int8/look.xml": b"<net/>", "openvino-int8/look.bin": b"weights"}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    card = read_card(folder)
    export = Export(
        runtime="openvino", precision="int8", weights_sha256=card.weights_sha256,
        files={name: hashlib.sha256(content).hexdigest() for name, content in contents.items()},
        geometry=NetworkGeometry(cell_anchors=(), pool_strides=(8,)),
    )  # fmt: skip
    write_card(folder, card.model_copy(update={"exports": (export,)}))
    return folder


def test_exports_travel_through_the_registry(tracker_uri, small_model, tmp_path):
    folder = with_export(small_model, tmp_path / "model")
    made, is_new = logged_model.import_folder(
        folder, name="exported", experiment="imports", tracking_uri=tracker_uri
    )
    assert is_new
    came = download_version(made, tmp_path / "came")
    for name in ("openvino-int8/look.xml", "openvino-int8/look.bin", "model.json"):
        assert (came / name).read_bytes() == (folder / name).read_bytes()
    assert sorted(path.name for path in came.iterdir()) == [
        "model.json",
        "openvino-int8",
        "weights.safetensors",
    ]


def test_a_model_whose_export_is_gone_from_the_store_still_comes(tracker_server, small_model, tmp_path):
    tracker_server.start()
    folder = with_export(small_model, tmp_path / "model")
    made, _ = logged_model.import_folder(
        folder, name="half-exported", experiment="imports", tracking_uri=tracker_server.uri
    )
    [stored] = [path for path in stored_files(tracker_server, made) if path.name == "look.bin"]
    stored.unlink()
    came = download_version(made, tmp_path / "came")
    assert (came / "openvino-int8/look.xml").is_file()
    assert not (came / "openvino-int8/look.bin").exists()
    assert read_card(came).exports


def test_training_curves_come_along_with_an_imported_folder(tracker_uri, small_model, tmp_path):
    folder = model_folder(small_model, tmp_path / "curved", val__map=0.5)
    lines = [
        {"step": step, "timestamp": 1000 * step, "metrics": {"train/loss": 1 / step}} for step in (1, 2, 4)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made, _ = logged_model.import_folder(folder, name="curved", experiment="curved", tracking_uri=tracker_uri)
    history = MlflowClient(tracker_uri).get_metric_history(made.run_id, "train/loss")
    assert [(point.step, point.value) for point in history] == [(1, 1.0), (2, 0.5), (4, 0.25)]


def test_import_shows_what_the_folder_knows_of_its_training(tracker_uri, small_model, tmp_path):
    folder = model_folder(small_model, tmp_path / "known", val__map=0.5)
    counts = {"roots": ["weapons"], "train": {"images": 30}, "val": {"images": 10}}
    about = {
        "data": counts,
        "library_versions": {"torch": "9.9"},
        "run_id": "abc",
        "created_at": "2026-01-02",
    }
    write_card(folder, read_card(folder).model_copy(update=about))
    lines = [
        {"step": 1, "timestamp": 1_700_000_000_000, "metrics": {"train/loss": 1.0}},
        {"step": 1_700_000_009, "timestamp": 1_700_000_009_000, "metrics": {"system/cpu": 50.0}},
        {"step": 20, "timestamp": 1_700_000_060_000, "metrics": {"train/loss": 0.5}},
        {"step": 20, "timestamp": 1_700_000_120_000, "metrics": {"system/cpu": 70.0}},
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    made, _ = logged_model.import_folder(folder, name="known", experiment="known", tracking_uri=tracker_uri)

    client = MlflowClient(tracker_uri)
    run = client.get_run(made.run_id)
    network = read_card(folder).network
    assert set(run.data.params) == set(type(network).model_fields)  # and not one that the card does not know
    assert run.data.params["min_size"] == "64"
    assert run.data.params["architecture"] == "fasterrcnn_mobilenet_v2_fpn"
    assert run.data.params["image_mean"] == json.dumps(list(network.image_mean))
    assert (run.info.start_time, run.info.end_time) == (1_700_000_000_000, 1_700_000_120_000)
    assert run.data.metrics["model/val/map"] == 0.5
    history = client.get_metric_history(made.run_id, "system/cpu")  # at the training's steps
    assert [(point.step, point.value) for point in history] == [(1, 50.0), (20, 70.0)]
    assert run.data.tags["version.torch"] == "9.9"
    assert run.data.tags["git_commit"] == "c" * 40
    assert run.data.tags["trained_in_run"] == "abc"
    assert run.data.tags["operating_point.image_recall"] == "0.9"
    assert run.inputs is not None
    (given,) = run.inputs.dataset_inputs
    assert given.dataset.digest == "f" * 36
    assert json.loads(given.dataset.source) == {"folders": ["weapons"]}
    assert json.loads(given.dataset.profile or "")["val"] == {"images": 10}


def test_import_that_fails_ends_its_run(tracker_uri, small_model, tmp_path, monkeypatch):
    monkeypatch.setattr(logged_model, "SERVING_PACKAGES", ("no-such-package",))
    with pytest.raises(importlib.metadata.PackageNotFoundError):
        logged_model.import_folder(
            model_folder(small_model, tmp_path / "a"),
            name="ends",
            experiment="ends",
            tracking_uri=tracker_uri,
        )
    client = MlflowClient(tracker_uri)
    (run,) = client.search_runs([experiment_id(client, "ends")])
    assert run.info.status == "FAILED"


# --- several at once, and answers that get lost -----------------------------------------------------

CHILD = """
import sys
from pathlib import Path
from tracking.champion import promote
from tracking.logged_model import import_folder
uri, name, folder = sys.argv[1:]
def wait_for_the_others(said):
    print(said, flush=True)
    if not sys.stdin.readline():
        sys.exit()
wait_for_the_others("ready")
made, _ = import_folder(Path(folder), name=name, experiment=name, tracking_uri=uri)
wait_for_the_others(made.version)
promote(name, made.version, tracking_uri=uri, why="mine", force=True)
wait_for_the_others("promoted")
"""


def said_by(child: "subprocess.Popen[str]") -> str:
    assert child.stdout is not None
    return child.stdout.readline().strip()


def go_on(children: "list[subprocess.Popen[str]]") -> list[str]:
    """Let all children go on at once; return what each says next."""
    for child in children:
        assert child.stdin is not None
        child.stdin.write("\n")
        child.stdin.flush()
    return [said_by(child) for child in children]


def test_of_several_registered_at_once_one_is_champion_and_no_change_is_lost(
    tracker_uri, small_model, tmp_path
):
    folders = [model_folder(small_model, tmp_path / str(n), val__map=0.5 + n / 100) for n in range(3)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, tracker_uri, "at-once", str(folder)],
            cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for folder in folders
    ]  # fmt: skip
    try:
        assert [said_by(child) for child in children] == ["ready"] * 3
        versions = go_on(children)
        assert sorted(versions) == ["1", "2", "3"]
        aliases = MlflowClient(tracker_uri).get_registered_model("at-once").aliases
        assert aliases["champion"] == "1"
        assert aliases["challenger"] in ("2", "3")
        later = [child for child, number in zip(children, versions, strict=True) if number != "1"]
        assert go_on(later) == ["promoted"] * 2
    finally:
        for child in children:
            child.communicate()  # the end of its input ends it
    history = read_history(MlflowClient(tracker_uri), "at-once")
    assert [change["action"] for change in history] == ["first", "promote", "promote"]
    assert sorted(change["version"] for change in history) == ["1", "2", "3"]


class LossyProxy(http.server.ThreadingHTTPServer):
    """Passes everything on to a tracker, and loses the answer to the first request for one path."""

    def __init__(self, tracker_uri: str, path: str) -> None:
        self.tracker_uri, self.path, self.lost = tracker_uri, path, 0
        super().__init__(("127.0.0.1", 0), Passing)
        self.uri = f"http://127.0.0.1:{self.server_port}"

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_error):
        self.shutdown()
        self.server_close()


class Passing(http.server.BaseHTTPRequestHandler):
    server: LossyProxy

    def _pass(self):
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        kept = {key: self.headers[key] for key in ("Content-Type",) if key in self.headers}
        with requests.Session() as session:
            session.trust_env = False
            answer = session.request(
                self.command, self.server.tracker_uri + self.path, data=body, headers=kept, timeout=300
            )
        status, content = answer.status_code, answer.content
        if self.command == "POST" and self.path.endswith(self.server.path) and not self.server.lost:
            self.server.lost += 1
            status, content = 502, b"the answer is lost, the work is done"
        self.send_response(status)
        self.send_header("Content-Type", answer.headers.get("Content-Type", "text/plain"))
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815 # http.server names them so

    def log_message(self, *args):
        pass


@pytest.mark.parametrize(
    "path", ["/model-versions/create", "/logged-models", "/outputs", "/registered-models/alias"]
)
def test_lost_answer_makes_nothing_twice(path, tracker_uri, small_model, tmp_path):
    name = f"lossy{path.replace('/', '-')}"
    with LossyProxy(tracker_uri, path) as proxy:
        made = import_model(small_model, tmp_path / "a", name, proxy.uri, val__map=0.5)
        assert proxy.lost == 1
    (found,) = list_versions(name, tracking_uri=tracker_uri)
    assert (found.version, found.aliases, made.version) == ("1", ("champion",), "1")
    client = MlflowClient(tracker_uri)
    run = client.get_run(found.run_id)
    logged = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{found.run_id}'"
    )
    assert [str(each.status) for each in logged] == ["READY"]
    assert run.outputs is not None
    assert [output.model_id for output in run.outputs.model_outputs] == [logged[0].model_id]
    got = download_version(found, tmp_path / "got")
    assert (got / "model.json").read_bytes() == (tmp_path / "a" / "model.json").read_bytes()


def test_import_goes_on_where_one_was_cut_short(tracker_uri, small_model, tmp_path):
    made = import_model(small_model, tmp_path / "a", "cut", tracker_uri)
    MlflowClient(tracker_uri).delete_registered_model_alias("cut", "champion")  # as if it had not come so far
    found, is_new = logged_model.import_folder(
        tmp_path / "a", name="cut", experiment="imports", tracking_uri=tracker_uri
    )
    assert (found.version, found.aliases, is_new) == (made.version, ("champion",), False)


def test_changed_file_in_the_store_is_refused(tracker_server, tracker_uri, small_model, tmp_path):
    made = import_model(small_model, tmp_path / "a", "changed", tracker_uri)
    (stored,) = [path for path in stored_files(tracker_server, made) if path.name == "model.json"]
    stored.write_text(stored.read_text().replace("pistol", "pencil"))
    with pytest.raises(RegistryError, match=r"model\.json of version 1 of changed is not the file that was"):
        download_version(made, tmp_path / "got")
    assert not (tmp_path / "got" / "model.json").exists()


def test_full_disk_is_not_called_a_refusal_of_the_tracker(two, tracker_uri, tmp_path, monkeypatch):
    def full(self, remote_file_path, local_path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), local_path)

    monkeypatch.setattr(HttpArtifactRepository, "_download_file", full)
    with pytest.raises(RegistryError) as stopped:
        download_version(two[0], tmp_path / "got")
    assert str(stopped.value) == (
        f"version 1 of two cannot be written to {tmp_path / 'got'}: [Errno {errno.ENOSPC}] "
        f"{os.strerror(errno.ENOSPC)}. It needs room and the right to write there."
    )


@pytest.mark.parametrize(("wanted", "sentence"), [
    ({"version": "7"}, "There is no version 7 of 'absent'"),
    ({"alias": "challenger"}, "There is no version with the alias 'challenger' of 'absent'"),
])  # fmt: skip
def test_absent_version_is_said_to_be_absent(tracker_uri, wanted, sentence):
    MlflowClient(tracker_uri).search_registered_models()
    with pytest.raises(VersionNotFound, match=sentence):
        find_version("absent", **wanted, tracking_uri=tracker_uri)


def test_folder_without_a_model_is_refused(tracker_uri, tmp_path):
    with pytest.raises(
        RegistryError, match=r"Expected a model folder with weights\.safetensors and model\.json"
    ):
        logged_model.import_folder(tmp_path, name="m", experiment="imports", tracking_uri=tracker_uri)


def test_broken_model_card_is_refused(tracker_uri, small_model, tmp_path):
    folder = model_folder(small_model, tmp_path / "a")
    (folder / "model.json").write_text('{"format": 1}')
    with pytest.raises(RegistryError, match=r"model\.json is not a model card"):
        logged_model.import_folder(folder, name="m", experiment="imports", tracking_uri=tracker_uri)


def test_name_of_somebody_elses_model_is_refused(tracker_uri, small_model, tmp_path):
    MlflowClient(tracker_uri).create_registered_model("theirs")
    with pytest.raises(RegistryError, match="already has something named 'theirs'"):
        import_model(small_model, tmp_path / "a", "theirs", tracker_uri)
    with pytest.raises(RegistryError, match="already has something named 'theirs'"):
        check_name("theirs", tracking_uri=tracker_uri)


def test_name_of_a_prompt_is_refused(tracker_uri):
    mlflow.set_tracking_uri(tracker_uri)
    mlflow.genai.register_prompt("a-prompt", "text")
    with pytest.raises(RegistryError, match="a-prompt"):
        check_name("a-prompt", tracking_uri=tracker_uri)


def test_version_of_another_kind_is_said_to_hold_no_model_folder(tracker_uri, tmp_path):
    client = MlflowClient(tracker_uri)
    client.create_registered_model("other-kind")
    run = client.create_run("0")
    client.log_text(run.info.run_id, "hello", "model/readme.txt")
    client.create_model_version("other-kind", f"{run.info.artifact_uri}/model", run.info.run_id)
    found = find_version("other-kind", "1", tracking_uri=tracker_uri)
    with pytest.raises(RegistryError, match="not registered by this project"):
        download_version(found, tmp_path / "got")


def test_export_does_not_write_into_a_folder_with_files(tracker_uri, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(RegistryError, match="Expected a new or empty folder"):
        logged_model.export_folder(version("1"), tmp_path)


# --- the tracker is away ----------------------------------------------------------------------------


def test_nobody_at_the_address_is_said_at_once():
    with pytest.raises(tracker.TrackerUnreachable, match=r"No MLflow tracker answers at http://127\.0\.0\.1"):
        find_version("m", tracking_uri=f"http://127.0.0.1:{free_port()}")


class Dull(http.server.BaseHTTPRequestHandler):
    """Some other web server."""

    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>hello</html>")

    def log_message(self, *args):
        pass


def test_a_tracker_that_stays_away_costs_no_model(small_model, monkeypatch):
    monkeypatch.setattr(tracker, "RETRY_SECONDS", 0.1)
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RegistryError, match=r"No MLflow tracker answers.* The model is safe in .* import "):
        logged_model.log_and_register(
            small_model, name="m", tracking_uri=uri, run_id="r", patience_seconds=0.1
        )


def test_another_server_at_the_address_is_told_apart():
    with http.server.HTTPServer(("127.0.0.1", 0), Dull) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            with pytest.raises(tracker.TrackerUnreachable, match="is no MLflow tracker"):
                tracker.check_tracker(f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()


def test_tracker_that_does_not_know_the_name_it_is_called_by_is_named(tracker_uri):
    port = tracker_uri.rpartition(":")[2]
    with pytest.raises(tracker.TrackerUnreachable, match="MLFLOW_SERVER_ALLOWED_HOSTS"):
        tracker.check_tracker(f"http://0177.0.0.1:{port}")  # 127.0.0.1 in another spelling


# --- promote and roll back --------------------------------------------------------------------------


SOUND = {"val__map": 0.5, "val__alarm__image_recall": 0.9, "val__alarm__false_alarms_per_1000": 40.0}


@pytest.mark.parametrize(("challenger", "champion", "against"), [
    ({"val__map": 0.6}, {}, []),  # better
    ({}, {}, []),  # as good
    ({"val__map": 0.4}, {}, ["its val/map is 0.4000, the champion's (version 1) 0.5000"]),
    ({"val__map": None}, {}, ["val/map of version 2 was not measured"]),
    ({"val__map": "nan"}, {}, ["val/map of version 2 was not measured"]),
    ({"val__map": 0.1}, {"val__map": None}, []),  # not known of the champion: anything measured is better
    (
        {"val__lookalike_alarm_rate": 0.2},
        {"val__lookalike_alarm_rate": 0.1},
        ["its val/lookalike_alarm_rate is 0.2000, the champion's (version 1) 0.1000"],
    ),
    ({"val__lookalike_alarm_rate": 0.1}, {"val__lookalike_alarm_rate": 0.2}, []),
    ({}, {"val__lookalike_alarm_rate": 0.2}, ["val/lookalike_alarm_rate of version 2 was not measured"]),
    (
        {"val__alarm__false_alarms_per_1000": 41.0},
        {},
        ["its val/alarm/false_alarms_per_1000 is 41.0, the champion's (version 1) 40.0"],
    ),
])  # fmt: skip
def test_gate(challenger, champion, against):
    one, other = version("2", **SOUND | challenger), version("1", **SOUND | champion)
    assert objections(one, other) == against


def test_models_of_other_classes_are_not_compared_and_a_person_decides():
    six = {"classes": "pistol, knife, smartphone"}  # of before cards said what is dangerous
    mine = {"classes": "axe, phone, rifle", "dangerous": "rifle, axe"}
    better = {"val__map": 0.9}
    assert objections(version("2", **SOUND, **mine), version("1", **SOUND, **six)) == [
        "it looks for axe, rifle (look-alikes: phone), the champion (version 1) for knife, pistol "
        "(look-alikes: smartphone): figures of models with other classes do not compare, so that only a "
        "person can say which is better"
    ]
    assert objections(version("2", **SOUND | better, **mine), version("1", **SOUND, **six)) != []
    assert not_told_apart(version("2", **SOUND, **mine), version("1", **SOUND | better, **six)) == []
    assert objections(version("2", **SOUND, **mine), version("1", **SOUND, **mine)) == []
    assert objections(version("2", **SOUND, **six), version("1", **SOUND)) == []  # nobody knows: as before
    turned = {"classes": "knife, pistol, smartphone", "dangerous": "knife, pistol"}
    assert objections(version("2", **SOUND, **turned), version("1", **SOUND, **six)) == []


def measured(number: str, map_: float, recall: float, false_alarms: float, **tags: object):
    """A version measured on 529 images with a weapon and 195 without."""
    alarm = {"val__alarm__image_recall": recall, "val__alarm__false_alarms_per_1000": false_alarms}
    counts = {"operating_point.weapon_images": 529, "operating_point.weapon_free_images": 195}
    return version(number, val__map=map_, **alarm, **counts, **tags)


def test_gate_refuses_fewer_alarms_for_a_better_map():
    champion, challenger = measured("1", 0.549, 0.938, 41.0), measured("2", 0.554, 0.888, 41.0)
    # 0.938 - 0.888 = 0.050; the 95 % interval of the difference is 0.050 +- hypot(0.0241, 0.0239) = 0.034
    assert objections(challenger, champion) == [
        "its val/alarm/image_recall is 0.8880 (0.8588 to 0.9125), the champion's (version 1) 0.9380 "
        "(0.9137 to 0.9552)"
    ]
    assert not_told_apart(challenger, champion) == []


def test_differences_within_the_interval_are_named_and_refuse_nothing():
    champion = measured("1", 0.549, 0.938, 41.0, val__map__low=0.51, val__map__high=0.59)
    challenger = measured("2", 0.530, 0.930, 46.2, val__map__low=0.49, val__map__high=0.57)
    assert objections(challenger, champion) == []
    in_map, in_recall, in_false_alarms = not_told_apart(challenger, champion)
    assert in_map == (
        "its val/map is 0.5300 (0.4900 to 0.5700), the champion's (version 1) 0.5490 (0.5100 to 0.5900)"
    )
    assert in_recall.startswith("its val/alarm/image_recall is 0.9300 (")
    assert in_false_alarms.startswith("its val/alarm/false_alarms_per_1000 is 46.2 (")
    # 0.549 - 0.49 = 0.059 is more than hypot(0.04, 0.039) = 0.0559
    worse = measured("3", 0.490, 0.938, 41.0, val__map__low=0.45, val__map__high=0.53)
    assert [text[:27] for text in objections(worse, champion)] == ["its val/map is 0.4900 (0.45"]


@pytest.mark.parametrize(
    "champion", [None, measured("1", 0.549, 0.0, 900.0), measured("1", 0.549, 0.938, 41.0)]
)
@pytest.mark.parametrize(("challenger", "sentences"), [
    (
        measured("2", 0.56, 0.0, 900.0),
        [
            "it raises an alarm on no weapon image at all (val/alarm/image_recall is 0)",
            "it raises a false alarm on 900 of 1,000 weapon-free images",
        ],
    ),
    (
        version("2", val__map=0.6),
        [
            "val/alarm/image_recall of version 2 was not measured",
            "val/alarm/false_alarms_per_1000 of version 2 was not measured",
        ],
    ),
])  # fmt: skip
def test_a_useless_alarm_is_refused_whatever_the_champion_does(challenger, sentences, champion):
    assert objections(challenger, champion)[:2] == sentences


def test_version_without_the_alarms_metrics_is_judged_by_its_operating_point():
    old = {"image_recall": 0.938, "false_alarms_per_1000": 41.0, "weapon_images": 529, "split": "val"}
    tags = {f"operating_point.{key}": value for key, value in old.items()}
    tags["operating_point.weapon_free_images"] = 195
    champion = version("1", val__map=0.5, **tags)
    assert objections(champion, None) == []
    (said,) = objections(measured("2", 0.5, 0.888, 41.0), champion)
    assert said.startswith("its val/alarm/image_recall is 0.8880")
    unmeasured = replace(champion, tags={**champion.tags, "operating_point.weapon_images": "0"})
    assert objections(unmeasured, None) == ["val/alarm/image_recall of version 1 was not measured"]


def test_rates_between_weapon_and_lookalike_have_the_interval_of_their_boxes(small_model, tmp_path):
    folder = model_folder(small_model, tmp_path / "a", val__lookalike_alarm_rate=0.1)
    boxes = {"pistol": 300, "knife": 200, "billete": 60, "monedero": 40}
    card = read_card(folder).model_copy(update={"data": {"val": {"boxes": boxes}}})
    found = replace(version("1"), tags=logged_model.version_tags(folder, card))
    assert (found.count("val/lookalike_alarm_rate"), found.count("val/weapon_as_lookalike_rate")) == (
        100,
        500,
    )
    # Wilson for 10 of 100, as in every textbook: 0.0552 to 0.1744
    assert interval(found, "val/lookalike_alarm_rate") == pytest.approx((0.0552, 0.1744), abs=5e-5)
    for odd in ({}, {"val": None}, {"val": {"boxes": [1]}}, {"val": {"boxes": {"pistol": "many"}}}):
        tags = logged_model.version_tags(folder, card.model_copy(update={"data": odd}))
        assert replace(version("1"), tags=tags).count("val/lookalike_alarm_rate") == 0


def test_interval_drawn_from_the_images_wins_over_that_of_the_count():
    found = measured(
        "1", 0.5, 0.9, 40.0, val__alarm__image_recall__low=0.8, val__alarm__image_recall__high=0.95
    )
    assert interval(found, RECALL) == (0.8, 0.95)
    # every image drawn was found, which says nothing of how sure that is: 529 of 529
    certain = {"val__alarm__image_recall__low": 1.0, "val__alarm__image_recall__high": 1.0}
    low, high = interval(measured("1", 0.5, 1.0, 40.0, **certain), RECALL)
    assert (low, high) == pytest.approx((0.9928, 1.0), abs=5e-5)


def test_gate_says_when_the_two_were_measured_on_different_data():
    worse = version("2", **SOUND | {"val__map": 0.4, "data_fingerprint": "a"})
    against = objections(worse, version("1", **SOUND, data_fingerprint="b"))
    assert len(against) == 2
    assert "measured on different data" in against[1]


def test_promotion_is_guarded_recorded_and_undone(tracker_uri, small_model, tmp_path):
    uri = {"tracking_uri": tracker_uri}
    for folder, score in (("a", 0.5), ("b", 0.4), ("c", 0.6)):
        import_model(small_model, tmp_path / folder, "gate", tracker_uri, val__map=score)
    with pytest.raises(PromotionRefused, match=r"its val/map is 0\.4000"):
        promote("gate", "2", **uri)
    with pytest.raises(PromotionRefused, match="Use --force with --why REASON"):
        promote("gate", "2", **uri, force=True)  # overruling the gate takes a reason
    assert find_version("gate", **uri).version == "1"

    now, overruled = promote("gate", "2", **uri, why="fewer false alarms", force=True)
    assert (now.version, now.aliases) == ("2", ("champion",))
    assert overruled == ["its val/map is 0.4000, the champion's (version 1) 0.5000"]
    assert now.tags["promoted.why"] == "fewer false alarms"
    assert now.tags["promoted.who"] == provenance.who()
    assert now.tags["promoted.when"].startswith("20")
    assert now.tags["promoted.against"] == overruled[0]

    now, overruled = promote("gate", None, **uri)  # the challenger, which is then none any more
    assert (now.version, now.aliases, overruled) == ("3", ("champion",), [])

    assert rollback("gate", **uri, why="too slow").version == "2"
    assert find_version("gate", "3", **uri).tags["rolled_back.why"] == "too slow"
    assert rollback("gate", **uri).version == "1"
    with pytest.raises(RegistryError, match="There is no champion of gate before version 1"):
        rollback("gate", **uri)

    promote("gate", "3", **uri)
    import_model(small_model, tmp_path / "d", "gate", tracker_uri, val__map=0.3)
    promote("gate", "4", **uri, why="an experiment", force=True)
    now, _ = promote("gate", "2", **uri)  # better than 4, and for no stated reason this time
    assert (now.tags["promoted.before"], now.tags["promoted.why"], now.tags["promoted.against"]) == (
        "4",
        "",
        "",
    )


def test_alarm_that_catches_nothing_is_not_promoted_even_where_there_is_no_champion(
    tracker_uri, small_model, tmp_path
):
    import_model(small_model, tmp_path / "a", "deaf", tracker_uri, val__map=0.5, val__alarm__image_recall=0.0)
    MlflowClient(tracker_uri).delete_registered_model_alias("deaf", "champion")
    with pytest.raises(PromotionRefused, match="it raises an alarm on no weapon image at all"):
        promote("deaf", "1", tracking_uri=tracker_uri)
    now, overruled = promote("deaf", "1", tracking_uri=tracker_uri, why="a demo", force=True)
    assert (now.aliases, len(overruled)) == (("champion",), 1)


def test_promotion_names_what_is_not_told_apart(tracker_uri, small_model, tmp_path):
    for name, recall in (("a", 0.8), ("b", 0.7)):  # of 10 weapon images
        numbers = {"val__map": 0.5, "val__alarm__image_recall": recall}
        import_model(small_model, tmp_path / name, "apart", tracker_uri, **numbers)
    done = run_command(tracker_uri, "apart", "promote")
    said = " ".join(done.stdout.split())
    assert "Champion of apart is now version 2." in said
    assert "Not told apart: its val/alarm/image_recall is 0.7000 (0.3968 to 0.8922), the champion's" in said


def test_changes_recorded_by_earlier_versions_are_read_first(two, tracker_uri):
    client = MlflowClient(tracker_uri)
    client.create_registered_model("long-ago", tags=OURS)
    for number, alike in ((1, "1"), (2, "1"), (3, "2")):
        source = str(client.get_model_version("two", alike).source)
        client.create_model_version("long-ago", source, model_id=source.removeprefix("models:/"))
        change = {"action": "promote", "version": str(number), "before": "", "when": "", "who": "", "why": ""}
        if number < 3:
            key = f"champion_history.{number:05}"
            client.set_registered_model_tag("long-ago", key, json.dumps(change))
    client.set_registered_model_alias("long-ago", "champion", "2")
    promote("long-ago", "3", tracking_uri=tracker_uri, why="newer", force=True)
    history = read_history(client, "long-ago")
    assert [change["version"] for change in history] == ["1", "2", "3"]
    assert rollback("long-ago", tracking_uri=tracker_uri).version == "2"


def test_promotion_says_when_the_numbers_are_of_different_data(tracker_uri, small_model, tmp_path):
    for name, data in (("a", "a" * 64), ("b", "b" * 64)):
        folder = model_folder(small_model, tmp_path / name, val__map=0.5)
        card = folder / "model.json"
        card.write_text(card.read_text().replace("f" * 64, data))
        logged_model.import_folder(folder, name="data", experiment="imports", tracking_uri=tracker_uri)
    done = run_command(tracker_uri, "data", "promote")
    assert "Champion of data is now version 2." in done.stdout
    assert "were measured on different data" in " ".join(done.stdout.split())


@pytest.mark.parametrize(("changes", "line"), [
    (["first 1"], ["1"]),
    (["first 1", "promote 2", "promote 3"], ["1", "2", "3"]),
    (["first 1", "promote 2", "promote 3", "rollback 2"], ["1", "2"]),
    (["first 1", "promote 2", "rollback 1", "promote 3"], ["1", "3"]),
    (["first 1", "promote 2", "promote 1"], ["2", "1"]),  # back to 1 by promotion: before it was 2
])  # fmt: skip
def test_champion_line(changes, line):
    history = [dict(zip(("action", "version"), change.split(), strict=True)) for change in changes]
    assert champion_line(history) == line


def test_champion_is_not_promoted_again(two, tracker_uri):
    with pytest.raises(RegistryError, match="is the champion already"):
        promote("two", "1", tracking_uri=tracker_uri)


# --- the command ------------------------------------------------------------------------------------


def run_command(uri: str, name: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "registry.py", "--mlflow-tracking-uri", uri, "--model-name", name, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_command_imports_lists_and_compares(tracker_uri, small_model, tmp_path, capsys, monkeypatch):
    folder = model_folder(small_model, tmp_path / "a", val__map=0.5, val__map_50=0.75)
    monkeypatch.setenv("COLUMNS", "80")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["registry.py", "--model-name", "command", *arguments])
        registry.main()
        return capsys.readouterr().out

    imported = run("--experiment", "command", "import", str(folder))
    assert "version 1 of command (champion)" in " ".join(imported.split())
    assert "was not imported" in " ".join(run("import", str(folder), "--if-none").split())
    row = next(line for line in run("list").splitlines() if "champion" in line).split()
    assert row[:4] == ["1", "champion", "0.5", "0.75"]
    shown = run("show")
    assert "operating_point.score_threshold" in shown
    assert "the first version" in shown
    compared = run("compare", "--experiment", "command")
    assert "import of a" in compared
    assert "0.75" in compared
    assert f"{tracker_uri}/#/compare-runs?runs=" in compared
    written = run("compare", "--experiment", "command", "--markdown")
    assert "| val: mAP at IoU 0.50 | 0.75 |" in written
    assert "compare-runs" not in written
    assert "Older runs" not in compared
    run("--experiment", "command", "import", str(model_folder(small_model, tmp_path / "b", val__map=0.6)))
    assert "Older runs are left out; --runs 2" in run("compare", "--experiment", "command", "--runs", "1")


def test_command_says_a_persons_text_as_typed(tracker_uri, small_model, tmp_path, monkeypatch, capsys):
    name = "m [v2]"
    folder = model_folder(small_model, tmp_path / "a [bold]", val__map=0.5)
    monkeypatch.setenv("COLUMNS", "400")

    def run(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["registry.py", "--model-name", name, *arguments])
        registry.main()
        return capsys.readouterr().out

    assert f"{name} at " in run("list")
    imported = run("--experiment", name, "import", str(folder), "--source", "usb [/stick]")
    assert f"{folder} is now version 1 of {name}" in imported
    card = read_card(folder)
    write_card(folder, card.model_copy(update={"data_fingerprint": "e" * 64}))
    run("--experiment", name, "import", str(folder))
    run("promote", "--why", "fewer [/false] alarms :knife:")
    shown = run("show", "1") + run("show")
    for text in (name, "usb [/stick]", "fewer [/false] alarms :knife:"):
        assert text in shown, text
    client = MlflowClient(tracker_uri)
    experiment = experiment_id(client, name)
    for note in ("a", "b [/y]"):
        made = client.create_run(experiment, run_name="[baseline] lr 1e-3 [/data/v2]").info.run_id
        client.log_param(made, "note", note)
    compared = run("compare", "--experiment", name)
    for text in ("[baseline] lr 1e-3 [/data/v2]", "b [/y]", "import of a [bold]"):
        assert text in compared, text


def test_command_ends_in_a_sentence_without_a_traceback(tmp_path):
    nobody = f"http://127.0.0.1:{free_port()}"
    failed = run_command(nobody, "m", "list")
    assert failed.returncode == 1
    assert failed.stderr.startswith("error: No MLflow tracker answers at")
    assert len(failed.stderr.splitlines()) == 1


@pytest.fixture
def side_by_side(tracker_uri, tmp_path) -> comparison.Comparison:
    """Two unlike runs and, newest, one that was imported and has no parameters but one."""
    client = MlflowClient(tracker_uri)
    experiment = client.create_experiment(tmp_path.name)
    for name, lr, score in (("low|", "0.1", 0.25), ("high", "0.2", 0.75), ("imported", None, 0.5)):
        run = client.create_run(experiment, run_name=name).info.run_id
        for key, value in {"lr": lr, "momentum": lr, "output": f"runs/{name}", "epochs": "3"}.items():
            if lr is not None:
                client.log_param(run, key, value)
        for key in ("map", "lookalike_alarm_rate", "ar/knife", "ap50/knife", "ap50/knife/high"):
            client.log_metric(run, f"val/{key}", score)
        client.log_metric(run, "best/val/map_50", score)
        client.log_metric(run, "val/map_50", 0.1)  # of the last epoch, which was not the best
        client.set_terminated(run)
    return comparison.compare_runs(comparison.last_runs(tmp_path.name, 5, tracking_uri=tracker_uri), [], 1)


def test_runs_side_by_side_show_best_values_and_only_differing_parameters(side_by_side):
    measured = dict(side_by_side.measured)
    assert [cell.text for cell in measured["val/map"]] == ["0.5", "0.75", "0.25"]  # newest first
    assert [cell.best for cell in measured["val/map"]] == [False, True, False]
    assert [cell.best for cell in measured["val/lookalike_alarm_rate"]] == [False, False, True]  # fewer
    assert [cell.text for cell in measured["val/map_50"]] == ["0.5", "0.75", "0.25"]  # the best epoch's
    assert list(measured) == ["val/map", "val/map_50", "val/lookalike_alarm_rate", "val/ap50/knife"]
    (lr,) = side_by_side.parameters
    assert (lr[0], [cell.text for cell in lr[1]]) == ("lr", ["", "0.2", "0.1"])
    assert side_by_side.left_out == 1  # momentum; not epochs, which are alike, nor output


def test_runs_side_by_side_as_a_markdown_table(side_by_side):
    assert tables.comparison_markdown(side_by_side).splitlines() == [
        "|  | imported | high | low\\| |",
        "| --- | ---: | ---: | ---: |",
        "| val: mAP | 0.5 | **0.75** | 0.25 |",
        "| val: mAP at IoU 0.50 | 0.5 | **0.75** | 0.25 |",
        "| val: look-alikes taken for a weapon | 0.5 | 0.75 | **0.25** |",
        "| val: knife, AP at IoU 0.50 | 0.5 | **0.75** | 0.25 |",
        "| minutes | 0.0 | 0.0 | 0.0 |",
        "| `lr` |  | 0.2 | 0.1 |",
        "",
        "Parameters that differ besides: 1.",
    ]


def test_runs_measured_on_different_images_have_no_best(tracker_uri, tmp_path):
    client = MlflowClient(tracker_uri)
    experiment = client.create_experiment(tmp_path.name)
    for score, val, test in ((0.5, "same", "one"), (0.6, "same", "other")):
        run = client.create_run(experiment).info.run_id
        client.log_inputs(run, [DatasetInput(Dataset("val", f"{val}-digest", "local", "{}"))])
        client.set_tag(run, "evaluation.test", test)
        for split in ("val", "test"):
            client.log_metric(run, f"{split}/map", score)
    compared = comparison.compare_runs(
        comparison.last_runs(tmp_path.name, 5, tracking_uri=tracker_uri), [], 1
    )
    measured, facts = dict(compared.measured), dict(compared.facts)
    assert [cell.best for cell in measured["val/map"]] == [True, False]
    assert [cell.best for cell in measured["test/map"]] == [False, False]
    assert [cell.text for cell in facts["val data"]] == ["same-dig"] * 2
    assert [cell.text for cell in facts["test data"]] == ["other", "one"]


def test_versions_are_listed_whole_in_80_columns():
    numbers = {key.replace("/", "__"): 0.00012345678 for key in tables.LIST_COLUMNS.values()}
    console = Console(width=80, record=True, file=io.StringIO())
    console.print(tables.versions_table([replace(version("12", **numbers), aliases=("challenger",))]))
    text = console.export_text()
    assert "…" not in text
    assert "challenger" in text
    assert "1970-01-01" in text


# --- MLflow's own serving ---------------------------------------------------------------------------


def jpeg() -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (80, 60), (10, 90, 200)).save(content, "JPEG")
    return content.getvalue()


def test_serving_code_is_all_that_the_logged_model_imports():
    modules, seen, waiting = code(), set[str](), ["tracking.pyfunc_model"]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            waiting += imports(modules[name]) & modules.keys()
    ours = {name.partition(".")[0] for name in seen - {"tracking.pyfunc_model"}}
    assert ours == {name.removesuffix(".py") for name in logged_model.SERVING_CODE}


def test_the_logged_model_names_each_object_once():
    from tracking.pyfunc_model import to_record  # it tells MLflow that it is a model

    boxes, scores = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], np.float32), np.array([0.9, 0.6], np.float32)
    phone_and_pistol = Detections(boxes, scores, np.array([PHONE, PISTOL]))
    record = to_record(np.zeros((20, 20, 3), np.uint8), phone_and_pistol, make_card(), 0.6)
    assert [one["label"] for one in record["detections"]] == ["pistol"]


def test_logged_model_answers_through_pyfunc(two, tracker_uri):
    mlflow.set_tracking_uri(tracker_uri)
    loaded = mlflow.pyfunc.load_model("models:/two@champion")
    pictures = pd.DataFrame({"image": [jpeg(), b"no picture"]})
    good, bad = loaded.predict(pictures, params={"score_threshold": 0.0})
    assert good["image_size"] == {"width": 80, "height": 60}
    assert good["error"] is None
    assert good["verdict"] in ("unsure", "alarm"), "a picture of one colour is never none"
    assert good["alarm"] is (good["verdict"] == "alarm")
    assert (bad["alarm"], bad["verdict"]) == (None, None)
    assert {found["label"] for found in good["detections"]} <= set(CLASS_NAMES[1:])
    assert bad["detections"] is None
    assert bad["error"]
    assert loaded.metadata.signature.inputs.input_names() == ["image"]


def test_logged_model_holds_no_pickle(two, tracker_server):
    stored = stored_files(tracker_server, two[0])
    assert {path.suffix for path in stored} <= {"", ".py", ".yaml", ".txt", ".json", ".safetensors"}
    assert any(path.name == "weights.safetensors" for path in stored)


@pytest.mark.slow
def test_mlflow_models_serve_answers(two, tracker_uri, tmp_path):
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    command = [
        sys.executable, "-m", "mlflow", "models", "serve", "--model-uri", "models:/two@champion",
        "--env-manager", "local", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    # MLflow starts uvicorn by name, so it must be found: what activating a venv does.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with running(
        command, tmp_path / "log.txt", ready=lambda: answers(f"{url}/ping"), cwd=tmp_path, PATH=path
    ):
        body = {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(jpeg()).decode()]]}}
        answer = requests.post(f"{url}/invocations", json=body, timeout=LONGEST_S)
        assert answer.status_code == 200, answer.text
        (record,) = json.loads(answer.text)["predictions"]
        assert record["image_size"] == {"width": 80, "height": 60}
        assert record["error"] is None
