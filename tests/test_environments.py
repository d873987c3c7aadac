"""Each image's requirement list is enough: an environment with nothing else does the image's job.

What is installed, which files are there and what is started comes from the Dockerfiles.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import requests
from conftest import LONGEST_S, answers, free_port, running, wait_until

from detection.card import read_card, write_card
from tests.fake_api import FakeApi, detection
from tracking import champion, logged_model

ROOT = Path(__file__).parents[1]
PHOTO = ROOT / "photos" / "01-pistol-in-a-hand.jpg"


# --- what a Dockerfile says -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Recipe:
    """What one image is made of.

    Attributes:
        installs: arguments of pip install, in order.
        copies: patterns of the files that it holds.
        command: what it starts.
    """

    installs: tuple[tuple[str, ...], ...]
    copies: tuple[str, ...]
    command: tuple[str, ...]

    @property
    def lists(self) -> str:
        """The requirement lists, for a message."""
        return ", ".join(word for install in self.installs for word in install if word.endswith(".txt"))


def stages(dockerfile: str) -> dict[str, list[str]]:
    """Name of a stage (or "") -> its instructions, with those of the stage that it goes on from."""
    text = re.sub(r"^#.*\n", "", (ROOT / dockerfile).read_text(), flags=re.M).replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    name = ""
    for line in text.splitlines():
        if start := re.fullmatch(r"FROM (\S+)(?: AS (\S+))?", line):
            name = start[2] or ""
            found[name] = list(found.get(start[1], []))
        elif name in found:
            found[name].append(line)
    return found


# Of pip's arguments: not those that say where wheels are, which only the build knows.
OF_PROJECT = re.compile(r"(?<!\S)(?:/tmp/)?(--no-deps|-r|-c|(?<=/tmp/)\S+)(?!\S)")


def recipe(dockerfile: str, target: str = "") -> Recipe:
    """Return what the image of a Dockerfile's stage is made of."""
    all_stages = stages(dockerfile)
    lines = all_stages[target]
    builder = next(
        found[1] for line in lines if (found := re.match(r"COPY (?:--link )?--from=(\S+) /venv", line))
    )
    installs = re.findall(r"pip install ([^&\n]*)", "\n".join(all_stages[builder]))
    copies = [line.split()[1:-1] for line in lines if re.match(r"COPY (?!--)", line)]
    command = [line for line in lines if re.match("CMD|ENTRYPOINT", line)][-1]
    return Recipe(
        installs=tuple(tuple(re.findall(OF_PROJECT, install)) for install in installs),
        copies=tuple(pattern for each in copies for pattern in each),
        command=tuple(json.loads(command.partition(" ")[2])),
    )


def test_a_recipe_is_what_the_dockerfile_says():
    train = recipe("Dockerfile.api", "train")
    assert train.installs == (
        ("-r", "requirements/api.txt", "-c", "requirements/api.lock"),
        ("-r", "requirements/api-torch.txt", "-c", "requirements/api-torch.lock"),
        ("--no-deps", "-r", "requirements/detecto.txt"),
        ("-r", "requirements/train.txt", "-c", "requirements/train.lock"),
    )
    assert "fonts/" in train.copies
    assert train.command == ("python", "train.py")
    assert recipe("Dockerfile.api", "api").installs == train.installs[:1]
    assert recipe("Dockerfile.api", "api-torch").installs == train.installs[:3]
    assert recipe("Dockerfile.api", "api-torch").copies == recipe("Dockerfile.api", "api").copies
    assert recipe("Dockerfile.tracker").copies == ()


def test_an_import_that_fails_is_named_with_its_line_wherever_it_stands(tmp_path):
    (tmp_path / "program.py").write_text("import part\n")
    (tmp_path / "part.py").write_text("import json\n\n\ndef later():\n    from absent_package import thing\n")
    (tmp_path / "other.py").write_text("import another_absent_package\n")
    script = [sys.executable, str(ROOT / "tests" / "bare_imports.py"), "program.py"]
    said = subprocess.run(script, cwd=tmp_path, text=True, capture_output=True, check=True).stdout
    assert said == "part.py, line 5: from absent_package import thing: No module named 'absent_package'\n"


# --- a bare environment ---------------------------------------------------------------------------------


class Bare:
    """A virtual environment with one image's packages, and a folder with the image's files."""

    def __init__(self, folder: Path) -> None:
        self.venv, self.work = folder / "venv", folder / "app"
        self.python = str(self.venv / "bin" / "python")
        self.installed: tuple[tuple[str, ...], ...] = ()

    def become(self, wanted: Recipe) -> None:
        """Install what wanted installs; what begins as the one before goes on from it, as in a build."""
        shutil.rmtree(self.work, ignore_errors=True)
        if not self.installed or wanted.installs[: len(self.installed)] != self.installed:
            shutil.rmtree(self.venv, ignore_errors=True)
            self.installed = ()
            subprocess.run([sys.executable, "-m", "venv", str(self.venv)], check=True)
        for install in wanted.installs[len(self.installed) :]:
            # Byte code only for what is imported: all of this is gone in minutes.
            self.run("-m", "pip", "install", "--quiet", "--no-compile", *install, folder=ROOT)
            self.installed += (install,)
        for pattern in wanted.copies:
            self._copy(pattern)

    def _copy(self, pattern: str) -> None:
        """Copy files into the work folder as COPY does."""
        self.work.mkdir(exist_ok=True)
        for path in ROOT.glob(pattern.rstrip("/")):
            if path.is_dir():
                ignored = shutil.ignore_patterns("__pycache__")
                shutil.copytree(path, self.work / path.name, ignore=ignored)
            else:
                shutil.copy(path, self.work)

    def run(self, *arguments: str, folder: Path | None = None, **environment: str) -> str:
        """Run this environment's Python; return what it printed, or fail with it."""
        ended = subprocess.run(
            [self.python, *arguments], cwd=folder or self.work, env={**os.environ, **environment}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=6 * LONGEST_S,
        )  # fmt: skip
        said = f"in an environment of {self.installed}\n{' '.join(arguments)}\n{ended.stdout[-6000:]}"
        assert ended.returncode == 0, said
        return ended.stdout

    def server(
        self, *arguments: str, ready: str | Callable[[], object], **environment: str
    ) -> contextlib.AbstractContextManager[object]:
        """Keep a server of this environment's Python up; ready is what is true, or answers, once it is."""
        self.work.mkdir(exist_ok=True)
        return running(
            (self.python, *arguments), self.work / "log.txt", cwd=self.work,
            ready=(lambda: answers(ready)) if isinstance(ready, str) else ready, **environment,
        )  # fmt: skip


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bare]:
    """One environment at a time: with PyTorch it takes 6 GB."""
    folder = tmp_path_factory.mktemp("bare")
    with pytest.MonkeyPatch.context() as environment:
        environment.delenv("PYTHONPATH", raising=False)  # nothing else is to be seen in a bare one
        environment.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
        yield Bare(folder)
    shutil.rmtree(folder)


def imports_everything(bare: Bare, wanted: Recipe, *programs: str, unused: str = "nothing") -> None:
    """Import all that the programs and their modules import anywhere, but for messages with unused."""
    ended = subprocess.run(
        [bare.python, str(ROOT / "tests" / "bare_imports.py"), *programs], cwd=bare.work,
        text=True, capture_output=True, timeout=6 * LONGEST_S,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr[-3000:]
    failed = [line for line in ended.stdout.splitlines() if not re.search(unused, line)]
    assert failed == [], f"{wanted.lists} lacks a package"


def holds_only_what_is_locked(bare: Bare, wanted: Recipe) -> None:
    """Every package installed has the version of the lock, or of a list installed without dependencies."""
    pinned = {line.split()[0].lower().replace("_", "-")
              for install in wanted.installs for file in install if file.endswith((".lock", "detecto.txt"))
              for line in (ROOT / file).read_text().splitlines() if "==" in line.split("#")[0]}  # fmt: skip
    frozen = bare.run("-m", "pip", "freeze", folder=ROOT).split("\n")
    installed = {line.lower().replace("_", "-") for line in frozen if "==" in line}
    assert installed
    assert sorted(installed - pinned) == [], f"not in the lock of {wanted.lists}: make lock"


# The order saves installations: PyTorch's environments go on from the API's, as in Dockerfile.api.


@pytest.mark.bare
def test_the_pages_list_is_enough_for_a_photo_on_the_page(bare):
    wanted = recipe("Dockerfile.web")
    bare.become(wanted)
    imports_everything(bare, wanted, wanted.command[-1])
    show = (
        "import sys, pathlib, streamlit.testing.v1 as testing\n"
        f"app = testing.AppTest.from_file({wanted.command[-1]!r}, default_timeout=600).run()\n"
        "photo = ('photo.jpg', pathlib.Path(sys.argv[1]).read_bytes(), 'image/jpeg')\n"
        "app.file_uploader(key='uploads_0').set_value([photo])\n"
        "app.run()\n"
        "print([each.value for each in app.exception] or [each.proto.body for each in app.get('html')])\n"
    )
    with FakeApi([detection("pistol", 0.91, 10, 20, 50, 80)]) as api:
        said = bare.run("-c", show, str(PHOTO), API_URL=api.url)
    assert "POSSIBLE WEAPON: pistol" in said
    holds_only_what_is_locked(bare, wanted)


@pytest.mark.bare
def test_the_trackers_list_is_enough_for_a_server_with_either_store(bare, tmp_path):
    wanted = recipe("Dockerfile.tracker")
    bare.become(wanted)
    port = free_port()
    command = [{"0.0.0.0": "127.0.0.1", "5000": str(port)}.get(word, word) for word in wanted.command[1:]]
    stores = {
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{tmp_path}/mlflow.db",
        "MLFLOW_ARTIFACTS_DESTINATION": str(tmp_path / "artifacts"),
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    uri = f"http://127.0.0.1:{port}"
    experiments = f"{uri}/api/2.0/mlflow/experiments"
    with bare.server(*command, ready=f"{uri}/health", **stores):
        made = requests.post(f"{experiments}/create", json={"name": "bare"}, timeout=LONGEST_S)
        assert made.status_code == 200, made.text
        name = {"experiment_name": "bare"}
        found = requests.get(f"{experiments}/get-by-name", params=name, timeout=LONGEST_S).json()
        assert found["experiment"]["experiment_id"] == made.json()["experiment_id"]
    use_others = (
        "import sqlalchemy, boto3\n"
        "sqlalchemy.create_engine('postgresql+psycopg://mlflow:x@127.0.0.1/mlflow')\n"
        "boto3.client('s3', region_name='us-east-1')\n"
    )
    bare.run("-c", use_others)
    holds_only_what_is_locked(bare, wanted)


@pytest.mark.bare
def test_the_watchers_list_is_enough_for_an_alarm_that_is_kept(bare, tmp_path):
    wanted = recipe("Dockerfile.watch")
    bare.become(wanted)
    imports_everything(bare, wanted, wanted.command[-1])
    pictures, events = tmp_path / "frames", str(tmp_path / "events.db")
    pictures.mkdir()
    for i in range(3):
        shutil.copy(PHOTO, pictures / f"{i}.jpg")
    (tmp_path / "cameras.toml").write_text(f'[[camera]]\nname = "till"\naddress = "{pictures}"\n')
    settings = {"WATCH_CAMERAS": str(tmp_path / "cameras.toml"), "WATCH_EVENTS": events}
    with FakeApi([detection("pistol", 0.91, 10, 20, 50, 80)]) as api:
        assert "camera till" in bare.run(*wanted.command[1:], "check", API_URL=api.url, **settings)
        said = bare.run(*wanted.command[1:], "--dry-run", str(pictures), API_URL=api.url)
        assert "possible weapon, a person must confirm: pistol" in said
        with bare.server(
            *wanted.command[1:], ready=lambda: "alarm" in bare.run("watch.py", "list", **settings),
            API_URL=api.url, **settings,
        ):  # fmt: skip
            pass
    holds_only_what_is_locked(bare, wanted)


def served_photo(bare: Bare, wanted: Recipe, **settings: str) -> dict[str, Any]:
    """Send a photo with a pistol through the real server; return what /model says."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    variables = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "MODEL_DIR": "weights/starter", **settings}
    with bare.server(*wanted.command[1:], ready=f"{url}/ready", **variables):
        assert_answers(url)
        assert requests.get(f"{url}/metrics", timeout=LONGEST_S).ok
        assert requests.get(f"{url}/docs", timeout=LONGEST_S).ok
        model: dict[str, Any] = requests.get(f"{url}/model", timeout=LONGEST_S).json()
    return model


def assert_answers(url: str) -> None:
    """See that the API finds the pistol."""
    files = {"file": (PHOTO.name, PHOTO.read_bytes(), "image/jpeg")}
    answer = requests.post(f"{url}/predict", files=files, timeout=LONGEST_S)
    assert answer.status_code == 200, answer.text
    assert "pistol" in {each["label"] for each in answer.json()["results"][0]["detections"]}


# Only a training run measures the machine; only a model without exports, or a card, wants PyTorch.
MEASURES, WITH_PYTORCH = "mlflow.system_metrics", "No module named '(torch|torchvision|detecto|safetensors)'"


@pytest.mark.bare
def test_the_apis_list_is_enough_for_a_photo_through_the_real_server(bare):
    wanted = recipe("Dockerfile.api", "api")
    bare.become(wanted)
    imports_everything(bare, wanted, wanted.command[-1], unused=f"{MEASURES}|{WITH_PYTORCH}")
    assert served_photo(bare, wanted)["runtime"]["name"] == "openvino"
    holds_only_what_is_locked(bare, wanted)


@pytest.mark.bare
def test_without_pytorch_a_version_without_an_export_is_said_and_the_one_before_goes_on(
    bare, tracker_uri, tmp_path
):
    wanted = recipe("Dockerfile.api", "api")
    bare.become(wanted)
    starter = ROOT / "weights" / "starter"
    about: dict[str, str] = {"name": "exported-or-not", "experiment": "exports", "tracking_uri": tracker_uri}
    logged_model.import_folder(starter, **about)
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    settings = {"API_HOST": "127.0.0.1", "API_PORT": str(port), "MODEL_NAME": about["name"]}
    settings |= {"MLFLOW_TRACKING_URI": tracker_uri, "API_WATCH_SECONDS": "1"}

    def model() -> dict[str, Any]:
        answer: dict[str, Any] = requests.get(f"{url}/model", timeout=LONGEST_S).json()
        return answer

    with bare.server(*wanted.command[1:], ready=f"{url}/ready", **settings):
        without = shutil.copytree(starter, tmp_path / "without")
        write_card(without, read_card(without).model_copy(update={"exports": ()}))
        assert logged_model.import_folder(without, **about)[0].version == "2"
        champion.promote(about["name"], "2", tracking_uri=tracker_uri, why="a test", force=True)
        trouble = wait_until(lambda: model()["watch_error"])
        assert trouble.startswith(
            "version 2 cannot be served: PyTorch is not installed here. Where PyTorch is"
        )
        assert "python registry.py export FOLDER --format openvino --data" in trouble
        assert model()["model"]["version"] == "1"
        assert_answers(url)


@pytest.mark.bare
def test_the_list_with_pytorch_is_enough_for_a_photo_without_any_export(bare):
    wanted = recipe("Dockerfile.api", "api-torch")
    bare.become(wanted)
    imports_everything(bare, wanted, wanted.command[-1], unused=MEASURES)
    assert served_photo(bare, wanted, API_RUNTIME="torch")["runtime"]["name"] == "torch"
    holds_only_what_is_locked(bare, wanted)


@pytest.mark.bare
def test_the_trainers_list_is_enough_for_two_steps_that_register(bare, tmp_path):
    wanted = recipe("Dockerfile.api", "train")
    bare.become(wanted)
    imports_everything(bare, wanted, wanted.command[-1], "evaluate.py", "dataset.py", "registry.py")
    data, output = str(tmp_path / "drawn"), tmp_path / "run"
    store = {"MLFLOW_TRACKING_URI": f"sqlite:///{tmp_path}/mlflow.db"}
    bare.run("dataset.py", "synth", data, "--train", "24", "--test", "6")
    two_steps = ["--epochs", "1", "--limit", "8", "--batch-size", "4"]
    arguments = ["--preset", "smoke", "--data", data, "--output", str(output), *two_steps]
    bare.run(*wanted.command[1:], *arguments, **store)
    assert "champion" in bare.run("registry.py", "list", **store)
    report = str(tmp_path / "report")
    bare.run("evaluate.py", "--model", str(output / "best"), "--data", data, "--output", report, **store)
    holds_only_what_is_locked(bare, wanted)
