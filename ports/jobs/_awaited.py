"""The ends of jobs that are awaited: for all jobs of a machine one thread asks, on one connection."""

from __future__ import annotations

import collections
import contextlib
import os
import threading
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from typing import TYPE_CHECKING, Any, TypeVar

from ports.errors import PortsError
from ports.jobs import _client
from ports.jobs._connection import Connection, revive

if TYPE_CHECKING:
    from ports.jobs._model import JobId
    from ports.jobs._protocol import Frame

T = TypeVar("T")

_lock = threading.Lock()
_machines: dict[tuple[int, str | None], _Machine] = {}  # of this process: a fork has no threads


def end(host: str | None, id: JobId, read: Callable[[Frame], T]) -> Future[T]:
    """Return a future of the end of a job, as `read` has it from what its machine says."""
    with _lock:
        machine = _machines.setdefault((os.getpid(), host), _Machine(host))
    return machine.end(id, read)


class _Session:
    """What was asked on one connection, and what arrived there."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.arrived: collections.deque[Frame] = collections.deque()
        self.asked: dict[int, JobId] = {}


class _Machine:
    """The jobs of one machine that are awaited. One thread reads while there are some; another one asks for new ones.

    Who awaits a job does not ask itself: it can be an event loop, and the connection can be busy.
    """

    def __init__(self, host: str | None) -> None:
        self.host = host
        self._lock = threading.Lock()
        self._waiting: dict[JobId, tuple[Future[Any], Callable[[Frame], Any]]] = {}
        self._unasked: collections.deque[JobId] = collections.deque()
        self._session: _Session | None = None
        self._is_reading = self._is_asking = False

    def end(self, id: JobId, read: Callable[[Frame], T]) -> Future[T]:
        """Return a future of the end of a job."""
        with self._lock:
            future, _ = known = self._waiting.get(id) or (Future(), read)
            if id not in self._waiting:
                self._waiting[id] = known
                self._unasked.append(id)
                if not self._is_reading:
                    self._is_reading = True
                    threading.Thread(target=self._read, name="ends of jobs", daemon=True).start()
                self._begin_to_ask()
        return future

    def _begin_to_ask(self) -> None:
        if self._session is not None and self._unasked and not self._is_asking:
            self._is_asking = True
            threading.Thread(target=self._ask, name="awaited jobs", daemon=True).start()

    def _ask(self) -> None:
        """Ask for the ends of the jobs that nobody has asked for."""
        while True:
            with self._lock:
                session = self._session
                if session is None or not self._unasked:
                    self._is_asking = False
                    return
                id = self._unasked.popleft()
            number = session.connection.new_number()
            session.asked[number] = id
            try:
                session.connection.post(number, session.arrived, "result", id=str(id), wait=None)
            except PortsError:  # who reads sees it too, and begins again with all jobs
                with self._lock:
                    self._session = None if self._session is session else self._session

    def _read(self) -> None:
        """Read answers until nothing is awaited any more, on a new connection after a cut."""
        tries = _client.patience(self.host, True, waits=True)
        while True:
            try:
                session = _Session(_client.connection(self.host, start=tries.start))
                with self._lock:
                    self._session, self._unasked = session, collections.deque(self._waiting)
                    self._begin_to_ask()
                while not self._tell(session, session.connection.take(session.arrived)):
                    tries = _client.patience(self.host, True, waits=True)
                return
            except BaseException as error:  # noqa: BLE001  it is raised where the future is waited for
                try:
                    if not isinstance(error, PortsError):
                        raise
                    tries.pause(error)
                except BaseException as failed:  # noqa: BLE001
                    self._fail(failed)
                    return

    def _tell(self, session: _Session, frame: Frame) -> bool:
        """Tell who awaits a job of its end; return whether that was the last one."""
        with self._lock:
            future, read = self._waiting.pop(session.asked.pop(frame.header["n"]))
            is_last = not self._waiting
            if is_last:
                self._session, self._is_reading = None, False
        told = frame.header.get("error")
        with contextlib.suppress(InvalidStateError):  # it was cancelled
            if told is not None and "state" not in frame.header:
                future.set_exception(revive(told))
            else:
                future.set_result(read(frame))
        return is_last

    def _fail(self, error: BaseException) -> None:
        with self._lock:
            failed, self._waiting = [future for future, _ in self._waiting.values()], {}
            self._unasked.clear()
            self._session, self._is_reading = None, False
        for future in failed:
            with contextlib.suppress(InvalidStateError):
                future.set_exception(error)
