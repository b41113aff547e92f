"""This process as a client of the compute resource: one connection, which is made again when it ends."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

from ports.errors import ResourceLostError, TimedOutError
from ports.jobs import _asking, _places, _resource
from ports.jobs._connection import Connection
from ports.jobs._protocol import Frame

_TRIES = 5
_PAUSE = 0.2

_lock = threading.Lock()
_connection: Connection | None = None


def connection() -> Connection:
    """Return the connection of this process; start the compute resource if none runs."""
    global _connection
    with _lock:
        if _connection is None or _connection.is_lost:
            _connection = _resource.connect()
        return _connection


def python() -> str:
    """Return the minor version of Python in which the resource runs functions: ``"3.11"``."""
    return str(connection().resource.get("python") or "")


def disconnect() -> None:
    """End the connection of this process. The next request makes a new one."""
    global _connection
    with _lock:
        if _connection is not None:
            _connection.close()
        _connection = None


def ask(op: str, blobs: Sequence[bytes] = (), **fields: Any) -> Frame:
    """Return the answer to a request that can be repeated: where the connection ends, it is.

    Raises
    ------
    PortsError
        What the resource raised.
    """
    for left in range(_TRIES - 1, -1, -1):
        try:
            return connection().ask(op, blobs, **fields)
        except ResourceLostError:
            _raise_if_stopped(left)
    raise AssertionError


def look(op: str, **fields: Any) -> dict[str, Any]:
    """Return the answer to a question, without starting a resource: where none runs, the queue on the disk is read.

    Raises
    ------
    PortsError
        What the resource, or the queue, raised.
    """
    global _connection
    with contextlib.suppress(ResourceLostError):
        with _lock:
            if _connection is None or _connection.is_lost:
                _connection = Connection(_places.here().socket)
            asked = _connection
        return dict(asked.ask(op, **fields).header)
    return _asking.ask(op, **fields)


def results(id: str, end: float | None) -> Iterator[Frame]:
    """Yield what the resource says of the results of a map, in the order of their end.

    Parameters
    ----------
    end : float or None
        When to stop, of the monotonic clock. Default: when all have ended.

    Raises
    ------
    TimedOutError
        Some had not ended by then.
    """
    begin, left = 0, _TRIES
    while True:
        wait = None if end is None else max(0.0, end - time.monotonic())
        try:
            asked: dict[str, Any] = {"id": id, "wait": wait, "from": begin}
            for frame in connection().stream("result", **asked):
                yield frame
                begin, left = frame.header.get("next", begin), _TRIES
        except ResourceLostError:
            left -= 1
            _raise_if_stopped(left)
            continue
        if frame.header.get("has_ended"):
            return
        if end is not None and time.monotonic() >= end:
            raise TimedOutError(f"job {id}", wait or 0)


def _raise_if_stopped(left: int) -> None:
    """Wait for a resource that crashed; raise the error of the moment if none is left, or somebody has stopped it."""
    if not left or _resource.find_resource() is None:
        raise
    time.sleep(_PAUSE)
