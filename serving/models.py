"""Which model is served: where versions come from, and the one that answers until the next is ready."""

from __future__ import annotations

import asyncio
import logging
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol
from urllib.parse import quote

from detection.runtime import AnyDetector, warm_up
from detection.runtimes import NothingRuns
from schemas import ListedVersion, ModelName
from serving.queue import Ran, ServingError
from tracking.tracker import shown
from tracking.versions import RegisteredVersion, VersionNotFound

log = logging.getLogger("mlapi.serving")
RETRY_FIRST_SECONDS = 1.0
RETRY_LONGEST_SECONDS = 60.0
COMPARED = tuple(  # what is told of every version
    f"{split}/{metric}{end}"
    for split in ("val", "test")
    for metric in ("map", "original_protocol/map", "alarm/image_recall", "alarm/false_alarms_per_1000")
    for end in ("", "/low", "/high")
)


class NoModel(ServingError):
    """No model is loaded yet; the message says why."""


LoadDetector = Callable[[Path], AnyDetector]
FindVersion = Callable[[str, str | None, str | None], RegisteredVersion]
DownloadVersion = Callable[[RegisteredVersion, Path], Path]
ListVersions = Callable[[str], list[RegisteredVersion]]


@dataclass(frozen=True)
class ServedModel:
    """A loaded model and where it came from. Replaced as a whole, never changed."""

    detector: AnyDetector
    name: ModelName
    source: str
    version_url: str | None = None
    loaded_at: str = ""


class ModelSource(Protocol):
    """Where models come from. Every method blocks."""

    def newest(self) -> str:
        """Return the identity of the model that should be served now; it changes when another should."""

    def load(self, identity: str) -> ServedModel:
        """Load that model."""

    def spare(self) -> ServedModel | None:
        """Return a model to serve while the right one cannot be had; None if there is none."""

    def listed(self) -> list[ListedVersion]:
        """Return every model that it could load, newest first, none of them marked as served."""


class FolderSource:
    """One model folder, served as it is."""

    def __init__(self, folder: Path, name: str, load_detector: LoadDetector) -> None:
        self._folder, self._name, self._load_detector = folder, name, load_detector

    def newest(self) -> str:
        """Return the folder; another model in it is only seen after a restart."""
        return str(self._folder)

    def load(self, identity: str) -> ServedModel:
        """Load the folder."""
        detector = self._load_detector(self._folder)
        name = ModelName(name=self._name, version=None, alias=None)
        return ServedModel(detector, name, identity)

    def spare(self) -> ServedModel | None:
        """Return nothing: what cannot be loaded now cannot be loaded instead."""
        return None

    def listed(self) -> list[ListedVersion]:
        """Return the folder's model."""
        return [ListedVersion(version=None, served=False)]


class RegistrySource:
    """A registered model: a pinned version, or whatever an alias points at.

    Args:
        name: registered model.
        version: pinned version, or None to follow alias.
        alias: movable name.
        find_version: registry.find_version, bound to a tracker.
        download_version: registry.download_version, likewise.
        load_detector: folder -> detector.
        list_versions: registry.list_versions, likewise.
        public_uri: the tracker's address as a person's browser reaches it; by default the API's own for it.
        kept_in: folder that keeps the last version loaded, for a start while the tracker is away.
    """

    def __init__(
        self,
        name: str,
        version: str | None,
        alias: str | None,
        *,
        find_version: FindVersion,
        download_version: DownloadVersion,
        load_detector: LoadDetector,
        list_versions: ListVersions = lambda _: [],
        public_uri: str | None = None,
        kept_in: Path | None = None,
    ) -> None:
        self._name, self._version = name, version
        self._alias = None if version else alias
        self._find_version, self._download_version = find_version, download_version
        self._load_detector, self._list_versions = load_detector, list_versions
        self._public_uri = public_uri
        self._kept = kept_in / name if kept_in is not None else None

    def listed(self) -> list[ListedVersion]:
        """Return every version of the registered model, newest first."""
        return [
            ListedVersion(
                version=found.version,
                aliases=sorted(found.aliases),
                served=False,
                created_at=datetime.fromtimestamp(found.created_at / 1000, UTC).isoformat(timespec="seconds"),
                metrics={key: value for key in COMPARED if (value := found.measured(key)) is not None},
                version_url=self._page(found),
                run_url=f"{self._tracker(found)}/#/runs/{found.run_id}" if found.run_id else None,
            )
            for found in self._list_versions(self._name)
        ]

    def newest(self) -> str:
        """Return the version number that should be served now."""
        return self._find_version(self._name, self._version, self._alias).version

    def load(self, identity: str) -> ServedModel:
        """Download that version into a temporary folder and load it.

        Raises:
            ServingError: nothing here can run it; the message says how to make an export of it.
        """
        found = self._find_version(self._name, identity, None)
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            downloaded = self._download_version(found, Path(folder))
            try:
                detector = self._load_detector(downloaded)
            except NothingRuns as error:
                raise ServingError(f"{error.why}. {how_to_export(found.version)}") from error
            self._keep(downloaded, found.version)
        name = ModelName(name=self._name, version=found.version, alias=self._alias)
        source = f"models:/{self._name}" + (f"@{self._alias}" if self._alias else f"/{found.version}")
        return ServedModel(detector, name, source, self._page(found))

    def _tracker(self, found: RegisteredVersion) -> str:
        """Return the tracker's address as a person's browser reaches it."""
        return (self._public_uri or shown(found.tracking_uri)).rstrip("/")

    def _page(self, found: RegisteredVersion) -> str:
        return f"{self._tracker(found)}/#/models/{quote(found.name)}/versions/{found.version}"

    def _keep(self, folder: Path, version: str) -> None:
        """Put the version where spare() finds it, in place of an earlier one; without room for it, go on."""
        if self._kept is None:
            return
        arriving = self._kept / f".{version}"
        try:
            shutil.rmtree(arriving, ignore_errors=True)
            shutil.copytree(folder, arriving)
            for old in self._kept.iterdir():
                if old != arriving:
                    shutil.rmtree(old)
            arriving.rename(self._kept / version)
        except OSError as error:
            log.warning("the model could not be kept for a later start", extra={"error": str(error)})

    def spare(self) -> ServedModel | None:
        """Return the version kept on disk, if there is a whole one."""
        if self._kept is None or not self._kept.is_dir():
            return None
        for folder in self._kept.iterdir():
            if not folder.name.startswith("."):
                name = ModelName(name=self._name, version=folder.name, alias=None)
                return ServedModel(self._load_detector(folder), name, str(folder))
        return None


def how_to_export(version: str) -> str:
    """Return what to do about a registered version that has no fitting export."""
    return (
        f"Where PyTorch is installed, write the version into a folder (python registry.py export FOLDER "
        f"--version {version}), export it there (python registry.py export FOLDER --format openvino --data "
        "FOLDER_OF_PHOTOS) and register that (python registry.py import FOLDER), or serve it with PyTorch"
    )


class FallbackSource:
    """The registry's model, or a folder's for as long as the registry has none or cannot be asked."""

    def __init__(self, registered: ModelSource, folder: ModelSource) -> None:
        self._registered, self._folder = registered, folder
        self._fall_back = True

    def newest(self) -> str:
        """Return what the registry says, or the folder until it has said something once."""
        try:
            identity = self._registered.newest()
        except VersionNotFound:
            if self._fall_back:
                return self._folder.newest()
            raise
        self._fall_back = False
        return identity

    def load(self, identity: str) -> ServedModel:
        """Load from where that identity came."""
        source = self._folder if identity == self._folder.newest() else self._registered
        return source.load(identity)

    def spare(self) -> ServedModel | None:
        """Return the registry's version kept on disk, else the folder's model."""
        return self._registered.spare() or self._folder.load(self._folder.newest())

    def listed(self) -> list[ListedVersion]:
        """Return the registry's versions, or the folder's model for as long as there are none."""
        return self._registered.listed() or self._folder.listed()


class ModelHost:
    """Keeps one model loaded and warm, and follows its source.

    A new model is loaded and warmed beside the old one and takes its place in one step. If it cannot be,
    the old one keeps serving and trouble says why.

    Args:
        source: where models come from.
        run: runs blocking work where inference runs, for warming up.
        every_seconds: how often to ask the source.
    """

    def __init__(
        self,
        source: ModelSource,
        run: Callable[[Callable[[], None]], asyncio.Future[Ran[None]]],
        every_seconds: float,
    ) -> None:
        self._source, self._run, self._every_seconds = source, run, every_seconds
        self._served: ServedModel | None = None
        self._identity: str | None = None
        self._failed: str | None = None  # an identity that could not be loaded
        self._retry_at = 0.0
        self._failures = 0
        self.trouble: str | None = "the model is being loaded"
        self.on_swap: Callable[[ServedModel], None] = lambda _: None

    @property
    def served(self) -> ServedModel:
        """The model to use for a whole request.

        Raises:
            NoModel: none is loaded yet.
        """
        if self._served is None:
            raise NoModel(self.trouble)
        return self._served

    def listed(self) -> list[ListedVersion]:
        """Return every model that could be served, newest first. Blocks."""
        served = self._served.name.version if self._served else None
        return [
            version.model_copy(update={"served": self._served is not None and version.version == served})
            for version in self._source.listed()
        ]

    async def watch(self) -> None:
        """Load the first model, then follow the source until cancelled."""
        while True:
            await self.refresh()
            first = self._served is None
            await asyncio.sleep(min(self._pause(), self._every_seconds) if first else self._every_seconds)

    async def refresh(self) -> None:
        """Ask the source once and take over what it says, or note why that was not possible."""
        identity = None
        try:
            identity = await asyncio.to_thread(self._source.newest)
            if identity == self._identity:
                if self.trouble is not None:
                    log.info("the model served is the right one again", extra={"version": identity})
                self._settle()
            elif identity != self._failed or time.monotonic() >= self._retry_at:
                await self._take_over(identity)
        except Exception as error:  # noqa: BLE001 - whatever is wrong with a new model, the old one serves on
            self._note(identity, error)
            if self._served is None:
                await self._serve_spare()

    async def _serve_spare(self) -> None:
        """Serve what there is until the right model can be had; trouble goes on saying why."""
        try:
            spare = await asyncio.to_thread(self._source.spare)
            if spare is not None:
                await self._serve(spare)
        except Exception as error:  # noqa: BLE001 - then there is none, and the first trouble is what matters
            log.warning("the spare model cannot be served either: %s", error)

    async def _take_over(self, identity: str) -> None:
        await self._serve(await asyncio.to_thread(self._source.load, identity))
        self._identity = identity
        self._settle()

    async def _serve(self, loaded: ServedModel) -> None:
        card = loaded.detector.card
        if not card.dangerous:
            names = ", ".join(card.class_names[1:])
            raise ServingError(f"the model calls none of its classes dangerous ({names}), so it cannot warn")
        await self._run(lambda: warm_up(loaded.detector))
        now = datetime.now(UTC).isoformat(timespec="seconds")
        self._served = replace(loaded, loaded_at=now)
        self.on_swap(self._served)
        log.info("model loaded", extra={"model": loaded.name.model_dump(), "source": loaded.source})

    def _settle(self) -> None:
        self.trouble, self._failed, self._failures = None, None, 0

    def _note(self, identity: str | None, error: Exception) -> None:
        what = (
            "the model cannot be looked up" if identity is None else f"{_called(identity)} cannot be served"
        )
        trouble = f"{what}: {error}"
        if trouble != self.trouble:  # said once, not at every poll
            log.warning(trouble, extra={"error": type(error).__name__, "still_serving": self._identity})
        self.trouble = trouble
        self._failures += 1
        if identity is not None:
            self._failed, self._retry_at = identity, time.monotonic() + self._pause()

    def _pause(self) -> float:
        return float(min(RETRY_FIRST_SECONDS * 2.0 ** max(0, self._failures - 1), RETRY_LONGEST_SECONDS))


def _called(identity: str) -> str:
    return f"version {identity}" if identity.isdecimal() else f"the model folder {identity}"
