"""What is done over a master connection: commands, forwards, a session at the terminal."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ports.errors import ConnectionLostError, SSHError, ToolMissingError
from ports.hosts.openssh import processes
from ports.hosts.openssh.control_sockets import Master, is_running
from ports.hosts.openssh.errors import explain, is_multiplexing_failure, is_session_refused
from ports.hosts.openssh.liveness import carries, retire
from ports.hosts.openssh.login import client_arguments
from ports.hosts.openssh.masters import connect
from ports.hosts.openssh.ssh_config import config_arguments, program

_SILENT_SECONDS = 2.0


@dataclass(frozen=True)
class Completed:
    """What a command on another host left: its exit status and output."""

    status: int
    output: str
    stderr: str


def run(
    alias: str,
    command: str,
    *,
    input: bytes = b"",
    timeout: float = 60.0,
    batch: bool | None = None,
    repeatable: bool = False,
    on_start: Callable[[], None] | None = None,
) -> Completed:
    """Run a line of the login shell of `alias`, with `input` on its standard input.

    Parameters
    ----------
    command : str
        Read by whatever shell the user has there: keep it to words without quotes.
    timeout : float
        Seconds that the command may take once the connection stands.
    repeatable : bool
        It may be run twice: where a connection turns out to be dead (a laptop slept, a server was restarted), a new one
        is made and the command is run there.
    on_start : callable, optional
        Is called once the command has its `input`, or 64 KiB of it: from then on this process waits.

    Raises
    ------
    SSHError
        There is no way to the host, the connection was lost, or nothing came within `timeout`.
    """
    for attempt in (1, 2):
        master = connect(alias, batch=batch, warm=False)
        try:
            done = _run_over(master, command, input, timeout, on_start)
        except ConnectionLostError as error:
            retire(alias)
            if repeatable and attempt == 1 and not master.fresh:
                continue
            raise ConnectionLostError(alias, error.reason) from error
        if done.status != 255:
            return done
        if is_session_refused(done.stderr):
            raise explain(alias, done.stderr)
        if is_multiplexing_failure(done.stderr) and attempt == 1:
            continue  # the master ended in the moment between; nothing ran
        if not master.is_there():
            raise ConnectionLostError(
                alias, f"the connection was lost; {_last_line(master.said()) or 'run the command again'}"
            )
        return done
    raise SSHError(alias, "the connection ends at once, twice; `ssh -v` to it tells more")


def popen(master: Master, command: str) -> subprocess.Popen[bytes]:
    """Start a line of the login shell over `master`, with pipes; it stays until `end`."""
    arguments = client_arguments(master, ["-T", "--", master.alias, command])
    return processes.start(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, kept=True)


def session(master: Master, command: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Start a line of the login shell over `master`, and return a socket that is its standard input and output.

    It stays until `end`, or until the socket is closed.
    """
    mine, theirs = socket.socketpair()
    with theirs:
        try:
            arguments = client_arguments(master, ["-T", "--", master.alias, command])
            return mine, processes.start(arguments, stdin=theirs.fileno(), stdout=theirs.fileno(), kept=True)
        except BaseException:
            mine.close()
            raise


def end(process: subprocess.Popen[bytes]) -> None:
    """End what `popen` or `session` started."""
    processes.end(process)


def forward(master: Master, forwards: list[tuple[Path, str]]) -> None:
    """Let `master` listen on local Unix sockets, each leading to ``host:port`` or a socket's path there.

    It proves nothing about the far end: a refusal stands in `Master.said` once somebody connects.

    Raises
    ------
    ConnectionLostError
        The master is gone; another `connect` makes a new one.
    SSHError
        A local socket cannot be made.
    """
    before = master.said_bytes()
    done = _control(master, "forward", forwards)
    if done.status:
        if not master.is_there() or is_multiplexing_failure(done.stderr):
            raise ConnectionLostError(master.alias, "the connection was lost; try again")
        raise explain(master.alias, master.said(before) + done.stderr)


def cancel(master: Master, forwards: list[tuple[Path, str]]) -> None:
    """End forwards, and remove the sockets' files, which ssh leaves; what is no longer there is no error."""
    if forwards and is_running(master.control):
        with contextlib.suppress(SSHError):
            _control(master, "cancel", forwards)
    for local, _ in forwards:
        local.unlink(missing_ok=True)


def interactive(alias: str, command: str | None) -> None:
    """Replace this process by a session on `alias` at this terminal: `command`, else the login shell.

    Raises
    ------
    SSHError
        There is no way to the host.
    """
    master = connect(alias, warm=False)
    plain = ["-o", "RemoteCommand=none", "-o", "ClearAllForwardings=yes", "-o", "ControlMaster=no"]
    arguments = [program(), *config_arguments(), "-S", str(master.control), *plain, "-q", "-t"]
    arguments += [*master.host.destination.arguments(), *([command] if command else [])]
    try:
        os.execvp(arguments[0], arguments)
    except FileNotFoundError as error:
        raise ToolMissingError(arguments[0], "install the OpenSSH client") from error


def _run_over(
    master: Master, command: str, input: bytes, timeout: float, on_start: Callable[[], None] | None
) -> Completed:
    arguments = client_arguments(master, ["-T", "--", master.alias, command])
    process = processes.start(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        rest = input[_hand_over(process, input) :]
        if on_start is not None:
            on_start()
        output, stderr = _communicate(process, master, rest, timeout)
    except subprocess.TimeoutExpired as error:
        raise SSHError(
            master.alias, f"did not answer within {timeout:g} s; it is overloaded, or the connection is down"
        ) from error
    finally:
        processes.end(process)
    return Completed(process.returncode, output.decode(errors="replace"), stderr.decode(errors="replace"))


def _hand_over(process: subprocess.Popen[bytes], input: bytes) -> int:
    """Write what fits into the pipe, and return how much that is; `communicate` writes 4 KiB at a time."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):  # it has ended, and has said why
        os.set_blocking(process.stdin.fileno(), False)
        try:
            return os.write(process.stdin.fileno(), input)
        finally:
            os.set_blocking(process.stdin.fileno(), True)
    return 0


def _communicate(process: subprocess.Popen[bytes], master: Master, input: bytes, timeout: float) -> tuple[bytes, bytes]:
    """Return what the process prints; while it is silent, ask whether its connection still carries anything."""
    end, pause = time.monotonic() + timeout, _SILENT_SECONDS
    given: bytes | None = input
    while True:
        left = end - time.monotonic()
        try:
            return process.communicate(given, min(pause, max(left, 0.0)))
        except subprocess.TimeoutExpired:
            if left <= pause:
                raise
        given, pause = None, min(2 * pause, 30.0)
        if not carries(master):
            raise ConnectionLostError(
                master.alias, "the connection was lost: it answers no longer; run the command again"
            )


def _control(master: Master, verb: str, forwards: list[tuple[Path, str]]) -> Completed:
    listed = [word for local, remote in forwards for word in ("-L", f"{local}:{remote}")]
    arguments = client_arguments(master, ["-O", verb, *listed, "--", master.alias])
    process = processes.start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, stderr = process.communicate(timeout=10)
    except subprocess.TimeoutExpired as error:
        raise ConnectionLostError(
            master.alias, "its ssh process does not answer; the connection may be down"
        ) from error
    finally:
        processes.end(process)
    return Completed(process.returncode, output.decode(errors="replace"), stderr.decode(errors="replace"))


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
