"""The client's end of the compute resource's socket: it asks, waits for the answer, and raises the resource's errors.

Any number of threads can ask on one connection. One of those that wait reads, and hands the others what is theirs.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import socket
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from ports import errors, probe
from ports._version import VERSION
from ports.errors import PortsError, ResourceLostError, TimedOutError, UnsafePathError
from ports.jobs._protocol import PROTOCOL, Decoder, Frame, ProtocolError, encode

_PIECE = 256 * 1024


class Connection:
    """A connection to the compute resource of this user on this machine.

    Parameters
    ----------
    path : path
        Its Unix socket.
    timeout : float
        Seconds for the first answer.

    Raises
    ------
    ResourceLostError
        Nothing answers there.
    UnsafePathError
        Another user answers there.
    UsageError
        The resource speaks another protocol.
    """

    def __init__(self, path: Path | str, *, timeout: float = 10.0) -> None:
        self.path = Path(path)
        self._socket = self._connect(timeout)
        self._decoder = Decoder()
        self._numbers = itertools.count(1)
        self._sending = threading.Lock()
        self._changed = threading.Condition()
        self._arrived: dict[int, collections.deque[Frame]] = {}
        self._is_reading = False
        self._lost: PortsError | None = None
        self._pid = os.getpid()
        #: What the resource said of itself: ``protocol``, ``version``, ``pid``, ``python``.
        self.resource: dict[str, Any] = {}
        try:
            self.resource = self.ask("hello", protocol=PROTOCOL, version=VERSION, timeout=timeout).header
        except BaseException:
            self.close()
            raise

    def _connect(self, timeout: float) -> socket.socket:
        one = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            one.settimeout(timeout)
            one.connect(os.fspath(self.path))
            uid = probe.peer_uid(one)
        except OSError as error:
            one.close()
            raise ResourceLostError(f"{self.path}: {error.strerror or error}") from error
        if uid not in (None, probe.own_uid()):
            one.close()
            raise UnsafePathError(self.path, f"{probe.user_name(uid)} answers there", "ask an administrator why")
        return one

    @property
    def is_lost(self) -> bool:
        """Whether the connection has ended, so that nothing more can be asked on it."""
        return self._lost is not None or not self.is_of_this_process

    def has_ended(self) -> bool:
        """Tell whether the connection has ended, also where nobody has used it since."""
        with self._changed:
            if self.is_lost or self._is_reading:
                return self.is_lost
            self._is_reading = True
        self._read_for_all(0.0)
        return self.is_lost

    @property
    def is_of_this_process(self) -> bool:
        """Whether this process made it; after a fork it is the parent's."""
        return self._pid == os.getpid()

    def ask(self, op: str, blobs: Sequence[bytes] = (), *, timeout: float | None = None, **fields: Any) -> Frame:
        """Ask for `op` and return the answer.

        Parameters
        ----------
        blobs : sequence of bytes, optional
            What goes along.
        timeout : float, optional
            Seconds to wait. Default: until the answer comes.
        **fields
            The rest of the request.

        Raises
        ------
        PortsError
            What the resource raised.
        ResourceLostError
            The connection ended before the answer: nothing shows whether the request arrived.
        TimedOutError
            No answer came within `timeout` seconds.
        """
        with contextlib.closing(self.stream(op, blobs, timeout=timeout, **fields)) as answers:
            return next(answers)

    def stream(
        self, op: str, blobs: Sequence[bytes] = (), *, timeout: float | None = None, **fields: Any
    ) -> Generator[Frame, None, None]:
        """Ask for `op` and yield its answers, of which each but the last has ``more``; raises as `ask`.

        `timeout` is for each answer. Who leaves the loop early gets no further answers; the resource drops the rest
        when the connection ends.
        """
        number = next(self._numbers)
        arrived: collections.deque[Frame] = collections.deque()
        with self._changed:
            self._arrived[number] = arrived
        try:
            self._send(encode({"op": op, "n": number, **fields}, blobs))
            while True:
                frame = self._wait_for(arrived, op, timeout)
                if (told := frame.header.get("error")) is not None and "state" not in frame.header:
                    raise revive(told)
                yield frame
                if not frame.header.get("more"):
                    return
        except ProtocolError as error:
            raise errors.UsageError(f"{op}: {error}") from error
        finally:
            with self._changed:
                self._arrived.pop(number, None)

    def new_number(self) -> int:
        """Return the number of a request to `post`."""
        return next(self._numbers)

    def post(self, number: int, into: collections.deque[Frame], op: str, **fields: Any) -> None:
        """Ask for `op`, and do not wait: its answer comes `into` a queue of answers, from which `take` takes it.

        Raises
        ------
        ResourceLostError
            The connection has ended.
        """
        with self._changed:
            self._arrived[number] = into
        self._send(encode({"op": op, "n": number, **fields}))

    def take(self, arrived: collections.deque[Frame]) -> Frame:
        """Return the next answer that arrives for requests that were posted, also an error; raises as `post`."""
        frame = self._wait_for(arrived, "post", None)
        with self._changed:
            self._arrived.pop(frame.header["n"], None)
        return frame

    def close(self) -> None:
        """End the connection; who waits for an answer gets ResourceLostError."""
        self._lose("it was closed")
        with contextlib.suppress(OSError):
            if self._pid == os.getpid():
                self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def __enter__(self) -> Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _send(self, data: bytes) -> None:
        if self._pid != os.getpid():
            self._lose("it belongs to another process")
        with self._sending:
            self._raise_if_lost()
            try:
                self._socket.settimeout(None)
                self._socket.sendall(data)
            except OSError as error:
                self._lose(error.strerror or str(error))
        self._raise_if_lost()

    def _wait_for(self, arrived: collections.deque[Frame], op: str, timeout: float | None) -> Frame:
        """Return the next answer that arrived; one of the threads that wait reads for all."""
        end = None if timeout is None else time.monotonic() + timeout
        while True:
            with self._changed:
                if arrived:
                    return arrived.popleft()
                self._raise_if_lost()
                left = None if end is None else end - time.monotonic()
                if left is not None and left <= 0:
                    raise TimedOutError(f"the compute resource's answer to {op!r}", timeout or 0)
                if self._is_reading:
                    self._changed.wait(left)
                    continue
                self._is_reading = True
            self._read_for_all(left)

    def _read_for_all(self, timeout: float | None) -> None:
        """Read as the one thread that does; wakes the others."""
        try:
            self._read(timeout)
        finally:
            with self._changed:
                self._is_reading = False
                self._changed.notify_all()

    def _read(self, timeout: float | None) -> None:
        """Read what is there, or what comes within `timeout` seconds, and hand it out."""
        try:
            if not _has_come(self._socket, timeout):
                return
            data = self._socket.recv(_PIECE)
            frames = self._decoder.feed(data)
        except (OSError, ValueError) as error:  # ValueError: closed meanwhile, or no frame
            self._lose(str(error))
            return
        if not data:
            self._lose("it ended")
        with self._changed:
            for frame in frames:
                number = frame.header.get("n")
                if number in self._arrived:
                    self._arrived[number].append(frame)
                elif number is None and "error" in frame.header:
                    self._lost = self._lost or revive(frame.header["error"])

    def _lose(self, reason: str) -> None:
        with self._changed:
            self._lost = self._lost or ResourceLostError(reason)
            self._changed.notify_all()

    def _raise_if_lost(self) -> None:
        if self._lost is not None:
            raise self._lost


def _has_come(one: socket.socket, timeout: float | None) -> bool:
    """Say whether something comes within `timeout` seconds; any number of files can be open, except on Windows."""
    import select

    if not hasattr(select, "poll"):
        return bool(select.select([one], [], [], timeout)[0])
    waiting = select.poll()
    waiting.register(one, select.POLLIN)
    return bool(waiting.poll(None if timeout is None else max(1, int(timeout * 1000))))


class _Told(PortsError):
    """An error of the resource that cannot be made from its parts: it has its class and its text."""

    def __init__(self, told: dict[str, Any]) -> None:
        Exception.__init__(self, told)
        self.told = told
        self.exit_code = int(told.get("exit_code") or 5)

    def __str__(self) -> str:
        return str(self.told.get("text") or "it failed")

    def __reduce__(self) -> Any:
        return revive, (self.told,)


def revive(told: dict[str, Any]) -> PortsError:
    """Return the error that the resource described: of its class, with its text and its exit code."""
    kind = getattr(errors, str(told.get("kind")), PortsError)
    if not (isinstance(kind, type) and issubclass(kind, PortsError)):
        kind = PortsError
    arguments = told.get("args") or [told.get("text")]
    with contextlib.suppress(TypeError, AttributeError, ValueError):
        revived: PortsError = kind(*(tuple(part) if isinstance(part, list) else part for part in arguments))
        if str(revived) == told.get("text"):
            return revived
    made: type[_Told] = type(kind.__name__, (_Told, kind), {})
    return made(told)
