"""Each process has a requirements file that names what it imports, and the page's no torch."""

from __future__ import annotations

import ast
import importlib.metadata
import re
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = {path.stem for path in ROOT.glob("*.py")}
# file -> what is run where only that file is installed
PROGRAMS = {
    "requirements-web.txt": ["web"],
    "requirements-api.txt": ["mlapi"],
    "requirements-train.txt": ["train", "evaluate"],
    "requirements.txt": ["demo", "dataset", "web", "mlapi", "train", "evaluate"],
}
# Distributions whose import name is another package's, or which come with the one named.
COMES_WITH = {"starlette": "fastapi", "dotenv": "pydantic-settings", "mlflow": "mlflow-skinny", "cv2": ""}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(file: str) -> set[str]:
    """The distributions that a requirements file names, with those it includes."""
    names: set[str] = set()
    for line in (ROOT / file).read_text().splitlines():
        line = line.partition("#")[0].strip()
        if line.startswith("-r "):
            names |= named(line.removeprefix("-r ").strip())
        elif line:
            names.add(normal(re.split(r"[\[<>=!~; ]", line)[0]))
    return names


@cache
def imports(module: str) -> frozenset[str]:
    tree = ast.parse((ROOT / f"{module}.py").read_text())
    names = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    return frozenset(name.split(".")[0] for name in names) - {"__future__"}


def reachable(module: str, seen: frozenset[str] = frozenset()) -> frozenset[str]:
    """Project modules that a program imports, itself included."""
    seen |= {module}
    for other in imports(module) & PROJECT - seen:
        seen |= reachable(other, seen)
    return seen


packages_distributions = cache(importlib.metadata.packages_distributions)  # a second each time


def distributions(package: str) -> set[str]:
    known = packages_distributions().get(package, [package])
    return {normal(name) for name in known} | {COMES_WITH.get(package, package)}


@pytest.mark.parametrize(
    ("file", "program"), [(file, program) for file, programs in PROGRAMS.items() for program in programs]
)
def test_a_requirements_file_names_every_package_its_program_imports(file, program):
    packages = {name for module in reachable(program) for name in imports(module)}
    foreign = packages - PROJECT - set(sys.stdlib_module_names)
    available = named(file) | named("requirements-detecto.txt")
    missing = sorted(package for package in foreign if not distributions(package) & available)
    assert missing == [], f"add to {file}"


def test_the_page_is_installed_without_a_network_library():
    assert not named("requirements-web.txt") & {"torch", "torchvision", "detecto", "mlflow", "mlflow-skinny"}


def test_detecto_is_installed_by_itself_and_what_it_imports_stands_beside():
    wanted = {
        normal(re.split(r"[<>=!~; ]", line)[0]) for line in importlib.metadata.requires("detecto") or []
    }
    assert wanted - {"opencv-python"} <= named("requirements-api.txt")
    assert "opencv-python-headless" in named("requirements-api.txt")
