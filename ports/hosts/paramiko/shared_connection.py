"""A connection of this process to a host: commands, and channels to ports and sockets there."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
import time
from collections.abc import Callable

from ports.errors import ConnectionLostError, SSHError
from ports.hosts import _wording
from ports.hosts._connection import Completed
from ports.hosts._route import Hop
from ports.hosts.paramiko.channels import Channel
from ports.hosts.paramiko.errors import FAILURES, explain_dial, explain_exec
from ports.hosts.paramiko.transport import Transport

_OPEN_TIMEOUT = 15.0
_SILENT_SECONDS, _ANSWER_SECONDS = 2.0, 3.0


class SharedConnection:
    """A connection that was logged in; it lives as long as this process, or until `close`. Threads may share it.

    Attributes
    ----------
    hop : Hop
        The host that it leads to.
    """

    def __init__(self, transport: Transport, hop: Hop, *, on_close: Callable[[], None]) -> None:
        self.transport, self.hop = transport, hop
        self._on_close = on_close
        self._closed = threading.Lock()

    @property
    def alias(self) -> str:
        """How the user calls the host."""
        return self.hop.alias

    def run(
        self, command: str, *, input: bytes = b"", timeout: float = 60.0, on_start: Callable[[], None] | None = None
    ) -> Completed:
        """Run a line of the login shell there, with `input` on its standard input; `on_start` when it was started.

        Raises
        ------
        ConnectionLostError
            The connection carries nothing any more; that is asked while the command is silent.
        SSHError
            There is no exec channel to be had, or nothing came within `timeout` seconds.
        """
        end = time.monotonic() + timeout
        channel = self.start(command)
        if on_start is not None:
            on_start()
        with channel.local as local:
            output = self._exchange(local, input, end)
            channel.status_event.wait(max(0.0, min(_ANSWER_SECONDS, end - time.monotonic())))
        if channel.exit_status < 0 and not self.transport.is_active():
            raise self._lost()
        status = 255 if channel.exit_status < 0 else channel.exit_status  # ended by a signal: as ssh has it
        return Completed(status, output.decode(errors="replace"), channel.said)

    def exec_channel(self, command: str) -> socket.socket:
        """Return a socket that is the standard input and output of a line of the login shell there.

        Closing it ends both; the command gets no other signal. Raises as `run`.
        """
        return self.start(command).local

    def terminal(self, command: str | None, kind: str, columns: int, rows: int) -> Channel:
        """Start `command`, else the login shell, on a terminal of its own there; raises as `run`."""
        return self.start(command, ("pty-req", kind, columns, rows, 0, 0, ""))

    def dial(self, remote: str, *, timeout: float = _OPEN_TIMEOUT) -> socket.socket:
        """Return a socket that leads to `remote`: ``host:port`` as seen from there, or the path of a socket there.

        Raises
        ------
        RefusedError
            Nothing listens there.
        ProhibitedError
            The sshd there may not forward to it; of a Unix socket it may also mean that none listens.
        ConnectionLostError
            The connection is lost.
        """
        try:
            if remote.startswith("/"):
                channel = self.transport.new_channel("direct-streamlocal@openssh.com", remote, "", 0, timeout=timeout)
            else:
                channel = self._dial_port(remote, timeout)
        except FAILURES as error:
            raise explain_dial(self.alias, remote, error) from error
        channel.begin()
        return channel.local

    def is_there(self) -> bool:
        """Tell whether the connection exists; `is_alive` tests whether it is dead."""
        return bool(self.transport.is_active())

    def is_alive(self, timeout: float = _ANSWER_SECONDS) -> bool:
        """Tell whether the host answers over this connection within `timeout` seconds; the request goes all the way."""
        return self.transport.answers(timeout)

    def close(self) -> None:
        """End the connection and all that uses it."""
        if self._closed.acquire(blocking=False):
            self.transport.close()
            self._on_close()

    def warm(self) -> None:
        """Run a command in the background: without one, sshd never sets TCP_NODELAY, and lock-step requests stall."""

        def run() -> None:
            with contextlib.suppress(SSHError):
                self.run("true", timeout=10)

        threading.Thread(target=run, name=f"warm-{self.alias}", daemon=True).start()

    def _dial_port(self, remote: str, timeout: float) -> Channel:
        host, _, port = remote.rpartition(":")
        return self.transport.new_channel("direct-tcpip", host.strip("[]"), int(port), "127.0.0.1", 0, timeout=timeout)

    def start(self, command: str | None, *requests: tuple[str | int, ...]) -> Channel:
        """Start `command`, else the login shell, once each of `requests` was granted; raises as `run`."""
        try:
            channel = self.transport.new_channel("session", timeout=_OPEN_TIMEOUT)
            try:
                for kind, *parts in requests:
                    channel.request(str(kind), *parts, timeout=_OPEN_TIMEOUT)
                last = ("shell",) if command is None else ("exec", command)
                channel.request(*last, timeout=_OPEN_TIMEOUT)
            except BaseException:
                channel.local.close()
                channel.close()
                raise
        except FAILURES as error:
            raise explain_exec(self.alias, error) from error
        channel.begin()
        return channel

    def _exchange(self, local: socket.socket, input: bytes, end: float) -> bytes:
        """Write `input` and return all that is read; while nothing comes, test whether the connection is dead."""
        output, left, pause = bytearray(), memoryview(input), _SILENT_SECONDS
        local.setblocking(False)
        with selectors.DefaultSelector() as selector:
            selector.register(local, selectors.EVENT_READ | (selectors.EVENT_WRITE if left else 0))
            if not left:
                local.shutdown(socket.SHUT_WR)
            while True:
                patience = min(pause, end - time.monotonic())
                if patience <= 0:
                    reason = f"did not answer within its time; {_wording.SLOW_ANSWER}"
                    raise SSHError(self.alias, reason)
                events = selector.select(patience)
                if not events:
                    pause = min(2 * pause, 30.0)
                    if not self.is_alive():
                        raise self._lost()
                for _, event in events:
                    if event & selectors.EVENT_READ:
                        data = local.recv(1 << 18)
                        if not data:
                            return bytes(output)
                        output += data
                    elif event & selectors.EVENT_WRITE:
                        left = left[_send(local, left) :]
                        if not left:
                            selector.modify(local, selectors.EVENT_READ)
                            with contextlib.suppress(OSError):
                                local.shutdown(socket.SHUT_WR)

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(self.alias, _wording.DEAD)


def _send(local: socket.socket, data: memoryview) -> int:
    try:
        return local.send(data)
    except BlockingIOError:
        return 0
    except OSError:
        return len(data)  # nobody reads it any more: what the command says tells why
