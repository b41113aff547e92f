"""The jobs of another machine, from home: one ssh session, through which their frames go.

A program of ours, which the session carries there, connects to the socket of the compute resource
(`ports.probe.programs.jobs`). Where none runs, it answers from the queue on the disk, and a submission is left there.
"""

from __future__ import annotations

import collections
import contextlib
import os
import socket
import threading
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from ports import hosts, probe
from ports._version import VERSION
from ports.errors import ConflictError, ConnectionLostError, FarSideError, NotFoundError, PortsError, SlowError
from ports.jobs._connection import Connection
from ports.jobs._protocol import PROTOCOL, Frame, encode
from ports.state import settings

_MOST_NOISE = 1 << 20  # of start files of the shell
_START_MARGIN = 60.0  # seconds for the login shell there and for the way
_ANSWER_SECONDS = 30.0


class FarConnection(Connection):
    """A connection to the jobs of another machine: to its compute resource, or to the queue on its disk.

    Ops that begin with ``disk.`` are for the files of jobs there, whether a resource runs or not.
    """

    def __init__(
        self, alias: str, channel: socket.socket, carrier: hosts.Connection, told: Mapping[str, Any] | None = None
    ) -> None:
        self.alias = alias
        self._channel, self._carrier = channel, carrier
        self._magic = str((told or {}).get("magic") or "")
        self._has_code, self._giving = False, threading.Lock()
        #: Whether no resource answered when it was made, or when it was last told to look.
        self.is_at_rest = not (told or {}).get("is_running", True)
        #: Why no resource was started there although one was wanted.
        self.why_not: str | None = None
        super().__init__(alias, timeout=_ANSWER_SECONDS)

    def _connect(self, timeout: float) -> socket.socket:
        return self._channel

    def stream(
        self, op: str, blobs: Sequence[bytes] = (), *, timeout: float | None = None, **fields: Any
    ) -> Generator[Frame, None, None]:
        """Ask for `op` and yield its answers, as `Connection.stream`; the program there gets first what it needs."""
        if op.startswith("disk.") or (self.is_at_rest and op != "hello"):
            self._give_code()
        yield from super().stream(op, blobs, timeout=timeout, **fields)

    def post(self, number: int, into: collections.deque[Frame], op: str, **fields: Any) -> None:
        """Ask for `op`, and do not wait, as `Connection.post`."""
        if self.is_at_rest:
            self._give_code()
        super().post(number, into, op, **fields)

    def _give_code(self) -> None:
        """Send the part of our program that only some requests need, once."""
        with self._giving:
            if not self._has_code:
                is_code, code = probe.more("jobs", self._magic)
                self._send(encode({"op": "disk.code", "is_code": is_code}, [code]))
                self._has_code = True

    def look_again(self) -> None:
        """Greet a resource that was started there since; raises as `Connection`."""
        self.resource = self.ask("hello", protocol=PROTOCOL, version=VERSION, timeout=_ANSWER_SECONDS).header
        self.is_at_rest = self.resource.get("is_running") is False

    def close(self) -> None:
        """End the connection, and the program there."""
        super().close()
        if self._pid == os.getpid():  # a fork has the session of its parent, and leaves it alone
            self._carrier.close()


def connect(
    alias: str, *, start: bool | None = True, at_rest: bool = False, batch: bool | None = None
) -> FarConnection:
    """Return a connection to the compute resource on `alias`.

    Parameters
    ----------
    start : bool or None
        Start the resource there if none runs; None: unless somebody has stopped it.
    at_rest : bool
        Where none runs, and none is or can be started, return a connection to the queue on the disk. Its `is_at_rest`
        is True then, and its `why_not` says why none was started.
    batch : bool, optional
        Nobody is asked for a password or code. Default: ask where there is a terminal.

    Raises
    ------
    SSHError
        The host cannot be reached.
    FarSideError
        There is no python3; or, without `at_rest`, `ports` is not there or cannot start a resource.
    NotFoundError
        No resource runs, and none is started.
    """
    route = hosts.resolve(alias)
    found, told = _connected(route, batch)
    if not found.is_at_rest:
        return found
    try:
        if told.get("has_record") if start is None else start:
            _start_for(route, found, is_needed=not at_rest, batch=batch)
            if found.is_at_rest and not at_rest:
                raise FarSideError(
                    alias,
                    f"the compute resource runs, but nothing answers at {told.get('path')} ({told.get('reason')}); "
                    "set PORTS_HOME and XDG_STATE_HOME there in every shell or in none",
                )
        elif not at_rest:
            raise NotFoundError("resource", "jobs", f"`ports resource start -H {alias}` starts one")
    except BaseException:
        found.close()
        raise
    return found


def _start_for(route: hosts.Route, found: FarConnection, *, is_needed: bool, batch: bool | None) -> None:
    """Start a resource there, and let a session go on with it; note why not, unless it is needed."""
    try:
        _start(route, batch)
    except FarSideError as error:
        if is_needed:
            raise
        found.why_not = error.reason
        return
    found.look_again()


def _start(route: hosts.Route, batch: bool | None) -> None:
    limit = float(settings.get("jobs.start_timeout")) + _START_MARGIN
    try:
        with contextlib.suppress(ConflictError):  # it has been started meanwhile
            hosts.run_ports(route, ["resource", "start"], login=True, timeout=limit, batch=batch)
    except FarSideError as error:
        why = f"no compute resource runs there, and none can be started: {error.reason}"
        raise FarSideError(route.alias, why) from None  # which has all that the first one says


def _connected(route: hosts.Route, batch: bool | None) -> tuple[FarConnection, Mapping[str, Any]]:
    """Return a connection, and what our program there said; a connection of before that is dead is replaced."""
    for is_last in (False, True):
        carrier = hosts.connect(route, batch=batch)
        try:
            channel, told = _opened(carrier)
            return FarConnection(route.alias, channel, carrier, told), told
        except ConnectionLostError:
            carrier.give_up()
            if is_last or carrier.is_fresh:
                raise
        except BaseException:
            carrier.close()
            raise
    raise AssertionError


def _opened(carrier: hosts.Connection) -> tuple[socket.socket, dict[str, Any]]:
    """Start our program there; return its input and output, and what it says."""
    alias = carrier.route.alias
    pythons = ["python3", *hosts.named_pythons(alias)]
    while True:
        marker = f"ports-{os.urandom(8).hex()}:"
        channel = carrier.exec_channel(probe.SESSION.format(python=pythons.pop(0)))
        try:
            channel.settimeout(_ANSWER_SECONDS)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # what was printed there says more
                channel.sendall(probe.first_line({"do": "jobs", "marker": marker}))
            told = _answer(channel, alias, marker)
        except BaseException:
            channel.close()
            raise
        if told is not None:
            channel.settimeout(None)
            return channel, told
        channel.close()
        if not pythons:
            hosts.explain_silence(carrier.route, timeout=_ANSWER_SECONDS, quick=0.0)
            raise ConnectionLostError(alias, "the session with it has ended at once; try again")


def _answer(channel: socket.socket, alias: str, marker: str) -> dict[str, Any] | None:
    """Return what our program says in its first line; None where the session ended before that."""
    heard, end = b"", time.monotonic() + _ANSWER_SECONDS
    while len(heard) < _MOST_NOISE:
        try:
            channel.settimeout(max(0.01, end - time.monotonic()))
            data = channel.recv(1 << 16)
        except TimeoutError as error:
            hosts.explain_silence(hosts.resolve(alias), timeout=_ANSWER_SECONDS, quick=1.0)
            raise SlowError(alias, f"no answer of python3 there within {_ANSWER_SECONDS:g} s; try again") from error
        except OSError:
            data = b""
        heard += data
        _, found, after = heard.partition(b"\n" + marker.encode())
        if found and b"\n" in after:
            return _told(alias, marker, heard.decode(errors="replace"))
        if not data:
            return None
    raise FarSideError(alias, "the start files of the shell there print without end; `ssh` to it shows what")


def _told(alias: str, marker: str, heard: str) -> dict[str, Any]:
    line = heard.partition(f"\n{marker}")[2].partition("\n")[0]
    if line.startswith(probe.TOO_OLD):
        version = line[len(probe.TOO_OLD) :]
        hint = "load a newer one in the start file of your shell there"
        raise FarSideError(alias, f"python3 there is {version}, older than 3.6; {hint}")
    told = probe.read_answer(heard, marker) or {"message": "it answered with something else"}
    if "is_running" not in told:
        raise FarSideError(alias, str(told.get("message") or told.get("error")))
    return told


def is_cut(error: PortsError) -> bool:
    """Say whether the way to a host failed, so that asking again can help."""
    return bool(getattr(error, "is_network", False))
