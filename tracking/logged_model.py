"""A model's folder becomes a version in the registry, and the reverse."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
import json
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, LoggedModel, LoggedModelOutput, Metric, Run
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from PIL import Image

from schemas import ModelCard
from tracking.aliases import alias_target, give_alias, time_now
from tracking.outbox import METRICS_FILE, read_metrics
from tracking.provenance import log_inputs, log_params, who
from tracking.run import SYSTEM, open_experiment
from tracking.tracker import RegistryError, TrackerUnreachable, check_tracker, connection, wait_for_tracker
from tracking.versions import (
    ARTIFACT,
    CHAMPION,
    LOOKALIKE_BOXES,
    MODEL_FILES,
    WEAPON_BOXES,
    RegisteredVersion,
    as_registered,
    card_of,
    download_version,
    every_version,
    export_files,
    find_version,
    make_name,
    sha256_of,
    sha256_tag,
)

REGISTER_TRIES = 3
PATIENCE_SECONDS = 120.0  # how long registering waits for a tracker that restarts
ROOT = Path(__file__).parents[1]
# What the logged model needs to run by itself: every project file that pyfunc_model.py reaches.
SERVING_CODE = ("detection", "schemas.py")
SERVING_PACKAGES = ("mlflow", "torch", "torchvision", "detecto", "safetensors", "pillow", "numpy", "pydantic")


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
    card = card_of(folder)
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
    make_name(client, name)
    tags = {**version_tags(folder, card), **tags}
    checksums = {sha256_tag(file): tags[sha256_tag(file)] for file in MODEL_FILES}
    made = next(
        (each for each in _with_files(client, name, checksums) if each.run_id == run_id), None
    ) or _make_version(client, name, run_id, _log_model(client, folder, card, run_id, checksums), tags)
    give_alias(client, name, str(made.version))
    return as_registered(client.get_model_version(name, made.version), tracking_uri)


def _with_files(client: MlflowClient, name: str, checksums: Mapping[str, str]) -> list[ModelVersion]:
    """Return the versions whose files have these checksums."""
    return [each for each in every_version(client, name) if checksums.items() <= each.tags.items()]


def _make_version(
    client: MlflowClient, name: str, run_id: str, model_id: str, tags: Mapping[str, str]
) -> ModelVersion:
    return client.create_model_version(
        name, source=f"models:/{model_id}", run_id=run_id, tags=dict(tags), model_id=model_id
    )


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
    for file in filter(lambda name: (folder / name).is_file(), export_files(card_of(folder))):
        (staged / file).parent.mkdir(exist_ok=True)
        shutil.copyfile(folder / file, staged / file)
    mlflow.pyfunc.save_model(
        path=str(destination / "model"),
        mlflow_model=Model(artifact_path=ARTIFACT, run_id=run_id, model_uuid=model_id, model_id=model_id),
        python_model=str(Path(__file__).with_name("pyfunc_model.py")),
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
                ColSpec(DataType.string, "verdict", required=False),
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
        "dangerous": ", ".join(card.dangerous),
    }
    tags |= {sha256_tag(file): sha256_of(folder / file) for file in MODEL_FILES}
    return {key: value for key, value in tags.items() if value}


def _point_tags(card: ModelCard) -> dict[str, str]:
    points = {"operating_point": card.operating_point, "unsure_point": card.unsure_point}
    return {
        f"{name}.{key}": f"{value:.6g}" if isinstance(value, float) else str(value)
        for name, point in points.items()
        if point
        for key, value in point.model_dump(exclude_none=True).items()
    }


def _count_tags(card: ModelCard) -> dict[str, str]:
    """Return how many boxes of the validation split the rates between weapon and look-alike are of."""
    val = card.data.get("points", card.data.get("val"))  # the figures are of the part that chose the points
    boxes = val.get("boxes") if isinstance(val, dict) else None
    if not isinstance(boxes, dict) or not all(isinstance(count, int) for count in boxes.values()):
        return {}
    weapons = sum(count for name, count in boxes.items() if name in card.dangerous)
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
    card = card_of(folder)
    check_tracker(tracking_uri)
    checksums = {sha256_tag(file): sha256_of(folder / file) for file in MODEL_FILES}
    tags = {"source": source or str(folder), "imported_by": who(), "imported_at": time_now()}
    with connection(tracking_uri) as client:
        make_name(client, name)
        there = [str(each.version) for each in _with_files(client, name, checksums)]
        if there:
            version = max(there, key=int)
            if alias_target(client, name, CHAMPION) is None:  # an import before was cut short
                give_alias(client, name, version)
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
