"""Events are kept, judged, exported, and deleted for good; what fails is a sentence without a password."""

from __future__ import annotations

import contextlib
import io
import sqlite3
import threading
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
from camera_parts import NOON, an_event, first_for_the_late

from cameras.events import EventGone, EventsError, EventStore, ReviewedMeanwhile, Scene, Trouble
from cameras.export import planned, reviewed, write, zipped
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
    whole = other.event("a")
    assert whole is not None
    assert whole.scores == [[0, 0.7], [0.5, 0.8], [1, 0.9]]
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
    assert store.counts() == {"open": 2, "confirmed": 1, "dismissed": 0, "all": 3}


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
    with pytest.raises(EventGone, match="there is no event b"):
        store.judge("b", "confirmed", by="Ann")
    assert store.picture("b") == b""


def test_of_two_who_review_the_same_event_the_second_is_told_who_was_first(store, clock):
    store.save(an_event())
    store.judge("a", "dismissed", by="Ann", why="a phone")
    clock.now += timedelta(seconds=1)
    with pytest.raises(ReviewedMeanwhile, match="event a is dismissed by Ann meanwhile") as caught:
        store.judge("a", "confirmed", by="Bob")
    assert (caught.value.event.reviewed_by, caught.value.event.why) == ("Ann", "a phone")
    store.judge("a", "confirmed", by="Bob", seen_at=caught.value.event.reviewed_at)
    kept = store.event("a")
    assert (kept.review, kept.reviewed_by, kept.why, kept.reviewed_at) == ("confirmed", "Bob", "", clock.now)


def test_of_many_who_review_at_the_same_moment_one_is_first(store):
    store.save(an_event())
    assert first_for_the_late(store, guards=6) == [store.event("a").reviewed_by] * 5


def test_what_was_said_can_be_taken_back(store):
    store.save(an_event())
    store.judge("a", "dismissed", by="Ann", why="a phone")
    store.judge("a", None, by="Ann", seen_at=store.event("a").reviewed_at)
    kept = store.event("a")
    assert (kept.review, kept.reviewed_by, kept.why, kept.reviewed_at) == (None, "", "", None)
    assert [each.id for each in store.events(review="open")] == ["a"]


def test_scenes_before_and_after_are_kept_replaced_and_deleted_with_their_event(store, clock):
    before, after = (Scene(place=p, apart_s=1.5, picture=p.encode()) for p in ("before", "after"))
    store.save(an_event(scenes=[before, after]))
    assert [(each.place, each.apart_s, each.picture) for each in store.scenes("a")] == [
        ("before", 1.5, b"before"), ("after", 1.5, b"after"),
    ]  # fmt: skip
    store.save(an_event(scenes=[Scene(place="before", apart_s=1.0, picture=b"better")]))
    assert [(each.place, each.picture) for each in store.scenes("a")] == [("before", b"better")]
    store.save(
        an_event("b", at=NOON - timedelta(days=31), scenes=[Scene(place="after", apart_s=1, picture=b"x")])
    )
    assert store.delete_old() == 1
    assert store.scenes("b") == []


def test_events_of_a_day_a_verdict_and_a_lens_can_be_asked_for(store):
    for i in range(3):
        verdict = "unsure" if i == 1 else "alarm"
        store.save(an_event(str(i), at=NOON + timedelta(days=i), verdict=verdict))
    store.save_trouble(a_trouble(at=NOON + timedelta(days=1)))
    day = (NOON + timedelta(hours=20), NOON + timedelta(hours=44))
    assert [each.id for each in store.events(between=day)] == ["1"]
    assert [each.id for each in store.events(verdict="alarm")] == ["2", "0"]
    assert [each.id for each in store.troubles(between=day)] == ["t"]
    assert store.troubles(camera="till") == []
    assert store.cameras() == ["door", "till"]
    assert sorted(store.starts()) == [NOON + timedelta(days=i) for i in (0, 1, 1, 2)]


def test_what_is_new_can_be_told_without_reading_it_all(store):
    seen = [store.state()]
    changes = (
        lambda: store.save(an_event("a", verdict="unsure")),
        lambda: store.save(an_event("a")),
        lambda: store.save(an_event("a", scenes=[Scene(place="before", apart_s=1, picture=b"x")])),
        lambda: store.judge("a", "confirmed", by="Ann"),
        lambda: store.save_trouble(a_trouble()),
    )
    for change in changes:
        change()
        seen.append(store.state())
    assert len(set(seen)) == 6
    assert store.state() == seen[-1]


def a_trouble(event_id: str = "t", *, at: datetime = NOON, camera: str = "door") -> Trouble:
    return Trouble(
        id=event_id, camera=camera, kind="covered", started_at=at, ended_at=at + timedelta(minutes=5)
    )


def test_a_full_disk_is_a_sentence(store):
    """SQLite's own limit of pages stands for the disk's end: the same error, "database or disk is full"."""

    @sqlalchemy.event.listens_for(store._engine, "connect")
    def limit(connection, _):
        connection.execute("PRAGMA max_page_count = 20")

    store._engine.dispose()
    with pytest.raises(EventsError, match="cannot be read or written: database or disk is full") as caught:
        store.save(an_event(picture=bytes(1_000_000)))
    assert caught.value.kind == "full"


def test_a_database_that_another_holds_is_a_sentence(store, tmp_path):
    impatient = EventStore(str(tmp_path / "kept" / "events.db"), wait_s=0.1)
    impatient.save(an_event())
    with contextlib.closing(sqlite3.connect(tmp_path / "kept" / "events.db")) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(EventsError, match="cannot be read or written: database is locked") as caught:
            impatient.judge("a", "confirmed", by="Ann")
    assert caught.value.kind == "busy"
    impatient.judge("a", "confirmed", by="Ann")


def test_a_database_that_was_taken_away_is_a_sentence_and_the_next_event_is_kept(store, tmp_path):
    """An open file would go on to be written to, and nobody would ever see what is in it."""
    store.save(an_event())
    (tmp_path / "kept" / "events.db").unlink()
    with pytest.raises(EventsError, match="its file was taken away; an empty one is in its place") as caught:
        store.save(an_event("b"))
    assert caught.value.kind == "gone"
    store.save(an_event("b"))
    other = EventStore(str(tmp_path / "kept" / "events.db"))
    assert [each.id for each in other.events()] == ["b"]


def test_a_file_that_is_no_database_is_a_sentence(tmp_path):
    (tmp_path / "events.db").write_text("notes of a guard" * 100)
    with pytest.raises(EventsError, match="file is not a database") as caught:
        EventStore(str(tmp_path / "events.db"))
    assert caught.value.kind == "unreadable"


@pytest.mark.parametrize(
    "address",
    ["nonsense://user:hunter2@x/y", "postgresql+psycopg://user:hunter2@127.0.0.1:1/events"],
)
def test_a_database_that_is_not_there_is_a_sentence_without_the_password(address):
    with pytest.raises(EventsError) as caught:
        EventStore(address)
    assert "hunter2" not in str(caught.value)
    assert caught.value.kind == ("address" if address.startswith("nonsense") else "gone")


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


def test_the_plan_the_folder_and_the_zip_file_hold_the_same(store, tmp_path):
    picture = imaging.encode_image(np.zeros((96, 64, 3), np.uint8))
    for i, review in enumerate(("confirmed", "dismissed", "confirmed")):
        store.save(an_event(f"event{i}", at=NOON + timedelta(minutes=i), picture=picture if i < 2 else b""))
        store.judge(f"event{i}", review, by="Ann")
    names = [each.name for each in planned(store)]
    assert len(names) == 3
    assert write(store, tmp_path / "reviewed") == {"confirmed": 1, "dismissed": 1}  # one has no picture
    written = {str(p.relative_to(tmp_path)): p.read_bytes() for p in (tmp_path / "reviewed").rglob("*.*")}
    with zipfile.ZipFile(io.BytesIO(zipped(store, planned(store), "reviewed"))) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == written
    assert {Path(name).stem for name in written} == set(names[:2])
    assert written[f"reviewed/images/{names[0]}.jpg"] == picture
