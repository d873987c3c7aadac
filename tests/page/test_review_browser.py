"""Reviewing in a real headless Chromium: events come by themselves, are decided, and downloaded."""

from __future__ import annotations

import io
import sys
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
from conftest import answers, free_port, running, wait_until
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

from cameras.events import EventStore, Scene
from detection import imaging
from tests.cameras.camera_parts import an_event, write_clip
from tests.fake_api import FakeApi, detection
from tests.page.browser import Visitor

pytest_plugins = ("tests.page.browser",)
pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
PISTOL = (ROOT / "photos" / "01-pistol-in-a-hand.jpg").read_bytes()


@pytest.fixture
def store(tmp_path) -> Iterator[EventStore]:
    made = EventStore(str(tmp_path / "events.db"))
    yield made
    made.close()


@pytest.fixture
def page_url(tmp_path, store) -> Iterator[str]:
    port, log = free_port(), tmp_path / "log.txt"
    command = [
        sys.executable, "web.py", "--server.port", str(port), "--server.address", "127.0.0.1",
        "--server.fileWatcherType", "none", "--server.headless", "true",
    ]  # fmt: skip
    url, events = f"http://127.0.0.1:{port}", str(tmp_path / "events.db")
    with (
        FakeApi([]) as api,
        running(
            command, log, ready=lambda: answers(f"{url}/_stcore/health"), cwd=ROOT,
            API_URL=api.url, WATCH_EVENTS=events,
        ),
    ):  # fmt: skip
        yield url
    assert "Traceback" not in log.read_text()


def put(store: EventStore, event_id: str, **fields) -> None:
    height, width = imaging.decode_image(PISTOL).shape[:2]
    scene = Scene(place="before", apart_s=1.0, picture=PISTOL)
    store.save(
        an_event(
            event_id, at=datetime.now(UTC), picture=PISTOL, width=width, height=height, scenes=[scene],
            box=[0.2 * width, 0.2 * height, 0.7 * width, 0.8 * height], **fields,
        )
    )  # fmt: skip


def test_an_event_comes_by_itself_is_decided_by_keys_and_taken_to_the_next_training(
    open_browser, page_url, store
):
    visitor: Visitor = open_browser(f"{page_url}/?tab=Review")
    visitor.reads("No camera has confirmed anything yet.")
    put(store, "first", label="pistol")
    visitor.reads("POSSIBLE WEAPON: pistol")  # nobody has pressed anything
    visitor.wait(lambda: visitor.browser.title == "POSSIBLE WEAPON · Weapon detector")
    assert len(visitor.browser.find_elements(By.CSS_SELECTOR, "[role=alert]")) == 1
    assert "Camera till, " in str(visitor.find(".st-key-review_mat img").get_attribute("alt"))
    put(store, "second", camera="door", verdict="unsure")
    visitor.find("button", "New event: show the newest")  # what is looked at stays
    assert "POSSIBLE WEAPON: pistol" in visitor.words()
    name = visitor.find(".st-key-review_name input")
    name.send_keys("Nina W.", Keys.ENTER)  # whose letters are no answers
    visitor.wait(lambda: visitor.find(".st-key-review_name input").get_attribute("value") == "Nina W.")
    assert store.counts()["open"] == 2
    visitor.find("body").send_keys(Keys.TAB)
    visitor.browser.execute_script("document.activeElement.blur()")
    visitor.find("body").send_keys("w")
    visitor.reads("Kept: a weapon, camera till, ")
    visitor.reads("NOT SURE: look closely")
    assert (store.event("first").review, store.event("first").reviewed_by) == ("confirmed", "Nina W.")
    visitor.click(".st-key-review_dismiss button")
    visitor.reads("Nothing is waiting for you")
    assert store.event("second").review == "dismissed"
    visitor.click(".st-key-review_export summary")
    visitor.reads("1 pictures with a weapon and 1 without would be written")
    visitor.click(".st-key-export_zip button")
    with zipfile.ZipFile(io.BytesIO(visitor.downloaded("reviewed.zip").read_bytes())) as archive:
        pictures = [archive.read(name) for name in archive.namelist() if name.endswith(".jpg")]
        boxes = sum(
            archive.read(name).count(b"<object>") for name in archive.namelist() if name.endswith(".xml")
        )
    assert (pictures, boxes) == ([PISTOL] * 2, 1)


def test_an_alarm_is_on_the_open_tab_while_the_camera_still_shows_the_weapon(
    open_browser, page_url, store, tmp_path
):
    """From a clip that a real watcher looks at over and over; what is known of it grows afterwards."""
    visitor: Visitor = open_browser(f"{page_url}/?tab=Review")
    visitor.reads("No camera has confirmed anything yet.")
    clip, log = write_clip(tmp_path / "clip.mp4", range(20, 220, 10)), tmp_path / "watch.txt"
    command = [sys.executable, "watch.py", "--address", str(clip), "--events", str(tmp_path / "events.db")]
    with (
        FakeApi([detection("pistol", 0.91, 20, 25, 60, 75)]) as api,
        running(command, log, ready=lambda: api.requests, cwd=ROOT, API_URL=api.url) as watcher,
    ):
        visitor.reads("POSSIBLE WEAPON: pistol")
        (shown,) = store.events()
        wait_until(lambda: store.events()[0].ended_at > shown.ended_at, process=watcher, log=log)
    assert [kept.id for kept in store.events()] == [shown.id]


def is_drawn(visitor: Visitor) -> bool:
    return visitor.find(".st-key-review_mat img").rect["height"] > 100


def displayed(visitor: Visitor, selector: str) -> WebElement | None:
    """Return the button itself: Streamlit draws one with a hint twice, for a mouse and for a finger."""
    found = visitor.browser.find_elements(By.CSS_SELECTOR, selector)
    return next((each for each in found if each.is_displayed()), None)


@pytest.mark.parametrize(("language", "tab"), [("en-US", "Review"), ("ru-RU", "Проверка")])
def test_on_a_phone_both_answers_are_on_the_first_screen_and_nothing_is_too_wide(
    open_browser, page_url, store, language, tab
):
    put(store, "first", label="pistol")
    visitor: Visitor = open_browser(f"{page_url}/?tab={tab}", language, width=390, height=844)
    for key in ("confirm", "dismiss"):
        visitor.wait(partial(is_drawn, visitor))
        button = visitor.wait(partial(displayed, visitor, f".st-key-review_{key} button"))
        assert button.rect["y"] + button.rect["height"] <= 844
        assert button.rect["height"] >= 44
    assert visitor.browser.execute_script("return document.scrollingElement.scrollWidth") <= 390
    nameless = [
        str(element.get_attribute("outerHTML"))[:200]
        for element in visitor.browser.find_elements(By.CSS_SELECTOR, "button, input:not([type=file])")
        if element.is_displayed() and not element.accessible_name
    ]
    assert nameless == []
