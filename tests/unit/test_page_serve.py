"""What the page answers over HTTP, in this process: no host is asked."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import urlencode

import click
import pytest
from tornado.httpserver import HTTPServer

from ports.cli import main
from ports.errors import PortsError
from ports.web import _guard, _serve, _verbs
from ports.web._acts import Acts
from ports.web._board import Board, unseen
from ports.web._guard import Door, Keys
from ports.web._live import Live
from ports.web._page import Page
from tests.lab.page import Tab, Visitor

CLUSTER = {"host": "server1", "kind": "cluster", "name": "main", "state": "running", "tunnel": None}


class Served:
    """A page that is served by a thread, and what it was asked to do."""

    def __init__(self) -> None:
        self.page = Page([])
        self.page.board = Board([{**unseen("server1"), "condition": "connected", "rows": [CLUSTER]}])
        self.page.live = Live(on_first=lambda: None, on_last=lambda: None)
        self.page.acts = Acts(self.do)
        self.done: list[Sequence[str]] = []
        self.fails: PortsError | None = None
        self.port = 0
        self._is_up, self._loop = threading.Event(), asyncio.new_event_loop()
        self._over = asyncio.Event()

    def do(self, words: Sequence[str]) -> Any:
        self.done.append(words)
        if self.fails is not None:
            raise self.fails
        return {}

    async def _serve(self) -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        door = Door(authority=f"127.0.0.1:{self.port}", uids=frozenset({os.getuid()}), form_token=self.page.form_token)
        self.keys = Keys()
        server = HTTPServer(_serve.application(self.page, door, self.keys), max_body_size=_guard.LONGEST_BODY)
        server.add_socket(listener)
        self._is_up.set()
        await self._over.wait()
        server.stop()
        self.page.live.close()
        await server.close_all_connections()

    @contextlib.contextmanager
    def running(self) -> Iterator[Visitor]:
        thread = threading.Thread(target=lambda: self._loop.run_until_complete(self._serve()), daemon=True)
        thread.start()
        assert self._is_up.wait(20)
        visitor = Visitor(f"http://127.0.0.1:{self.port}/-/in?key={self.keys.new()}")
        visitor.enter()
        try:
            yield visitor
        finally:
            self._loop.call_soon_threadsafe(self._over.set)
            thread.join(20)
            self._loop.close()


@pytest.fixture
def served() -> Iterator[tuple[Served, Visitor]]:
    page = Served()
    with page.running() as visitor:
        yield page, visitor


def form(page: Served, **fields: str) -> dict[str, str]:
    return {
        "verb": "stop",
        "host": "server1",
        "kind": "cluster",
        "name": "main",
        "token": page.page.form_token,
    } | fields


def test_a_screen_that_fails_is_a_status_and_no_traceback(
    served: tuple[Served, Visitor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    page, visitor = served
    monkeypatch.setattr(page.page, "values", lambda path: 1 / 0)
    answer = visitor.ask("/?secret=5e5a3e")
    assert (answer.status, answer.text) == (500, "500\n")
    assert "ZeroDivisionError" in caplog.text
    assert "5e5a3e" not in caplog.text


def test_an_act_runs_the_words_of_the_command_that_its_sheet_shows(served: tuple[Served, Visitor]) -> None:
    page, visitor = served
    sheet = visitor.ask("/-/sheet?verb=stop&host=server1&kind=cluster&name=main", X_Ports="morph")
    assert "ports cluster stop main -H server1" in sheet.text
    assert "<html" not in sheet.text
    answer = visitor.act(form(page))
    assert (answer.status, answer.headers["Location"]) == (303, "/")
    assert visitor.act(form(page), X_Ports="morph").status == 204
    assert page.done == [["cluster", "stop", "main", "-H", "server1"]] * 2


def test_an_act_that_fails_comes_back_with_its_sheet_or_a_notice(served: tuple[Served, Visitor]) -> None:
    page, visitor = served
    page.fails = PortsError("it <b>hangs</b>")
    answer = visitor.act(form(page), X_Ports="morph")
    assert (answer.status, "it &lt;b&gt;hangs&lt;/b&gt;" in answer.text) == (409, True)
    assert "ports cluster stop main -H server1" in answer.text
    assert visitor.act(form(page)).status == 303
    assert "it &lt;b&gt;hangs&lt;/b&gt;" in visitor.ask("/").text
    page.fails = None
    assert visitor.act(form(page)).status == 303
    assert "hangs" not in visitor.ask("/").text


@pytest.mark.parametrize(
    "fields",
    [
        {"host": "-oProxyCommand=touch /tmp/pwned"},
        {"host": "server2"},
        {"host": ""},
        {"name": "--force"},
        {"name": "../../etc"},
        {"name": "main -H other"},
        {"kind": "settings"},
        {"verb": "shell"},
        {"verb": "stop", "force": "1"},
        {"verb": "scale", "n_workers": "--force"},
        {"verb": "scale", "n_workers": "1e9"},
        {"verb": "start", "memory_limit": "$(id)"},
    ],
)
def test_nothing_from_a_form_becomes_a_command_or_an_option(
    served: tuple[Served, Visitor], fields: dict[str, str]
) -> None:
    page, visitor = served
    assert visitor.act(form(page, **fields), X_Ports="morph").status == 409
    assert page.done == []


def test_a_body_that_is_too_large_is_refused(served: tuple[Served, Visitor]) -> None:
    page, visitor = served
    with contextlib.suppress(OSError):  # the server closes the connection
        assert visitor.act(form(page, name="x" * 70_000)).status in (400, 413)
    assert page.done == []
    assert visitor.ask("/").status == 200


def test_static_files_are_those_of_the_page_and_no_others(served: tuple[Served, Visitor]) -> None:
    _, visitor = served
    assert "text/javascript" in visitor.ask("/-/static/page.js").headers["Content-Type"]
    for path in ("../_serve.py", "..%2f_serve.py", "/etc/passwd", "%2e%2e/_serve.py", "__init__.py", ""):
        assert visitor.ask(f"/-/static/{path}").status == 404, path


def test_a_tab_sees_what_changes(served: tuple[Served, Visitor]) -> None:
    page, visitor = served
    page.page.board.on_change = page.page.live.changed
    tab = Tab(visitor)
    assert "main" in (tab.next() or "")
    page.page.board.take({**unseen("server1"), "condition": "connected", "rows": [{**CLUSTER, "name": "other"}]})
    assert ">other<" in (tab.next() or "")
    tab.close()


@pytest.mark.parametrize("path", ["/-/thing?host=server2&kind=cluster&name=main", "/-/machine?host=x", "/-/nothing"])
def test_what_is_not_there_is_a_page_that_says_so(served: tuple[Served, Visitor], path: str) -> None:
    assert served[1].ask(path).status == 404


def test_hosts_are_added_by_a_form_only_if_ssh_knows_them(
    served: tuple[Served, Visitor], monkeypatch: pytest.MonkeyPatch
) -> None:
    page, visitor = served
    kept: list[Sequence[str]] = []
    page.page.keep = kept.append
    monkeypatch.setattr("ports.web._page.aliases", lambda: ["server2"])
    for name in ("server9", "-oProxyCommand=touch /tmp/pwned"):
        refused = visitor.act({"verb": "show", "kind": "host", "host": name, "token": page.page.form_token})
        assert refused.status == 303
        assert page.page.board.view(name) is None
    assert "adds aliases of ~/.ssh/config" in visitor.ask("/").text
    added = visitor.act({"verb": "show", "kind": "host", "host": "server2", "token": page.page.form_token})
    assert added.status == 303
    assert page.page.board.view("server2") is not None
    assert kept == [("server2",)]


def test_each_verb_of_the_page_is_a_command_of_the_command_line(served: tuple[Served, Visitor]) -> None:
    page, visitor = served
    page.page.here = "elsewhere"
    for (kind, verb), one in _verbs.VERBS.items():
        fields = {field.name: "2" if field.is_number else "2GB" for field in one.fields}
        asked = form(page, verb=verb, kind=kind, **fields)
        assert visitor.act(asked, X_Ports="morph").status == 204, (kind, verb)
        command, context, words = main.ports, click.Context(main.ports), list(page.done[-1])
        while isinstance(command, click.Group):
            found = command.get_command(context, words.pop(0))
            assert found is not None, page.done[-1]
            command = found
        command.make_context("test", words, resilient_parsing=False)


def test_what_a_host_says_is_text_and_nothing_else(served: tuple[Served, Visitor]) -> None:
    page, visitor = served
    evil = "<img src=x onerror=alert(1)>\"'`"
    row = {**CLUSTER, "name": evil, "reason": evil, "directory": evil, "warnings": [evil], "url": "javascript:alert(1)"}
    view = {**unseen("server1"), "condition": "down", "reason": evil, "warnings": [evil], "rows": [row, CLUSTER]}
    page.page.board.take(view)
    for path in (
        "/",
        f"/-/thing?{urlencode({'host': 'server1', 'kind': 'cluster', 'name': evil})}",
        "/-/machine?host=server1",
    ):
        text = visitor.ask(path).text
        assert "<img" not in text
        assert "javascript:" not in re.sub(r'(href|src)="\./', "", text).replace("text/javascript", ""), path
