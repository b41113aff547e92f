"""JupyterLab in a real browser: the launcher's card, the side panel, the tab, and what they show."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ports import __version__, clusters
from ports.clusters import Cluster
from ports.state import wait_until
from tests.acceptance.chromium import CHROMIUM, NEEDS_CHROMIUM
from tests.integration.conftest import Home

pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM, pytest.mark.timeout(150)]

FLAGS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking")
FLAGS += ("--disable-component-update", "--no-first-run", "--no-proxy-server")
DRAWN = "window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].roots().length > 0"
CARD = ".jp-LauncherCard:has-text('Clusters and machines')"
WORKSPACE = "lab/workspaces/auto-test"
SIDE, TAB = "#ports-side iframe", "#ports-tab iframe"


@dataclass(frozen=True)
class Lab:
    """A JupyterLab that runs, and its address with the token."""

    base: str
    token: str

    def url(self, path: str) -> str:
        return f"{self.base}{path}?token={self.token}"


@contextmanager
def jupyterlab(home: Home, base_url: str) -> Iterator[Lab]:
    """Run a JupyterLab as a hub or a user starts it, with files of its own."""
    top = home.work / f"lab{base_url.replace('/', '-')}"
    top.mkdir()
    token = "a-token-of-the-test"
    own = {f"JUPYTER_{name}": str(top / name) for name in ("CONFIG_DIR", "DATA_DIR", "RUNTIME_DIR")}
    own |= {f"JUPYTERLAB_{name}": str(top / name) for name in ("SETTINGS_DIR", "WORKSPACES_DIR")}
    own |= {"JUPYTER_TOKEN": token, "IPYTHONDIR": str(top / "ipython")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.base_url={base_url}", *(["--allow-root"] if os.getuid() == 0 else [])]
    with (top / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=top, stdout=log, stderr=log, env={**os.environ, **own})

    def answers() -> Lab | None:
        assert process.poll() is None, (top / "log").read_text()
        try:
            record = json.loads((top / "RUNTIME_DIR" / f"jpserver-{process.pid}.json").read_text())
            made = Lab(f"http://127.0.0.1:{record['port']}{base_url}", token)
            return made if urllib.request.urlopen(made.url("api"), timeout=5).status == 200 else None
        except (OSError, ValueError):
            return None

    try:
        yield wait_until(answers, timeout=60, what="JupyterLab", every=0.1)
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module", params=["/user/alice/", pytest.param("/", marks=pytest.mark.long)])
def lab(request: pytest.FixtureRequest, shared_home: Home) -> Iterator[Lab]:
    """A JupyterLab at the top of its address, and one as a hub runs it."""
    with jupyterlab(shared_home, request.param) as made:
        yield made


@pytest.fixture(scope="module")
def main(shared_home: Home) -> Iterator[Cluster]:
    yield clusters.start("main", n_workers=1)
    clusters.get("main").stop()


@pytest.fixture(scope="module")
def window(shared_home: Home) -> Iterator[Any]:
    """A browser whose pages share what they have loaded."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=CHROMIUM, headless=True, args=list(FLAGS))
        context = browser.new_context(viewport={"width": 1440, "height": 900})
        context.set_default_timeout(60_000)
        yield context
        browser.close()


@pytest.fixture
def page(window: Any, lab: Lab) -> Iterator[Any]:
    """JupyterLab with the launcher and nothing else open; an error of its scripts fails the test."""
    made = window.new_page()
    errors: list[str] = []
    made.on("pageerror", lambda error: errors.append(str(error)))
    made.goto(f"{lab.url(WORKSPACE)}&reset")
    made.locator(CARD).wait_for()
    yield made
    made.close()
    assert not errors


def test_the_card_of_the_launcher_opens_the_page_in_a_tab(page: Any, lab: Lab) -> None:
    page.click(CARD)
    frame = page.wait_for_selector(TAB).content_frame()
    frame.wait_for_selector("main")
    assert frame.url == f"{lab.base}ports/"
    page.click("#jp-main-dock-panel .lm-TabBar-addButton")
    page.click(CARD)
    assert page.locator(TAB).count() == 1  # the tab that is there, again


def test_the_side_panel_loads_the_page_when_it_is_first_seen(page: Any, lab: Lab) -> None:
    assert page.locator(SIDE).get_attribute("src") is None  # nobody looks, nothing is asked
    page.click("[data-id='ports-side']")
    frame = page.wait_for_selector(SIDE).content_frame()
    frame.wait_for_selector("main")
    assert frame.url == f"{lab.base}ports/"


@pytest.mark.long
def test_a_tab_of_the_page_is_there_again_after_a_reload(page: Any, lab: Lab) -> None:
    page.click(CARD)
    page.wait_for_selector(TAB).content_frame().wait_for_selector("main")
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "workspaces" in answer.url):
        page.click("[data-id='ports-side']")  # a change of the layout, which Lab keeps
    page.goto(lab.url(WORKSPACE))
    page.wait_for_selector(TAB).content_frame().wait_for_selector("main")


def test_a_dashboard_in_the_side_panel_opens_as_a_tab_of_lab(page: Any, lab: Lab, main: Cluster) -> None:
    page.click("[data-id='ports-side']")
    side = page.wait_for_selector(SIDE).content_frame()
    side.click("a:has-text('dashboard')")
    frame = page.wait_for_selector("#ports-tab-main iframe").content_frame()
    frame.wait_for_function(DRAWN)
    assert frame.url == f"{lab.base}ports/main/status"
    assert side.url == f"{lab.base}ports/"


def test_the_side_panel_acts_and_shows_what_became_of_it(page: Any, lab: Lab, main: Cluster) -> None:
    page.click("[data-id='ports-side']")
    side = page.wait_for_selector(SIDE).content_frame()
    row = side.locator("tr:has-text('main')").first
    row.locator("text=Scale…").click()
    sheet = side.locator("dialog[open]")
    sheet.locator("input[name=n_workers]").fill("0")
    sheet.locator("button[type=submit], button:not([type])").first.click()
    wait_until(lambda: clusters.get("main").record.n_workers == 0 or None, timeout=60, what="the other size", every=0.1)
    sheet.wait_for(state="detached")
    row.locator("text=/no workers|^0 /").first.wait_for()


@pytest.mark.long
def test_the_page_has_the_colours_of_lab_s_theme(page: Any, lab: Lab) -> None:
    page.click("[data-id='ports-side']")
    frame = page.wait_for_selector(SIDE).content_frame()
    frame.wait_for_selector("main")

    def wait_for(scheme: str) -> None:
        """The policy of the page forbids playwright's own waiting, which evaluates text."""
        code = "getComputedStyle(document.documentElement).colorScheme"
        wait_until(lambda: frame.evaluate(code) == scheme or None, timeout=30, what=f"the {scheme} page", every=0.1)

    wait_for("light")
    page.click("text=Settings")
    page.hover(".lm-Menu-itemLabel:text-is('Theme')")
    page.click(".lm-Menu-itemLabel:text-is('JupyterLab Dark')")
    wait_for("dark")


def test_the_pane_of_dask_labextension_is_connected_by_itself(page: Any, lab: Lab, main: Cluster) -> None:
    page.click("[data-id='dask-dashboard-launcher']")
    page.click("text=TASK STREAM")
    frame = page.wait_for_selector("[id^='dask-dashboard-'] iframe").content_frame()
    frame.wait_for_function(DRAWN)
    assert frame.url.startswith(f"{lab.base}ports/main/individual-task-stream")


def test_new_in_the_pane_of_dask_labextension_makes_a_private_cluster(page: Any, lab: Lab) -> None:
    page.click("[data-id='dask-dashboard-launcher']")
    page.click(".dask-DaskClusterManager >> text=NEW")
    item = page.locator(".dask-ClusterListingItem")
    item.wait_for()
    assert "Scheduler Address: unix:///" in item.inner_text()
    [name] = re.findall(r"proxy/ports/([a-z0-9-]+)/status", item.inner_text())
    item.click()
    page.click("text=TASK STREAM")
    frame = page.wait_for_selector("[id^='dask-dashboard-'] iframe").content_frame()
    frame.wait_for_function(DRAWN)
    assert frame.url.startswith(f"{lab.base}ports/{name}/individual-task-stream")
    item.locator("text=SHUTDOWN").click()
    item.wait_for(state="detached")
    assert name not in [one.name for one in clusters.list()]


def ask(lab: Lab, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """Return status and document of an answer of dask-labextension's server."""
    data = None if body is None else json.dumps(body).encode()
    headers = {"Authorization": f"token {lab.token}"}
    request = urllib.request.Request(f"{lab.base}dask/clusters{path}", data, headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.loads(answer.read() or "null")
    except urllib.error.HTTPError as refusal:
        return refusal.code, json.loads(refusal.read())


def test_clusters_of_the_pane_have_names_and_sizes_of_ports(lab: Lab, main: Cluster) -> None:
    status, made = ask(lab, "PUT", "")
    assert (status, made["dashboard_link"]) == (200, f"{urlsplit(lab.base).path}proxy/ports/main-2/status")
    try:
        assert ask(lab, "PATCH", f"/{made['id']}", {"workers": 1})[1]["workers"] == 1
        assert clusters.get("main-2").row()["n_workers"] == 1
        status, refused = ask(lab, "PATCH", f"/{made['id']}", {"workers": 10_000})
        assert status == 500 and refused["message"].startswith("10000 workers")  # and what fits
        adapts = ask(lab, "PATCH", f"/{made['id']}", {"adapt": {"minimum": 0, "maximum": 1}})[1]["adapt"]
        assert adapts == {"minimum": 0, "maximum": 1}
    finally:
        assert ask(lab, "DELETE", f"/{made['id']}")[0] == 204
    assert [one.name for one in clusters.list()] == ["main"]


def test_a_cluster_of_the_pane_that_ended_elsewhere_breaks_no_list(lab: Lab) -> None:
    made = ask(lab, "PUT", "")[1]
    [name] = [one.name for one in clusters.list() if f"/{one.name}/" in made["dashboard_link"]]
    clusters.stop(name)
    ended = wait_until(
        lambda: [one for one in ask(lab, "GET", "")[1] if one["id"] == made["id"] and not one["workers"]] or None,
        timeout=30,
        what="the end of its workers in the pane",
    )
    assert len(ended) == 1
    assert ask(lab, "DELETE", f"/{made['id']}")[0] == 204
    assert ask(lab, "GET", "")[1] == []


def test_the_files_of_the_extension_have_the_version_of_ports() -> None:
    package = Path(__file__).parents[2] / "ports/web/labextension/package.json"
    assert json.loads(package.read_text())["version"] == __version__
