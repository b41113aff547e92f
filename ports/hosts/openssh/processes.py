"""The ssh processes that this process started, and their end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from typing import IO

from ports.errors import TimedOutError, ToolMissingError

_live: set[subprocess.Popen[bytes]] = set()
_lock = threading.Lock()


def start(
    arguments: list[str],
    *,
    stdin: int = subprocess.DEVNULL,
    stdout: int = subprocess.DEVNULL,
    stderr: int | IO[bytes] | None = subprocess.DEVNULL,
    own_session: bool = True,
    kept: bool = False,
) -> subprocess.Popen[bytes]:
    """Start a process that `end_all` ends unless it is `kept`.

    It has a session of its own, so that Ctrl-C in the terminal is ours to handle.

    Raises
    ------
    ToolMissingError
        There is no such program.
    """
    try:
        process = subprocess.Popen(arguments, stdin=stdin, stdout=stdout, stderr=stderr, start_new_session=own_session)
    except (FileNotFoundError, PermissionError) as error:  # EACCES: a directory of PATH that may not be read
        raise ToolMissingError(arguments[0], "install the OpenSSH client (`apt install openssh-client`)") from error
    if not kept:
        with _lock:
            _live.add(process)
    return process


def forget(process: subprocess.Popen[bytes]) -> None:
    """Leave the process alone from now on: it has ended."""
    with _lock:
        _live.discard(process)


def end(process: subprocess.Popen[bytes]) -> None:
    """End the process and reap it."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        process.terminate()
    try:
        process.wait(2)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            with contextlib.suppress(OSError):
                stream.close()
    forget(process)


def end_all() -> None:
    """End what this process started and has not ended yet; masters that have detached are no longer among it."""
    with _lock:
        processes = list(_live)
    for process in processes:
        end(process)


def run_to_end(
    arguments: list[str],
    *,
    stderr: IO[bytes] | None,
    limit: float,
    own_session: bool = True,
    doubt: tuple[float, Callable[[int], bool]] | None = None,
) -> int:
    """Run a process without input and output, and return its status; raises TimedOutError, the process being ended.

    Parameters
    ----------
    stderr : file, optional
        Where its stderr goes; without one, to the terminal unless it has its `own_session`, then nowhere.
    doubt : (float, callable), optional
        What is called with its pid when the process has not ended after that many seconds, and again after as many
        more for as long as it returns True; it may raise, which ends the process.
    """
    target = stderr if stderr is not None else (subprocess.DEVNULL if own_session else None)
    process = start(arguments, stderr=target, own_session=own_session)
    until = time.monotonic() + limit
    try:
        while doubt is not None and time.monotonic() + doubt[0] < until:
            with contextlib.suppress(subprocess.TimeoutExpired):
                return process.wait(doubt[0])
            if not doubt[1](process.pid):
                break
        return process.wait(max(0.0, until - time.monotonic()))
    except subprocess.TimeoutExpired:
        raise TimedOutError(arguments[0], limit) from None
    finally:
        if process.returncode is None:
            _end_group(process, own_session=own_session)
        forget(process)


def start_and_forget(arguments: list[str], *, limit: float) -> None:
    """Run a process beside this one, without input or output; it is ended after `limit` seconds."""

    def watch() -> None:
        with contextlib.suppress(TimedOutError, ToolMissingError):
            run_to_end(arguments, stderr=None, limit=limit)

    threading.Thread(target=watch, name="ssh-true", daemon=True).start()


def _end_group(process: subprocess.Popen[bytes], *, own_session: bool) -> None:
    """End the process and, where it leads a session, the proxy command that it started.

    A master that is told to end while it detaches removes its control socket and goes on: it is killed.
    """
    if own_session:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)
    end(process)
