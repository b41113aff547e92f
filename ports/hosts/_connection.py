"""What carries connections to one host: a master connection of the ssh program, or paramiko in this process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import socket
import subprocess
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

from ports.errors import ConnectionLostError, PortsError, ProhibitedError
from ports.hosts import _transport, openssh
from ports.state import runtime_directory

_DIALS = 64  # connections that are being made at once, by paramiko to one host

#: Returns a connected, non-blocking socket that leads to the service, or raises OSError or PortsError.
Dial = Callable[[], Awaitable[socket.socket]]


def to_unix_socket(path: Path) -> Dial:
    """Return what connects to the Unix socket `path`."""

    async def dial() -> socket.socket:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.setblocking(False)
            await asyncio.get_running_loop().sock_connect(connection, str(path))
        except BaseException:
            connection.close()
            raise
        return connection

    return dial


class Carrier(Protocol):
    """A connection to one host that stands; a new one is made when it no longer carries anything."""

    def session(self, command: str) -> socket.socket:
        """Return what is standard input and output of a command there."""

    def lead(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Return what connects to each of ``host:port`` or a socket's path there."""

    def refusal(self, remote: str) -> PortsError | None:
        """Return why `remote` was not connected to, where that is known."""

    def is_there(self) -> bool:
        """Tell whether the connection exists; whether it still carries anything is another question."""

    def take_back(self, remotes: Iterable[str]) -> None:
        """Connect to these no more."""

    def give_up(self) -> None:
        """Leave the connection to itself: it fell silent."""

    def close(self) -> None:
        """Take back what was opened; the connection stays for later commands."""


def connect(alias: str, *, batch: bool | None, timeout: float | None = None) -> Carrier:
    """Return a connection to `alias`, by the transport of the settings.

    Parameters
    ----------
    timeout : float, optional
        Seconds that it may take. Default: the settings'.

    Raises
    ------
    SSHError
        There is no way to the host, or none within `timeout` seconds.
    """
    kind = SSH if _transport.choose_transport() == "ssh" else InProcess
    return kind(alias, batch=batch, timeout=timeout)


class SSH:
    """The master connection of the ssh program to `alias`, shared with other processes; made where there is none."""

    def __init__(self, alias: str, *, batch: bool | None, timeout: float | None) -> None:
        self.alias = alias
        self._master = openssh.connect(alias, batch=batch, warm=False, timeout=timeout)
        self._forwards: dict[str, Path] = {}
        self._said = self._master.said_bytes()
        self._process: subprocess.Popen[bytes] | None = None

    def session(self, command: str) -> socket.socket:
        """Return what is standard input and output of a command there."""
        mine, self._process = openssh.session(self._master, command)
        return mine

    def lead(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Let the master forward a Unix socket here to each."""
        wanted = list(dict.fromkeys(remotes))
        new = {one: self._new_socket() for one in wanted if one not in self._forwards}
        self._forwards.update(new)  # before the forward: `close` takes back what may not be there yet
        if new:
            try:
                openssh.forward(self._master, [(local, remote) for remote, local in new.items()])
            except BaseException:
                self.take_back(new)
                raise
        return {one: to_unix_socket(self._forwards[one]) for one in wanted}

    def refusal(self, remote: str) -> PortsError | None:
        """Return what sshd said of a connection that was refused; it stands on the master's stderr only."""
        if self._master.users:  # whose stderr is the user's: the other door tells whether the service is there
            return ProhibitedError(self.alias, f"nothing comes from {remote} through your own connection there")
        return openssh.explain_forward(self.alias, remote, self._master.said(self._said))

    def is_there(self) -> bool:
        """Tell whether the master runs."""
        return self._master.is_there()

    def take_back(self, remotes: Iterable[str]) -> None:
        """Cancel forwards; connections through them go on."""
        gone = [(self._forwards.pop(one, None), one) for one in list(remotes)]  # another thread may take it back, too
        openssh.cancel(self._master, [(local, one) for local, one in gone if local is not None])

    def give_up(self) -> None:
        """Let the next connection be made beside this one, which may still recover or ends by itself."""
        self._end_session()
        with contextlib.suppress(PortsError, OSError):
            openssh.retire(self.alias)
        self.take_back(list(self._forwards))  # what goes through them goes on

    def close(self) -> None:
        """Cancel the forwards and end the session."""
        self._end_session()
        self.take_back(list(self._forwards))

    def _end_session(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            openssh.end(process)

    def _new_socket(self) -> Path:
        # not numbered: after a reboot a process may have the number of one that was killed, and left its sockets
        return runtime_directory() / f"t{os.getpid()}-{secrets.token_hex(4)}.sock"


class InProcess:
    """The connection of this process to `alias` by paramiko."""

    def __init__(self, alias: str, *, batch: bool | None, timeout: float | None) -> None:
        self.alias = alias
        self._connection = _transport.connection(alias, batch=batch, timeout=timeout)
        self._session: socket.socket | None = None
        # each dial waits in a thread, up to the timeout; the default executor of few processors has six
        self._dialling = ThreadPoolExecutor(max_workers=_DIALS, thread_name_prefix=f"dial-{alias}")

    def session(self, command: str) -> socket.socket:
        """Return what is standard input and output of a command there."""
        self._session = self._connection.session(command)
        return self._session

    def lead(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Open a channel for each connection; one that is refused says why itself."""

        def to(remote: str) -> Dial:
            async def dial() -> socket.socket:
                try:
                    dialled = self._dialling.submit(self._connection.dial, remote)
                except RuntimeError as error:  # a connection that was taken in while this was closed
                    raise ConnectionLostError(self.alias, "the connection was closed") from error
                made = await asyncio.wrap_future(dialled)
                made.setblocking(False)
                return made

            return dial

        return {one: to(one) for one in remotes}

    def refusal(self, remote: str) -> PortsError | None:
        """Return None: the refusal was raised."""
        return None

    def is_there(self) -> bool:
        """Tell whether the connection exists."""
        return self._connection.is_there()

    def take_back(self, remotes: Iterable[str]) -> None:
        """Do nothing: a channel is opened for each connection only."""

    def give_up(self) -> None:
        """End the connection; there is no other process that it could still serve."""
        self._connection.close()
        self._dialling.shutdown(wait=False, cancel_futures=True)

    def close(self) -> None:
        """End the session; the connection serves other uses in this process."""
        if self._session is not None:
            self._session.close()
        self._dialling.shutdown(wait=False, cancel_futures=True)
