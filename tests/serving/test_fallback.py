"""The API serves a folder's model until the registry has one, and not after."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import pytest
from fake_detector import FakeDetector

from schemas import ListedVersion, ModelName
from serving.models import FallbackSource, FolderSource, ModelHost, RegistrySource, ServedModel
from serving.queue import InferenceQueue, QueueFull
from tracking.tracker import TrackerUnreachable
from tracking.versions import RegisteredVersion, VersionNotFound


class Source:
    """Says an identity, or that there is no version."""

    def __init__(self, identity: str | None) -> None:
        self.identity = identity

    def newest(self) -> str:
        if self.identity is None:
            raise VersionNotFound("there is no such model")
        return self.identity

    def load(self, identity: str) -> ServedModel:
        detector: Any = None
        return ServedModel(detector, ModelName(name="weapon-detector"), f"{self.identity} gave {identity}")

    def spare(self) -> ServedModel | None:
        return None

    def listed(self) -> list[ListedVersion]:
        return [] if self.identity is None else [ListedVersion(version=self.identity, served=False)]


def test_an_empty_registry_gives_the_folder_and_a_filled_one_takes_over():
    registered, folder = Source(None), Source("/starter")
    source = FallbackSource(registered, folder)
    assert source.load(source.newest()).source == "/starter gave /starter"
    registered.identity = "1"
    assert source.load(source.newest()).source == "1 gave 1"


def test_a_registry_that_loses_its_model_does_not_bring_the_folder_back():
    registered = Source("1")
    source = FallbackSource(registered, Source("/starter"))
    source.newest()
    registered.identity = None
    with pytest.raises(VersionNotFound):
        source.newest()


def test_versions_listed_are_the_registrys_as_soon_as_it_has_some():
    registered = Source(None)
    source = FallbackSource(registered, Source("/starter"))
    assert [each.version for each in source.listed()] == ["/starter"]
    registered.identity = "1"
    assert [each.version for each in source.listed()] == ["1"]


class Registry:
    """A tracker with one version that can be away."""

    def __init__(self) -> None:
        self.version, self.away = "1", False

    def find(self, name: str, version: str | None, alias: str | None) -> RegisteredVersion:
        if self.away:
            raise TrackerUnreachable("no tracker answers")
        return RegisteredVersion(name, version or self.version, alias, "", {}, "http://127.0.0.1:5000")

    def download(self, version: RegisteredVersion, folder: Path) -> Path:
        (folder / "model.txt").write_text(version.version)
        return folder


class Marked(FakeDetector):  # type: ignore[misc]
    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.mark = (folder / "model.txt").read_text()


def host_of(registry: Registry, kept_in: Path, starter: Path) -> ModelHost:
    registered = RegistrySource(
        "weapon-detector", None, "champion", find_version=registry.find,
        download_version=registry.download, load_detector=Marked, kept_in=kept_in,
    )  # fmt: skip
    source = FallbackSource(registered, FolderSource(starter, "weapon-detector", Marked))
    return ModelHost(source, InferenceQueue(1, 1).run_aside, 0.01)


def mark(host: ModelHost) -> str:
    detector = host.served.detector
    assert isinstance(detector, Marked)
    return detector.mark


@pytest.fixture
def starter(tmp_path) -> Path:
    folder = tmp_path / "starter"
    folder.mkdir()
    (folder / "model.txt").write_text("starter")
    return folder


def test_a_start_while_the_tracker_is_away_serves_the_last_model_and_says_so(tmp_path, starter):
    async def scenario() -> None:
        registry = Registry()
        first = host_of(registry, tmp_path / "kept", starter)
        registry.away = True
        await first.refresh()
        assert mark(first) == "starter"
        assert "no tracker answers" in (first.trouble or "")
        registry.away = False
        for version in ("1", "2"):
            registry.version = version
            await first.refresh()
            assert (mark(first), first.trouble) == (version, None)
        registry.away = True
        later = host_of(registry, tmp_path / "kept", starter)
        await later.refresh()
        assert mark(later) == later.served.name.version == "2"
        assert "no tracker answers" in (later.trouble or "")
        registry.away, registry.version = False, "3"
        await later.refresh()
        assert (mark(later), later.trouble) == ("3", None)
        assert [folder.name for folder in (tmp_path / "kept/weapon-detector").iterdir()] == ["3"]

    asyncio.run(scenario())


def test_a_disk_without_room_for_the_kept_model_stops_nothing(tmp_path, starter):
    (tmp_path / "kept").write_text("a file where the folder should be")
    host = host_of(Registry(), tmp_path / "kept", starter)
    asyncio.run(host.refresh())
    assert (mark(host), host.trouble) == ("1", None)


def test_a_new_model_is_warmed_up_although_every_place_is_taken():
    async def scenario() -> None:
        queue = InferenceQueue(1, 0)
        held = threading.Event()
        request = queue.submit(held.wait)
        with pytest.raises(QueueFull):
            queue.submit(held.wait)
        warm = queue.run_aside(lambda: "warm")
        assert queue.waiting == 0
        held.set()
        assert (await warm).value == "warm"
        assert (await request).value
        await asyncio.sleep(0)
        queue.submit(held.wait)
        queue.close()

    asyncio.run(scenario())
