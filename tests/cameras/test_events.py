"""Events are kept, judged, exported, and deleted for good; what fails is a sentence without a password."""

from __future__ import annotations

import threading
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
from camera_parts import NOON, an_event

from cameras.events import EventsError, EventStore
from cameras.export import reviewed
from detection import imaging


class Clock:
    def __init__(self, now: datetime = NOON) -> None:
        self.now = now

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock):
    made = EventStore(str(tmp_path / "kept" / "events.db"), days=30, clock=clock)
    yield made
    made.close()


def test_an_event_comes_back_as_it_was_kept_also_from_another_process_view(store, tmp_path):
    store.save(an_event(at=NOON.astimezone(timezone(timedelta(hours=3)))))
    other = EventStore(str(tmp_path / "kept" / "events.db"))
    (kept,) = other.events()
    assert (kept.camera, kept.verdict, kept.label, kept.box) == ("till", "alarm", "knife", [10, 20, 30, 60])
    assert (kept.started_at, kept.ended_at) == (NOON, NOON + timedelta(seconds=2))
    assert (kept.model_version, kept.weights_sha256, kept.alarm_point) == ("3", "0" * 64, 0.6)
    assert kept.scores == [[0, 0.7], [0.5, 0.8], [1, 0.9]]
    assert other.picture("a") == b"jpeg"
    other.close()


def test_an_event_that_goes_on_is_one_and_keeps_what_a_person_said(store):
    store.save(an_event())
    store.judge("a", "dismissed", by="Ann", why="a phone")
    store.save(an_event(ended_at=NOON + timedelta(seconds=60), frames=120))
    (kept,) = store.events()
    assert (kept.frames, kept.review, kept.reviewed_by, kept.why) == (120, "dismissed", "Ann", "a phone")
    assert kept.reviewed_at == NOON


def test_the_newest_comes_first_and_can_be_asked_for_by_camera_and_review(store):
    for i, camera in enumerate(("till", "door", "till")):
        store.save(an_event(str(i), at=NOON + timedelta(hours=i), camera=camera))
    store.judge("0", "confirmed", by="Ann")
    assert [kept.id for kept in store.events()] == ["2", "1", "0"]
    assert [kept.id for kept in store.events(camera="till")] == ["2", "0"]
    assert [kept.id for kept in store.events(review="confirmed")] == ["0"]


def test_old_events_are_deleted_for_good_with_their_pixels(store, tmp_path, clock, monkeypatch):
    secret = b"PIXELS-OF-A-FACE" * 500
    store.save(an_event("old", at=NOON - timedelta(days=30, seconds=3), picture=secret))
    store.save(an_event("new", at=NOON - timedelta(days=29)))
    files = list((tmp_path / "kept").iterdir())
    assert any(b"PIXELS-OF-A-FACE" in path.read_bytes() for path in files)
    assert store.delete_old() == 1
    assert [kept.id for kept in store.events()] == ["new"]
    assert not any(b"PIXELS-OF-A-FACE" in path.read_bytes() for path in (tmp_path / "kept").iterdir())
    assert store.delete_old() == 0


@pytest.mark.parametrize("hours", [24 * 365, -5])
def test_a_clock_that_jumps_deletes_nothing(store, clock, hours):
    store.save(an_event(at=NOON - timedelta(days=10)))
    clock.now += timedelta(hours=hours)
    with pytest.raises(EventsError, match=r"the clock has jumped by [+-][\d.]+ hours: no event is deleted"):
        store.delete_old()
    assert len(store.events()) == 1


def test_many_threads_keep_their_events(store):
    def save(i: int) -> None:
        for j in range(5):
            store.save(an_event(f"{i}-{j}"))

    threads = [threading.Thread(target=save, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.events()) == 40


def test_an_event_that_is_not_there_cannot_be_judged(store):
    with pytest.raises(EventsError, match="there is no event b"):
        store.judge("b", "confirmed", by="Ann")
    assert store.picture("b") == b""


def test_a_full_disk_is_a_sentence(store):
    """SQLite's own limit of pages stands for the disk's end: the same error, "database or disk is full"."""

    @sqlalchemy.event.listens_for(store._engine, "connect")
    def limit(connection, _):
        connection.execute("PRAGMA max_page_count = 20")

    store._engine.dispose()
    with pytest.raises(EventsError, match="cannot be read or written: database or disk is full"):
        store.save(an_event(picture=bytes(1_000_000)))


@pytest.mark.parametrize(
    "address",
    ["nonsense://user:hunter2@x/y", "postgresql+psycopg://user:hunter2@127.0.0.1:1/events"],
)
def test_a_database_that_is_not_there_is_a_sentence_without_the_password(address):
    with pytest.raises(EventsError) as caught:
        EventStore(address)
    assert "hunter2" not in str(caught.value)


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EventsError, match="folder cannot be made"):
        EventStore(str(tmp_path / "file" / "events.db"))


def test_what_was_reviewed_is_exported_confirmed_with_its_box_and_dismissed_without(store):
    picture = imaging.encode_image(np.zeros((96, 64, 3), np.uint8))
    for i, review in enumerate(("confirmed", "dismissed", None)):
        store.save(an_event(f"event{i}", at=NOON + timedelta(minutes=i), picture=picture, camera="back door"))
        if review:
            store.judge(f"event{i}", review, by="Ann")
    weapon, nothing = reviewed(store)
    assert (weapon.name, weapon.labels, weapon.boxes) == (
        "camera-back-door-20260301T120000-event0", ["knife"], [[10, 20, 30, 60]],
    )  # fmt: skip
    assert (nothing.review, nothing.labels, nothing.boxes, nothing.size_wh) == ("dismissed", [], [], (64, 96))
    assert nothing.picture == picture
