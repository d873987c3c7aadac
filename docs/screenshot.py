"""Takes the README's picture of the page from a running demo.

    make demo                                        # in another terminal
    python docs/screenshot.py http://127.0.0.1:8501 docs/screenshot.png
    python docs/screenshot.py http://127.0.0.1:8501 /tmp/phone-ru.png ru 390

Arguments: the page's address, the picture to write, the language (en) and the width in pixels (1280).
Needs selenium (requirements/dev.txt) and Debian's chromium and chromium-driver.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path

from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
)  # fmt: skip
EXAMPLES = ("example_07-pistol-smartphone-and-wallet",)
WAIT_S = 90


def main() -> None:
    """Open the page, choose the examples, wait for the answer, write the picture."""
    url, output, language, width = (*sys.argv[1:], *("en", "1280")[len(sys.argv) - 3 :])
    with tempfile.TemporaryDirectory() as profile:
        browser = open_browser(profile, language, int(width))
        try:
            browser.get(url)
            for example in EXAMPLES:
                choose(browser, example)
            wait(browser, ".verdict-alarm")
            wait(browser, ".st-key-mat img")
            time.sleep(2)  # the picture's own fade-in
            write_page(browser, int(width), Path(output))
        finally:
            browser.quit()


def open_browser(profile: str, language: str, width: int) -> webdriver.Chrome:
    """Start a headless Chromium that asks for pages in language."""
    options = webdriver.ChromeOptions()
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not (chromium and driver):
        raise SystemExit("error: expected Chromium: apt-get install chromium chromium-driver")
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={profile}", f"--window-size={width},900", f"--lang={language}"):
        options.add_argument(flag)
    options.add_experimental_option("prefs", {"intl.accept_languages": language})
    browser = webdriver.Chrome(options=options, service=Service(driver))
    resize(browser, width, 900)
    return browser


def resize(browser: webdriver.Chrome, width: int, height: int) -> None:
    """Give the page this size, as a phone would below 600 pixels."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


def wait(browser: webdriver.Chrome, selector: str) -> None:
    """Wait until something matches selector."""
    WebDriverWait(browser, WAIT_S).until(lambda b: b.find_elements(By.CSS_SELECTOR, selector))


def choose(browser: webdriver.Chrome, example: str) -> None:
    """Press an example's button."""
    selector = f".st-key-{example} button"
    wait(browser, selector)
    browser.execute_script("arguments[0].click()", browser.find_element(By.CSS_SELECTOR, selector))


def write_page(browser: webdriver.Chrome, width: int, output: Path) -> None:
    """Write the whole page, however long, as a PNG file."""
    parts = "document.querySelectorAll('[data-testid=stMain], body')"
    for _ in range(3):  # a higher window makes the page higher in its turn, up to a limit
        height = browser.execute_script(f"return Math.max(...[...{parts}].map(e => e.scrollHeight))")
        resize(browser, width, int(height))
        time.sleep(1)
    output.parent.mkdir(parents=True, exist_ok=True)
    browser.save_screenshot(str(output))


if __name__ == "__main__":
    main()
