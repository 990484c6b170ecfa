"""The report of a real run in a real browser: one run, several looks at its page."""

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

from tests.support.loom_process import run_loom
from tests.support.repository import commit_all

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("chromedriver") is None, reason="needs chromium and chromium-driver"),
]

WORKFLOW = r"""
version: v1
stages: [build, test, after]
many:
  stage: build
  script: ["seq 1 120000 | sed 's|$| a line with <b>markup</b> </script><img src=x onerror=document.title=1>|'; echo haystack"]
bad:
  stage: test
  script:
    - echo fine
    - |
      seq 1 700
      sh -c 'printf "\033[1;31mapp.py:3: error: needle\033[0m in the failing step\n"
        for i in $(seq 40); do echo "tidying up $i"; done
        exit 3'
cell: {stage: test, parallel: {matrix: [{N: [a, b]}]}, script: ["echo cell; test $N = a"]}
again:
  stage: test
  retry: 1
  script:
    - echo tried
    - |
      printf '\033[0Ksection_start:100:link[collapsed=true]\r\033[0KLinking\none\nld.c:1: error: inside\n'
      exit 5
folded:
  stage: build
  script:
    - printf '\033[0Ksection_start:100:all\r\033[0K\033[1mEverything\033[0m\n'
    - |
      printf '\033[0Ksection_start:100:get[collapsed=true]\r\033[0KInstall\n'
      seq 2000 | sed 's|$| needle of a package|'
      printf '\033[0Ksection_end:165:get\r\033[0K\n'
      printf '\033[0Ksection_start:165:test\r\033[0KTest\nsome test\n\033[0Ksection_end:167:test\r\033[0Kafter\n'
    - printf '\033[0Ksection_end:190:all\r\033[0K\n'
later: {stage: after, needs: [many, bad], script: [echo no]}
hostile: {stage: after, needs: [many], script: ["echo '<script>document.title=3</script><img src=x onerror=document.title=2>'"]}
"""


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = tmp_path_factory.mktemp("report")
    (base / "project/.loom").mkdir(parents=True)
    (base / "project/.loom/workflow.yml").write_text(WORKFLOW)
    commit_all(base / "project", "<script>document.title=4</script>")
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(base),
        "PYTHONPATH": str(Path(__file__).parents[3]),
        "LOOM_STATE_DIR": str(base / "state"),
        "LOOM_TMP_DIR": str(base / "workspaces"),
        "LOOM_CACHE_DIR": str(base / "cache"),
        "LOOM_CONTAINER": "0",
    }
    for arguments, code in ((("run", "--local", "-j", "1"), 1), (("report", "-o", str(base / "report.html")), 0)):
        ran = run_loom(arguments, cwd=base / "project", environ=environ)
        assert ran.returncode == code, ran.stdout + ran.stderr
    return base / "report.html"


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


class Page:
    """What a reader does with the page, and sees."""

    def __init__(self, browser: webdriver.Chrome, page: Path) -> None:
        self.browser = browser
        self.address = page.as_uri()

    def open(self, place: str = "", *, width: int = 1300, dark: bool = False) -> None:
        self.browser.execute_cdp_cmd(
            "Emulation.setDeviceMetricsOverride",
            {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 600},
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.browser.get("about:blank")
        self.browser.get(self.address + place)

    def keys(self, keys: str) -> None:
        self.browser.switch_to.active_element.send_keys(keys)

    def until(self, script: str) -> None:
        WebDriverWait(self.browser, 60).until(lambda browser: browser.execute_script(f"return {script}"), script)

    def row(self, kind: str) -> str:
        """The text of the marked row, when it is in sight: below the bar, inside its log, inside the window."""
        self.until(
            f"""(() => {{
                const row = document.querySelector(".row.{kind}");
                if (!row) return false;
                const at = row.getBoundingClientRect(), log = row.closest(".log").getBoundingClientRect();
                const bar = document.querySelector(".bar").getBoundingClientRect();
                return at.top >= log.top - 1 && at.bottom <= log.bottom + 1
                    && ("{kind}" !== "here" || (at.top >= bar.bottom && at.bottom <= innerHeight));
            }})()"""
        )
        return str(self.browser.execute_script(f"return document.querySelector('.row.{kind}').innerText"))


@pytest.fixture
def view(chromium: webdriver.Chrome, page: Path) -> Iterator[Page]:
    yield Page(chromium, page)
    assert [entry for entry in chromium.get_log("browser") if entry["level"] == "SEVERE"] == []


def test_the_first_screen_is_the_diagnosis_and_the_failing_log_is_at_its_line(view: Page) -> None:
    view.open()
    assert view.browser.find_element(By.TAG_NAME, "h1").text == "3 of 8 jobs failed"
    diagnosis = view.browser.find_element(By.ID, "diagnosis")
    assert "app.py:3: error: needle in the failing step" in diagnosis.text
    assert diagnosis.rect["y"] < 300
    assert view.row("telling").split() == ["701", "app.py:3:", "error:", "needle", "in", "the", "failing", "step"]
    assert view.browser.execute_script("return scrollY") == 0
    painted = view.browser.find_element(By.CSS_SELECTOR, ".row.telling .bold.c1")
    assert painted.text == "app.py:3: error: needle"
    labels = [text.text for text in view.browser.find_elements(By.CSS_SELECTOR, ".box")]
    assert "cell ×2 failed" in labels

    view.keys("n")
    assert "needle" in view.row("here")
    view.keys("nn")
    view.until("location.hash.startsWith('#again/')")
    assert view.browser.find_element(By.ID, "position").text == "3 of 3"
    first, second = view.browser.find_elements(By.CSS_SELECTOR, '[id="again"] .attempt')
    assert [attempt.get_attribute("open") for attempt in (first, second)] == [None, "true"]
    first.find_element(By.TAG_NAME, "summary").click()
    assert first.find_element(By.CSS_SELECTOR, ".unit").is_displayed()
    view.keys("p")
    view.until("location.hash.startsWith('#cell')")
    view.open("#again/script/02/attempt-1/L2")
    assert view.row("here").split() == ["2", "one"]


def test_a_long_log_is_unpacked_where_it_is_looked_at(view: Page) -> None:
    view.open("#many/script/01/L99999")
    assert view.row("here").split("\n") == [
        "99999",
        "99999 a line with <b>markup</b> </script><img src=x onerror=document.title=1>",
    ]
    assert len(view.browser.find_elements(By.CSS_SELECTOR, ".row")) < 5000
    view.keys("/")
    view.keys("HAYSTACK")
    view.until("document.getElementById('found').textContent === '1 line'")
    (hit,) = view.browser.find_elements(By.CSS_SELECTOR, "#hits a")
    assert hit.text == "120001  haystack"
    assert hit.is_displayed()
    view.keys(Keys.ENTER)
    assert view.row("here").split() == ["120001", "haystack"]
    view.keys(Keys.ESCAPE)
    view.keys("t")
    time = "getComputedStyle(document.querySelector('.row.here'), '::before').content"
    assert view.browser.execute_script(f"return {time}").strip('"').replace(".", "").isdigit()


SHOWN = "[...document.getElementById('folded/script/02').querySelectorAll('.row')].filter(row => row.checkVisibility()).map(row => row.innerText.split(/\\s+/).join(' ').trim())"
INSTALL = 'document.querySelector(\'[id="folded/script/02"] .fold[aria-label="section Install"]\')'


def test_a_section_of_the_output_is_folded_as_its_mark_says_and_opens_for_a_line_inside(view: Page) -> None:
    view.open("#folded/script/02/L2005")
    assert view.row("here").split() == ["2005", "after"]
    closed = ["1 Install 1 min 05 s", "2003 Test 2.0 s", "2004 some test", "2005 after"]
    view.until(f"String({SHOWN}) === '{','.join(closed)}'")
    view.browser.execute_script(f"{INSTALL}.click()")
    view.until(f"{SHOWN}[1] === '2 1 needle of a package'")
    view.browser.execute_script(f"{INSTALL}.click()")
    view.until(f"String({SHOWN}) === '{','.join(closed)}'")
    view.keys("/")
    view.keys("1990 NEEDLE")
    view.until("document.getElementById('found').textContent === '1 line'")
    view.keys(Keys.ENTER)
    assert view.row("here").split() == ["1991", "1990", "needle", "of", "a", "package"]
    view.browser.execute_script("location.hash = '#folded/script/02/L1'")
    view.until(f"{INSTALL}?.getAttribute('aria-expanded') === 'true'")
    view.keys(Keys.ESCAPE)
    view.open("#folded/script/01/L1")
    assert view.row("here").split() == ["1", "Everything", "1", "min", "30", "s"]


def test_the_line_that_tells_why_is_shown_in_a_collapsed_section(view: Page) -> None:
    view.open()
    view.keys("nnn")
    view.until("location.hash.startsWith('#again/')")
    assert view.row("here").split() == ["3", "ld.c:1:", "error:", "inside"]


def test_nothing_that_a_run_named_or_printed_becomes_markup(view: Page, page: Path) -> None:
    view.open("#hostile/script/01/L1")
    assert view.row("here").endswith("<script>document.title=3</script><img src=x onerror=document.title=2>")
    assert view.browser.title.startswith("3 of 8 jobs failed: .loom/workflow.yml ")
    assert "document.title=4" in view.browser.find_element(By.TAG_NAME, "body").get_attribute("textContent")
    assert view.browser.execute_script("return document.querySelectorAll('img').length") == 0
    text = page.read_text()
    assert "unsafe-inline" not in text
    assert "http://" not in text
    assert "https://" not in text
    refused = (
        "const s = document.createElement('script'); s.textContent = 'document.title = 5'; document.body.append(s)"
    )
    view.browser.execute_script(refused)
    assert view.browser.title.startswith("3 of 8 jobs failed: ")
    assert "Content Security Policy" in str(view.browser.get_log("browser"))


@pytest.fixture(scope="module")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str | None:
    """The script of axe-core, installed for this test alone; None where npm or its registry is not to be reached."""
    place = tmp_path_factory.mktemp("axe")
    if shutil.which("npm") is None:
        return None
    install = ["npm", "install", "--no-audit", "--no-fund", "--prefer-offline", "--fetch-retries=0", "axe-core@4"]
    with contextlib.suppress(subprocess.TimeoutExpired):
        subprocess.run(install, cwd=place, timeout=60, capture_output=True)
    script = place / "node_modules/axe-core/axe.min.js"
    return script.read_text() if script.exists() else None


@pytest.mark.parametrize(("width", "dark"), [(1300, False), (390, True)])
def test_wide_and_narrow_light_and_dark(view: Page, width: int, dark: bool, axe: str | None) -> None:
    view.open("#bad/script/02/L701", width=width, dark=dark)
    view.row("here")
    view.keys("/")
    view.keys("tidying")
    view.until("document.getElementById('found').textContent === '40 lines'")
    assert view.browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    (background,) = {view.browser.execute_script("return getComputedStyle(document.body).backgroundColor")}
    assert (background == "rgb(255, 255, 255)") is not dark
    if axe is None:
        pytest.skip("needs npm and its registry, for axe-core")
    view.browser.execute_script(axe)
    wrong = view.browser.execute_async_script(
        "axe.run().then(found => arguments[0](found.violations.map(one => [one.id, one.nodes.map(node => node.html)])))"
    )
    assert wrong == []
