"""A connection to a host, by the ssh program or by paramiko in this process: one Protocol that both fulfil."""

from __future__ import annotations

import errno
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol

from ports.errors import ConnectionLostError, PortsError
from ports.hosts._route import Route

if TYPE_CHECKING:
    from concurrent.futures import Future

_PATIENCE = 15.0  # seconds in which a socket with a full queue must take a connection
_AGAIN = 0.005

#: Returns a connected, non-blocking socket that leads to the service, or raises OSError or PortsError.
Dial = Callable[[], Awaitable[socket.socket]]


@dataclass(frozen=True)
class Completed:
    """What a command on another host left: its exit status and output."""

    status: int
    output: str
    stderr: str


class NothingRanError(ConnectionLostError):
    """The connection was lost before the command began: it may be run again, whatever it does."""


class Connection(Protocol):
    """A connection to one host that stands; a new one is made when it no longer carries anything."""

    @property
    def route(self) -> Route:
        """Where it leads, and how."""

    @property
    def is_fresh(self) -> bool:
        """Whether it was made for this use. Another one may be dead: a laptop slept, a server was restarted."""

    @property
    def is_kept(self) -> bool:
        """Whether later commands use it, too; else it ends with this process."""

    def run(
        self, command: str, *, input: bytes = b"", timeout: float = 60.0, on_start: Callable[[], None] | None = None
    ) -> Completed:
        """Run a line of the login shell there, with `input` on its standard input.

        Parameters
        ----------
        command : str
            Read by whatever shell the user has there: keep it to words without quotes.
        timeout : float
            Seconds that the command may take.
        on_start : callable, optional
            Is called once the command has its `input`, or 64 KiB of it: from then on this process waits.

        Raises
        ------
        ConnectionLostError
            The connection carries nothing; that is tested while the command is silent.
        SSHError
            There is no exec channel to be had, or nothing came within `timeout`.
        """

    def interactive(self, command: str | None) -> NoReturn:
        """Become `command`, else the login shell, on the host at this terminal; this process ends with it."""

    def exec_channel(self, command: str) -> socket.socket:
        """Return the standard input and output of a line of the login shell; it stays until `close` or `give_up`."""

    def forward(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Return what connects to each of ``host:port`` as seen from there, or the path of a socket there.

        It proves nothing about the far end: a refusal comes with the first connection, as its error or as `refusal`.

        Raises
        ------
        ConnectionLostError
            The connection is gone; another `connect` makes a new one.
        SSHError
            A local socket cannot be made.
        """

    def dial(self, remote: str, *, timeout: float = 15.0) -> socket.socket:
        """Return a socket that leads to `remote`, as in `forward`; raises SSHError or OSError."""

    def refusal(self, remote: str) -> PortsError | None:
        """Return why `remote` was not connected to, where only the connection knows."""

    def is_there(self) -> bool:
        """Tell whether the connection exists; it may be dead all the same."""

    def is_whole(self) -> bool:
        """Tell whether what it has on this machine, such as sockets in the runtime directory, is still there."""

    def cancel(self, remotes: Iterable[str]) -> None:
        """Undo `forward`; connections that stand go on."""

    def give_up(self) -> None:
        """Leave the connection alone, as it fell silent: the next `connect` makes a new one."""

    def close(self) -> None:
        """Undo what this use opened; the connection stays for later commands where it is kept."""


def to_unix_socket(path: Path) -> Dial:
    """Return what connects to the Unix socket `path`, and waits while too many others do so."""
    import asyncio  # 15 ms, which a command that only asks a host does not need

    async def dial() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            end = time.monotonic() + _PATIENCE
            # not by the loop's own connect: it takes a full queue (EAGAIN) for a connection
            while (code := connection.connect_ex(str(path))) == errno.EAGAIN and time.monotonic() < end:
                await asyncio.sleep(_AGAIN)
            if code:
                raise OSError(code, f"{os.strerror(code)}: {path}")
        except BaseException:
            connection.close()
            raise
        return connection

    return dial


def to_port(remote: str) -> Dial:
    """Return what connects to ``host:port`` from this machine."""
    import asyncio

    async def dial() -> socket.socket:
        host, port = address_of(remote)
        connection = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, (host, port))
        except BaseException:
            connection.close()
            raise
        return connection

    return dial


def address_of(remote: str) -> tuple[str, int]:
    """Return host and port of ``host:port`` or ``[::1]:port``."""
    host, _, port = remote.rpartition(":")
    return host.strip("[]"), int(port)


def by_thread(start: Callable[[], Future[socket.socket]]) -> Dial:
    """Return what waits for a socket that `start` lets a thread connect."""
    import asyncio

    async def dial() -> socket.socket:
        made = await asyncio.wrap_future(start())
        made.setblocking(False)
        return made

    return dial
