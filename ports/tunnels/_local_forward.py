"""One local port and its connections: each is passed on to where the port leads at that moment.

A connection goes on for as long as both of its ends do, even if the connection to the host is replaced meanwhile. While
that is down, an HTTP request gets a page instead of silence. A kept-alive connection moves to the new connection to the
host with its next request.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import replace
from pathlib import Path

from ports.errors import PortsError
from ports.hosts import Dial
from ports.tunnels import _down_page
from ports.tunnels._down_page import Page
from ports.tunnels._visitors import Visitors

BACKLOG = 512  # a page opens dozens of connections at once
_BUFFERED = 1 << 20  # bytes that wait for a slow reader before its writer must wait
_LINGER_SECONDS = 2.0
_MOST_REFUSED = 64  # connections of others that wait for their page: more of them are cut at once
_LONGEST_LINE = 8192

_CLOSED = Page("The service closed the connection without an answer", status="502 Bad Gateway")


class LocalForward:
    """A local port: where it leads now, or the page that says why it leads nowhere. Used in the relay's loop only.

    Attributes
    ----------
    http : bool
        Whether the service speaks HTTP, so that a page can stand in for it.
    visitors : Visitors, optional
        Decides which connections are let in; None: all.
    sent, received : int
        Bytes to the service, and from it.
    """

    def __init__(self, *, http: bool = False, visitors: Visitors | None = None) -> None:
        self.http, self.visitors = http, visitors
        self.dial: Dial | None = None
        self.page = Page("Not connected yet")
        self.generation = 0
        #: Why the last connection to the service failed, if that is known.
        self.refusal: PortsError | None = None
        self.sent = self.received = 0
        self.connections: set[_Near] = set()
        self.refused: set[_Near] = set()
        self._servers: list[asyncio.Server] = []
        self._path: Path | None = None

    async def listen(self, bound: list[socket.socket]) -> None:
        """Accept connections at the sockets of `_event_loop.bind`."""
        loop = asyncio.get_running_loop()
        for half in bound:
            if half.family == getattr(socket, "AF_UNIX", None):
                self._servers.append(await loop.create_unix_server(lambda: _Near(self), sock=half, backlog=BACKLOG))
                self._path = Path(half.getsockname())
            else:
                self._servers.append(await loop.create_server(lambda: _Near(self), sock=half, backlog=BACKLOG))

    async def leave(self, port: int) -> None:
        """Accept no more connections at the local `port`; those that stand go on."""
        for server in [one for one in self._servers if any(half.getsockname()[1] == port for half in one.sockets)]:
            server.close()
            self._servers.remove(server)

    async def lead(self, dial: Dial) -> None:
        """Let new connections, and new requests on others, go to `dial`."""
        self.dial, self.generation, self.refusal = dial, self.generation + 1, None

    async def shut(self, page: Page, *, cut: bool = False) -> None:
        """Answer requests with `page`; connections that carry something can recover, unless `cut` ends them."""
        self.dial, self.page, self.generation = None, page, self.generation + 1
        for connection in list(self.connections):
            if cut:
                connection.abort()
            else:
                connection.was_shut()

    async def close(self) -> None:
        """Free the ports at once, and cut the connections."""
        for server in self._servers:
            server.close()
        self._servers.clear()
        if self._path is not None:
            self._path.unlink(missing_ok=True)
        for connection in list(self.connections):
            connection.abort()


class _Near(asyncio.Protocol):
    """A connection of the browser. Its far end is connected later, and replaced with the connection to the host."""

    def __init__(self, forward: LocalForward) -> None:
        self.forward = forward
        self.transport: asyncio.Transport | None = None
        self.far: _Far | None = None
        self.joining: asyncio.Task[None] | None = None
        self.generation = -1
        self.early: list[bytes] = []
        self.request = b""  # the last request, as far as it came in one piece
        self.ended = False  # the browser sends no more
        self.asks = False  # bytes went out, and none has come back since
        self.raw = not forward.http  # no page may stand in: another protocol, or a websocket
        self.is_answered = False  # a page was sent, so nothing else will be
        self.is_finished = False  # the service sends no more, and the browser knows
        self.refusal: Page | None = None  # another user's connection: it gets this page, and nothing of the service

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport  # asyncio has set TCP_NODELAY, see `_event_loop.bind`
        transport.set_write_buffer_limits(high=_BUFFERED)
        self.forward.connections.add(self)
        if self.forward.visitors is not None:
            self.refusal = self.forward.visitors.refusal(transport.get_extra_info("socket"))
        if self.refusal is None:
            self._join()
        elif self.raw or len(self.forward.refused) >= _MOST_REFUSED:
            self.abort()
        else:
            self.forward.refused.add(self)
            asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.abort)

    def data_received(self, data: bytes) -> None:
        if self.is_answered:
            return
        if self.refusal is not None:
            self.early.append(data)
            if b"\n" in data or sum(map(len, self.early)) > _LONGEST_LINE:
                self._answer(self.refusal)
            return
        self.forward.sent += len(data)
        if self.far is not None and self._is_stale(data):
            if self.is_finished:  # a browser asks again on another connection
                self.abort()
                return
            self._leave_far()
        if self.far is None and self.joining is None:
            self._join()
        if self.far is None:
            self.early.append(data)
            if self.joining is None:
                self._answer(self.forward.page)
            else:
                self._pause(True)
            return
        if not self.asks:
            self.request = data
        self.asks = True
        self.far.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.far is not None:
            self.far.end_writing()
        elif self.joining is None:
            self.abort()
        return True  # half closed: the answer may still be on its way

    def pause_writing(self) -> None:
        if self.far is not None:
            self.far.pause(True)

    def resume_writing(self) -> None:
        if self.far is not None:
            self.far.pause(False)

    def connection_lost(self, error: Exception | None) -> None:
        self.forward.connections.discard(self)
        self.forward.refused.discard(self)
        if self.joining is not None:
            self.joining.cancel()
        self._leave_far(flushing=error is None)

    def abort(self) -> None:
        """Cut both ends."""
        if self.transport is not None:
            self.transport.abort()
        self._leave_far()

    def was_shut(self) -> None:
        """Answer a request that waits; a stalled download or a websocket can still recover."""
        if self.joining is not None:
            self.joining.cancel()
            self.joining = None
            if self.early or self.raw:
                self._answer(self.forward.page)
        elif self.asks and not self.raw:
            self._answer(self.forward.page)

    # --- called by the far end ---

    def received(self, data: bytes) -> None:
        """Pass on what the service sends."""
        if self.asks and data.startswith((b"HTTP/1.1 101", b"HTTP/1.0 101")):
            self.raw = True
        self.asks = False
        self.forward.received += len(data)
        if self.transport is not None:
            self.transport.write(data)

    def far_ended(self) -> None:
        """Tell the browser that nothing more comes; close if it said so, too."""
        assert self.transport is not None
        if self._answers_for_far():
            return
        if self.ended:
            self.transport.close()
            self._leave_far(flushing=True)
        elif not self.transport.is_closing():
            self.is_finished = True
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def far_lost(self, error: Exception | None) -> None:
        """End with the far end."""
        if self.transport is None or self._answers_for_far():
            return
        self.far = None
        if error is not None:
            self.transport.abort()
        else:
            self.transport.close()

    # --- within ---

    def _is_stale(self, data: bytes) -> bool:
        """Tell whether this is a new request on a connection through a host connection that was given up."""
        return (
            self.generation != self.forward.generation
            and not self.raw
            and not self.asks
            and _down_page.is_request(data)
        )

    def _answers_for_far(self) -> bool:
        if self.raw or not self.asks:
            return False
        self._answer(self.forward.page if self.forward.dial is None else _CLOSED)
        return True

    def _join(self) -> None:
        self.generation = self.forward.generation
        if self.forward.dial is not None:
            self.joining = asyncio.get_running_loop().create_task(self._connect(self.forward.dial))
        elif self.raw:
            self.abort()

    async def _connect(self, dial: Dial) -> None:
        far, connected = _Far(self), None
        try:
            connected = await dial()
            await asyncio.get_running_loop().create_connection(lambda: far, sock=connected)
        except (OSError, PortsError) as error:
            if connected is not None:
                connected.close()
            self.joining = None
            self.forward.refusal = error if isinstance(error, PortsError) else None
            if self.early or self.raw:
                self._answer(self.forward.page if self.forward.dial is None else replace(_CLOSED, reason=str(error)))
            return
        except asyncio.CancelledError:
            if connected is not None:
                connected.close()
            raise
        self.joining = None
        if self.transport is None or self.transport.is_closing():
            far.leave()
            return
        self.far = far
        self.asks, self.request = bool(self.early), b"".join(self.early)
        for data in self.early:
            far.write(data)
        self.early.clear()
        self._pause(False)
        if self.ended:
            far.end_writing()

    def _answer(self, page: Page) -> None:
        """Send the page and close; what speaks no HTTP is cut."""
        assert self.transport is not None
        if self.is_answered:
            return
        request = b"".join(self.early) or self.request
        self._leave_far()
        if self.raw or self.is_finished or self.transport.is_closing() or not _down_page.is_request(request):
            self.transport.abort()
            return
        self.early.clear()
        self.transport.write(_down_page.answer(page, request))
        with contextlib.suppress(OSError):
            self.transport.write_eof()
        self._pause(False)
        self.is_answered = True
        # a close while bytes of the request are unread would reset the connection before the page is
        asyncio.get_running_loop().call_later(_LINGER_SECONDS, self.transport.close)

    def _pause(self, paused: bool) -> None:
        assert self.transport is not None
        if paused and self.transport.is_reading():
            self.transport.pause_reading()
        elif not paused and not self.ended and not self.transport.is_closing() and not self.transport.is_reading():
            self.transport.resume_reading()

    def _leave_far(self, *, flushing: bool = False) -> None:
        far, self.far = self.far, None
        self.asks = False
        if far is not None:
            far.leave(flushing=flushing)


class _Far(asyncio.Protocol):
    """The end at the service."""

    def __init__(self, near: _Near) -> None:
        self.near: _Near | None = near
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_BUFFERED)

    def data_received(self, data: bytes) -> None:
        if self.near is not None:
            self.near.received(data)

    def eof_received(self) -> bool:
        if self.near is not None:
            self.near.far_ended()
        return True

    def pause_writing(self) -> None:
        if self.near is not None:
            self.near._pause(True)

    def resume_writing(self) -> None:
        if self.near is not None:
            self.near._pause(False)

    def connection_lost(self, error: Exception | None) -> None:
        near, self.near = self.near, None
        if near is not None:
            near.far_lost(error)

    def write(self, data: bytes) -> None:
        """Send to the service."""
        assert self.transport is not None
        self.transport.write(data)

    def end_writing(self) -> None:
        """Tell the service that nothing more comes."""
        if self.transport is not None and not self.transport.is_closing():
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def pause(self, paused: bool) -> None:
        """Stop reading, or go on."""
        if self.transport is None or self.transport.is_closing():
            return
        if paused:
            self.transport.pause_reading()
        else:
            self.transport.resume_reading()

    def leave(self, *, flushing: bool = False) -> None:
        """Cut it, if `flushing` after what was written is sent; the near end does not hear of it."""
        self.near = None
        if self.transport is not None:
            (self.transport.close if flushing else self.transport.abort)()
