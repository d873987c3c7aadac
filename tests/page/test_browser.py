"""The page in a real headless Chromium: upload, slider, language, download, the API gone and back.

Needs Debian's chromium and chromium-driver. The page runs as people run it; the API is a small real one.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import numpy as np
import pytest
from conftest import free_port, running
from PIL import Image
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.wait import WebDriverWait

from tests.page.browser import ROOT, Visitor

pytest_plugins = ("tests.page.browser",)
pytestmark = pytest.mark.browser


def shown_pixels(visitor: Visitor) -> bytes:
    """Return the photo with boxes as the browser shows it."""
    image = visitor.find("[data-testid=stImage] img[alt*='shop.jpg']")
    return image.screenshot_as_png


def channels(path: Path) -> np.ndarray:
    """Return red, green and blue of a picture, (3, H, W), wide enough to compare."""
    return np.moveaxis(np.asarray(Image.open(path).convert("RGB")).astype(int), 2, 0)


def test_a_photo_gets_its_answer_and_boxes(open_page, photo, tmp_path):
    visitor = open_page()
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    visitor.wait(lambda: len(shown_pixels(visitor)) > 5000)
    path = tmp_path / "shown.png"
    path.write_bytes(shown_pixels(visitor))
    red, green, blue = channels(path)
    assert is_orange(red, green, blue).sum() > 1000
    assert ((red < 60) & (green > 80) & (green < 150) & (blue > 140)).sum() > 500  # blue


def is_orange(red: np.ndarray, green: np.ndarray, blue: np.ndarray) -> np.ndarray:
    """Say which pixels have the alarm's colour."""
    return (red > 160) & (green > 40) & (green < 110) & (blue < 60)


def test_the_slider_answers_to_the_keyboard_without_a_new_request(api, open_page, photo):
    visitor = open_page(height=1400)
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    asked = len(api.requests)
    visitor.click(".st-key-sensitivity summary")
    visitor.find("input[type=range]").send_keys(Keys.HOME)
    visitor.reads("3 knife")
    visitor.reads("this setting, 0.00")
    visitor.find("input[type=range]").send_keys(Keys.END)
    visitor.wait(lambda: "3 knife" not in visitor.words())
    assert "POSSIBLE WEAPON: pistol" in visitor.words()
    assert len(api.requests) == asked


# --- the answer's band ----------------------------------------------------------------------------------


def test_an_alarm_is_one_alert_across_the_page_and_in_the_tabs_title(open_page, photo):
    visitor = open_page()
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    alerts = visitor.browser.find_elements(By.CSS_SELECTOR, "[role=alert]")
    assert len(alerts) == 1
    assert "POSSIBLE WEAPON" in alerts[0].text
    assert visitor.style(".verdict-title", "fontSize") == "28px"
    assert alerts[0].rect["width"] == visitor.find(".st-key-check").rect["width"]
    assert alerts[0].rect["y"] < 240
    visitor.wait(lambda: visitor.browser.title == "POSSIBLE WEAPON · Weapon detector")
    visitor.click("button", "Start over")
    visitor.wait(lambda: visitor.browser.title == "Weapon detector")


@pytest.mark.parametrize(("width", "height"), [(390, 844), (720, 450)])  # a phone; 1440 x 900 at 200 %
def test_where_there_is_little_room_the_answer_comes_first(open_page, photo, width, height):
    visitor = open_page(width=width, height=height)
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    band = visitor.find("[role=alert]").rect
    assert band["y"] + band["height"] < height
    visitor.wait(lambda: visitor.find(".st-key-mat").rect["y"] > band["y"])
    assert visitor.find(".st-key-inputs").rect["y"] > visitor.find(".st-key-photo").rect["y"]
    again = visitor.find(".st-key-start_over button")  # under the thumb, wherever the page stands
    visitor.wait(lambda: height - 20 < again.rect["y"] + again.rect["height"] <= height)
    assert again.rect["width"] > 0.9 * width


@pytest.mark.parametrize("language", ["en", "ru"])
def test_a_screen_reader_hears_the_language_of_the_page(open_page, language):
    visitor = open_page(f"{language}-{language.upper()}")
    visitor.wait(lambda: visitor.browser.execute_script("return document.documentElement.lang") == language)


def test_no_request_leaves_this_machine(open_page, page_url, photo):
    visitor = open_page()
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    script = "return performance.getEntriesByType('resource').map(each => each.name)"
    asked = cast(list[str], visitor.browser.execute_script(script))
    assert len(asked) > 10
    assert [name for name in asked if not name.startswith((page_url, "data:", "blob:"))] == []
    errors = [entry["message"] for entry in visitor.browser.get_log("browser") if entry["level"] == "SEVERE"]
    assert errors == []


# --- many photos ----------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path) -> list[Path]:
    paths = [tmp_path / f"{i:02d}.jpg" for i in range(8)]
    for i, path in enumerate(paths):
        Image.radial_gradient("L").resize((320 + i, 240)).convert("RGB").save(path)
    return paths


def test_answers_come_one_by_one_and_nothing_fades_meanwhile(api, open_page, photos):
    visitor = open_page()
    api.let_through = threading.Event()
    try:
        visitor.upload(*photos)
        visitor.reads("Checked 0 of 8")
        script = (
            "return Math.min(...[...document.querySelectorAll('[data-stale]')]"
            ".map(each => +getComputedStyle(each).opacity))"
        )
        for _ in range(10):
            assert visitor.browser.execute_script(script) == 1
        api.let_through.set()
        visitor.reads("POSSIBLE WEAPON in 8 of 8 photos")
    finally:
        api.let_through.set()
        api.let_through = None
    assert len(visitor.browser.find_elements(By.CSS_SELECTOR, "[role=alert]")) == 1


def test_the_arrow_keys_go_through_many_photos(open_page, photos):
    visitor = open_page()
    visitor.upload(*photos)
    visitor.reads("POSSIBLE WEAPON in 8 of 8 photos")
    visitor.click("[class*=st-key-thumb_alarm] [data-testid=stButton] button")
    visitor.reads("1 of 8")
    visitor.press("[role=dialog]", Keys.ARROW_RIGHT, "2 of 8")
    visitor.press("[role=dialog]", Keys.ARROW_LEFT, "1 of 8")
    visitor.click("[role=dialog] button", "Seen")
    visitor.find("[role=dialog]").send_keys(Keys.ESCAPE)
    visitor.find("[class*=st-key-thumb_alarm] button", "Seen")


def test_the_browser_chooses_the_language_and_the_switch_changes_it(open_page, photo):
    visitor = open_page("ru-RU")
    visitor.upload(photo)
    visitor.reads("ВОЗМОЖНО, ОРУЖИЕ: пистолет")
    visitor.click("button", "EN")
    visitor.reads("POSSIBLE WEAPON: pistol")
    assert "оружие" not in visitor.words().lower()
    visitor.click("[role=tab]", "Model")
    visitor.reads("How often is it right?")
    axis = "[data-testid=stVegaLiteChart] svg text"
    visitor.find(axis)
    assert visitor.style(axis, "fill") == visitor.style(".stApp", "color")  # as dark as other words
    visitor.browser.refresh()  # which keeps language and tab: they stand in the address
    visitor.reads("How often is it right?")


def test_downloads_are_what_their_names_say(open_page, photo):
    visitor = open_page()
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    visitor.click("button", "Download")
    visitor.click("button", "Picture with boxes (JPEG)")
    assert Image.open(visitor.downloaded("shop-boxes.jpg")).size == (640, 480)
    visitor.click("button", "Data (JSON)")
    content = json.loads(visitor.downloaded("shop.json").read_text())
    assert [d["label"] for d in content["results"][0]["detections"]] == ["pistol", "smartphone"]


def test_the_api_goes_and_comes_back_and_nothing_is_lost(api, open_page, photo, tmp_path):
    other = tmp_path / "other.jpg"
    Image.linear_gradient("L").convert("RGB").save(other)
    visitor = open_page()
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    api.stop()
    try:
        visitor.upload(other)
        visitor.reads("The detector cannot be reached at the moment")
        visitor.reads("POSSIBLE WEAPON in 1 of 2 photos")  # the first photo's answer stands
    finally:
        api.start()
    visitor.reads("POSSIBLE WEAPON in 2 of 2 photos")  # by itself
    visitor.wait(lambda: "cannot be reached" not in visitor.words())


def test_two_people_do_not_see_each_other(open_page, photo):
    first, second = open_page(), open_page()
    first.upload(photo)
    first.reads("POSSIBLE WEAPON: pistol")
    second.browser.refresh()
    second.reads("No photo at hand?")
    assert "shop.jpg" not in second.words()


def test_an_example_of_the_gallery_is_one_press_away(open_page):
    visitor = open_page()
    visitor.click(".st-key-gallery button", "pistol in a hand")
    visitor.reads("POSSIBLE WEAPON: pistol")


@pytest.mark.parametrize(("language", "words"), [("en-US", "POSSIBLE WEAPON"), ("ru-RU", "ВОЗМОЖНО, ОРУЖИЕ")])
def test_a_phone_never_scrolls_sideways(open_page, photo, language, words):
    visitor = open_page(language, width=390, height=850)
    visitor.upload(photo)
    visitor.reads(words)
    wide = "return document.scrollingElement.scrollWidth"
    assert visitor.browser.execute_script(wide) <= 390


def test_answer_and_picture_are_on_the_first_screen(open_page, photo):
    visitor = open_page(width=1440)
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    picture = visitor.find(".st-key-mat img[alt*='shop.jpg']")
    assert visitor.find("[role=alert]").rect["y"] < 240
    visitor.wait(lambda: picture.rect["height"] > 400)
    assert picture.rect["y"] + picture.rect["height"] <= 900


@pytest.mark.parametrize(("scheme", "dark"), [("light", False), ("dark", True)])
def test_the_page_is_light_or_dark_as_the_system_and_its_small_print_readable(open_page, scheme, dark):
    visitor = open_page()
    preference = {"name": "prefers-color-scheme", "value": scheme}
    visitor.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [preference]})
    visitor.browser.refresh()
    visitor.reads("No photo at hand?")
    background = luminance(colour(visitor, ".stApp", "backgroundColor")[:3])
    assert (background < 0.05) is dark
    words = colour(visitor, "[data-testid=stCaptionContainer]", "color")
    opacity = float(visitor.style("[data-testid=stCaptionContainer]", "opacity")) * (words[3:] or [1.0])[0]
    ground = colour(visitor, ".stApp", "backgroundColor")
    seen = [opacity * a + (1 - opacity) * b for a, b in zip(words[:3], ground[:3], strict=True)]
    lighter, darker = sorted((luminance(seen), background), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5  # WCAG 2, AA


def colour(visitor: Visitor, selector: str, name: str) -> list[float]:
    """Return red, green, blue and, if it is not 1, alpha of what selector finds first."""
    return [float(number) for number in re.findall(r"[\d.]+", visitor.style(selector, name))]


def luminance(rgb: list[float]) -> float:
    """Return the relative luminance of WCAG 2."""
    parts = [v / 255 for v in rgb]
    linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def pictures_described(visitor: Visitor) -> list[str]:
    """Return the alternative text of every picture; one under a button is named by the button."""
    script = (
        "return [...document.querySelectorAll('[data-testid=stImage] img')].map(each => each.alt.trim() || "
        "each.closest('[class*=st-key-thumb_]').querySelector('[data-testid=stButton]').innerText)"
    )
    words = cast(list[str], visitor.browser.execute_script(script))
    assert all(words)
    return words


def test_pictures_buttons_and_fields_have_names_for_a_screen_reader(open_page, photo):
    visitor = open_page("ru-RU")
    visitor.find("[class*=st-key-gallery] img")
    examples = pictures_described(visitor)
    assert len(examples) >= 8
    assert all(re.search("[а-я]", words) for words in examples)
    assert visitor.find("[data-testid=stFileUploaderDropzone] button").accessible_name == "Выбрать фото"
    visitor.upload(photo)
    visitor.reads("ВОЗМОЖНО, ОРУЖИЕ: пистолет")
    assert any("shop.jpg" in words for words in pictures_described(visitor))
    nameless = [
        element.get_attribute("outerHTML")[:200]
        for element in visitor.browser.find_elements(By.CSS_SELECTOR, "button, input:not([type=file])")
        if element.is_displayed() and not element.accessible_name
    ]
    assert nameless == []


# --- corrections ----------------------------------------------------------------------------------------


def test_the_box_that_is_kept_is_the_one_that_was_drawn_with_the_mouse(open_page, photo, kept):
    visitor = open_page(height=1400)
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    visitor.click(".st-key-feedback summary")
    consent = visitor.find("[class*=st-key-consent_] p")
    visitor.wait(lambda: consent.rect["height"] > 0)
    assert consent.rect["height"] > 30  # what is agreed to is read whole, on several lines
    switch(visitor, "[class*=st-key-missed_] input")
    visitor.reads("There is no box yet")
    draw(visitor, (25, 25), (75, 50))
    visitor.wait(lambda: "There is no box yet" not in visitor.words())
    draw(visitor, (60, 90), (40, 70))  # from the lower right, and in place of the first
    switch(visitor, "[class*=st-key-consent_] input")
    visitor.wait(lambda: visitor.find("[class*=st-key-send_] button").is_enabled())
    visitor.click("[class*=st-key-send_] button")
    visitor.reads("Kept for 365 days")
    (annotation,) = (kept / "annotations" / "xmls").iterdir()
    *_, drawn = ET.parse(annotation).getroot().findall("object")
    corners = [int(drawn.findtext(f"bndbox/{side}", "")) for side in ("xmin", "ymin", "xmax", "ymax")]
    assert corners == [256, 336, 384, 432]  # of 640 x 480


def switch(visitor: Visitor, selector: str) -> None:
    """Press what Streamlit draws as a picture over an input of its own."""
    visitor.browser.execute_script("arguments[0].click()", visitor.find(selector))


def draw(visitor: Visitor, start: tuple[int, int], end: tuple[int, int]) -> None:
    """Draw a box on the picture with the mouse, from one corner to another, in percent of its sides.

    Until the sliders for the keyboard follow: what is drawn while the page still grows is lost.
    """
    script = (
        "return [...document.querySelectorAll('[class*=st-key-box_] *')].find(each => each.shadowRoot)"
        ".shadowRoot.querySelector('.sheet')"
    )
    (left, right), (top, bottom) = (sorted(ends) for ends in zip(start, end, strict=True))

    def follows() -> bool:
        sheet = visitor.browser.execute_script(script)
        visitor.browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", sheet)
        size = sheet.rect
        time.sleep(0.3)
        assert size == sheet.rect  # the page stands still
        assert size["height"] > 100
        places = [
            (round((x / 100 - 0.5) * size["width"]), round((y / 100 - 0.5) * size["height"]))
            for x, y in (start, end)
        ]
        mouse = ActionChains(visitor.browser)
        mouse.move_to_element_with_offset(sheet, *places[0]).click_and_hold()
        mouse.move_to_element_with_offset(sheet, *places[1]).release().perform()
        quickly = WebDriverWait(visitor.browser, 10)
        return bool(quickly.until(lambda _: thumbs(visitor) == [left, right, top, bottom]))

    visitor.wait(follows)


def thumbs(visitor: Visitor) -> list[int]:
    """Return where the sliders for a box stand: left, right, top and bottom, in percent."""
    found = visitor.browser.find_elements(
        By.CSS_SELECTOR, "[class*=st-key-across_] input, [class*=st-key-down_] input"
    )
    return [int(float(str(each.get_attribute("value")))) for each in found]


def test_nothing_of_the_photo_is_left_on_disk(open_page, page_url, photo, tmp_path):
    """No file that the page's process has open, and none of its folder or /tmp, is the photo."""
    noise = np.random.default_rng().integers(0, 255, (90, 120, 3), np.uint8)  # unlike other tests' photos
    Image.fromarray(noise).save(photo)
    visitor = open_page()
    visitor.upload(photo)
    visitor.reads("POSSIBLE WEAPON: pistol")
    port = page_url.rsplit(":", 1)[-1]
    pids = [p.name for p in Path("/proc").iterdir() if p.name.isdigit() and port in command_line(p)]
    assert pids
    opened = [str(fd.readlink()) for pid in pids for fd in Path(f"/proc/{pid}/fd").iterdir()]
    assert not [name for name in opened if re.search(r"\.(jpg|png|tmp)|upload|spool|/tmp/tmp", name)]
    content = photo.read_bytes()
    folders = [path for path in ROOT.iterdir() if path.name not in (".git", ".venv", "mlflow-data")]
    copies = [path for top in (*folders, Path(tempfile.gettempdir())) for path in files(top)
              if path.stat().st_size == len(content) and path.read_bytes() == content]  # fmt: skip
    assert copies == [photo]


def files(top: Path) -> Iterator[Path]:
    if top.is_file():
        yield top
    for folder, _, names in os.walk(top):
        yield from (path for path in (Path(folder) / name for name in names) if path.is_file())


def command_line(process: Path) -> str:
    try:
        return (process / "cmdline").read_text()
    except OSError:
        return ""


# --- the whole demo, with the model that comes with the clone ---------------------------------------------


@pytest.fixture(scope="module")
def demo_url(tmp_path_factory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("demo")
    ports = {name: str(free_port()) for name in ("MLFLOW_PORT", "API_PORT", "WEB_PORT")}
    log, data = folder / "log.txt", str(folder / "tracker")

    def ready() -> bool:
        return b"Ctrl-C stops all three" in log.read_bytes()

    with running([sys.executable, "demo.py"], log, ready=ready, cwd=ROOT, MLFLOW_DATA_DIR=data, **ports):
        yield f"http://127.0.0.1:{ports['WEB_PORT']}"


def check_answer(visitor: Visitor, photo: Path, weapon: str) -> None:
    visitor.upload(photo)
    visitor.reads(f"POSSIBLE WEAPON: {weapon}")
    visitor.reads("A person must confirm")
    visitor.wait(lambda: orange(visitor, photo) > 300)  # boxes in the weapons' colour


def orange(visitor: Visitor, photo: Path) -> int:
    """Count the pixels of the weapons' colour in the picture as the browser shows it."""
    image = visitor.find(f"[data-testid=stImage] img[alt*='{photo.name}']")
    path = photo.with_name("shown.png")
    path.write_bytes(image.screenshot_as_png)
    return int(is_orange(*channels(path)).sum())


def test_the_demo_finds_the_pistol_in_a_picture_it_never_saw(demo_url, open_browser, tmp_path):
    photo = Path(shutil.copy(ROOT / "photos" / "01-pistol-in-a-hand.jpg", tmp_path))
    check_answer(open_browser(demo_url, height=1800), photo, "pistol")


@pytest.mark.real_data
def test_the_demo_finds_the_knife_in_a_real_photograph(demo_url, open_browser, tmp_path):
    test_images = ROOT.parent / "shared" / "data" / "weapons" / "Sohas_weapon-Detection" / "images_test"
    if not test_images.is_dir():
        pytest.skip("the photographs of ../shared/data are not on this machine")
    photo = Path(shutil.copy(test_images / "knife_103.jpg", tmp_path))
    check_answer(open_browser(demo_url, height=1800), photo, "knife")
