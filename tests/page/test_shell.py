"""What browsers get of Streamlit's own files, and how quickly the page is there."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from typing import Any, cast

import pytest
from selenium.webdriver.common.by import By
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from page.shell import STYLE, Shell, language_of
from tests.page.browser import Visitor

pytest_plugins = ("tests.page.browser",)
FIRST = '<html lang="en"><head><title>Streamlit</title></head><body><div id="root"></div></body></html>'
SCRIPT = "export const nothing = 0\n" * 400


async def script(request: Request) -> Response:
    return PlainTextResponse(SCRIPT, headers={"cache-control": "public, immutable", "etag": "kept"})


async def first_page(request: Request) -> Response:
    if "if-none-match" in request.headers:
        return Response(status_code=304)
    return HTMLResponse(FIRST, headers={"etag": "of-every-language"})


@pytest.fixture
def browser() -> TestClient:
    routes = [Route("/base/static/js/main.js", script), Route("/{path:path}", first_page)]
    return TestClient(Starlette(routes=routes, middleware=[]))


@pytest.fixture
def shelled(browser: TestClient) -> TestClient:
    return TestClient(Shell(cast(Any, browser.app)))


def test_scripts_are_sent_compressed_to_those_who_can_read_that(shelled):
    small = shelled.get("/base/static/js/main.js")
    assert small.headers["content-encoding"] == "gzip"
    assert int(small.headers["content-length"]) < len(SCRIPT) / 10
    assert small.text == shelled.get("/base/static/js/main.js").text == SCRIPT
    assert small.headers["etag"] == "kept"
    plain = shelled.get("/base/static/js/main.js", headers={"accept-encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.text == SCRIPT


@pytest.mark.parametrize(
    ("query", "accepted", "language"),
    [("", "ru-RU,ru;q=0.9,en;q=0.8", "ru"), ("?language=EN", "ru", "en"), ("?language=RU", "en", "ru"),
     ("", "de-DE", "en"), ("?language=xx", "", "en")],
)  # fmt: skip
def test_the_first_page_is_ours_and_in_the_persons_language(shelled, query, accepted, language):
    page = shelled.get("/" + query, headers={"accept-language": accepted, "if-none-match": "kept"})
    assert page.status_code == 200  # what the browser kept may be in the other language
    assert "etag" not in page.headers
    title = {"en": "Weapon detector", "ru": "Поиск оружия на фото"}[language]
    assert f'<html lang="{language}">' in page.text
    assert f"<title>{title}</title>" in page.text
    assert f"<style>{STYLE.read_text()}</style>" in page.text.partition("<body>")[2]
    assert f'<p class="first-title">{title}</p>' in page.text  # before any script
    assert language_of(query[1:].encode(), accepted.encode()) == language


def test_all_else_is_passed_on_as_it_is(shelled, browser):
    for path in ("/_stcore/health", "/favicon.png"):
        assert shelled.get(path).text == browser.get(path).text == FIRST


# --- in a browser ---------------------------------------------------------------------------------------

SHIFTS = """
window.shifts = [];
new PerformanceObserver(list => list.getEntries().forEach(each => {
    if (!each.hadRecentInput) window.shifts.push([each.startTime, each.value]);
})).observe({type: 'layout-shift', buffered: true});
"""


def layout_shift(visitor: Visitor) -> float:
    """Return the cumulative layout shift: the largest sum of a session, whose pauses are under a second."""
    sums, last = [0.0], 0.0
    for at, value in cast(list[list[float]], visitor.browser.execute_script("return window.shifts")):
        sums = [*sums, value] if at - last >= 1000 else [*sums[:-1], sums[-1] + value]
        last = at
    return max(sums)


def traffic(visitor: Visitor) -> dict[str, float]:
    """Return the bytes that came over the wire, by address, since this was asked last."""
    urls, sizes = {}, defaultdict[str, float](float)
    for entry in cast(Any, visitor.browser).get_log("performance"):
        message = json.loads(entry["message"])["message"]
        params = message["params"]
        if message["method"] == "Network.requestWillBeSent":
            urls[params["requestId"]] = params["request"]["url"]
            sizes[params["request"]["url"]] += 0.0
        elif message["method"] == "Network.loadingFinished" and params["requestId"] in urls:
            sizes[urls[params["requestId"]]] += params["encodedDataLength"]
    return {url: size for url, size in sizes.items() if not url.startswith(("data:", "blob:"))}


@pytest.mark.browser
def test_a_first_visit_is_light_steady_and_stays_on_this_machine(open_page, page_url, photo):
    visitor = open_page()
    visitor.browser.execute_cdp_cmd("Network.setCacheDisabled", {"cacheDisabled": True})
    visitor.browser.execute_cdp_cmd("Page.addScriptToEvaluateOnNewDocument", {"source": SHIFTS})
    for width, height in ((1440, 900), (390, 844)):
        visitor.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500},
        )
        visitor.browser.get("about:blank")
        traffic(visitor)
        visitor.browser.get(page_url)
        visitor.reads("No photo at hand?")
        visitor.find(".st-key-gallery img")
        visitor.find("[data-testid=stFileUploaderDropzone] button")
        assert not visitor.browser.find_elements(By.ID, "first-look")
        assert layout_shift(visitor) <= 0.1
        visitor.upload(photo)
        visitor.reads("POSSIBLE WEAPON: pistol")
        sizes = traffic(visitor)
        assert len(sizes) > 10
        assert [url for url in sizes if not url.startswith(page_url)] == []
        assert sum(sizes.values()) < 2.5e6
        own = [url for url in sizes if not re.search(r"/static/(js|css|media)/", url)]
        assert len(own) < 60  # beside Streamlit's own parts: a hundred small files, which browsers keep
