"""Registered models in MLflow: find, download, register, promote, roll back.

Also a command:

    python registry.py list                       # all versions with their measured numbers
    python registry.py show [VERSION]             # one version, and who made which version champion
    python registry.py promote [VERSION] --why "better on phones"
    python registry.py rollback --why "too many false alarms"
    python registry.py import FOLDER              # a model folder becomes a new version
    python registry.py export FOLDER              # the champion, or --version N, becomes a model folder
    python registry.py compare                    # the last runs side by side; --markdown for a README
    python registry.py sync FOLDER                # send what a training run could not send

RegistryError             the tracker or the registry cannot do what was asked; the message says why
  TrackerUnreachable      nobody answers at the tracker's address, or not to us
  VersionNotFound         no such model, version or alias
  PromotionRefused        the challenger is worse than the champion
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import importlib.metadata
import io
import json
import math
import os
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import mlflow
import pydantic
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from PIL import Image
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from detections import WEAPONS
from schemas import CARD_FILE, WEIGHTS_FILE, ModelCard
from settings import (
    CompareCommand,
    ExportCommand,
    ImportCommand,
    ListCommand,
    PromoteCommand,
    RegistryCommand,
    RollbackCommand,
    ShowCommand,
    SyncCommand,
    registry_command,
)
from tracker import (
    METRICS_FILE,
    SYSTEM,
    RegistryError,
    TrackerUnreachable,
    TrainingRun,
    ask_version,
    check_tracker,
    connection,
    git_commit,
    is_server,
    library_versions,
    log_inputs,
    log_params,
    open_experiment,
    read_metrics,
    shown,
    sync,
    training_run,
    use_tracker,
    wait_for_tracker,
    who,
)

__all__ = [
    "PromotionRefused",
    "RegisteredVersion",
    "RegistryError",
    "TrackerUnreachable",
    "TrainingRun",
    "VersionNotFound",
    "check_tracker",
    "download_version",
    "find_version",
    "git_commit",
    "library_versions",
    "log_and_register",
    "training_run",
    "use_tracker",
]

MODEL_FILES = (WEIGHTS_FILE, CARD_FILE)
ARTIFACT = "detector"  # the model folder's name inside a logged model, as pyfunc_model.py reads it
CHAMPION, CHALLENGER = "champion", "challenger"
OURS = {"model_format": "detector-folder"}  # tells our registered models from other people's
HISTORY = "champion_history."  # tags of the registered model, one per change of the champion, in order
REGISTER_TRIES = 3
PATIENCE_SECONDS = 120.0  # how long registering waits for a tracker that restarts

WEAPON_BOXES, LOOKALIKE_BOXES = "val/weapon_boxes", "val/lookalike_boxes"  # tags of a version


class Measure(NamedTuple):
    """What a challenger must not be worse in.

    Attributes:
        more_is_better: else less is.
        counted: the tag with the number of images or boxes that the value is a share of; "" if it is none.
        per: the value is that many times the share.
        required: a challenger in which it was not measured is refused.
    """

    more_is_better: bool
    counted: str = ""
    per: int = 1
    required: bool = False

    def write(self, value: float, low: float, high: float) -> str:
        """Return a value and its interval, if that is known, in words."""
        digits = 4 if self.per == 1 else 1
        between = f" ({low:.{digits}f} to {high:.{digits}f})" if low < high else ""
        return f"{value:.{digits}f}{between}"


RECALL, FALSE_ALARMS = "val/alarm/image_recall", "val/alarm/false_alarms_per_1000"
GATE = {
    "val/map": Measure(more_is_better=True, required=True),
    RECALL: Measure(more_is_better=True, counted="operating_point.weapon_images", required=True),
    FALSE_ALARMS: Measure(
        more_is_better=False, counted="operating_point.weapon_free_images", per=1000, required=True
    ),
    "val/lookalike_alarm_rate": Measure(more_is_better=False, counted=LOOKALIKE_BOXES),
    "val/weapon_as_lookalike_rate": Measure(more_is_better=False, counted=WEAPON_BOXES),
}
MOST_FALSE_ALARMS = 500  # per 1,000: beyond, more weapon-free images raise an alarm than not

ROOT = Path(__file__).parent
# What the logged model needs to run by itself: every project file that pyfunc_model.py reaches.
SERVING_CODE = ("containers.py", "detections.py", "detector.py", "icc.py", "imaging.py", "schemas.py")
SERVING_PACKAGES = ("mlflow", "torch", "torchvision", "detecto", "safetensors", "pillow", "numpy", "pydantic")


class VersionNotFound(RegistryError):
    """There is no such registered model, version or alias."""


class PromotionRefused(RegistryError):
    """The challenger is worse than the champion, or was not measured."""


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
        aliases: all its aliases.
    """

    name: str
    version: str
    alias: str | None
    run_id: str
    tags: Mapping[str, str]
    tracking_uri: str
    created_at: int = 0
    aliases: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"version {self.version} of {self.name}"

    def measured(self, key: str) -> float | None:
        """Return a metric from the tags, or None where it was not measured."""
        try:
            value = float(self.tags[key])
        except (KeyError, ValueError):
            return None
        return value if math.isfinite(value) else None

    def measured_on_val(self, key: str) -> float | None:
        """Return a value of GATE; of versions that lack the alarm's metrics, their operating point's."""
        value = self.measured(key)
        if value is not None or key not in (RECALL, FALSE_ALARMS) or not self.count(key):
            return value
        chosen_on_val = self.tags.get("operating_point.split") == "val"
        return self.measured(f"operating_point.{key.rpartition('/')[2]}") if chosen_on_val else None

    def count(self, key: str) -> int:
        """Return how many images or boxes a value of GATE is a share of; 0 if that is not known."""
        return max(0, int(self.measured(GATE[key].counted) or 0))


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
    ask_version(tracking_uri)
    alias = alias or CHAMPION
    with connection(tracking_uri) as client:
        try:
            if version is not None:
                return _registered(client.get_model_version(name, str(version)), tracking_uri)
            return _registered(client.get_model_version_by_alias(name, alias), tracking_uri, alias)
        except MlflowException as error:
            if not _is_absent(error):
                raise
            wanted = f"version {version}" if version is not None else f"version with the alias {alias!r}"
            raise VersionNotFound(
                f"There is no {wanted} of {name!r} at {tracking_uri}. `python registry.py list` shows what "
                "there is; `python registry.py import FOLDER` registers a model folder."
            ) from error


def list_versions(name: str, *, tracking_uri: str) -> list[RegisteredVersion]:
    """Return every version of a registered model, newest first; none if there is no such model."""
    ask_version(tracking_uri)
    with connection(tracking_uri) as client:
        try:
            aliases = client.get_registered_model(name).aliases
        except MlflowException as error:
            if _is_absent(error):
                return []
            raise
        found = _every_version(client, name)
    by_version: dict[str, list[str]] = {}
    for alias, number in aliases.items():
        by_version.setdefault(str(number), []).append(alias)
    made = [_registered(each, tracking_uri, aliases=by_version.get(str(each.version), ())) for each in found]
    return sorted(made, key=lambda each: -int(each.version))


def _every_version(client: MlflowClient, name: str) -> list[ModelVersion]:
    found: list[ModelVersion] = []
    token = None
    while token != "":
        page = client.search_model_versions(f"name = '{_quoted(name)}'", max_results=200, page_token=token)
        found += page
        token = page.token or ""
    return found


def _quoted(name: str) -> str:
    if "'" in name:
        raise RegistryError(f"Expected a model name without quotation marks, got {name!r}.")
    return name


def _is_absent(error: MlflowException) -> bool:
    """Tell "no such thing" from every other answer of the tracker."""
    return error.error_code == "RESOURCE_DOES_NOT_EXIST" or (
        error.error_code == "INVALID_PARAMETER_VALUE"
        and ("alias" in str(error).lower() or "not a valid" in str(error).lower())
    )


def _registered(
    found: ModelVersion, tracking_uri: str, alias: str | None = None, aliases: Sequence[str] = ()
) -> RegisteredVersion:
    names = tuple(sorted(aliases or found.aliases or ()))
    return RegisteredVersion(
        name=found.name,
        version=str(found.version),
        alias=alias or (names[0] if names else None),
        run_id=found.run_id or "",
        tags=dict(found.tags),
        tracking_uri=tracking_uri,
        created_at=int(found.creation_timestamp or 0),
        aliases=names,
    )


def download_version(found: RegisteredVersion, destination: Path) -> Path:
    """Download a version's model folder. Runs no code from the store and unpickles nothing.

    Returns:
        destination, which then holds model.json and weights.safetensors.

    Raises:
        RegistryError: the version holds no model folder, the download fails, or what came is not what
            was registered.
    """
    ask_version(found.tracking_uri)
    try:
        destination.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination, prefix=".download-") as temporary:
            paths = {file: _download(found, file, Path(temporary)) for file in MODEL_FILES}
            for path in paths.values():
                _check_sha256(found, path)
            for file, path in paths.items():  # the card last: a folder with a card is complete
                path.replace(destination / file)
    except OSError as error:
        raise RegistryError(
            f"{found} cannot be written to {destination}: {error}. "
            "It needs room and the right to write there."
        ) from error
    return destination


def _download(found: RegisteredVersion, file: str, folder: Path) -> Path:
    """Download one file of the version's model folder into folder and return where it is.

    Raises:
        RegistryError: it cannot be had.
        OSError: it cannot be written.
    """
    address, uri = f"models:/{found.name}/{found.version}/artifacts/{ARTIFACT}/{file}", found.tracking_uri
    try:
        with connection(uri):
            path = mlflow.artifacts.download_artifacts(
                address, dst_path=str(folder), tracking_uri=uri, registry_uri=uri
            )
    except (RegistryError, FileNotFoundError) as error:
        if isinstance(error, TrackerUnreachable):
            raise
        if f"[Errno {errno.ENOSPC}]" in str(error):  # MLflow tells its reasons in words only
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise RegistryError(
            f"{file} of {found} could not be downloaded: {error} If that version was not registered by this "
            "project's train.py or `python registry.py import`, choose another version or name."
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
    if not all((folder / file).is_file() for file in MODEL_FILES):
        raise RegistryError(f"Expected a model folder with {WEIGHTS_FILE} and {CARD_FILE} at {folder}.")
    try:
        return ModelCard.model_validate_json((folder / CARD_FILE).read_bytes())
    except (OSError, pydantic.ValidationError) as error:
        raise RegistryError(f"{folder / CARD_FILE} is no model card: {error}") from error


# --- registering ------------------------------------------------------------------------------------


def log_and_register(
    folder: Path,
    *,
    name: str,
    tracking_uri: str,
    run_id: str,
    tags: Mapping[str, str] | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
) -> RegisteredVersion:
    """Log a model folder to a run as a pyfunc model and register it as a new version.

    The registry's first version becomes the champion, a later one the challenger. A tracker that restarts
    meanwhile is waited for; what an earlier try has made there is gone on with and not made again.

    Args:
        folder: holds model.json and weights.safetensors.
        name: the registered model; made if absent.
        tracking_uri: the tracker's address.
        run_id: the run that made the model.
        tags: further tags for the version.
        patience_seconds: how long to wait for a tracker that is away.

    Raises:
        RegistryError: the tracker stays away, or the name belongs to something else.
    """
    card = read_card(folder)
    try:
        for tries_left in reversed(range(REGISTER_TRIES)):
            wait_for_tracker(tracking_uri, patience_seconds)
            try:
                with connection(tracking_uri) as client:
                    return _log_and_register(client, folder, card, name, tracking_uri, run_id, tags or {})
            except RegistryError as error:
                if not (tries_left and _is_outage(error)):
                    raise
    except RegistryError as error:
        raise RegistryError(
            f"{error} The model is safe in {folder}; register it later with "
            f"`python registry.py import {folder}`."
        ) from error
    raise AssertionError("the last try returns or raises")


def _is_outage(error: RegistryError) -> bool:
    cause = error.__cause__
    if isinstance(error, TrackerUnreachable):
        return True
    status = cause.get_http_status_code() if isinstance(cause, MlflowException) else 0  # type: ignore[no-untyped-call]
    return bool(status >= 500)


def _log_and_register(
    client: MlflowClient,
    folder: Path,
    card: ModelCard,
    name: str,
    tracking_uri: str,
    run_id: str,
    tags: Mapping[str, str],
) -> RegisteredVersion:
    _make_name(client, name)
    tags = {**version_tags(folder, card), **tags}
    checksums = {_sha256_tag(file): tags[_sha256_tag(file)] for file in MODEL_FILES}
    made = next(
        (each for each in _with_files(client, name, checksums) if each.run_id == run_id), None
    ) or _make_version(client, name, run_id, _log_model(client, folder, card, run_id, checksums), tags)
    _give_alias(client, name, str(made.version))
    return _registered(client.get_model_version(name, made.version), tracking_uri)


def _with_files(client: MlflowClient, name: str, checksums: Mapping[str, str]) -> list[ModelVersion]:
    """Return the versions whose files have these checksums."""
    return [each for each in _every_version(client, name) if checksums.items() <= each.tags.items()]


def _make_version(
    client: MlflowClient, name: str, run_id: str, model_id: str, tags: Mapping[str, str]
) -> ModelVersion:
    return client.create_model_version(
        name, source=f"models:/{model_id}", run_id=run_id, tags=dict(tags), model_id=model_id
    )


def _give_alias(client: MlflowClient, name: str, version: str) -> None:
    """Make a new version the champion if there is none older, else the challenger.

    MLflow counts versions one by one, so that of several registered at once only one has none before it.
    """
    champion, challenger = (_alias_target(client, name, alias) for alias in (CHAMPION, CHALLENGER))
    is_first = not any(int(each.version) < int(version) for each in _every_version(client, name))
    if is_first and champion is None:
        _make_champion(client, name, version, action="first", why="the first version")
    elif champion != version and int(challenger or 0) < int(version):
        client.set_registered_model_alias(name, CHALLENGER, version)


def check_name(name: str, *, tracking_uri: str) -> None:
    """Make sure that a model can be registered under name.

    Raises:
        RegistryError: the name belongs to something that this project did not make.
    """
    ask_version(tracking_uri)
    with connection(tracking_uri) as client:
        _make_name(client, name)


def _make_name(client: MlflowClient, name: str) -> None:
    """Make the registered model, or make sure that the one there is ours."""
    try:
        client.create_registered_model(name, tags=OURS)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
        if not OURS.items() <= client.get_registered_model(name).tags.items():
            raise RegistryError(
                f"The registry already has something named {name!r} that this project did not make. "
                "Choose another one: --model-name or MODEL_NAME."
            ) from error


def _alias_target(client: MlflowClient, name: str, alias: str) -> str | None:
    """Return the version an alias points at, or None."""
    aliases = client.get_registered_model(name).aliases
    return str(aliases[alias]) if alias in aliases else None


def _log_model(
    client: MlflowClient, folder: Path, card: ModelCard, run_id: str, checksums: Mapping[str, str]
) -> str:
    """Log the folder as a pyfunc model ("models from code") and return the logged model's id."""
    run = client.get_run(run_id)
    logged = _open_logged_model(client, run, checksums)
    model_id = str(logged.model_id)
    if str(logged.status) != "READY":
        with tempfile.TemporaryDirectory() as temporary:
            _write_pyfunc(folder, Path(temporary), run_id, model_id)
            client.log_model_artifacts(model_id, str(Path(temporary) / "model"))
        client.finalize_logged_model(model_id, "READY")
    outputs = run.outputs.model_outputs if run.outputs else []
    if model_id not in {output.model_id for output in outputs}:
        client.log_outputs(run_id, [LoggedModelOutput(model_id, step=0)])
    now = int(time.time() * 1000)
    measured = [
        Metric(f"model/{key}", value, now, 0, model_id=model_id) for key, value in card.metrics.items()
    ]
    client.log_batch(run_id, metrics=measured)
    return model_id


def _open_logged_model(client: MlflowClient, run: Run, checksums: Mapping[str, str]) -> LoggedModel:
    """Return the run's logged model of the files with these checksums, made if absent."""
    found = client.search_logged_models(
        [run.info.experiment_id], filter_string=f"source_run_id = '{run.info.run_id}'"
    )
    there = next((each for each in found if checksums.items() <= (each.tags or {}).items()), None)
    if there is not None:
        return there
    return client.create_logged_model(
        run.info.experiment_id, ARTIFACT, run.info.run_id, dict(checksums), dict(run.data.params)
    )


def _write_pyfunc(folder: Path, destination: Path, run_id: str, model_id: str) -> None:
    """Write the folder, and the code that MLflow needs to serve it, to the folder `model` of destination."""
    import mlflow.pyfunc  # needs full mlflow; the API lives with mlflow-skinny
    from mlflow.models import Model

    staged = destination / ARTIFACT  # MLflow names the folder in the store after this one
    staged.mkdir()
    for file in MODEL_FILES:
        shutil.copyfile(folder / file, staged / file)  # MLflow does not follow links
    mlflow.pyfunc.save_model(
        path=str(destination / "model"),
        mlflow_model=Model(artifact_path=ARTIFACT, run_id=run_id, model_uuid=model_id, model_id=model_id),
        python_model=str(ROOT / "pyfunc_model.py"),
        artifacts={ARTIFACT: str(staged)},
        code_paths=[str(ROOT / file) for file in SERVING_CODE],
        pip_requirements=[f"{name}=={importlib.metadata.version(name)}" for name in SERVING_PACKAGES],
        signature=_signature(),
        input_example=_input_example(),
    )
    for cache in destination.rglob("__pycache__"):  # MLflow has run the code
        shutil.rmtree(cache)


def _signature() -> Any:
    """Return the signature: encoded pictures in (base64 over HTTP), one record per picture out."""
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, DataType, ParamSchema, ParamSpec, Schema
    from mlflow.types.schema import Array, Object, Property

    numbers = [Property(key, DataType.double) for key in ("x1", "y1", "x2", "y2")]
    detection = Object(
        [
            Property("label", DataType.string),
            Property("dangerous", DataType.boolean),
            Property("score", DataType.double),
            Property("box", Object(numbers)),
        ]
    )
    size = Object([Property("width", DataType.long), Property("height", DataType.long)])
    return ModelSignature(
        inputs=Schema([ColSpec(DataType.binary, "image")]),
        outputs=Schema(
            [
                ColSpec(DataType.boolean, "alarm", required=False),
                ColSpec(Array(detection), "detections", required=False),
                ColSpec(size, "image_size", required=False),
                ColSpec(DataType.string, "error", required=False),
            ]
        ),
        params=ParamSchema([ParamSpec("score_threshold", DataType.double, -1.0)]),
    )


def _input_example() -> Any:
    """Return one small grey picture as the table that the model takes."""
    import pandas as pd

    grey = io.BytesIO()
    Image.new("RGB", (64, 48), (128, 128, 128)).save(grey, "PNG")
    return pd.DataFrame({"image": [grey.getvalue()]})


def version_tags(folder: Path, card: ModelCard) -> dict[str, str]:
    """Return what a version carries in the registry: metrics, operating point, data, code, checksums."""
    tags = {key: f"{value:.6g}" for key, value in card.metrics.items()}
    tags |= {**_point_tags(card), **_count_tags(card)}
    tags |= {
        "architecture": card.network.architecture,
        "data_fingerprint": card.data_fingerprint,
        "git_commit": card.git_commit,
        "classes": ", ".join(card.class_names[1:]),
    }
    tags |= {_sha256_tag(file): sha256_of(folder / file) for file in MODEL_FILES}
    return {key: value for key, value in tags.items() if value}


def _point_tags(card: ModelCard) -> dict[str, str]:
    point = card.operating_point.model_dump() if card.operating_point else {}
    return {
        f"operating_point.{key}": f"{value:.6g}" if isinstance(value, float) else str(value)
        for key, value in point.items()
    }


def _count_tags(card: ModelCard) -> dict[str, str]:
    """Return how many boxes of the validation split the rates between weapon and look-alike are of."""
    val = card.data.get("val")
    boxes = val.get("boxes") if isinstance(val, dict) else None
    if not isinstance(boxes, dict) or not all(isinstance(count, int) for count in boxes.values()):
        return {}
    weapons = sum(count for name, count in boxes.items() if name in WEAPONS)
    return {WEAPON_BOXES: str(weapons), LOOKALIKE_BOXES: str(sum(boxes.values()) - weapons)}


def import_folder(
    folder: Path, *, name: str, experiment: str, tracking_uri: str, source: str = ""
) -> tuple[RegisteredVersion, bool]:
    """Register a model folder, unless a version with the same two files is there already.

    Args:
        folder: holds model.json and weights.safetensors.
        name: the registered model.
        experiment: where the run goes that stands for the training: it gets what the folder knows of it.
        tracking_uri: the tracker's address.
        source: where the folder comes from, in words; its path by default.

    Returns:
        The version, and whether it is new.
    """
    card = read_card(folder)
    check_tracker(tracking_uri)
    checksums = {_sha256_tag(file): sha256_of(folder / file) for file in MODEL_FILES}
    tags = {"source": source or str(folder), "imported_by": who(), "imported_at": _now()}
    with connection(tracking_uri) as client:
        _make_name(client, name)
        there = [str(each.version) for each in _with_files(client, name, checksums)]
        if there:
            version = max(there, key=int)
            if _alias_target(client, name, CHAMPION) is None:  # an import before was cut short
                _give_alias(client, name, version)
            return find_version(name, version, tracking_uri=tracking_uri), False
        curves = _curves(folder)
        times = [metric.timestamp for metric in curves]
        run_id = client.create_run(
            open_experiment(client, experiment, tracking_uri),
            start_time=min(times, default=None),
            tags={"mlflow.user": who(), **tags, **_training_tags(card)},
            run_name=f"import of {folder.resolve().name}",
        ).info.run_id
        try:
            _log_training(client, run_id, card, curves)
            made = log_and_register(folder, name=name, tracking_uri=tracking_uri, run_id=run_id, tags=tags)
        except BaseException:
            with contextlib.suppress(Exception):  # what went wrong first is what counts
                client.set_terminated(run_id, "FAILED")
            raise
        client.set_terminated(run_id, end_time=max(times, default=None))
    return made, True


def _training_tags(card: ModelCard) -> dict[str, str]:
    """Return what a card says of where its model comes from, as train.py's own runs carry it."""
    tags = {f"version.{name}": version for name, version in card.library_versions.items()}
    tags |= {
        "git_commit": card.git_commit,
        "mlflow.source.git.commit": card.git_commit.removesuffix("-dirty"),
    }
    tags |= {"trained_at": card.created_at, "trained_in_run": card.run_id, **_point_tags(card)}
    return {key: value for key, value in tags.items() if value}


def _log_training(client: MlflowClient, run_id: str, card: ModelCard, curves: Sequence[Metric]) -> None:
    """Log what is known of a training that was done elsewhere: network, data and curves."""
    log_params(client, run_id, card.network.model_dump(mode="json"))
    if card.data_fingerprint:
        about = {key: value for key, value in card.data.items() if key != "roots"}
        given = Dataset(
            name="train and val", digest=card.data_fingerprint[:36], source_type="local",
            source=json.dumps({"folders": card.data.get("roots", [])}),
            profile=json.dumps({"fingerprint": card.data_fingerprint, **about}),
        )  # fmt: skip
        log_inputs(client, run_id, [DatasetInput(given, [InputTag("mlflow.data.context", "training")])])
    for start in range(0, len(curves), 1000):  # what one request may hold
        client.log_batch(run_id, metrics=curves[start : start + 1000])


def _curves(folder: Path) -> list[Metric]:
    """Return the training curves that a folder brings along: train.py's metrics.jsonl, if it is there.

    Earlier versions put the machine's curves at the seconds since 1970: they move to the training's steps.
    """
    step, curves = 0, []
    for metric in read_metrics(folder / METRICS_FILE):
        if metric.key.startswith(SYSTEM):
            metric = Metric(metric.key, metric.value, metric.timestamp, step)
        step = max(step, metric.step)
        curves.append(metric)
    return curves


def export_folder(found: RegisteredVersion, folder: Path) -> Path:
    """Write a version's model folder to a folder that holds none yet."""
    if folder.exists() and any(folder.iterdir()):
        raise RegistryError(f"Expected a new or empty folder to export to, but {folder} holds files.")
    return download_version(found, folder)


# --- champion and challenger ------------------------------------------------------------------------


def promote(
    name: str, version: str | None, *, tracking_uri: str, why: str = "", force: bool = False
) -> tuple[RegisteredVersion, list[str]]:
    """Make a version the champion.

    Args:
        name: the registered model.
        version: its number; None: the challenger.
        tracking_uri: the tracker's address.
        why: the reason, for the record.
        force: even if it is worse than the champion.

    Returns:
        The new champion, and what spoke against it and was overruled.

    Raises:
        PromotionRefused: it is worse, was not measured, alarms on nothing or falsely on most images, and
            force is false or gives no reason.
    """
    challenger = find_version(name, version, CHALLENGER, tracking_uri=tracking_uri)
    try:
        champion = find_version(name, tracking_uri=tracking_uri)
    except VersionNotFound:
        champion = None
    if champion and champion.version == challenger.version:
        raise RegistryError(f"Version {challenger.version} of {name} is the champion already.")
    against = objections(challenger, champion)
    if against and not (force and why):
        raise PromotionRefused(
            f"Version {challenger.version} does not become champion: {'; '.join(against)}. Use --force with "
            "--why REASON to promote it all the same."
        )
    with connection(tracking_uri) as client:
        _make_champion(client, name, challenger.version, action="promote", why=why, against=against)
    return find_version(name, tracking_uri=tracking_uri), against


class Setback(NamedTuple):
    """A value of GATE in which a challenger is worse than the champion.

    Attributes:
        sentence: without a full stop.
        told_apart: the difference is larger than chance makes it.
    """

    sentence: str
    told_apart: bool


def objections(challenger: RegisteredVersion, champion: RegisteredVersion | None) -> list[str]:
    """Return what speaks against the challenger, as sentences without a full stop.

    Where it is worse than the champion by no more than chance makes it, nothing is said: see not_told_apart.
    """
    against = []
    for key, measure in GATE.items():
        new = challenger.measured_on_val(key)
        old = champion.measured_on_val(key) if champion else None
        if new is None and (old is not None or measure.required):
            against.append(f"{key} of version {challenger.version} was not measured")
        elif new == 0 and key == RECALL:
            against.append(f"it raises an alarm on no weapon image at all ({key} is 0)")
        elif new is not None and key == FALSE_ALARMS and new > MOST_FALSE_ALARMS:
            against.append(f"it raises a false alarm on {new:.0f} of 1,000 weapon-free images")
    worse = setbacks(challenger, champion) if champion else []
    against += [each.sentence for each in worse if each.told_apart]
    if against and champion and not same_data(challenger, champion):
        against.append(
            "the two were measured on different data (see data_fingerprint in `python registry.py show`), so "
            "score both on one split with evaluate.py before you decide"
        )
    return against


def not_told_apart(challenger: RegisteredVersion, champion: RegisteredVersion) -> list[str]:
    """Return in what the challenger is worse by no more than chance makes it, in sentences like those."""
    return [each.sentence for each in setbacks(challenger, champion) if not each.told_apart]


def setbacks(challenger: RegisteredVersion, champion: RegisteredVersion) -> list[Setback]:
    """Return every value of GATE in which the challenger is worse than the champion.

    Source:
        Newcombe, Interval estimation for the difference between independent proportions, Statistics in
        Medicine 17 (1998), method 10: told apart if the interval of the difference leaves out zero.
    """
    found = []
    for key, measure in GATE.items():
        new, old = challenger.measured_on_val(key), champion.measured_on_val(key)
        if new is None or old is None or new == old or (new > old) == measure.more_is_better:
            continue
        (new_low, new_high), (old_low, old_high) = (interval(each, key) for each in (challenger, champion))
        chance = math.hypot(
            *((new_high - new, old - old_low) if new < old else (new - new_low, old_high - old))
        )
        its, champions = measure.write(new, new_low, new_high), measure.write(old, old_low, old_high)
        sentence = f"its {key} is {its}, the champion's (version {champion.version}) {champions}"
        found.append(Setback(sentence, told_apart=abs(new - old) > chance))
    return found


def interval(found: RegisteredVersion, key: str) -> tuple[float, float]:
    """Return the 95 % interval of a value of GATE: the measured one, else that of a share of so many.

    Returns:
        Low and high with the value between them; twice the value where nothing tells how sure it is.
    """
    value, count, per = found.measured_on_val(key), found.count(key), GATE[key].per
    assert value is not None
    low, high = found.measured(f"{key}/low"), found.measured(f"{key}/high")
    if (low is None or high is None or low == high) and count:
        low, high = (per * bound for bound in wilson(value / per, count))
    if low is None or high is None:
        return value, value
    return min(low, value), max(high, value)


def wilson(share: float, count: int) -> tuple[float, float]:
    """Return the 95 % interval of a share of count.

    Source:
        Wilson, Probable inference, Journal of the American Statistical Association 22 (1927).
    """
    z2, share = 1.959964**2 / count, min(max(share, 0.0), 1.0)
    middle = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(z2 * (share * (1 - share) + z2 / 4)) / (1 + z2)
    return middle - half, middle + half


def same_data(one: RegisteredVersion, other: RegisteredVersion) -> bool:
    """Return whether two versions were trained and measured on the same data."""
    return one.tags.get("data_fingerprint", "") == other.tags.get("data_fingerprint", "")


def rollback(name: str, *, tracking_uri: str, why: str = "") -> RegisteredVersion:
    """Make the champion before this one champion again.

    Raises:
        RegistryError: there was none before.
    """
    current = find_version(name, tracking_uri=tracking_uri)
    there = {found.version for found in list_versions(name, tracking_uri=tracking_uri)}
    with connection(tracking_uri) as client:
        line = [version for version in champion_line(read_history(client, name)) if version in there]
        earlier = line[: line.index(current.version)] if current.version in line else line
        if not earlier:
            raise RegistryError(f"There is no champion of {name} before version {current.version}.")
        _make_champion(client, name, earlier[-1], action="rollback", why=why)
    return find_version(name, tracking_uri=tracking_uri)


def champion_line(history: Sequence[Mapping[str, str]]) -> list[str]:
    """Return the champions up to the present one, as if nothing had been rolled back.

    After promotions of 1, 2, 3 and one rollback that is ["1", "2"], so that the next goes to 1.
    """
    line: list[str] = []
    for change in history:
        version = change["version"]
        if version in line:  # rolled back to, or promoted anew: what came after it is no longer before it
            after = line[line.index(version) + 1 :]
            line = line[: line.index(version)]
            if change["action"] != "rollback":
                line += after
        line.append(version)
    return line


def read_history(client: MlflowClient, name: str) -> list[dict[str, str]]:
    """Return every change of the champion, oldest first.

    Their tags end in time and version; earlier ones in a number of five digits, which sorts before them.
    """
    tags = client.get_registered_model(name).tags
    return [json.loads(tags[key]) for key in sorted(tags) if key.startswith(HISTORY)]


def _make_champion(
    client: MlflowClient, name: str, version: str, *, action: str, why: str, against: Sequence[str] = ()
) -> None:
    """Move the alias; say who, when and why in tags of the version and in the model's history."""
    before = _alias_target(client, name, CHAMPION)
    change = {"action": action, "version": str(version), "before": before or "", "when": _now(), "who": who()}
    change |= {"why": why, "against": "; ".join(against)}
    if before is not None and action == "rollback":
        for key in ("when", "who", "why"):
            client.set_model_version_tag(name, before, f"rolled_back.{key}", change[key])
    else:
        for key in ("when", "who", "why", "before", "against"):  # also the empty: an earlier one's must go
            client.set_model_version_tag(name, version, f"promoted.{key}", change[key])
    key = f"{HISTORY}{datetime.now(UTC):%Y%m%dT%H%M%S.%f}.{version}"  # two at once have different versions
    client.set_registered_model_tag(name, key, json.dumps(change, ensure_ascii=False))
    client.set_registered_model_alias(name, CHAMPION, version)
    if _alias_target(client, name, CHALLENGER) == str(version):
        client.delete_registered_model_alias(name, CHALLENGER)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


# --- the command ------------------------------------------------------------------------------------

LIST_COLUMNS = {
    "map": "val/map",
    "map_50": "val/map_50",
    "look-\nalike\nalarms": "val/lookalike_alarm_rate",
    "image\nrecall": "operating_point.image_recall",
    "false\nalarms\n/1000": "operating_point.false_alarms_per_1000",
}


# What `compare` shows of a split, in this order, and what it is called in a Markdown table.
COMPARED = {
    "map": "mAP",
    "map_50": "mAP at IoU 0.50",
    "map_75": "",
    "lookalike_alarm_rate": "look-alikes taken for a weapon",
    "weapon_as_lookalike_rate": "",
    "alarm/image_recall": "weapon images that raise an alarm",
    "alarm/false_alarms_per_1000": "false alarms per 1,000 weapon-free images",
    "ap50/pistol": "pistol, AP at IoU 0.50",
    "ap50/knife": "knife, AP at IoU 0.50",
    "ap50/billete": "",
    "ap50/monedero": "",
    "ap50/smartphone": "",
    "ap50/tarjeta": "",
    "original_protocol/map": "",
    "original_protocol/map_50": "",
    "latency/detect_median_ms": "",
}
LESS_IS_BETTER = ("lookalike_alarm_rate", "weapon_as_lookalike_rate", "false_alarms_per_1000", "_ms")
# Parameters by how much they explain, most first; others follow by name.
TELLING = (
    "preset", "architecture", "weights", "backbone_weights", "data", "limit", "minutes", "epochs",
    "min_size", "max_size", "batch_size", "augmentation", "double_normalise", "optimizer", "lr", "schedule",
    "warmup_steps", "ema_decay", "repeat_threshold", "trainable_layers", "norm", "weight_decay",
)  # fmt: skip
# Parameters that say where and under which name a run was made, not how.
BOOKKEEPING = {
    "checkpoint_minutes", "experiment", "mlflow_tracking_uri", "model_name", "output", "register_model",
    "resume", "run_name",
}  # fmt: skip


def _table(*titles: str, **options: Any) -> Table:
    """Return an empty table that stays readable in 80 columns."""
    table = Table(box=box.SIMPLE_HEAD, title_justify="left", caption_justify="left", **options)
    for title in titles:
        table.add_column(title, overflow="fold")
    return table


def versions_table(versions: Sequence[RegisteredVersion]) -> Table:
    """Return all versions as a table, one row each. Numbers are those of the validation split."""
    table = _table(caption="measured on each version's own validation split")
    table.add_column("no.", justify="right", no_wrap=True, style="bold")
    table.add_column("alias", style="bold", no_wrap=True)
    for title in LIST_COLUMNS:
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("registered", no_wrap=True)
    for found in versions:
        numbers = [_number(found.measured(key)) for key in LIST_COLUMNS.values()]
        table.add_row(found.version, "\n".join(found.aliases), *numbers, _when(found.created_at)[:10])
    return table


def version_table(found: RegisteredVersion) -> Table:
    """Return all that was recorded of a version."""
    table = _table("recorded", "", title=f"{found} ({', '.join(found.aliases) or 'no alias'})")
    table.add_row("registered", _when(found.created_at))
    table.add_row("run", found.run_id)
    for key, value in sorted(found.tags.items()):
        if value:
            table.add_row(key, value)
    return table


def history_table(history: Sequence[Mapping[str, str]]) -> Table:
    """Return every change of the champion, oldest first."""
    table = _table(title="champions so far")
    for title in ("when", "who", "version", "why"):
        table.add_column(title, no_wrap=title == "when", overflow="fold")
    for change in history:
        what = f"{change['version']} ({change['action']})"
        overruled = f"overruled: {change['against']}" if change["against"] else ""
        reasons = "; ".join(filter(None, (change["why"], overruled)))
        table.add_row(change["when"].removesuffix("+00:00"), change["who"], what, reasons)
    return table


def last_runs(experiment: str | None, limit: int, *, tracking_uri: str) -> list[Run]:
    """Return the last runs, newest first.

    Raises:
        RegistryError: there is no such experiment.
    """
    check_tracker(tracking_uri)
    with connection(tracking_uri) as client:
        there = client.search_experiments()
        chosen = [each.experiment_id for each in there if experiment in (None, each.name)]
        if not chosen:
            names = ", ".join(sorted(each.name for each in there))
            raise RegistryError(
                f"There is no experiment {experiment!r} at {tracking_uri}; there are: {names}."
            )
        return list(client.search_runs(chosen, max_results=limit, order_by=["attributes.start_time DESC"]))


class Cell(NamedTuple):
    """One value of a comparison; best marks the best of its row."""

    text: str
    best: bool = False


@dataclass(frozen=True, slots=True)
class Comparison:
    """Runs side by side: rows of a title and one cell per run.

    Attributes:
        heads: name and short id of each run.
        facts: when, how long, what became of it.
        measured: by MLflow's key; of a registered run the model's numbers, else the best epoch's. No value
            is marked as the best where the runs were not measured on the same images.
        parameters: those that differ, the most telling first.
        left_out: how many more differ.
    """

    heads: list[tuple[str, str]]
    facts: list[tuple[str, list[Cell]]]
    measured: list[tuple[str, list[Cell]]]
    parameters: list[tuple[str, list[Cell]]]
    left_out: int


def compare_runs(runs: Sequence[Run], versions: Sequence[RegisteredVersion], most: int) -> Comparison:
    """Put runs side by side, with at most so many of the parameters that differ."""
    registered = {found.run_id: found for found in versions}
    data = {split: [_data_of(run, split) for run in runs] for split in ("val", "test")}
    facts = {
        "started": [_when(run.info.start_time) for run in runs],
        "minutes": [_minutes(run) for run in runs],
        "status": [run.info.status.lower() for run in runs],
        "registered as": [_label(registered.get(run.info.run_id)) for run in runs],
        "val data": data["val"],
        "test data": data["test"],
    }
    differing = _differing(runs)
    return Comparison(
        heads=[(run.info.run_name or "", run.info.run_id[:8]) for run in runs],
        facts=[(title, [Cell(text) for text in texts]) for title, texts in facts.items() if any(texts)],
        measured=[
            (key, _marked(key, [_metric(run, key) for run in runs], data[key.partition("/")[0]]))
            for key in _measured_keys(runs)
        ],
        parameters=[
            (name, [Cell(run.data.params.get(name, "")) for run in runs]) for name in differing[:most]
        ],
        left_out=len(differing[most:]),
    )


def comparison_table(compared: Comparison) -> Table:
    """Return the comparison for the terminal, the best values in bold."""
    table = _table()
    table.add_column("", no_wrap=True)
    for head in compared.heads:
        table.add_column("\n".join(head), overflow="fold")
    for rows in (compared.facts, compared.measured, compared.parameters):
        for title, cells in rows:
            table.add_row(title, *(Text(cell.text, "bold" if cell.best else "") for cell in cells))
        table.add_section()
    if compared.left_out:
        table.caption = f"parameters that differ besides: {compared.left_out}; --parameters 100 shows them"
    return table


def comparison_markdown(compared: Comparison) -> str:
    """Return what decides in the comparison as a Markdown table, the best values in bold."""
    measured = []
    for key, cells in compared.measured:
        split, _, word = key.partition("/")
        if COMPARED[word]:
            measured.append((f"{split}: {COMPARED[word]}", cells))
    facts = [row for row in compared.facts if row[0] not in ("started", "status")]
    rows = [
        ["", *(_escaped(name) for name, _ in compared.heads)],
        ["---", *("---:" for _ in compared.heads)],
        *(
            [title, *(f"**{cell.text}**" if cell.best else _escaped(cell.text) for cell in cells)]
            for title, cells in (*measured, *facts)
        ),
        *([f"`{name}`", *(_escaped(cell.text) for cell in cells)] for name, cells in compared.parameters),
    ]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if compared.left_out:
        lines += ["", f"Parameters that differ besides: {compared.left_out}."]
    return "\n".join(lines)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def _measured_keys(runs: Sequence[Run]) -> list[str]:
    """Return the metrics to compare, split by split, the most important first."""
    there = {key.removeprefix("model/").removeprefix("best/") for run in runs for key in run.data.metrics}
    wanted = [f"{split}/{word}" for split in ("val", "test") for word in COMPARED]
    return [key for key in wanted if key in there]


def _metric(run: Run, key: str) -> float | None:
    """Return the registered model's number, else that of the best epoch, else the last one."""
    found = run.data.metrics
    value = next((found[name] for name in (f"model/{key}", f"best/{key}", key) if name in found), math.nan)
    return value if math.isfinite(value) else None


def _data_of(run: Run, split: str) -> str:
    """Return what tells the images of a split from others: a fingerprint's beginning; "" if unknown."""
    if f"evaluation.{split}" in run.data.tags:
        return str(run.data.tags[f"evaluation.{split}"])
    inputs = run.inputs.dataset_inputs if run.inputs else []
    return next((given.dataset.digest[:8] for given in inputs if given.dataset.name == split), "")


def _marked(key: str, values: Sequence[float | None], data: Sequence[str]) -> list[Cell]:
    """Mark the best value, where all were measured on the same images."""
    known = [value for value in values if value is not None]
    same = len({images for images, value in zip(data, values, strict=True) if value is not None}) == 1
    pick = min if key.endswith(LESS_IS_BETTER) else max
    best = pick(known) if same and len(set(known)) > 1 else None
    return [Cell(_number(value), value is not None and value == best) for value in values]


def _differing(runs: Sequence[Run]) -> list[str]:
    """Return the parameters in which those runs differ that have them, the most telling first."""
    values: dict[str, set[str]] = {}
    for run in runs:
        for name, value in run.data.params.items():
            values.setdefault(name, set()).add(value)
    names = [name for name in values if len(values[name]) > 1 and name not in BOOKKEEPING]
    rank = {name: place for place, name in enumerate(TELLING)}
    return sorted(names, key=lambda name: (rank.get(name, len(rank)), name))


def _number(value: float | None) -> str:
    """Return a short number: fractions to four places."""
    if value is None:
        return ""
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.4f}".rstrip("0").rstrip(".")


def _when(milliseconds: int) -> str:
    return datetime.fromtimestamp(milliseconds / 1000, UTC).strftime("%Y-%m-%d %H:%M")


def _minutes(run: Run) -> str:
    return f"{(run.info.end_time - run.info.start_time) / 60_000:.1f}" if run.info.end_time else ""


def _label(found: RegisteredVersion | None) -> str:
    return " ".join((f"version {found.version}", *found.aliases)) if found else ""


def comparison_url(runs: Sequence[Run], tracking_uri: str) -> str:
    """Return the address of MLflow's own comparison of these runs."""
    ids = quote(json.dumps([run.info.run_id for run in runs]))
    experiments = quote(json.dumps(sorted({run.info.experiment_id for run in runs})))
    return f"{shown(tracking_uri).rstrip('/')}/#/compare-runs?runs={ids}&experiments={experiments}"


def main() -> None:
    """Do what the command line says."""
    settings, command = registry_command()
    try:
        _run(command, settings, Console(markup=False, emoji=False))
    except RegistryError as error:
        raise SystemExit(f"error: {error}") from error


def _run(command: object, settings: RegistryCommand, console: Console) -> None:
    name, uri = settings.model_name, settings.mlflow_tracking_uri
    match command:
        case ListCommand():
            _print_versions(name, uri, console)
        case ShowCommand(version=version):
            found = find_version(name, version, tracking_uri=uri)
            console.print(version_table(found))
            with connection(uri) as client:
                console.print(history_table(read_history(client, name)))
        case PromoteCommand():
            _promote(command, name, uri, console)
        case RollbackCommand(why=why):
            now = rollback(name, tracking_uri=uri, why=why)
            console.print(f"Champion of {name} is version {now.version} again.")
        case ImportCommand():
            _import(command, settings, console)
        case ExportCommand(folder=folder, version=version, alias=alias):
            found = find_version(name, version, alias, tracking_uri=uri)
            console.print(f"{found} is in {export_folder(found, folder)}.")
        case CompareCommand():
            _compare(command, settings, console)
        case SyncCommand(folder=folder):
            console.print(f"Sent what waited in {folder} to run {sync(folder)}.")


def _print_versions(name: str, tracking_uri: str, console: Console) -> None:
    versions = list_versions(name, tracking_uri=tracking_uri)
    if versions:
        console.print(versions_table(versions))
    else:
        console.print(
            f"There is no version of {name} at {tracking_uri} yet. train.py registers one; so does "
            "`python registry.py import FOLDER`."
        )


def _promote(command: PromoteCommand, name: str, tracking_uri: str, console: Console) -> None:
    now, overruled = promote(
        name, command.version, tracking_uri=tracking_uri, why=command.why, force=command.force
    )
    console.print(f"Champion of {name} is now version {now.version}.")
    for objection in overruled:
        console.print(f"Overruled: {objection}.")
    before = now.tags.get("promoted.before")
    if not before:
        return
    champion = find_version(name, before, tracking_uri=tracking_uri)
    for sentence in not_told_apart(now, champion):
        console.print(f"Not told apart: {sentence}.")
    if overruled or same_data(now, champion):
        return
    console.print(
        f"Note: versions {now.version} and {before} were measured on different data, so that their numbers "
        "compare only roughly; evaluate.py scores both on one split."
    )


def _import(command: ImportCommand, settings: RegistryCommand, console: Console) -> None:
    name, uri = settings.model_name, settings.mlflow_tracking_uri
    if command.if_none and list_versions(name, tracking_uri=uri):
        console.print(f"{name} has versions already; {command.folder} was not imported.")
        return
    found, is_new = import_folder(
        command.folder, name=name, experiment=settings.experiment, tracking_uri=uri, source=command.source
    )
    did = "is now" if is_new else "is already"
    console.print(f"{command.folder} {did} {found}{f' ({found.alias})' if found.alias else ''}.")


def _compare(command: CompareCommand, settings: RegistryCommand, console: Console) -> None:
    uri = settings.mlflow_tracking_uri
    found = last_runs(command.experiment, command.runs + 1, tracking_uri=uri)  # one more: are there older?
    runs = found[: command.runs]
    if not runs:
        console.print(f"There are no runs at {shown(uri)} yet; train.py makes one.")
        return
    versions = list_versions(settings.model_name, tracking_uri=uri)
    compared = compare_runs(runs, versions, command.parameters)
    if command.markdown:
        console.print(comparison_markdown(compared), soft_wrap=True, highlight=False)
        return
    console.print(comparison_table(compared))
    if len(found) > len(runs):
        console.print(f"Older runs are left out; --runs {2 * command.runs} shows more.")
    if is_server(uri):
        console.print(f"The same with curves, in MLflow: {comparison_url(runs, uri)}", soft_wrap=True)


if __name__ == "__main__":
    main()
