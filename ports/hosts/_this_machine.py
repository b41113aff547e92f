"""This machine as a host: what is opened here is reached without ssh."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from ports.errors import PortsError, SSHError
from ports.hosts._connection import Completed, Dial, address_of, to_port, to_unix_socket
from ports.hosts._resolve import is_here
from ports.hosts._route import Route
from ports.hosts.openssh import processes
from ports.state import settings


def host_option(alias: str) -> str:
    """Return what lets a command of `ports` run on `alias`: `` -H alias``, and nothing for this machine itself."""
    return "" if is_here(alias) else f" -H {alias}"


def host_argument(alias: str) -> str:
    """Return what lets ``ports list`` show `alias`: `` alias``, and nothing for this machine itself."""
    return "" if is_here(alias) else f" {alias}"


class LocalConnection:
    """The use of this machine as a host; see `ports.hosts.Connection`."""

    is_fresh, is_kept = True, False

    def __init__(self, route: Route) -> None:
        self.route = route
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self, command: str, *, input: bytes = b"", timeout: float = 60.0, on_start: Callable[[], None] | None = None
    ) -> Completed:
        """Run a line of a shell here."""
        try:
            done = subprocess.run(_shell(command), input=input, capture_output=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired as error:
            raise SSHError(self.route.alias, f"did not answer within {timeout:g} s") from error
        except OSError as error:
            raise self._no_shell(error) from error
        return Completed(done.returncode, done.stdout.decode(errors="replace"), done.stderr.decode(errors="replace"))

    def interactive(self, command: str | None) -> NoReturn:
        """Raise: nobody needs a terminal of this machine in place of the one that is there."""
        raise SSHError(self.route.alias, "is this machine; run the command without -H")

    def exec_channel(self, command: str) -> socket.socket:
        """Start a line of a shell here, and return its standard input and output."""
        try:
            mine, theirs = socket.socketpair()
        except OSError as error:
            raise self._no_shell(error) from error
        with theirs:
            try:
                self._process = subprocess.Popen(
                    _shell(command),
                    stdin=theirs.fileno(),
                    stdout=theirs.fileno(),
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except OSError as error:
                mine.close()
                raise self._no_shell(error) from error
        return mine

    def forward(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Return what connects to each."""
        return {one: to_unix_socket(Path(one)) if one.startswith("/") else to_port(one) for one in remotes}

    def dial(self, remote: str, *, timeout: float = 15.0) -> socket.socket:
        """Return a socket that leads to `remote`."""
        if not remote.startswith("/"):
            return socket.create_connection(address_of(remote), timeout)
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(remote)
        except BaseException:
            connection.close()
            raise
        return connection

    def refusal(self, remote: str) -> PortsError | None:
        """Return None: each connection has its own error."""
        return None

    def is_there(self) -> bool:
        """Return True: this machine is here."""
        return True

    def is_whole(self) -> bool:
        """Return True: nothing is made here."""
        return True

    def cancel(self, remotes: Iterable[str]) -> None:
        """Do nothing: nothing is forwarded."""

    def give_up(self) -> None:
        """End the program that was started."""
        self.close()

    def close(self) -> None:
        """End the program that was started."""
        process, self._process = self._process, None
        if process is not None:
            processes.end(process)

    def _no_shell(self, error: OSError) -> SSHError:
        return SSHError(self.route.alias, f"no shell can be started on this machine ({error.strerror or error})")


def _shell(command: str) -> list[str]:
    # where there is no python3 on the PATH, the one that runs this will do
    path = f"{settings.variable('PATH') or os.defpath}:{Path(sys.executable).parent}"
    return ["/usr/bin/env", f"PATH={path}", "/bin/sh", "-c", command]
