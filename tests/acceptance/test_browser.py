"""What alice sees in her browser: the dashboard streams and JupyterLab runs a cell, through `ports open`."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.acceptance.chromium import CHROMIUM, NEEDS_CHROMIUM, TOOLS
from tests.acceptance.conftest import AtWork

pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM, pytest.mark.timeout(150)]

BROWSE = (
    TOOLS
    + """
chromium, url = sys.argv[1:3]
with sync_playwright() as tools:
    browser = tools.chromium.launch(executable_path=chromium, headless=True, args=flags)
    page = browser.new_page()
    page.set_default_timeout(60_000)
    sockets, frames = [], []
    def watch(socket):
        sockets.append(socket.url)
        socket.on("framereceived", lambda payload: frames.append(len(payload)))
    page.on("websocket", watch)
    page.goto(url, wait_until="domcontentloaded")
    found = {}
    CODE
    print(json.dumps({**found, "sockets": sockets, "frames": len(frames)}))
    browser.close()
"""
)


@pytest.fixture(scope="module")
def links(at_work: AtWork) -> Iterator[dict[str, str]]:
    """Links to what runs on server1, open in the background."""
    rows = at_work.json("open", "server1", "--background")
    yield {row["kind"]: row["local_url"] for row in rows}
    at_work.json("tunnel", "close", "--all")


def browse(work: AtWork, url: str, code: str) -> dict[str, object]:
    """Open `url` in alice's browser on the laptop, run `code` there, and return what it found."""
    assert CHROMIUM is not None
    script = BROWSE.replace("CODE", code.strip().replace("\n", "\n    "))
    answer: dict[str, object] = json.loads(work.python("laptop", script, CHROMIUM, url, timeout=120))
    return answer


def test_the_dashboard_streams_what_the_cluster_does(at_work: AtWork, links: dict[str, str]) -> None:
    code = """
page.wait_for_function("window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].roots().length > 0")
before = len(frames)
page.wait_for_function(
    "() => [...Bokeh.documents[0]._all_models.values()].some(one => one.data && one.data.name"
    " && [...(one.data.name || [])].includes('add_up'))"
)
found["updates"] = len(frames) - before
"""
    job = "import ports\ndef add_up(x): return sum(range(x))\nc = ports.client(reuse='any')\n"
    job += "import time\nend = time.monotonic() + 20\n"
    job += "while time.monotonic() < end: c.gather(c.map(add_up, range(200), pure=False))\n"
    busy = at_work.site.popen("server1", [at_work.site.python, "-c", job])
    try:
        found = browse(at_work, links["cluster"], code)
    finally:
        busy.kill()
        busy.communicate()
    assert found["updates"] >= 1
    assert any("/status/ws" in str(url) for url in found["sockets"])


def test_jupyterlab_runs_a_cell_over_its_websocket(at_work: AtWork, links: dict[str, str]) -> None:
    code = """
page.locator(".jp-LauncherCard[data-category='Console']").first.click()
page.wait_for_function("document.querySelector('.jp-CodeConsole-banner')?.innerText.includes('Python')")
cell = page.locator(".jp-CodeConsole-input .cm-content")
cell.click()
page.keyboard.type("import ports; ports.client(reuse='any').submit(sum, [40, 2]).result()")
page.keyboard.press("Shift+Enter")
outputs = "[...document.querySelectorAll('.jp-OutputArea-output')]"
page.wait_for_function(outputs + ".some(one => one.innerText.trim() == '42')")
found["ran"] = True
"""
    found = browse(at_work, links["notebook"], code)
    assert found["ran"] is True
    assert any("/channels" in str(url) for url in found["sockets"])
