"""The page of `ports` with views that a test sets, served to a browser by its own server: nothing asks a host."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Sequence
from typing import Any

from tornado.httpserver import HTTPServer

from ports.web import _serve
from ports.web._acts import Acts
from ports.web._board import Board
from ports.web._guard import Door, Keys
from ports.web._live import Live
from ports.web._logs import Logs
from ports.web._page import Page


class FixedLogs(Logs):
    """Logs that are the same on all hosts."""

    def _ask(self, host: str | None, kind: str, name: str) -> list[str]:
        return [f"line {n} of {kind} {name} on {host}" for n in range(60)]


class FixedPage(Page):
    """A page whose board the test fills, and whose acts are kept in place of being done."""

    def __init__(self, views: Sequence[dict[str, Any]]) -> None:
        super().__init__([view["host"] for view in views])
        self.board = Board(views)
        self.done: list[list[str]] = []
        self.acts = Acts(do=lambda words: self.done.append(list(words)))
        self.live = Live(on_first=lambda: None, on_last=lambda: None)
        self.board.on_change = self.live.changed
        self.logs = FixedLogs(self.target, self.live.changed)
        self.who = "alice at laptop"


class Served:
    """A page served in a thread of this process, between `start` and `stop`."""

    def __init__(self, views: Sequence[dict[str, Any]]) -> None:
        self.page = FixedPage(views)
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.listener.setblocking(False)
        self.authority = f"127.0.0.1:{self.listener.getsockname()[1]}"
        self.url = f"http://{self.authority}/"
        self.keys = Keys()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._ready = threading.Event()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        door = Door(authority=self.authority, uids=frozenset({os.getuid()}), form_token=self.page.form_token)
        self._application = _serve.application(self.page, door, self.keys)
        self._listen(self.listener)
        self._loop.call_soon(self._ready.set)
        self._loop.run_forever()
        self._loop.run_until_complete(self._close())
        rest = asyncio.all_tasks(self._loop)
        for one in rest:
            one.cancel()
        self._loop.run_until_complete(asyncio.gather(*rest, return_exceptions=True))

    def _listen(self, listener: socket.socket) -> None:
        self._server = HTTPServer(self._application)
        self._server.add_socket(listener)

    async def _close(self) -> None:
        self._server.stop()
        for viewer in list(self.page.live._sent):
            viewer.close(1001, "")
        await self._server.close_all_connections()

    def pause(self) -> None:
        """End all connections, and refuse others, as a server that has ended."""
        asyncio.run_coroutine_threadsafe(self._close(), self._loop).result(20)

    def resume(self) -> None:
        """Listen again, at the same port."""
        listener = socket.create_server(("127.0.0.1", int(self.authority.rpartition(":")[2])))
        listener.setblocking(False)
        self._loop.call_soon_threadsafe(self._listen, listener)

    def start(self) -> Served:
        """Serve, and return once it answers."""
        self._thread.start()
        self._ready.wait(20)
        return self

    def link(self) -> str:
        """Return a first link."""
        return f"{self.url}-/in?key={self.keys.new()}"

    def stop(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(20)
        self._loop.close()
