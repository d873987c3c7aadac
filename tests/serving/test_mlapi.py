"""The API as its callers see it: every status, every parameter, and what happens under load and change."""

import io
import json
import logging.config
import os
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import httpx
import numpy as np
import pytest
from conftest import LONGEST_S, answers, environment_watched, wait_until
from fake_detector import (
    KNIFE,
    OPERATING_POINT,
    PHONE,
    PISTOL,
    FakeDetector,
    RememberingDetector,
    api_settings,
    found,
    live_server,
    make_card,
    png,
)
from PIL import Image as PillowImage
from starlette.testclient import TestClient

import mlapi
import settings
from detection.detections import CLASS_NAMES, Detections
from serving.app import create_app
from serving.gate import BoundedConnection
from serving.models import COMPARED
from serving.problems import PROBLEMS, TYPE_PREFIX
from settings import ApiSettings
from tracking import logged_model, tracker


def make_client(detector: FakeDetector | None = None, **settings) -> TestClient:
    fake = detector or FakeDetector()
    return TestClient(create_app(api_settings(**settings), load_detector=lambda _: fake))


@pytest.fixture
def detector():
    return FakeDetector()


@pytest.fixture
def client(detector):
    with make_client(detector) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        yield client


def send(client, *contents: bytes, headers=None, **query):
    files = [("file", (f"{i}.png", content)) for i, content in enumerate(contents)]
    return client.post("/predict", files=files, params=query, headers=headers)


def assert_problem(response, name: str) -> dict[str, Any]:
    status, title = PROBLEMS[name]
    body = response.json()
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/problem+json"
    assert body["type"] == TYPE_PREFIX + name
    assert body["title"] == title
    assert body["status"] == status
    assert body["request_id"] == response.headers["x-request-id"]
    assert body["detail"].endswith((".", "photo.jpg", "=0.5"))  # a sentence, or a command to copy
    return body


# --- the answer -------------------------------------------------------------------------------------


def test_one_photo_gives_one_result_in_the_promised_shape(client):
    body = send(client, png((40, 30))).json()
    times = body["results"][0].pop("time_ms")
    assert times.keys() == {"decode", "queue", "inference"}
    assert body == {
        "model": {"name": "weapon-detector", "version": None, "alias": None},
        "score_threshold": 0.6,
        "results": [
            {
                "file": "0.png",
                "image_size": {"width": 40, "height": 30},
                "alarm": True,
                "verdict": "alarm",
                "detections": [
                    {
                        "label": "pistol",
                        "dangerous": True,
                        "score": 0.9,
                        "box": {"x1": 0.0, "y1": 1.0, "x2": 8.5, "y2": 5.0},
                    }
                ],
            }
        ],
    }


def test_nothing_found_is_a_normal_answer(client, detector):
    detector.detections = Detections.empty()
    result = send(client, png()).json()["results"][0]
    assert result["detections"] == []
    assert (result["alarm"], result["verdict"]) == (False, "none")


@pytest.mark.parametrize(
    ("query", "labels"),
    [
        ({}, ["pistol"]),  # the operating point is 0.6
        ({"score_threshold": 0.5}, ["pistol", "smartphone"]),  # inclusive
        ({"score_threshold": 0.51}, ["pistol"]),
        ({"score_threshold": 1}, []),
        ({"score_threshold": 0, "labels": "smartphone"}, ["smartphone"]),
        ({"score_threshold": 0, "labels": ["knife", "smartphone"]}, ["smartphone"]),
        ({"score_threshold": 0, "max_detections": 1}, ["pistol"]),
        ({"score_threshold": 0, "max_detections": 1, "labels": "smartphone"}, ["smartphone"]),
        ({"labels": "knife"}, []),
    ],
)
def test_parameters_choose_what_is_answered_but_never_hide_an_alarm(client, query, labels):
    result = send(client, png(), **query).json()["results"][0]
    assert [item["label"] for item in result["detections"]] == labels
    assert result["alarm"] is True


@pytest.mark.parametrize(
    ("items", "alarm"),
    [
        ([(KNIFE, 0.6)], True),
        ([(PISTOL, 0.59)], False),
        ([(PHONE, 0.99)], False),
        ([(PHONE, 0.99), (PHONE, 0.95), (KNIFE, 0.7)], True),
    ],
)
def test_alarm_means_a_weapon_at_or_above_the_operating_point(client, detector, items, alarm):
    detector.detections = found(*items)
    assert send(client, png(), score_threshold=0, max_detections=1).json()["results"][0]["alarm"] is alarm


def test_without_an_operating_point_the_models_floor_is_the_threshold():
    fake = FakeDetector(found((KNIFE, 0.06)), make_card(operating_point=None))
    with make_client(fake) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        body = send(client, png()).json()
    assert body["score_threshold"] == 0.05
    assert body["results"][0]["alarm"] is True


def test_parameters_of_the_network_reach_it(client, detector):
    send(client, png(), nms_iou=0.3)
    assert (detector.calls[-1]["shape"], detector.calls[-1]["nms_iou"]) == ((30, 40, 3), 0.3)


def test_the_verdict_looks_at_all_that_the_model_found_and_at_the_picture():
    card = make_card(unsure_point=OPERATING_POINT.model_copy(update={"score_threshold": 0.3}))
    with make_client(FakeDetector(found((PHONE, 0.9), (PISTOL, 0.3)), card)) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        unsure = send(client, png()).json()["results"][0]
        drawn = send(client, png(), headers={"Accept": "image/png"})
    assert (unsure["alarm"], unsure["verdict"]) == (False, "unsure")
    assert [item["label"] for item in unsure["detections"]] == ["smartphone"]
    assert (drawn.headers["X-Alarm"], drawn.headers["X-Verdict"]) == ("false", "unsure")
    black = io.BytesIO()
    PillowImage.new("RGB", (40, 30)).save(black, "PNG")
    with make_client(FakeDetector(Detections.empty(), card)) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        result = send(client, black.getvalue()).json()["results"][0]
    assert (result["notes"], result["verdict"]) == (["too-dark"], "unsure")


def test_asking_for_more_boxes_finds_no_weapon_that_the_verdict_did_not_see(client, detector):
    detector.detections = found(*[(PHONE, 0.99)] * 20, (PISTOL, 0.8))  # the fake model reports 5 at most
    few, many = (send(client, png(), **query).json()["results"][0] for query in ({}, {"max_detections": 50}))
    assert "pistol" in {item["label"] for item in many["detections"]}
    assert (few["verdict"], many["verdict"]) == ("alarm", "alarm")


def test_no_parameter_changes_alarm_or_verdict():
    card = make_card(unsure_point=OPERATING_POINT.model_copy(update={"score_threshold": 0.3}))
    random = np.random.default_rng(0)
    detector = FakeDetector(card=card)
    seen = set()
    with make_client(detector) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        for _ in range(60):
            count = int(random.integers(0, 12))  # the fake model reports 5 at most, unless all are asked for
            scores = sorted(random.uniform(0.05, 0.75, count).tolist(), reverse=True)
            detector.detections = found(*((int(random.choice([PISTOL, PHONE, PHONE])), s) for s in scores))
            query = {
                name: value
                for name, value in (
                    ("score_threshold", random.random()),
                    ("labels", str(random.choice(["pistol", "knife", "smartphone"]))),
                    ("max_detections", int(random.integers(1, 20))),
                    ("probabilities", True),
                )
                if random.random() < 0.5
            }
            plain, asked = (send(client, png(), **each).json()["results"][0] for each in ({}, query))
            assert (asked["alarm"], asked["verdict"]) == (plain["alarm"], plain["verdict"]), query
            seen.add(plain["verdict"])
    assert seen == {"alarm", "unsure", "none"}


def test_tiles_are_looked_at_beside_the_whole_picture_where_asked_for(client, detector):
    plain, whole = send(client, png((90, 45))).json(), send(client, png((90, 45)), tiles="1x1").json()
    assert plain["results"][0]["detections"] == whole["results"][0]["detections"]
    assert detector.seen == [(45, 90, 3)] * 2
    assert send(client, png((90, 45)), tiles="2x2", nms_iou=0.3).status_code == 200
    assert detector.seen[2:] == [(45, 90, 3)] + [(25, 50, 3)] * 4
    assert {call["nms_iou"] for call in detector.calls[-5:]} == {0.3}


@pytest.mark.parametrize(("size_wh", "views"), [((86, 57), 1), ((87, 57), 5), ((125, 60), 10)])
def test_auto_tiles_a_picture_by_its_size(client, detector, size_wh, views):
    send(client, png(size_wh), tiles="auto")  # the network sees 48 x 32
    assert len(detector.seen) == views


def test_overlapping_boxes_on_a_phone_never_crowd_out_the_pistol(client, detector):
    detector.detections = found(*[(PHONE, 0.99)] * 20, (PISTOL, 0.8))  # the fake model reports 5 at most
    result = send(client, png(), nms_iou=1).json()["results"][0]
    assert [item["label"] for item in result["detections"]] == ["smartphone"] * 5
    assert result["alarm"] is True


def test_a_pistol_on_a_phone_is_one_box_and_the_pistol(client, detector):
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10, 9]], np.float32)
    detector.detections = Detections(boxes, np.array([0.9, 0.6], np.float32), np.array([PHONE, PISTOL]))
    result = send(client, png()).json()["results"][0]
    assert [one["label"] for one in result["detections"]] == ["pistol"]
    wanted = send(client, png(), labels="smartphone").json()["results"][0]
    assert [one["label"] for one in wanted["detections"]] == ["smartphone"], "who asks for phones gets them"
    assert result["alarm"] is wanted["alarm"] is True


def test_probabilities_come_on_request_only(client):
    plain = send(client, png()).json()["results"][0]["detections"][0]
    asked = send(client, png(), probabilities=True).json()["results"][0]["detections"][0]
    assert "probabilities" not in plain
    assert list(asked["probabilities"]) == list(CLASS_NAMES)
    assert asked["probabilities"]["pistol"] == 0.9
    assert asked["probabilities"]["knife"] == 0.01


def test_the_image_is_upright_and_the_size_is_that_of_the_upright_image(client, detector):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    stream = io.BytesIO()
    PillowImage.new("RGB", (40, 30)).save(stream, "JPEG", exif=exif)
    body = send(client, stream.getvalue()).json()
    assert body["results"][0]["image_size"] == {"width": 30, "height": 40}
    assert detector.seen[-1] == (40, 30, 3)


def test_one_bad_file_among_several_fails_alone_and_is_named(client):
    body = send(client, png(), b"not a picture", png()).json()
    assert [result["file"] for result in body["results"]] == ["0.png", "1.png", "2.png"]
    assert [("error" in result) for result in body["results"]] == [False, True, False]
    error = body["results"][1]["error"]
    assert error["type"] == TYPE_PREFIX + "not-an-image"
    assert error["status"] == 415
    assert "detections" not in body["results"][1]


@pytest.mark.parametrize("score", [0.1, 0.3, 0.7, 0.123456789, 1 / 3])
def test_scores_read_back_as_the_same_float32(client, detector, score):
    detector.detections = found((KNIFE, score))
    answered = send(client, png(), score_threshold=0).json()["results"][0]["detections"][0]["score"]
    assert np.float32(answered) == np.float32(score)
    assert len(str(answered)) <= 11


@pytest.mark.parametrize(
    ("accept", "image_format"),
    [
        ("image/jpeg", "JPEG"),
        ("image/png", "PNG"),
        ("image/*", "JPEG"),
        ("application/json;q=0.5, image/png", "PNG"),
    ],
)
def test_accept_image_gives_the_annotated_picture(client, accept, image_format):
    response = send(client, png((640, 480), (255, 255, 255)), headers={"Accept": accept})
    assert response.headers["content-type"] == f"image/{image_format.lower()}"
    assert response.headers["x-alarm"] == "true"
    picture = PillowImage.open(io.BytesIO(response.content))
    assert picture.format == image_format
    assert picture.size == (640, 480)
    assert len(picture.convert("RGB").getcolors(1 << 20) or []) > 10, "boxes and a caption are drawn"


@pytest.mark.parametrize(
    "accept", [None, "*/*", "application/json", "image/png;q=0.1, application/json", "application/*"]
)
def test_everything_else_gives_json(client, accept):
    headers = {"Accept": accept} if accept else {}
    assert send(client, png(), headers=headers).headers["content-type"] == "application/json"


def test_a_requests_pictures_are_in_memory_one_after_the_other():
    detector = RememberingDetector()
    with make_client(detector) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        assert send(client, *[png((400, 300))] * 5).status_code == 200
    assert len(detector.seen) == 5
    assert detector.kept == 0


# --- problems ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "parameter"),
    [
        ({"score_threshold": 1.01}, "score_threshold"),
        ({"score_threshold": -0.1}, "score_threshold"),
        ({"score_threshold": "nan"}, "score_threshold"),
        ({"score_threshold": "high"}, "score_threshold"),
        ({"treshold": 0.5}, "treshold"),
        ({"labels": "rifle"}, "labels"),
        ({"labels": "__background__"}, "labels"),
        ({"nms_iou": 0}, "nms_iou"),
        ({"max_detections": 0}, "max_detections"),
        ({"max_detections": 1001}, "max_detections"),
        ({"tiles": "4x4"}, "tiles"),
        ({"probabilities": "perhaps"}, "probabilities"),
    ],
)
def test_invalid_parameters_are_named(client, query, parameter):
    body = assert_problem(send(client, png(), **query), "invalid-parameters")
    assert [error["parameter"] for error in body["errors"]] == [parameter]


@pytest.mark.parametrize(
    ("request_options", "name"),
    [
        ({"json": {"file": "x"}}, "invalid-parameters"),
        ({"json": {"images": []}}, "missing-file"),
        ({"json": {"images": ["no base64!"]}}, "invalid-parameters"),
        ({"json": {"images": [""] * 9}}, "too-many-files"),
        ({"content": b"\x1f\x8b", "headers": {"content-encoding": "gzip"}}, "compressed-body"),
        ({"files": {"file": png()}, "headers": {"transfer-encoding": "chunked"}}, "bad-request"),
        ({"files": {"file": png()}, "headers": {"x-long": "a" * 17_000}}, "headers-too-large"),
        ({"content": png(), "headers": {"content-type": "image/png"}}, "not-multipart"),
        ({}, "not-multipart"),
        ({"content": b"", "headers": {"content-type": "multipart/form-data; boundary=x"}}, "missing-file"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, "bad-multipart"),
        (
            {"content": b"nonsense", "headers": {"content-type": "multipart/form-data; boundary=x"}},
            "bad-multipart",
        ),
        ({"files": {"image": ("a.png", png())}}, "missing-file"),
        ({"data": {"file": "text"}, "files": {"other": ("a.png", png())}}, "missing-file"),
        ({"files": [("file", ("a.png", png()))] * 9}, "too-many-files"),
        ({"files": {"file": ("a.png", png())}, "data": {f"f{i}": "x" for i in range(20)}}, "bad-multipart"),
        ({"files": {"file": ("a.png", png())}, "data": {"score_threshold": "0.1"}}, "invalid-parameters"),
        ({"files": {"file": ("a.png", b"")}}, "not-an-image"),
        ({"files": {"file": ("a.jpg", b"%PDF-1.7")}}, "not-an-image"),
        ({"files": {"file": ("a.jpg", png()[:60])}}, "not-an-image"),
        ({"files": {"file": ("a.png", png())}, "headers": {"accept": "text/html"}}, "not-acceptable"),
        ({"files": [("file", ("a.png", png()))] * 2, "headers": {"accept": "image/png"}}, "not-acceptable"),
    ],
)
def test_every_refusal_is_a_problem_of_its_own(client, request_options, name):
    assert_problem(client.post("/predict", **request_options), name)


@pytest.mark.parametrize(
    ("request_options", "sentence"),
    [
        ({}, "got no Content-Type. Send a photo as this does: curl -F file=@photo.jpg"),
        ({"files": {"image": ("a.png", png())}}, "got 'image'. Send a photo as this does: curl"),
        ({"data": {"file": "x" * 20_000}, "files": {"other": png()}}, "at most 10,000 bytes, got more. Send"),
        ({"params": {"labels": "pistol,knife"}, "files": {"file": png()}}, "labels=pistol&labels=knife"),
        ({"params": {"nms_iou": 7}, "files": {"file": png()}}, "less than or equal to 1, got '7'."),
        ({"headers": {"accept": "text/html"}, "files": {"file": png()}}, "image/png, got text/html."),
    ],
)
def test_a_refusal_says_what_came_and_what_to_do(client, request_options, sentence):
    assert sentence in client.post("/predict", **request_options).json()["detail"]


def test_two_files_for_one_picture_are_refused_before_anything_is_looked_at(client, detector):
    assert_problem(send(client, png(), png(), headers={"accept": "image/png"}), "not-acceptable")
    assert detector.seen == []


def test_too_many_pixels_are_refused():
    with make_client(api_max_pixels=1199) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        body = assert_problem(send(client, png((40, 30))), "image-too-large")
    assert "1,199 pixels, got 40 x 30" in body["detail"]


def test_a_picture_too_long_for_a_jpeg_is_refused_as_one_and_drawn_as_another(client):
    long = png((65_501, 3))
    body = assert_problem(send(client, long, headers={"Accept": "image/jpeg"}), "image-too-large")
    assert body["detail"] == "Expected at most 65,500 pixels a side for a JPEG, got 65501 x 3; take PNG."
    assert send(client, long, headers={"Accept": "image/png"}).status_code == 200
    assert send(client, long).status_code == 200


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_over_the_limit_is_refused(chunked):
    part = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\n' + b"x" * 200_000
    with make_client(api_max_body_mb=0.1) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        body = iter([part[:60_000], part[60_000:120_000], part[120_000:]]) if chunked else part
        headers = {"content-type": "multipart/form-data; boundary=x"}
        answer = client.post("/predict", content=body, headers=headers)
    assert "at most 100,000 bytes" in assert_problem(answer, "body-too-large")["detail"]


def test_unknown_addresses_and_methods_are_problems(client):
    assert_problem(client.get("/nope"), "not-found")
    assert_problem(client.get("/predict"), "method-not-allowed")
    assert client.get("/predict").headers["allow"] == "POST"


def test_an_unexpected_error_is_a_problem_with_the_request_id_and_no_traceback(client, detector, caplog):
    detector.error = RuntimeError("secret inner state")
    response = client.post("/predict", files={"file": png()}, headers={"X-Request-ID": "abc-1"})
    body = assert_problem(response, "internal-error")
    assert "abc-1" in body["detail"]
    assert "secret" not in response.text
    assert "secret inner state" in caplog.text, "the log has the whole story"


# --- around every request ---------------------------------------------------------------------------


def test_a_request_id_is_taken_over_or_made(client):
    assert client.get("/health", headers={"X-Request-ID": "my-id.7"}).headers["x-request-id"] == "my-id.7"
    made = [client.get("/health").headers["x-request-id"] for _ in range(2)]
    assert made[0] != made[1]


@pytest.mark.parametrize("given", ["a b", "x" * 129, "é", '"><script>'])
def test_a_request_id_that_could_do_harm_is_replaced(client, given):
    answered = client.get("/health", headers={"X-Request-ID": given.encode()}).headers["x-request-id"]
    assert len(answered) == 32


@pytest.mark.parametrize("path", ["/health", "/ready"])
def test_a_watcher_may_ask_for_the_head_alone(path):
    app = create_app(api_settings(), load_detector=lambda _: FakeDetector())
    with live_server(app) as (client, _):
        answer = client.head(path)
        assert (answer.status_code, answer.content) == (200, b"")
        assert client.get("/openapi.json").json()["paths"][path].keys() == {"get"}


@pytest.mark.parametrize("path", ["/health", "/nope", "/docs"])
def test_security_headers_are_everywhere_and_the_server_keeps_quiet(client, path):
    headers = client.get(path).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["cache-control"] == "no-store"
    assert "default-src" in headers["content-security-policy"]
    assert "server" not in headers


def test_documentation_loads_nothing_from_elsewhere(client):
    page = client.get("/docs").text
    assert "http://" not in page.replace("http://testserver", "")
    assert "https://" not in page
    assert client.get("/static-offline-docs/swagger-ui-bundle.js").status_code == 200


def test_cors_is_off_unless_set():
    ask = {"Origin": "https://page.example"}
    with make_client() as client:
        assert "access-control-allow-origin" not in client.get("/health", headers=ask).headers
    with make_client(api_cors_origins="https://page.example") as client:
        headers = client.get("/health", headers=ask).headers
        assert headers["access-control-allow-origin"] == "https://page.example"
        assert headers["access-control-expose-headers"] == "X-Request-ID, X-Alarm, Retry-After"


@pytest.mark.parametrize(("origin", "status"), [("https://page.example", 200), ("https://evil.example", 400)])
def test_a_browsers_question_before_the_request_gets_headers_a_request_id_and_is_counted(origin, status):
    ask = {"Origin": origin, "Access-Control-Request-Method": "POST", "X-Request-ID": "my-id.7"}
    with make_client(api_cors_origins="https://page.example") as client:
        answer = client.options("/predict", headers=ask)
        assert answer.status_code == status
        assert answer.headers["x-request-id"] == "my-id.7"
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert "default-src" in answer.headers["content-security-policy"]
        counted = f'weapon_api_requests_total{{method="OPTIONS",route="other",status="{status}"}} 1.0'
        assert counted in client.get("/metrics").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"X-API-Key": "wrong"}, 401),
        ({"X-API-Key": "key-2"}, 200),
        ({"Authorization": "Bearer key-1"}, 200),
        ({"Authorization": "Bearer key-11"}, 401),
        ({"Authorization": "Basic key-1"}, 401),
        ({"X-API-Key": ""}, 401),
    ],
)
def test_api_keys(headers, status):
    with make_client(api_keys="key-1, key-2") as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        for path in ("/model", "/metrics"):
            assert client.get(path, headers=headers).status_code == status
        response = send(client, png(), headers=headers)
        assert response.status_code == status
        if status == 401:
            assert_problem(response, "unauthorized")
            assert response.headers["www-authenticate"] == "Bearer"
        assert client.get("/health").status_code == 200
        app: Any = client.app
        assert "key-1" not in repr(app.state.service.settings)


@pytest.mark.parametrize("key", ["secret-é", "secret\t2"])
def test_a_key_that_no_header_can_carry_is_refused_at_start_and_not_repeated(key, monkeypatch):
    monkeypatch.setenv("API_KEYS", f"first-key,{key}")
    with pytest.raises(SystemExit, match=r"API_KEYS: key 2 cannot be sent") as caught:
        settings.api_settings([])
    assert "secret" not in str(caught.value)
    assert "first" not in str(caught.value)


def test_the_log_has_one_json_line_per_request_and_nothing_of_the_file(client, caplog):
    content = png((41, 31), (1, 2, 3))
    config = mlapi.logging_config("info")
    formatter = logging.config.DictConfigurator(config).configure_formatter(config["formatters"]["json"])
    with caplog.at_level(logging.INFO, "mlapi"):
        client.post("/predict", files={"file": ("Ivan-Petrov-passport.png", content)})
        wait_until(lambda: any(getattr(record, "route", "") == "/predict" for record in caplog.records))
    lines = [formatter.format(record) for record in caplog.records if record.name.startswith("mlapi")]
    [line] = [json.loads(line) for line in lines if '"/predict"' in line]
    assert line["status"] == 200
    assert line["files"] == 1
    assert line["bytes"] == len(content)
    assert line["detections"] == {"pistol": 1}
    assert line["alarms"] == 1
    assert line["views"] == 1
    assert "passport" not in "".join(lines)
    assert "PNG" not in "".join(lines)


def test_metrics_count_requests_stages_detections_and_name_the_model(client):
    send(client, png())
    send(client, b"no picture")
    assert "encode" not in client.get("/metrics").text
    send(client, png(), headers={"Accept": "image/png"})
    text = client.get("/metrics").text
    assert 'weapon_api_requests_total{method="POST",route="/predict",status="200"} 2.0' in text
    assert 'weapon_api_stage_seconds_count{stage="encode"} 1.0' in text
    assert 'weapon_api_requests_total{method="POST",route="/predict",status="415"} 1.0' in text
    for stage in ("decode", "queue", "inference"):
        assert f'weapon_api_stage_seconds_count{{stage="{stage}"}} 2.0' in text
    assert 'weapon_api_detections_total{label="pistol"} 2.0' in text
    assert "weapon_api_alarms_total 2.0" in text
    assert 'weapon_api_files_total{outcome="error"} 1.0' in text
    assert "weapon_api_queue_length 0.0" in text
    assert "weapon_api_watch_trouble 0.0" in text
    assert 'weapon_api_model_info{alias="",name="weapon-detector",version=""} 1.0' in text


def test_a_model_that_cannot_be_loaded_shows_in_ready_and_metrics():
    def load(folder):
        raise OSError("there is no model.json in it")

    with TestClient(create_app(api_settings(), load_detector=load)) as client:
        wait_until(lambda: "there is no model.json" in client.get("/ready").text)
        assert_problem(client.get("/ready"), "not-ready")
        assert "weapon_api_watch_trouble 1.0" in client.get("/metrics").text


def test_no_variable_of_the_environment_changes_while_the_api_serves(tracker_uri, small_model):
    """Threads read the environment meanwhile, and one that reads while another writes can fail."""
    logged_model.import_folder(small_model, name="still", experiment="still", tracking_uri=tracker_uri)
    given = ApiSettings(model_name="still", api_watch_seconds=0.05, api_allowed_hosts=("*",))
    tracker.use_tracker("http://127.0.0.1:9")  # so that the API's own is another one
    app = create_app(given, load_detector=lambda _: FakeDetector())
    with environment_watched() as changed, TestClient(app) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        assert send(client, png()).status_code == 200
        (listed,) = client.get("/models").json()["versions"]
        assert (listed["version"], listed["served"]) == ("1", True)
        assert listed["version_url"] == f"{tracker_uri}/#/models/still/versions/1"
        assert re.fullmatch(rf"{re.escape(tracker_uri)}/#/runs/[0-9a-f]{{32}}", listed["run_url"])
        card = client.get("/model").json()["card"]
        assert {key: pytest.approx(value) for key, value in listed["metrics"].items()} == {
            key: value for key, value in card["metrics"].items() if key in COMPARED
        }
    assert changed == []


def test_a_path_nobody_knows_makes_no_new_series(client):
    for i in range(3):
        client.get(f"/scan-{i}")
    text = client.get("/metrics").text
    assert 'weapon_api_requests_total{method="GET",route="other",status="404"} 3.0' in text
    assert "scan-" not in text


# --- under load (a real server) ---------------------------------------------------------------------


def post(client, **query):
    return client.post("/predict", files={"file": ("a.png", png())}, params=query)


def test_a_full_queue_is_503_with_retry_after_and_health_still_answers(detector):
    app = create_app(api_settings(api_queue_size=2), load_detector=lambda _: detector)
    with live_server(app) as (client, _), ThreadPoolExecutor(3) as threads, detector.held():
        accepted = [threads.submit(post, client) for _ in range(3)]  # one runs, two wait
        queue = app.state.service.queue
        wait_until(lambda: queue.waiting == 2 and len(detector.seen) == 1)
        refused = post(client)
        assert_problem(refused, "queue-full")
        assert int(refused.headers["retry-after"]) >= 1
        assert client.get("/health").status_code == 200
        assert client.get("/ready").status_code == 200
        assert "weapon_api_queue_length 2.0" in client.get("/metrics").text
        detector.gate.set()
        assert [future.result().status_code for future in accepted] == [200, 200, 200]
        assert post(client).status_code == 200


def test_a_request_of_many_files_takes_one_place_and_its_files_come_one_after_the_other(detector):
    app = create_app(api_settings(api_queue_size=1, api_workers=2), load_detector=lambda _: detector)
    with live_server(app) as (client, _), ThreadPoolExecutor(2) as threads, detector.held():
        eight = threads.submit(client.post, "/predict", files=[("file", ("a.png", png((8, 8))))] * 8)
        wait_until(lambda: len(detector.seen) == 1)
        one = threads.submit(post, client)  # beside it, in the other worker
        wait_until(lambda: len(detector.seen) == 2)
        assert sorted(detector.seen)[0] == (8, 8, 3)
        assert app.state.service.queue.waiting == 0
        detector.gate.set()
        assert one.result().status_code == 200
        times = [result["time_ms"]["queue"] for result in eight.result().json()["results"]]
    assert len(times) == 8
    assert times == sorted(times)


def test_a_request_of_many_files_is_not_starved_by_others_of_one():
    """All places but one are taken whenever it asks, for as long as the others go on asking."""
    detector = FakeDetector()
    app = create_app(api_settings(api_queue_size=1), load_detector=lambda _: detector)
    done = threading.Event()

    def go_on_asking(client):
        while not done.is_set():
            assert post(client).status_code in (200, 503)

    with live_server(app) as (client, _), ThreadPoolExecutor(1) as threads:
        asking = threads.submit(go_on_asking, client)
        answer = client.post("/predict", files=[("file", ("a.png", png()))] * 8)
        done.set()
        asking.result()
    assert answer.status_code == 200


def test_an_answer_after_the_deadline_is_504_and_what_waited_is_dropped(detector):
    app = create_app(api_settings(api_deadline_seconds=2), load_detector=lambda _: detector)
    with live_server(app) as (client, _), ThreadPoolExecutor(2) as threads, detector.held():
        late = [threads.submit(post, client) for _ in range(2)]
        for future in late:
            body = assert_problem(future.result(), "deadline-exceeded")
            assert "took over 2 s" in body["detail"]
        wait_until(lambda: app.state.service.queue.waiting == 0)
        detector.gate.set()
        assert post(client).status_code == 200
        assert len(detector.seen) == 2, "the one that waited never reached the detector"


def test_a_tiled_picture_is_given_up_between_two_views_at_the_deadline(detector):
    app = create_app(api_settings(api_deadline_seconds=2), load_detector=lambda _: detector)
    with live_server(app) as (client, _):
        with ThreadPoolExecutor(1) as threads, detector.held():
            late = threads.submit(post, client, tiles="3x3")
            assert_problem(late.result(), "deadline-exceeded")
            assert len(detector.seen) == 1
        assert post(client).status_code == 200, "the worker is free again"
        assert len(detector.seen) == 2, "none of the nine tiles reached the detector"


def raw_request(address: httpx.URL, head: str, *, receive_buffer: int = 1_000_000) -> socket.socket:
    connection = socket.socket()
    connection.settimeout(LONGEST_S)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
    connection.connect((address.host, address.port))
    connection.sendall(head.replace("\n", "\r\n").encode() + b"\r\n\r\n")
    return connection


UPLOAD_HEAD = """POST /predict HTTP/1.1
Host: x
Content-Type: multipart/form-data; boundary=x
Content-Length: 1000"""


def one_file(content: bytes) -> bytes:
    """A body of the kind that UPLOAD_HEAD announces."""
    return (
        b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n%b\r\n--x--\r\n' % content
    )


def test_an_upload_that_never_ends_is_408(detector):
    app = create_app(api_settings(api_deadline_seconds=0.5), load_detector=lambda _: detector)
    with live_server(app) as (client, _), raw_request(client.base_url, UPLOAD_HEAD) as connection:
        connection.sendall(b"--x\r\n")
        answer = b""
        while b"upload-timeout" not in answer and (part := connection.recv(10_000)):  # head and body may part
            answer += part
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"upload-timeout" in answer


def test_more_uploads_than_allowed_are_refused_at_the_door(detector):
    app = create_app(api_settings(api_max_uploads=1), load_detector=lambda _: detector)
    with live_server(app) as (client, _), raw_request(client.base_url, UPLOAD_HEAD):
        wait_until(app.state.service.uploads.locked)
        assert_problem(post(client), "queue-full")
    with live_server(create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        assert post(client).status_code == 200


def test_work_of_a_client_that_went_away_is_dropped(detector):
    app = create_app(api_settings(), load_detector=lambda _: detector)
    queue, body = app.state.service.queue, one_file(png((50, 50)))
    with live_server(app) as (client, _), ThreadPoolExecutor(1) as threads, detector.held():
        first = threads.submit(post, client)
        wait_until(lambda: len(detector.seen) == 1)
        with raw_request(client.base_url, UPLOAD_HEAD.replace("1000", str(len(body)))) as connection:
            connection.sendall(body)
            wait_until(lambda: queue.waiting == 1)
        wait_until(lambda: queue.waiting == 0)
        detector.gate.set()
        assert first.result().status_code == 200
        assert post(client).status_code == 200
        assert (50, 50, 3) not in detector.seen


def test_a_client_that_never_reads_its_answer_is_let_go(detector):
    noise = np.random.default_rng(0).integers(0, 256, (500, 500, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(noise).save(stream, "BMP")
    body = one_file(stream.getvalue())
    head = UPLOAD_HEAD.replace("1000", f"{len(body)}\nAccept: image/png")
    app = create_app(api_settings(api_deadline_seconds=2), load_detector=lambda _: detector)
    listening = socket.create_server(("127.0.0.1", 0))
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 10_000)  # which connections inherit
    with (
        live_server(app, listening=listening) as (client, _),
        raw_request(client.base_url, head, receive_buffer=10_000) as connection,
    ):
        connection.sendall(body)
        wait_until(lambda: 'route="/predict",status="499"} 1.0' in client.get("/metrics").text)
        received = 0
        while part := connection.recv(1_000_000):
            received += len(part)
        assert received < len(body), "the rest of the answer was thrown away"


def test_a_large_answer_arrives_whole(detector):
    noise = np.random.default_rng(0).integers(0, 256, (700, 700, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(noise).save(stream, "BMP")
    detector.detections = Detections.empty()
    with live_server(create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        answer = client.post("/predict", files={"file": stream.getvalue()}, headers={"Accept": "image/png"})
    assert len(answer.content) == int(answer.headers["content-length"]) > 1_000_000
    assert np.array_equal(np.asarray(PillowImage.open(io.BytesIO(answer.content))), noise)


def closed(connection: socket.socket) -> bool:
    """Read until the other side closes."""
    try:
        while connection.recv(10_000):
            pass
    except ConnectionError:
        pass
    return True


class FewConnections(BoundedConnection):
    most = 3
    head_seconds = 600.0


class HastyConnection(BoundedConnection):
    head_seconds = 0.5


@pytest.fixture
def server(request, detector):
    app = create_app(api_settings(), load_detector=lambda _: detector)
    with live_server(app, http=request.param, timeout_keep_alive=600) as (client, _):
        yield client


@pytest.mark.parametrize("server", [FewConnections], indirect=True)
def test_one_connection_too_many_is_closed_at_once_and_the_others_are_served(server):
    connect = partial(socket.create_connection, (server.base_url.host, server.base_url.port), LONGEST_S)
    with connect() as first, connect() as second:
        with connect() as third:  # the client's own is one more
            assert closed(third)
        for connection in (first, second):
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(12) == b"HTTP/1.1 200"
    assert server.get("/health").status_code == 200


@pytest.mark.parametrize("request_before", [b"", b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n"])
@pytest.mark.parametrize("begun", [b"", b"GET /health HTT"])
@pytest.mark.parametrize("server", [HastyConnection], indirect=True)
def test_a_connection_that_does_not_say_what_it_wants_is_closed(server, request_before, begun):
    address = (server.base_url.host, server.base_url.port)
    with socket.create_connection(address, LONGEST_S) as connection:
        connection.sendall(request_before + begun)
        assert closed(connection)


@pytest.mark.parametrize("server", [HastyConnection], indirect=True)
def test_a_request_that_takes_long_is_not_taken_for_silence(server, detector):
    with ThreadPoolExecutor(1) as threads, detector.held():
        slow = threads.submit(post, server)
        time.sleep(1.6)  # three times as long as its first lines may take
        detector.gate.set()
        assert slow.result().status_code == 200


def test_shutdown_finishes_what_was_accepted(detector):
    app = create_app(api_settings(), load_detector=lambda _: detector)
    with live_server(app) as (client, server), ThreadPoolExecutor(3) as threads, detector.held():
        accepted = [threads.submit(post, client) for _ in range(3)]
        wait_until(lambda: app.state.service.queue.waiting == 2)
        server.should_exit = True
        wait_until(lambda: not answers(f"{client.base_url}/health"))  # it has begun to stop
        assert not any(future.done() for future in accepted)
        detector.gate.set()
        assert [future.result().status_code for future in accepted] == [200, 200, 200]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_refusal_reaches_a_client_that_is_still_sending(detector, chunked):
    app = create_app(api_settings(api_max_body_mb=3), load_detector=lambda _: detector)
    with live_server(app) as (client, _):
        content = bytes(5_000_000)
        for _ in range(5):
            body = iter([content]) if chunked else content
            headers = {"content-type": "multipart/form-data; boundary=x"}
            name = "bad-multipart" if chunked else "body-too-large"
            assert_problem(client.post("/predict", content=body, headers=headers), name)


def test_nothing_is_written_to_disk(detector, tmp_path, monkeypatch):
    written = []

    def watch(event, arguments):
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            written.append(arguments[0])

    sys.addaudithook(watch)  # cannot be removed; the list below is only looked at here
    noise = np.random.default_rng(0).integers(0, 256, (1200, 1200, 3), dtype=np.uint8)
    stream = io.BytesIO()
    PillowImage.fromarray(noise).save(stream, "PNG")
    big = stream.getvalue()
    assert len(big) > 4_000_000, "over the megabyte from which the framework alone would use a file"
    with live_server(create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        written.clear()
        for accept in ("application/json", "image/jpeg"):
            answer = client.post("/predict", files={"file": ("a.png", big)}, headers={"Accept": accept})
            assert answer.status_code == 200
        named = [path for path in written if not isinstance(path, int)]  # a number: a file in memory only
        assert [path for path in named if path != "/dev/null"] == []
