"""A watcher whose disk is full, as a process of its own: it says so, tells of alarms, and loses nothing."""

from __future__ import annotations

import resource
import sqlite3
import sys

import numpy as np
import pytest
import requests
from camera_parts import ROOT, write_video
from conftest import free_port, running, stop, wait_until

from cameras.events import EventStore
from cameras.status import WatchStatus
from tests.cameras.test_alerts import Receiver
from tests.fake_api import FakeApi, detection


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs Linux's prlimit")
def test_a_full_disk_is_said_alarms_leave_and_once_there_is_room_all_is_kept_once(tmp_path):
    """The process's largest file stands for the disk's end; it can be set and lifted while it runs."""
    clip, database, log = tmp_path / "clip.mp4", tmp_path / "events.db", tmp_path / "log.txt"
    noise = np.random.default_rng(0).integers(0, 255, (10, 240, 320, 3), np.uint8)
    write_video(clip, noise, rate=10, size_wh=(320, 240))  # a frame needs more than the file's free pages
    names = ("till", "door")
    (tmp_path / "cameras.toml").write_text(
        "".join(f'[[camera]]\nname = "{name}"\naddress = "{clip}"\nrate = 5\n' for name in names)
    )
    port, receiver, store = free_port(), Receiver(), EventStore(str(database))
    command = [
        sys.executable, "watch.py", "--cameras", str(tmp_path / "cameras.toml"), "--events", str(database),
        "--port", str(port),
    ]  # fmt: skip

    def cameras() -> dict[str, str | None]:
        said = requests.get(f"http://127.0.0.1:{port}/status.json", timeout=60)
        return {each.name: each.problem for each in WatchStatus.model_validate_json(said.content).cameras}

    with (
        FakeApi([]) as api,
        running(
            command, log, ready=lambda: len(api.requests) > 4, cwd=ROOT, API_URL=api.url,
            WATCH_WEBHOOK=receiver.url,
        ) as watcher,
    ):  # fmt: skip

        def wait(condition):
            return wait_until(condition, process=watcher, log=log)

        def limit(size: int) -> None:
            resource.prlimit(watcher.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

        limit(database.stat().st_size)
        api.found = [detection("pistol", 0.91, 20, 25, 60, 75)]
        wait(lambda: len(receiver.got) == 2)
        problems = wait(lambda: all(cameras().values()) and cameras())
        for problem in problems.values():
            assert problem.startswith(f"the events in sqlite:///{database} cannot be read or written: ")
        assert store.events() == []
        looked = len(api.requests)
        wait(lambda: len(api.requests) > looked + 4)  # both go on looking
        limit(resource.RLIM_INFINITY)
        wait(lambda: {kept.camera for kept in store.events()} == set(names))
        wait(lambda: not store.waiting("webhook") and not any(cameras().values()))
        assert stop(watcher) == 0
    receiver.close()
    store.close()
    assert sorted(receiver.ids()) == sorted(f"{kept.id}-alarm-webhook" for kept in store.events())
    said = log.read_text()
    for name in names:
        assert said.count(f"camera {name}: the events in") == 1
        assert f"camera {name}: what waited in memory is kept" in said
    assert "Traceback" not in said
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
