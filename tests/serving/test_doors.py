"""What strangers can do at the API's door, and what they cannot: names, keys, shares, connections, bodies."""

import asyncio
import base64
import hashlib
import io
import itertools
import json
import logging
import logging.config
import socket
import statistics
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import hypothesis.strategies as st
import numpy as np
import pytest
from conftest import LONGEST_S, wait_until
from fake_detector import FakeDetector, api_settings, live_server, make_card, png
from hypothesis import given
from PIL import Image as PillowImage
from starlette.requests import Request
from starlette.testclient import TestClient

import mlapi
from serving import problems
from serving.app import create_app
from serving.bodies import SentFile, read_files
from serving.gate import BoundedConnection, FairShare
from serving.negotiation import choose_media_type
from serving.problems import ApiProblem
from settings import ApiSettings
from settings import api_settings as read_settings

ROOT = Path(__file__).parents[2]


def make_app(detector=None, **settings):
    fake = detector or FakeDetector()
    return create_app(api_settings(**settings), load_detector=lambda _: fake)


@pytest.fixture
def client():
    with TestClient(make_app()) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        yield client


# --- by which name ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "host", "status"),
    [
        ({}, "localhost:8000", 200),
        ({}, "LOCALHOST", 200),
        ({}, "127.0.0.1", 200),
        ({}, "[::1]:8000", 200),
        ({}, "evil.example", 400),  # a page's own name that its owner lets point at 127.0.0.1
        ({}, "localhost.evil.example", 400),
        ({"api_host": "0.0.0.0", "api_keys": "a"}, "evil.example", 200),  # there the key decides
        ({"api_host": "0.0.0.0", "api_bind_address": "127.0.0.1"}, "evil.example", 400),
        ({"api_host": "0.0.0.0", "api_bind_address": "127.0.0.1"}, "api:8000", 200),  # the page's container
        ({}, "", 200),  # a proxy's look at /ready in HTTP/1.0
        ({"api_allowed_hosts": "api.example"}, "api.example:80", 200),
        ({"api_allowed_hosts": "api.example"}, "127.0.0.1", 400),
    ],
)
def test_a_loopback_api_is_called_by_this_machines_names_only(changes, host, status):
    given = ApiSettings(model_dir="unused", **changes)
    with TestClient(create_app(given, load_detector=lambda _: FakeDetector())) as client:
        answer = client.get("/health", headers={"Host": host})
    assert answer.status_code == status
    if status == 400:
        assert answer.json()["type"].endswith("unknown-host")
        assert answer.json()["request_id"] == answer.headers["x-request-id"]


# --- who asks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        ({"API_HOST": "0.0.0.0"}, "whoever reaches 0.0.0.0 could use the API: set API_KEYS"),
        ({"API_HOST": "::"}, "whoever reaches :: could use"),
        ({"API_BIND_ADDRESS": "192.168.0.7"}, "whoever reaches 192.168.0.7"),
        ({"API_KEYS": " , "}, "holds no key"),
        ({"API_KEYS": ""}, "holds no key"),
        ({"API_KEYS": "shop:one,shop:two"}, "two keys have the same name"),
        ({"API_KEYS": "shop:"}, "key 1 cannot be sent"),
    ],
)
def test_an_api_that_strangers_could_use_does_not_start(environment, sentence, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as stop:
        read_settings([])
    assert sentence in str(stop.value)
    assert "shop:one" not in str(stop.value)


@pytest.mark.parametrize(
    "environment",
    [
        {"API_HOST": "0.0.0.0", "API_KEYS": "shop:one"},
        {"API_HOST": "0.0.0.0", "API_WITHOUT_KEYS": "true"},
        {"API_HOST": "0.0.0.0", "API_BIND_ADDRESS": "127.0.0.1"},  # a container published on this machine
        {"API_HOST": "127.0.0.9"},
        {"API_HOST": "localhost"},
    ],
)
def test_an_api_behind_a_key_or_on_this_machine_starts(environment, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert read_settings([]).api_host == environment["API_HOST"]


def test_each_program_listens_on_this_machine_alone_unless_told_otherwise():
    assert read_settings([]).api_host == "127.0.0.1"
    commands = dict(line.split(":", 1) for line in (ROOT / "Procfile").read_text().splitlines())
    assert "--host 127.0.0.1" in commands["tracker"]
    assert "--server.address 127.0.0.1" in commands["web"]


OPEN = {"/health", "/ready", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}


def test_without_a_key_nothing_answers_but_life_and_the_documentation():
    with TestClient(make_app(api_keys="shop1:s3cret")) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        paths = {*client.get("/openapi.json").json()["paths"], *OPEN, "/metrics", "/", "/nowhere"}
        asked = {path: [client.get(path), client.post(path)] for path in paths}
    opened = {path for path, both in asked.items() if any(answer.status_code == 200 for answer in both)}
    assert opened == OPEN
    assert all(answer.status_code in (200, 401, 404, 405) for both in asked.values() for answer in both)
    assert not [path for path, both in asked.items() if any("s3cret" in answer.text for answer in both)]


def test_a_folder_that_is_set_but_empty_is_none(monkeypatch):
    """As compose passes what .env leaves out."""
    for name in ("MODEL_DIR", "API_FALLBACK_DIR", "API_CACHE_DIR", "MLFLOW_PUBLIC_URI"):
        monkeypatch.setenv(name, "")
    given = read_settings([])
    assert (given.model_dir, given.api_fallback_dir, given.api_cache_dir) == (None, None, None)
    assert given.mlflow_public_uri is None


def test_keys_have_names_and_old_ones_without_still_open():
    given = api_settings(api_keys="shop1:s3cret, plain, with:colon:inside, http://odd")
    assert given.named_keys == {
        "shop1": "s3cret", "key-2": "plain", "with": "colon:inside", "http": "//odd"
    }  # fmt: skip


def log_of_predict(client, caplog, **options):
    config = mlapi.logging_config("info")
    formatter = logging.config.DictConfigurator(config).configure_formatter(config["formatters"]["json"])

    def lines():
        records = [record for record in caplog.records if record.name.startswith("mlapi")]
        return [line for line in map(formatter.format, records) if '"/predict"' in line]

    with caplog.at_level(logging.INFO, "mlapi"):
        answer = client.post("/predict", files={"file": ("a.png", png())}, **options)
        wait_until(lines)  # a line is written once its answer has left
    [line] = lines()
    return answer, json.loads(line)


def test_the_log_says_who_asked_what_was_seen_and_which_weights_answered_at_which_point(caplog):
    detector = FakeDetector(card=make_card(weights_sha256="ab" * 32))
    app = make_app(detector, api_keys="shop1:s3cret")
    with TestClient(app) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        options = {"headers": {"X-API-Key": "s3cret"}, "params": {"score_threshold": 0.9}}
        answer, line = log_of_predict(client, caplog, **options)
    assert answer.status_code == 200
    assert line["caller"] == "shop1"
    assert line["client"] == "testclient"
    assert line["file_sha256"] == [hashlib.sha256(png()).hexdigest()]
    assert line["weights_sha256"] == "ab" * 32
    assert line["operating_point"] == 0.6
    assert line["score_threshold"] == 0.9
    assert "s3cret" not in json.dumps(line)


@pytest.mark.parametrize("query", [{}, {"score_threshold": 0}, {"score_threshold": 1}, {"labels": "knife"}])
def test_metrics_count_at_the_models_own_point_whatever_the_caller_asks_to_see(client, query):
    client.post("/predict", files={"file": png()}, params=query)
    counted = [line for line in client.get("/metrics").text.splitlines() if "detections_total{" in line]
    assert counted == ['weapon_api_detections_total{label="pistol"} 1.0']


def test_a_stranger_learns_no_address_from_ready_and_a_keyholder_learns_why():
    def load(_folder):
        raise OSError("nobody answers at tracker.example")

    with TestClient(create_app(api_settings(api_keys="a:b"), load_detector=load)) as client:
        headers = {"X-API-Key": "b"}
        wait_until(lambda: "tracker.example" in client.get("/model", headers=headers).text)
        answer = client.get("/ready")
        assert answer.status_code == 503
        assert answer.json()["detail"] == "No model is loaded. GET /model with a key says why."


def test_neither_route_nor_log_tells_the_trackers_password(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mluser:s3cretpass@127.0.0.1:9")
    settings = ApiSettings(api_watch_seconds=0.05, api_allowed_hosts=("*",))
    with TestClient(create_app(settings, load_detector=lambda _: FakeDetector())) as client:
        wait_until(lambda: "No MLflow tracker answers at http://127.0.0.1:9" in client.get("/ready").text)
        for path in ("/ready", "/model", "/models", "/metrics"):
            assert "s3cretpass" not in client.get(path).text
    assert "No MLflow tracker answers" in caplog.text
    assert "s3cretpass" not in caplog.text


# --- one caller's share -----------------------------------------------------------------------------


def test_one_caller_cannot_take_every_place():
    detector = FakeDetector()
    app = make_app(detector, api_caller_requests=2, api_keys="greedy:one,modest:two")

    def ask(client, key):
        return client.post("/predict", files={"file": png()}, headers={"X-API-Key": key}, timeout=LONGEST_S)

    with live_server(app) as (client, _), ThreadPoolExecutor(4) as threads:
        detector.gate.clear()
        held = [threads.submit(ask, client, "one") for _ in range(2)]
        wait_until(lambda: len(app.state.service.share._under_way) and app.state.service.queue.waiting == 1)
        refused = ask(client, "one")
        assert refused.status_code == 429
        assert refused.json()["type"].endswith("too-many-requests")
        assert int(refused.headers["retry-after"]) >= 1
        other = threads.submit(ask, client, "two")
        wait_until(lambda: app.state.service.queue.waiting == 2)
        detector.gate.set()
        assert [future.result().status_code for future in (*held, other)] == [200, 200, 200]
        assert ask(client, "one").status_code == 200


def test_requests_a_minute_are_counted_per_caller():
    share = FairShare(at_once=8, per_minute=3)
    for _ in range(3):
        with share.request_of("10.0.0.1"):
            pass
    with pytest.raises(ApiProblem, match="3 requests a minute") as refused, share.request_of("10.0.0.1"):
        pass
    assert 1 <= int(refused.value.headers["Retry-After"]) <= 60
    with share.request_of("10.0.0.2"):
        pass


@pytest.mark.parametrize(
    ("trusted", "statuses"), [("*", [200, 200]), ("127.0.0.1", [200, 200]), ("192.0.2.9", [200, 429])]
)
def test_only_a_trusted_proxy_tells_callers_apart(trusted, statuses, monkeypatch):
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", trusted)
    with live_server(make_app(api_caller_requests_per_minute=1)) as (client, _):
        answers = [
            client.post("/predict", files={"file": png()}, headers={"X-Forwarded-For": caller})
            for caller in ("198.51.100.1", "198.51.100.2")
        ]
    assert [answer.status_code for answer in answers] == statuses


def test_callers_that_have_nothing_under_way_are_forgotten():
    share = FairShare(at_once=1, per_minute=0)
    for i in range(100):
        with share.request_of(f"10.0.0.{i}"):
            assert len(share._under_way) == 1
    assert not share._under_way


# --- what could be served ---------------------------------------------------------------------------


def test_models_lists_what_could_be_served(client):
    assert client.get("/models").json() == {
        "name": "weapon-detector",
        "versions": [
            {"version": None, "aliases": [], "served": True, "created_at": "", "metrics": {},
             "version_url": None, "run_url": None}
        ],
    }  # fmt: skip


# --- bodies -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("before", ["", "data:image/png;base64,"])
def test_a_json_body_gets_the_same_answer_as_a_form(client, before):
    encoded = before + base64.b64encode(png((50, 40))).decode()
    by_json = client.post("/predict", json={"images": [encoded, encoded]}).json()["results"]
    by_form = client.post("/predict", files={"file": ("image-0", png((50, 40)))}).json()["results"]
    for result in (*by_json, *by_form):
        del result["time_ms"]
    assert by_json == [*by_form, {**by_form[0], "file": "image-1"}]


def test_a_json_body_keeps_to_the_same_limits():
    with TestClient(make_app(api_max_body_mb=0.01, api_max_files=1)) as client:
        wait_until(lambda: client.get("/ready").status_code == 200)
        answers = [
            client.post("/predict", json={"images": [base64.b64encode(bytes(20_000)).decode()]}),
            client.post("/predict", json={"images": ["", ""]}),
            client.post("/predict", content=b"{", headers={"content-type": "application/json"}),
        ]
    names = [answer.json()["type"].rpartition(":")[2] for answer in answers]
    assert names == ["body-too-large", "too-many-files", "invalid-parameters"]


def part(disposition: str = 'name="file"; filename="a.png"', content: bytes = b"x", more: str = "") -> bytes:
    return f"--x\r\nContent-Disposition: form-data; {disposition}\r\n{more}\r\n".encode() + content + b"\r\n"


END = b"--x--\r\n"


def read(body: bytes, boundary: str = "x", cuts=()) -> list[SentFile]:
    """Read a multipart body that comes in chunks cut at those places."""
    places = [0, *sorted(cuts), len(body)]
    chunks = [body[start:end] for start, end in itertools.pairwise(places)]

    async def receive():
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    headers = [(b"content-type", f"multipart/form-data; boundary={boundary}".encode("latin-1"))]
    request = Request({"type": "http", "method": "POST", "headers": headers}, receive)
    return asyncio.run(read_files(request, max_files=8))


@given(cuts=st.lists(st.integers(0, 400), max_size=20))
def test_files_are_the_same_however_the_body_is_cut_into_chunks(cuts):
    near = b"\r\n--\r\n--y\r\r\n-" * 3  # nearly the boundary
    body = (
        b"preamble\r\n"
        + part(content=near)
        + part('name="file"; filename="b"', b"")
        + END
        + b"epilogue\r\n--x"
    )
    assert read(body, cuts=cuts) == [SentFile("a.png", near), SentFile("b", b"")]


@pytest.mark.parametrize(
    ("disposition", "name"),
    [
        ('name="file"; filename="фото нож.jpg"', "фото нож.jpg"),  # as browsers and curl send it
        ("name=\"file\"; filename*=UTF-8''%D1%84%D0%BE%D1%82%D0%BE.jpg", "фото.jpg"),  # as others do
        ("name=file; filename=\"?.jpg\"; filename*=utf-8''%D1%84.jpg", "ф.jpg"),  # as .NET does
        ("name=file; filename*=nonsense''%41.jpg", "%41.jpg"),
        ('name="file"; filename="say %22hi%22.jpg"', 'say "hi".jpg'),
        ('name="file"; filename="C:\\\\photos\\\\a.jpg"', "a.jpg"),
        ("name=file; filename=a.jpg", "a.jpg"),
        ('name="file"; filename=""', "file-0"),
    ],
)
def test_file_names_are_read_as_clients_write_them(disposition, name):
    assert read(part(disposition) + END) == [SentFile(name, b"x")]


def test_a_file_name_in_an_old_systems_alphabet_is_no_reason_to_refuse():
    body = part('name="file"; filename="NAME.jpg"').replace(b"NAME", "нож".encode("cp1251")) + END
    [file] = read(body)
    assert file.content == b"x"
    assert file.name.endswith(".jpg")


@pytest.mark.parametrize("length", [1, 70])
def test_a_boundary_may_have_70_characters(length):
    assert read((part() + END).replace(b"--x", b"--" + b"b" * length), boundary="b" * length)


@pytest.mark.parametrize(
    ("written", "boundary"),
    [("x", "x"), ('"x"', "x"), ("x; charset=nonsense", "x"), ("==a/b", "==a/b"), ('"a b"', "a b")],
)
def test_a_boundary_is_found_however_the_content_type_is_written(written, boundary):
    body = (part() + END).replace(b"--x", b"--" + boundary.encode())
    assert read(body, boundary=written) == [SentFile("a.png", b"x")]


def test_a_part_that_announces_its_true_length_is_taken():
    assert read(part(more="Content-Length: 1\r\n") + END) == [SentFile("a.png", b"x")]


@pytest.mark.parametrize(
    ("body", "name", "sentence"),
    [
        (part('filename="a.png"') + END, "bad-multipart", "A part has no name."),
        (part('name=""; filename="a.png"') + END, "bad-multipart", "A part has no name."),
        (part().replace(b"form-data", b"attachment") + END, "bad-multipart", "Wrong type"),
        (b"--x\r\n\r\nno disposition\r\n" + END, "bad-multipart", "Missing Content-Disposition"),
        (part(more="Content-Length: 5\r\n") + END, "bad-multipart", "does not match Content-Length"),
        (part(content=b"12345", more="Content-Length: 1\r\n") + END, "bad-multipart", "Length exceeded"),
        (part(more="Content-Length: -1\r\n") + END, "bad-multipart", "Invalid segment Content-Length"),
        (part(more="X: y\r\n" * 8) + END, "bad-multipart", "at most 8 headers in each part"),
        (part(more=f"X: {'y' * 5_000}\r\n") + END, "bad-multipart", "at most 4,096 bytes each, got more."),
        (part().removesuffix(b"\r\n"), "bad-multipart", "Unexpected end"),
        (part() * 2, "bad-multipart", "Unexpected end"),  # whether a third was to come, nobody knows
        (b"--x", "bad-multipart", "Unexpected end"),
        ((part() + END).replace(b"\r\n", b"\n"), "bad-multipart", "Invalid line break"),
        (b"before" + part() + END, "bad-multipart", "in front of first boundary"),
        (bytes(65_537), "bad-multipart", "Expected the boundary in the first 65,536 bytes."),
        (part() * 5_000 + END, "too-many-files", "at most 8 files"),
        (part('name="image"; filename="a"') * 9 + END, "too-many-files", "at most 8 files"),
        (part('name="a"', b"") * 5_000 + END, "bad-multipart", "at most 8 parts that are no files"),
        (part('name="a"') * 8 + part() + END, "invalid-parameters", "only parts named 'file', got also 'a'."),
        (part('name="file"', b"y" * 10_001) + END, "bad-multipart", "at most 10,000 bytes"),
        (part('name="file"', b"y" * 10_000) + END, "missing-file", "to be a file with a file name, got text"),
        (END, "missing-file", "got no part at all"),
        (b"", "missing-file", "got no part at all"),
    ],
)  # fmt: skip
def test_a_form_that_cannot_be_taken_is_refused_with_the_reason(body, name, sentence):
    for cuts in ((), range(min(len(body), 200))):
        with pytest.raises(ApiProblem) as refused:
            read(body, cuts=cuts)
        assert refused.value.name == name
        assert sentence in refused.value.detail


@pytest.mark.parametrize(
    ("boundary", "sentence"),
    [("", "names no boundary"), ("b" * 71, "at most 70 characters, got 71")],
)
def test_a_boundary_that_cannot_be_one_is_refused_with_the_reason(boundary, sentence):
    with pytest.raises(ApiProblem) as refused:
        read(part() + END, boundary=boundary)
    assert refused.value.name == "bad-multipart"
    assert sentence in refused.value.detail


# --- the form of the answer -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (["application/json;q=0, */*"], "image/jpeg"),
        (["image/*, image/jpeg;q=0"], "image/png"),
        (
            ["image/jpeg;q=0.2, image/*;q=0.5, application/json;q=0.3"],
            "image/png",
        ),  # the most specific
        (["image/png;q=1.5, application/json;q=0.1"], "application/json"),  # no quality is over 1
        (["application/json;charset=utf-8"], "application/json"),
        (["IMAGE/PNG"], "image/png"),
        (["text/html, application/xhtml+xml, application/xml;q=0.9, */*;q=0.8"], "application/json"),
        (["text/html", "image/png"], "image/png"),  # one list in two lines
        ([""], "application/json"),
        (["image/png;q=nonsense"], "application/json"),
    ],
)
def test_the_most_specific_range_of_accept_decides(client, accept, kind):
    headers = [("Accept", value) for value in accept]
    del client.headers["accept"]
    answer = client.post("/predict", files={"file": png()}, headers=headers)
    assert answer.headers["content-type"] == kind


@pytest.mark.parametrize("accept", ["application/json;q=0", "*/*;q=0", "text/html", "nonsense", "image/webp"])
def test_an_accept_that_refuses_all_there_is_gets_406(client, accept):
    answer = client.post("/predict", files={"file": png()}, headers={"Accept": accept})
    assert answer.status_code == 406
    assert answer.json()["detail"].endswith(f"image/jpeg or image/png, got {accept}.")


@given(accept=st.text(st.characters(max_codepoint=255, exclude_categories=["Cc"])))
def test_no_accept_header_is_more_than_refused(accept):
    try:
        assert choose_media_type(accept) in ("application/json", "image/jpeg", "image/png")
    except ApiProblem as refused:
        assert refused.name == "not-acceptable"  # noqa: PT017 - either is right


# --- requests ---------------------------------------------------------------------------------------


def test_methods_nobody_knows_make_no_new_series(client):
    for i in range(3):
        client.request(f"BREW{i}", "/health")
    text = client.get("/metrics").text
    assert 'weapon_api_requests_total{method="_OTHER",route="/health",status="405"} 3.0' in text
    assert "BREW" not in text


def raw(address: httpx.URL, request: str) -> socket.socket:
    connection = socket.create_connection((address.host, address.port), timeout=LONGEST_S)
    connection.sendall(request.replace("\n", "\r\n").encode())
    return connection


def read_to_the_end(connection: socket.socket) -> bytes:
    """Return all that comes until the other side closes."""
    received = b""
    try:
        while part := connection.recv(65_536):
            received += part
    except ConnectionError:
        pass
    return received


SMUGGLED = "GET /health HTTP/1.1\nHost: x\n\n"


@pytest.mark.parametrize(
    ("request_text", "kind"),
    [
        (f"GET /model HTTP/1.1\nHost: x\nContent-Length: 5\nTransfer-Encoding: chunked\n\n0\n\n{SMUGGLED}",
         "bad-request"),
        ("GARBAGE\n\n", "bad-request"),
        ("GET / HTTP/1.1\nHost: x\nTransfer-Encoding: odd\n\n", "bad-request"),
        (f"GET / HTTP/1.1\nHost: x\nX: {'a' * 70_000}\n\n", "headers-too-large"),
    ],
)  # fmt: skip
def test_what_is_no_honest_http_gets_a_problem_and_the_connection_ends(request_text, kind):
    served = live_server(make_app(), http=BoundedConnection)
    with served as (client, _), raw(client.base_url, request_text) as connection:
        answer = read_to_the_end(connection)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {problems.PROBLEMS[kind][0]} ".encode())
    assert b"application/problem+json" in head
    document = json.loads(body)
    assert document["type"] == problems.TYPE_PREFIX + kind
    assert document["request_id"].encode() in head


@pytest.mark.parametrize("path", ["/health", "/predict"])
def test_a_head_followed_by_a_damaged_body_gets_one_answer(path, caplog):
    damaged = f"POST {path} HTTP/1.1\nHost: x\nTransfer-Encoding: chunked\n\nno chunk\n\n"
    app = make_app(api_allowed_hosts=("127.0.0.1",))  # so that it is refused before its body is looked at
    with live_server(app, http=BoundedConnection) as (client, _):
        with raw(client.base_url, damaged) as connection:
            answer = read_to_the_end(connection)
        assert client.get("/health").status_code == 200
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.count(b"HTTP/1.1 4") == 1
    assert not [record for record in caplog.records if record.exc_info]


class HastyConnection(BoundedConnection):
    head_seconds = 0.5


def test_an_announced_body_that_never_comes_holds_no_connection():
    """One byte after the answer cancels uvicorn's own timer; the connection must end all the same."""
    begun = "GET /health HTTP/1.1\nHost: x\nContent-Length: 5000\n\nx"
    with live_server(make_app(), http=HastyConnection, timeout_keep_alive=600) as (client, server):
        with raw(client.base_url, begun) as connection:
            assert connection.recv(12) == b"HTTP/1.1 200"
            connection.sendall(b"y")
            read_to_the_end(connection)
        client.close()
        wait_until(lambda: not server.server_state.connections)


def test_a_client_that_never_reads_is_cut_off_while_it_does_not_read():
    noise = np.random.default_rng(0).integers(0, 256, (1400, 1400, 3), dtype=np.uint8)
    content = form_with(noise)
    app = make_app(api_deadline_seconds=2)
    with live_server(app, http=HastyConnection) as (client, server):
        head = (
            "POST /predict HTTP/1.1\nHost: x\nAccept: image/png\n"
            f"Content-Type: multipart/form-data; boundary=x\nContent-Length: {len(content)}\n\n"
        )
        with raw(client.base_url, head) as connection:
            connection.sendall(content)
            client.close()
            wait_until(lambda: not server.server_state.connections)  # and it has read nothing yet


def form_with(pixels) -> bytes:
    stream = io.BytesIO()
    PillowImage.fromarray(pixels).save(stream, "BMP")
    start = b'--x\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'
    return start + stream.getvalue() + b"\r\n--x--\r\n"


def test_answers_are_not_held_back_for_the_clients_acknowledgement(tmp_path):
    """Nagle's algorithm would add 40 ms to every answer on a kept connection; half of that is allowed here.

    The limit is what is tested: the fastest of many answers, so that a busy machine does not matter.
    """
    listening = mlapi.listen("127.0.0.1", 0)
    with live_server(make_app(), listening=listening) as (client, _):
        times = []
        for _ in range(20):
            began = time.perf_counter()
            assert client.get("/health").status_code == 200
            times.append(time.perf_counter() - began)
    assert min(times) < 0.020, statistics.median(times)
