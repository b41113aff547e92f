"""A connection of the ssh program: what is done over a master, which other processes share."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from ports.errors import ConnectionLostError, PortsError, ProhibitedError, SSHError, ToolMissingError
from ports.hosts import _wording
from ports.hosts._connection import Completed, Dial, NothingRanError, to_unix_socket
from ports.hosts._route import Route
from ports.hosts.openssh import ends, liveness, processes
from ports.hosts.openssh.control_sockets import Master, client_arguments, is_running
from ports.hosts.openssh.errors import explain, explain_forward, is_multiplexing_failure, is_session_refused
from ports.hosts.openssh.ssh_config import config_arguments, program
from ports.state import runtime_directory

_SILENT_SECONDS = 2.0
#: What a command at a terminal needs, whatever the configuration says.
_OF_A_TERMINAL = {"stdinnull": "no", "sessiontype": "default", "forkafterauthentication": "no"}


class SSHConnection:
    """The use of a master connection by this process; see `ports.hosts.Connection`."""

    is_kept = True

    def __init__(self, route: Route, master: Master) -> None:
        self.route, self.master, self.is_fresh = route, master, master.fresh
        self._forwards: dict[str, Path] = {}
        self._said = master.said_bytes()
        self._process: subprocess.Popen[bytes] | None = None

    def run(
        self, command: str, *, input: bytes = b"", timeout: float = 60.0, on_start: Callable[[], None] | None = None
    ) -> Completed:
        """Run a line of the login shell; a master that ended in the moment between raises NothingRanError."""
        alias = self.route.alias
        done = self._run(command, input, timeout, on_start)
        if done.status != 255:
            return done
        if is_session_refused(done.stderr):
            raise explain(alias, done.stderr)
        if is_multiplexing_failure(done.stderr):
            raise NothingRanError(alias, f"the connection ended at once, twice; `ssh -v {alias}` shows more")
        if not self.is_there():
            last = ([line.strip() for line in self.master.said().splitlines() if line.strip()] or [""])[-1]
            raise ConnectionLostError(alias, f"the connection was lost; {last or 'run the command again'}")
        return done

    def interactive(self, command: str | None) -> NoReturn:
        """Replace this process by ssh at this terminal."""
        plain = ["-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", "-o", "ControlMaster=no"]
        for key, value in _OF_A_TERMINAL.items():
            if self.master.hop.values(key):  # an ssh before 8.7 refuses to hear of it
                plain += ["-o", f"{key}={value}"]
        arguments = [program(), *config_arguments(), "-S", str(self.master.control), *plain, "-q", "-t"]
        arguments += [*self.master.hop.arguments, *([command] if command else [])]
        try:
            os.execvp(arguments[0], arguments)
        except FileNotFoundError as error:
            raise ToolMissingError(arguments[0], "install the OpenSSH client") from error

    def exec_channel(self, command: str) -> socket.socket:
        """Start a line of the login shell in an ssh of its own, and return its standard input and output."""
        mine, theirs = socket.socketpair()
        with theirs:
            try:
                arguments = client_arguments(self.master, ["-T", "--", self.master.alias, command])
                self._process = processes.start(arguments, stdin=theirs.fileno(), stdout=theirs.fileno(), kept=True)
            except BaseException:
                mine.close()
                raise
        return mine

    def forward(self, remotes: Iterable[str]) -> dict[str, Dial]:
        """Let the master forward a Unix socket here to each; a refusal comes with the first connection only."""
        wanted = list(dict.fromkeys(remotes))
        # not numbered: after a reboot a process may have the number of one that was killed, and left its sockets
        new = {one: _new_socket() for one in wanted if one not in self._forwards}
        self._forwards.update(new)  # before the forward: `close` cancels what may not be there yet
        if new:
            try:
                self._request_forwards(new)
            except BaseException:
                self.cancel(new)
                raise
        return {one: to_unix_socket(self._forwards[one]) for one in wanted}

    def dial(self, remote: str, *, timeout: float = 15.0) -> socket.socket:
        """Return a socket that leads to `remote`, through a forward."""
        self.forward([remote])
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.settimeout(timeout)
            connection.connect(str(self._forwards[remote]))
        except BaseException:
            connection.close()
            raise
        return connection

    def refusal(self, remote: str) -> PortsError | None:
        """Return what sshd said of a connection that was refused, which only the master's stderr contains."""
        if self.master.users:  # its stderr is the user's: the other method shows whether the service is there
            reason = f"nothing comes from {remote} through your own connection (ControlMaster)"
            return ProhibitedError(self.route.alias, reason)
        return explain_forward(self.route.alias, remote, self.master.said(self._said))

    def is_there(self) -> bool:
        """Tell whether the master runs."""
        return self.master.is_there()

    def cancel(self, remotes: Iterable[str]) -> None:
        """Cancel forwards and remove their sockets, which ssh leaves; connections through them go on."""
        # another thread may cancel the same
        gone = [(local, one) for one in list(remotes) if (local := self._forwards.pop(one, None)) is not None]
        if gone and is_running(self.master.control):
            with contextlib.suppress(SSHError):
                self._control("cancel", gone)
        for local, _ in gone:
            local.unlink(missing_ok=True)

    def give_up(self) -> None:
        """Let the next connection be made beside this one, which may recover or ends by itself."""
        self._end_process()
        with contextlib.suppress(PortsError, OSError):
            ends.retire(self.route)
        self.cancel(list(self._forwards))

    def close(self) -> None:
        """Cancel the forwards and end the exec channel; the master stays for later commands."""
        self._end_process()
        self.cancel(list(self._forwards))
        if not self.master.users and not self.master.control.exists():  # no later command can use it
            ends.end_orphans(hop.key for hop in self.route.hops)

    def is_whole(self) -> bool:
        """Tell whether its sockets on this machine are still there."""
        return self.master.control.exists() and all(path.exists() for path in list(self._forwards.values()))

    def _end_process(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            processes.end(process)

    def _run(self, command: str, input: bytes, timeout: float, on_start: Callable[[], None] | None) -> Completed:
        arguments = client_arguments(self.master, ["-T", "--", self.master.alias, command])
        process = processes.start(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            rest = input[_write_some(process, input) :]
            if on_start is not None:
                on_start()
            output, stderr = self._communicate(process, rest, timeout)
        except subprocess.TimeoutExpired as error:
            reason = f"did not answer within {timeout:g} s; {_wording.SLOW_ANSWER}"
            raise SSHError(self.route.alias, reason) from error
        finally:
            processes.end(process)
        return Completed(process.returncode, output.decode(errors="replace"), stderr.decode(errors="replace"))

    def _communicate(self, process: subprocess.Popen[bytes], input: bytes, timeout: float) -> tuple[bytes, bytes]:
        """Return what the process prints; while it is silent, test whether its connection is dead."""
        end, pause = time.monotonic() + timeout, _SILENT_SECONDS
        given: bytes | None = input
        while True:
            left = end - time.monotonic()
            try:
                return process.communicate(given, min(pause, max(left, 0.0)))
            except subprocess.TimeoutExpired:
                if left <= pause:
                    raise
            except KeyboardInterrupt:
                if process.poll() == 0:  # Popen waits 0.25 s after Ctrl-C: what was answered meanwhile was done there
                    return process.communicate(timeout=1)
                raise
            given, pause = None, min(2 * pause, 30.0)
            if not liveness.carries(self.master):
                raise ConnectionLostError(self.route.alias, _wording.DEAD)

    def _request_forwards(self, forwards: dict[str, Path]) -> None:
        before = self.master.said_bytes()
        done = self._control("forward", [(local, remote) for remote, local in forwards.items()])
        if done.status:
            if not self.is_there() or is_multiplexing_failure(done.stderr):
                raise ConnectionLostError(self.route.alias, "the connection was lost; try again")
            raise explain(self.route.alias, self.master.said(before) + done.stderr)

    def _control(self, verb: str, forwards: list[tuple[Path, str]]) -> Completed:
        listed = [word for local, remote in forwards for word in ("-L", f"{local}:{remote}")]
        arguments = client_arguments(self.master, ["-O", verb, *listed, "--", self.master.alias])
        process = processes.start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            output, stderr = process.communicate(timeout=10)
        except subprocess.TimeoutExpired as error:
            reason = "its ssh process does not answer; the connection may be down"
            raise ConnectionLostError(self.route.alias, reason) from error
        finally:
            processes.end(process)
        return Completed(process.returncode, output.decode(errors="replace"), stderr.decode(errors="replace"))


def _new_socket() -> Path:
    return runtime_directory() / f"t{os.getpid()}-{os.urandom(4).hex()}.sock"


def _write_some(process: subprocess.Popen[bytes], input: bytes) -> int:
    """Write what fits into the pipe, and return how much that is; `communicate` writes 4 KiB at a time."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has ended, and has said why
        os.set_blocking(process.stdin.fileno(), False)
        try:
            return os.write(process.stdin.fileno(), input)
        finally:
            os.set_blocking(process.stdin.fileno(), True)
    return 0
