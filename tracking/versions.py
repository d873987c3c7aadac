"""Registered versions: found, listed, downloaded and checked."""

from __future__ import annotations

import errno
import hashlib
import logging
import math
import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import mlflow
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from detection.card import DetectorError, read_card
from schemas import CARD_FILE, DANGEROUS, WEIGHTS_FILE, ModelCard
from tracking.tracker import RegistryError, TrackerUnreachable, ask_version, connection

log = logging.getLogger(__name__)
MODEL_FILES = (WEIGHTS_FILE, CARD_FILE)
ARTIFACT = "detector"  # the model folder's name inside a logged model, as pyfunc_model.py reads it
CHAMPION, CHALLENGER = "champion", "challenger"
OURS = {"model_format": "detector-folder"}  # tells our registered models from other people's
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

    def classes(self) -> tuple[frozenset[str], frozenset[str]] | None:
        """Return what the model tells apart, and what of it is dangerous; None where nothing says so."""
        names = frozenset(filter(None, self.tags.get("classes", "").split(", ")))
        dangerous = frozenset(filter(None, self.tags.get("dangerous", "").split(", ")))
        return (names, dangerous or names & {*DANGEROUS}) if names else None

    def count(self, key: str) -> int:
        """Return how many images or boxes a value of GATE is a share of; 0 if that is not known."""
        return max(0, int(self.measured(GATE[key].counted) or 0))


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
                return as_registered(client.get_model_version(name, str(version)), tracking_uri)
            return as_registered(client.get_model_version_by_alias(name, alias), tracking_uri, alias)
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
        found = every_version(client, name)
    by_version: dict[str, list[str]] = {}
    for alias, number in aliases.items():
        by_version.setdefault(str(number), []).append(alias)
    made = [
        as_registered(each, tracking_uri, aliases=by_version.get(str(each.version), ())) for each in found
    ]
    return sorted(made, key=lambda each: -int(each.version))


def every_version(client: MlflowClient, name: str) -> list[ModelVersion]:
    """Return all versions of a model, page after page."""
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


def as_registered(
    found: ModelVersion, tracking_uri: str, alias: str | None = None, aliases: Sequence[str] = ()
) -> RegisteredVersion:
    """Return MLflow's version as ours."""
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
        destination, which then holds model.json, weights.safetensors and the exports that the card names.

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
            _download_exports(found, paths[CARD_FILE].parent, destination)
            for file, path in paths.items():  # the card last: a folder with a card is complete
                path.replace(destination / file)
    except OSError as error:
        raise RegistryError(
            f"{found} cannot be written to {destination}: {error}. "
            "It needs room and the right to write there."
        ) from error
    return destination


def export_files(card: ModelCard) -> list[str]:
    """Return the files of a card's exports, by their path in the model folder."""
    return [file for export in card.exports for file in export.files]


def _download_exports(found: RegisteredVersion, card_folder: Path, destination: Path) -> None:
    """Download what the card in card_folder says that exports lie beside it.

    One that cannot be had is left out, and so is not served; the model can be served without. Whether it is
    the file that the card means, whoever loads it asks.
    """
    try:
        card = read_card(card_folder)
    except DetectorError as error:
        raise RegistryError(f"{found} cannot be used: {error}") from error
    for file in export_files(card):
        target = destination / file
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination, prefix=".download-") as temporary:
            try:
                _download(found, file, Path(temporary)).replace(target)
            except TrackerUnreachable:
                raise
            except RegistryError as error:
                log.warning("%s", error)


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
    expected = found.tags.get(sha256_tag(path.name))
    if expected and sha256_of(path) != expected:
        raise RegistryError(
            f"{path.name} of {found} is not the file that was registered: its SHA-256 differs from the "
            "version's tag. The artifact store is damaged or was changed; register the model again."
        )


def sha256_tag(file: str) -> str:
    """Return the tag that holds the checksum of a file."""
    return f"sha256.{file}"


def sha256_of(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def card_of(folder: Path) -> ModelCard:
    """Read the model card of a model folder.

    Raises:
        RegistryError: folder is not a model folder.
    """
    if not all((folder / file).is_file() for file in MODEL_FILES):
        raise RegistryError(f"Expected a model folder with {WEIGHTS_FILE} and {CARD_FILE} at {folder}.")
    try:
        return read_card(folder)
    except DetectorError as error:
        raise RegistryError(str(error)) from error


def check_name(name: str, *, tracking_uri: str) -> None:
    """Make sure that a model can be registered under name.

    Raises:
        RegistryError: the name belongs to something that this project did not make.
    """
    ask_version(tracking_uri)
    with connection(tracking_uri) as client:
        make_name(client, name)


def make_name(client: MlflowClient, name: str) -> None:
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
