"""The typed client and its predict command, against a small real server."""

from __future__ import annotations

import csv
import io
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import client
from client import Client
from schemas import ImageSize
from tests.fake_api import FakeApi, detection

ROOT = Path(__file__).parents[1]
FOUND = [
    detection("pistol", 0.91, 10, 20, 50, 80),
    detection("smartphone", 0.72, 55, 10, 95, 60),
    detection("knife", 0.3, 5, 60, 30, 95),
]


def photo(width: int = 200, height: int = 100) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.full((height, width, 3), 90, np.uint8)).save(stream, "JPEG")
    return stream.getvalue()


@pytest.fixture
def api():
    with FakeApi(FOUND) as running:
        yield running


@pytest.fixture
def folder(tmp_path):
    for name in ("b.jpg", "a (1).JPG", "sub/c.png", "notes.txt"):
        path = tmp_path / "shop" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(photo() if path.suffix != ".txt" else b"hello")
    return tmp_path / "shop"


def run(api: FakeApi, *arguments: object, cwd: Path | None = None) -> int:
    with chdir(cwd or "."):
        return client.main(["predict", *map(str, arguments), "--api-url", api.url])


# --- the client -------------------------------------------------------------------------------------


def test_predict_sends_every_photo_and_parameter(api):
    response = Client(api.url).predict(
        [("кот (1).jpg", photo()), ("b.jpg", photo(50, 50))],
        score_threshold=0.25, labels=["pistol", "knife"], nms_iou=0.4, max_detections=7, probabilities=True,
        tiles="2x2",
    )  # fmt: skip
    path, query, names = api.requests[0]
    assert (path, names) == ("/predict", ["кот (1).jpg", "b.jpg"])
    assert query == {
        "score_threshold": ["0.25"], "labels": ["pistol", "knife"], "nms_iou": ["0.4"],
        "max_detections": ["7"], "probabilities": ["true"], "tiles": ["2x2"],
    }  # fmt: skip
    assert [len(result.detections or ()) for result in response.results] == [3, 3]
    assert response.results[0].image_size == ImageSize(width=200, height=100)


def test_what_is_not_asked_for_is_not_sent(api):
    Client(api.url).predict([("a.jpg", photo())])
    assert api.requests[0][1] == {}


def test_one_bad_photo_is_its_own_result(api):
    response = Client(api.url).predict([("a.jpg", photo()), ("b.jpg", b"no picture")])
    assert [result.error and result.error.status for result in response.results] == [None, 415]


def test_a_busy_api_is_asked_again(api):
    api.fail_with("queue-full", 503, times=2)
    response = Client(api.url, retries=3).predict([("a.jpg", photo())])
    assert response.results[0].alarm is True
    assert len(api.requests) == 3


@pytest.mark.parametrize(
    ("name", "status", "kind"),
    [
        ("queue-full", 503, client.ServiceBusy),
        ("not-ready", 503, client.ServiceNotReady),
        ("body-too-large", 413, client.PhotoTooLarge),
        ("invalid-parameters", 422, client.RequestRefused),
        ("internal-error", 500, client.ServiceError),
    ],
)
def test_each_refusal_is_its_own_error_and_keeps_the_problem(api, name, status, kind):
    api.fail_with(name, status)
    with pytest.raises(client.ServiceError, match="In the test's words") as caught:
        Client(api.url, retries=1).predict([("a.jpg", photo())])
    assert type(caught.value) is kind
    assert caught.value.problem
    assert caught.value.problem.status == status


@pytest.mark.parametrize(
    ("status", "document", "kind", "said"),
    [
        (503, {"title": "No API is ready"}, client.ServiceNotReady, "No API is ready"),  # a proxy's own
        (429, {"type": "urn:weapon-detector:problem:too-many-requests", "detail": "Wait."},
         client.ServiceBusy, "Wait."),
        (500, {"type": "about:blank", "instance": "/x", "more": 1}, client.ServiceError, "answered 500"),
        (422, {"title": "No", "detail": "Because.", "instance": "/x"}, client.RequestRefused, "No: Because."),
    ],
)  # fmt: skip
def test_problems_of_others_are_understood(status, document, kind, said):
    with answering(status, document) as url, pytest.raises(client.ServiceError, match=said) as caught:
        Client(url, retries=0).model()
    assert type(caught.value) is kind


def test_a_field_that_a_later_api_adds_is_ignored(api):
    answer = Client(api.url).model().model_dump(mode="json")
    answer["card"] = {**answer["card"]}
    with answering(200, {**answer, "new": 1, "model": {**answer["model"], "stage": "x"}}) as url:
        assert Client(url).model().model.version == "7"


@contextmanager
def answering(status: int, document: dict[str, object]) -> Iterator[str]:
    """Answer one request with a JSON document."""
    body = json.dumps(document).encode()
    head = f"HTTP/1.1 {status} X\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(head + body)

        thread = threading.Thread(target=serve)
        thread.start()
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        thread.join()


def test_nothing_listening_is_said_with_the_address():
    with socket.socket() as taken:  # bound, never listening: the connection is refused
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(client.ServiceUnreachable, match=url):
            Client(url).model()


@pytest.mark.parametrize("address", ["localhost:8000", "nonsense", "http://", "ftp://127.0.0.1"])
def test_what_is_no_address_is_said(address):
    with pytest.raises(
        client.ServiceUnreachable, match=r"expected an address such as http://127\.0\.0\.1:8000"
    ):
        Client(address).model()


def test_a_key_that_cannot_be_sent_is_said_and_not_repeated():
    with pytest.raises(client.ServiceError, match="the API key has characters") as caught:
        Client("http://127.0.0.1:1", api_key="secret\n").model()
    assert "secret" not in str(caught.value)


def test_no_answer_in_time_is_too_slow():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(client.ServiceTooSlow, match=r"0\.2 seconds"):
            Client(url, read_timeout_s=0.2).model()


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello", b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"],
)
def test_an_answer_of_something_else_is_unexpected(answer):
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(client.UnexpectedAnswer, match="check the address"):
            Client(f"http://127.0.0.1:{server.getsockname()[1]}").model()
        thread.join()


def test_the_key_is_sent():
    with FakeApi(FOUND, api_key="secret") as api:
        assert Client(api.url, api_key="secret").predict([("a.jpg", photo())]).results[0].alarm
        with pytest.raises(client.RequestRefused, match="A key is needed"):
            Client(api.url).predict([("a.jpg", photo())])


def test_a_proxy_of_the_environment_is_not_used(api, monkeypatch):
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    assert Client(api.url).model().model.name == "weapon-detector"


# --- the predict command ----------------------------------------------------------------------------


def test_photos_are_found_in_files_folders_and_globs_once_each(folder):
    found, others = client.find_photos([str(folder / "b.jpg"), str(folder), str(folder / "*.jpg")])
    assert [path.name for path in found] == ["b.jpg", "a (1).JPG", "c.png"]
    assert [path.name for path in others] == ["notes.txt"]


def test_what_cameras_and_macs_write_is_known(folder, capsys, api):
    for name in ("d.jfif", "e.jpe", "f.MPO", "g.HIF", "._b.jpg", "__MACOSX/b.jpg"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(photo())
    found, others = client.find_photos([str(folder)])
    assert {path.name for path in found} == {
        "a (1).JPG",
        "b.jpg",
        "c.png",
        "d.jfif",
        "e.jpe",
        "f.MPO",
        "g.HIF",
    }
    assert len(others) == 3
    assert run(api, folder) == 0
    assert "passed over 3 files that are no photos: ._b.jpg, b.jpg, notes.txt" in capsys.readouterr().err


def test_json_lines_hold_one_result_per_photo(api, folder, capsys):
    assert run(api, folder) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [Path(line["file"]).name for line in lines] == ["a (1).JPG", "b.jpg", "c.png"]
    assert lines[0]["detections"][0]["box"] == {"x1": 20, "y1": 20, "x2": 100, "y2": 80}
    assert lines[0]["model"]["version"] == "7"
    assert len(lines[0]["detections"]) == 2  # the operating point, 0.6


@pytest.mark.parametrize("file_format", ["jsonl", "csv", "coco", "pictures"])
def test_a_file_name_that_is_not_utf8_is_sent_and_told_like_the_others(api, folder, tmp_path, file_format):
    try:
        (folder / os.fsdecode(b"mu\xa4eca.jpg")).write_bytes(photo())
        (folder / os.fsdecode(b"mal\xa4.jpg")).write_bytes(b"no picture")
    except OSError:
        pytest.skip("this file system takes only UTF-8 names")
    command = [sys.executable, "client.py", "predict", folder, "--format", file_format, "--api-url", api.url]
    output = tmp_path / "out"
    done = subprocess.run([*command, "--output", output], capture_output=True, cwd=ROOT, check=False)
    assert done.returncode == 1  # for the one that is no picture
    assert b"Traceback" not in done.stderr
    assert b"mal\\udca4.jpg" in done.stderr
    assert sum(len(names) for path, _, names in api.requests if path == "/predict") == 5
    if file_format != "pictures":
        assert "mu\\udca4eca.jpg" in output.read_text(encoding="utf-8").replace("\\\\", "\\")


def test_csv_has_a_row_per_detection(api, folder, tmp_path):
    output = tmp_path / "new" / "found.csv"
    assert run(api, folder / "b.jpg", "--format", "csv", "--output", output, "--score-threshold", 0.1) == 0
    rows = list(csv.DictReader(output.open()))
    assert [row["label"] for row in rows] == ["pistol", "smartphone", "knife"]
    assert (rows[0]["x2"], rows[0]["alarm"], rows[0]["dangerous"]) == ("100.0", "True", "True")
    assert {row["verdict"] for row in rows} == {"alarm"}


def test_a_photo_without_detections_still_has_its_csv_row(folder, capsys):
    with FakeApi([]) as api:
        assert run(api, folder / "b.jpg", "--format", "csv") == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [(row["label"], row["alarm"], row["verdict"]) for row in rows] == [("", "False", "none")]


def test_a_name_that_a_spreadsheet_would_run_is_made_harmless(api, folder, capsys):
    name = '=HYPERLINK("http:example","photo").jpg'
    (folder / name).write_bytes(photo())
    assert run(api, "=*.jpg", "--format", "csv", cwd=folder) == 0
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert {row["file"] for row in rows} == {"'" + name}
    assert rows[0]["score"] == "0.91"


def test_coco_boxes_are_corner_and_size(api, folder, capsys):
    assert run(api, folder, "--format", "coco") == 0
    coco = json.loads(capsys.readouterr().out)
    assert [image["id"] for image in coco["images"]] == [1, 2, 3]
    assert coco["categories"][0] == {"id": 1, "name": "pistol"}
    first = coco["annotations"][0]
    assert (first["bbox"], first["category_id"], first["area"]) == ([20, 20, 80, 60], 1, 4800)


def test_pictures_of_one_name_do_not_overwrite_each_other(api, folder, tmp_path):
    (folder / "sub" / "b.jpg").write_bytes(photo())
    output = tmp_path / "drawn"
    assert run(api, folder, "--format", "pictures", "--output", output) == 0
    assert sorted(path.name for path in output.iterdir()) == ["a (1).jpg", "b-2.jpg", "b.jpg", "c.jpg"]
    assert len(np.unique(np.asarray(Image.open(output / "b.jpg")))) > 10  # something is drawn


def test_a_bad_photo_fails_alone_and_says_so(api, folder, capsys):
    (folder / "b.jpg").write_bytes(b"no picture")
    assert run(api, folder) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == 3
    assert "b.jpg: No picture." in captured.err


def test_a_photos_name_is_said_as_typed(api, tmp_path, capsys):
    folder = tmp_path / "shots [" / "v2] :knife:"
    folder.mkdir(parents=True)
    (folder / "[bold]b.jpg").write_bytes(b"no picture")
    assert run(api, folder) == 1
    assert f"failed: {folder}/[bold]b.jpg: " in capsys.readouterr().err
    assert run(api, tmp_path / "no [" / "v2] :knife:") == 2
    assert "no [/v2] :knife:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere/*.jpg"], "names no photo"),
        (["{folder}", "--format", "pictures"], "add --output FOLDER"),
        (["{folder}", "--output", "/proc/nowhere/x.json"], "cannot write to /proc/nowhere/x.json"),
    ],
)
def test_what_cannot_be_done_is_one_sentence(api, folder, capsys, arguments, sentence):
    assert run(api, *(str(a).format(folder=folder) for a in arguments)) == 2
    captured = capsys.readouterr()
    assert sentence in captured.err
    assert captured.err.startswith("error: ")


def test_every_parameter_can_be_asked_for(api, folder, capsys):
    options = ["--nms-iou", "0.4", "--max-detections", "7", "--probabilities", "--labels", "pistol", "knife"]
    options += ["--tiles", "auto"]
    assert run(api, folder / "b.jpg", *options) == 0
    assert api.requests[-1][1] == {
        "nms_iou": ["0.4"], "max_detections": ["7"], "probabilities": ["true"], "labels": ["pistol", "knife"],
        "tiles": ["auto"],
    }  # fmt: skip


@pytest.mark.parametrize(("name", "status"), [("invalid-parameters", 422), ("unauthorized", 401)])
def test_what_would_be_refused_for_every_photo_is_said_once(api, folder, capsys, name, status):
    api.fail_with(name, status)
    assert run(api, folder, "--jobs", 1) == 2
    captured = capsys.readouterr()
    assert captured.err.count("In the test's words") == 1
    assert captured.out == ""


@pytest.fixture
def eleven(tmp_path):
    folder = tmp_path / "eleven"
    folder.mkdir()
    for i in range(11):
        (folder / f"{i:02d}.jpg").write_bytes(photo())
    return folder


@pytest.mark.parametrize("status", [500, 504])
@pytest.mark.parametrize("output_format", ["jsonl", "coco", "csv"])
def test_one_photo_that_the_api_fails_at_costs_only_itself(api, eleven, capsys, status, output_format):
    api.fails_at = {"01.jpg": status}
    assert run(api, eleven, "--format", output_format) == 1
    captured = capsys.readouterr()
    assert all(f"{i:02d}.jpg" in captured.out for i in range(11) if i != 1)
    assert "failed: " in captured.err
    assert "01.jpg" in captured.err


@pytest.mark.parametrize("output_format", ["jsonl", "coco", "csv"])
def test_an_api_that_fails_at_photo_after_photo_ends_the_command_and_keeps_what_was_found(
    api, eleven, capsys, output_format
):
    api.fails_at = {f"{i:02d}.jpg": 504 for i in range(3, 11)}
    assert run(api, eleven, "--format", output_format, "--jobs", 1) == 2
    captured = capsys.readouterr()
    assert all(f"{i:02d}.jpg" in captured.out for i in range(3))
    assert "4 of 11 photos were not looked at" in captured.err


def test_a_photo_that_only_the_api_can_read_fails_alone(api, folder, tmp_path, monkeypatch, capsys):
    look = api.look

    def look_and_lose(name, content, threshold):
        if name == "b.jpg":
            (folder / "b.jpg").unlink()
        return look(name, content, threshold)

    monkeypatch.setattr(api, "look", look_and_lose)
    output = tmp_path / "drawn"
    assert run(api, folder, "--format", "pictures", "--output", output) == 1
    assert sorted(path.name for path in output.iterdir()) == ["a (1).jpg", "c.jpg"]
    assert "b.jpg: cannot be drawn on" in capsys.readouterr().err


def test_a_photo_too_long_for_a_jpeg_fails_alone(api, folder, tmp_path, capsys):
    Image.new("L", (65_501, 2)).save(folder / "long.png")
    output = tmp_path / "drawn"
    assert run(api, folder, "--format", "pictures", "--output", output) == 1
    assert len(list(output.iterdir())) == 3
    assert "long.png: cannot be drawn on: expected at most 65,500 pixels a side" in capsys.readouterr().err


def test_a_reader_that_has_read_enough_is_no_error(api, folder):
    command = [sys.executable, "client.py", "predict", str(folder), "--api-url", api.url]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=Path(client.__file__).parent
    )
    assert process.stdout
    assert process.stderr
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 1


def test_an_api_that_is_down_is_one_sentence(folder, capsys):
    with FakeApi(FOUND) as api:
        pass
    assert run(api, folder) == 2
    assert "is it running there?" in capsys.readouterr().err


def test_an_api_that_goes_away_ends_the_command(api, folder, capsys):
    original = api.look

    def look(name, content, threshold):
        threading.Thread(target=api.stop).start()
        raise ConnectionAbortedError

    api.look = look
    try:
        assert run(api, folder, "--jobs", 1) == 2
    finally:
        api.look = original
        api.start()
    assert "error: " in capsys.readouterr().err


def test_other_commands_are_refused_in_words():
    with pytest.raises(SystemExit, match=r"python client\.py predict photos/"):
        client.main(["train"])
