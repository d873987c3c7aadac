"""A person in front of the page in a real headless Chromium, and the page that this person sees.

Needs Debian's chromium and chromium-driver. The page runs as people run it; the API is a small real one.
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
from conftest import LONGEST_S, answers, free_port, running
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement
from selenium.webdriver.support.ui import WebDriverWait

from tests.fake_api import FakeApi, detection

ROOT = Path(__file__).parents[2]
CHROMIUM_FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
FOUND = [
    detection("pistol", 0.91, 10, 20, 50, 80),
    detection("smartphone", 0.72, 55, 10, 95, 60),
    detection("knife", 0.31, 5, 60, 30, 95),
]


@pytest.fixture(scope="session")
def served_api() -> Iterator[FakeApi]:
    with FakeApi(FOUND) as running:
        yield running


@pytest.fixture
def api(served_api) -> FakeApi:
    served_api.found = list(FOUND)
    return served_api


@contextmanager
def page_server(api_url: str, folder: Path, **environment: str) -> Iterator[str]:
    """Run the page; yield its address, and see at the end that it had no trouble."""
    port, log = free_port(), folder / "log.txt"
    command = [
        sys.executable, "-m", "streamlit", "run", "web.py", "--server.port", str(port),
        "--server.address", "127.0.0.1", "--server.fileWatcherType", "none",
    ]  # fmt: skip
    url = f"http://127.0.0.1:{port}"
    ready = f"{url}/_stcore/health"
    with running(command, log, ready=lambda: answers(ready), cwd=ROOT, API_URL=api_url, **environment):
        yield url
    assert "Traceback" not in log.read_text()


@pytest.fixture(scope="session")
def kept(tmp_path_factory) -> Path:
    """Return the folder in which the page keeps corrections."""
    return tmp_path_factory.mktemp("kept")


@pytest.fixture(scope="session")
def page_url(served_api, kept, tmp_path_factory) -> Iterator[str]:
    """The address of one page for all tests that need no other: its visitors share nothing."""
    with page_server(served_api.url, tmp_path_factory.mktemp("page"), FEEDBACK_DIR=str(kept)) as url:
        yield url


@pytest.fixture
def photo(tmp_path) -> Path:
    path = tmp_path / "shop.jpg"
    Image.radial_gradient("L").resize((640, 480)).convert("RGB").save(path)
    return path


@pytest.fixture
def open_page(api, page_url, open_browser) -> Callable[..., Visitor]:
    return partial(open_browser, page_url)


def start_chromium(profile: Path) -> webdriver.Chrome:
    """Start a headless Chromium that keeps what it has to keep in profile."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        pytest.fail("the browser tests need Chromium: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*CHROMIUM_FLAGS, f"--user-data-dir={profile}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


@pytest.fixture(scope="session")
def chromium(tmp_path_factory) -> Iterator[webdriver.Chrome]:
    """One browser for all tests: its start, and the page's scripts, cost seconds."""
    browser = start_chromium(tmp_path_factory.mktemp("profile"))
    yield browser
    browser.quit()


@pytest.fixture
def open_browser(chromium, tmp_path) -> Iterator[Callable[..., Visitor]]:
    """Return a function that opens an address: for one person in a tab, for others with a browser each."""
    downloads, others = tmp_path / "downloads", list[webdriver.Chrome]()
    downloads.mkdir()
    first = chromium.current_window_handle
    for log in ("browser", "performance"):
        cast(Any, chromium).get_log(log)  # of earlier tests

    def open_browser(
        url: str,
        language: str = "en-US",
        width: int = 1280,
        height: int = 900,
        until: str = "input[type=file]",
    ) -> Visitor:
        if len(chromium.window_handles) == 1:
            browser = chromium
            browser.switch_to.new_window("tab")
        else:
            browser = start_chromium(tmp_path / f"profile-{len(others)}")
            others.append(browser)
        screen = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
        agent = {
            "userAgent": browser.execute_script("return navigator.userAgent"),
            "acceptLanguage": language,
        }
        for command, values in (
            ("Emulation.setDeviceMetricsOverride", screen),
            ("Emulation.setUserAgentOverride", agent),
            ("Browser.setDownloadBehavior", {"behavior": "allow", "downloadPath": str(downloads)}),
        ):
            browser.execute_cdp_cmd(command, cast(dict[str, Any], values))
        browser.get(url)
        visitor = Visitor(browser, downloads)
        visitor.find(until)
        return visitor

    yield open_browser
    for browser in others:
        browser.quit()
    for tab in chromium.window_handles:
        if tab != first:
            chromium.switch_to.window(tab)
            chromium.close()
    chromium.switch_to.window(first)


class Visitor:
    """A person in front of the page."""

    def __init__(self, browser: webdriver.Chrome, downloads: Path) -> None:
        self.browser, self.downloads = browser, downloads

    def wait(self, condition: Callable[[], Any]) -> Any:
        """Return what condition returns once that is true; an element replaced meanwhile is no failure."""
        wait = WebDriverWait(self.browser, LONGEST_S, ignored_exceptions=[Exception])
        return wait.until(lambda _: condition())

    def find(self, selector: str, words: str = "") -> WebElement:
        def hits() -> list[WebElement]:
            found = self.browser.find_elements(By.CSS_SELECTOR, selector)
            return [element for element in found if words in element.text]

        return cast(WebElement, self.wait(hits)[0])

    def click(self, selector: str, words: str = "") -> None:
        """Press an element as soon as it can be pressed: while the page grows it may have no size yet."""

        def clicked() -> bool:
            self.find(selector, words).click()
            return True

        self.wait(clicked)

    def reads(self, words: str) -> None:
        """Wait until the page says words."""
        self.wait(lambda: words in self.words())

    def press(self, selector: str, key: str, words: str) -> None:
        """Press a key until the page says words: one that comes before the page listens is lost."""

        def answered() -> bool:
            self.browser.find_element(By.CSS_SELECTOR, selector).send_keys(key)
            return WebDriverWait(self.browser, 30).until(lambda _: words in self.words())

        self.wait(answered)

    def words(self) -> str:
        return str(self.browser.find_element(By.TAG_NAME, "body").text)

    def style(self, selector: str, name: str) -> str:
        script = f"return getComputedStyle(document.querySelector({selector!r}))[{name!r}]"
        return str(self.browser.execute_script(script))

    def upload(self, *paths: Path) -> None:
        """Put files in, once the page stands: what comes while it changes is lost."""
        self.find("[data-test-script-state=notRunning]")
        self.find("input[type=file]").send_keys("\n".join(map(str, paths)))

    def downloaded(self, pattern: str) -> Path:
        self.wait(lambda: [p for p in self.downloads.glob(pattern) if not p.name.endswith(".crdownload")])
        return next(self.downloads.glob(pattern))
