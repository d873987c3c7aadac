"""Photos of weapons that the model misses: none of them is shown as safe, by whatever model is served.

The project's own renders, each made worse until the shipped model no longer raises the alarm.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import answers, free_port, running
from PIL import Image, ImageEnhance, ImageFilter
from selenium.webdriver.common.by import By

from client import Client
from detection.card import read_card, write_card
from tests.page.browser import Visitor, page_server

pytest_plugins = ("tests.page.browser",)
pytestmark = pytest.mark.browser

ROOT = Path(__file__).parents[2]
ARMED = (
    "01-pistol-in-a-hand", "02-knife-in-a-hand", "07-pistol-smartphone-and-wallet",
    "08-kitchen-knife-card-and-mug", "10-knife-photo-stored-sideways",
)  # fmt: skip
STEPS = 12


def farther(photo: Image.Image, step: int) -> Image.Image:
    """As seen from farther off, in a wider scene."""
    side = 0.75**step
    scene = Image.new("RGB", photo.size, (118, 120, 116))
    small = photo.resize((max(1, round(photo.width * side)), max(1, round(photo.height * side))))
    scene.paste(small, ((photo.width - small.width) // 2, (photo.height - small.height) // 2))
    return scene


def darker(photo: Image.Image, step: int) -> Image.Image:
    return ImageEnhance.Brightness(photo).enhance(0.62**step)


def unsharper(photo: Image.Image, step: int) -> Image.Image:
    return photo.filter(ImageFilter.GaussianBlur(1.6**step))


CHANGES = {
    "as shipped": lambda point: {},
    "with one point": lambda point: {"unsure_point": None},
    "with two points": lambda point: {
        "unsure_point": point.model_copy(update={"score_threshold": point.score_threshold / 2})
    },
}


@pytest.fixture(scope="module")
def api_port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def page(api_port, tmp_path_factory) -> Iterator[str]:
    with page_server(f"http://127.0.0.1:{api_port}", tmp_path_factory.mktemp("page")) as url:
        yield url


@pytest.fixture(params=CHANGES)
def api(request, api_port, tmp_path) -> Iterator[str]:
    """The address of an API with the shipped weights; the page finds each after the other at one address."""
    model = Path(shutil.copytree(ROOT / "weights" / "starter", tmp_path / "model"))
    card = read_card(model)
    write_card(model, card.model_copy(update=CHANGES[request.param](card.operating_point)))
    url = f"http://127.0.0.1:{api_port}"
    with running(
        [sys.executable, "mlapi.py"], tmp_path / "log.txt", ready=lambda: answers(f"{url}/model"), cwd=ROOT,
        MODEL_DIR=str(model), API_PORT=str(api_port), API_CALLER_REQUESTS_PER_MINUTE="10000",
    ):  # fmt: skip
        yield url


@pytest.fixture(scope="module")
def missed(tmp_path_factory) -> Callable[[str], list[Path]]:
    """Return what finds the photos that the model misses, once: the alarm begins at one score for all."""
    folder, found = tmp_path_factory.mktemp("missed"), list[Path]()

    def missed(api_url: str) -> list[Path]:
        found.extend([] if found else near_misses(api_url, folder))
        return found

    return missed


def near_misses(api_url: str, folder: Path) -> list[Path]:
    """Return the first photo of each series in which the alarm fails to come."""
    client, missed = Client(api_url), []
    for name in ARMED:
        photo = Image.open(ROOT / "photos" / f"{name}.jpg").convert("RGB")
        for worse in (farther, darker, unsharper):
            path = folder / f"{name}-{worse.__name__}.jpg"
            for step in range(1, STEPS):
                worse(photo, step).save(path, quality=92)
                (result,) = client.predict([(path.name, path.read_bytes())]).results
                if result.verdict != "alarm":
                    missed.append(path)
                    break
    return missed


def fill(visitor: Visitor, selector: str) -> tuple[int, ...]:
    words = visitor.style(selector, "backgroundColor")
    return tuple(int(part) for part in words[words.index("(") + 1 : -1].split(",")[:3])


def test_no_missed_weapon_is_shown_in_green_or_with_a_tick(api, page, missed, open_browser):
    missed = missed(api)
    assert len(missed) > 2 * len(ARMED)
    visitor = open_browser(page)
    for path in missed[:: len(missed) // 3]:
        visitor.upload(path)
        visitor.wait(lambda: visitor.browser.find_elements(By.CSS_SELECTOR, ".verdict[role=alert]"))
        check_band(visitor, ".verdict")
        visitor.click("button", "Start over")
        visitor.find(".st-key-gallery img")
    visitor.upload(*missed)
    visitor.wait(lambda: visitor.browser.find_elements(By.CSS_SELECTOR, ".st-key-zip"))
    check_band(visitor, ".verdict")
    script = (
        "return [...document.querySelectorAll('.st-key-grid [class*=st-key-thumb_]')]"
        ".map(each => [each.className, each.innerText])"
    )

    def all_drawn() -> Any:
        found = visitor.browser.execute_script(script)
        is_whole = len(found) == len(missed) and not any("_waiting_" in classes for classes, _ in found)
        return found if is_whole else None

    thumbnails = visitor.wait(all_drawn)
    for classes, words in thumbnails:
        assert classes.partition("st-key-thumb_")[2].partition("_")[0] in ("none", "unsure")
        assert any(answer in words for answer in ("nothing found", "not sure"))


def check_band(visitor: Visitor, selector: str) -> None:
    """Nothing says safe: no green, no tick, and words that tell what the answer is worth."""
    red, green, blue = fill(visitor, selector)
    assert not (green > red and green > blue)
    words = visitor.find(selector).text
    assert not set(words) & set("✓✔☑✅")
    assert "check" not in visitor.style(f"{selector}", "--icon")
    title = words.splitlines()[0]
    assert title.startswith(("Nothing found", "NOT SURE"))
    if title.startswith("Nothing"):
        assert "No proof that there is none: weapons are missed in" in words
