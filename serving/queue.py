"""Runs one model for many callers: a bounded queue, a few threads, and a model that may change under them.

No HTTP here: mlapi.py translates.

ServingError
  QueueFull      no place left; says when to come back
  NoModel        nothing is loaded yet; says why
"""

from __future__ import annotations

import asyncio
import logging
import math
import os
import queue
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar
from urllib.parse import quote

import numpy as np

from detections import WEAPONS, Detections
from imaging import Image
from registry import RegisteredVersion, VersionNotFound
from schemas import ListedVersion, ModelCard, ModelName
from tracker import shown

log = logging.getLogger("mlapi.serving")
T = TypeVar("T")

RETRY_FIRST_SECONDS = 1.0
RETRY_LONGEST_SECONDS = 60.0


class ServingError(RuntimeError):
    """The model cannot answer now."""


class QueueFull(ServingError):
    """No place is left in the queue.

    Attributes:
        retry_after_seconds: when a place should be free.
    """

    def __init__(self, retry_after_seconds: int) -> None:
        super().__init__(f"every place in the queue is taken; try again in {retry_after_seconds} s")
        self.retry_after_seconds = retry_after_seconds


class NoModel(ServingError):
    """No model is loaded yet; the message says why."""


# --- cores ------------------------------------------------------------------------------------------


def granted_cores(root: Path = Path("/")) -> int:
    """Return how many cores this process may use, at least 1.

    The smaller of the affinity mask and the cgroup quota (version 2 and 1), rounded down: a thread more
    than the quota allows is stopped in mid-step and all others wait for it.

    Args:
        root: where proc and sys are; for tests.
    """
    mask = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min(mask, _cgroup_quota(root))))


def _cgroup_quota(root: Path) -> float:
    quotas = [math.inf]
    for folder in _cgroup_folders(root):
        limit, period = [*_read(folder / "cpu.max").split(), "", ""][:2]
        if not limit:
            limit, period = _read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us")
        if limit.isdecimal() and period.isdecimal() and int(period) > 0:
            quotas.append(int(limit) / int(period))
    return min(quotas)


def _cgroup_folders(root: Path) -> list[Path]:
    """Return the folders whose quota binds this process: its own group and every one above."""
    folders = []
    for line in _read(root / "proc/self/cgroup").splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group = top / path.strip("/")
        folders += [folder for folder in (group, *group.parents) if folder.is_relative_to(top)]
    return folders


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


# --- the queue --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Ran(Generic[T]):
    """What a piece of work returned, and how long it waited and took."""

    value: T
    queue_ms: float
    run_ms: float


class InferenceQueue:
    """A bounded queue in front of a few threads; a place is a request. Used from one event loop only.

    Args:
        workers: threads, so pieces of work at the same time.
        max_waiting: pieces of work that may wait beside those running.
        set_up: called once in each thread.
    """

    def __init__(self, workers: int, max_waiting: int, set_up: Callable[[], None] = lambda: None) -> None:
        self.workers = workers
        self._places = workers + max_waiting
        self._taken = 0
        self._usual_seconds = 0.5  # a running mean; the start is a guess that the first answers correct
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._begun: dict[int, float] = {}  # thread -> when it began what it is at
        # The interpreter does not wait for daemons: a thread that is stuck keeps no process from ending.
        self._threads = [
            threading.Thread(target=self._run, args=(set_up,), name=f"inference_{i}", daemon=True)
            for i in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def _run(self, set_up: Callable[[], None]) -> None:
        set_up()
        me = threading.get_ident()
        while (work := self._work.get()) is not None:
            self._begun[me] = time.monotonic()
            try:
                work()
            finally:
                del self._begun[me]
            del work  # it holds a picture's bytes

    @property
    def waiting(self) -> int:
        """Pieces of work that nobody has begun."""
        return max(0, self._taken - self.workers)

    @property
    def busy_seconds(self) -> float:
        """For how long the piece of work that was begun first has been running; 0 where none runs."""
        begun = list(self._begun.values())
        return time.monotonic() - min(begun) if begun else 0.0

    def check_room(self, *, full: bool = False) -> None:
        """Raise QueueFull unless a place is free, or if the caller knows that it is full."""
        missing = self._taken + 1 - self._places
        if missing > 0 or full:
            seconds = math.ceil(missing * self._usual_seconds / self.workers)
            raise QueueFull(min(max(seconds, 1), 60))

    def submit(self, piece: Callable[[], T]) -> asyncio.Future[Ran[T]]:
        """Queue a piece of work.

        Cancelling its future drops work that has not begun; begun work keeps its place to the end.

        Raises:
            QueueFull: no place is free.
        """
        self.check_room()
        return self._submit(piece, places=1)

    def run_aside(self, piece: Callable[[], T]) -> asyncio.Future[Ran[T]]:
        """Run work that takes no caller's place, after all that was accepted so far."""
        return self._submit(piece, places=0)

    def _submit(self, piece: Callable[[], T], *, places: int) -> asyncio.Future[Ran[T]]:
        loop = asyncio.get_running_loop()
        future: Future[Ran[T]] = Future()
        future.add_done_callback(lambda done: loop.call_soon_threadsafe(self._release, done, places))
        self._taken += places
        self._work.put(partial(_carry_out, future, piece, time.perf_counter()))
        return asyncio.wrap_future(future)

    def _release(self, done: Future[Ran[T]], places: int) -> None:
        self._taken -= places
        if places and not done.cancelled() and done.exception() is None:
            self._usual_seconds += 0.2 * (done.result().run_ms / 1000 - self._usual_seconds)

    def close(self, seconds: float = 30) -> bool:
        """Finish what was accepted and end the threads; True if they did within that time."""
        end = time.monotonic() + seconds
        for _ in self._threads:
            self._work.put(None)
        for thread in self._threads:
            thread.join(max(0.0, end - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)


def _carry_out(future: Future[Ran[T]], piece: Callable[[], T], submitted: float) -> None:
    """Run a piece of work and hand its value or its error to the future; not if that was cancelled."""
    if not future.set_running_or_notify_cancel():
        return
    began = time.perf_counter()
    try:
        value = piece()
    except BaseException as error:  # noqa: BLE001 - whoever waits for it raises it
        future.set_exception(error)
        return
    future.set_result(Ran(value, (began - submitted) * 1000, (time.perf_counter() - began) * 1000))


# --- the model --------------------------------------------------------------------------------------


class AnyDetector(Protocol):
    """What serving needs of detector.Detector."""

    @property
    def card(self) -> ModelCard:
        """What model.json holds."""

    def detect(
        self,
        image: Image,
        *,
        nms_iou: float | None = None,
        max_detections: int | None = None,
        probabilities: bool = False,
    ) -> Detections:
        """Return every detection in image, best first."""


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
            )
            for found in self._list_versions(self._name)
        ]

    def newest(self) -> str:
        """Return the version number that should be served now."""
        return self._find_version(self._name, self._version, self._alias).version

    def load(self, identity: str) -> ServedModel:
        """Download that version into a temporary folder and load it."""
        found = self._find_version(self._name, identity, None)
        with tempfile.TemporaryDirectory(prefix="model-") as folder:
            downloaded = self._download_version(found, Path(folder))
            detector = self._load_detector(downloaded)
            self._keep(downloaded, found.version)
        name = ModelName(name=self._name, version=found.version, alias=self._alias)
        source = f"models:/{self._name}" + (f"@{self._alias}" if self._alias else f"/{found.version}")
        tracker = (self._public_uri or shown(found.tracking_uri)).rstrip("/")
        page = f"{tracker}/#/models/{quote(found.name)}/versions/{found.version}"
        return ServedModel(detector, name, source, page)

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
        missing = set(WEAPONS) - set(loaded.detector.card.class_names)
        if missing:
            raise ServingError(f"the model has no class {' or '.join(sorted(missing))}, so it cannot warn")
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


def warm_up(detector: AnyDetector) -> None:
    """Run once on grey, so that the first person does not wait for lazy set-up."""
    network = detector.card.network
    detector.detect(np.full((network.min_size, network.max_size, 3), 128, np.uint8))
