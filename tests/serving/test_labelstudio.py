"""The API as Label Studio calls it: a backend that pre-labels, and boxes that come back as data."""

from __future__ import annotations

import base64
import json
import threading
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import numpy as np
import pytest
from fake_detector import KNIFE, PHONE, PISTOL, FakeDetector, api_settings, found, live_server, make_card, png

from client import main
from detection.answers import studio_config
from photosets.samples import read_samples
from serving.app import create_app

PERSONAL = "head.body.tail"
PICTURE = png()


class FakeStudio(BaseHTTPRequestHandler):
    """Serves a picture to whoever has a token; nothing at /data/upload/1/gone.png."""

    asked: ClassVar[list[tuple[str, str]]] = []

    def do_GET(self):
        self.asked.append((self.path, self.headers.get("Authorization", "")))
        if self.headers.get("Authorization") not in ("Token secret", "Bearer short-lived"):
            return self._answer(401, b"")
        if self.path.startswith("/data/local-files/?d=far"):
            self.send_response(302)
            self.send_header("Location", "http://192.0.2.1/secret")
            return self.end_headers()
        return self._answer(404 if "gone" in self.path else 200, PICTURE)

    def do_POST(self):
        given = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        good = self.path == "/api/token/refresh" and given == {"refresh": PERSONAL}
        return self._answer(200 if good else 401, json.dumps({"access": "short-lived"}).encode())

    def _answer(self, status, content):
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        pass


@pytest.fixture
def studio():
    server = ThreadingHTTPServer(("127.0.0.1", 0), FakeStudio)
    FakeStudio.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def detector():
    return FakeDetector(found((PISTOL, 0.91), (PHONE, 0.65), (KNIFE, 0.62), (KNIFE, 0.01)))


def running(studio, token="secret", **settings):
    given = api_settings(label_studio_url=studio, label_studio_api_key=token, **settings)
    return live_server(create_app(given, load_detector=lambda _: detector()))


CONFIG = studio_config(make_card())


def asked(*addresses, config=CONFIG):
    tasks = [{"id": i, "data": {"image": address}} for i, address in enumerate(addresses)]
    params = {"login": None, "password": None, "context": None}
    return {"tasks": tasks, "project": "1.17", "label_config": config, "params": params}


@pytest.mark.parametrize("token", ["secret", PERSONAL])
def test_a_picture_of_label_studio_is_fetched_and_pre_labelled(studio, token):
    with running(studio, token) as (client, _):
        assert client.get("/label-studio/health").json() == {"status": "UP", "model_class": "WeaponDetector"}
        project = {"project": "1.17", "schema": CONFIG, "hostname": "http://192.0.2.1", "access_token": "x"}
        version = client.post("/label-studio/setup", json=project).json()["model_version"]
        answer = client.post("/label-studio/predict", json=asked("/data/upload/1/1a2b3c4d-a.png")).json()
        assert client.get("/label-studio/config").text == CONFIG
    [prediction] = answer["results"]
    assert prediction["model_version"] == answer["model_version"] == version
    assert prediction["score"] == 0.91
    names = [region["value"]["rectanglelabels"] for region in prediction["result"]]
    assert names == [["pistol"], ["smartphone"], ["knife"]]
    for region in prediction["result"]:
        assert (region["from_name"], region["to_name"], region["type"]) == (
            "label",
            "image",
            "rectanglelabels",
        )
    assert {path for path, _ in FakeStudio.asked} == {"/data/upload/1/1a2b3c4d-a.png"}  # and no other host


def test_a_project_may_name_things_in_its_own_way(studio):
    config = (
        '<View><Image name="photo" value="$url"/><RectangleLabels name="things" toName="photo">'
        '<Label value="Pistol"/><Label value="SMARTPHONE"/></RectangleLabels></View>'
    )
    tasks = asked(config=config) | {"tasks": [{"id": 1, "data": {"url": "/data/upload/1/a.png"}}]}
    with running(studio) as (client, _):
        [prediction] = client.post("/label-studio/predict", json=tasks).json()["results"]
    regions = prediction["result"]
    assert [region["value"]["rectanglelabels"] for region in regions] == [["Pistol"], ["SMARTPHONE"]]
    assert {(region["from_name"], region["to_name"]) for region in regions} == {("things", "photo")}


def test_of_several_tasks_one_that_cannot_be_had_gets_no_prediction_and_too_many_are_asked_singly(studio):
    good, gone = "/data/upload/1/a.png", "/data/upload/1/gone.png"
    with running(studio, api_max_files=3) as (client, _):
        answer = client.post("/label-studio/predict", json=asked(good, gone, good)).json()
        assert [bool(each) for each in answer["results"]] == [True, False, True]
        many = client.post("/label-studio/predict", json=asked(good, good, good, good)).json()
        assert len(many["results"]) == 1  # fewer than tasks: Label Studio goes on one by one


@pytest.mark.parametrize(
    ("address", "settings", "said"),
    [
        ("/data/upload/1/gone.png", {}, "Label Studio answered 404"),
        ("/data/upload/1/a.png", {"token": "wrong"}, "set LABEL_STUDIO_API_KEY"),
        ("/data/upload/1/a.png", {"token": "not.a.token"}, "does not take the token"),
        ("/data/local-files/?d=far", {}, "Label Studio answered 302"),
        ("http://192.0.2.1/data/a.png", {}, "Expected a picture that Label Studio serves"),
        ("http://127.0.0.1:1@192.0.2.1/data/a.png", {}, "Expected a picture that Label Studio serves"),
        ("/data/../api/users", {}, "Expected a picture that Label Studio serves"),
        ("/data/%2e%2e/api/users", {}, "Expected a picture that Label Studio serves"),
        ("file:///etc/passwd", {}, "Expected a picture that Label Studio serves"),
        ("", {}, "Expected the address of a picture"),
    ],
)
def test_a_picture_that_cannot_be_had_is_a_sentence(studio, address, settings, said):
    with running(studio, **settings) as (client, _):
        response = client.post("/label-studio/predict", json=asked(address))
    assert 400 <= response.status_code < 500
    assert said in response.json()["detail"]


def test_without_an_address_nothing_is_fetched():
    with live_server(create_app(api_settings(), load_detector=lambda _: detector())) as (client, _):
        response = client.post("/label-studio/predict", json=asked("http://192.0.2.1/data/a.png"))
    assert "Set LABEL_STUDIO_URL" in response.json()["detail"]


@pytest.mark.parametrize(
    ("schema", "said"),
    [
        ("<View>", "cannot be read"),
        ('<View><Text name="t" value="$t"/></View>', "labels such as pistol, knife"),
        (CONFIG.replace('"pistol"', '"cat"').replace("knife", "dog"), None),
    ],
)
def test_a_labelling_interface_without_the_models_classes_is_a_sentence(studio, schema, said):
    with running(studio) as (client, _):
        response = client.post("/label-studio/setup", json={"schema": schema})
    if said is None:
        assert response.status_code == 200  # some of the classes are enough
    else:
        assert response.status_code == 422
        assert said in response.json()["detail"]
        assert "/label-studio/config" in response.json()["detail"]


def test_the_key_comes_as_a_password(studio):
    with running(studio, api_keys="studio:sesame") as (client, _):
        assert client.get("/label-studio/health").status_code == 200
        body = asked("/data/upload/1/a.png")
        for password, status in (("sesame", 200), ("wrong", 401)):
            basic = base64.b64encode(f"anybody:{password}".encode()).decode()
            headers = {"Authorization": f"Basic {basic}"}
            assert client.post("/label-studio/predict", json=body, headers=headers).status_code == status
        assert client.post("/label-studio/predict", json=body).status_code == 401
        # Label Studio tells what happens in a project without any key, and nothing is done about it.
        assert client.post("/label-studio/webhook", json={"action": "TASKS_CREATED"}).status_code == 200


def test_what_the_client_pre_labels_comes_back_as_data(tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for name in ("shop floor 1.png", "shop floor 2.png"):
        (photos / name).write_bytes(png((64, 48)))
    with live_server(create_app(api_settings(), load_detector=lambda _: detector())) as (client, _):
        arguments = ["predict", str(photos), "--format", "label-studio", "--output", str(tmp_path / "t.json")]
        assert main([*arguments, "--api-url", str(client.base_url)]) == 0
    tasks = json.loads((tmp_path / "t.json").read_text())
    expected = f"/data/local-files/?d={str(photos).lstrip('/')}/shop%20floor%201.png"
    assert tasks[0]["data"]["image"] == expected
    # A person takes the boxes over as they are, and exports the project.
    said = [{**task, "annotations": [{"result": task["predictions"][0]["result"]}]} for task in tasks]
    (photos / "export.json").write_text(json.dumps(said))
    samples = read_samples([photos], "train", val_fraction=0)
    wanted = detector().detections.above(0.6)
    for sample in samples:
        assert sample.labels.tolist() == wanted.labels.tolist()
        np.testing.assert_allclose(sample.boxes, wanted.boxes, atol=1e-3)


def test_the_labelling_interface_names_the_models_classes():
    card = make_card(class_names=("__background__", 'a "big" rifle', "axe"), dangerous=("axe",))
    labels = list(ElementTree.fromstring(studio_config(card)).iter("Label"))
    assert [label.get("value") for label in labels] == ['a "big" rifle', "axe"]
    assert labels[0].get("background") != labels[1].get("background")
