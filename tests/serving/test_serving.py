"""Cores, queue and model host, without HTTP."""

import asyncio
import logging
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from conftest import LONGEST_S
from fake_detector import FakeDetector, make_card

from detection.detections import BACKGROUND
from serving.cores import granted_cores
from serving.models import RETRY_LONGEST_SECONDS, FolderSource, ModelHost, NoModel, RegistrySource
from serving.queue import InferenceQueue, QueueFull
from tracking.tracker import RegistryError
from tracking.versions import RegisteredVersion

# --- cores ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "cores"),
    [
        ({}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000"}, 8),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "200000 100000"}, 2),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "350000 100000"}, 3),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"}, 1),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "9900000 100000"}, 8),
        ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/cpu.max": "300000 100000"}, 3),
        (
            {
                "proc/self/cgroup": "0::/a/b\n",
                "sys/fs/cgroup/a/cpu.max": "300000 100000",
                "sys/fs/cgroup/a/b/cpu.max": "400000 100000",
            },
            3,
        ),
        (
            {
                "proc/self/cgroup": "4:memory:/x\n3:cpu,cpuacct:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "250000",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            2,
        ),
        (
            {
                "proc/self/cgroup": "3:cpu:/x\n",
                "sys/fs/cgroup/cpu/x/cpu.cfs_quota_us": "-1",
                "sys/fs/cgroup/cpu/x/cpu.cfs_period_us": "100000",
            },
            8,
        ),
        ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "nonsense"}, 8),
    ],
)
def test_granted_cores_follow_the_cgroup_quota(tmp_path, monkeypatch, files, cores):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    for name, content in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    assert granted_cores(tmp_path) == cores


def test_granted_cores_here_are_at_least_one():
    assert granted_cores() >= 1


# --- queue ------------------------------------------------------------------------------------------


def play(steps):
    """Run a coroutine, and not for ever."""
    return asyncio.run(asyncio.wait_for(steps, LONGEST_S))


async def until(condition):
    while not condition():
        await asyncio.sleep(0.005)


class Held:
    """Work that has begun, and ends when it is let go."""

    def __init__(self) -> None:
        self.begun, self.gate = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.begun.set()
        self.gate.wait(LONGEST_S)


def test_work_is_answered_in_order_with_its_times():
    async def run():
        queue = InferenceQueue(1, 10)
        answers = await asyncio.gather(*(queue.submit(partial(pow, i, 2)) for i in range(5)))
        queue.close()
        return answers

    answers = asyncio.run(run())
    assert [answer.value for answer in answers] == [0, 1, 4, 9, 16]
    assert all(answer.queue_ms >= 0 and answer.run_ms >= 0 for answer in answers)


def test_places_are_given_back_after_success_failure_and_cancellation():
    async def run():
        held = Held()
        queue = InferenceQueue(1, 1)
        running = queue.submit(held)
        waiting = queue.submit(held)
        with pytest.raises(QueueFull) as refused:
            queue.submit(held)
        assert 1 <= refused.value.retry_after_seconds <= 60
        await until(held.begun.is_set)
        waiting.cancel()
        await until(lambda: queue.waiting == 0)
        failing = queue.submit(lambda: 1 // 0)  # the cancelled one's place
        held.gate.set()
        await running
        with pytest.raises(ZeroDivisionError):
            await failing
        await until(lambda: queue._taken == 0)
        queue.close()

    play(run())


def test_running_work_keeps_its_place_when_nobody_waits_for_it_any_more():
    async def run():
        held = Held()
        queue = InferenceQueue(1, 0)
        running = queue.submit(held)
        await until(held.begun.is_set)
        running.cancel()
        await asyncio.sleep(0.05)  # in which its place could be given back too early
        assert not has_room(queue)
        held.gate.set()
        await until(lambda: has_room(queue))
        queue.close()

    play(run())


def has_room(queue):
    try:
        queue.check_room()
    except QueueFull:
        return False
    return True


# --- host -------------------------------------------------------------------------------------------


class FakeRegistry:
    """A registry with one alias that a test moves, and a tracker that can be down."""

    def __init__(self) -> None:
        self.champion = "1"
        self.down = False
        self.detectors: dict[str, FakeDetector | Exception] = {"1": FakeDetector(), "2": FakeDetector()}
        self.downloads: list[str] = []
        self.folders: list[Path] = []

    def find_version(self, name, version, alias):
        if self.down:
            raise RegistryError("No MLflow tracker answers.")
        number = version or self.champion
        return RegisteredVersion(name, number, alias, f"run-{number}", {}, "http://tracker:5000/")

    def download_version(self, found, destination):
        self.downloads.append(found.version)
        self.folders.append(destination)
        (destination / "model.json").write_text(found.version)
        return destination

    def load(self, folder):
        detector = self.detectors[(folder / "model.json").read_text()]
        if isinstance(detector, Exception):
            raise detector
        return detector

    def source(self, version=None) -> RegistrySource:
        return RegistrySource(
            "weapon-detector", version, "champion",
            find_version=self.find_version, download_version=self.download_version, load_detector=self.load,
        )  # fmt: skip


@pytest.fixture
def registry():
    return FakeRegistry()


def hosted(source, steps):
    """Run steps(host) with a host whose warm-ups run in a queue, as in the API."""

    async def run():
        queue = InferenceQueue(1, 10)
        host = ModelHost(source, queue.run_aside, 0.01)
        await steps(host)
        queue.close()

    play(run())


def test_the_champion_is_loaded_warmed_and_named(registry):
    async def steps(host):
        with pytest.raises(NoModel, match="being loaded"):
            host.served  # noqa: B018 - asking is the test
        await host.refresh()
        served = host.served
        assert served.name.model_dump() == {"name": "weapon-detector", "version": "1", "alias": "champion"}
        assert served.source == "models:/weapon-detector@champion"
        assert served.version_url == "http://tracker:5000/#/models/weapon-detector/versions/1"
        assert served.detector.calls == [{"shape": (32, 48, 3), "nms_iou": None, "max_detections": None}]
        assert served.loaded_at
        assert host.trouble is None
        assert not registry.folders[0].exists(), "nothing downloaded is left behind"

    hosted(registry.source(), steps)


def test_a_moved_alias_swaps_the_model_and_one_that_stays_loads_nothing(registry):
    async def steps(host):
        swapped = []
        host.on_swap = lambda served: swapped.append(served.name.version)
        for champion in ("1", "1", "2", "2", "1"):
            registry.champion = champion
            await host.refresh()
            assert host.served.name.version == champion
        assert swapped == registry.downloads == ["1", "2", "1"]

    hosted(registry.source(), steps)


@pytest.mark.parametrize(
    "broken",
    [
        RegistryError("weights.safetensors is not the file that was registered"),
        RuntimeError("the network does not fit the weights"),
        MemoryError("no memory"),
        FakeDetector(card=make_card(class_names=(BACKGROUND, "cat"))),
    ],
    ids=["registry", "torch", "memory", "no weapon class"],
)
def test_a_version_that_cannot_be_served_leaves_the_old_one_serving_and_says_why(registry, broken):
    async def steps(host):
        await host.refresh()
        registry.champion, registry.detectors["2"] = "2", broken
        await host.refresh()
        assert host.served.name.version == "1"
        assert host.trouble.startswith("version 2 cannot be served: ")
        await host.refresh()
        assert registry.downloads == ["1", "2"], "it is not downloaded again at every look"
        registry.champion = "1"  # rolled back
        await host.refresh()
        assert host.trouble is None

    hosted(registry.source(), steps)


def test_a_model_that_fails_its_warm_up_is_not_served(registry):
    async def steps(host):
        await host.refresh()
        registry.detectors["2"].error = RuntimeError("nan")
        registry.champion = "2"
        await host.refresh()
        assert host.served.name.version == "1"
        assert "nan" in host.trouble

    hosted(registry.source(), steps)


def test_before_the_first_model_the_registry_is_asked_at_least_as_often_as_later(registry):
    async def steps(host):  # every 0.01 s, where the back-off alone would soon wait for seconds
        registry.down = True
        watching = asyncio.create_task(host.watch())
        await until(lambda: host._failures >= 8)
        registry.down = False
        async with asyncio.timeout(RETRY_LONGEST_SECONDS / 2):
            await until(lambda: host.trouble is None)
        watching.cancel()

    hosted(registry.source(), steps)


def test_a_folder_that_cannot_be_served_is_called_a_folder():
    def load(folder):
        raise OSError("no such folder")

    async def steps(host):
        await host.refresh()
        assert host.trouble == "the model folder weights/none cannot be served: no such folder"

    hosted(FolderSource(Path("weights/none"), "weapon-detector", load), steps)


def test_a_tracker_that_is_down_at_start_is_asked_again_until_it_answers(registry, monkeypatch):
    monkeypatch.setattr("serving.models.RETRY_FIRST_SECONDS", 0.01)

    async def steps(host):
        registry.down = True
        watching = asyncio.create_task(host.watch())
        await until(lambda: "No MLflow tracker answers" in (host.trouble or ""))
        with pytest.raises(NoModel, match="No MLflow tracker answers"):
            host.served  # noqa: B018
        registry.down = False
        await until(lambda: host.trouble is None)
        assert host.served.name.version == "1"
        watching.cancel()

    hosted(registry.source(), steps)


def test_a_tracker_that_goes_down_later_changes_nothing(registry, caplog):
    async def steps(host):
        await host.refresh()
        before = host.served
        registry.down = True
        await host.refresh()
        assert host.served is before
        registry.down = False
        with caplog.at_level(logging.INFO, "mlapi.serving"):
            await host.refresh()
            await host.refresh()
        assert host.trouble is None
        assert caplog.messages.count("the model served is the right one again") == 1, (
            "the log says it is over"
        )
        assert registry.downloads == ["1"]

    hosted(registry.source(), steps)


def test_a_pinned_version_does_not_follow_the_alias(registry):
    async def steps(host):
        await host.refresh()
        registry.champion = "1"
        await host.refresh()
        assert host.served.name.model_dump() == {"name": "weapon-detector", "version": "2", "alias": None}
        assert host.served.source == "models:/weapon-detector/2"

    hosted(registry.source(version="2"), steps)


def test_retries_slow_down_to_a_minute(registry):
    async def steps(host):
        registry.down = True
        pauses = []
        for _ in range(9):
            await host.refresh()
            pauses.append(host._pause())
        assert pauses == [1, 2, 4, 8, 16, 32, 60, 60, 60]

    hosted(registry.source(), steps)


def test_requests_keep_their_model_while_it_is_swapped(registry):
    async def steps(host):
        await host.refresh()
        mine = host.served
        registry.champion = "2"
        await host.refresh()
        assert mine.name.version == "1"
        assert len(mine.detector.detect(np.zeros((4, 4, 3), np.uint8))) == 2

    hosted(registry.source(), steps)
