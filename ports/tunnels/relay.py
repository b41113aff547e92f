"""Local listeners of this process that pass each connection on to a Unix socket: one thread, one loop, no copy kept."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any, TypeVar

from ports.errors import PortInUseError, PortsError, StoreError

T = TypeVar("T")

BACKLOG = 512  # a page opens dozens of connections at once
_BUFFERED = 1 << 20  # bytes that wait for a slow reader before its writer is made to wait
_NO_SUCH_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


def bind(port: int) -> list[socket.socket]:
    """Return sockets bound to `port` on 127.0.0.1 and ::1: both, or only the first where the machine has no IPv6.

    A port of which somebody else holds one half is taken: a browser that tries ``::1`` first would reach them.

    Raises
    ------
    PortInUseError
        One of the two is held. Whose it is, is not known here.
    PortsError
        This process may not have it, or has too many files open.
    """
    bound: list[socket.socket] = []
    try:
        for family, address in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            try:
                bound.append(_bind_one(family, address, port or (bound[0].getsockname()[1] if bound else 0)))
            except OSError as error:
                if family == socket.AF_INET6 and error.errno in _NO_SUCH_FAMILY:
                    break
                raise
    except OSError as error:
        for half in bound:
            half.close()
        if error.errno == errno.EADDRINUSE:
            raise PortInUseError(port, None) from error
        raise PortsError(f"local port {port or 'of any number'} cannot be had: {error.strerror or error}") from error
    return bound


def bind_first(candidates: Iterable[int]) -> list[socket.socket]:
    """Return `bind` of the first port that is free; raises PortsError where none is."""
    for port in candidates:
        with contextlib.suppress(PortInUseError):
            return bind(port)
    raise PortsError("all local ports for links are taken; widen open.first_port and open.last_port in the settings")


class Relay:
    """The listeners of one `ports open`, in a thread that starts with the first of them."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._listeners: dict[int, _Listener] = {}
        self._control: asyncio.AbstractServer | None = None
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def listen(self, bound: list[socket.socket], target: Path) -> int:
        """Pass on what comes to the sockets of `bind`, and return their port."""
        port: int = bound[0].getsockname()[1]
        listener = _Listener(self._loop, target)
        self._call(listener.start(bound))
        self._listeners[port] = listener
        return port

    def stop(self, port: int) -> None:
        """Free the port at once; connections through it are cut."""
        listener = self._listeners.pop(port, None)
        if listener is not None and self._thread.is_alive():
            self._call(listener.stop())

    def answer(self, path: Path, handle: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        """Answer requests of other `ports` processes of the user, one JSON line each, at the Unix socket `path`."""

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            with contextlib.suppress(OSError, ValueError, asyncio.IncompleteReadError):
                request = json.loads(await asyncio.wait_for(reader.readline(), 10))
                answer = await self._loop.run_in_executor(None, handle, request)
                writer.write(json.dumps(answer).encode() + b"\n")
                await writer.drain()
            writer.close()

        async def start() -> asyncio.AbstractServer:
            return await asyncio.start_unix_server(serve, str(path))

        try:
            self._control = self._call(start())
        except OSError as error:
            raise StoreError(path, error.strerror or str(error)) from error

    def close(self) -> None:
        """Free all ports, cut all connections, end the thread."""
        if not self._thread.is_alive():
            return
        for port in list(self._listeners):
            self.stop(port)
        if self._control is not None:
            self._loop.call_soon_threadsafe(self._control.close)
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(5)
            if not self._thread.is_alive():
                self._loop.close()

    def _call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(10)


class _Listener:
    """One local port and the connections that came to it."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: Path) -> None:
        self.loop, self.target = loop, target
        self.servers: list[asyncio.AbstractServer] = []
        self.ends: set[_End] = set()

    async def start(self, bound: list[socket.socket]) -> None:
        for half in bound:
            server = await self.loop.create_server(lambda: _Local(self), sock=half, backlog=BACKLOG)
            self.servers.append(server)

    async def stop(self) -> None:
        for server in self.servers:
            server.close()
        for end in list(self.ends):
            end.abort()


class _End(asyncio.Protocol):
    """One end of a connection; what it reads, its peer writes."""

    def __init__(self, listener: _Listener) -> None:
        self.listener = listener
        self.transport: asyncio.Transport | None = None
        self.peer: _End | None = None
        self.ended = False  # the other side of this end sends no more
        self.early: list[bytes] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        transport.set_write_buffer_limits(high=_BUFFERED)
        self.listener.ends.add(self)

    def data_received(self, data: bytes) -> None:
        if self.peer is None or self.peer.transport is None:
            self.early.append(data)
            if self.transport is not None:
                self.transport.pause_reading()
        else:
            self.peer.transport.write(data)

    def eof_received(self) -> bool:
        self.ended = True
        if self.peer is not None:
            self.peer.end_writing()
        return True  # half closed: the answer may still be on its way

    def end_writing(self) -> None:
        """Tell the other side of this end that nothing more comes; close when both have said so."""
        assert self.transport is not None and self.peer is not None
        if self.ended:
            self.transport.close()
            if self.peer.transport is not None:
                self.peer.transport.close()
        elif not self.transport.is_closing():
            with contextlib.suppress(OSError):
                self.transport.write_eof()

    def pause_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.pause_reading()

    def resume_writing(self) -> None:
        if self.peer is not None and self.peer.transport is not None:
            self.peer.transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self.listener.ends.discard(self)
        if self.peer is not None and self.peer.transport is not None:
            if error is not None:
                self.peer.transport.abort()
            else:
                self.peer.transport.close()

    def abort(self) -> None:
        if self.transport is not None:
            self.transport.abort()


class _Local(_End):
    """The end towards the browser; the other one is connected once it is there."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)  # asyncio has set TCP_NODELAY, see `_bind_one`
        self.joining = self.listener.loop.create_task(self._join())

    async def _join(self) -> None:
        far = _End(self.listener)
        far.peer = self
        try:
            await self.listener.loop.create_unix_connection(lambda: far, str(self.listener.target))
        except OSError:
            self.abort()
            return
        assert self.transport is not None and far.transport is not None
        if self.transport.is_closing():
            far.abort()
            return
        self.peer = far
        for data in self.early:
            far.transport.write(data)
        self.early.clear()
        if self.ended:
            far.end_writing()
        elif not self.transport.is_reading():
            self.transport.resume_reading()


def _bind_one(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY where a socket names its protocol, and only there: without it, an answer of several
    # parts waits 40 ms for the browser's acknowledgement
    half = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        half.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the usual port, a second after it was freed
        if family == socket.AF_INET6:
            half.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        half.bind((address, port))
        half.listen(BACKLOG)  # the port is taken from here on, not only once it is served
    except OSError:
        half.close()
        raise
    half.setblocking(False)
    return half
