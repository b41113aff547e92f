"""The event loop of a process's tunnels, the sockets of its local ports, and requests of other processes."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import errno
import json
import os
import socket
import threading
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, TypeVar

from ports.errors import PortInUseError, PortsError, StoreError
from ports.tunnels._local_forward import BACKLOG, LocalForward

T = TypeVar("T")


class Stream(Protocol):
    """Lines without an end, for as long as somebody reads them; its methods must not wait."""

    def begin(self, wake: Callable[[], None]) -> None:
        """Call `wake`, from any thread, as soon as there are lines."""

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines that are due."""

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take a line of the reader."""

    def end(self) -> None:
        """Nobody reads any more."""


#: Takes a request, and a function that sends a line at once; returns the last line, or a stream of more.
Handle = Callable[[dict[str, Any], Callable[[Mapping[str, Any]], None]], "dict[str, Any] | Stream"]

LOOPBACK = ("127.0.0.1", "::1")
_LONGEST_REQUEST = 1 << 20  # bytes
_LINES_EVERY = 0.1  # seconds between two looks at what a stream has to say
_WORD_EVERY = 5.0  # seconds without a line after which an empty one says that this process lives
_NO_SUCH_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EPROTONOSUPPORT}


def bind(port: int, addresses: tuple[str, ...] = LOOPBACK) -> list[socket.socket]:
    """Return sockets bound to `port` on all `addresses`, without ``::1`` if this machine has no IPv6.

    A port that another process uses on one of the addresses counts as taken: a browser that tries ``::1`` first would
    reach that process.

    Raises
    ------
    PortInUseError
        The port is taken on one of the addresses. The error does not say by whom.
    PortsError
        This process is not allowed to use it, or has too many open files.
    """
    bound: list[socket.socket] = []
    try:
        for address in addresses:
            family = socket.AF_INET6 if ":" in address else socket.AF_INET
            try:
                bound.append(_bind_one(family, address, port or (bound[0].getsockname()[1] if bound else 0)))
            except OSError as error:
                if bound and family == socket.AF_INET6 and error.errno in _NO_SUCH_FAMILY:
                    break
                raise
    except OSError as error:
        for half in bound:
            half.close()
        if error.errno == errno.EADDRINUSE or (os.name == "nt" and error.errno == errno.EACCES):
            raise PortInUseError(port, None) from error
        named = f" of {', '.join(addresses)}" if addresses != LOOPBACK else ""
        what = f"local port {port}{named} cannot" if port else f"no local port{named} can"
        raise PortsError(f"{what} be opened: {error.strerror or error}") from error
    return bound


def bind_first(candidates: Iterable[int], addresses: tuple[str, ...] = LOOPBACK) -> list[socket.socket]:
    """Return `bind` of the first port that is free; raises PortsError if none is."""
    for port in candidates:
        with contextlib.suppress(PortInUseError):
            return bind(port, addresses)
    raise PortsError("all local ports for links are taken; widen the settings ports.open.first_port and last_port")


def has_unix_sockets() -> bool:
    """Tell whether Python has Unix sockets on this system; on Windows it has none."""
    return hasattr(socket, "AF_UNIX")


@dataclass(frozen=True)
class Reach:
    """Where a process answers others: the path of a Unix socket, else ``127.0.0.1:PORT`` with a token to send."""

    control: str
    token: str | None = field(repr=False)


class Relay:
    """The event loop of one process's tunnels, in a thread of its own; it also answers other processes."""

    def __init__(self) -> None:
        # the default loop of Windows cannot watch the socket of a session
        self._loop = asyncio.SelectorEventLoop()
        self._forwards: set[LocalForward] = set()
        self._control: asyncio.Server | None = None
        self._streams: set[asyncio.Task[None]] = set()
        self.control: str | None = None  # where it answers, as in a `Reach`
        self._thread = threading.Thread(target=self._loop.run_forever, name="relay", daemon=True)
        self._thread.start()

    def listen(self, bound: list[socket.socket], forward: LocalForward) -> int:
        """Let `forward` accept connections at bound sockets; return their port, 0 for a Unix socket."""
        name = bound[0].getsockname()
        port = 0 if isinstance(name, str) else int(name[1])
        self.call(forward.listen(bound))
        self._forwards.add(forward)
        return port

    def stop(self, forward: LocalForward) -> None:
        """Free the forward's ports at once; connections through it are cut."""
        if forward in self._forwards and self._thread.is_alive():
            self._forwards.discard(forward)
            self.call(forward.close())

    def stop_all(self) -> None:
        """Free all ports at once; connections through them are cut."""
        for forward in list(self._forwards):
            with contextlib.suppress(RuntimeError):
                self.stop(forward)

    def answer(self, path: Path, handle: Handle) -> Reach:
        """Answer requests of other `ports` processes of the user, JSON lines, at the Unix socket `path`.

        On Windows, where Python has no Unix sockets, it is a port of the loopback, and requests must have a token.
        `handle` gets the request and a function that sends a line; it returns the last line, or a stream.
        """
        unix = has_unix_sockets()
        token = None if unix else _new_token()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            def say(line: Mapping[str, Any]) -> None:
                with contextlib.suppress(RuntimeError):  # the loop has ended, and with it all that listens
                    self._loop.call_soon_threadsafe(writer.write, json.dumps(line).encode() + b"\n")

            try:
                request = json.loads(await asyncio.wait_for(reader.readline(), 10))
                if token is not None and not _is_told(request, token):
                    raise ValueError("no token: another user's process, or one that does not know whom it asks")
                try:
                    answer = await self._loop.run_in_executor(None, handle, request, say)
                except Exception as error:  # noqa: BLE001 - another version asks for what is not known here
                    answer = {"error": str(error) or type(error).__name__}
                await self._reply(answer, reader, writer)
            except (OSError, ValueError, asyncio.TimeoutError):  # it has gone, or its request is invalid
                pass
            finally:
                writer.close()

        async def start() -> asyncio.Server:
            if unix:
                return await asyncio.start_unix_server(serve, str(path), limit=_LONGEST_REQUEST)
            return await asyncio.start_server(serve, sock=bind(0, LOOPBACK[:1])[0], limit=_LONGEST_REQUEST)

        if self._control is not None:  # its path was removed
            self._loop.call_soon_threadsafe(self._control.close)
        try:
            server = self._control = self.call(start())
        except TimeoutError:  # an OSError, too, and no fault of the disk
            raise
        except OSError as error:
            raise StoreError(path, error.strerror or str(error), "") from error
        self.control = str(path) if unix else f"{LOOPBACK[0]}:{server.sockets[0].getsockname()[1]}"
        return Reach(self.control, token)

    async def _reply(
        self, answer: dict[str, Any] | Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        """Send the last line, or the lines of a stream until its reader has gone."""
        if isinstance(answer, dict):
            writer.write(json.dumps(answer).encode() + b"\n")
            await writer.drain()
        else:
            await self._tell_lines(answer, reader, writer)

    async def _tell_lines(self, stream: Stream, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        changed = asyncio.Event()

        async def hear() -> None:
            with contextlib.suppress(OSError, ValueError):
                while heard := await reader.readline():
                    stream.hear(json.loads(heard))
            changed.set()

        task = asyncio.current_task()
        assert task is not None
        self._streams.add(task)
        hearing = asyncio.ensure_future(hear())
        stream.begin(lambda: self.soon(changed.set))
        try:
            while not hearing.done():
                with contextlib.suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(changed.wait(), _WORD_EVERY)
                changed.clear()
                for line in stream.lines() or [{}]:
                    writer.write(json.dumps(line).encode() + b"\n")
                await writer.drain()
                await asyncio.sleep(_LINES_EVERY)
        finally:
            self._streams.discard(task)
            hearing.cancel()
            stream.end()

    async def _end_streams(self) -> None:
        streams = list(self._streams)
        for task in streams:
            task.cancel()
        await asyncio.gather(*streams, return_exceptions=True)

    def close(self) -> None:
        """Free all ports, cut all connections, end the thread."""
        if not self._thread.is_alive():
            return
        self.stop_all()
        if self._control is not None:
            self._loop.call_soon_threadsafe(self._control.close)
        if threading.current_thread() is not self._thread:
            with contextlib.suppress(RuntimeError, TimeoutError):
                self.call(self._end_streams())
        self._loop.call_soon_threadsafe(self._loop.stop)
        if threading.current_thread() is not self._thread:
            self._thread.join(5)
            if not self._thread.is_alive():
                self._loop.close()

    def start(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run `coroutine` in the loop without waiting for it; its errors are dropped. Raises RuntimeError as `call`."""

        async def run() -> None:
            with contextlib.suppress(PortsError, OSError, TimeoutError):
                await coroutine

        if not self._thread.is_alive() or self._loop.is_closed():
            coroutine.close()
            raise RuntimeError("the relay was closed")
        asyncio.run_coroutine_threadsafe(run(), self._loop)

    def soon(self, callback: Callable[[], object]) -> None:
        """Call `callback` in the loop; do nothing if the relay was closed."""
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(callback)

    def call(self, coroutine: Coroutine[Any, Any, T], *, timeout: float = 10.0) -> T:
        """Run `coroutine` in the loop and return its result; from other threads only.

        Raises
        ------
        RuntimeError
            The relay was closed.
        TimeoutError
            It did not end within `timeout` seconds. It was cancelled.
        """
        if not self._thread.is_alive() or self._loop.is_closed():
            coroutine.close()
            raise RuntimeError("the relay was closed")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout)
        except PortsError:  # a `TimedOutError` of the coroutine's own, which is a `TimeoutError`, too
            raise
        except (TimeoutError, concurrent.futures.TimeoutError) as error:
            future.cancel()
            raise TimeoutError(f"no result within {timeout:g} s") from error


def _new_token() -> str:
    import secrets  # loads OpenSSL: 1 MB for as long as a tunnel is open

    return secrets.token_urlsafe(32)


def _is_told(request: Any, token: str) -> bool:
    import secrets

    told = request.pop("token", None) if isinstance(request, dict) else None
    return isinstance(told, str) and secrets.compare_digest(told.encode(), token.encode())


def _bind_one(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    # asyncio sets TCP_NODELAY only if a socket names its protocol. Without it, an answer of several parts waits 40 ms
    # for the browser's acknowledgement.
    half = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "nt":  # there SO_REUSEADDR takes the port from its user, and this option prevents that
            half.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)  # type: ignore[attr-defined]
        else:
            # takes the usual port even a second after it was freed
            half.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            half.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        half.bind((address, port))
        half.listen(BACKLOG)  # the port is taken from now on, not only once it is served
    except OSError:
        half.close()
        raise
    half.setblocking(False)
    return half
