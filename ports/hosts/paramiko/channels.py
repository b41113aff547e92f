"""Channels whose data goes straight to and from a local socket, and the one thread of a connection that moves it.

paramiko's own channel keeps what arrives in an array behind a lock, and another thread has to fetch it from there. Here
its reading thread writes to the local socket itself. It leaves to the I/O thread only what the socket does not take at
once.
"""

from __future__ import annotations

import contextlib
import functools
import selectors
import socket
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko.common import cMSG_CHANNEL_DATA, cMSG_CHANNEL_REQUEST, cMSG_CHANNEL_WINDOW_ADJUST

WINDOW, PACKET = 4 << 20, 32 << 10
_MOST_STDERR = 1 << 20
PROHIBITED, CONNECT_FAILED = 1, 2


class Refusal(paramiko.SSHException):
    """The far side opens no channel, or refuses a request of one: its code and words."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(code, reason)
        self.code, self.reason = code, reason


class IoThread:
    """One thread for all local sockets of a connection; other threads give it work by `do`."""

    def __init__(self, name: str) -> None:
        self._selector = selectors.DefaultSelector()
        self._jobs: deque[Callable[[], None]] = deque()
        self._wake, self._woken = socket.socketpair()
        self._wake.setblocking(False)
        self._woken.setblocking(False)
        self._ended = False
        # a transport holds its channels weakly
        self._channels: set[Channel] = set()
        self._selector.register(self._woken, selectors.EVENT_READ)
        threading.Thread(target=self._run, name=f"io-{name}", daemon=True).start()

    def do(self, job: Callable[[], None]) -> None:
        """Have `job` done soon by this thread; at once, in the caller's thread, when it has ended."""
        if self._ended:
            return self._attempt(job)
        self._jobs.append(job)
        with contextlib.suppress(OSError):  # full: it will wake; closed: the connection has ended
            self._wake.send(b"x")

    def end(self) -> None:
        """Let the thread end, when it has closed all local sockets."""

        def finish() -> None:
            self._ended = True

        self.do(finish)

    def update(self, channel: Channel) -> None:
        """Wait for what `channel` wants now; called in this thread."""
        if self._ended:
            return channel.own.close()
        wanted = channel.wanted()
        known = self._selector.get_map().get(channel.own) if channel.own.fileno() >= 0 else None
        if channel.finished and wanted == 0:
            if known is not None:
                self._selector.unregister(channel.own)
            channel.own.close()
            self._channels.discard(channel)
            return
        self._channels.add(channel)
        if known is None and wanted:
            self._selector.register(channel.own, wanted, channel)
        elif known is not None and not wanted:
            self._selector.unregister(channel.own)
        elif known is not None and known.events != wanted:
            self._selector.modify(channel.own, wanted, channel)

    def _run(self) -> None:
        while not self._ended:
            for key, events in self._selector.select():
                if key.data is None:
                    with contextlib.suppress(OSError):
                        self._woken.recv(4096)
                    while self._jobs:
                        self._attempt(self._jobs.popleft())
                else:
                    self._attempt(functools.partial(self._move, key.data, events))
        for channel in list(self._channels):
            channel.own.close()
        self._channels.clear()
        while self._jobs:
            self._attempt(self._jobs.popleft())
        self._selector.close()
        self._wake.close()
        self._woken.close()

    def _move(self, channel: Channel, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            channel.downstream()
        if events & selectors.EVENT_READ:
            channel.upstream()
        self.update(channel)

    def _attempt(self, job: Callable[[], None]) -> None:
        # one that fails to send fails for all: the transport has ended, and its thread closes the channels
        with contextlib.suppress(EOFError, OSError, paramiko.SSHException):
            job()


# The stubs of paramiko hide what a subclass works with.
_Channel: Any = paramiko.Channel


class Channel(_Channel):  # type: ignore[misc]
    """A channel and its two local sockets: `local`, which is handed out, and `own`, which the I/O thread serves."""

    def __init__(self, chanid: int, transport: Any) -> None:
        super().__init__(chanid)
        self.transport = transport
        self.local, self.own = socket.socketpair()
        self.own.setblocking(False)
        for end in (self.local, self.own):
            if end.family != getattr(socket, "AF_UNIX", None):  # Windows makes its pairs of TCP
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.finished = False
        self._said = bytearray()
        self._gate = threading.Lock()
        self._pending: deque[memoryview] = deque()
        self._deaf = self._stalled = self._source_ended = self._ended_there = self._told = False

    def __del__(self) -> None:
        """Do nothing, where paramiko sends a message from whatever thread collects garbage."""

    @property
    def said(self) -> str:
        """What came on the standard error of the command."""
        return self._said.decode(errors="replace")

    def begin(self) -> None:
        """Let data flow."""
        self.transport.io.do(lambda: self.transport.io.update(self))

    def request(self, kind: str, *parts: str | int, timeout: float) -> None:
        """Ask the far side for `kind`, a command say, and wait until it agrees.

        Raises
        ------
        Refusal
            It does not.
        paramiko.SSHException
            Nothing came within `timeout`, or the connection is lost.
        """
        self._event_pending()
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string(kind)
        message.add_boolean(True)
        for part in parts:
            message.add_int(part) if isinstance(part, int) else message.add_string(part)
        self.transport._send_user_message(message)
        if not self.event.wait(timeout):
            raise paramiko.SSHException(f"no answer within {timeout:g} s")
        if not self.event_ready:
            raise (
                Refusal(0, f"{kind} was refused") if self.transport.active else paramiko.SSHException("connection lost")
            )

    def resize(self, columns: int, rows: int) -> None:
        """Tell the command there how large the terminal is now."""
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_REQUEST)
        message.add_int(self.remote_chanid)
        message.add_string("window-change")
        message.add_boolean(False)
        for number in (columns, rows, 0, 0):
            message.add_int(number)
        self._send_later([message])

    def wanted(self) -> int:
        """Return the events to wait for; I/O thread."""
        write = selectors.EVENT_WRITE if self._pending and not self._deaf else 0
        if self._source_ended or self.closed or self.eof_sent:
            return write
        with self.lock:
            self._stalled = self.out_window_size <= 0
        return write if self._stalled else write | selectors.EVENT_READ

    def upstream(self) -> None:
        """Send what the local side wrote; I/O thread."""
        with self.lock:
            room = 0 if self.closed or self.eof_sent else min(self.out_window_size, self.out_max_packet_size - 64)
        if room <= 0:
            return
        try:
            data = self.own.recv(room)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._source_ended = True
            # where its other end is closed, not only shut down for writing, nobody reads the rest either
            with self._gate:
                self._give(memoryview(b""))
            self.close() if self._deaf else self.shutdown_write()
            return
        with self.lock:
            self.out_window_size -= len(data)
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_DATA)
        message.add_int(self.remote_chanid)
        message.add_string(data)
        self.transport._send_user_message(message)

    def downstream(self) -> None:
        """Hand on what the local socket did not take at once; I/O thread."""
        taken = 0
        with self._gate:
            while self._pending:
                part = self._pending[0]
                sent = self._give(part)
                taken += sent
                if sent < len(part):
                    self._pending[0] = part[sent:]
                    break
                self._pending.popleft()
            self._tell_end()
        self._acknowledge(taken)
        if self._deaf:
            self.close()

    def finish(self) -> None:
        """Close the local socket once it has all that came; I/O thread."""
        with self._gate:
            if self._deaf:
                self._pending.clear()
        self.finished = True
        self.transport.io.update(self)

    # --- what the transport calls, in its thread, which must never wait ---

    def _feed(self, m: Any) -> None:
        data = m if isinstance(m, bytes) else m.get_binary()
        with self._gate:
            sent = 0 if self._pending else self._give(memoryview(data))
            if sent < len(data):
                self._pending.append(memoryview(data)[sent:])
                refresh = len(self._pending) == 1
            else:
                refresh = False
        if refresh:
            self.begin()
        if self._deaf:
            self.transport.io.do(self.close)
        self._acknowledge(sent)

    def _feed_extended(self, m: Any) -> None:
        m.get_int()
        data = m.get_binary()
        if len(self._said) < _MOST_STDERR:
            self._said += data
        self._acknowledge(len(data))

    def _window_adjust(self, m: Any) -> None:
        super()._window_adjust(m)
        if self._stalled:
            self.begin()

    def _handle_eof(self, m: Any) -> None:
        super()._handle_eof(m)
        with self._gate:
            self._ended_there = True
            self._tell_end()

    def _handle_close(self, m: Any) -> None:
        with self.lock:
            messages = self._close_internal()
            self.transport._unlink_channel(self.chanid)
        self._send_later(messages)

    def _request_failed(self, m: Any) -> None:
        with self.lock:
            messages = self._close_internal()
        self._send_later(messages)

    def _set_closed(self) -> None:
        super()._set_closed()
        self.transport.io.do(self.finish)

    def _send_later(self, messages: Any) -> None:
        """Send from the I/O thread: during a change of keys a sender waits for the transport's thread."""
        for message in messages:
            if message is not None:
                self.transport.io.do(functools.partial(self.transport._send_user_message, message))

    def _give(self, data: memoryview) -> int:
        """Write to the local socket, and return how much it took: all, where nobody reads there any more. Gate held."""
        if self._deaf:
            return len(data)
        try:
            return self.own.send(data)
        except BlockingIOError:
            return 0
        except OSError:
            self._deaf = True
            return len(data)

    def _tell_end(self) -> None:
        if self._ended_there and not self._pending and not self._told:
            self._told = True
            with contextlib.suppress(OSError):
                self.own.shutdown(socket.SHUT_WR)

    def _acknowledge(self, n: int) -> None:
        """Give the far side its window back, now and then."""
        more = self._check_add_window(n) if n else 0
        if more:
            message = paramiko.Message()
            message.add_byte(cMSG_CHANNEL_WINDOW_ADJUST)
            message.add_int(self.remote_chanid)
            message.add_int(more)
            self._send_later([message])
