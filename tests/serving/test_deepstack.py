"""The API as video recorders call it: the requests of Frigate's plug-in and of DeepStack's own client."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import requests
from conftest import wait_until
from fake_detector import KNIFE, PHONE, PISTOL, FakeDetector, api_settings, found, live_server, png
from PIL import Image as PillowImage

from serving.app import create_app

PATH = "v1/vision/detection"


@pytest.fixture
def detector():
    return FakeDetector(found((PISTOL, 0.91), (KNIFE, 0.7), (PHONE, 0.65), (KNIFE, 0.5)))


@pytest.fixture
def address(detector):
    with live_server(create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        yield f"{client.base_url}/"


def frigates_request(address, api_key=""):
    """Send what Frigate's plug-in does: a JPEG of 320 x 320 without a file name of its own, and a key."""
    stream = io.BytesIO()
    PillowImage.fromarray(np.full((320, 320, 3), 90, np.uint8)).save(stream, "JPEG")
    files = {"image": stream.getvalue()}
    return requests.Session().post(address + PATH, data={"api_key": api_key}, files=files, timeout=60)


def sdks_request(address, picture, min_confidence=0.4, path=PATH, **more):
    data = {"api_key": None, "min_confidence": min_confidence, **more}
    return requests.post(address + path, files={"image": picture}, data=data, timeout=60)


def test_frigate_gets_boxes_in_whole_pixels(address):
    response = frigates_request(address)
    assert response.status_code == 200
    answer = response.json()
    assert answer["success"] is True
    assert answer["code"] == 200
    assert answer["duration"] >= 0
    assert answer["predictions"][0] == {
        "label": "pistol", "confidence": 0.91, "x_min": 0, "y_min": 1, "x_max": 8, "y_max": 5,
    }  # fmt: skip
    assert [one["label"] for one in answer["predictions"]] == ["pistol", "knife", "smartphone"]


@pytest.mark.parametrize(("asked", "count"), [(0.0, 3), (0.4, 3), ("", 3), (0.65, 3), (0.66, 2), (0.95, 0)])
def test_min_confidence_raises_the_alarm_point_and_never_lowers_it(address, asked, count):
    answer = sdks_request(address, png(), asked).json()
    assert len(answer["predictions"]) == count


def test_a_named_model_and_fields_of_other_recorders_are_taken(address):
    response = sdks_request(address, png(), path="v1/vision/custom/ipcam-combined", admin_key="x", foo="bar")
    assert response.status_code == 200
    assert response.json()["predictions"]


@pytest.mark.parametrize(
    ("picture", "asked", "status", "said"),
    [
        (b"no picture", 0.4, 415, "picture"),
        (b"", 0.4, 415, "picture"),
        (png(), "much", 422, "min_confidence to be a number from 0 to 1, got 'much'"),
        (png(), -1, 422, "min_confidence"),
        (png(), "nan", 422, "min_confidence"),
    ],
)
def test_what_went_wrong_stands_where_a_recorder_looks_for_it(address, picture, asked, status, said):
    response = sdks_request(address, picture, asked)
    answer = response.json()
    assert response.status_code == status == answer["code"] == answer["status"]
    assert answer["success"] is False
    assert said in answer["error"]
    assert "predictions" not in answer


def test_no_picture_or_two_are_refused(address):
    for files in ({"photo": png()}, [("image", png()), ("image", png())]):
        response = requests.post(address + PATH, files=files, timeout=60)
        assert response.status_code == 422
        assert response.json()["success"] is False


def test_the_key_may_come_in_the_form(detector):
    app = create_app(api_settings(api_keys="recorder:s3cret"), load_detector=lambda _: detector)
    with live_server(app) as (client, _):
        address = f"{client.base_url}/"
        assert frigates_request(address, "s3cret").json()["success"] is True
        for key in ("", "wrong"):
            refused = frigates_request(address, key)
            assert refused.status_code == 401
            assert refused.json()["success"] is False
        for headers in ({"X-API-Key": "s3cret"}, {"Authorization": "Bearer s3cret"}):
            answer = requests.post(address + PATH, files={"image": png()}, headers=headers, timeout=60)
            assert answer.status_code == 200
        wrong = requests.post(
            address + PATH, files={"image": png()}, headers={"X-API-Key": "no"}, data={"api_key": "s3cret"},
            timeout=60,
        )  # fmt: skip
        assert wrong.status_code == 401


def test_a_full_queue_is_said_in_the_recorders_words(detector):
    app = create_app(api_settings(api_queue_size=1, api_workers=1), load_detector=lambda _: detector)
    with live_server(app) as (client, _), detector.held():
        address = f"{client.base_url}/"
        pool = ThreadPoolExecutor(2)
        sent = [pool.submit(sdks_request, address, png()) for _ in range(2)]
        wait_until(lambda: app.state.service.queue.waiting == 1 and len(detector.seen) == 1)
        refused = requests.post(address + PATH, files={"image": png()}, timeout=60)
        detector.gate.set()
        assert refused.status_code == 503
        assert refused.headers["Retry-After"]
        assert refused.json()["success"] is False
        assert [one.result().status_code for one in sent] == [200, 200]
