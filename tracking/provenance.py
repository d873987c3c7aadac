"""Where a run comes from: code, libraries, person, settings and data."""

from __future__ import annotations

import contextlib
import getpass
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Param, RunTag
from mlflow.exceptions import MlflowException

ROOT = Path(__file__).parents[1]
LONGEST_PARAM = 500  # characters; older trackers refuse more. config.json always has the whole
LIBRARIES = ("torch", "torchvision", "detecto", "mlflow", "numpy", "pillow", "safetensors")


def git_commit() -> str:
    """Return the commit of the project's folder, with "-dirty" if files differ from it; "" outside git."""
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--abbrev=40", "--dirty", "--exclude=*"],
            cwd=ROOT, capture_output=True, text=True, check=True, timeout=10,
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError):
        return ""
    return found.stdout.strip()


def library_versions() -> dict[str, str]:
    """Return the versions of the libraries that decide a model's numbers, and of Python."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def who() -> str:
    """Return user@host."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid-{os.getuid()}"
    return f"{user}@{platform.node()}"


def log_config(client: MlflowClient, run_id: str, config: Mapping[str, Any]) -> None:
    """Log config as parameters, and whole as config.json."""
    log_params(client, run_id, config)
    client.log_dict(run_id, dict(config), "config.json")


def log_inputs(client: MlflowClient, run_id: str, given: list[DatasetInput]) -> None:
    """Log the data sets of a run.

    Two runs that log the same data at once can both find it new to MLflow, which then refuses the second;
    by then it is known.
    """
    try:
        client.log_inputs(run_id, given)
    except MlflowException as error:
        if "unique" not in str(error).lower():
            raise
        client.log_inputs(run_id, given)


def log_params(client: MlflowClient, run_id: str, config: Mapping[str, Any]) -> None:
    """Log parameters. MLflow refuses to change one, so what a resumption changes becomes a tag."""
    params = {key: shortened(value) for key, value in _flattened(config)}
    before = client.get_run(run_id).data.params
    new = [Param(key, value) for key, value in params.items() if key not in before]
    changed = {key: value for key, value in params.items() if before.get(key, value) != value}
    for start in range(0, len(new), 100):  # what one request may hold
        client.log_batch(run_id, params=new[start : start + 100])
    client.log_batch(run_id, tags=[RunTag(f"resumed_with.{key}", value) for key, value in changed.items()])


def _flattened(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def shortened(value: object) -> str:
    """Return a parameter that MLflow takes: the middle of a long one is left out."""
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return text if len(text) <= LONGEST_PARAM else text[: LONGEST_PARAM - 3] + "..."


def log_environment(client: MlflowClient, run_id: str) -> None:
    """Log git commit, library versions, machine, and every installed package."""
    tags = {f"version.{name}": version for name, version in library_versions().items()}
    tags |= {"git_commit": git_commit(), "platform": platform.platform(), "cpus": str(os.cpu_count())}
    client.log_batch(run_id, tags=[RunTag(key, value) for key, value in tags.items()])
    packages = sorted({f"{d.metadata['Name']}=={d.version}" for d in importlib.metadata.distributions()})
    client.log_text(run_id, "\n".join(packages) + "\n", "environment.txt")
