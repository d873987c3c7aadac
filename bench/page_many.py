"""How the page bears many photos of one person.

    python bench/page_many.py --photos 200     # needs Debian's chromium and chromium-driver

Time until the photos are taken, to the first alarm and to the last answer; page height; memory; time from a
press to what it shows. The API is the tests' small one, as slow as --api-ms says.
"""

from __future__ import annotations

import argparse
import io
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import requests
from PIL import Image
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

sys.path.insert(0, str(Path(__file__).parents[1]))
from tests.fake_api import FakeApi, detection

ROOT = Path(__file__).parents[1]
PORT = 18_766
FLAGS = ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking")
LONGEST_S = 600.0


def main() -> None:
    """Print one line per measurement."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photos", type=int, default=200)
    parser.add_argument("--side", type=int, default=1280, help="longer side of a photo, pixels")
    parser.add_argument("--api-ms", type=float, default=80, help="how long the API takes for one photo")
    parser.add_argument("--width", type=int, default=1440)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, api(arguments.api_ms) as url, page(url) as process:
        photos = made(Path(folder), arguments.photos, arguments.side)
        browser = opened(arguments.width)
        try:
            measure(browser, process, photos)
        finally:
            browser.quit()


@contextmanager
def api(milliseconds: float) -> Iterator[str]:
    """Run the small API: a pistol in every fifth photo, one request after the other as on one core."""
    with FakeApi() as running:  # type: ignore[no-untyped-call]
        look, turn = running.look, threading.Lock()

        def slow(name: str, content: bytes, threshold: float) -> Any:
            with turn:
                time.sleep(milliseconds / 1000)
                has_pistol = int(Path(name).stem) % 5 == 0
                running.found = [detection("pistol", 0.91, 20, 20, 60, 70)] if has_pistol else []
                return look(name, content, threshold)

        running.look = slow  # type: ignore[method-assign, assignment]
        yield running.url


@contextmanager
def page(api_url: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run the page."""
    command = [
        sys.executable, "web.py", "--server.port", str(PORT), "--server.address", "127.0.0.1",
        "--server.fileWatcherType", "none",
    ]  # fmt: skip
    process = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, "API_URL": api_url}, stdout=subprocess.DEVNULL
    )
    try:
        wait(lambda: requests.get(f"http://127.0.0.1:{PORT}/_stcore/health", timeout=5).ok)
        yield process
    finally:
        process.terminate()
        process.wait()


def made(folder: Path, count: int, side: int) -> list[Path]:
    """Return photos that differ, of the gallery's scenes."""
    scenes = [Image.open(path).convert("RGB") for path in sorted((ROOT / "photos").glob("*.jpg"))]
    paths = []
    for i in range(count):
        path, scene = folder / f"{i:03d}.jpg", scenes[i % len(scenes)]
        stream = io.BytesIO()
        scene.resize((side, side * scene.height // scene.width)).save(stream, "JPEG", quality=88)
        path.write_bytes(stream.getvalue() + i.to_bytes(4, "big"))  # behind the picture: another file
        paths.append(path)
    return paths


def opened(width: int) -> webdriver.Chrome:
    """Return a browser with the page."""
    options = webdriver.ChromeOptions()
    for flag in (*FLAGS, f"--window-size={width},900"):
        options.add_argument(flag)
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    browser.get(f"http://127.0.0.1:{PORT}")
    wait(lambda: browser.find_elements(By.CSS_SELECTOR, ".st-key-gallery img"))
    return browser


def wait(condition: Callable[[], Any]) -> Any:
    """Return what condition returns once that is true."""
    end = time.monotonic() + LONGEST_S
    while time.monotonic() < end:
        try:
            if answer := condition():
                return answer
        except (WebDriverException, requests.RequestException, IndexError):
            pass  # not there yet, or replaced meanwhile
        time.sleep(0.02)
    raise TimeoutError("waited in vain")


def measure(browser: webdriver.Chrome, process: subprocess.Popen[bytes], photos: list[Path]) -> None:
    """Upload all photos and go through them."""

    def there(selector: str) -> Callable[[], Any]:
        return lambda: browser.find_elements(By.CSS_SELECTOR, selector)

    wait(there("input[type=file]"))
    before, began = memory_mb(process), time.monotonic()
    wait(there("input[type=file]"))[0].send_keys("\n".join(map(str, photos)))
    wait(there(".verdict"))
    print(f"photos taken after {time.monotonic() - began:.1f} s")
    wait(there(".verdict-alarm"))
    print(f"first alarm after {time.monotonic() - began:.1f} s")
    wait(there(".st-key-zip button"))
    print(f"all {len(photos)} answers after {time.monotonic() - began:.1f} s")
    size = sum(path.stat().st_size for path in photos) / 1e6
    print(f"page's memory {before:.0f} -> {memory_mb(process):.0f} MB, of it the files {size:.0f} MB")
    height = browser.execute_script("return document.querySelector('.block-container').scrollHeight")
    heap = browser.execute_script("return performance.memory.usedJSHeapSize") / 1e6
    print(f"page height {height} px, browser's heap {heap:.0f} MB")
    grid = ".st-key-grid [class*=st-key-thumb_] [data-testid=stButton] button"
    timed(
        "open one",
        lambda: browser.find_elements(By.CSS_SELECTOR, grid)[0].click(),
        there("[role=dialog] .st-key-mat img"),
    )
    times = [took(partial(press_right, browser), partial(reads, browser, f"{i} of ")) for i in range(2, 8)]
    print(f"next by arrow key {1000 * statistics.median(times):.0f} ms (median of {len(times)})")
    browser.find_element(By.CSS_SELECTOR, "[role=dialog] button[aria-label=Close]").click()
    wait(lambda: not there("[role=dialog]")())
    pill = there(".st-key-kinds button")
    timed("filter by a count", lambda: pill()[0].click(), lambda: not there(".st-key-later")())


def press_right(browser: webdriver.Chrome) -> None:
    """Press the key for the next photo."""
    browser.find_element(By.CSS_SELECTOR, "[role=dialog]").send_keys(Keys.ARROW_RIGHT)


def reads(browser: webdriver.Chrome, words: str) -> bool:
    """Say whether the open photo says words."""
    return words in browser.find_element(By.CSS_SELECTOR, "[role=dialog]").text


def timed(name: str, act: Callable[[], Any], done: Callable[[], Any]) -> None:
    """Print how long it takes from act until done."""
    print(f"{name} {1000 * took(act, done):.0f} ms")


def took(act: Callable[[], Any], done: Callable[[], Any]) -> float:
    """Return how many seconds it takes from act until done."""
    began = time.monotonic()
    act()
    wait(done)
    return time.monotonic() - began


def memory_mb(process: subprocess.Popen[bytes]) -> float:
    """Return what a process holds in memory, megabytes."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS")) / 1024


if __name__ == "__main__":
    main()
