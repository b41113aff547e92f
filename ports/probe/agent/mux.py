"""Many connections over one session, for both of its ends: frames, and channels with credit.

A frame is a header (type, channel, length) and that many bytes. Of each channel at most `WINDOW` bytes are on their way
that the other end has not passed on yet. So one slow reader stalls no other channel, and memory stays bounded.
"""

import os
import socket
import struct
import time
from collections import deque
from itertools import islice

MYPY = False
if MYPY:
    from typing import Any, Callable, Deque, Dict, List, Optional, Tuple, Union  # noqa: F401 - in comments

    Bytes = Union[bytes, memoryview]

HEADER = struct.Struct(">BII")
# CONTROL is JSON, DOCUMENT compressed JSON; those from OPEN on belong to a channel
CONTROL, DOCUMENT, PING, PONG, OPEN, OPENED, REFUSED, DATA, CREDIT, END, CLOSE = range(1, 12)
WINDOW = 2 << 20  # as ssh has for each of its channels
CHUNK = 1 << 16
LONGEST = 1 << 26  # nothing longer is a frame
# bytes that wait for the session: with HIGH no connection is read any more, with LOW they are read again
HIGH, LOW = 1 << 18, 1 << 16


class Mux:
    """One end of the session.

    Parameters
    ----------
    poller : object
        ``on_read(fd, callback)`` and ``on_write(fd, callback)``; None takes the callback back.
    ends : tuple of int
        The descriptors to read from and to write to, both non-blocking.
    on_frame : callable
        Called with type, channel and payload of each frame that belongs to no open channel.
    on_end : callable
        Called once with the reason when the session has ended and all channels are closed.
    """

    def __init__(
        self,
        poller: "Any",
        ends: "Tuple[int, int]",
        on_frame: "Callable[[int, int, bytes], None]",
        on_end: "Callable[[str], None]",
    ) -> None:
        self.poller, self.on_frame, self.on_end = poller, on_frame, on_end
        self.fd_in, self.fd_out = ends
        self.channels = {}  # type: Dict[int, Channel]
        self.heard_at = time.monotonic()
        self.unsent = 0
        self.ended = False
        self._room = bytearray(1 << 18)
        self._inbox, self._missing = bytearray(), HEADER.size  # a frame that is not whole, and its length
        self._number = self._left = 0  # of the DATA that is being passed on
        self._outbox = deque()  # type: Deque[Bytes]
        self._full = self._corked = False
        self._paused = {}  # type: Dict[int, Callable[[], None]]
        poller.on_read(self.fd_in, self._read)

    def send(self, kind: int, number: int = 0, payload: bytes = b"") -> None:
        """Send a frame, at once if the session takes it."""
        if self.ended:
            return
        self._outbox.append(HEADER.pack(kind, number, len(payload)))
        if payload:
            self._outbox.append(payload)
        self.unsent += HEADER.size + len(payload)
        if not self._full and not self._corked:
            self._write()

    def wait(self, number: int, resume: "Callable[[], None]") -> bool:
        """Tell whether too much is unsent. If so, `resume` is called when there is room again."""
        if self.unsent < HIGH:
            return False
        self._paused[number] = resume
        return True

    def feed(self, data: "Bytes") -> None:
        """Take what was read from the session; `data` is not kept. Parts of a DATA frame are passed on at once."""
        self.heard_at = time.monotonic()
        view, inbox, self._corked = (
            memoryview(data),
            self._inbox,
            True,
        )  # the answers to these frames are sent in one piece
        while len(view) and not self.ended:
            if self._left:
                part = view[: self._left]
                self._left -= len(part)
                channel = self.channels.get(self._number)  # data can still come for one that is closed
                if channel is not None:
                    channel.pass_on(part)
            else:
                part = view[: self._missing - len(inbox)]
                inbox += part
                if len(inbox) == self._missing:
                    self._parse(inbox)
            view = view[len(part) :]
        self._corked = False
        if self._outbox and not self._full:
            self._write()

    def end(self, reason: str) -> None:
        """End the session: all channels are closed, and `on_end` is called."""
        if self.ended:
            return
        self.ended = True
        self.poller.on_read(self.fd_in, None)
        self.poller.on_write(self.fd_out, None)
        for channel in list(self.channels.values()):
            channel.close()
        self._outbox.clear()
        self._paused.clear()
        self.on_end(reason)

    def _parse(self, inbox: bytearray) -> None:
        """Take a frame that is whole; for DATA the header is enough."""
        kind, number, length = HEADER.unpack_from(inbox)
        if length > LONGEST or not CONTROL <= kind <= CLOSE:
            self.end("the other end sent no frame")
        elif kind != DATA and len(inbox) < HEADER.size + length:
            self._missing = HEADER.size + length
        else:
            payload = bytes(inbox[HEADER.size :])
            inbox.clear()
            self._missing = HEADER.size
            self._number, self._left = number, length if kind == DATA else 0
            if kind != DATA:
                self._take(kind, number, payload)

    def _take(self, kind: int, number: int, payload: bytes) -> None:
        if kind == PING:
            self.send(PONG, 0, payload)
            return
        channel = self.channels.get(number) if kind > DATA else None
        if channel is not None:
            channel.take(kind, payload)
        elif kind < DATA or kind == CLOSE:  # frames can still come for a closed channel
            self.on_frame(kind, number, payload)

    def _read(self) -> None:
        try:
            length = self._pull()
        except BlockingIOError:
            return
        except OSError as error:
            self.end(error.strerror or str(error))
            return
        if length:
            self.feed(memoryview(self._room)[:length])
        else:
            self.end("")

    def _write(self) -> None:
        full = False
        while self._outbox and not full:
            try:
                written = self._push(list(islice(self._outbox, 64)))
            except BlockingIOError:
                full = True
            except OSError as error:
                self.end(error.strerror or str(error))
                return
            else:
                self._sent(written)
        if full != self._full:
            self._full = full
            self.poller.on_write(self.fd_out, self._write if full else None)
        if self._paused and self.unsent <= LOW:
            paused, self._paused = self._paused, {}
            for resume in paused.values():
                resume()

    def _pull(self) -> int:
        return os.readv(self.fd_in, [self._room])

    def _push(self, pieces: "List[Bytes]") -> int:
        return os.writev(self.fd_out, pieces)

    def _sent(self, written: int) -> None:
        self.unsent -= written
        while written:
            first = self._outbox.popleft()
            if written < len(first):
                self._outbox.appendleft(memoryview(first)[written:])
                return
            written -= len(first)


class Channel:
    """A connection on this side whose other half goes through the session. It closes by itself."""

    def __init__(self, mux: Mux, number: int, connection: "socket.socket") -> None:
        self.mux, self.number, self.connection = mux, number, connection
        self.fd = connection.fileno()
        self.credit = WINDOW  # bytes that may be sent
        self.owed = 0  # bytes passed on since credit was last given back
        self.sent_end = self.got_end = self.closed = False
        self._reading = self._writing = False
        self._queue = deque()  # type: Deque[Bytes]
        connection.setblocking(False)
        mux.channels[number] = self
        self._listen()

    def pass_on(self, data: memoryview) -> None:
        """Pass data on to the connection; `data` is not kept."""
        if self._writing:
            self._queue.append(bytes(data))
            return
        self._queue.append(data)
        self._write()
        if self._queue:
            self._queue[-1] = bytes(self._queue[-1])

    def take(self, kind: int, payload: bytes) -> None:
        """Take a frame of this channel that is not DATA."""
        if kind == CREDIT:
            self.credit += struct.unpack(">I", payload)[0]
            self._listen()
        else:
            self.got_end = True
            if kind == CLOSE:  # nobody there reads any more what this side says
                self.sent_end = True
                self._listen()
            self._settle()

    def close(self) -> None:
        """Close the connection without a word to the other end."""
        if self.closed:
            return
        self.closed = True
        if self._reading:
            self.mux.poller.on_read(self.fd, None)
        if self._writing:
            self.mux.poller.on_write(self.fd, None)
        self.mux.channels.pop(self.number, None)
        self._queue.clear()
        self.connection.close()

    def fail(self) -> None:
        """Close the connection on both ends."""
        if not self.closed:
            self.close()
            self.mux.send(CLOSE, self.number)

    def _listen(self) -> None:
        want = self.credit > 0 and not self.sent_end and not self.closed
        if want != self._reading and not self.closed:
            self._reading = want
            self.mux.poller.on_read(self.fd, self._read if want else None)

    def _read(self) -> None:
        if self.mux.wait(self.number, self._listen):
            self._reading = False
            self.mux.poller.on_read(self.fd, None)
            return
        try:
            data = self.connection.recv(min(CHUNK, self.credit))
        except BlockingIOError:
            return
        except OSError:
            self.fail()
            return
        if data:
            self.credit -= len(data)
            self.mux.send(DATA, self.number, data)
            if not self.credit:
                self._listen()
        else:
            self.sent_end = True
            self._listen()
            self.mux.send(END, self.number)
            self._settle()

    def _write(self) -> None:
        full = False
        while self._queue and not full:
            first = self._queue[0]
            try:
                written = self.connection.send(first)
            except BlockingIOError:
                full = True
                continue
            except OSError:
                self.fail()
                return
            self.owed += written
            if written < len(first):
                self._queue[0] = memoryview(first)[written:]
            else:
                self._queue.popleft()
        if self.owed >= WINDOW // 4 and not self.got_end:
            self.mux.send(CREDIT, self.number, struct.pack(">I", self.owed))
            self.owed = 0
        if full != self._writing and not self.closed:
            self._writing = full
            self.mux.poller.on_write(self.fd, self._write if full else None)
        self._settle()

    def _settle(self) -> None:
        """Pass on the end after all data; close when both sides have ended."""
        if not self.got_end or self._queue or self.closed:
            return
        if self.sent_end:
            self.close()
            return
        try:
            self.connection.shutdown(socket.SHUT_WR)
        except OSError:  # it is gone, which the next read shows
            pass
