"""Jobs on the page in Chromium: without JavaScript, by the keyboard alone, in two schemes and three widths."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.state import wait_until
from tests.acceptance.chromium import CHROMIUM, NEEDS_CHROMIUM

pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM, pytest.mark.timeout(150)]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run", "--no-proxy-server"]
FILL = """
import sys, time
from ports.jobs import _places
from ports.jobs._store import Store
from tests.lab.job_queue import fill

store = Store.open(_places.make_places())
fill(store, int(sys.argv[1]), now=time.time() - 3600)
store.close()
"""
ROOT = Path(__file__).resolve().parents[2]


class Home:
    """A home with a queue of jobs, in which no compute resource runs, and its page."""

    def __init__(self, top: Path) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("PORTS_")}
        self.env = {**kept, "PORTS_HOME": str(top / "state"), "HOME": str(top), "PYTHONPATH": str(ROOT)}
        self.top = top

    def run(self, *words: str) -> str:
        argv = [sys.executable, *(words if words[0] == "-c" else ("-m", "ports", *words))]
        done = subprocess.run(argv, env=self.env, cwd=self.top, capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def link(self) -> str:
        """Return another first link of the page."""
        return str(json.loads(self.run("page", "--background", "--no-browser", "--json"))["local_url"])

    def states(self) -> dict[str, str]:
        rows = json.loads(self.run("job", "list", "--json", "-n", "1000"))
        return {str(row["id"]): str(row["state"]) for row in rows}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    made = Home(tmp_path_factory.mktemp("page"))
    made.run("-c", FILL, "120")
    yield made
    made.run("page", "stop")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        one = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield one
        one.close()


def looks(browser: Any, home: Home, **options: Any) -> tuple[Any, str]:
    """Return a page of a browser that has entered, and the address of the first page."""
    tab = browser.new_context(**options).new_page()
    link = home.link()
    tab.goto(link)
    return tab, link.partition("/-/")[0]


def chosen(home: Home, state: str) -> list[str]:
    return [id for id, how in home.states().items() if how == state]


def test_jobs_are_found_read_and_cancelled_without_javascript(browser: Any, home: Home) -> None:
    tab, top = looks(browser, home, java_script_enabled=False)
    tab.click("nav >> text=Jobs")
    assert tab.title() == "Jobs · ports" and tab.locator("tbody tr").count() == 50
    assert "1\u201350 of 120" in tab.inner_text("main")
    tab.click("text=Older")
    assert "51\u2013100 of 120" in tab.inner_text("main")
    tab.fill("input[type=search]", "seed 77")
    tab.click("text=Search")
    assert tab.locator("tbody tr").count() == 1 and "--seed 77" in tab.inner_text("tbody")
    tab.click("tbody a")
    assert "Job 77" in tab.inner_text("h1") and "python train.py" in tab.inner_text("main")
    tab.click("text=Run again, changed\u2026")
    assert tab.input_value("textarea").startswith("python train.py --lr")
    one, two = chosen(home, "pending")[:2]
    tab.goto(f"{top}/-/jobs?state=pending")
    tab.check(f"input[value='{one}']")
    tab.check(f"input[value='{two}']")
    tab.click("text=Cancel\u2026")
    assert "Cancel: 2 jobs?" in tab.inner_text("h1") and f"ports job cancel {one} {two}" in tab.inner_text("main")
    tab.click("text=Cancel them")
    assert tab.url == f"{top}/-/jobs"
    assert {home.states()[id] for id in (one, two)} == {"cancelled"}
    tab.context.close()


def test_a_refused_job_is_typed_and_mended_by_the_keyboard_alone(browser: Any, home: Home) -> None:
    tab, top = looks(browser, home)
    tab.goto(f"{top}/-/jobs/new")
    keys = tab.keyboard

    def to(name: str) -> None:
        for _ in range(40):
            if tab.evaluate("document.activeElement.name || document.activeElement.textContent") == name:
                return
            keys.press("Tab")
        raise AssertionError(f"no Tab leads to {name}")

    to("command")
    keys.type("true")
    to("cpus")
    keys.type("two")
    keys.press("Enter")
    tab.wait_for_selector("[aria-invalid=true]")
    assert "'two' is no number; write for example 2" in tab.inner_text("#wrong-cpus")
    assert tab.evaluate("document.activeElement.name") == "cpus" and tab.input_value("textarea") == "true"
    assert not tab.evaluate("document.getElementById('sheet').open"), "the form is a page of its own"
    tab.context.close()


def test_the_output_of_a_job_is_there_as_it_comes(browser: Any, home: Home) -> None:
    id = chosen(home, "pending")[0]
    tab, top = looks(browser, home)
    tab.goto(f"{top}/-/jobs/{id}")
    assert "It has printed nothing yet." in tab.inner_text("main")
    made = next((home.top / "state").glob("hosts/*/jobs")) / "work" / id
    made.mkdir(parents=True)
    (made / "stdout").write_text("2026-11-30T11:47:01.000Z <b>first</b>\n")
    tab.wait_for_selector("text=<b>first</b>")
    with (made / "stderr").open("a") as file:
        file.write("2026-11-30T11:47:02.000Z second\n")
    tab.wait_for_selector(".log .err >> text=second")
    with tab.expect_download() as found:
        tab.click("text=stdout")
    assert Path(found.value.path()).read_text().endswith("<b>first</b>\n")
    assert found.value.suggested_filename == f"job-{id}.stdout.txt"
    tab.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390, 260])
def test_the_pages_of_jobs_are_accessible(browser: Any, home: Home, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    tab, top = looks(browser, home, color_scheme=scheme, viewport={"width": width, "height": 900})
    ids = [chosen(home, state)[0] for state in ("finished", "error", "running")]
    some = "&".join(f"id={id}" for id in ids)
    for path in ("", "?q=nothing", f"/{ids[1]}", "/new", f"/selected?verb=cancel&{some}", "/99999"):
        tab.goto(f"{top}/-/jobs{path}")
        found = Axe().run(tab)
        assert found.violations_count == 0, f"{path}: {found.generate_report()}"
        wide = tab.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} px wider than {width} px"
    tab.context.close()


def test_a_choice_stays_while_the_list_changes(browser: Any, home: Home) -> None:
    tab, top = looks(browser, home)
    tab.goto(f"{top}/-/jobs")
    boxes = tab.locator("tbody input")
    id = boxes.nth(3).get_attribute("value")
    boxes.nth(3).check()
    tab.fill("input[type=search]", "half a wo")
    new = home.run("job", "submit", "--no-start", "--name", "brand-new", "--", "true").strip()
    tab.wait_for_selector(f"#job--{new}")
    assert tab.is_checked(f"input[value='{id}']") and not tab.is_checked(f"input[value='{new}']")
    assert tab.input_value("input[type=search]") == "half a wo"
    wait_until(lambda: home.states().get(new) or None, timeout=20, what="the job")
    tab.context.close()
