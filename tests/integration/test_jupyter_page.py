"""The page at ``/ports/`` of a Jupyter server: behind its login, for its own pages only."""

from __future__ import annotations

import asyncio
import http.client
import http.server
import re
import socketserver
from collections.abc import Iterator
from urllib.parse import urlencode

import pytest
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import websocket_connect

from ports import clusters, notebooks
from ports.clusters import Cluster
from ports.notebooks import _notebooks
from ports.notebooks._notebook import Notebook
from ports.state import paths, wait_until
from tests.integration.conftest import Home

pytestmark = pytest.mark.ci

PATHS = (
    "/",
    "/-/thing?kind=cluster&name=main",
    "/-/machine",
    "/-/sheet?verb=stop",
    "/-/go?name=main",
    "/-/static/page.js",
)
FOREIGN: dict[str, dict[str, str]] = {
    "another origin": {"Origin": "http://evil.example"},
    "another port of this machine": {"Origin": "http://127.0.0.1:1"},
    "another site, by what the browser says": {"Sec-Fetch-Site": "cross-site"},
    "another port, by what the browser says": {"Sec-Fetch-Site": "same-site"},
}


@pytest.fixture(scope="module")
def lab(shared_home: Home) -> Iterator[Notebook]:
    yield notebooks.start("lab", root=shared_home.work)
    _notebooks.stop("lab")


@pytest.fixture(scope="module")
def main(shared_home: Home) -> Iterator[Cluster]:
    yield clusters.start("main", n_workers=0)
    clusters.get("main").stop()


@pytest.fixture(scope="module")
def cookies(lab: Notebook) -> str:
    """What a browser has after Jupyter's login."""
    _, headers, _ = ask(lab, f"/login?token={lab.token}")
    parts = re.findall(r"(?:^|, )([\w-]+=[^;]+);", headers["Set-Cookie"])
    return "; ".join(parts)


def ask(
    lab: Notebook, path: str, fields: dict[str, str] | None = None, method: str = "", **headers: str
) -> tuple[int, dict[str, str], str]:
    """Return status, headers and text of an answer; `fields` are those of a form. Nothing logs in by itself."""
    connection = http.client.HTTPConnection("127.0.0.1", lab.port or 0, timeout=60)
    try:
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        body = None
        if fields is not None:
            body, given["Content-Type"] = urlencode(fields), "application/x-www-form-urlencoded"
        connection.request(method or ("GET" if fields is None else "POST"), path, body, given)
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")
    finally:
        connection.close()


def form_token(lab: Notebook, cookies: str) -> str:
    """Return the token that each form of the page sends."""
    sheet = f"/ports/-/sheet?{urlencode({'verb': 'start', 'kind': 'cluster', 'host': paths.host_name()})}"
    return re.findall(r'name="token" value="([^"]+)"', ask(lab, sheet, Cookie=cookies)[2])[0]


def scale(lab: Notebook, cookies: str, n: int, token: str, **headers: str) -> int:
    """Ask for another size of the cluster, as the page's form does; return the status."""
    fields = {
        "verb": "scale",
        "host": paths.host_name(),
        "kind": "cluster",
        "name": "main",
        "n_workers": str(n),
        "token": token,
    }
    return ask(lab, "/ports/-/do", fields, Cookie=cookies, **headers)[0]


def test_the_page_is_behind_jupyter_s_login_and_in_its_frames_only(lab: Notebook, cookies: str) -> None:
    status, headers, page = ask(lab, "/ports/", Cookie=cookies)
    assert status == 200 and paths.host_name() in page and str(lab.token) not in page
    policy = headers["Content-Security-Policy"]
    assert "frame-ancestors 'self'" in policy and "script-src 'self'" in policy and "default-src 'none'" in policy
    assert ask(lab, "/ports", Cookie=cookies)[1]["Location"] == "/ports/"


@pytest.mark.parametrize("path", PATHS)
def test_no_part_of_the_page_is_shown_without_the_login(lab: Notebook, path: str) -> None:
    status, headers, text = ask(lab, f"/ports{path}")
    assert status == 302 and headers["Location"].startswith("/login?") and paths.host_name() not in text
    assert ask(lab, f"/ports{path}", X_Ports="morph")[0] == 403  # the page's script shows no login
    assert ask(lab, f"/ports{path}", Authorization="token " + "0" * 48)[0] == 302


def test_an_act_needs_the_login_and_the_token_of_its_form(lab: Notebook, main: Cluster, cookies: str) -> None:
    token = form_token(lab, cookies)
    assert scale(lab, "", 1, token) == 403
    assert scale(lab, cookies, 1, "") == 403
    assert scale(lab, cookies, 1, token[:-1] + "-") == 403
    assert ask(lab, "/ports/-/do", {"verb": "scale"}, Authorization=f"token {lab.token}")[0] == 403
    assert clusters.get("main").row()["n_workers"] == 0
    assert scale(lab, cookies, 1, token, Origin=f"http://127.0.0.1:{lab.port}", Sec_Fetch_Site="same-origin") == 303
    assert clusters.get("main").record.n_workers == 1


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
def test_another_web_page_causes_no_act(lab: Notebook, main: Cluster, cookies: str, headers: dict[str, str]) -> None:
    """With the cookie of the login, which its browser sends, and even with the form's token."""
    given = {name.replace("-", "_"): value for name, value in headers.items()}
    before = clusters.get("main").record.n_workers
    assert scale(lab, cookies, 2, form_token(lab, cookies), **given) == 403
    assert clusters.get("main").record.n_workers == before


@pytest.mark.parametrize("site", ["cross-site", "same-site"])
def test_another_web_page_opens_no_link(lab: Notebook, main: Cluster, cookies: str, site: str) -> None:
    path = f"/ports/-/go?{urlencode({'host': paths.host_name(), 'kind': 'cluster', 'name': 'main'})}"
    assert ask(lab, path, Cookie=cookies, Sec_Fetch_Site=site)[0] == 403
    assert ask(lab, path, Cookie=cookies, Sec_Fetch_Site="same-origin")[0] != 403


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "HEAD"])
def test_no_other_method_does_anything(lab: Notebook, main: Cluster, cookies: str, method: str) -> None:
    fields = {"verb": "stop", "host": paths.host_name(), "kind": "cluster", "name": "main"}
    fields["token"] = form_token(lab, cookies)
    assert ask(lab, f"/ports/-/do?{urlencode(fields)}", fields, method, Cookie=cookies)[0] in (403, 405)
    assert clusters.get("main").state == "running"


def watch(lab: Notebook, **headers: str) -> str | int:
    """Return what the page's WebSocket sends first, or the status of its refusal."""

    async def first() -> str | int:
        address = f"ws://127.0.0.1:{lab.port}/ports/-/live?page=/ports/"
        try:
            socket = await websocket_connect(HTTPRequest(address, headers=headers, connect_timeout=20))
        except HTTPClientError as error:
            return error.code
        try:
            return str(await asyncio.wait_for(socket.read_message(), 30))
        finally:
            socket.close()

    return asyncio.run(first())


def test_the_page_is_live_for_its_own_pages_only(lab: Notebook, cookies: str) -> None:
    own = f"http://127.0.0.1:{lab.port}"
    assert watch(lab, Origin=own) == 403
    assert watch(lab, Cookie=cookies, Origin="http://evil.example") == 403
    assert watch(lab, Cookie=cookies, Origin="http://127.0.0.1:1") == 403
    sent = watch(lab, Cookie=cookies, Origin=own)
    assert isinstance(sent, str) and "<main" in sent and paths.host_name() in sent


def see(lab: Notebook, cookies: str, name: str) -> None:
    """Look at the page until it shows a thing: the first paint waits for nothing."""
    wait_until(
        lambda: f"name={name}" in ask(lab, "/ports/", Cookie=cookies)[2] or None,
        timeout=60,
        what=f"{name} on the page",
        every=0.2,
    )


def go(lab: Notebook, cookies: str, kind: str, name: str, **headers: str) -> tuple[int, str, str]:
    """Follow a link of the page; return the status, where it leads, and the text."""
    query = urlencode({"host": paths.host_name(), "kind": kind, "name": name})
    status, found, text = ask(lab, f"/ports/-/go?{query}", Cookie=cookies, **headers)
    return status, found.get("Location", ""), text


def test_links_of_the_page_lead_where_the_browser_can_follow(lab: Notebook, main: Cluster, cookies: str) -> None:
    for name in ("main", "lab"):
        see(lab, cookies, name)
    assert go(lab, cookies, "cluster", "main")[:2] == (302, "/ports/main/status")
    assert go(lab, cookies, "notebook", "lab")[:2] == (302, "/lab")  # this one, whatever leads to it
    assert go(lab, cookies, "cluster", "nope")[0] in (404, 503)


def test_a_browser_elsewhere_gets_the_command_for_its_machine(lab: Notebook, main: Cluster, cookies: str) -> None:
    """It came through a tunnel: the port in its address is not that of the server."""
    with socketserver.TCPServer(("127.0.0.1", 0), http.server.BaseHTTPRequestHandler) as service:
        port = service.server_address[1]
        see(lab, cookies, str(port))
        away = {"Host": f"localhost:{(lab.port or 0) + 1}", "Authorization": f"token {lab.token}"}
        status, _, told = go(lab, cookies, "listener", str(port), **away)
    assert status == 503 and re.search(rf"<code>ports open \S+:{port}</code> opens", told)
