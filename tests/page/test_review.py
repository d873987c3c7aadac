"""The review tab, through Streamlit's own AppTest, against a real database of events."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from conftest import LONGEST_S
from skimage import data
from streamlit.testing.v1 import AppTest

from cameras.events import Event, EventStore, Scene, Trouble
from client import Client
from detection import imaging
from page import events as of_page
from page import review, review_export
from page.session import Page
from settings import WebSettings
from tests.cameras.camera_parts import an_event
from tests.fake_api import FakeApi
from tests.page.test_web import WEB, band, bands, html, keys, notices, said, tab

NOW = datetime.now(UTC).replace(microsecond=0)
PICTURE = imaging.encode_image(np.ascontiguousarray(data.astronaut()[:96, :64]))
Start = Callable[..., AppTest]


@pytest.fixture
def store(tmp_path: Path):
    made = EventStore(str(tmp_path / "events.db"))
    yield made
    made.close()


@pytest.fixture
def api() -> Iterator[FakeApi]:
    with FakeApi([]) as up:
        yield up


@pytest.fixture
def start(monkeypatch, tmp_path, store, api) -> Start:
    def start(language: str = "en", events: str = str(tmp_path / "events.db")) -> AppTest:
        monkeypatch.setenv("API_URL", api.url)
        monkeypatch.setenv("WATCH_EVENTS", events)
        app = AppTest.from_file(WEB, default_timeout=LONGEST_S)
        app.session_state["language"] = language
        return tab(app.run(), "Проверка" if language == "ru" else "Review")

    return start


def put(store: EventStore, event_id: str, *, minutes: float = 0, **fields) -> Event:
    kept = an_event(event_id, at=NOW - timedelta(minutes=minutes), **{"picture": PICTURE, **fields})
    store.save(kept)
    return kept


def press(app: AppTest, key: str) -> AppTest:
    return app.button(key=key).click().run()


def as_ann(app: AppTest) -> AppTest:
    return app.text_input(key="review_name").input("Ann").run()


def cards(app: AppTest) -> list[str]:
    return [key.removeprefix("see_") for key in keys(app, "button") if key.startswith("see_")]


# --- what is there ---------------------------------------------------------------------------------------


def test_without_a_database_there_is_no_such_tab(monkeypatch):
    with FakeApi([]) as api:
        monkeypatch.setenv("API_URL", api.url)
        app = AppTest.from_file(WEB, default_timeout=LONGEST_S).run()
    assert [each.label for each in app.tabs] == ["Photos", "Video", "Model"]


@pytest.mark.parametrize(
    ("language", "words"), [("en", "No camera has confirmed anything yet."), ("ru", "Камеры пока ничего")]
)
def test_nothing_yet_is_a_sentence(start, language, words):
    app = start(language)
    (notice,) = notices(app)
    assert notice.startswith(words)
    assert bands(app) == []


def test_the_newest_open_event_is_shown_with_its_picture_and_what_was_around(start, store):
    put(store, "old", minutes=60)
    scenes = [Scene(place=p, apart_s=1.5, picture=PICTURE) for p in ("before", "after")]
    put(store, "new", scenes=scenes, camera="door", quiet=True)
    app = start()
    kind, title, more = band(app)
    assert (kind, title) == ("alarm", "POSSIBLE WEAPON: knife")
    assert more.startswith("Camera door, ")
    assert more.endswith("Seen in 3 frames, 2.0 s. In the quiet hours: nobody was told.")
    assert {"1.5 s before", "1.5 s after"} <= {words for body in html(app) for words in [strip(body)]}
    assert cards(app) == ["new", "old"]
    assert "1 of 2" in said(app)


def strip(body: str) -> str:
    return body.partition(">")[2].partition("<")[0]


def test_what_is_unsure_is_another_band_and_says_what_it_could_be(start, store):
    put(store, "a", verdict="unsure", label="pistol")
    kind, title, more = band(start("ru"))
    assert (kind, title) == ("unsure", "НЕТ УВЕРЕННОСТИ: посмотрите внимательно")
    assert more.startswith("Возможно, это пистолет. Камера till, ")


def test_an_alarm_waits_for_no_api_that_is_busy_with_the_cameras(start, store, api, monkeypatch):
    """How long that takes to say which model it serves is nothing to whoever reviews."""
    app, asked, plain = start(), list[str](), api.info

    def info():
        asked.append("model")
        return plain()

    monkeypatch.setattr(api, "info", info)
    put(store, "a")
    for name in ("Review", "Review", "Photos"):
        app.session_state["info_at"] = float("-inf")  # what is known of the model is old
        assert (bands(tab(app, name)) != [], len(asked)) == (name == "Review", int(name != "Review"))


@pytest.mark.parametrize("picture", [b"", b"no picture"])
def test_an_event_whose_picture_is_missing_can_still_be_judged(start, store, picture):
    put(store, f"bare{len(picture)}", picture=picture)
    app = start()
    assert "The picture of this event is missing or damaged" in said(app)
    press(as_ann(app), "review_dismiss")
    assert store.counts()["dismissed"] == 1


def test_a_camera_that_sees_nothing_is_said_while_it_lasts_and_listed_later(start, store):
    now = datetime.now(UTC)
    for camera, minutes in (("yard", 0), ("door", 300)):
        at = now - timedelta(minutes=minutes + 10)
        end = now - timedelta(minutes=minutes)
        store.save_trouble(Trouble(id=camera, camera=camera, kind="covered", started_at=at, ended_at=end))
    app = start()
    (lasting, empty) = notices(app)
    assert lasting.startswith("Camera yard sees nothing since ")
    assert lasting.endswith("its lens is covered. Go and look at it.")
    assert empty.startswith("No camera has confirmed anything")
    app.segmented_control(key="review_state").set_value("all").run()
    listed = [body for body in html(app) if "lens-card" in body]
    assert ["yard" in listed[0], "door" in listed[1]] == [True, True]
    assert "lens is covered, for 10 min" in listed[1]


# --- which ones -----------------------------------------------------------------------------------------


@pytest.fixture
def many(store) -> EventStore:
    put(store, "a", minutes=1)
    put(store, "b", minutes=2, camera="door", verdict="unsure")
    put(store, "c", minutes=3)
    put(store, "d", minutes=60 * 24 * 3, camera="door")
    store.judge("c", "dismissed", by="Bob", why="a phone")
    return store


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("review_state", "all", ["a", "b", "c", "d"]),
        ("review_state", "open", ["a", "b", "d"]),
        ("review_camera", "door", ["b", "d"]),
        ("review_kind", "alarm", ["a", "d"]),
        ("review_day", (NOW - timedelta(days=3)).date(), ["d"]),
    ],
)
def test_filters_by_state_camera_kind_and_day(start, many, key, value, shown):
    app = start()
    widget = {"review_state": app.segmented_control, "review_kind": app.button_group}.get(key, app.selectbox)
    widget(key=key).set_value(value).run()
    assert cards(app) == shown or (len(shown) == 1 and cards(app) == [])
    assert len(bands(app)) == 1


def test_a_filter_that_nothing_passes_is_a_sentence_and_its_words_say_what_is_chosen(start, many):
    app = start()
    app.segmented_control(key="review_state").set_value("confirmed").run()
    assert notices(app) == ["No event is like this. Choose another filter, or all of them."]
    app.segmented_control(key="review_state").set_value("all").run()
    app.selectbox(key="review_camera").set_value("door").run()
    app.button_group(key="review_kind").set_value("lens").run()
    assert "Filter: Lens, door" in [each.proto.popover.label for each in app.get("popover")]


def test_a_reviewed_event_says_who_when_and_why(start, many):
    app = start()
    app.segmented_control(key="review_state").set_value("dismissed").run()
    kind, title, more = band(app)
    assert (kind, title) == ("none", "No weapon, it was said")
    assert more.startswith("By Bob, ")
    assert ": a phone Camera till, " in more


# --- deciding -------------------------------------------------------------------------------------------


def test_nothing_is_decided_without_a_name(start, store):
    put(store, "a")
    app = press(start(), "review_confirm")
    assert notices(app) == ["Write your name first: it is kept with the decision. Nothing was decided."]
    assert store.event("a").review is None


def test_a_decision_keeps_who_and_why_and_goes_on_to_the_next_one(start, many):
    app = as_ann(start())
    app.text_input(key="review_why_a").input("a real one").run()
    press(app, "review_confirm")
    kept = many.event("a")
    assert (kept.review, kept.reviewed_by, kept.why) == ("confirmed", "Ann", "a real one")
    assert kept.reviewed_at is not None
    assert notices(app)[0].startswith("Kept: a weapon, camera till, ")
    assert band(app)[0] == "unsure", "the next one"
    assert app.text_input(key="review_name").value == "Ann"
    tab(app, "Model")
    tab(app, "Review")
    assert app.text_input(key="review_name").value == "Ann", "the name is kept for the visit"


def test_after_the_last_one_nothing_waits_and_the_last_answer_can_be_taken_back(start, store):
    put(store, "a")
    app = press(as_ann(start()), "review_dismiss")
    assert notices(app)[0].startswith("Kept: no weapon, camera till, ")
    assert notices(app)[1].startswith("Nothing is waiting for you")
    press(app, "review_undo")
    assert store.event("a").review is None
    assert notices(app) == ["Taken back: the event is open again."]
    assert band(app)[0] == "alarm"


def test_an_answer_can_be_changed(start, many):
    app = as_ann(start())
    app.segmented_control(key="review_state").set_value("dismissed").run()
    press(app, "review_confirm")
    assert (many.event("c").review, many.event("c").reviewed_by) == ("confirmed", "Ann")


def test_the_second_of_two_is_told_who_was_first_and_may_then_change_it(start, store):
    put(store, "a")
    app = as_ann(start())
    store.judge("a", "dismissed", by="Bob")
    app.run()  # the page has looked again; what Ann saw first counts
    press(app, "review_confirm")
    assert store.event("a").reviewed_by == "Bob"
    assert notices(app) == [
        "Bob was first and said: no weapon. Your answer was not kept; look again before you change it."
    ]
    assert band(app)[2].startswith("By Bob, ")
    press(app, "review_confirm")
    assert (store.event("a").review, store.event("a").reviewed_by) == ("confirmed", "Ann")


def test_what_another_has_said_since_is_not_taken_back(start, store):
    put(store, "a")
    app = press(as_ann(start()), "review_dismiss")
    store.judge("a", "confirmed", by="Bob", seen_at=store.event("a").reviewed_at)
    press(app, "review_undo")
    assert store.event("a").reviewed_by == "Bob"
    assert notices(app)[0].startswith("Bob was first and said: a weapon.")


def test_an_event_that_is_deleted_while_it_is_open_is_a_sentence(start, store):
    put(store, "a")
    app = as_ann(start())
    store.days = -1
    store.delete_old()
    press(app, "review_confirm")
    assert any(
        "This event was deleted meanwhile: events are kept for 30 days." in each for each in notices(app)
    )
    assert bands(app) == []


def test_a_new_event_does_not_move_the_one_that_is_looked_at(start, store):
    put(store, "a", minutes=5)
    app = start()
    put(store, "b", camera="door")
    app.run()
    assert "Camera till" in band(app)[2]
    press(app, "review_new")
    assert "Camera door" in band(app)[2]


def test_older_and_newer_go_through_the_events(start, many):
    app = start()
    press(app, "review_next")
    assert "2 of 3" in said(app)
    press(app, "review_previous")
    assert "1 of 3" in said(app)
    press(app, "see_d")
    assert "3 of 3" in said(app)
    assert app.button(key="review_next").disabled


# --- the database ---------------------------------------------------------------------------------------


def test_an_address_that_is_none_is_a_sentence_and_no_password_is_said(start):
    app = start(events="nonsense://guard:hunter2@shop/events")
    (notice,) = notices(app)
    assert notice.startswith("The database of events has no address that can be understood.")
    assert "hunter2" not in said(app)


def test_a_server_that_is_not_there_is_a_sentence(start, monkeypatch):
    monkeypatch.setattr(of_page, "WAIT_S", 1.0)
    app = start("ru", events="postgresql+psycopg://guard:hunter2@127.0.0.1:1/events")
    assert notices(app)[0].startswith("База событий недоступна.")


def test_a_locked_database_is_a_sentence_and_the_answer_can_be_given_again(
    start, store, tmp_path, monkeypatch
):
    monkeypatch.setattr(of_page, "WAIT_S", 0.2)
    of_page.store_of.clear()
    put(store, "a")
    app = as_ann(start())
    with contextlib.closing(sqlite3.connect(tmp_path / "events.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # others may read
        press(app, "review_confirm")
        assert notices(app)[0].startswith("The database of events is busy")
    press(app, "review_confirm")
    assert store.event("a").review == "confirmed"


def test_a_file_that_is_no_database_and_one_that_was_taken_away(start, store, tmp_path):
    (tmp_path / "notes.db").write_text("notes of a guard" * 100)
    (notice,) = notices(start(events=str(tmp_path / "notes.db")))
    assert notice.startswith("What WATCH_EVENTS names is no database of events, or it is damaged.")
    put(store, "a")
    app = start()
    (tmp_path / "events.db").unlink()
    app.run()
    assert notices(app)[0].startswith("The database of events cannot be reached.")
    app.run()
    assert notices(app)[-1].startswith("No camera has confirmed anything yet.")


def test_a_full_disk_is_a_sentence(start, store, monkeypatch):
    """SQLite's own limit of pages stands for the disk's end."""
    put(store, "a")
    app = as_ann(start())

    def full(self, *_, **__):
        with self._session() as session:
            pages = session.connection().exec_driver_sql("PRAGMA page_count").scalar()
            session.connection().exec_driver_sql(f"PRAGMA max_page_count = {pages}")
            session.connection().exec_driver_sql("CREATE TABLE more AS SELECT zeroblob(1000000) AS x")

    monkeypatch.setattr(EventStore, "judge", full)
    press(app, "review_confirm")
    assert notices(app)[0].startswith("The disk of the database of events is full")


# --- the next training -----------------------------------------------------------------------------------


def test_nothing_reviewed_says_what_would_become_of_it(start, store):
    put(store, "a")
    assert "Nothing was reviewed yet." in said(start())


def test_what_would_be_written_is_shown_before(start, many):
    many.judge("a", "confirmed", by="Ann")
    app = start()
    assert "1 pictures with a weapon and 1 without would be written, from 1 cameras:" in said(app)
    rows = next(each.value for each in app.table if "Picture" in each.value.columns)
    assert list(rows["What it teaches"]) == ["knife", "no weapon"]
    assert list(rows["Box, pixels (x1, y1, x2, y2)"]) == ["10, 20, 30, 60", ""]
    assert "python train.py --data weapons reviewed" in app.code[0].value


def test_of_very_many_the_file_holds_the_newest_and_says_so(start, store, monkeypatch):
    for i in range(3):
        put(store, f"e{i}", minutes=10 - i)
        store.judge(f"e{i}", "confirmed" if i else "dismissed", by="Ann")
    monkeypatch.setattr(review_export, "MOST_PICTURES", 2)
    words = said(start())
    assert "2 pictures with a weapon and 0 without would be written" in words
    assert "The file holds the newest 2 only; watch.py export writes all of them." in words


# --- words ----------------------------------------------------------------------------------------------


def test_times_are_those_of_the_visitors_zone_and_language():
    page = Page("ru", WebSettings(), Client("http://127.0.0.1:1"))
    moment = datetime(2026, 3, 1, 22, 30, 5, tzinfo=UTC)
    zone = ZoneInfo("Europe/Moscow")
    assert of_page.when(page, moment, zone) == "02.03.2026 01:30:05"
    page.language = "en"
    assert of_page.when(page, moment, zone) == "2026-03-02 01:30:05"


def test_after_a_decision_comes_the_next_older_event():
    assert review.after("b", ["a", "b", "c"]) == "c"
    assert review.after("c", ["a", "b", "c"]) is None
    assert review.after("x", ["a"]) is None
