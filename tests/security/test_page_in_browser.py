"""Another page in alice's browser attacks her page; what it does succeeds on a plain tornado page."""

from __future__ import annotations

import contextlib
import http.server
import json
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.chromium import CHROMIUM, NEEDS_CHROMIUM
from tests.integration.conftest import Home, new_home

pytestmark = [pytest.mark.ci, *NEEDS_CHROMIUM, pytest.mark.timeout(150)]
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-proxy-server"]
# What a page does to another one: every method with the cookies of the browser, a form, a frame, a picture, a tab.
ATTACK = """
async (at) => {
  const told = {};
  for (const method of ["GET", "POST", "PUT", "DELETE", "PATCH"]) {
    const more = method === "GET" ? {} : { body: "verb=stop&host=x&kind=cluster&name=main" };
    try {
      const answer = await fetch(at, { method, mode: method === "GET" || method === "POST" ? "no-cors" : "cors",
        credentials: "include", headers: { "Content-Type": "application/x-www-form-urlencoded" }, ...more });
      told[method] = answer.type;
    } catch (error) { told[method] = "failed"; }
  }
  told.websocket = await new Promise((done) => {
    const socket = new WebSocket(new URL("/-/live?page=/", at).href.replace("http", "ws"));
    socket.onmessage = (event) => done(event.data);
    socket.onerror = () => done("refused");
  });
  told.picture = await new Promise((done) => {
    const one = document.createElement("script");
    one.onload = () => done("loaded"); one.onerror = () => done("refused");
    one.src = at; document.head.append(one);
  });
  const frame = document.createElement("iframe");
  frame.name = "target"; document.body.append(frame);
  const form = document.createElement("form");
  Object.assign(form, { method: "post", action: at, target: "target" });
  document.body.append(form); form.submit();
  await new Promise((done) => { frame.onload = done; setTimeout(done, 5000); });
  return told;
}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Home]:
    with new_home(tmp_path_factory.mktemp("page") / "home") as made:
        yield made


@contextlib.contextmanager
def foreign_page() -> Iterator[int]:
    """Serve an empty page of somebody else, on a port of this machine."""

    class Empty(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>other</title><body></body>")

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("", 0), Empty) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


@contextlib.contextmanager
def plain_page() -> Iterator[str]:
    code = Path(__file__).with_name("plain_page.py").read_text()
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(running.stdout.readline())}"
        finally:
            running.kill()


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost"])
def test_another_page_of_the_same_browser_does_nothing_and_sees_nothing(home: Home, name: str) -> None:
    from playwright.sync_api import sync_playwright

    row = home.json("page", "--background", "--no-browser")
    with foreign_page() as port, plain_page() as plain, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        try:
            tab = browser.new_page()
            tab.goto(row["local_url"])
            assert "My hosts" in tab.content()  # alice is in, and her browser has the cookies of both
            tab.goto(f"{plain}/enter")
            tab.goto(f"http://{name}:{port}/")
            statuses: dict[str, set[int]] = {}
            tab.on("response", lambda one: statuses.setdefault(one.url, set()).add(one.status))
            own = tab.evaluate(ATTACK, f"{row['url']}-/do")
            fell = tab.evaluate(ATTACK, f"{plain}/kept")
            done = json.load(urllib.request.urlopen(f"{plain}/acts", timeout=20))
        finally:
            browser.close()
    assert own["websocket"] == own["picture"] == "refused", own
    assert [own[method] for method in ("PUT", "DELETE", "PATCH")] == ["failed"] * 3, own
    assert statuses[f"{row['url']}-/do"] <= {403, 405}, statuses
    assert fell["websocket"] == "<main>my clusters</main>"
    # from another port of 127.0.0.1 the cookie goes along: it is the same site
    assert done.count("POST") >= (name == "127.0.0.1"), done
    home.json("page", "stop")
