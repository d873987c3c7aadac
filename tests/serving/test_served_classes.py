"""A model of somebody's own classes, served: everything that the API says follows its card."""

from __future__ import annotations

import pytest
from fake_detector import FakeDetector, api_settings, found, live_server, make_card, png

from serving.app import create_app

NAMES = ("__background__", "phone", "rifle", "axe")
PHONE, RIFLE, AXE = 1, 2, 3


@pytest.fixture
def client():
    card = make_card(class_names=NAMES, dangerous=("rifle", "axe"))
    detector = FakeDetector(found((PHONE, 0.95), (RIFLE, 0.8), (AXE, 0.2)), card)
    with live_server(create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        yield client


def test_the_api_alarms_on_what_the_card_calls_dangerous(client):
    answer = client.post("/predict", files={"file": png()}, params={"score_threshold": 0}).json()
    [result] = answer["results"]
    assert (result["alarm"], result["verdict"]) == (True, "alarm")
    said = {one["label"]: one["dangerous"] for one in result["detections"]}
    assert said == {"phone": False, "rifle": True, "axe": True}


def test_the_api_tells_its_classes_and_takes_no_others(client):
    info = client.get("/model").json()
    assert info["dangerous"] == info["card"]["dangerous"] == ["rifle", "axe"]
    parameters = client.get("/openapi.json").json()["paths"]["/predict"]["post"]["parameters"]
    [labels] = [one["schema"] for one in parameters if one["name"] == "labels"]
    assert labels["items"]["enum"] == ["phone", "rifle", "axe"]
    assert labels["examples"] == [["rifle", "axe"]]
    axes = client.post("/predict", files={"file": png()}, params={"score_threshold": 0, "labels": "axe"})
    assert [one["label"] for one in axes.json()["results"][0]["detections"]] == ["axe"]
    refused = client.post("/predict", files={"file": png()}, params={"labels": "pistol"})
    assert refused.status_code == 422
    assert "Expected one of phone, rifle, axe, got 'pistol'" in refused.json()["detail"]


def test_recorders_and_prometheus_get_its_names(client):
    answer = client.post("/v1/vision/detection", files={"image": png()}).json()
    assert [one["label"] for one in answer["predictions"]] == ["phone", "rifle"]
    assert 'label="rifle"' in client.get("/metrics").text
