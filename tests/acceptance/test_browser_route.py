"""What alice sees in JupyterLab in her browser at home: her cluster's dashboard, under Jupyter's own link."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.acceptance.chromium import NEEDS_CHROMIUM
from tests.acceptance.conftest import AtWork, without_token
from tests.acceptance.test_browser import browse

pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM, pytest.mark.timeout(150)]
DRAWN = "window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].roots().length > 0"


@pytest.fixture(scope="module")
def lab(at_work: AtWork) -> Iterator[str]:
    """The link to JupyterLab on server1, open in the background."""
    [row] = at_work.json("open", "server1:lab", "--background")
    yield row["local_url"]
    at_work.json("tunnel", "close", "--all")


def test_the_dashboard_of_a_later_cluster_streams_below_jupyters_link(at_work: AtWork, lab: str) -> None:
    at_work.json("cluster", "start", "later", "--n-workers", "1", "-H", "server1")
    code = f"""
base = page.url.split("/lab")[0]
page.goto(base + "/ports/later")
page.wait_for_function({DRAWN!r})
before = len(frames)
page.wait_for_function(
    "() => [...Bokeh.documents[0]._all_models.values()].some(one => one.data && one.data.name"
    " && [...(one.data.name || [])].includes('add_up'))"
)
found["updates"], found["at"] = len(frames) - before, page.url
page.click("text=Workers")
page.wait_for_function({DRAWN!r})
found["next"] = page.url
page.goto(base + "/ports")
with page.expect_popup() as opened:
    page.click("tr:has-text('main') a:has-text('dashboard')")
opened.value.wait_for_function({DRAWN!r})
found["other"] = opened.value.url
"""
    job = "import ports, time\ndef add_up(x): return sum(range(x))\nc = ports.client('later', reuse='any')\n"
    job += "end = time.monotonic() + 40\n"
    job += "while time.monotonic() < end: c.gather(c.map(add_up, range(100), pure=False))\n"
    busy = at_work.site.popen("server1", [at_work.site.python, "-c", job])
    try:
        found = browse(at_work, lab, code)
    finally:
        busy.kill()
        busy.communicate()
        at_work.json("cluster", "stop", "later", "-H", "server1")
    base = without_token(lab).removesuffix("/lab")
    assert int(str(found["updates"])) >= 1
    assert (found["at"], found["next"]) == (f"{base}/ports/later/status", f"{base}/ports/later/workers")
    assert found["other"] == f"{base}/ports/main/status"
    assert any("/ports/later/status/ws" in str(url) for url in found["sockets"])  # type: ignore[attr-defined]


def test_a_pane_of_jupyterlab_holds_a_plot(at_work: AtWork, lab: str) -> None:
    """A frame in Lab's own page, which is what dask-labextension makes of ``ports/main``."""
    code = f"""
base = page.url.split("/lab")[0]
plots = page.evaluate("async at => await (await fetch(at)).json()", base + "/ports/main/individual-plots.json")
found["plots"] = sorted(plots.values())
page.evaluate(
    "at => {{ const pane = document.createElement('iframe');"
    " pane.name = 'pane'; pane.src = at; document.body.append(pane) }}",
    base + "/ports/main/individual-task-stream",
)
pane = page.wait_for_selector("iframe[name=pane]", state="attached").content_frame()
pane.wait_for_function({DRAWN!r})
found["drawn"] = True
"""
    found = browse(at_work, lab, code)
    assert found["drawn"] is True and "/individual-task-stream" in found["plots"]  # type: ignore[operator]


def test_without_jupyter_s_login_the_browser_is_asked_for_it(at_work: AtWork, lab: str) -> None:
    address = without_token(lab).removesuffix("/lab") + "/ports/main/status"
    found = browse(at_work, address, "found['at'], found['text'] = page.url, page.inner_text('body')")
    assert "/login?next=" in str(found["at"]) and "Task Stream" not in str(found["text"]) and not found["sockets"]
