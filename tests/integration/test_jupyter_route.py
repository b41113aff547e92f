"""``/ports/<name>`` of a Jupyter server: dashboards of clusters behind Jupyter's own login."""

from __future__ import annotations

import asyncio
import http.client
import json
import re
from collections.abc import Iterator

import pytest
from bokeh.util.token import get_token_payload
from tornado.httpclient import HTTPClientError, HTTPRequest
from tornado.websocket import WebSocketClientConnection, websocket_connect

from ports import clusters, notebooks
from ports.clusters._cluster import Cluster
from ports.notebooks import _notebooks
from ports.notebooks._notebook import Notebook
from ports.state import wait_until
from tests.integration.conftest import Home
from tests.integration.test_notebooks import by_hand, run_in_kernel

TOKEN = re.compile(r'"token":"([^"]+)"')  # of a page's websocket


@pytest.fixture(scope="module")
def lab(shared_home: Home) -> Iterator[Notebook]:
    """A JupyterLab that runs before there is any cluster."""
    yield notebooks.start("lab", root=shared_home.work)
    _notebooks.stop("lab")


@pytest.fixture(scope="module")
def main(lab: Notebook) -> Iterator[Cluster]:
    assert ask(lab, "/ports/main/status")[0] == 404  # nobody knows that name yet
    yield clusters.start("main", n_workers=0)
    clusters.get("main").stop()


def ask(
    lab: Notebook, path: str, method: str = "GET", *, token: bool = True, headers: dict[str, str] | None = None
) -> tuple[int, dict[str, str], str]:
    """Return status, headers and text of an answer of the Jupyter server; redirects are not followed."""
    connection = http.client.HTTPConnection("127.0.0.1", lab.port or 0, timeout=30)
    try:
        given = {"Authorization": f"token {lab.token}"} if token else {}
        connection.request(method, path, headers={**given, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read().decode(errors="replace")
    finally:
        connection.close()


def open_websocket(lab: Notebook, page: str, **headers: str) -> WebSocketClientConnection | int:
    """Open the websocket of a page of the dashboard as its script does; return it, or the status of the refusal."""

    async def opened() -> WebSocketClientConnection | int:
        [token] = TOKEN.findall(page)
        request = HTTPRequest(f"ws://127.0.0.1:{lab.port}/ports/main/status/ws", headers=headers, connect_timeout=20)
        try:
            connection = await websocket_connect(request, subprotocols=["bokeh", token])
        except HTTPClientError as error:
            return error.code
        assert "ACK" in str(await asyncio.wait_for(connection.read_message(), 20))
        connection.close()
        return connection

    return asyncio.run(opened())


def test_a_cluster_that_started_after_jupyter_has_its_dashboard_there(lab: Notebook, main: Cluster) -> None:
    status, headers, page = ask(lab, "/ports/main/status")
    assert status == 200 and "Bokeh" in page and headers["Content-Type"].startswith("text/html")
    assert "frame-ancestors 'self'" in headers["Content-Security-Policy"]  # panes of JupyterLab may hold it
    plots = json.loads(ask(lab, "/ports/main/individual-plots.json")[2])
    assert any("individual-" in route for route in plots.values())
    script = re.findall(r'src="([^"]*static/js/[^"]*bokeh[^"]*)"', page)[0]
    assert ask(lab, f"/ports/main/{script}")[0] == 200
    assert ask(lab, f"/ports/main/{script}", "HEAD")[2] == ""


def test_links_lead_to_the_first_page_and_a_page_names_all_clusters(lab: Notebook, main: Cluster) -> None:
    for path in ("/ports/main", "/ports/main/"):
        status, headers, _ = ask(lab, path)
        assert (status, headers["Location"]) == (302, "/ports/main/status")
    assert ask(lab, "/ports")[1]["Location"] == "/ports/"
    status, _, page = ask(lab, "/ports/nope/status")
    assert status == 404 and "no cluster" in page and 'href="/ports/main/status"' in page
    assert ask(lab, "/ports/main/no/such/page")[0] == 404


SHOWN = "import ports; ports.show(ports.clusters.get('main'))"


def shown_in_a_kernel(lab: Notebook, code: str) -> str:
    """Return what `code` prints in a new kernel of the server; IPython's display is a message of another type."""
    kernel = json.loads(ask(lab, "/api/kernels", "POST")[2])["id"]
    try:
        return run_in_kernel(lab, kernel, "import IPython.display as d; d.display = print\n" + code)
    finally:
        ask(lab, f"/api/kernels/{kernel}", "DELETE")


def test_show_names_the_path_in_jupyter_first(lab: Notebook, main: Cluster) -> None:
    printed = shown_in_a_kernel(lab, SHOWN)
    assert printed.splitlines()[0] == "in this Jupyter:      /ports/main"
    assert printed.splitlines()[1].startswith("at home, type:  ")
    outside = (
        f"import subprocess, sys, os; env = dict(os.environ); del env['JPY_PARENT_PID']\n"
        f"print(subprocess.run([sys.executable, '-c', {SHOWN!r}], env=env, capture_output=True, text=True).stdout)"
    )
    assert shown_in_a_kernel(lab, outside).startswith("at home, type:  ")


@pytest.mark.ci
def test_an_error_in_a_notebook_is_the_user_s_line_and_the_message(lab: Notebook) -> None:
    code = "shell = get_ipython(); shell._showtraceback = lambda kind, error, shown: print('\\n'.join(shown))\n"
    code += """shell.run_cell("import ports\\nports.clusters.get('A B')")"""
    message, line = shown_in_a_kernel(lab, code).splitlines()
    assert message.startswith("InvalidNameError: 'A B' is not a name")
    assert line == "  line 2: ports.clusters.get('A B')"


@pytest.mark.ci
def test_a_kernel_says_what_a_slow_start_waits_for_and_what_started(lab: Notebook) -> None:
    code = "from ports.state import waiting; waiting.PATIENCE = 0.1\nimport ports; ports.client('slow', n_workers=1)"
    said = shown_in_a_kernel(lab, code)
    assert "waiting for the start of cluster 'slow'" in said and "started 'slow': 1 worker × " in said, said
    clusters.stop("slow")


def test_show_names_no_path_where_the_route_is_disabled(shared_home: Home, main: Cluster) -> None:
    options = ("--ServerApp.jpserver_extensions={'ports.web': False}",)
    with by_hand(shared_home.work, shared_home.work / "by-hand.log", *options) as process:

        def listed() -> Notebook | None:
            return next((one for one in notebooks.list() if one.pid == process.pid and one.token), None)

        found = wait_until(listed, timeout=40, what="the server in the list", every=0.2)
        assert shown_in_a_kernel(found, SHOWN).startswith("at home, type:  ")


def test_its_websocket_goes_through(lab: Notebook, main: Cluster) -> None:
    page = ask(lab, "/ports/main/status")[2]
    assert isinstance(open_websocket(lab, page, Authorization=f"token {lab.token}"), WebSocketClientConnection)


def test_nobody_gets_in_without_jupyter_s_login(lab: Notebook, main: Cluster) -> None:
    page = ask(lab, "/ports/main/status")[2]
    for path in ("/ports", "/ports/main", "/ports/main/status", "/ports/nope/status"):
        status, headers, text = ask(lab, path, token=False)
        assert status == 302 and headers["Location"].startswith("/login?") and "main" not in text
    assert open_websocket(lab, page) in (302, 403, 405)
    assert ask(lab, "/ports/main/status", token=False, headers={"Authorization": "token " + "0" * 48})[0] == 302


def test_another_web_page_gets_no_websocket(lab: Notebook, main: Cluster) -> None:
    page, cookies = ask(lab, "/ports/main/status")[2], ask(lab, f"/login?token={lab.token}", token=False)[1]
    jar = "; ".join(part.partition(";")[0] for part in cookies["Set-Cookie"].split(", ") if "username-" in part)
    if not jar:
        pytest.skip("this Jupyter sets its cookie elsewhere")
    assert open_websocket(lab, page, Cookie=jar, Origin="http://evil.example") == 403
    mine = open_websocket(lab, page, Cookie=jar, Origin=f"http://127.0.0.1:{lab.port}")
    assert isinstance(mine, WebSocketClientConnection)


def test_a_connection_without_a_websocket_stays_jupyter_s(lab: Notebook, main: Cluster) -> None:
    """Behind a proxy that keeps connections, the next request on it is somebody's for Jupyter, with cookies."""
    login, upgrade = {"Authorization": f"token {lab.token}"}, {"Upgrade": "websocket", "Connection": "Upgrade"}
    connection = http.client.HTTPConnection("127.0.0.1", lab.port or 0, timeout=10)
    try:
        for path, status in (("/ports/main/status", 400), ("/ports/main/no/such/page", 404)):
            connection.request("GET", path, headers={**login, **upgrade})
            answer = connection.getresponse()
            assert (answer.status, answer.read() != b"") == (status, True)
            kept = connection.sock
            connection.request("GET", "/api/status", headers=login)
            answer = connection.getresponse()
            assert answer.status == 200 and "kernels" in json.loads(answer.read())
            assert connection.sock is kept  # and it was one connection
    finally:
        connection.close()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
def test_nothing_is_changed_through_it(lab: Notebook, main: Cluster, method: str) -> None:
    assert ask(lab, "/ports/main/api/v1/retire_workers", method)[0] == 405


def test_neither_cookies_nor_tokens_of_jupyter_reach_the_dashboard(lab: Notebook, main: Cluster) -> None:
    page = ask(lab, f"/ports/main/status?token={lab.token}&theme=dark", headers={"Cookie": "a=sesame"})[2]
    told = str(get_token_payload(TOKEN.findall(page)[0]))  # Bokeh keeps what it was asked with
    assert "theme" in told and str(lab.token) not in told + page and "sesame" not in told + page


def test_a_cluster_that_stopped_is_told_and_is_back_with_its_next_start(lab: Notebook, shared_home: Home) -> None:
    first = clusters.start("again", n_workers=0)
    assert ask(lab, "/ports/again/status")[0] == 200
    first.stop()
    status, _, page = ask(lab, "/ports/again/status")
    assert status == 404 and "no cluster" in page and "refresh" in page
    second = clusters.start("again", n_workers=0)
    assert ask(lab, "/ports/again/status")[0] == 200
    second.stop()
