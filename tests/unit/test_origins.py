"""Pages that compare the Origin of their websockets with a port: served where they work, else with the way out."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
from tornado.httpserver import HTTPServer
from tornado.testing import bind_unused_port
from tornado.web import Application, RedirectHandler, RequestHandler
from tornado.websocket import WebSocketHandler

from ports.hosts._connection import to_port
from ports.tunnels import _origins, _records, _verify
from ports.tunnels._event_loop import LOOPBACK, bind
from ports.tunnels._host_tunnels import HostTunnels
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._services import Service
from ports.tunnels._tunnel import Tunnel
from tests.unit.test_host_tunnels import host as host  # the tunnels to one host, whose connection is a stand-in

Serve = Callable[[set[int]], int]


class App(RequestHandler):
    """The page of an application."""

    def get(self) -> None:
        self.write("<html>bokeh</html>")


class Socket(WebSocketHandler):
    """Opens a websocket for pages at some ports of localhost, as bokeh does with Tornado before 6.6."""

    opened: list[str] = []

    def prepare(self) -> None:
        origin = self.request.headers.get("Origin")
        if origin is not None and origin not in self.settings["origins"]:
            self.send_error(403)

    def open(self, *_: str) -> None:
        self.opened.append("opened")


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Return a function that starts such a server, which lets in pages at these local ports, 0 for its own."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    servers: list[HTTPServer] = []

    async def start(ports: set[int]) -> int:
        listening, own = bind_unused_port()
        origins = {f"http://localhost:{port or own}" for port in ports}
        routes = [("/", RedirectHandler, {"url": "/app", "permanent": False}), ("/app", App), ("/app/ws", Socket)]
        servers.append(HTTPServer(Application(routes, origins=origins)))  # type: ignore[arg-type]
        servers[-1].add_socket(listening)
        return own

    async def stop() -> None:
        for server in servers:
            server.stop()
            await server.close_all_connections()

    yield lambda ports: asyncio.run_coroutine_threadsafe(start(ports), loop).result(10)
    asyncio.run_coroutine_threadsafe(stop(), loop).result(10)
    loop.call_soon_threadsafe(loop.stop)
    thread.join(10)
    loop.close()


def opened(
    host: HostTunnels, far: int, kind: str = "bokeh", *, own: int | None = None, local: int | None = None
) -> Tunnel:
    """Return the link to a server at the port `far`, as it is right after it was opened."""
    service = Service("server1", kind, "app", f"port-{far}", "m", "alice", f"127.0.0.1:{far}", port=own or far)
    tunnel = Tunnel("server1", kind, "app", service=service, local=LocalAddress(share=True, port=local))
    host.tunnels.add([tunnel])
    host._connection.forwarded = to_port(f"127.0.0.1:{far}")  # type: ignore[attr-defined]
    host._opener._connect(tunnel, is_first=True)
    assert tunnel.state == "open", tunnel.error
    return tunnel


def accepts(tunnel: Tunnel) -> bool | None:
    """Tell whether the websocket of the page opens where the link leads to."""
    assert tunnel.service is not None and tunnel.where is not None and tunnel.local_port is not None
    ask = partial(_verify.first_answer, tunnel.where, timeout=5)
    return _origins.Origins(ask, "localhost", ["/app"]).accepts(tunnel.local_port)


def free_port() -> int:
    halves = bind(0)
    port: int = halves[0].getsockname()[1]
    for half in halves:
        half.close()
    return port


def test_a_page_that_is_let_in_at_any_port_needs_no_note(host: HostTunnels, serve: Serve) -> None:
    port = free_port()
    tunnel = opened(host, serve({port}), local=port)
    assert (tunnel.local_port, tunnel.row()["note"], accepts(tunnel)) == (port, None, True)
    assert not Socket.opened, "the proof opens no session of the application"


def test_a_second_page_of_one_port_says_what_lets_it_work(
    host: HostTunnels, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_records, "_OWN_SECONDS", 0.0)
    taken = bind(0, LOOPBACK)  # by the first host's page
    own = taken[0].getsockname()[1]
    try:
        tunnel = opened(host, serve({own}), own=own)
        note = str(tunnel.row()["note"])
        assert accepts(tunnel) is False and f"accepts websockets from localhost:{own} only" in note
        assert f"--allow-websocket-origin=localhost:{tunnel.local_port}" in note
        assert tunnel.local_port == _records.remembered_port(tunnel.service, 20000, 39999)  # type: ignore[arg-type]
    finally:
        for half in taken:
            half.close()
    host.reclaim()  # the other page is closed
    assert tunnel.local_port == own and accepts(tunnel) and "stays empty" not in str(tunnel.row()["note"])


def test_the_way_out_of_an_empty_page_helps(host: HostTunnels, serve: Serve) -> None:
    """Started again with the option of the note, the page works at that port, also when its own one is free."""
    first = opened(host, serve(set()), own=free_port())
    assert "refuses websockets from localhost:" in str(first.row()["note"])
    service = first.service
    assert service is not None
    remembered = _records.remembered_port(service, 20000, 39999)
    again = replace(service, remote=f"127.0.0.1:{serve({remembered})}")
    first.service = again
    host._connection.forwarded = to_port(again.remote)  # type: ignore[attr-defined]
    host._opener.open([], [first])
    assert first.local_port == remembered and accepts(first) and "empty" not in str(first.row()["note"])
    host.reclaim()
    assert first.local_port == remembered and first.ports == {remembered}
    for half in bind(again.own_port or 0):  # it is free for a page that works there
        half.close()


def test_an_app_of_a_script_gets_its_own_port_where_others_are_refused(host: HostTunnels, serve: Serve) -> None:
    own = free_port()
    tunnel = opened(host, serve({own}), "listener", own=own)
    assert tunnel.local_port == own and accepts(tunnel) and tunnel.row()["note"] is None
    assert tunnel.ports == {own}


def test_a_port_that_was_chosen_stays_and_says_what_to_do(host: HostTunnels, serve: Serve) -> None:
    own, chosen = free_port(), free_port()
    tunnel = opened(host, serve({own}), own=own, local=chosen)
    assert tunnel.local_port == chosen and f"localhost:{own} only" in str(tunnel.row()["note"])


def test_where_no_websocket_is_found_the_row_says_what_may_help(host: HostTunnels, serve: Serve) -> None:
    tunnel = opened(host, serve(set()), local=free_port())
    assert tunnel.service is not None
    host._opener._settle_origin(tunnel, b"HTTP/1.1 404 Not Found\r\n\r\n")
    assert f"if its page stays empty, start it with --allow-websocket-origin=localhost:{tunnel.local_port}" in str(
        tunnel.row()["note"]
    )


def test_a_page_over_https_says_what_may_help_where_its_port_is_taken(host: HostTunnels, serve: Serve) -> None:
    tunnel = opened(host, serve({0}))
    assert tunnel.service is not None
    tunnel.service, tunnel.local_port = replace(tunnel.service, scheme="https"), free_port()
    host._opener._settle_origin(tunnel, b"TLSv1.3")
    assert "if its page stays empty" in str(tunnel.row()["note"])


def test_a_server_that_says_nothing_is_asked_once() -> None:
    asked: list[bytes] = []
    assert _origins.Origins(lambda request: asked.append(request) or b"", "localhost", ["/a", "/b"]).accepts(1) is None
    assert len(asked) == 1


def test_what_is_refused_without_an_origin_too_is_no_matter_of_origins(serve: Serve) -> None:
    answers = iter([b"HTTP/1.1 403 Forbidden\r\n\r\n"] * 2)
    assert _origins.Origins(lambda request: next(answers), "localhost", ["/app"]).accepts(5006) is None


@pytest.mark.parametrize(
    ("answer", "pages"),
    [
        (b"HTTP/1.1 302 Found\r\nLocation: /app\r\n\r\n", ["/app", "/"]),
        (b"HTTP/1.1 302 Found\r\nLocation: https://example.org/app\r\n\r\n", ["/"]),
        (b"HTTP/1.1 200 OK\r\n\r\n<a class='x' href='./one'>1</a><a href=\"/two\">2</a>", ["/one", "/two", "/"]),
        (b"HTTP/1.1 200 OK\r\n\r\n<a href='/a b\r\nHost: evil'>", ["/"]),
        (b"", ["/"]),
    ],
)
def test_the_pages_of_a_server_are_found_in_its_answer(answer: bytes, pages: list[str]) -> None:
    assert _origins.pages("/", answer) == pages


@pytest.mark.parametrize(
    ("kind", "answer", "is_asked"),
    [
        ("bokeh", b"", True),
        ("panel", b"", True),
        ("listener", b"HTTP/1.1 200 OK\r\nServer: TornadoServer/6.5\r\n\r\n", True),
        ("listener", b"HTTP/1.1 200 OK\r\nServer: nginx\r\n\r\n", False),
        ("notebook", b"HTTP/1.1 200 OK\r\nServer: TornadoServer/6.5\r\n\r\n", False),
    ],
)
def test_only_what_can_compare_origins_is_asked(kind: str, answer: bytes, is_asked: bool) -> None:
    service = Service("s", kind, "app", "port-1", "m", "alice", "127.0.0.1:5006", port=5006)
    assert (_origins.of(service, answer, lambda request: b"", "localhost") is not None) is is_asked
