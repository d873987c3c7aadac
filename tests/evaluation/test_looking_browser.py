"""The pages to look into errors, in a real headless Chromium: every number leads to as many as it says."""

from __future__ import annotations

import pytest
from selenium.webdriver.common.by import By

from evaluation import comparison
from evaluation import report as reports
from tests.evaluation.looked_at import random_images
from tests.evaluation.test_looking import seen

pytest_plugins = ("tests.page.browser",)
pytestmark = pytest.mark.browser

COUNTS = """
const done = arguments[0];
(async () => {
  const out = [];
  for (const link of document.querySelectorAll("table a[href*='show=']:not([href*='show=all'])")) {
    link.click();
    await new Promise((resolve) => setTimeout(resolve));
    const [count] = document.getElementById("look-said").textContent.split(" ");
    out.push([link.hash, link.textContent, count, document.querySelectorAll("#looked figure").length]);
  }
  done(out);
})();
"""


def severe(visitor):
    return [entry for entry in visitor.browser.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A report and one of another model on the same pictures."""
    root = tmp_path_factory.mktemp("reported")
    truths, detections = random_images(40)
    _, others = random_images(40, seed=1)
    report, mine, samples = seen(root / "data", truths, detections, at=0.4, model="mine")
    _, other, _ = seen(root / "data", truths, others, at=0.6, model="others")
    comparison.write_comparison(mine, other, root)
    return reports.write_report(report, root, samples, mine, "others"), report


def test_every_number_of_a_report_leads_to_its_pictures(reported, open_browser):
    page, report = reported
    visitor = open_browser(page.as_uri(), until="#looked figure")
    visitor.browser.set_script_timeout(120)
    followed = visitor.browser.execute_async_script(COUNTS)
    assert len(followed) > 40
    for link, number, count, figures in followed:
        assert number == count, link
        assert figures, link
    assert report.errors[0].missed, "else nothing was tried"
    assert severe(visitor) == []


def test_a_score_a_class_and_a_name_filter_the_pictures(reported, open_browser):
    page, report = reported
    visitor = open_browser(page.as_uri() + "#look?show=missed&truth=1&from=1", until="#looked figure")
    pistols = next(one.boxes for one in report.classes if one.name == "pistol")
    visitor.reads(f"{pistols} in ")  # at score 1 nothing is found
    suspect = visitor.browser.find_element(By.CSS_SELECTOR, "a[href*='show=all&at=']")
    name = suspect.text
    suspect.click()
    visitor.wait(lambda: len(visitor.browser.find_elements(By.CSS_SELECTOR, "#looked figure")) == 1)
    assert name in visitor.find("#looked figcaption").text
    visitor.click("#look button")
    visitor.wait(lambda: len(visitor.browser.find_elements(By.CSS_SELECTOR, "#looked figure")) > 1)
    visitor.find("#look input[type=search]").send_keys("shot_03")
    visitor.wait(
        lambda: (
            {one.text for one in visitor.browser.find_elements(By.CSS_SELECTOR, "#looked b")} == {"shot_03"}
        )
    )
    spot = visitor.browser.find_elements(By.CSS_SELECTOR, ".spot")[5]
    visitor.browser.execute_script("arguments[0].click()", spot)
    visitor.wait(lambda: "show=" in visitor.browser.execute_script("return location.hash"))
    assert severe(visitor) == []


def test_every_number_of_a_comparison_leads_to_its_pictures(reported, open_browser):
    page, _ = reported
    visitor = open_browser(page.with_name("compare.html").as_uri(), until="#looked figure")
    visitor.browser.set_script_timeout(120)
    followed = visitor.browser.execute_async_script(COUNTS)
    assert len(followed) > 10
    assert [link for link, number, count, figures in followed if number != count or not figures] == []
    sides = visitor.browser.find_elements(By.CSS_SELECTOR, "#looked figure:first-child .sides > div")
    assert [one.text.splitlines()[0] for one in sides] == ["mine", "others"]
    assert severe(visitor) == []
