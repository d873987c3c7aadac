"""Whether everybody can use the page: axe-core's rules, keyboard and finger, in every state of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple, cast

import pytest
from conftest import LONGEST_S
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.fake_api import FakeApi, detection
from tests.page.browser import FOUND, Visitor

pytest_plugins = ("tests.page.browser",)
pytestmark = pytest.mark.browser

AXE = resources.files("axe_playwright_python").joinpath("axe.min.js").read_text()
RULES = "['wcag2a', 'wcag2aa', 'wcag21a', 'wcag21aa', 'wcag22aa', 'best-practice']"
FIND = f"""
const done = arguments[arguments.length - 1];
axe.run(document, {{runOnly: {RULES}, resultTypes: ['violations']}}).then(result => done(
    result.violations.flatMap(
        each => each.nodes.map(node => [each.id, node.target.flat().join(' '), node.html]))
), error => done([['error', String(error), '']]));
"""
SCREENS = {1440: 900, 768: 1024, 390: 844}
# What Streamlit draws and takes no word of ours for: rule, part of the selector, why.
STREAMLITS = (
    ("presentation-role-conflict", "stFileUploaderDropzone", "its drop zone is named, focusable and no part"),
)


SINGLE = ("alarm", "unsure", "none")  # each has a photo of its own: its answer is kept


class Look(NamedTuple):
    """How somebody looks at the page."""

    width: int
    scheme: str


# Each width and scheme; in the other language, whose words are longer, what differs most; a phone last.
LOOKS = {
    "en-US": [Look(1440, "light"), Look(768, "dark"), Look(390, "light"), Look(390, "dark")],
    "ru-RU": [Look(1440, "dark"), Look(390, "light")],
}


def findings(visitor: Visitor) -> set[tuple[str, str, str]]:
    """Return what axe-core finds against the page as it is, but not what Streamlit alone can mend."""
    if not visitor.browser.execute_script("return window.axe !== undefined"):
        visitor.browser.execute_script(AXE)
    found = cast(list[list[str]], visitor.browser.execute_async_script(FIND))
    return {
        (rule, target, html[:300])
        for rule, target, html in found
        if not any(rule == known and part in target + html for known, part, _ in STREAMLITS)
    }


def lasting(visitor: Visitor) -> set[tuple[str, str, str]]:
    """Return what is found and still there when colours have stopped moving from one scheme to the other."""
    found = findings(visitor)
    if found:
        time.sleep(2)
        found &= findings(visitor)
    return found


def look_at(visitor: Visitor, look: Look) -> None:
    visitor.browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {
            "width": look.width,
            "height": SCREENS[look.width],
            "deviceScaleFactor": 1,
            "mobile": look.width < 500,
        },
    )
    preference = {"name": "prefers-color-scheme", "value": look.scheme}
    visitor.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})


def upload_and_wait(visitor: Visitor, words: str, *photos: Path) -> None:
    visitor.upload(*photos)
    visitor.reads(words)
    visitor.find(".st-key-mat img" if len(photos) == 1 else ".st-key-grid img")


class States:
    """The page's states, one after another, in one browser.

    Attributes:
        visitor: who looks.
        api: what it says of photos.
        paths: photos to put in.
        words: what the page says, in the visitor's language.
    """

    def __init__(self, visitor: Visitor, api: FakeApi, paths: list[Path], words: dict[str, str]) -> None:
        self.visitor, self.api, self.paths, self.words = visitor, api, paths, words

    def every(self) -> Iterator[str]:
        """Bring the page into each state, and say which it is."""
        visitor, words = self.visitor, self.words
        visitor.reads(words["empty"])
        visitor.find("[data-testid=stFileUploaderDropzone] button")
        yield "empty"
        weak = [detection("pistol", 0.45, 10, 20, 50, 80)]
        for name, found in (("alarm", FOUND), ("unsure", weak), ("none", [])):
            self.api.found = list(found)
            upload_and_wait(visitor, words[name], self.paths[SINGLE.index(name)])
            yield name
            if name == "alarm":
                yield from self.opened()
            self.start_over()
        self.api.found = list(FOUND)
        upload_and_wait(visitor, words["many"], *self.paths[len(SINGLE) :])
        yield "many"
        visitor.click("[class*=st-key-thumb_alarm] [data-testid=stButton] button")
        visitor.find("[role=dialog] .st-key-mat img")
        yield "dialog"
        visitor.find("[role=dialog]").send_keys(Keys.ESCAPE)
        visitor.wait(lambda: not visitor.browser.find_elements(By.CSS_SELECTOR, "[role=dialog]"))
        visitor.click("[role=tab]", words["video tab"])
        visitor.click(".st-key-video_try button")
        visitor.find(".st-key-mat_film video")
        yield "video"
        visitor.click("[role=tab]", words["model tab"])
        visitor.find(".table")
        visitor.find("[data-testid=stVegaLiteChart] svg, [data-testid=stVegaLiteChart] canvas")
        for summary in visitor.browser.find_elements(By.CSS_SELECTOR, "[role=tabpanel] summary"):
            visitor.browser.execute_script("arguments[0].click()", summary)
        visitor.find(".st-key-figures .table")
        yield "model"

    def opened(self) -> Iterator[str]:
        """Open all that is folded away beside an alarm, the correction among it."""
        visitor = self.visitor
        for key in ("details", "sensitivity", "feedback"):
            summary = visitor.find(f".st-key-{key} summary")
            visitor.browser.execute_script("arguments[0].click()", summary)
        toggle = visitor.find("[class*=st-key-missed_] input")
        visitor.browser.execute_script("arguments[0].click()", toggle)
        visitor.find("[class*=st-key-box_]")
        yield "feedback"

    def start_over(self) -> None:
        self.visitor.click(".st-key-start_over button")
        self.visitor.reads(self.words["empty"])


WORDS = {
    "en-US": {
        "empty": "No photo at hand?", "alarm": "POSSIBLE WEAPON: pistol", "unsure": "NOT SURE",
        "none": "Nothing found", "many": "in 4 of 4", "video tab": "Video", "model tab": "Model",
    },
    "ru-RU": {
        "empty": "Нет фото под рукой?", "alarm": "ВОЗМОЖНО, ОРУЖИЕ: пистолет", "unsure": "НЕТ УВЕРЕННОСТИ",
        "none": "Ничего не найдено", "many": "4 из 4", "video tab": "Видео", "model tab": "Модель",
    },
}  # fmt: skip


@pytest.fixture
def paths(tmp_path) -> list[Path]:
    made = [tmp_path / f"{i}.jpg" for i in range(len(SINGLE) + 4)]
    for i, path in enumerate(made):
        Image.radial_gradient("L").resize((320 + i, 240)).convert("RGB").save(path)
    return made


@pytest.mark.parametrize("language", WORDS)
def test_axe_finds_nothing_against_any_state_of_the_page(api, open_page, paths, language):
    visitor = open_page(language, 1440)
    visitor.browser.set_script_timeout(LONGEST_S)
    found: dict[tuple[str, str], set[str]] = {}
    seen = []
    for state in States(visitor, api, paths, WORDS[language]).every():
        seen.append(state)
        for look in LOOKS[language]:
            look_at(visitor, look)
            for rule, target, html in lasting(visitor):
                found.setdefault((rule, target + " " + html), set()).add(
                    f"{state} {look.width} {look.scheme}"
                )
        for width, height, html in small_targets(visitor):  # on the phone, which came last
            found.setdefault(("small", html), set()).add(f"{state} {width:.0f} x {height:.0f}")
        look_at(visitor, LOOKS[language][0])
    assert len(seen) == 9
    assert found == {}


SMALL = """
const pressed = 'button, a[href], summary, [role=tab], input[type=checkbox], select';
const isSeen = each => each.checkVisibility({visibilityProperty: true, opacityProperty: true});
const others = '.table, p, [aria-hidden=true], [tabindex="-1"]:not([role=tab]), '
    + '[data-testid=stSkipToContent]';
const isApart = each => !each.closest(others);
return [...document.querySelectorAll(pressed)].filter(each => isSeen(each) && isApart(each)).map(each => {
    const box = (each.matches('input') ? each.closest('label') || each : each).getBoundingClientRect();
    return [box.width, box.height, each.outerHTML.slice(0, 200)];
}).filter(([width, height]) => width > 0 && Math.min(width, height) < 43.5);
"""  # not links in sentences and tables, as WCAG has it


def small_targets(visitor: Visitor) -> list[list[Any]]:
    """Return what can be pressed and is smaller than 44 pixels."""
    return cast(list[list[Any]], visitor.browser.execute_script(SMALL))


def test_whoever_presses_an_example_with_the_keyboard_stays_at_the_answer(api, open_page):
    visitor = open_page()
    api.found = list(FOUND)
    visitor.find(".st-key-gallery button", "pistol in a hand").send_keys(Keys.ENTER)
    visitor.reads("POSSIBLE WEAPON: pistol")
    visitor.wait(lambda: not visitor.browser.find_elements(By.CSS_SELECTOR, ".st-key-gallery"))
    focused = "return document.activeElement !== document.body && document.activeElement.isConnected"
    visitor.wait(lambda: visitor.browser.execute_script(focused))
    script = "return document.querySelector('.verdict').contains(document.activeElement)"
    visitor.wait(lambda: visitor.browser.execute_script(script))
