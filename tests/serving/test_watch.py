"""The API beside a real MLflow tracker that comes late, moves its champion, and goes away."""

import shutil
from pathlib import Path
from typing import Any

import httpx
import pytest
from conftest import wait_until
from fake_detector import api_settings, live_server, png

from detection.card import read_card, write_card
from serving import app
from tracking import champion, logged_model

NAME = "watched"


def import_version(small_model: Path, folder: Path, uri: str, data_fingerprint: str) -> str:
    shutil.copytree(small_model, folder)
    card = read_card(folder)
    changed = card.model_copy(update={"data_fingerprint": data_fingerprint})
    write_card(folder, changed)
    made, _ = logged_model.import_folder(folder, name=NAME, experiment="watch", tracking_uri=uri)
    return made.version


def served(client: httpx.Client) -> str | None:
    answer = client.get("/model")
    return answer.json()["model"]["version"] if answer.status_code == 200 else None


def predict(client: httpx.Client) -> httpx.Response:
    return client.post("/predict", files={"file": ("a.png", png())})


@pytest.mark.slow
def test_the_api_follows_a_real_tracker(tracker_server, small_model, tmp_path):
    tracker_server.stop()
    settings = api_settings(
        model_dir=None, model_name=NAME, mlflow_tracking_uri=tracker_server.uri, api_watch_seconds=0.3
    )
    try:
        with live_server(app.create_app(settings), until_ready=False) as (client, _):
            wait_until(lambda: "No MLflow tracker answers" in client.get("/ready").text)
            assert client.get("/ready").status_code == 503
            assert client.get("/health").status_code == 200
            assert predict(client).json()["type"].endswith("not-ready")

            tracker_server.start()
            wait_until(lambda: "alias 'champion'" in client.get("/ready").text)
            first = import_version(small_model, tmp_path / "1", tracker_server.uri, "1" * 64)
            wait_until(lambda: client.get("/ready").status_code == 200)
            model = client.get("/model").json()
            assert model["model"] == {"name": NAME, "version": first, "alias": "champion"}
            assert model["card"]["data_fingerprint"] == "1" * 64
            assert model["version_url"] == f"{tracker_server.uri}/#/models/{NAME}/versions/{first}"
            assert predict(client).json()["model"]["version"] == first

            second = import_version(small_model, tmp_path / "2", tracker_server.uri, "2" * 64)
            champion.promote(NAME, second, tracking_uri=tracker_server.uri, why="a try", force=True)
            answers: list[Any] = []
            while not answers or answers[-1].json()["model"]["version"] != second:
                answers.append(predict(client))
                assert answers[-1].status_code == 200, "no request fails while the model is swapped"
            assert client.get("/model").json()["card"]["data_fingerprint"] == "2" * 64

            tracker_server.stop()
            wait_until(lambda: client.get("/model").json().get("watch_error"))
            assert served(client) == second
            assert predict(client).status_code == 200
            assert client.get("/ready").status_code == 200
    finally:
        tracker_server.start()
