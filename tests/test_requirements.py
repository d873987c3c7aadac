"""Each process has a requirements file that names what it imports, and the page's no torch."""

from __future__ import annotations

import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from deploy import lock as locks
from docs.import_graph import ROOT, WINGS, code, imports

MODULES = code()
# file -> what is run where only that file is installed
PROGRAMS = {
    "requirements/web.txt": ["web"],
    "requirements/api.txt": ["mlapi"],
    "requirements/api-torch.txt": ["mlapi"],
    "requirements/watch.txt": ["watch"],
    "requirements/train.txt": ["train", "evaluate"],
    "requirements/cluster.txt": ["sweep", "archive"],
    "requirements.txt": ["demo", "dataset", "web", "mlapi", "watch", "train", "evaluate"],
}
# file -> what its programs import only where PyTorch is installed too
NOT_WITHOUT_PYTORCH = {"requirements/api.txt": {"detection.detector", "torch"}}
# Distributions whose import name is another package's, or which come with the one named.
COMES_WITH = {
    "starlette": {"fastapi", "streamlit"},
    "dotenv": {"pydantic-settings"},
    "mlflow": {"mlflow-skinny"},
    "cv2": {""},
}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(file: str) -> set[str]:
    """The distributions that a requirements file names, with those it includes."""
    names: set[str] = set()
    for line in (ROOT / file).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            names |= named(str((ROOT / file).parent / line.removeprefix("-r ").strip()))
        elif line:
            names.add(normal(re.split(r"[\[<>=!~; ]", line)[0]))
    return names


def packages(program: str, left_out: set[str]) -> set[str]:
    """Packages that a program, or what it imports of ours, imports from others."""
    seen, waiting = set[str](), [program]
    while waiting:
        name = waiting.pop()
        if name not in seen and name not in left_out and name.partition(".")[0] not in left_out:
            seen.add(name)
            waiting += imports(MODULES[name]) if name in MODULES else []
    ours = {name.partition(".")[0] for name in MODULES} | set(WINGS) | {"__future__"}
    return {name.partition(".")[0] for name in seen} - ours - set(sys.stdlib_module_names)


packages_distributions = cache(importlib.metadata.packages_distributions)  # a second each time


def distributions(package: str) -> set[str]:
    known = packages_distributions().get(package, [package])
    return {normal(name) for name in known} | COMES_WITH.get(package, {package})


@pytest.mark.parametrize(
    ("file", "program"), [(file, program) for file, programs in PROGRAMS.items() for program in programs]
)
def test_a_requirements_file_names_every_package_its_program_imports(file, program):
    available = named(file) | (named("requirements/detecto.txt") if "torch" in named(file) else set())
    imported = packages(program, NOT_WITHOUT_PYTORCH.get(file, set()))
    missing = sorted(package for package in imported if not distributions(package) & available)
    assert missing == [], f"add to {file}"


def test_the_page_is_installed_without_a_network_library():
    assert not named("requirements/web.txt") & {"torch", "torchvision", "detecto", "mlflow", "mlflow-skinny"}


def test_the_api_for_processors_is_installed_without_what_only_pytorchs_path_needs():
    heavy = {
        "torch",
        "torchvision",
        "detecto",
        "safetensors",
        "pandas",
        "matplotlib",
        "opencv-python-headless",
    }
    assert not named("requirements/api.txt") & heavy
    assert not pins("requirements/api.lock").keys() & heavy


def test_detecto_is_installed_by_itself_and_what_it_imports_stands_beside():
    wanted = {
        normal(re.split(r"[<>=!~; ]", line)[0]) for line in importlib.metadata.requires("detecto") or []
    }
    assert wanted - {"opencv-python"} <= named("requirements/api-torch.txt")
    assert "opencv-python-headless" in named("requirements/api-torch.txt")


# --- locks ------------------------------------------------------------------------------------------------


def pins(lock: str) -> dict[str, str]:
    """Distribution -> version of a lock; every line that is no comment must be such a pair."""
    uncommented = [
        line.partition("#")[0].partition(";")[0] for line in (ROOT / lock).read_text().splitlines()
    ]
    lines = [line.strip() for line in uncommented]  # a marker says where there is no such package
    found = [re.fullmatch(r"([a-z0-9.-]+)==([a-z0-9.]+)", line) for line in lines if line]
    assert None not in found, f"{lock} names more than versions: make lock"
    return {normal(match[1]): match[2] for match in found if match}


def test_every_lock_was_made_from_its_list_as_it_is_now():
    assert locks.stale() == [], "a requirement list changed after its lock was made: make lock"


@pytest.fixture
def lists(tmp_path) -> Path:
    (tmp_path / "requirements").mkdir()
    for path in (ROOT / "requirements.txt", *ROOT.glob("requirements/*")):
        (tmp_path / path.relative_to(ROOT)).write_text(path.read_text())
    return tmp_path


def test_a_requirement_more_makes_the_locks_that_include_its_list_stale(lists):
    with (lists / "requirements/train.txt").open("a") as file:
        file.write("lightning>=2\n")
    stale = ["requirements/everything.lock", "requirements/train.lock", "requirements/cluster.lock"]
    assert locks.stale(lists) == stale


def test_another_bound_makes_a_lock_stale_and_another_comment_does_not(lists):
    path = lists / "requirements/tracker.txt"
    path.write_text("# Other words.\n" + path.read_text())
    assert locks.stale(lists) == []
    path.write_text(path.read_text().replace("boto3>=1.40", "boto3>=1.41"))
    assert locks.stale(lists) == ["requirements/tracker.lock"]


def test_a_lock_that_is_gone_is_stale(lists):
    (lists / "requirements/web.lock").unlink()
    assert locks.stale(lists) == ["requirements/web.lock"]


@pytest.mark.parametrize("lock", locks.LOCKS)
def test_a_lock_pins_a_version_that_its_list_allows_of_all_that_the_list_names(lock):
    pinned = pins(lock)
    for wanted in map(Requirement, locks.requirements(ROOT / locks.LOCKS[lock])):
        assert pinned[normal(wanted.name)] in wanted.specifier, wanted


@pytest.mark.parametrize("lock", [lock for lock in locks.LOCKS if lock != locks.WHOLE])
def test_an_image_gets_the_versions_that_are_tested(lock):
    tested = pins(locks.WHOLE)
    assert {
        name: version for name, version in pins(lock).items() if tested.get(name, version) != version
    } == {}


@pytest.mark.parametrize("path", [*ROOT.glob("Dockerfile.*")], ids=lambda path: path.name)
def test_an_image_installs_each_list_with_its_lock(path):
    installed = re.findall(r"-r /tmp/(requirements/(?!detecto)\S+)\.txt(?: -c /tmp/(\S+))?", path.read_text())
    assert installed
    assert all(lock == f"{name}.lock" for name, lock in installed)
