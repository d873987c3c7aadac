"""The compose files: hardened as written, and, with a Docker engine, really up from tracker to page."""

from __future__ import annotations

import contextlib
import functools
import http.server
import io
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
import requests
import yaml
from conftest import LONGEST_S, free_port, wait_until
from PIL import Image, ImageDraw

ROOT = Path(__file__).parents[1]
TRACKER, DEMO, SCALE = "mlflow_tracker.compose.yaml", "streamlit.compose.yaml", "deploy/scale.compose.yaml"
FOREIGN = {"postgres", "store", "proxy"}  # images of others


class _Loader(yaml.SafeLoader):
    """Reads compose's !reset as the plain value."""


_Loader.add_constructor("!reset", lambda *_: [])  # only ever "!reset []"


def services(file: str) -> dict[str, dict[str, Any]]:
    loaded: dict[str, dict[str, Any]] = yaml.load((ROOT / file).read_text(), _Loader)["services"]
    return loaded


OURS = [(file, name) for file in (TRACKER, DEMO) for name in services(file) if name not in FOREIGN]


# --- as written -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("file", "name"), OURS)
def test_our_containers_have_no_more_rights_than_they_need(file, name):
    service = services(file)[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]


@pytest.mark.parametrize("file", [TRACKER, DEMO, SCALE])
def test_published_ports_are_this_machines_only_unless_asked(file):
    ports = [port for service in services(file).values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in ports)


@pytest.mark.parametrize("name", ["api", "tracker", "web"])
def test_images_run_as_a_user_with_a_health_check_and_a_given_base(name):
    lines = (ROOT / f"Dockerfile.{name}").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001"
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert "ARG PYTHON_IMAGE=python:3.11-slim" in lines
    assert not any("curl" in line for line in lines)  # slim images have none


def test_the_page_waits_until_the_api_is_healthy():
    assert services(DEMO)["web"]["depends_on"] == {"api": {"condition": "service_healthy"}}


def test_kubernetes_asks_the_api_for_life_and_readiness_apart():
    documents = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/api.yaml").read_text()))
    container = documents[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


def test_kustomization_names_every_file_beside_it():
    folder = ROOT / "deploy/kubernetes"
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(named) == sorted(
        path.name for path in folder.glob("*.yaml") if path.stem != "kustomization"
    )


# --- really up ------------------------------------------------------------------------------------------


def run(*command: str, env: dict[str, str] | None = None, timeout: float = 6 * LONGEST_S) -> str:
    """Run a command; show what it printed if it fails."""
    ended = subprocess.run(command, cwd=ROOT, env=env, text=True, capture_output=True, timeout=timeout)
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout[-6000:]}\n{ended.stderr[-6000:]}"
    return ended.stdout


def wait_for(what: Callable[[], Any]) -> Any:
    """Return what() once it is true; a service that does not answer yet is no failure."""

    def asked() -> Any:
        with contextlib.suppress(requests.RequestException):
            return what()
        return None

    return wait_until(asked, every_s=0.5)


@contextlib.contextmanager
def local_wheels() -> Iterator[dict[str, str]]:
    """Let image builds reach the folders of wheels that this machine's pip is told to look in, if any.

    A container sees neither; so each file: address becomes a small server on Docker's own network.
    """
    configured = run(sys.executable, "-m", "pip", "config", "list")
    folders = [unquote(urlparse(each).path) for each in re.findall(r"file://[^\s']+", configured)]
    folders = [each for each in folders if Path(each, "torch").is_dir()]
    if not folders:
        yield {}
        return
    gateway = json.loads(run("docker", "network", "inspect", "bridge"))[0]["IPAM"]["Config"][0]["Gateway"]
    root = Path(folders[0]).parent
    handler = functools.partial(_QuietHandler, directory=str(root))
    with http.server.ThreadingHTTPServer((gateway, 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://{gateway}:{server.server_port}/{Path(folders[0]).name}"
        yield {"TORCH_INDEX": address, "PIP_ARGS": f"--trusted-host {gateway}"}
        server.shutdown()


class _QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


class Stack:
    """Both compose files under names and ports of their own."""

    def __init__(self, build: dict[str, str]) -> None:
        self.tracker_port, self.api_port, self.web_port = (free_port() for _ in range(3))
        self.env = {
            **os.environ,
            **build,
            "NETWORK_NAME": "weapon-detector-test",
            "MLFLOW_PORT": str(self.tracker_port),
            "API_PORT": str(self.api_port),
            "WEB_PORT": str(self.web_port),
            "API_WATCH_SECONDS": "1",
        }
        self.tracker_uri = f"http://127.0.0.1:{self.tracker_port}"
        self.api_url = f"http://127.0.0.1:{self.api_port}"
        self.web_url = f"http://127.0.0.1:{self.web_port}"

    def compose(self, *arguments: str, files: tuple[str, ...] = (DEMO,)) -> str:
        """Run docker compose on files, in a project of the tests' own."""
        project = "weapon-detector-test-tracker" if files[0] == TRACKER else "weapon-detector-test"
        chosen = [word for file in files for word in ("-f", file)]
        return run("docker", "compose", "-p", project, *chosen, *arguments, env=self.env)

    def tracker(self, *arguments: str) -> str:
        """Run docker compose on the tracker's file."""
        return self.compose(*arguments, files=(TRACKER,))

    def model(self) -> dict[str, Any]:
        """What GET /model answers."""
        answer: dict[str, Any] = requests.get(f"{self.api_url}/model", timeout=LONGEST_S).json()
        return answer

    def registered(self) -> list[str]:
        """Versions that the tracker knows."""
        address = f"{self.tracker_uri}/api/2.0/mlflow/model-versions/search"
        found = requests.get(address, timeout=LONGEST_S).json().get("model_versions", [])
        return [version["version"] for version in found]

    def take_down(self) -> None:
        """Remove everything, volumes included."""
        with contextlib.suppress(AssertionError):
            self.compose("down", "--volumes", "--remove-orphans", "-t", "5", files=(DEMO, SCALE))
        with contextlib.suppress(AssertionError):
            self.tracker("--profile", "*", "down", "--volumes", "--remove-orphans", "-t", "5")


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers")
    with local_wheels() as build:
        stack = Stack(build)
        try:
            stack.tracker("up", "--build", "-d", "--wait")
            stack.compose("up", "--build", "-d", "--wait")
            yield stack
        finally:
            stack.take_down()


@pytest.fixture
def photo(tmp_path) -> Path:
    picture = Image.new("RGB", (320, 240), "white")
    ImageDraw.Draw(picture).rectangle((80, 60, 200, 180), fill="navy")
    picture.save(tmp_path / "drawn.jpg")
    return tmp_path / "drawn.jpg"


def predict(stack: Stack, photo: Path) -> dict[str, Any]:
    files = {"file": (photo.name, io.BytesIO(photo.read_bytes()), "image/jpeg")}
    answer = requests.post(f"{stack.api_url}/predict", files=files, timeout=LONGEST_S)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


# These run in the order written: each goes on from what the one before left.


@pytest.mark.compose
def test_without_a_registered_model_the_starter_is_served_and_says_so(stack, photo):
    served = stack.model()
    assert served["model"] == {"name": "weapon-detector", "version": None, "alias": None}
    assert served["source"] == "/app/weights/starter"
    assert predict(stack, photo)["results"][0]["image_size"] == {"width": 320, "height": 240}


@pytest.mark.compose
def test_a_model_registered_from_the_host_is_served_within_seconds(stack, photo, tmp_path):
    env = {**stack.env, "MLFLOW_TRACKING_URI": stack.tracker_uri}
    run(sys.executable, "registry.py", "import", "weights/starter", env=env)
    wait_for(
        lambda: stack.model()["model"] == {"name": "weapon-detector", "version": "1", "alias": "champion"}
    )
    assert predict(stack, photo)["model"]["version"] == "1"


@pytest.mark.compose
@pytest.mark.browser
def test_a_photo_on_the_page_in_a_browser_is_answered(stack, photo):
    from selenium import webdriver
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        # The page may replace an element between finding it and asking about it: then look again.
        wait = WebDriverWait(browser, LONGEST_S, ignored_exceptions=(StaleElementReferenceException,))
        browser.get(stack.web_url)
        wait.until(lambda page: page.find_element(By.CSS_SELECTOR, "input[type=file]")).send_keys(str(photo))
        wait.until(expected_conditions.text_to_be_present_in_element((By.TAG_NAME, "body"), photo.name))
        wait.until(
            lambda page: any(each.size["width"] > 200 for each in page.find_elements(By.TAG_NAME, "img"))
        )


@pytest.mark.compose
def test_containers_run_without_root_on_a_read_only_disk(stack):
    assert stack.compose("exec", "-T", "api", "id", "-u").strip() == "10001"
    touched = stack.compose("exec", "-T", "api", "sh", "-c", "touch /app/x 2>&1 || true")
    assert "Read-only file system" in touched
    assert "no torch" in stack.compose(
        "exec", "-T", "web", "sh", "-c", "python -c 'import torch' 2>/dev/null || echo no torch"
    )


@pytest.mark.compose
def test_a_restart_of_tracker_and_api_loses_nothing(stack, photo):
    stack.tracker("restart", "-t", "5", "tracker")
    stack.compose("restart", "-t", "5", "api")
    wait_for(lambda: requests.get(f"{stack.api_url}/ready", timeout=LONGEST_S).status_code == 200)
    wait_for(lambda: stack.model()["model"]["version"] == "1")


@pytest.mark.compose
def test_new_containers_find_runs_and_models_again(stack, photo):
    stack.tracker("up", "-d", "--force-recreate", "--wait")
    stack.compose("up", "-d", "--force-recreate", "--wait")
    assert wait_for(stack.registered) == ["1"]
    wait_for(lambda: stack.model()["model"]["version"] == "1")
    assert predict(stack, photo)["model"]["alias"] == "champion"


@pytest.mark.compose
def test_three_apis_share_the_requests_behind_one_address(stack, photo):
    ensure_image("haproxy:3.0-alpine", package="haproxy")
    stack.compose("up", "-d", "--wait", "--scale", "api=3", files=(DEMO, SCALE))
    wait_for(lambda: requests.get(f"{stack.api_url}/ready", timeout=LONGEST_S).status_code == 200)
    for _ in range(12):
        predict(stack, photo)
    logs = [run("sh", "-c", f"docker logs {name} 2>&1") for name in api_containers(stack)]
    assert [log.count('"route": "/predict"') > 0 for log in logs] == [True] * 3
    run("docker", "stop", "-t", "5", api_containers(stack)[0])
    for _ in range(6):
        predict(stack, photo)  # two are left, and nobody notices


def api_containers(stack: Stack) -> list[str]:
    listed = stack.compose("ps", "-q", "api", files=(DEMO, SCALE))
    return listed.split()


def ensure_image(name: str, *, package: str) -> None:
    """Have an image under that name: pulled, or where no registry is reached built from Debian's package."""
    if subprocess.run(["docker", "image", "inspect", name], capture_output=True).returncode == 0:
        return
    if subprocess.run(["docker", "pull", "-q", name], capture_output=True, timeout=LONGEST_S).returncode == 0:
        return
    recipe = (
        "FROM python:3.11-slim\n"
        f"RUN apt-get update && apt-get install -y --no-install-recommends {package}\n"
        'CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]\n'
    )
    built = subprocess.run(["docker", "build", "-t", name, "-"], input=recipe, text=True, capture_output=True)
    assert built.returncode == 0, built.stderr
