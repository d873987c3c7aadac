"""The OpenAPI document is true: schemathesis plays it against the API."""

import base64

import pytest
import schemathesis
from conftest import LONGEST_S
from fake_detector import FakeDetector, api_settings, live_server, png
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import negative_data_rejection
from schemathesis.transport.serialization import Binary

from detection.detections import CLASS_NAMES
from serving import app
from serving.problems import PROBLEMS, TYPE_PREFIX


@pytest.fixture(scope="module")
def client():
    detector = FakeDetector()
    with live_server(app.create_app(api_settings(), load_detector=lambda _: detector)) as (client, _):
        yield client


PICTURES = [png(), png((1, 1)), png((70, 20), (1, 200, 3))]
schemathesis.openapi.format("binary", st.sampled_from(PICTURES).map(Binary))
schemathesis.openapi.format("byte", st.sampled_from([base64.b64encode(it).decode() for it in PICTURES]))


@pytest.fixture(scope="module")
def api(client):
    return schemathesis.openapi.from_url(f"{client.base_url}/openapi.json")


@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/model"),
        ("GET", "/models"),
        ("POST", "/predict"),
        ("POST", "/v1/vision/detection"),
    ],
)
def test_every_answer_is_as_documented(api, method, path, mode):
    # A recorder's form holds texts alone: null comes as one, and an empty list as no field.
    excluded = [negative_data_rejection] if path == "/v1/vision/detection" else []

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(case=api[path][method].as_strategy(generation_mode=mode))
    def play(case):
        case.call_and_validate(timeout=LONGEST_S, excluded_checks=excluded)

    try:
        play()
    except Unsatisfiable:
        assert not api[path][method].body, "only an operation without parameters has nothing to get wrong"


def test_the_document_names_parameters_answers_and_examples(client):
    document = client.get("/openapi.json").json()
    answered = {"/health", "/ready", "/model", "/models", "/predict", "/v1/vision/detection"}
    assert set(document["paths"]) == answered
    predict = document["paths"]["/predict"]["post"]
    names = [parameter["name"] for parameter in predict["parameters"]]
    assert names == ["score_threshold", "labels", "nms_iou", "max_detections", "probabilities", "tiles"]
    labels = predict["parameters"][1]["schema"]["items"]["enum"]
    assert labels == list(CLASS_NAMES[1:])
    assert set(predict["responses"]) == {
        "200",
        *(str(status) for status in (400, 406, 408, 413, 415, 422, 429, 500, 503, 504)),
    }
    assert set(predict["responses"]["200"]["content"]) == {"application/json", "image/jpeg", "image/png"}
    assert (
        predict["responses"]["200"]["content"]["application/json"]["example"]["results"][0]["alarm"] is True
    )
    assert set(predict["requestBody"]["content"]) == {"multipart/form-data", "application/json"}


def test_every_example_of_a_problem_is_one(client):
    document = client.get("/openapi.json").json()
    for status, response in document["paths"]["/predict"]["post"]["responses"].items():
        for name, example in (
            response["content"].get("application/problem+json", {}).get("examples", {}).items()
        ):
            assert example["value"]["type"] == TYPE_PREFIX + name
            assert PROBLEMS[name][0] == example["value"]["status"] == int(status)
            assert example["value"]["detail"].endswith(".")
            assert len(example["value"]["detail"]) > 20


def test_generated_clients_get_short_names(client):
    paths = client.get("/openapi.json").json()["paths"]
    names = [operation["operationId"] for path in paths.values() for operation in path.values()]
    assert names == ["health", "ready", "model", "models", "predict", "detection"]
