"""The report of a real run in a real browser."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from tests.docker.run.conftest import Project

pytestmark = [
    pytest.mark.docker,
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="needs chromium and chromium-driver"),
]

WORKFLOW = """
version: v1
stages: [build, test]
many: {stage: build, script: ["seq 1 100000 | sed 's|$| a line with <b>markup</b> </script>|'"]}
bad:
  stage: test
  script:
    - echo fine
    - echo needle in the failing step; exit 3
later: {stage: test, needs: [bad], script: [echo no]}
"""


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path}/chromium")
    options.add_argument("--window-size=1200,900")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_the_report_shows_the_failure_and_stays_quick(project: Project, browser: webdriver.Chrome) -> None:
    project.workflow(WORKFLOW)
    ran = project.run()
    assert ran.manifest("bad")["exit_code"] == 3, ran.out
    page = project.home / "report.html"
    made = project.loom("report", ran.receipt["run_id"], "-o", str(page))
    assert (made.code, made.out) == (0, f"report: {page}\n")
    text = page.read_text()
    assert "http://" not in text.replace("http://www.w3.org", "")
    assert "https://" not in text

    browser.get(page.as_uri())
    failing = browser.find_element(By.ID, "bad/script/02")
    assert failing.get_attribute("open") is not None
    assert "needle in the failing step" in failing.text
    assert browser.find_element(By.ID, "many/script/01").get_attribute("open") is None

    began = time.monotonic()
    browser.get(page.as_uri() + "#many/script/01/L99999")
    browser.refresh()
    here = browser.find_element(By.CSS_SELECTOR, ".row.here")
    assert here.text.replace("\n", " ") == "99999 99999 a line with <b>markup</b> </script>"
    assert time.monotonic() - began < 20  # generous: a page that lays out every line takes minutes
    assert len(browser.find_elements(By.CSS_SELECTOR, ".row")) < 1000

    browser.find_element(By.TAG_NAME, "body").send_keys("/")
    browser.switch_to.active_element.send_keys("NEEDLE")
    time.sleep(0.6)
    hits = browser.find_elements(By.CSS_SELECTOR, "#found a")
    assert [hit.text for hit in hits] == ["bad/script/02:1  needle in the failing step"]
    hits[0].send_keys(Keys.ENTER)
    assert browser.current_url.endswith("#bad/script/02/L1")

    browser.set_window_size(400, 800)
    assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
