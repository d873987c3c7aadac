"""The demo starts three services, names what is wrong, and leaves nothing running."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
import requests
from conftest import LONGEST_S, free_port, wait_until
from honcho.printer import Message
from pydantic import SecretStr

import demo
from cameras.events import EventStore
from detection import imaging
from settings import DemoSettings, service_environment
from tests.cameras.camera_parts import write_video

ROOT = Path(__file__).parents[1]


@pytest.fixture
def taken_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


def test_a_taken_port_is_named_with_its_variable(taken_port):
    with pytest.raises(demo.DemoError, match=rf"port {taken_port}, meant for the page, .*WEB_PORT="):
        demo.check_ports(DemoSettings(mlflow_port=free_port(), api_port=8, web_port=taken_port))


def test_the_same_port_twice_is_refused():
    with pytest.raises(demo.DemoError, match=r"three different ports, got .*API_PORT=9000, WEB_PORT=9000"):
        demo.check_ports(DemoSettings(mlflow_port=9001, api_port=9000, web_port=9000))


def test_a_port_is_free_again_when_its_server_has_gone(taken_port):
    assert not demo.is_free(taken_port)
    assert demo.is_free(free_port())


def test_a_bad_port_is_one_sentence_and_nothing_starts():
    ended = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=ROOT,
        env={**os.environ, "WEB_PORT": "page"},
        text=True,
        capture_output=True,
    )
    assert ended.returncode != 0
    assert "web_port" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("absent.mp4", None, "{path}: there is no such file, folder or device"),
        ("notes.mp4", "no video", "{path}: what is there is no video that can be read"),
        ("absent.toml", None, "{path}: cannot be read"),
        (
            "cameras.toml",
            '[[camera]]\nname = "till"\naddress = "absent.mp4"\n',
            "absent.mp4: there is no such",
        ),
    ],
)
def test_cameras_that_cannot_be_watched_are_one_sentence_and_nothing_starts(
    tmp_path, name, content, sentence
):
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    ports = {name: str(free_port()) for name in ("WEB_PORT", "API_PORT", "MLFLOW_PORT")}
    ended = subprocess.run(
        [sys.executable, "demo.py"],
        cwd=ROOT,
        env={**os.environ, **ports, "CAMERAS": str(path)},
        text=True,
        capture_output=True,
    )
    assert ended.returncode == 1
    assert ended.stderr.startswith("error: CAMERAS: " + sentence.format(path=path))
    assert ended.stderr.count("\n") == 1
    assert ended.stdout == ""


def test_a_camera_of_the_network_is_not_waited_for_and_its_password_is_not_said():
    demo.check_cameras(DemoSettings(cameras=SecretStr("rtsp://keeper:hunter2@127.0.0.1:1/stream1")))
    with pytest.raises(demo.DemoError, match="expected rtsp") as caught:
        demo.check_cameras(DemoSettings(cameras=SecretStr("ftp://keeper:hunter2@127.0.0.1/")))
    assert "hunter2" not in str(caught.value)


def test_a_clip_an_address_and_a_file_of_cameras_reach_the_watcher(monkeypatch, tmp_path):
    monkeypatch.delenv("WATCH_EVENTS", raising=False)

    def given(cameras: str) -> dict[str, str]:
        chosen = DemoSettings(mlflow_data_dir=tmp_path, cameras=SecretStr(cameras))
        return service_environment(chosen, python_folder=tmp_path)

    assert given("clip.mp4")["WATCH_ADDRESS"] == str(Path("clip.mp4").resolve())
    assert given("rtsp://x/y")["WATCH_ADDRESS"] == "rtsp://x/y"
    assert given("shop.toml")["WATCH_CAMERAS"] == str(Path("shop.toml").resolve())
    assert given("clip.mp4")["WATCH_EVENTS"] == str(tmp_path / "events.db")
    monkeypatch.setenv("WATCH_EVENTS", "elsewhere.db")
    assert given("clip.mp4")["WATCH_EVENTS"] == "elsewhere.db"
    assert "WATCH_ADDRESS" not in given("")


# --- services that are no services: sleep, die, or will not go ------------------------------------------


@pytest.fixture
def start(tmp_path):
    """Run the demo's supervisor on a Procfile given as text; stop it at the end whatever happened."""
    started: list[subprocess.Popen[str]] = []

    def run(procfile: str) -> subprocess.Popen[str]:
        (tmp_path / "Procfile").write_text(textwrap.dedent(procfile))
        mlflow_port, api_port, web_port = (free_port() for _ in range(3))
        script = (
            "import demo, pathlib, signal; from settings import DemoSettings; demo.KILL_SECONDS = 1;"
            "signal.signal(signal.SIGHUP, signal.SIG_DFL);"  # nohup around the tests is not meant for it
            f"settings = DemoSettings(mlflow_port={mlflow_port}, api_port={api_port}, web_port={web_port});"
            f"raise SystemExit(demo.run_services(settings, pathlib.Path({str(tmp_path / 'Procfile')!r})))"
        )
        started.append(
            subprocess.Popen([sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE)
        )
        return started[-1]

    yield run
    for process in started:
        for child in (
            [*psutil.Process(process.pid).children(recursive=True)] if process.poll() is None else []
        ):
            child.kill()
        process.kill()
        process.wait()


def read_until(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if re.search(pattern, seen):
            return seen
    raise AssertionError(f"the demo ended without {pattern!r}; it printed:\n{seen}")


def descendants(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def wait_for_family(process: subprocess.Popen[str], last_words: set[str]) -> list[psutil.Process]:
    """Return the descendants once each of last_words ends the command of one of them."""

    def family() -> list[psutil.Process]:
        found = descendants(process)
        with contextlib.suppress(psutil.NoSuchProcess):
            if last_words <= {each.cmdline()[-1] for each in found if each.cmdline()}:
                return found
        return []

    return wait_until(family, process=process)


def wait_gone(processes: list[psutil.Process]) -> list[psutil.Process]:
    _, alive = psutil.wait_procs(processes, timeout=LONGEST_S)
    return [each for each in alive if each.status() != psutil.STATUS_ZOMBIE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_stops_all_and_leaves_nothing_running(start, number):
    process = start(
        """\
        tracker: echo tracker-up; exec sleep 600
        api: echo api-up; sleep 601 & wait
        web: echo web-up; exec sleep 602
        watch: echo not without cameras; exit 3
        """
    )
    read_until(process, r"(?s)(.*-up){3}")
    family = wait_for_family(process, {"600", "601", "602"})
    process.send_signal(number)
    rest, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0
    assert "Stopped: tracker, API and page." in rest
    assert wait_gone(family) == []


def test_a_signal_in_the_middle_of_a_line_does_not_lose_the_demo():
    class Interrupted(io.StringIO):
        """A stream whose write is entered twice, as by a signal's handler."""

        def write(self, text: str) -> int:
            raise RuntimeError("reentrant call inside <_io.BufferedWriter name='<stdout>'>")

    recorder = demo._Recorder()
    recorder.output = Interrupted()
    recorder.write(Message("line", "a photo\n", datetime.now(UTC), "api", None))
    assert list(recorder.last_lines["api"]) == ["a photo"]


@pytest.mark.parametrize("with_cameras", [False, True])
def test_cameras_alarms_are_not_lost_among_answered_requests(with_cameras):
    recorder = demo._Recorder(with_cameras=with_cameras)
    recorder.output = io.StringIO()
    line = '{{"level": "INFO", "logger": "mlapi.request", "route": "/predict", "status": {}}}\n'
    for name, text in (("api", line.format(200)), ("api", line.format(503)), ("watch", "possible weapon\n")):
        recorder.write(Message("line", text, datetime.now(UTC), name, None))
    shown = recorder.output.getvalue()
    assert ('"status": 200' in shown) is not with_cameras
    assert '"status": 503' in shown
    assert "possible weapon" in shown
    assert len(recorder.last_lines["api"]) == 2, "if it dies, its last words are still known"


def test_a_service_that_ignores_the_signal_is_killed(start):
    process = start("tracker: trap '' TERM INT; echo tracker-up; while true; do sleep 1; done\n")
    read_until(process, "tracker-up")
    family = descendants(process)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=LONGEST_S)
    assert wait_gone(family) == []


def test_a_service_that_dies_is_named_with_its_last_words(start):
    process = start(
        """\
        tracker: exec sleep 600
        api: sleep 1; echo no model in sight; exit 3
        web: exec sleep 602
        """
    )
    printed, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 1
    assert "error: the API ended by itself (exit status 3)" in printed
    assert printed.rstrip().endswith("no model in sight")


# --- the real thing -----------------------------------------------------------------------------------


@pytest.fixture
def model_folder(tmp_path) -> Path:
    """A small network with random weights, saved as the starter model is."""
    from detection.architectures import network_config
    from detection.detections import CLASS_NAMES
    from detection.detector import Detector
    from schemas import ModelCard

    folder = tmp_path / "starter model"
    network = network_config("fasterrcnn_mobilenet_v2_fpn", min_size=96, max_size=96)
    Detector(ModelCard(network=network, class_names=CLASS_NAMES)).save_folder(folder)
    return folder


@pytest.mark.slow
def test_the_demo_brings_up_all_three_and_ctrl_c_takes_them_down(tmp_path, model_folder):
    mlflow_port, api_port, web_port = (free_port() for _ in range(3))
    env = {
        **os.environ,
        "MLFLOW_PORT": str(mlflow_port),
        "API_PORT": str(api_port),
        "WEB_PORT": str(web_port),
        "MLFLOW_DATA_DIR": str(tmp_path / "tracker data"),
        "STARTER_DIR": str(model_folder),
    }
    command = [sys.executable, "demo.py"]
    with subprocess.Popen(command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE) as process:
        try:
            printed = read_until(process, "Ctrl-C stops all three")
            assert f"http://127.0.0.1:{web_port}" in printed
            served = requests.get(f"http://127.0.0.1:{api_port}/model", timeout=LONGEST_S).json()
            assert served["model"] == {"name": "weapon-detector", "version": "1", "alias": "champion"}
            page = requests.get(f"http://127.0.0.1:{web_port}", timeout=LONGEST_S)
            assert page.status_code == 200
            family = descendants(process)
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=LONGEST_S)
    assert process.returncode == 0, rest
    assert wait_gone(family) == []
    wait_until(lambda: all(demo.is_free(port) for port in (mlflow_port, api_port, web_port)))


@pytest.mark.slow
def test_the_demo_raises_an_alarm_from_a_looped_clip_and_ctrl_c_takes_all_down(tmp_path):
    """Photos of the repository, the shipped model: as a new user would."""
    photo = imaging.decode_image((ROOT / "photos" / "01-pistol-in-a-hand.jpg").read_bytes())
    images = [np.ascontiguousarray(photo[:720, 4 * i : 4 * i + 640]) for i in range(20)]
    clip = write_video(tmp_path / "clip.mp4", images, rate=5, size_wh=(640, 720))
    env = {
        **os.environ,
        **{name: str(free_port()) for name in ("WEB_PORT", "API_PORT", "MLFLOW_PORT")},
        "MLFLOW_DATA_DIR": str(tmp_path / "tracker data"),
        "CAMERAS": str(clip),
    }
    command = [sys.executable, "demo.py"]
    with subprocess.Popen(
        command, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            read_until(process, "camera clip.mp4: possible weapon, a person must confirm: pistol")
            store = EventStore(str(tmp_path / "tracker data" / "events.db"))
            (kept,) = wait_until(store.events, process=process)
            store.close()
            family = descendants(process)
        finally:
            process.send_signal(signal.SIGINT)
            rest, _ = process.communicate(timeout=LONGEST_S)
    assert (kept.camera, kept.verdict, kept.label) == ("clip.mp4", "alarm", "pistol")
    assert process.returncode == 0, rest
    assert "Stopped: tracker, API, page and cameras." in rest
    assert wait_gone(family) == []
