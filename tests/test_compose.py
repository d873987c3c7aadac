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

import numpy as np
import pytest
import requests
import yaml
from conftest import LONGEST_S, free_port, wait_until
from PIL import Image, ImageDraw

from cameras.config import load_cameras, of_shard
from commands import train_config
from settings import WatchSettings
from tests.cameras.camera_parts import write_video

ROOT = Path(__file__).parents[1]
TRACKER, DEMO, SCALE = "mlflow_tracker.compose.yaml", "streamlit.compose.yaml", "deploy/scale.compose.yaml"
CARD = "deploy/gpu.api.compose.yaml"
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


@pytest.mark.parametrize(("file", "name"), [each for each in OURS if each[1] != "bucket"])
def test_our_containers_end_when_told_and_fill_no_disk_with_their_log(file, name):
    service = services(file)[name]
    assert service["init"] is True
    assert service["logging"]["options"]["max-size"]
    assert name != "api" or service["stop_grace_period"] == "40s"


@pytest.mark.parametrize("file", [TRACKER, DEMO, SCALE])
def test_no_secret_stands_in_a_compose_file(file):
    """Each comes from the shell or .env, which neither Git nor an image takes along."""
    given = [each.get("environment", {}) for each in services(file).values()]
    secrets = {
        name: value
        for variables in given
        for name, value in variables.items()
        if re.search("PASSWORD|SECRET|KEY", name)
    }
    assert all(value is None or re.fullmatch(r"\$\{\w+:-(false)?\}", value) for value in secrets.values())
    assert "/.env" in (ROOT / ".gitignore").read_text().splitlines()
    copied = (ROOT / ".dockerignore").read_text()
    assert "\n*\n" in copied
    assert ".env" not in re.findall("^!(.*)$", copied, flags=re.M)


@pytest.mark.parametrize("file", [TRACKER, DEMO, SCALE])
def test_published_ports_are_this_machines_only_unless_asked(file):
    """And each on its own: who shows the page to others shows neither the tracker nor the API."""
    ports = [port for service in services(file).values() for port in service.get("ports", [])]
    assert ports
    for port in ports:
        name = re.fullmatch(r"\$\{(\w+)_BIND_ADDRESS:-127\.0\.0\.1\}:\$\{(\w+)_PORT:-\d+\}:\d+", port)
        assert name, port
        assert name[1] == name[2]


@pytest.mark.parametrize("name", ["api", "tracker", "watch", "web"])
def test_images_run_as_a_user_with_a_health_check_and_a_given_base(name):
    lines = (ROOT / f"Dockerfile.{name}").read_text().splitlines()
    assert [line for line in lines if line.startswith("USER")][-1] == "USER 10001"
    assert any(line.startswith("HEALTHCHECK") for line in lines)
    assert re.fullmatch(r"python:3\.11\.\d+-slim-\w+", base_image(f"Dockerfile.{name}"))
    assert not any("curl" in line for line in lines)  # slim images have none


def test_what_people_talk_to_has_no_way_to_the_tracker():
    """Which has no accounts. Only the API, which loads models, is on its network and on the page's."""
    assert services(DEMO)["web"]["networks"] == services(SCALE)["proxy"]["networks"] == ["page"]
    assert services(DEMO)["watch"]["networks"] == ["page"]
    assert set(services(DEMO)["api"]["networks"]) == {"weapon-detector", "page"}
    assert not any("page" in each.get("networks", ()) for each in services(TRACKER).values())


def test_the_api_comes_without_pytorch_unless_asked_for_and_a_graphics_card_asks():
    """Each image under its own name, so that one is not taken for the other."""
    usual, with_card = services(DEMO)["api"], services(CARD)["api"]
    assert usual["build"]["target"] == "${API_IMAGE:-api}"
    assert usual["image"] == "weapon-detector-${API_IMAGE:-api}"
    assert with_card["build"]["target"] == "api-torch"
    assert with_card["image"] == "weapon-detector-api-torch"


def test_the_page_waits_until_the_api_is_healthy():
    assert services(DEMO)["web"]["depends_on"] == {"api": {"condition": "service_healthy"}}


def test_cameras_are_watched_only_if_asked_for_with_their_file_read_and_events_in_a_volume():
    watch = services(DEMO)["watch"]
    assert watch["profiles"] == ["cameras"]
    assert watch["depends_on"] == {"api": {"condition": "service_healthy"}}
    events, cameras = watch["volumes"]
    assert events == f"events:{watch['working_dir']}"  # where the image's user may write
    assert f"app {watch['working_dir']}" in (ROOT / "Dockerfile.watch").read_text()
    assert (cameras["target"], cameras["read_only"]) == (watch["environment"]["WATCH_CAMERAS"], True)
    assert watch["environment"]["WATCH_EVENTS"] is None  # nothing is kept unless a person says so


def test_the_page_reviews_the_events_that_the_watcher_keeps():
    web, watch = services(DEMO)["web"], services(DEMO)["watch"]
    assert watch["volumes"][0] in web["volumes"]
    assert web["working_dir"] == watch["working_dir"]  # WATCH_EVENTS=events.db is one file for both
    assert web["environment"]["WATCH_EVENTS"] is None
    assert web["command"] == ["python", "/app/web.py"]
    assert f"app /feedback {web['working_dir']}" in (ROOT / "Dockerfile.web").read_text()


def test_the_watchers_container_gets_each_of_its_settings_and_cameras_passwords_from_no_others_file():
    watch = services(DEMO)["watch"]
    of_one_camera = {"WATCH_ADDRESS"}
    named = {f"WATCH_{name}".upper() for name in WatchSettings.model_fields if not name.startswith("api_")}
    assert {name for name in watch["environment"] if name.startswith("WATCH_")} == named - of_one_camera
    assert [each["path"] for each in watch["env_file"]] == ["cameras.env"]
    assert {"/cameras.env", "/cameras.toml"} <= set((ROOT / ".gitignore").read_text().splitlines())


def kubernetes_watcher() -> dict[str, Any]:
    documents = yaml.safe_load_all((ROOT / "deploy/kubernetes/cameras/watch.yaml").read_text())
    return next(each["spec"] for each in documents if each["kind"] == "StatefulSet")


def test_kubernetes_gives_each_camera_to_exactly_one_of_two_shards(tmp_path):
    text = (ROOT / "deploy/kubernetes/cameras/cameras.yaml").read_text()
    written = yaml.safe_load(text)["data"]["cameras.toml"]
    path = tmp_path / "cameras.toml"
    path.write_text(written)
    cameras = load_cameras(path, {"TILL_USER": "a", "TILL_PASSWORD": "b"})
    watcher = kubernetes_watcher()
    (container,) = watcher["template"]["spec"]["containers"]
    given = {each["name"]: each.get("value") for each in container["env"]}
    numbers = range(watcher["ordinals"]["start"], watcher["ordinals"]["start"] + watcher["replicas"])
    shards = [given["WATCH_SHARD"].replace("$(POD_NUMBER)", str(number)) for number in numbers]
    assert shards == ["1/2", "2/2"]
    shared = [of_shard(cameras, shard) for shard in shards]
    assert all(shared)
    assert sorted(each.name for part in shared for each in part) == sorted(each.name for each in cameras)


def test_kubernetes_names_settings_that_there_are_and_starts_a_watcher_that_hangs_anew():
    (container,) = kubernetes_watcher()["template"]["spec"]["containers"]
    named = {f"WATCH_{name}".upper() for name in WatchSettings.model_fields}
    assert {each["name"] for each in container["env"]} <= named | {"POD_NUMBER", "API_URL", "API_KEY"}
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    written = {mount["mountPath"] for mount in container["volumeMounts"] if not mount.get("readOnly")}
    assert written == {"/events", "/tmp"}


def test_kubernetes_asks_the_api_for_life_and_readiness_apart():
    documents = list(yaml.safe_load_all((ROOT / "deploy/kubernetes/api.yaml").read_text()))
    container = documents[0]["spec"]["template"]["spec"]["containers"][0]
    assert container["livenessProbe"]["httpGet"]["path"] == "/health"
    assert container["readinessProbe"]["httpGet"]["path"] == "/ready"


@pytest.mark.parametrize(
    "name", ["deploy/kubernetes", "deploy/kubernetes/cameras", "deploy/kubernetes/training"]
)
def test_kustomization_names_every_file_beside_it(name):
    folder = ROOT / name
    named = yaml.safe_load((folder / "kustomization.yaml").read_text())["resources"]
    assert sorted(named) == sorted(
        path.name for path in folder.glob("*.yaml") if path.stem != "kustomization"
    )


def test_kubernetes_trains_with_flags_that_there_are_on_the_runtime_beside_it():
    folder = ROOT / "deploy/kubernetes/training"
    job, runtime, claim = (
        yaml.safe_load((folder / f"{name}.yaml").read_text()) for name in ("job", "runtime", "data")
    )
    trainer = job["spec"]["trainer"]
    assert trainer["command"] == ["torchrun", "train.py"]
    config = train_config(trainer["args"])
    assert job["spec"]["runtimeRef"]["kind"] == runtime["kind"]
    assert job["spec"]["runtimeRef"]["name"] == runtime["metadata"]["name"]
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    pod = replicated["template"]["spec"]["template"]["spec"]
    mounted = {mount["name"]: mount["mountPath"] for mount in pod["containers"][0]["volumeMounts"]}
    assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert all(path.is_relative_to(mounted["data"]) for path in (*config.data, config.output))
    # One image in a step for each process: the batch is shared among the machines.
    assert config.batch_size % trainer["numNodes"] == 0


def base_image(dockerfile: str = "Dockerfile.api") -> str:
    """The image that a Dockerfile builds on unless told otherwise."""
    found = re.findall(r"^ARG PYTHON_IMAGE=(.+)$", (ROOT / dockerfile).read_text(), flags=re.M)
    assert len(found) == 1
    return str(found[0])


def test_every_image_is_named_by_its_full_version():
    """A tag that moves would bring another program without any change here."""
    foreign = {
        each["image"] for file in (TRACKER, SCALE) for name, each in services(file).items() if name in FOREIGN
    }
    assert all(re.search(r":(\d+\.\d+(\.\d+)?-|RELEASE\.)", each) for each in foreign), foreign
    assert len({base_image(path.name) for path in ROOT.glob("Dockerfile.*")}) == 1


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
    """Both compose files under names and ports of their own.

    Args:
        name: of the compose project and its network.
        settings: what .env would hold.
    """

    def __init__(self, name: str, settings: dict[str, str]) -> None:
        self.name, self.settings = name, settings
        self.tracker_port, self.api_port, self.web_port = (free_port() for _ in range(3))
        self.env = {
            **os.environ,
            **settings,
            "NETWORK_NAME": name,
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
        project = f"{self.name}-tracker" if files[0] == TRACKER else self.name
        chosen = [word for file in files for word in ("-f", file)]
        return run("docker", "compose", "-p", project, *chosen, *arguments, env=self.env)

    def tracker(self, *arguments: str) -> str:
        """Run docker compose on the tracker's file."""
        return self.compose(*arguments, files=(TRACKER,))

    def model(self) -> dict[str, Any]:
        """What GET /model answers."""
        answer: dict[str, Any] = requests.get(f"{self.api_url}/model", timeout=LONGEST_S).json()
        return answer

    def registered(self, model: str = "weapon-detector") -> list[str]:
        """Versions of a model that the tracker knows."""
        address = f"{self.tracker_uri}/api/2.0/mlflow/model-versions/search"
        found = requests.get(address, params={"filter": f"name='{model}'"}, timeout=LONGEST_S).json()
        return [version["version"] for version in found.get("model_versions", [])]

    def registry(self, *arguments: str) -> str:
        """Run registry.py of this checkout against the tracker."""
        env = {**self.env, "MLFLOW_TRACKING_URI": self.tracker_uri}
        return run(sys.executable, "registry.py", *arguments, env=env)

    def take_down(self) -> None:
        """Remove everything, volumes included."""
        with contextlib.suppress(AssertionError):
            self.compose("down", "--volumes", "--remove-orphans", "-t", "5", files=(DEMO, SCALE))
        with contextlib.suppress(AssertionError):
            self.tracker("--profile", "*", "down", "--volumes", "--remove-orphans", "-t", "5")


@pytest.fixture(scope="module")
def build() -> Iterator[dict[str, str]]:
    """What image builds need on this machine, as .env would say it."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no Docker engine answers")
    with local_wheels() as wheels:
        yield {**wheels, "PYTHON_IMAGE": obtainable_base()}


@pytest.fixture(scope="module")
def stack(build) -> Iterator[Stack]:
    stack = Stack("weapon-detector-test", build)
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
    assert served["runtime"]["name"] == "openvino"
    assert predict(stack, photo)["results"][0]["image_size"] == {"width": 320, "height": 240}


@pytest.mark.compose
def test_the_apis_image_is_small_and_has_no_pytorch(stack):
    image = json.loads(run("docker", "image", "inspect", "weapon-detector-api"))[0]
    assert image["Size"] < 1.2e9
    assert "no torch" in stack.compose(
        "exec", "-T", "api", "sh", "-c", "python -c 'import torch' 2>/dev/null || echo no torch"
    )


@pytest.mark.compose
def test_a_model_registered_from_the_host_is_served_within_seconds(stack, photo, tmp_path):
    stack.registry("import", "weights/starter")
    wait_for(
        lambda: stack.model()["model"] == {"name": "weapon-detector", "version": "1", "alias": "champion"}
    )
    assert predict(stack, photo)["model"]["version"] == "1"


@contextlib.contextmanager
def browsing(url: str) -> Iterator[tuple[Any, Any]]:
    """Open a page in a headless Chromium; yield the browser and what waits in it."""
    from selenium import webdriver
    from selenium.common.exceptions import StaleElementReferenceException
    from selenium.webdriver.support.wait import WebDriverWait

    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"):
        options.add_argument(argument)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.get(url)
        # The page may replace an element between finding it and asking about it: then look again.
        yield browser, WebDriverWait(browser, LONGEST_S, ignored_exceptions=(StaleElementReferenceException,))


@pytest.mark.compose
@pytest.mark.browser
def test_a_photo_on_the_page_in_a_browser_is_answered(stack, photo):
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support import expected_conditions

    with browsing(stack.web_url) as (_, wait):
        wait.until(lambda page: page.find_element(By.CSS_SELECTOR, "input[type=file]")).send_keys(str(photo))
        wait.until(expected_conditions.text_to_be_present_in_element((By.TAG_NAME, "body"), photo.name))
        wait.until(
            lambda page: any(each.size["width"] > 200 for each in page.find_elements(By.TAG_NAME, "img"))
        )


@pytest.mark.compose
@pytest.mark.browser
def test_what_a_watched_clip_shows_comes_to_the_pages_review_tab(stack, tmp_path):
    """The starter's own alarm or doubt: which of the two is not asked here."""
    from selenium.webdriver.common.by import By

    clip, cameras, more = tmp_path / "clip.mp4", tmp_path / "cameras.toml", tmp_path / "clip.compose.yaml"
    weapon = Image.open(ROOT / "photos" / "01-pistol-in-a-hand.jpg").convert("RGB").resize((640, 480))
    write_video(clip, [np.asarray(weapon)] * 20, rate=10, size_wh=weapon.size)
    cameras.write_text('[[camera]]\nname = "till"\naddress = "/clip.mp4"\n')
    more.write_text(yaml.safe_dump({"services": {"watch": {"volumes": [f"{clip}:/clip.mp4:ro"]}}}))
    port = free_port()
    stack.env |= {"WATCH_EVENTS": "events.db", "WATCH_CAMERAS": str(cameras), "WATCH_PORT": str(port)}
    files = (DEMO, str(more))
    stack.compose("--profile", "cameras", "up", "--build", "-d", "--wait", files=files)
    with browsing(f"{stack.web_url}/?tab=Review") as (browser, wait):
        wait.until(lambda page: page.find_element(By.CSS_SELECTOR, "[class*=st-key-review_mat] img"))
        assert "Camera till, " in browser.find_element(By.TAG_NAME, "body").text
    (till,) = requests.get(f"http://127.0.0.1:{port}/status.json", timeout=LONGEST_S).json()["cameras"]
    assert (till["name"], till["reconnects"], till["alarms"] + till["suspicions"]) == ("till", 0, 1)
    said = stack.compose("--profile", "cameras", "logs", "watch", files=files)
    assert "events are kept in sqlite:///events.db for 30 days" in said
    assert "Traceback" not in said
    stack.compose("--profile", "cameras", "rm", "--stop", "--force", "watch", files=files)


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
def test_three_apis_share_the_requests_behind_one_address(build, stack, photo):
    ensure_image(services(SCALE)["proxy"]["image"], HAPROXY.format(base=build["PYTHON_IMAGE"]))
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


@pytest.mark.compose
def test_the_train_service_trains_on_a_folder_of_the_host_and_registers(stack, tmp_path):
    run(sys.executable, "dataset.py", "synth", str(tmp_path / "drawn"), "--train", "24", "--test", "6")
    stack.env["DATA_DIR"] = str(tmp_path / "drawn")
    two_steps = ("--preset", "smoke", "--epochs", "1", "--limit", "8", "--batch-size", "4")
    model = "trained-in-a-container"
    stack.tracker(
        "run", "--rm", "--build", "-T", "train", "--data", "/data", "--model-name", model, *two_steps
    )
    assert stack.registered(model) == ["1"]
    stack.registry("--model-name", model, "export", str(tmp_path / "model"))
    assert (tmp_path / "model" / "weights.safetensors").stat().st_size > 1_000_000


@pytest.fixture
def stack_with_stores(build) -> Iterator[Stack]:
    """A tracker with PostgreSQL and an S3-compatible store, set as .env.example shows."""
    base = build["PYTHON_IMAGE"]
    ensure_image(services(TRACKER)["postgres"]["image"], POSTGRES.format(base=base))
    ensure_image(services(TRACKER)["store"]["image"], S3_STORE.format(base=base))
    shown = (ROOT / ".env.example").read_text().partition("# PostgreSQL and an S3-compatible store")[2]
    settings = dict(re.findall(r"^# ([A-Z][A-Z0-9_]*)=(.*)$", shown, flags=re.M))
    other = Stack("weapon-detector-test-stores", {**build, **settings})
    try:
        other.tracker("up", "--build", "-d")
        wait_for(lambda: requests.get(f"{other.tracker_uri}/health", timeout=LONGEST_S).ok)
        yield other
    finally:
        other.take_down()


@pytest.mark.compose
def test_with_postgresql_and_an_s3_store_a_new_tracker_finds_the_model_again(stack_with_stores, tmp_path):
    stores = stack_with_stores
    stores.registry("import", "weights/starter")
    count = ("psql", "-U", "mlflow", "-tAc", "select count(*) from model_versions")
    assert stores.tracker("exec", "-T", "postgres", *count).strip() == "1"
    list_files = (
        "import boto3\n"
        "for each in boto3.client('s3').list_objects_v2(Bucket='mlflow')['Contents']: print(each['Key'])\n"
    )
    endpoint = f"AWS_ENDPOINT_URL_S3={stores.settings['MLFLOW_S3_ENDPOINT_URL']}"
    files = stores.tracker("exec", "-T", "-e", endpoint, "tracker", "python", "-c", list_files)
    assert "weights.safetensors" in files
    stores.tracker("up", "-d", "--force-recreate", "--no-deps", "tracker")
    wait_for(lambda: stores.registered() == ["1"])
    stores.registry("export", str(tmp_path / "model"))
    kept = (tmp_path / "model" / "weights.safetensors").read_bytes()
    assert kept == (ROOT / "weights" / "starter" / "weights.safetensors").read_bytes()


# What a container does that nobody invited: asks API and tracker, by name and by every address there is.
STRANGER = """
import json, socket, sys, urllib.error, urllib.request
def ask(url, method="GET", body=None, headers={}):
    request = urllib.request.Request(url, body, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.status, str(answer.headers) + answer.read().decode(errors="replace")
    except urllib.error.HTTPError as error:
        return error.code, str(error.headers) + error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)
print(json.dumps([[url, *ask(url, *rest)] for url, *rest in json.loads(sys.argv[1])]))
"""


@pytest.fixture(scope="module")
def stack_with_keys(build) -> Iterator[Stack]:
    """Tracker and API, where the API wants a key."""
    other = Stack("weapon-detector-test-keys", {**build, "API_KEYS": "page:open-sesame-4711"})
    try:
        other.tracker("up", "--build", "-d", "--wait", "tracker")
        other.compose("up", "--build", "-d", "--wait", "api")
        yield other
    finally:
        other.take_down()


def addresses(container: str) -> dict[str, str]:
    """Return a container's address in each of its networks."""
    found = json.loads(run("docker", "inspect", container))[0]["NetworkSettings"]["Networks"]
    return {name: network["IPAddress"] for name, network in found.items()}


def asked_by_a_stranger(
    stack: Stack, network: str, *requests_: tuple[Any, ...]
) -> list[tuple[str, int, str]]:
    """Return address, status (0: no answer) and all the text that a container on that network got."""
    command = ("docker", "run", "--rm", "--network", network, stack.settings["PYTHON_IMAGE"], "python", "-c")
    return [tuple(each) for each in json.loads(run(*command, STRANGER, json.dumps(requests_)))]


@pytest.mark.compose
def test_a_stranger_beside_the_page_gets_nothing_and_learns_no_secret(stack_with_keys):
    stack = stack_with_keys
    tracker = stack.tracker("ps", "-q", "tracker").strip()
    wrong_key = {"X-API-Key": "open-sesame-4712"}
    api = [
        *((f"http://api:8000{path}",) for path in ("/model", "/models", "/metrics")),
        ("http://api:8000/predict", "POST", None),
        ("http://api:8000/model", "GET", None, wrong_key),
    ]
    at_tracker = ["tracker", "mlflow-tracker", *addresses(tracker).values()]
    paths = ("/", "/health", "/api/2.0/mlflow/experiments/search?max_results=9")
    no_way = [(f"http://{host}:5000{path}",) for host in at_tracker for path in paths]
    heard = asked_by_a_stranger(stack, f"{stack.name}_page", *api, *no_way, ("http://api:8000/ready",))
    statuses = [status for _, status, _ in heard]
    assert statuses == [*[401] * len(api), *[0] * len(no_way), 200], heard
    for secret in ("open-sesame", "4711", "tracker:5000", "sqlite"):
        assert not [url for url, _, text in heard if secret in text], secret


@pytest.mark.compose
def test_a_stranger_beside_the_tracker_is_answered_by_its_names_only(stack_with_keys):
    """On its own network too, where whoever calls it by name is answered: see SECURITY.md."""
    stack = stack_with_keys
    [address] = addresses(stack.tracker("ps", "-q", "tracker").strip()).values()
    path = "/api/2.0/mlflow/experiments/search?max_results=9"
    by_address, by_name = asked_by_a_stranger(
        stack, stack.name, (f"http://{address}:5000{path}",), (f"http://tracker:5000{path}",)
    )
    assert (by_address[1], by_name[1]) == (403, 200)


# --- images where no registry is reached ------------------------------------------------------------------

HAPROXY = """
FROM {base}
RUN apt-get update && apt-get install -y --no-install-recommends haproxy
CMD ["haproxy", "-W", "-db", "-f", "/usr/local/etc/haproxy/haproxy.cfg"]
"""
# Debian's PostgreSQL, started as the official image starts it.
POSTGRES = r"""
FROM {base}
RUN apt-get update && apt-get install -y --no-install-recommends postgresql
COPY <<'EOF' /start.sh
set -eu
export PATH=$(echo /usr/lib/postgresql/*/bin):$PATH PGDATA=/var/lib/postgresql/data
as_postgres() {{ setpriv --reuid=postgres --regid=postgres --clear-groups "$@"; }}
install -d -o postgres -g postgres -m 700 $PGDATA
if [ ! -s $PGDATA/PG_VERSION ]; then
    test -n "$POSTGRES_PASSWORD"
    echo "$POSTGRES_PASSWORD" >/tmp/password
    chown postgres /tmp/password
    as_postgres initdb -U "$POSTGRES_USER" --pwfile=/tmp/password --auth-local=trust \
        --auth-host=scram-sha-256 --encoding=UTF8 --locale=C.UTF-8
    echo "host all all all scram-sha-256" >>$PGDATA/pg_hba.conf
    echo "CREATE DATABASE $POSTGRES_DB" | as_postgres postgres --single postgres
fi
exec setpriv --reuid=postgres --regid=postgres --clear-groups postgres -c listen_addresses='*'
EOF
CMD ["sh", "/start.sh"]
"""
# moto's S3 on MinIO's port; what compose gives MinIO as its command means nothing to it.
S3_STORE = """
FROM {base}
RUN python -m venv /venv && /venv/bin/python -m pip install --no-cache-dir "moto[s3,server]>=5,<6"
ENTRYPOINT ["sh", "-c", "exec /venv/bin/moto_server -H 0.0.0.0 -p 9000"]
"""


def obtainable(name: str) -> bool:
    """Whether an image is here or can be pulled."""
    if subprocess.run(["docker", "image", "inspect", name], capture_output=True).returncode == 0:
        return True
    return (
        subprocess.run(["docker", "pull", "-q", name], capture_output=True, timeout=LONGEST_S).returncode == 0
    )


def obtainable_base() -> str:
    """Return the Dockerfiles' base image, or where no registry is reached python:3.11-slim as it is here."""
    return base_image() if obtainable(base_image()) else "python:3.11-slim"


def ensure_image(name: str, recipe: str) -> None:
    """Have an image under that name: pulled, or where no registry is reached built by a recipe."""
    if obtainable(name):
        return
    built = subprocess.run(["docker", "build", "-t", name, "-"], input=recipe, text=True, capture_output=True)
    assert built.returncode == 0, built.stderr
