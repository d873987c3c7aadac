"""Events in a real PostgreSQL: kept, reviewed by two at once, exported, deleted; one that goes is a sentence.

Needs Debian's postgresql; skipped where it is not installed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
from camera_parts import NOON, an_event, first_for_the_late
from conftest import free_port, running, stop

from cameras.events import EventsError, EventStore, Scene, Trouble
from cameras.export import planned, reviewed
from detection import imaging

PROGRAMS = max(Path("/usr/lib/postgresql").glob("*/bin"), default=Path("/absent"))
pytestmark = pytest.mark.skipif(not PROGRAMS.is_dir(), reason="needs Debian's postgresql")


class Postgres:
    """A server with a database of events, of a user with a password, on a free port of 127.0.0.1."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.address = f"postgresql+psycopg://guard:hunter2@127.0.0.1:{self.port}/postgres"
        # PostgreSQL refuses to run as root; Debian's package brings a user for it.
        self._as = ["setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups"]
        if os.getuid() != 0:
            self._as = []
        else:
            shutil.chown(folder, "postgres", "postgres")
        password = folder / "password"
        password.write_text("hunter2")
        password.chmod(0o644)
        self._run(
            "initdb", "--pgdata", "data", "--username", "guard", "--auth", "scram-sha-256", "--pwfile",
            str(password), "--no-sync", "--locale", "C.UTF-8", "--encoding", "UTF8",
        )  # fmt: skip

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as, str(PROGRAMS / program), *arguments]
        subprocess.run(command, cwd=self.folder, check=True, capture_output=True)

    @contextmanager
    def up(self) -> Iterator[subprocess.Popen[bytes]]:
        command = [*self._as, str(PROGRAMS / "postgres"), "-D", "data", "-p", str(self.port), "-k", "",
                   "-c", "listen_addresses=127.0.0.1", "-c", "fsync=off"]  # fmt: skip
        with running(command, self.folder / "log.txt", ready=self._answers, cwd=self.folder) as process:
            try:
                yield process
            finally:
                stop(process, signal.SIGINT)  # SIGTERM would wait until nobody is connected

    def _answers(self) -> bool:
        with suppress(EventsError):
            EventStore(self.address).close()
            return True
        return False


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    folder = Path(tempfile.mkdtemp())  # pytest's own is its user's alone
    try:
        yield Postgres(folder)
    finally:
        shutil.rmtree(folder)


@pytest.fixture(scope="module")
def up(server) -> Iterator[Postgres]:
    with server.up():
        yield server


@pytest.fixture
def store(up) -> Iterator[EventStore]:
    made = EventStore(up.address, wait_s=2, clock=lambda: NOON)
    yield made
    made.days = -400  # all of it is old
    made.delete_old()
    made.close()


def test_an_event_comes_back_as_it_was_kept_with_its_scenes(store):
    scene = Scene(place="before", apart_s=1.5, picture=b"before")
    store.save(an_event(scenes=[scene]))
    store.save(an_event(frames=9, scenes=[scene]))
    (kept,) = store.events(camera="till", review="open", verdict="alarm", between=(NOON, NOON + timedelta(1)))
    assert (kept.frames, kept.started_at, kept.box) == (9, NOON, [10, 20, 30, 60])
    assert (store.picture("a"), store.scenes("a")[0].picture) == (b"jpeg", b"before")
    store.save_trouble(Trouble(id="t", camera="door", kind="black", started_at=NOON, ended_at=NOON))
    assert store.cameras() == ["door", "till"]
    assert len(store.starts()) == 2


def test_of_many_who_review_at_the_same_moment_one_is_first(store):
    store.save(an_event())
    assert first_for_the_late(store, guards=6) == [store.event("a").reviewed_by] * 5
    store.judge("a", None, by="", seen_at=store.event("a").reviewed_at)
    assert store.event("a").review is None


def test_reviewed_events_are_exported_and_old_ones_deleted(store):
    picture = imaging.encode_image(imaging.decode_image(a_photo()))
    store.save(an_event(picture=picture, label="pistol"))
    store.judge("a", "confirmed", by="Ann")
    assert [(each.labels, each.picture) for each in reviewed(store)] == [(["pistol"], picture)]
    seen = store.state()
    old = Scene(place="after", apart_s=1, picture=b"x")
    store.save(an_event("b", at=NOON - timedelta(days=40), scenes=[old]))
    assert store.state() != seen
    assert store.delete_old() == 1
    assert (len(planned(store)), store.scenes("b")) == (1, [])


def a_photo() -> bytes:
    return (Path(__file__).parents[2] / "photos" / "01-pistol-in-a-hand.jpg").read_bytes()


def test_a_server_that_goes_and_comes_back_is_a_sentence_meanwhile():
    other = Postgres(Path(tempfile.mkdtemp()))
    try:
        with other.up() as process:
            store = EventStore(other.address, wait_s=2)
            store.save(an_event())
            stop(process, signal.SIGINT)
            with pytest.raises(EventsError, match="cannot be read or written") as caught:
                store.events()
            assert caught.value.kind == "gone"
            assert "hunter2" not in str(caught.value)
        with other.up():
            assert [each.id for each in store.events()] == ["a"]
            with pytest.raises(EventsError) as refused:
                EventStore(other.address.replace("hunter2", "wrong"))
            assert (refused.value.kind, "wrong" in str(refused.value)) == ("gone", False)
            store.close()
    finally:
        shutil.rmtree(other.folder)
