"""The use of this process's connection to a host, as `ports.hosts.Connection` describes it."""

from __future__ import annotations

import contextlib
import functools
import socket
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NoReturn

from ports.errors import ConnectionLostError, PortsError
from ports.hosts._connection import Completed, Dial, by_thread
from ports.hosts._prompts import taking_terminal
from ports.hosts._route import Route
from ports.hosts.paramiko.connect import close_all
from ports.hosts.paramiko.shared_connection import SharedConnection
from ports.hosts.paramiko.terminal import interact
from ports.state import settings

_DIALS = 64  # connections that are being made at once to one host


class ParamikoConnection:
    """The use of a connection that lives in this process; see `ports.hosts.Connection`."""

    is_kept = is_fresh = False

    def __init__(self, route: Route, shared: SharedConnection) -> None:
        self.route, self.shared = route, shared
        self._channel: socket.socket | None = None
        # each dial waits in a thread, up to the timeout; the default executor of few processors has six
        self._dialling = ThreadPoolExecutor(max_workers=_DIALS, thread_name_prefix=f"dial-{route.alias}")

    def run(
        self, command: str, *, input: bytes = b"", timeout: float = 60.0, on_start: Callable[[], None] | None = None
    ) -> Completed:
        """Run a line of the login shell there."""
        return self.shared.run(command, input=input, timeout=timeout, on_start=on_start)

    def interactive(self, command: str | None) -> NoReturn:
        """Relay between this terminal and a command there, and end this process with its status."""
        with taking_terminal():
            status = interact(self.shared, command, kind=settings.variable("TERM") or "xterm")
        close_all()
        raise SystemExit(status)

    def exec_channel(self, command: str) -> socket.socket:
        """Return the standard input and output of a line of the login shell there."""
        self._channel = self.shared.exec_channel(command)
        return self._channel

    def forward(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Open a channel for each connection; one that is refused says why itself."""
        return {one: by_thread(functools.partial(self._start_dial, one)) for one in remotes}

    def dial(self, remote: str, *, timeout: float = 15.0) -> socket.socket:
        """Return a socket that leads to `remote`."""
        return self.shared.dial(remote, timeout=timeout)

    def refusal(self, remote: str) -> PortsError | None:
        """Return None: the refusal was raised."""
        return None

    def is_there(self) -> bool:
        """Tell whether the connection exists."""
        return self.shared.is_there()

    def is_whole(self) -> bool:
        """Tell whether what it has on this machine is still there: it has nothing outside of this process."""
        return True

    def cancel(self, remotes: Iterable[str]) -> None:
        """Do nothing: each channel belongs to one connection."""

    def give_up(self) -> None:
        """End the connection; no other process can still use it."""
        self.shared.close()
        self._dialling.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the exec channel; the connection serves other uses in this process."""
        if self._channel is not None:
            with contextlib.suppress(OSError):  # whoever has it closes it
                self._channel.shutdown(socket.SHUT_RDWR)
        self._dialling.shutdown(wait=False, cancel_futures=True)

    def _start_dial(self, remote: str) -> Future[socket.socket]:
        try:
            return self._dialling.submit(self.shared.dial, remote)
        except RuntimeError as error:  # for a connection that was accepted while this was closed
            raise ConnectionLostError(self.route.alias, "the connection was closed") from error
