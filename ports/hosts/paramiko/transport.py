"""paramiko's transport, made to carry channels: fast ciphers first, a reason for each refusal, a test of its life."""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import paramiko
from paramiko import common

from ports.hosts.paramiko.channels import PACKET, WINDOW, Channel, IoThread, Refusal

# Without a handler Python prints what paramiko logs; what matters of it becomes an error.
logging.getLogger("paramiko").addHandler(logging.NullHandler())

_CIPHERS = ("aes128-gcm@openssh.com", "aes256-gcm@openssh.com", "aes128-ctr", "aes192-ctr", "aes256-ctr")
_BUFFER = 256 << 10


class Stream:
    """A socket as a transport reads it, with fewer system calls: two small reads for a packet become one for many.

    Parameters
    ----------
    via : Channel, optional
        The channel behind `connection`: what is sent goes there at once, one thread fewer on its way.
    """

    def __init__(self, connection: socket.socket, via: Channel | None) -> None:
        self._socket = connection
        self._send: Callable[[bytes], int] = connection.send if via is None else via.send
        self._buffer = memoryview(bytearray(_BUFFER))
        self._start = self._end = 0
        self._closed = False
        self.heard = time.monotonic()

    def recv(self, n: int) -> bytes:
        """Return up to `n` bytes."""
        if self._start == self._end:
            self._start, self._end = 0, self._socket.recv_into(self._buffer)
            self.heard = time.monotonic()
        start, self._start = self._start, min(self._start + n, self._end)
        return bytes(self._buffer[start : self._start])

    def send(self, data: bytes) -> int:
        """Send some of `data`."""
        return self._send(data)

    def settimeout(self, timeout: float | None) -> None:
        """Let `recv` and `send` wait so long."""
        self._socket.settimeout(timeout)

    def getpeername(self) -> Any:
        """Return the address of the other end."""
        return self._socket.getpeername()

    def close(self) -> None:
        """Close, and wake whoever reads or writes."""
        self._closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


# The stubs of paramiko hide what a subclass works with.
_Transport: Any = paramiko.Transport


class Transport(_Transport):  # type: ignore[misc]
    """A transport over a connected socket."""

    # paramiko's own table holds the functions of its own channel, not their names
    _channel_handler_table = {
        common.MSG_CHANNEL_SUCCESS: Channel._request_success,
        common.MSG_CHANNEL_FAILURE: Channel._request_failed,
        common.MSG_CHANNEL_DATA: Channel._feed,
        common.MSG_CHANNEL_EXTENDED_DATA: Channel._feed_extended,
        common.MSG_CHANNEL_WINDOW_ADJUST: Channel._window_adjust,
        common.MSG_CHANNEL_REQUEST: Channel._handle_request,
        common.MSG_CHANNEL_EOF: Channel._handle_eof,
        common.MSG_CHANNEL_CLOSE: Channel._handle_close,
    }

    def __init__(self, connection: socket.socket, name: str, *, timeout: float, via: Channel | None = None) -> None:
        if connection.family != getattr(socket, "AF_UNIX", None):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.stream = Stream(connection, via)
        super().__init__(self.stream, default_window_size=WINDOW)
        self.name = name
        self.io = IoThread(name)
        self.banner_timeout = self.handshake_timeout = self.auth_timeout = timeout
        options = self.get_security_options()
        options.ciphers = [one for one in _CIPHERS if one in options.ciphers]
        self._refusals: dict[int, Refusal] = {}
        self._answered = threading.Condition()
        self._asked = self._answers = 0
        #: The server said good-bye, as after too many attempts to log in; without, it was the network.
        self.is_dismissed = False
        #: What it said then.
        self.last_words = ""

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """The kinds of host keys to ask for: no certificates, which paramiko does not check."""
        return tuple(self._filter_algorithm("keys"))

    def relax(self) -> None:
        """Stop waking ten times a second: the login is over, and nothing has a limit that only a read can keep."""
        self.stream.settimeout(None)
        self.__dict__.pop("_send_message", None)

    def auth_none(self, username: str) -> Any:
        """Log in without a credential, which shows the methods that the server accepts."""
        try:
            return super().auth_none(username)
        except paramiko.BadAuthenticationType:
            self._request_logins_no_more()
            raise

    def _request_logins_no_more(self) -> None:
        """Send the requests for further logins without another request for that service, which is accepted.

        paramiko sends one before each. OpenSSH takes them all; asyncssh ends the connection: "Unexpected service".
        """
        send: Callable[[paramiko.Message], None] = super()._send_message

        def send_once(message: paramiko.Message) -> None:
            if message.asbytes()[:1] != common.cMSG_SERVICE_REQUEST:
                send(message)
                return
            # in a thread: an agent can wait for a person, and the login has a time limit
            threading.Thread(target=self._take_accepted, args=(self.auth_handler,), daemon=True).start()

        self._send_message = send_once

    def _take_accepted(self, handler: Any) -> None:
        """Let `handler` go on as if the server had accepted the service again; an error is the login's."""
        accepted = paramiko.Message()
        accepted.add_string("ssh-userauth")
        accepted.rewind()
        try:
            handler._parse_service_accept(accepted)
        except Exception as error:  # noqa: BLE001 - raised again in the thread that waits
            self.saved_exception = error
            handler.abort()

    def new_channel(self, kind: str, *target: str | int, timeout: float) -> Channel:
        """Return a new channel.

        Raises
        ------
        Refusal
            The far side does not open it.
        paramiko.SSHException, EOFError
            The connection is lost, or nothing came within `timeout`.
        """
        with self.lock:
            chanid = self._next_channel()
            channel = Channel(chanid, self)
            self._channels.put(chanid, channel)
            event = self.channel_events[chanid] = threading.Event()
            self.channels_seen[chanid] = True
            channel._set_transport(self)
            channel._set_window(WINDOW, PACKET)
        message = paramiko.Message()
        message.add_byte(common.cMSG_CHANNEL_OPEN)
        message.add_string(kind)
        for number in (chanid, WINDOW, PACKET):
            message.add_int(number)
        for part in target:
            message.add_int(part) if isinstance(part, int) else message.add_string(part)
        try:
            self._send_user_message(message)
            answered = event.wait(timeout) if self.active else True
            if refusal := self._refusals.pop(chanid, None):
                raise refusal
            if not answered:
                raise paramiko.SSHException(f"no answer within {timeout:g} s")
            if not channel.active or channel.closed or not self.active:
                raise self.get_exception() or paramiko.SSHException("the connection was lost")
        except BaseException:
            channel.local.close()
            channel.own.close()
            # an answer that comes too late is for nobody: the far side learns it when the connection ends
            raise
        return channel

    def answers(self, timeout: float) -> bool:
        """Tell whether the far side answers within `timeout`; what it sends by itself counts too."""
        start = time.monotonic()
        with self._answered:
            self._asked += 1
            number = self._asked
        # in the I/O thread: a send waits while the network takes nothing
        self.io.do(self._ask)
        with self._answered:
            self._answered.wait_for(lambda: self._answers >= number or not self.active, timeout)
        return bool(self.active) and (self._answers >= number or self.stream.heard > start)

    def close(self) -> None:
        """End the connection and all its channels."""
        super().close()
        self.stream.close()
        with self._answered:
            self._answered.notify_all()
        self.io.end()

    def run(self) -> None:
        """Serve the connection until it ends: the transport's thread."""
        try:
            super().run()
        finally:
            with self._answered:
                self._answered.notify_all()
            self.io.end()

    def _ask(self) -> None:
        message = paramiko.Message()
        message.add_byte(common.cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        self._send_user_message(message)

    def _note_answer(self) -> None:
        with self._answered:
            self._answers += 1
            self._answered.notify_all()

    def _parse_request_success(self, m: Any) -> None:
        self._note_answer()

    def _parse_request_failure(self, m: Any) -> None:
        self._note_answer()

    def _parse_disconnect(self, m: Any) -> None:
        m.get_int()
        self.is_dismissed, self.last_words = True, m.get_text()

    def _parse_channel_open_failure(self, m: Any) -> None:
        chanid, code, reason = m.get_int(), m.get_int(), m.get_text()
        with self.lock:
            event = self.channel_events.pop(chanid, None)
            self._channels.delete(chanid)
        if event is not None:
            # of several that are refused at once each gets its own; paramiko keeps only the last one
            self._refusals[chanid] = Refusal(code, reason)
            event.set()

    def _unlink_channel(self, chanid: int) -> None:
        super()._unlink_channel(chanid)
        self.channels_seen.pop(chanid, None)
