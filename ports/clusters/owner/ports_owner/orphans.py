"""What tasks start ends with their worker, even what made itself a daemon.

The owner of a cluster adopts what dead workers leave: it is a subreaper. A mark shows which worker a process came from.
The mark is the soft limit of pending signals, lowered by a number that each worker has for itself. Every process
inherits it, through fork, exec, setsid and a cleaned environment. A user can set and read nothing else that is
inherited like that. A launcher of another session, below a worker, takes the worker's mark off: the script of a job
goes on when the worker ends.

Linux only; elsewhere the process group ends with the cluster.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import multiprocessing.process
import os
import signal
import sys
import time
from collections.abc import Iterator

from .ground import probe

try:
    from resource import RLIM_INFINITY, RLIMIT_SIGPENDING, getrlimit, setrlimit
except ImportError:  # not Linux
    RLIMIT_SIGPENDING = None  # type: ignore[assignment,misc]

PR_SET_CHILD_SUBREAPER = 36
PROCESS_MRELEASE = 448  # the number of the system call, the same on all machines but Alpha
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
GIVE_UP = 3.0  # seconds after SIGKILL: a process in uninterruptible sleep cannot be waited for
MOST_MARKS = probe.launchers.MOST_MARKS
ENDLESS = 1_000_000  # where pending signals have no limit
_numbers = itertools.count()


def adopt() -> None:
    """Make what descendants of this process leave behind its children."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def new_mark() -> int | None:
    """Return a mark for one worker; None where this system has none."""
    if RLIMIT_SIGPENDING is None:
        return None
    soft = getrlimit(RLIMIT_SIGPENDING)[0]
    soft = ENDLESS if soft == RLIM_INFINITY else soft
    marks = min(MOST_MARKS, soft // 2)
    return soft - 1 - next(_numbers) % marks if marks > 0 else None


def wear(mark: int | None) -> None:
    """Mark this process and everything that it starts from now on."""
    if mark is not None and RLIMIT_SIGPENDING is not None:
        with contextlib.suppress(OSError, ValueError):
            setrlimit(RLIMIT_SIGPENDING, (mark, getrlimit(RLIMIT_SIGPENDING)[1]))


def mark_of(pid: int) -> int | None:
    """Return the mark of a process, even of a zombie; None where it cannot be read."""
    try:
        with open(f"/proc/{pid}/limits") as file:
            for line in file:
                if line.startswith("Max pending signals"):
                    soft = line.split()[3]
                    return int(soft) if soft.isdigit() else None
    except OSError:
        pass
    return None


def _left_by(mark: int, pid: int, seen: dict[int, list[int]] | None) -> Iterator[int]:
    """Yield what wears `mark` below a process, and all below that; what other workers started is left out."""
    own = mark_of(os.getpid())
    for child in probe.processes.children(pid, seen):
        worn = mark_of(child)
        if worn == mark:
            yield child
            yield from probe.processes.descendants(child, seen)
        elif worn == own:
            yield from _left_by(mark, child, seen)


def end_left_by(mark: int | None, grace: float = GRACE) -> int:
    """End what a dead worker left behind, SIGTERM first; return how many processes there were."""
    ended: set[int] = set()
    start = time.monotonic()
    while mark is not None and time.monotonic() < start + grace + GIVE_UP:
        below = _left_by(mark, os.getpid(), probe.processes.by_parent())
        found = [pid for pid in below if not _reaped(pid)]
        ended.update(found)
        if not found:
            break
        kill(found, signal.SIGTERM if time.monotonic() < start + grace else signal.SIGKILL)
        time.sleep(0.02)
    return len(ended)


def end_all(grace: float = GRACE) -> None:
    """End what runs below this process, which is about to become another program; launchers of sessions go on."""
    start = time.monotonic()
    while time.monotonic() < start + grace + GIVE_UP:
        found = [pid for pid in _below(os.getpid()) if not _reaped(pid)]
        if not found:
            return
        kill(found, signal.SIGTERM if time.monotonic() < start + grace else signal.SIGKILL)
        time.sleep(0.02)


def _below(pid: int) -> Iterator[int]:
    """Yield what runs below a process, except launchers of other sessions with all below them."""
    for child in probe.processes.children(pid):
        if not probe.launchers.is_session(child):
            yield child
            yield from _below(child)


def kill(pids: list[int], number: int) -> None:
    """Send a signal to all of `pids` that still exist."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def kill_and_free(pid: int) -> None:
    """Kill a process and free its memory at once; a killed process frees it only when it next runs."""
    with contextlib.suppress(OSError, AttributeError):
        descriptor = os.pidfd_open(pid)
        try:
            os.kill(pid, signal.SIGKILL)
            ctypes.CDLL(None).syscall(PROCESS_MRELEASE, descriptor, 0)  # not in kernels before 5.15
        finally:
            os.close(descriptor)
        return
    kill([pid], signal.SIGKILL)


def reap() -> None:
    """Collect adopted processes that have ended.

    What multiprocessing waits for is left alone, and what wears no worker's mark: code of this process that started it
    wants its exit status.
    """
    own = mark_of(os.getpid())
    waited_for = {process.pid for process in [*getattr(multiprocessing.process, "_children", ())]}
    for pid in probe.processes.children(os.getpid()):
        if pid not in waited_for and probe.is_zombie(pid) and mark_of(pid) != own:
            _wait(pid)


def _reaped(pid: int) -> bool:
    if not probe.is_zombie(pid):
        return False
    _wait(pid)
    return True


def _wait(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
