"""This process as a client of compute resources: one connection for each machine, which is made again when it ends.

`host` is an alias of ``~/.ssh/config``; None is this machine.
"""

from __future__ import annotations

import atexit
import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from typing import Any

from ports.errors import PortsError, ResourceLostError, TimedOutError, warn
from ports.jobs import _there
from ports.jobs._connection import Connection
from ports.jobs._protocol import Frame
from ports.jobs._there import FarConnection

_TRIES, _PAUSE = 5, 0.2
_FAR_SECONDS, _LONGEST_PAUSE = 60.0, 10.0  # how long the way to another machine can be cut
_SAID_AFTER = 10.0
_LOCK_SECONDS = 1.0
_GRACE = 5.0  # for an answer that has begun to come when the time is over

#: Nobody is asked for a password or code, and a way that is cut is not waited for: see `in_batch`.
_is_batch: ContextVar[bool] = ContextVar("is_batch", default=False)
_lock = threading.Lock()
_locks: dict[str | None, threading.Lock] = {}
_connections: dict[str | None, Connection] = {}
_reached: set[str | None] = set()  # machines to which this process had a connection
_failed: dict[str, PortsError] = {}  # what `begin` raised, until somebody asks


def _lock_of(host: str | None) -> threading.Lock:
    with _lock:
        return _locks.setdefault(host, threading.Lock())


def connection(host: str | None = None, *, start: bool | None = True, for_a_job: bool = False) -> Connection:
    """Return the connection of this process.

    Parameters
    ----------
    start : bool or None
        Start the compute resource if none runs; None: unless somebody has stopped it. Without one, another machine is
        asked all the same what its disk says.
    for_a_job : bool
        A job comes at once that can begin: as in `_resource.start_resource`.

    Raises
    ------
    ResourceLostError
        None runs on this machine, and none is started.
    SSHError
        The host cannot be reached.
    """
    with _lock_of(host):
        if host is not None and (failed := _failed.pop(host, None)) is not None:
            raise failed
        found = _connections.get(host)
        if found is None or found.has_ended() or (start and isinstance(found, FarConnection) and found.is_at_rest):
            _drop(host)
            found = _connections[host] = _connected(host, start, for_a_job)
            _reached.add(host)
        return found


@contextlib.contextmanager
def in_batch() -> Iterator[None]:
    """Let what is asked in this block, in this thread, fail where it needs a person or a way that is cut.

    The page asks so: it looks at several machines at once, shows what failed, and looks again.
    """
    token = _is_batch.set(True)
    try:
        yield
    finally:
        _is_batch.reset(token)


def batch() -> bool | None:
    """Return True where nobody is asked for a password or code; None: ask where there is a terminal."""
    return _is_batch.get() or None


def begin(host: str) -> None:
    """Begin to connect to another machine, while this process does other work. The next `connection` waits for it."""
    locked = threading.Event()

    def run() -> None:
        with _lock_of(host):
            locked.set()
            try:
                _connections[host] = _connected(host, start=False)
                _reached.add(host)
            except PortsError as error:
                _failed[host] = error

    threading.Thread(target=run, name=f"jobs of {host}", daemon=True).start()
    locked.wait(_LOCK_SECONDS)


def _connected(host: str | None, start: bool | None, for_a_job: bool = False) -> Connection:
    if host is not None:
        return _there.connect(host, start=start, at_rest=not start, batch=batch())
    from ports.jobs import _places, _resource  # 60 ms, which who asks another machine does not need

    if start is False:
        return Connection(_places.here().socket)
    return _resource.connect(for_a_job=for_a_job)


def _drop(host: str | None) -> None:
    """Close the connection to a machine; after a fork it is the parent's, and stays."""
    if (found := _connections.pop(host, None)) is not None and found.is_of_this_process:
        found.close()


def python(host: str | None = None) -> str:
    """Return the minor version of Python in which the resource runs functions: ``"3.11"``."""
    return str(connection(host).resource.get("python") or "")


def disconnect() -> None:
    """End the connections of this process. The next request makes a new one."""
    _reached.clear()
    for host in list(_connections):
        with _lock_of(host):
            _drop(host)


def ask(
    op: str,
    blobs: Sequence[bytes] = (),
    *,
    host: str | None = None,
    start: bool | None = True,
    is_patient: bool = False,
    until: float | None = None,
    **fields: Any,
) -> Frame:
    """Return the answer to a request that can be repeated: where the connection ends, it is.

    Parameters
    ----------
    start : bool or None
        As in `connection`.
    is_patient : bool
        Ask another machine until it answers, however long the way to it is cut. So does who waits for an end.
    until : float, optional
        When to stop that, of the monotonic clock. Default: after `wait` seconds, where the request has a ``wait``.

    Raises
    ------
    PortsError
        What the resource raised.
    TimedOutError
        Another machine was not reached until then.
    """
    wait = fields.get("wait")
    end = until if wait is None else time.monotonic() + float(wait)
    tries = patience(host, start, waits=is_patient or "wait" in fields, end=end)
    while True:
        timeout = None if until is None else max(_GRACE, until - time.monotonic())
        try:
            found = connection(host, start=tries.start, for_a_job=op == "submit")
            return found.ask(op, blobs, timeout=timeout, **fields)
        except PortsError as error:
            tries.pause(error)
        if wait is not None and end is not None:
            fields["wait"] = max(0.0, end - time.monotonic())


def look(op: str, *, host: str | None = None, **fields: Any) -> dict[str, Any]:
    """Return the answer to a question, without starting a resource: where none runs, the queue on the disk is read.

    Raises
    ------
    PortsError
        What the resource, or the queue, raised.
    """
    if host is not None:
        return dict(ask(op, host=host, start=False, **fields).header)
    with contextlib.suppress(ResourceLostError):
        return dict(connection(start=False).ask(op, **fields).header)
    from ports.jobs import _asking

    return _asking.ask(op, **fields)


def watch(ids: Sequence[str], end: float, *, host: str) -> Iterator[Frame]:
    """Yield what another machine says of jobs: now, and at each change, until all have ended.

    Parameters
    ----------
    end : float
        When to stop, of the monotonic clock.

    Raises
    ------
    TimedOutError
        Some had not ended by then.
    """
    tries = patience(host, False, waits=True, end=end)
    while True:
        left = None if end == float("inf") else max(0.01, end - time.monotonic())
        try:
            for frame in connection(host, start=tries.start).stream("watch", ids=list(ids), timeout=left):
                yield frame
                tries = patience(host, None, waits=True, end=end)
            return
        except TimedOutError:
            raise
        except PortsError as error:
            tries.pause(error)


def results(id: str, end: float | None, *, host: str | None = None) -> Iterator[Frame]:
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
    begin, tries = 0, patience(host, True, waits=True, end=end)
    while True:
        wait = None if end is None else max(0.0, end - time.monotonic())
        try:
            asked: dict[str, Any] = {"id": id, "wait": wait, "from": begin}
            for frame in connection(host, start=tries.start).stream("result", **asked):
                yield frame
                begin = frame.header.get("next", begin)
                tries = patience(host, True, waits=True, end=end)
        except PortsError as error:
            tries.pause(error)
            continue
        if frame.header.get("has_ended"):
            return
        if end is not None and time.monotonic() >= end:
            raise TimedOutError(f"job {id}", wait or 0)


class _Here:
    """How often a request is repeated that a resource on this machine did not answer."""

    start = True

    def __init__(self) -> None:
        self._left = _TRIES

    def pause(self, error: PortsError) -> None:
        """Wait for a resource that crashed; raise `error` if none is left, or somebody has stopped it."""
        from ports.jobs import _resource

        self._left -= 1
        if not isinstance(error, ResourceLostError) or not self._left or _resource.find_resource() is None:
            raise error
        time.sleep(_PAUSE)


class _Far:
    """For how long a request is repeated when the way to another machine is cut: by who waits for an end, until `end`.

    `end` is of the monotonic clock; infinite, or None: for ever.
    """

    def __init__(self, host: str, start: bool | None, *, waits: bool, end: float | None) -> None:
        self._host, self._waits = host, waits
        self._end = float("inf") if end is None else end
        self._limit = max(0.0, self._end - time.monotonic())
        self.start = start
        self._was_there = host in (_reached if waits else _connections)
        self._began: float | None = None
        self._pause, self._said = _PAUSE, False
        self._has_repeated = False

    def pause(self, error: PortsError) -> None:
        """Wait until it can be tried again; raise `error` where that cannot help."""
        is_lost = isinstance(error, ResourceLostError)
        now = time.monotonic()
        self._began = now if self._began is None else self._began
        is_late = now - self._began > _FAR_SECONDS and not self._waits
        is_late = is_late or (_is_batch.get() and self._has_repeated)
        if not (is_lost or (self._was_there and _there.is_cut(error))) or is_late:
            error.where = error.where or self._host
            raise error
        if now >= self._end and self._has_repeated:
            raise TimedOutError(f"{self._host}, which is not reached ({error})", round(self._limit, 1)) from error
        self._has_repeated = True
        self._was_there, self.start = True, self.start and None  # else nothing would have been lost
        if now - self._began > _SAID_AFTER and not self._said:
            self._said = True
            warn(f"{self._host} is not reached ({error}); it is asked again until it answers. Ctrl-C ends the wait")
        time.sleep(max(0.0, min(self._pause, self._end - now)))
        self._pause = min(2 * self._pause, _LONGEST_PAUSE)


def patience(host: str | None, start: bool | None, *, waits: bool, end: float | None = None) -> _Here | _Far:
    """Return for how long a request to a machine is repeated; by who `waits` for an end, until `end`."""
    return _Here() if host is None else _Far(host, start, waits=waits, end=end)


atexit.register(disconnect)  # while what it needs is still there
