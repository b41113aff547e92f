"""Five services at once in alice's browser, all on ``localhost``: each keeps its login, and its page after a cut."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.acceptance.chromium import CHROMIUM, NEEDS_CHROMIUM, TOOLS
from tests.acceptance.conftest import AtWork, without_token
from tests.lab.site import Running

pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM, pytest.mark.timeout(240)]

# Lets in who comes with the token or with the cookie of it, and counts the visits in another cookie.
SHOP = """
import http.cookies, http.server, sys
class Shop(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        known = http.cookies.SimpleCookie(self.headers.get("Cookie", ""))
        path, _, query = self.path.partition("?")
        if path != "/":
            return self.send_error(404)
        logged_in = query == "token=sesame" or ("session" in known and known["session"].value == "alice's")
        visits = int(known["visits"].value) + 1 if "visits" in known and logged_in else 1
        body = f"<title>shop</title><p>visit {visits}</p>".encode() if logged_in else b"<title>nobody</title>"
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Content-Length", str(len(body)))
        if logged_in:
            self.send_header("Set-Cookie", 'session="alice\\'s"; Path=/')
            self.send_header("Set-Cookie", f"visits={visits}; Path=/")
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Shop)
print(server.server_port, flush=True)
server.serve_forever()
"""
BOKEH = """
from bokeh.io import curdoc
from bokeh.models import Button
button = Button(label="pressed 0 times", name="button")
def press():
    button.label = f"pressed {int(button.label.split()[1]) + 1} times"
button.on_click(press)
curdoc().add_root(button)
curdoc().title = "presses"
"""
# Each line of its input is [tab, code]: `page` is the tab, a new one for a new name.
BROWSER = (
    TOOLS
    + """
with sync_playwright() as tools:
    browser = tools.chromium.launch(executable_path=sys.argv[1], headless=True, args=flags)
    context, tabs = browser.new_context(), {}
    for line in sys.stdin:
        tab, code = json.loads(line)
        if tab not in tabs:
            tabs[tab] = context.new_page()
            tabs[tab].set_default_timeout(60_000)
        names = {"page": tabs[tab]}
        exec(code, names)
        print(json.dumps(names.get("found")), flush=True)
    browser.close()
"""
)

DASHBOARD = """
page.wait_for_function("window.Bokeh && Bokeh.documents.length && Bokeh.documents[0].roots().length > 0")
found = page.evaluate("Bokeh.documents[0].roots().length")
"""
PRESS = """
page.get_by_role("button").click()
page.wait_for_function("Bokeh.documents[0].get_model_by_name('button').label != 'pressed 0 times'")
found = page.get_by_role("button").inner_text()
"""
RELOADED = """
with page.expect_navigation():
    pass
found = page.title().endswith("is down")
"""


class Browser:
    """Alice's browser, with a tab for each name."""

    def __init__(self, work: AtWork) -> None:
        assert CHROMIUM is not None
        argv = [work.site.python, "-c", BROWSER, CHROMIUM]
        self.running: Running = work.site.popen("laptop", argv, stdin=subprocess.PIPE)

    def do(self, tab: str, code: str) -> Any:
        """Run `code` with the `page` of `tab`, and return what it calls `found`."""
        assert self.running.stdin is not None and self.running.stdout is not None
        self.running.stdin.write(json.dumps([tab, code]) + "\n")
        self.running.stdin.flush()
        line = self.running.stdout.readline()
        assert line, self.running.communicate()[1]
        return json.loads(line)

    def visit(self, tab: str, url: str) -> str:
        """Go to `url`, and return where that led."""
        path: str = self.do(tab, f"page.goto({url!r}, wait_until='domcontentloaded')\nfound = page.url")
        return path


@pytest.fixture
def browser(at_work: AtWork) -> Iterator[Browser]:
    """A browser without a history."""
    made = Browser(at_work)
    yield made
    made.running.communicate("", timeout=30)


@pytest.fixture(scope="module")
def links(at_work: AtWork) -> Iterator[dict[str, str]]:
    """Links to five services on two servers, by one `ports open`."""
    site = at_work.site
    shop = site.popen("server1", ["/usr/bin/python3", "-c", SHOP])
    site.host("server2").write("~/presses.py", BOKEH)
    # a far port says nothing of the local one, so that the app must let its own user in from any
    argv = [site.notebook_python, "-m", "bokeh", "serve", "--port", "5006", "--allow-websocket-origin", "*"]
    quiet = subprocess.DEVNULL
    presses = site.popen("server2", [*argv, "presses.py"], stdout=quiet, stderr=quiet)
    assert shop.stdout is not None
    port = int(shop.stdout.readline())
    wait_until(
        lambda: any(":5006" in one.where for one in site.host("server2").listeners()) or None,
        timeout=30,
        what="the app",
    )
    targets = ("server1", "server2", f"server1:{port}", "server2:5006")
    rows = at_work.json("open", *targets, "--background", env={"DASK_PORTS__OPEN__DEAD_AFTER": "3"})
    yield {f"{row['kind']} {row['host']}": row["local_url"] for row in rows}
    at_work.json("tunnel", "close", "--all")
    for running in (shop, presses):
        running.kill()
        running.communicate()


def check_jupyter(browser: Browser, tab: str) -> None:
    """Write to the server from its page: that needs the login and the token against forgery."""
    code = """
found = page.evaluate('''async () => {
    const token = document.cookie.split("; ").find(one => one.startsWith("_xsrf=")).slice(6);
    const made = await fetch("/api/contents", {method: "POST", headers: {"X-XSRFToken": token}, body: "{}"});
    const text = await made.json();
    await fetch("/api/contents/" + text.path, {method: "DELETE", headers: {"X-XSRFToken": token}});
    return made.status;
}''')
"""
    assert browser.do(tab, code) == 201


def test_all_stay_logged_in_while_each_is_visited_twice(browser: Browser, links: dict[str, str]) -> None:
    jupyters = ["notebook server1", "notebook server2"]
    for turn in (1, 2):
        for name in jupyters:
            link = links[name] if turn == 1 else without_token(links[name])
            assert browser.visit(name, link).startswith(without_token(links[name]))
            check_jupyter(browser, name)
        browser.visit("shop", links["listener server1"] + ("?token=sesame" if turn == 1 else ""))
        assert browser.do("shop", "found = page.inner_text('p')") == f"visit {turn}"
        assert browser.visit("cluster", links["cluster server1"]) == links["cluster server1"]
        assert browser.do("cluster", DASHBOARD) > 0
        browser.visit("presses", links["bokeh server2"] + "presses")
        assert browser.do("presses", PRESS) == "pressed 1 times"
    # and what was open all the time still is
    for name in jupyters:
        check_jupyter(browser, name)
    names = browser.do("shop", "found = sorted(one['name'] for one in page.context.cookies())")
    assert {"session", "visits"} < set(names)


def test_a_page_loaded_during_a_cut_turns_into_the_real_one_by_itself(
    browser: Browser, links: dict[str, str], at_work: AtWork
) -> None:
    link = links["listener server1"] + "?token=sesame"
    browser.visit("shop", link)
    server = at_work.site.host("server1")
    server.cut()
    try:
        wait_until(lambda: is_down(at_work) or None, timeout=15, what="the state 'down'", every=0.2)
        browser.visit("shop", link)
        assert browser.do("shop", "found = page.title()") == "The connection to server1 is down"
        # it goes on asking, without a hand
        assert browser.do("shop", RELOADED) is True
    finally:
        server.mend()
    assert browser.do("shop", "page.wait_for_function(\"document.title == 'shop'\")\nfound = page.url") == link


def is_down(work: AtWork) -> bool:
    """Tell whether the tunnels to server1 are shown as down."""
    return {row["state"] for row in work.json("tunnel", "list") if row["host"] == "server1"} == {"down"}
