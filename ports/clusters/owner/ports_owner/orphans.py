"""What tasks start ends with their worker, also what made itself a daemon.

The owner of a cluster adopts what dead workers leave (it is a subreaper). Whose it was shows by a mark that every
process hands down, through fork, exec, setsid and a cleaned environment: the soft limit of pending signals, lowered by
a number that each worker has for itself. Nothing else that any user may set and read is handed down like that.

Linux only; elsewhere the process group is ended with the cluster.
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
from pathlib import Path

try:
    from resource import RLIM_INFINITY, RLIMIT_SIGPENDING, getrlimit, setrlimit
except ImportError:  # not Linux
    RLIMIT_SIGPENDING = None

PR_SET_CHILD_SUBREAPER = 36
PROCESS_MRELEASE = 448  # the number of the system call, the same on all machines but Alpha
GRACE = 2.0  # seconds between SIGTERM and SIGKILL
GIVE_UP = 3.0  # seconds after SIGKILL: a process in uninterruptible sleep cannot be waited for
MOST_MARKS = 4000
ENDLESS = 1_000_000  # where pending signals have no limit
TELLS_CHILDREN = Path("/proc/thread-self/children").exists()  # CONFIG_PROC_CHILDREN, which not all kernels have
_numbers = itertools.count()


def adopt() -> None:
    """Let what descendants of this process leave behind become its children."""
    if sys.platform.startswith("linux"):
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def new_mark() -> int | None:
    """Return a mark for one worker; None where there can be none."""
    if RLIMIT_SIGPENDING is None:
        return None
    soft = getrlimit(RLIMIT_SIGPENDING)[0]
    soft = ENDLESS if soft == RLIM_INFINITY else soft
    marks = min(MOST_MARKS, soft // 2)
    return soft - 1 - next(_numbers) % marks if marks > 0 else None


def wear(mark: int | None) -> None:
    """Mark this process, and with it everything that it starts from now on."""
    if mark is not None and RLIMIT_SIGPENDING is not None:
        with contextlib.suppress(OSError, ValueError):
            setrlimit(RLIMIT_SIGPENDING, (mark, getrlimit(RLIMIT_SIGPENDING)[1]))


def mark_of(pid: int) -> int | None:
    """Return the mark of a process, also of a zombie; None where it cannot be read."""
    try:
        with open(f"/proc/{pid}/limits") as file:
            for line in file:
                if line.startswith("Max pending signals"):
                    soft = line.split()[3]
                    return int(soft) if soft.isdigit() else None
    except OSError:
        pass
    return None


def by_parent() -> dict[int, list[int]] | None:
    """Return the children of all processes where the kernel has no CONFIG_PROC_CHILDREN; else None: each tells its own.

    One look serves a walk through all that is below a process.
    """
    if TELLS_CHILDREN:
        return None
    found: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, IndexError):
            parent = int(path.read_text(errors="replace").rsplit(")", 1)[1].split()[1])
            found.setdefault(parent, []).append(int(path.parent.name))
    return found


def children(pid: int | str = "self", seen: dict[int, list[int]] | None = None) -> list[int]:
    """Return the pids of a process's children, adopted ones included; `seen` is what `by_parent` saw."""
    seen = by_parent() if seen is None else seen
    if seen is not None:
        return seen.get(os.getpid() if pid == "self" else int(pid), [])
    found: list[int] = []
    try:
        with os.scandir(f"/proc/{pid}/task") as tasks:
            for task in tasks:
                with contextlib.suppress(OSError), open(f"{task.path}/children") as file:
                    found += map(int, file.read().split())
    except OSError:
        pass
    return found


def descendants(pid: int | str = "self", seen: dict[int, list[int]] | None = None) -> list[int]:
    """Return the pids of all below a process; `seen` as in `children`."""
    seen = by_parent() if seen is None else seen
    found = []
    for child in children(pid, seen):
        found += [child, *descendants(child, seen)]
    return found


def is_zombie(pid: int) -> bool:
    """Say whether a process has ended, its parent not having noticed yet."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] in ("Z", "X")
    except (OSError, IndexError):
        return True


def _left_by(mark: int, pid: int | str = "self", seen: dict[int, list[int]] | None = None) -> Iterator[int]:
    """Yield what wears `mark` below a process, and all below that; other workers' own are passed over."""
    own = mark_of(os.getpid())
    seen = by_parent() if seen is None else seen
    for child in children(pid, seen):
        worn = mark_of(child)
        if worn == mark:
            yield child
            yield from descendants(child, seen)
        elif worn == own:
            yield from _left_by(mark, child, seen)


def end_left_by(mark: int | None, grace: float = GRACE) -> int:
    """End what a worker that is gone left behind, SIGTERM first; return how many processes there were."""
    ended: set[int] = set()
    start = time.monotonic()
    while mark is not None and time.monotonic() < start + grace + GIVE_UP:
        found = [pid for pid in _left_by(mark) if not _reaped(pid)]
        ended.update(found)
        if not found:
            break
        kill(found, signal.SIGTERM if time.monotonic() < start + grace else signal.SIGKILL)
        time.sleep(0.02)
    return len(ended)


def end_all(grace: float = GRACE) -> None:
    """End everything below this process; for one that is about to become another program."""
    start = time.monotonic()
    while time.monotonic() < start + grace + GIVE_UP:
        found = [pid for pid in descendants() if not _reaped(pid)]
        if not found:
            return
        kill(found, signal.SIGTERM if time.monotonic() < start + grace else signal.SIGKILL)
        time.sleep(0.02)


def kill(pids: list[int], number: int) -> None:
    """Send a signal to all of `pids` that are still there."""
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, number)


def kill_and_free(pid: int) -> None:
    """Kill a process, and give its memory back here and now: by itself it does so once it gets time to end."""
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
    """Collect adopted processes that have ended; those that multiprocessing or somebody else here waits for are left.

    Only what wears a worker's mark is touched: who started something here itself wants its exit status.
    """
    own = mark_of(os.getpid())
    waited_for = {process.pid for process in [*getattr(multiprocessing.process, "_children", ())]}
    for pid in children():
        if pid not in waited_for and is_zombie(pid) and mark_of(pid) != own:
            _wait(pid)


def _reaped(pid: int) -> bool:
    if not is_zombie(pid):
        return False
    _wait(pid)
    return True


def _wait(pid: int) -> None:
    with contextlib.suppress(OSError):
        os.waitpid(pid, os.WNOHANG)
