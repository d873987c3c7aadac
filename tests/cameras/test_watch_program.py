"""watch.py as a person runs it: trying, playing a clip, watching until told to stop, reviewing, exporting."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import requests
from camera_parts import ROOT, RtspServer, clip, rtsp, write_clip, write_video
from conftest import LONGEST_S, answers, free_port, running, stop, wait_until

from cameras.events import EventStore
from detection import imaging
from detection.detections import CLASS_NAMES
from photosets.annotations import annotate
from photosets.classes import class_rule
from photosets.voc import VocFile
from tests.fake_api import CARD, FakeApi, detection

__all__ = ["clip", "rtsp"]  # fixtures

PISTOL = detection("pistol", 0.91, 20, 25, 60, 75)


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi([PISTOL], card=CARD) as up:
        yield up


def cameras_file(tmp_path: Path, **addresses: object) -> Path:
    path = tmp_path / "cameras.toml"
    path.write_text(
        "".join(
            f'[[camera]]\nname = "{name}"\naddress = "{at}"\nrate = 5\n' for name, at in addresses.items()
        )
    )
    return path


def ran(*words: object, status: int = 0, **environment: str) -> str:
    """Run watch.py, expect its exit status, and return what it printed, errors included."""
    ended = subprocess.run(
        [sys.executable, "watch.py", *map(str, words)], cwd=ROOT, env={**os.environ, **environment},
        text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LONGEST_S,
    )  # fmt: skip
    assert ended.returncode == status, ended.stdout
    assert "Traceback" not in ended.stdout
    return ended.stdout


def test_check_says_of_each_camera_of_the_api_and_of_the_events_how_they_are(api, clip, tmp_path):
    nobody = f"rtsp://${{TILL_USER}}:${{TILL_PASSWORD}}@127.0.0.1:{free_port()}/stream1"
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    lively = write_video(tmp_path / "lively.mp4", [picture] * 3, rate=10, size_wh=(160, 120))
    path = cameras_file(tmp_path, till=nobody, door=lively)
    said = ran(
        "--cameras", path, "--events", tmp_path / "events.db", "check", status=1,
        API_URL=api.url, TILL_USER="keeper", TILL_PASSWORD="hunter2",
    )  # fmt: skip
    till, door = (line for line in said.splitlines() if line.startswith("camera "))
    place = nobody.partition("@")[2]
    assert till.startswith(f"camera till (rtsp://...@{place}): WRONG: nothing listens there")
    assert door.startswith(f"camera door ({lively}): well: 160 x 120 pixels")
    assert f"API at {api.url}: serves weapon-detector, version 7" in said
    assert "Events: 0 in sqlite:///" in said
    assert "hunter2" not in said


def test_check_is_content_when_all_is_well_and_not_when_the_api_is_away(api, tmp_path):
    picture = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    lively = write_video(tmp_path / "lively.mp4", [picture] * 3, rate=10, size_wh=(160, 120))
    path = cameras_file(tmp_path, door=lively)
    ran("--cameras", path, "check", API_URL=api.url)
    assert "API: expected the model API at" in ran(
        "--cameras", path, "--api-url", f"http://127.0.0.1:{free_port()}", "check", status=1
    )


def test_a_clip_is_rehearsed(api, clip, tmp_path):
    said = ran("--dry-run", clip, API_URL=api.url)
    assert said == (
        "    1.0 s  possible weapon, a person must confirm: pistol, strong, score 0.91, seen in 3 frames\n"
    )
    api.found = []
    assert ran("--dry-run", clip, API_URL=api.url) == (
        "Nothing was confirmed in 4 frames; that is no proof that there is nothing.\n"
    )
    short = write_clip(tmp_path / "short.mp4", [100] * 2)
    assert "The clip has 1 frames to look at, an alarm needs 3" in ran("--dry-run", short, API_URL=api.url)


def test_it_watches_until_told_to_stop_and_what_it_confirmed_can_be_reviewed_and_trained_on(
    api, clip, tmp_path
):
    events, path = tmp_path / "events.db", cameras_file(tmp_path, till=clip)
    store = EventStore(str(events))
    with running(
        [sys.executable, "watch.py", "--cameras", str(path), "--events", str(events)], tmp_path / "log.txt",
        ready=store.events, cwd=ROOT, API_URL=api.url,
    ) as process:  # fmt: skip
        assert stop(process) == 0
    log = (tmp_path / "log.txt").read_text()
    assert log.count("possible weapon, a person must confirm") == 1
    assert "Traceback" not in log
    (kept,) = store.events()
    assert f"{kept.id}  " in ran("--events", events, "list")
    ran("--events", events, "review", kept.id, "confirmed", "--by", "Ann", "--why", "it is one")
    assert "confirmed by Ann" in ran("--events", events, "list")
    said = ran("--events", events, "export", tmp_path / "learned")
    assert said.startswith("1 pictures with a weapon and 0 without")
    (image,) = (tmp_path / "learned" / "images").iterdir()
    xml = tmp_path / "learned" / "annotations" / "xmls" / f"{image.stem}.xml"
    annotation = annotate(VocFile(xml), class_rule(), imaging.read_header(image))
    assert [CLASS_NAMES[label] for label in annotation.labels] == ["pistol"]
    assert annotation.boxes.tolist() == [[32, 30, 96, 90]]
    store.close()


def test_the_log_can_be_one_json_object_a_line_and_its_port_says_how_the_camera_does(api, clip, tmp_path):
    port = free_port()
    with running(
        [sys.executable, "watch.py", "--address", str(clip), "--port", str(port)],
        tmp_path / "log.txt", ready=lambda: answers(f"http://127.0.0.1:{port}/health"), cwd=ROOT,
        API_URL=api.url, WATCH_LOG_FORMAT="json",
    ) as process:  # fmt: skip
        log = tmp_path / "log.txt"
        wait_until(lambda: "possible weapon" in log.read_text(), process=process, log=log)
        (camera,) = requests.get(f"http://127.0.0.1:{port}/status.json", timeout=LONGEST_S).json()["cameras"]
        assert stop(process) == 0
    assert (camera["name"], camera["problem"], camera["alarms"]) == ("clip.mp4", None, 1)
    lines = [json.loads(line) for line in (tmp_path / "log.txt").read_text().splitlines()]
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    (alarm,) = [line for line in lines if "verdict" in line]
    assert (alarm["camera"], alarm["verdict"], alarm["label"]) == ("clip.mp4", "alarm", "pistol")
    assert alarm["score"] == 0.91
    assert lines[-1]["message"] == "stopped"


def test_a_port_that_is_taken_and_an_address_of_no_kind_are_sentences(api, clip):
    port = api.url.rpartition(":")[2]
    assert f"error: cannot listen on 127.0.0.1:{port}" in ran(
        "--address", clip, "--port", port, status=2, API_URL=api.url
    )
    said = ran("--address", "ftp://keeper:hunter2@x/y", status=2, API_URL=api.url)
    assert "expected rtsp, rtsps, http, https or a path, got ftp://" in said
    assert "hunter2" not in said


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--cameras", "absent.toml"], "error: absent.toml: cannot be read"),
        (["--shard", "4/3", "--cameras", "cameras.example.toml"], "expected a shard such as 1/3"),
        (["list"], "no event is kept: name the database by --events FILE"),
        (["--events", "x://y", "list"], "error: the events' address: expected a file"),
        (["watch"], "unknown command watch"),
        (["--stall-seconds", "0", "check"], "stall_seconds: Input should be greater than or equal to 1"),
        (["--dry-run", "absent.mp4"], "there is no such file, folder or device"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(api, words, sentence):
    settings = {"TILL_USER": "a", "TILL_PASSWORD": "b", "DOOR_USER": "a", "DOOR_PASSWORD": "b"}
    assert sentence in ran(*words, status=2, API_URL=api.url, **settings)


def test_an_rtsp_camera_raises_an_alarm_while_another_is_killed(api, rtsp: RtspServer, tmp_path):
    events = tmp_path / "events.db"
    path = cameras_file(tmp_path, till=rtsp.url, door=f"rtsp://127.0.0.1:{free_port()}/clip")
    store = EventStore(str(events))
    with (
        rtsp.up(),
        running(
            [sys.executable, "watch.py", "--cameras", str(path), "--events", str(events)],
            tmp_path / "log.txt", ready=store.events, cwd=ROOT, API_URL=api.url,
        ) as process,
    ):  # fmt: skip
        assert stop(process, signal.SIGINT) == 0
    assert {kept.camera for kept in store.events()} == {"till"}
    store.close()


# --- the real thing ----------------------------------------------------------------------------------


def panned(photo: str, path: Path) -> Path:
    """A clip in which a camera moves over a picture, 4 pixels a frame."""
    image = imaging.shrink(imaging.decode_image((ROOT / "photos" / photo).read_bytes()), 720)
    height, width = image.shape[0] // 2 * 2, 640
    images = (np.ascontiguousarray(image[:height, 4 * i : 4 * i + width]) for i in range(20))
    return write_video(path, images, rate=5, size_wh=(width, height))


@pytest.mark.slow
def test_the_shipped_model_sees_the_pistol_of_a_rendered_clip_and_nothing_in_a_mug(tmp_path):
    url = f"http://127.0.0.1:{free_port()}"
    pistol = panned("01-pistol-in-a-hand.jpg", tmp_path / "pistol.mp4")
    mug = panned("09-mug-nothing-to-find.jpg", tmp_path / "mug.mp4")
    with running(
        [sys.executable, "mlapi.py"], tmp_path / "api.txt", cwd=ROOT, ready=lambda: answers(f"{url}/ready"),
        API_PORT=url.rpartition(":")[2], MODEL_DIR="weights/starter",
    ):  # fmt: skip
        said = ran("--dry-run", pistol, API_URL=url)
        assert "possible weapon, a person must confirm: pistol" in said
        assert "Nothing was confirmed in" in ran("--dry-run", mug, API_URL=url)
        events = tmp_path / "events.db"
        store = EventStore(str(events))
        path = cameras_file(tmp_path, mug=mug, till=pistol)
        began = datetime.now(UTC)
        with running(
            [sys.executable, "watch.py", "--cameras", str(path), "--events", str(events)],
            tmp_path / "log.txt", ready=store.events, cwd=ROOT, API_URL=url,
        ):  # fmt: skip
            pass
    (kept,) = store.events()
    assert (kept.camera, kept.verdict, kept.label) == ("till", "alarm", "pistol")
    assert kept.started_at >= began
    assert imaging.decode_image(store.picture(kept.id)).shape[1] == 640
    store.close()
