"""The home end of a session with our program on a host: heartbeats, connections, and news of what listens there.

The far end is `ports.probe.agent`. The session itself carries it there, so nothing is installed.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import os
import socket
import time
import zlib
from collections.abc import Callable
from typing import Any

from ports import probe
from ports.errors import ConnectionLostError, FarSideError, PortsError, RefusedError, SlowError, TimedOutError
from ports.hosts import why_no_answer
from ports.probe import mux as protocol

PYTHON = probe.SESSION
_MOST_NOISE = 1 << 20  # of start files of the shell
_ROOM = 1 << 20  # in the buffers of the session


class Agent:
    """A session with the program on one host, used in the event loop in which it was started.

    Attributes
    ----------
    last_heard : float
        When the last byte came, as `time.monotonic` counts.
    abandoned : PortsError, optional
        The reason with which `abandon` ended the wait for a greeting.
    """

    def __init__(self, host: str) -> None:
        self.host = host
        self.hello: dict[str, Any] = {}
        self._mux: protocol.Mux | None = None
        self._session: socket.socket | None = None
        self._number = 0
        self._dialled: dict[int, asyncio.Future[socket.socket]] = {}
        self._pings: dict[bytes, asyncio.Future[float]] = {}
        self._views: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._points: dict[int, list[list[Any]]] = {}
        self._has_code = False
        self._greeted: asyncio.Future[dict[str, Any]] | None = None
        self._closed = False
        self._beginning: asyncio.Task[dict[str, Any]] | None = None
        self.abandoned: PortsError | None = None

    async def start(
        self,
        session: socket.socket,
        request: dict[str, Any],
        *,
        on_message: Callable[[dict[str, Any]], None],
        on_lost: Callable[[str], None],
        timeout: float = 20.0,
    ) -> dict[str, Any]:
        """Send the program through `session` and return its greeting.

        Parameters
        ----------
        session : socket
            Standard input and output of `PYTHON` on the host; `close` closes it, and so does a failure of this.
        request : dict
            ``interval``, the seconds between two looks at what listens (2.0; ``watch`` False: none); ``probe``, what
            `ports.probe.probe` takes; ``users``, a list of remotes whose users are watched; ``browse`` (True),
            whether ``ports browse`` there is answered; ``silence`` (60.0), the seconds after which the program ends
            when nothing comes from here.
        on_message : callable
            Gets each message: ``document`` (the first comes at once), ``users``, ``browse``, ``trouble``.
        on_lost : callable
            Gets the reason, once, if the session ends without `close`.

        Returns
        -------
        dict
            ``python``, ``uid``, ``user``, ``host``, ``machine_id``, ``boot_id``, ``browse``, ``warnings`` …

        Raises
        ------
        FarSideError
            There is no python3, or one that is too old; the session ended.
        SlowError
            Nothing came within `timeout`: the shell's start files may load a whole environment.
        """
        self._session = session
        session.setblocking(False)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            session.setsockopt(socket.SOL_SOCKET, option, _ROOM)
        loop = asyncio.get_running_loop()
        self._on_message, self._on_lost = on_message, on_lost
        try:
            self._beginning = loop.create_task(self._begin(loop, session, request))
            self.hello = await asyncio.wait_for(self._beginning, timeout)
        except BaseException as error:
            self.close()
            if self.abandoned is not None:
                raise self.abandoned from None
            if isinstance(error, asyncio.TimeoutError):
                reason = f"no answer of python3 there within {timeout:g} s"
                hint = "it is overloaded, or your start files there take as long or read the input"
                raise SlowError(self.host, f"{reason}; {hint}") from error
            raise
        return self.hello

    def abandon(self, reason: PortsError) -> None:
        """Let `start` raise `reason`, if it still waits."""
        if self._beginning is not None and not self._beginning.done():
            self.abandoned = reason
            self._beginning.cancel()

    @property
    def last_heard(self) -> float:
        """When the last byte came, in `time.monotonic`."""
        return self._mux.heard_at if self._mux is not None else float("-inf")

    async def ping(self, timeout: float) -> float:
        """Return the seconds of a round trip. The far end ends if it hears nothing for a minute.

        Raises
        ------
        TimedOutError
            Nothing came back within `timeout` seconds.
        ConnectionLostError
            The session has ended.
        """
        mux = self._running()
        token, started = os.urandom(8), time.monotonic()
        answered = self._pings[token] = asyncio.get_running_loop().create_future()
        mux.send(protocol.PING, 0, token)
        try:
            came: float = await asyncio.wait_for(answered, timeout)
        except asyncio.TimeoutError as error:
            raise TimedOutError(f"heartbeat of {self.host}", timeout) from error
        finally:
            self._pings.pop(token, None)
        return came - started

    async def view(self, request: dict[str, Any], *, timeout: float = 10.0) -> dict[str, Any]:
        """Return what changes there all the time, see `ports.probe.view.Viewer`.

        The program there gets what it needs for that before the first time.

        Raises
        ------
        TimedOutError
            Nothing came back within `timeout` seconds.
        FarSideError
            The program there refuses, or it is of another version.
        ConnectionLostError
            The session has ended.
        """
        mux = self._running()
        if "magic" not in self.hello:
            raise FarSideError(self.host, "the program there is of a version that does not look")
        if not self._has_code:
            is_code, code = probe.more("agent", str(self.hello["magic"]))
            self.send({"type": "code", "is_code": is_code, "code": base64.b64encode(code).decode()})
            self._has_code = True
        self._number += 1
        number = self._number
        answered = self._views[number] = asyncio.get_running_loop().create_future()
        mux.send(protocol.CONTROL, 0, json.dumps({**request, "type": "view", "id": number}).encode())
        try:
            told: dict[str, Any] = await asyncio.wait_for(answered, timeout)
        except asyncio.TimeoutError as error:
            raise TimedOutError(f"a look at {self.host}", timeout) from error
        finally:
            self._views.pop(number, None)
            self._points.pop(number, None)
        if "error" in told:
            raise FarSideError(self.host, str(told["error"]))
        return told

    async def dial(self, remote: str, owner: str | None = None) -> socket.socket:
        """Return a non-blocking socket whose other end is connected to `remote` on the host.

        Parameters
        ----------
        remote : str
            ``127.0.0.1:8888``, ``[::1]:8888``, or the path of a Unix socket.
        owner : str, optional
            Another user whose listener is accepted.

        Raises
        ------
        RefusedError
            Nothing listens there, or the listener is another user's; the message says which.
        ConnectionLostError
            The session has ended.
        """
        mux = self._running()
        self._number += 1
        number = self._number
        dialled = self._dialled[number] = asyncio.get_running_loop().create_future()
        mux.send(protocol.OPEN, number, json.dumps({"remote": remote, "owner": owner}).encode())
        try:
            connection: socket.socket = await dialled
        except asyncio.CancelledError:
            if dialled.done() and not dialled.cancelled() and dialled.exception() is None:
                dialled.result().close()
            if number in mux.channels:
                mux.channels[number].fail()
            else:
                mux.send(protocol.CLOSE, number)
            raise
        finally:
            self._dialled.pop(number, None)
        return connection

    def send(self, message: dict[str, Any]) -> None:
        """Send a message: ``users`` (with ``remotes``, from now on), ``look`` (at once), ``browse`` (with ``id``)."""
        if self._mux is not None:
            self._mux.send(protocol.CONTROL, 0, json.dumps(message).encode())

    def close(self) -> None:
        """End the session, and with it the program there and all connections through it."""
        self._closed = True
        if self._mux is not None:
            self._mux.end("closed")
        if self._session is not None:
            self._session.close()

    def _running(self) -> protocol.Mux:
        if self._mux is None or self._mux.ended:
            raise ConnectionLostError(self.host, "the session with it has ended")
        return self._mux

    async def _begin(
        self, loop: asyncio.AbstractEventLoop, session: socket.socket, request: dict[str, Any]
    ) -> dict[str, Any]:
        marker = f"ports-{os.urandom(8).hex()}:"
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what the shell printed there says more
            await loop.sock_sendall(session, probe.first_line({**request, "do": "agent", "marker": marker}))
        early = await self._read_noise(loop, session, marker)
        self._greeted = loop.create_future()
        ends = session.fileno(), session.fileno()
        if hasattr(os, "readv"):
            self._mux = protocol.Mux(_InLoop(loop), ends, self._take, self._ended)
        else:
            self._mux = _SocketMux(session, _InLoop(loop), ends, self._take, self._ended)
        self._mux.feed(early)
        return await self._greeted

    async def _read_noise(self, loop: asyncio.AbstractEventLoop, session: socket.socket, marker: str) -> bytes:
        """Return what came after the marker. Before it comes the output of the shell's start files."""
        heard, wanted = b"", b"\n" + marker.encode()
        while len(heard) < _MOST_NOISE:
            data = b""
            with contextlib.suppress(ConnectionResetError):
                data = await loop.sock_recv(session, 1 << 16)
            heard += data
            before, found, after = heard.partition(wanted)
            if found and b"\n" in after:
                said, _, rest = after.partition(b"\n")
                if said.startswith(probe.TOO_OLD.encode()):
                    version = said[len(probe.TOO_OLD) :].decode("ascii", "replace")
                    reason = f"python3 there is {version}, older than 3.6"
                    raise FarSideError(self.host, f"{reason}; load a newer one in the start file of your shell there")
                return rest
            if not data:
                raise FarSideError(self.host, "; ".join(why_no_answer(self.host, before.decode(errors="replace"))))
        raise FarSideError(self.host, "the start files of the shell there print without end; `ssh` to it shows what")

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if kind == protocol.PONG:
            pinged = self._pings.get(payload)
            if pinged is not None and not pinged.done():
                pinged.set_result(time.monotonic())
        elif kind in (protocol.OPENED, protocol.REFUSED):
            self._dialled_now(kind, number, payload)
        elif kind == protocol.DOCUMENT:
            self._tell(json.loads(zlib.decompress(payload).decode("utf-8", "surrogateescape")))
        elif kind == protocol.CONTROL:
            message = json.loads(payload)
            if message["type"] != "hello":
                self._tell(message)
            elif self._greeted is not None and not self._greeted.done():
                self._greeted.set_result(message)

    def _tell(self, message: dict[str, Any]) -> None:
        """Hand a message on; an error in its handler must not disturb the frames behind it."""
        if message["type"] in ("points", "view"):
            self._viewed(message)
            return
        try:
            self._on_message(message)
        except Exception as error:  # noqa: BLE001 - the loop says it as of any callback
            context = {"message": "a message from the program on a host was refused", "exception": error}
            asyncio.get_running_loop().call_exception_handler(context)

    def _viewed(self, message: dict[str, Any]) -> None:
        """Take an answer to `view`: first the history of the machine, then the rest."""
        number = message.get("id") or 0
        viewed = self._views.get(number)
        if viewed is None or viewed.done():  # given up meanwhile
            self._points.pop(number, None)
        elif message["type"] == "points":
            self._points[number] = message["points"]
        else:
            message.setdefault("history", {"clusters": {}})["machine"] = self._points.pop(number, [])
            viewed.set_result(message)

    def _dialled_now(self, kind: int, number: int, payload: bytes) -> None:
        dialled = self._dialled.get(number)
        if dialled is None or dialled.done():  # given up meanwhile, as the far end knows
            return
        if kind == protocol.REFUSED:
            dialled.set_exception(RefusedError(self.host, str(json.loads(payload)["reason"])))
            return
        assert self._mux is not None
        try:
            mine, theirs = socket.socketpair()
            for half in (mine, theirs):
                if half.family == socket.AF_INET:  # Windows makes TCP pairs
                    half.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except OSError as error:  # too many open files
            self._mux.send(protocol.CLOSE, number)
            dialled.set_exception(RefusedError(self.host, f"no connection can be made here: {error.strerror}"))
            return
        protocol.Channel(self._mux, number, mine)
        theirs.setblocking(False)
        dialled.set_result(theirs)

    def _ended(self, reason: str) -> None:
        if self._session is not None:
            self._session.close()
        lost = reason or "the session was cut, or the program there ended"
        waiting: list[asyncio.Future[Any]] = [
            *self._dialled.values(),
            *self._pings.values(),
            *self._views.values(),
            *([self._greeted] if self._greeted else []),
        ]
        greeted = self._greeted is not None and self._greeted.done()
        for future in waiting:
            if not future.done():
                error = FarSideError if future is self._greeted else ConnectionLostError
                future.set_exception(error(self.host, f"the connection was lost: {lost}"))
        if greeted and not self._closed:
            self._on_lost(lost)


class _SocketMux(protocol.Mux):
    """A mux for Windows, where sockets are not files and take one piece at a time."""

    def __init__(self, session: socket.socket, *arguments: Any) -> None:
        self._session = session
        super().__init__(*arguments)

    def _pull(self) -> int:
        return self._session.recv_into(self._room)

    def _push(self, pieces: list[bytes | memoryview]) -> int:
        return self._session.send(b"".join(pieces))


class _InLoop:
    """The event loop, with the methods that the mux needs."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop

    def on_read(self, fd: int, callback: Callable[[], None] | None) -> None:
        if callback is None:
            self._loop.remove_reader(fd)
        else:
            self._loop.add_reader(fd, callback)

    def on_write(self, fd: int, callback: Callable[[], None] | None) -> None:
        if callback is None:
            self._loop.remove_writer(fd)
        else:
            self._loop.add_writer(fd, callback)
