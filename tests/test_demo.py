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

import psutil
import pytest
import requests
from conftest import LONGEST_S, free_port, wait_until
from honcho.printer import Message

import demo
from settings import DemoSettings

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
