"""The MLflow tracker: runs, registered versions and their aliases.

With pyfunc_model.py, which MLflow runs, the only file that imports mlflow.

RegistryError             the tracker or the registry cannot do what was asked; the message says why
  TrackerUnreachable      nobody answers at the tracker's address, or not to us
  VersionNotFound         no such model, version or alias
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import io
import json
import logging
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import mlflow
import pydantic
import requests
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.environment_variables import MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR
from mlflow.exceptions import MlflowException
from PIL import Image

from schemas import ModelCard

WEIGHTS_FILE = "weights.safetensors"  # the model folder's two files, as detector.py writes them
CARD_FILE = "model.json"
MODEL_FILES = (WEIGHTS_FILE, CARD_FILE)
ARTIFACT = "detector"  # the model folder's name inside a logged model, as pyfunc_model.py reads it
CHAMPION, CHALLENGER = "champion", "challenger"
MAP, LOOKALIKES = "val/map", "val/lookalike_alarm_rate"
ANSWER_SECONDS = 4  # how long a tracker that is up may take to answer a trivial question

ROOT = Path(__file__).parent
# What the logged model needs to run by itself: pyfunc_model.py and every project file it reaches.
SERVING_CODE = ("detections.py", "detector.py", "imaging.py", "schemas.py")
SERVING_PACKAGES = ("mlflow", "torch", "torchvision", "detecto", "safetensors", "pillow", "numpy", "pydantic")

log = logging.getLogger("weapon-detector.registry")


class RegistryError(RuntimeError):
    """The tracker or the registry cannot do what was asked; the message says why and what to do."""


class TrackerUnreachable(RegistryError):
    """Nobody answers at the tracker's address, or not to us."""


class VersionNotFound(RegistryError):
    """There is no such registered model, version or alias."""


@dataclass(frozen=True, slots=True)
class RegisteredVersion:
    """One version of a registered model.

    Attributes:
        name: the registered model.
        version: a whole number, as text.
        alias: the alias it was found by, else its first alias, if any.
        run_id: the run that made it; "" if none.
        tags: what was recorded of it: metrics, operating point, data fingerprint, git commit...
        tracking_uri: the tracker it was found at.
        created_at: milliseconds since 1970.
    """

    name: str
    version: str
    alias: str | None
    run_id: str
    tags: Mapping[str, str]
    tracking_uri: str
    created_at: int = 0
    aliases: tuple[str, ...] = field(default=())

    def __str__(self) -> str:
        return f"version {self.version} of {self.name}"


# --- the tracker ------------------------------------------------------------------------------------


def check_tracker(tracking_uri: str) -> None:
    """Make sure that the tracker answers, within a few seconds.

    Raises:
        TrackerUnreachable: it does not, or not to us; the message says what to do.
    """
    if not tracking_uri.startswith(("http://", "https://")):
        return
    try:
        answer = requests.get(f"{tracking_uri.rstrip('/')}/version", timeout=ANSWER_SECONDS)
    except requests.RequestException as error:
        raise TrackerUnreachable(
            f"No MLflow tracker answers at {tracking_uri} ({_reason(error)}). "
            "Start it, or set MLFLOW_TRACKING_URI to its address."
        ) from error
    if answer.status_code != 200 or answer.text != answer.text.strip() or len(answer.text) > 40:
        raise TrackerUnreachable(
            f"Something answers at {tracking_uri}, but it is no MLflow tracker (HTTP {answer.status_code} "
            "for /version). Set MLFLOW_TRACKING_URI to the tracker's address."
        )
    with _tracker(tracking_uri) as client:
        client.search_experiments(max_results=1)


def _reason(error: requests.RequestException) -> str:
    if isinstance(error, requests.Timeout):
        return f"no answer in {ANSWER_SECONDS} seconds"
    if isinstance(error, requests.ConnectionError):
        return "connection refused or host unknown"
    return str(error)


@contextlib.contextmanager
def _tracker(tracking_uri: str) -> Iterator[MlflowClient]:
    """Give MLflow's client and turn its errors into sentences."""
    try:
        yield MlflowClient(tracking_uri=tracking_uri, registry_uri=tracking_uri)
    except MlflowException as error:
        if "Invalid Host header" in str(error):
            raise TrackerUnreachable(
                f"The tracker at {tracking_uri} refuses to be called by that name. Add the name and port to "
                "MLFLOW_SERVER_ALLOWED_HOSTS where the tracker runs."
            ) from error
        if error.error_code in ("PERMISSION_DENIED", "UNAUTHENTICATED", "CUSTOMER_UNAUTHORIZED"):
            raise TrackerUnreachable(
                f"The tracker at {tracking_uri} refuses us: {error.message}. "
                "Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN."
            ) from error
        raise RegistryError(f"The tracker at {tracking_uri} says: {error.message}") from error
    except requests.RequestException as error:
        raise TrackerUnreachable(f"The tracker at {tracking_uri} failed: {error}") from error


@contextlib.contextmanager
def _no_progress_bars() -> Iterator[None]:
    """Keep MLflow from drawing a bar for every file it moves."""
    MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.set(False)  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR.unset()  # type: ignore[no-untyped-call]


# --- reading the registry ---------------------------------------------------------------------------


def find_version(
    name: str, version: str | None = None, alias: str | None = CHAMPION, *, tracking_uri: str
) -> RegisteredVersion:
    """Find one version of a registered model.

    Args:
        name: the registered model.
        version: its number; wins over alias.
        alias: for example "champion".
        tracking_uri: the tracker's address.

    Raises:
        VersionNotFound: the model, version or alias does not exist.
        TrackerUnreachable: the tracker does not answer within a few seconds.
    """
    check_tracker(tracking_uri)
    try:
        with _tracker(tracking_uri) as client:
            if version is not None:
                return _registered(client.get_model_version(name, str(version)), tracking_uri)
            found = client.get_model_version_by_alias(name, alias or CHAMPION)
            return _registered(found, tracking_uri, alias or CHAMPION)
    except RegistryError as error:
        if not _is_absent(error):
            raise
        wanted = f"version {version}" if version is not None else f"alias {alias or CHAMPION!r}"
        raise VersionNotFound(
            f"There is no {wanted} of {name!r} at {tracking_uri}. `python registry.py list` shows what there "
            "is; `python registry.py import FOLDER` registers a model folder."
        ) from error


def _is_absent(error: RegistryError) -> bool:
    """Tell "no such thing" from every other answer of the tracker."""
    cause = error.__cause__
    return isinstance(cause, MlflowException) and (
        cause.error_code == "RESOURCE_DOES_NOT_EXIST"
        or (cause.error_code == "INVALID_PARAMETER_VALUE" and "alias" in str(cause).lower())
    )


def _registered(found: ModelVersion, tracking_uri: str, alias: str | None = None) -> RegisteredVersion:
    aliases = tuple(sorted(found.aliases or ()))
    return RegisteredVersion(
        name=found.name,
        version=str(found.version),
        alias=alias or (aliases[0] if aliases else None),
        run_id=found.run_id or "",
        tags=dict(found.tags),
        tracking_uri=tracking_uri,
        created_at=int(found.creation_timestamp or 0),
        aliases=aliases,
    )


def download_version(found: RegisteredVersion, destination: Path) -> Path:
    """Download a version's model folder. Runs no code from the store and unpickles nothing.

    Returns:
        destination, which then holds model.json and weights.safetensors.

    Raises:
        RegistryError: the version holds no model folder, the download fails, or what came is not what
            was registered.
    """
    check_tracker(found.tracking_uri)
    destination.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=destination, prefix=".download-") as temporary, _no_progress_bars():
        paths = {file: _download(found, file, Path(temporary)) for file in MODEL_FILES}
        for file, path in paths.items():
            _check_sha256(found, path)
        for file, path in paths.items():  # the card last: a folder with a card is complete
            path.replace(destination / file)
    return destination


def _download(found: RegisteredVersion, file: str, folder: Path) -> Path:
    """Download one file of the version's model folder into folder and return where it is."""
    address, uri = f"models:/{found.name}/{found.version}/artifacts/{ARTIFACT}/{file}", found.tracking_uri
    try:
        with _tracker(uri):
            path = mlflow.artifacts.download_artifacts(
                address, dst_path=str(folder), tracking_uri=uri, registry_uri=uri
            )
    except OSError as error:
        raise RegistryError(f"{file} of {found} cannot be downloaded: {error}") from error
    except RegistryError as error:
        if not _is_absent(error):
            raise
        raise RegistryError(
            f"{found} holds no {ARTIFACT}/{file}: it was not registered by this project's train.py or "
            "`python registry.py import`. Choose another version, or another name with MODEL_NAME."
        ) from error
    return Path(path)


def _check_sha256(found: RegisteredVersion, path: Path) -> None:
    expected = found.tags.get(_sha256_tag(path.name))
    if expected and sha256_of(path) != expected:
        raise RegistryError(
            f"{path.name} of {found} is not the file that was registered: its SHA-256 differs from the "
            "version's tag. The artifact store is damaged or was changed; register the model again."
        )


def _sha256_tag(file: str) -> str:
    return f"sha256.{file}"


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_card(folder: Path) -> ModelCard:
    """Read the model card of a model folder.

    Raises:
        RegistryError: folder is not a model folder.
    """
    try:
        card = ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        raise RegistryError(
            f"Expected a model folder with {WEIGHTS_FILE} and {CARD_FILE} at {folder}: {error}"
        ) from error
    if not (folder / WEIGHTS_FILE).is_file():
        raise RegistryError(f"Expected {WEIGHTS_FILE} beside {CARD_FILE} in {folder}, found none.")
    return card


# --- writing the registry ---------------------------------------------------------------------------


def log_and_register(
    folder: Path,
    *,
    name: str,
    tracking_uri: str,
    run_id: str,
    tags: Mapping[str, str] | None = None,
) -> RegisteredVersion:
    """Log a model folder to a run as a pyfunc model and register it as a new version.

    The new version becomes the champion if there is none, else the challenger.

    Args:
        folder: holds model.json and weights.safetensors.
        name: the registered model; made if absent.
        tracking_uri: the tracker's address.
        run_id: the run that made the model.
        tags: further tags for the version.

    Raises:
        RegistryError: the tracker cannot be reached, or the name belongs to something else.
    """
    card = read_card(folder)
    check_tracker(tracking_uri)
    with _tracker(tracking_uri) as client:
        _make_name(client, name)
        model_uri = _log_model(folder, tracking_uri=tracking_uri, run_id=run_id)
        made = client.create_model_version(
            name,
            source=model_uri,
            run_id=run_id,
            tags={**version_tags(folder, card), **(tags or {})},
            model_id=model_uri.removeprefix("models:/"),
        )
        alias = CHALLENGER if _alias_target(client, name, CHAMPION) else CHAMPION
        client.set_registered_model_alias(name, alias, made.version)
    return find_version(name, made.version, tracking_uri=tracking_uri)


def _make_name(client: MlflowClient, name: str) -> None:
    """Make the registered model, or make sure that it is ours."""
    try:
        client.create_registered_model(name, tags={"model_format": "detector-folder"})
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        tags = client.get_registered_model(name).tags
        if tags.get("model_format") != "detector-folder":
            raise RegistryError(
                f"The registry already has a model named {name!r} that was not made by this project. "
                "Choose another name with MODEL_NAME."
            ) from error


def _alias_target(client: MlflowClient, name: str, alias: str) -> str | None:
    """Return the version an alias points at, or None."""
    aliases: Mapping[str, str] = client.get_registered_model(name).aliases
    return str(aliases[alias]) if alias in aliases else None


def _log_model(folder: Path, *, tracking_uri: str, run_id: str) -> str:
    """Log the folder as a pyfunc model ("models from code") and return its address."""
    import mlflow.pyfunc  # needs full mlflow; the API lives with mlflow-skinny
    from mlflow.models import Model

    mlflow.set_tracking_uri(tracking_uri)
    with tempfile.TemporaryDirectory() as temporary, _no_progress_bars():
        staged = Path(temporary) / ARTIFACT  # MLflow names the folder in the store after this one
        staged.mkdir()
        for file in MODEL_FILES:
            shutil.copyfile(folder / file, staged / file)
        logged = Model.log(
            artifact_path=None,
            name=ARTIFACT,
            flavor=mlflow.pyfunc,
            run_id=run_id,
            python_model=str(ROOT / "pyfunc_model.py"),
            artifacts={ARTIFACT: str(staged)},
            code_paths=[str(ROOT / file) for file in SERVING_CODE],
            pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in SERVING_PACKAGES],
            signature=_signature(),
            input_example=_input_example(),
        )
    return str(logged.model_uri)


def _input_example() -> Any:
    """Return one small grey picture as the table that the model takes."""
    import pandas as pd

    grey = io.BytesIO()
    Image.new("RGB", (64, 48), (128, 128, 128)).save(grey, "PNG")
    return pd.DataFrame({"image": [grey.getvalue()]})


def _signature() -> Any:
    """Return the signature: encoded pictures in (base64 over HTTP), one record per picture out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema

    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        params=ParamSchema([ParamSpec("score_threshold", DataType.double, -1.0)]),
    )


def version_tags(folder: Path, card: ModelCard) -> dict[str, str]:
    """Return what a version carries in the registry: metrics, operating point, data, code, checksums."""
    point = card.operating_point
    measured = {key: f"{value:.6g}" for key, value in card.metrics.items()}
    chosen = {
        f"operating_point.{key}": f"{value:.6g}" if isinstance(value, float) else str(value)
        for key, value in (point.model_dump() if point else {}).items()
    }
    made = {
        "architecture": card.network.architecture,
        "data_fingerprint": card.data_fingerprint,
        "git_commit": card.git_commit,
        "classes": json.dumps(card.class_names[1:]),
    }
    checksums = {_sha256_tag(file): sha256_of(folder / file) for file in MODEL_FILES}
    return {key: value for key, value in {**measured, **chosen, **made, **checksums}.items() if value}
