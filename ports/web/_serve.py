"""The page alone: its own process, on 127.0.0.1, or on a Unix socket on a server.

The kernel says which user a connection comes from. No request is logged: a log would hold keys and links.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tornado.httpserver import HTTPServer
from tornado.web import Application, RequestHandler
from tornado.websocket import WebSocketHandler

from ports.errors import PortInUseError, PortsError
from ports.listeners import links
from ports.probe import callers
from ports.sessions import processes
from ports.state import ProcessId, paths, records, runtime_directory, settings
from ports.web import _guard, _handlers, _record
from ports.web._guard import Asked, Door, Keys, Refusal
from ports.web._page import Page
from ports.web._record import PageRecord

_LOG = logging.getLogger("ports.web")
_PING_SECONDS = 30
_IDLE_CONNECTION = 90.0
_LONGEST_WAIT = 3600.0
_BROWSER_SECONDS = 0.2  # a browser that starts takes longer, and finds this machine looked at


class Alone(RequestHandler):
    """Lets in what the guard lets in; sets the headers of each answer."""

    def prepare(self) -> None:
        """Refuse what is not this user's own page's."""
        refused = _guard.refusal(self.asked(), self.door)
        if refused is not None:
            self.refuse(refused)

    @property
    def door(self) -> Door:
        """The way by which this request came."""
        door: Door = self.application.settings["door"]
        return door

    def refuse(self, refused: Refusal) -> None:
        """Answer that the request is refused, with a sentence."""
        self.set_status(refused.status)
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{refused.reason}\n")

    def asked(self) -> Asked:
        """Return what this request says."""
        given, door = self.request.headers, self.door
        tokens = self.request.body_arguments.get("token", [])
        return Asked(
            method=self.request.method or "",
            path=self.request.path,
            host=given.get("Host", ""),
            origin=given.get("Origin"),
            site=given.get("Sec-Fetch-Site"),
            mode=given.get("Sec-Fetch-Mode"),
            dest=given.get("Sec-Fetch-Dest"),
            cookie=self.get_cookie(door.cookie_name),
            form_token=tokens[0].decode("utf-8", "replace") if len(tokens) == 1 else None,
            uid=uid_of(self.request.connection.stream.socket),  # type: ignore[union-attr]
            is_websocket=given.get("Upgrade", "").lower() == "websocket",
        )

    def set_default_headers(self) -> None:
        """Set the headers of each answer, also of errors."""
        self.clear_header("Server")
        for name, value in _guard.headers().items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Answer without a traceback."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}\n")

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log where an error comes from, without the request, which can hold a key."""
        _LOG.error("%s: %s", self.request.path, value, exc_info=(typ, value, tb))


class AloneSocket(Alone, WebSocketHandler):
    """Lets in a WebSocket that the guard lets in: it has compared the Origin."""

    def check_origin(self, origin: str) -> bool:
        """Let it in."""
        return True


class Nothing(Alone):
    """Every other address: refused as the others are, else not found."""

    def prepare(self) -> None:
        """Refuse it."""
        self.refuse(_guard.refusal(self.asked(), self.door) or Refusal(404, "there is no such page"))


class Key(Alone):
    """``/-/key``: a key for another link, for a process of this user that asks over the Unix socket."""

    def get(self) -> None:
        """Give one."""
        if self.door.authority is not None or self.request.headers.get("X-Ports") != "key":
            self.refuse(Refusal(404, "there is no such page"))
            return
        keys: Keys = self.application.settings["keys"]
        self.finish(keys.new())


class Entry(Alone):
    """``/-/in?key=…``: the first link. It gives the cookie of this start, once."""

    def get(self) -> None:
        """Set the cookie, and lead to the first page."""
        keys: Keys = self.application.settings["keys"]
        is_in = _guard.is_same(self.get_cookie(self.door.cookie_name), self.door.cookie)
        if not is_in and not keys.take(self.get_query_argument("key", "")):
            self.refuse(Refusal(403, "this link was used, or is from another start; `ports page` prints another one"))
            return
        self.set_cookie(self.door.cookie_name, self.door.cookie, path="/", httponly=True, samesite="Lax")
        page: Page = self.application.settings["page"]
        self.redirect("/-/hosts" if page.is_first_run else "/")


def uid_of(connection: socket.socket | None) -> int | None:
    """Return which user the other end of `connection` is; None where this system does not show it."""
    from ports.probe import socket_users

    if connection is None:  # it is closed already
        return callers.NO_PROCESS
    if connection.family == getattr(socket, "AF_UNIX", None):
        return socket_users.peer_uid(connection)
    uid = callers.caller_of(connection)
    return None if uid == callers.UNKNOWN else uid


def application(page: Page, door: Door, keys: Keys) -> Application:
    """Return what answers behind `door`."""
    return Application(
        [(_guard.ENTRY, Entry), ("/-/key", Key), *_handlers.routes(page, Alone, AloneSocket), (".*", Nothing)],
        door=door,
        keys=keys,
        page=page,
        log_function=lambda _: None,
        compress_response=True,
        websocket_max_message_size=_guard.LONGEST_BODY,
        websocket_ping_interval=_PING_SECONDS,  # a browser behind a link that died takes no leave
    )


def listening(wanted: int | None) -> socket.socket:
    """Return a listening socket at 127.0.0.1.

    Without a wanted port: the one that follows from machine and user, so that the link stays; if it is taken, the next.

    Raises
    ------
    PortInUseError
        `wanted` is taken.
    """
    first, last = int(settings.get("open.first_port")), int(settings.get("open.last_port"))
    own = links.local_port(paths.machine(), paths.user_name(), "page", first, last)
    for port in [wanted] if wanted is not None else [own, *links.next_ports(own, first, last)]:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
            listener.listen(128)
        except OSError:
            listener.close()
            continue
        listener.setblocking(False)
        return listener
    raise PortInUseError(wanted or own, None)


def serve(
    hosts: Sequence[str],
    *,
    port: int | None = None,
    background: bool = False,
    alone: bool = False,
    on_start: Callable[[dict[str, Any]], object] = lambda row: None,
) -> None:
    """Serve the page until SIGINT, SIGTERM or SIGHUP, or until nobody has looked for the setting ``page.idle``.

    Parameters
    ----------
    port : int, optional
        Default: one that stays the same. 0: any free one.
    alone : bool
        This is a server, and the browser is at home: there is no port, only the Unix socket for `ports open`.
    on_start : callable, optional
        Gets the page's row, with `local_url`, once it answers.

    Raises
    ------
    UsageError
        This system is Windows.
    PortInUseError
        `port` is taken.
    """
    _record.check_system()
    asyncio.run(_serve(hosts, port, background=background, alone=alone, on_start=on_start))


async def _serve(
    hosts: Sequence[str],
    port: int | None,
    *,
    background: bool,
    alone: bool,
    on_start: Callable[[dict[str, Any]], object],
) -> None:
    ended = _ended_by_signals()  # first: from here on a signal leaves nothing behind
    page, keys = Page(hosts), Keys()
    with contextlib.ExitStack() as held:
        at_socket, number = None, None
        if os.name != "nt":
            at_socket = held.enter_context(_unix_socket())
            _answer(page, keys, at_socket, None, held)
        if not alone:
            listener = held.enter_context(contextlib.closing(listening(port)))
            number = listener.getsockname()[1]
            _answer(page, keys, listener, f"127.0.0.1:{number}", held)
        record = PageRecord(
            process=_this_process(),
            started_at=time.time(),
            socket=None if at_socket is None else at_socket.getsockname(),
            port=number,
            hosts=page.hosts,
            background=background,
        )
        path = held.enter_context(_recorded(record))
        page.keep = lambda added: keep(path, record, added)
        held.callback(page.watch.end)
        held.callback(page.live.close)
        asyncio.get_running_loop().call_later(_BROWSER_SECONDS, page.live.touch)
        link = None if number is None else f"http://127.0.0.1:{number}{_guard.ENTRY}?key={keys.new()}"
        on_start({**record.row(), "local_url": link, "local_port": number})
        await _until(ended, page)


def _answer(page: Page, keys: Keys, listener: socket.socket, authority: str | None, held: contextlib.ExitStack) -> None:
    """Answer at `listener`, as long as `held` is not closed."""
    own = frozenset({os.getuid()}) if hasattr(os, "getuid") else frozenset()  # Windows tells no uid
    door = Door(authority=authority, uids=own, form_token=page.form_token)
    server = HTTPServer(
        application(page, door, keys),
        max_body_size=_guard.LONGEST_BODY,
        idle_connection_timeout=_IDLE_CONNECTION,
    )
    server.add_socket(listener)
    held.callback(server.stop)


def _ended_by_signals() -> asyncio.Event:
    """Return what SIGINT, SIGTERM and SIGHUP set from now on."""
    ended, loop = asyncio.Event(), asyncio.get_running_loop()
    if os.name != "nt":  # there Ctrl-C ends the loop by itself
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(one) is not signal.SIG_IGN:  # nohup
                loop.add_signal_handler(one, ended.set)
    return ended


async def _until(ended: asyncio.Event, page: Page) -> None:
    """Wait for `ended`, or until nobody has looked for as long as the setting ``page.idle`` says."""
    longest = float(settings.get("page.idle")) * 3600 or float("inf")
    while not ended.is_set() and (left := longest - page.live.unseen_seconds) > 0:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), min(left, _LONGEST_WAIT))


def _this_process() -> ProcessId:
    own = processes.identity()
    assert own is not None
    return own


@contextlib.contextmanager
def _unix_socket() -> Iterator[socket.socket]:
    """Listen on a Unix socket in the directory that only this user can enter."""
    path = runtime_directory() / f"page-{os.getpid()}.sock"
    path.unlink(missing_ok=True)
    before = os.umask(0o177)
    try:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
    finally:
        os.umask(before)
    listener.listen(128)
    listener.setblocking(False)
    with contextlib.closing(listener):
        try:
            yield listener
        finally:
            path.unlink(missing_ok=True)


@contextlib.contextmanager
def _recorded(record: PageRecord) -> Iterator[Path]:
    """Let other processes find this page."""
    path = _record.new_file()
    records.write(path, record)
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def keep(path: Path, record: PageRecord, hosts: Sequence[str]) -> None:
    """Remember the hosts of the page: for its next start, and for who looks for a page that shows them."""
    _record.keep_hosts(hosts)
    records.write(path, dataclasses.replace(record, hosts=tuple(hosts)))


def main() -> int:
    """Serve a page in the background: what it shows comes on standard input, its row goes to standard output."""
    given = json.loads(sys.stdin.readline())

    def tell(row: dict[str, Any]) -> None:
        os.write(1, json.dumps(row).encode() + b"\n")
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, 0)
        os.dup2(nowhere, 1)
        os.close(nowhere)
        os.chdir("/")

    logging.basicConfig(format="%(asctime)s %(message)s")
    try:
        shown, alone = [str(one) for one in given["hosts"]], bool(given["alone"])
        serve(shown, port=given["port"], background=True, alone=alone, on_start=tell)
    except PortsError as error:
        sys.stderr.write(f"{error}\n")
        return error.exit_code
    return 0
