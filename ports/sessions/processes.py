"""Processes, by psutil and the probe: identify them, say whether they are alive, and end them."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ports import probe
from ports.errors import TimedOutError
from ports.state import ProcessId, wait_until

if TYPE_CHECKING:
    import psutil


def identity(pid: int | None = None) -> ProcessId | None:
    """Return the identity of process `pid` (default: this one); None if it is gone."""
    try:
        return ProcessId.from_json(probe.process_identity(os.getpid() if pid is None else pid))
    except ProcessLookupError:
        return None


def is_alive(who: ProcessId) -> bool | None:
    """Say whether that process runs; None if this machine cannot know."""
    return probe.is_same_process_alive(who.to_json())


def directory(pid: int) -> str | None:
    """Return the working directory of a process of this user; None where the system does not say."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return psutil.Process(pid).cwd()
    return None


def environment(pid: int) -> dict[str, str] | None:
    """Return the variables with which a process of this user began; None where the system does not say."""
    import psutil

    with contextlib.suppress(psutil.Error, OSError):
        return dict(psutil.Process(pid).environ()) or None
    return None


def with_argument(argument: str) -> list[ProcessId]:
    """Return the processes of this user that have `argument` on their command line."""
    import psutil

    mine = os.getuid()
    pids = [
        one.pid
        for one in psutil.process_iter(["cmdline", "uids"])
        if argument in (one.info["cmdline"] or ()) and one.info["uids"] and one.info["uids"].real == mine
    ]
    return [who for pid in pids if (who := identity(pid)) is not None]


def end(
    processes: Iterable[ProcessId], *, timeout: float, spare: Callable[[list[str]], bool] = lambda words: False
) -> bool:
    """End `processes` and everything that they started: by SIGTERM, and after `timeout` seconds by SIGKILL.

    Parameters
    ----------
    spare : callable, optional
        Gets a command line. If it returns True and that process leads a session of its own, the process and everything
        below it go on.

    Returns
    -------
    bool
        True if all of them are gone.
    """
    import psutil

    roots: list[psutil.Process] = []
    for who in processes:
        if is_alive(who):
            with contextlib.suppress(psutil.Error):
                roots.append(psutil.Process(who.pid))
    trees = [*roots, *_descendants(roots, spare)]
    for process in roots:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    if _are_gone(trees, timeout):
        return True
    # Once more, from below. The roots are halted first, so that they start nothing new. They stay alive until the
    # end, because as subreapers they adopt what their descendants leave behind.
    for process in roots:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    with contextlib.suppress(TimedOutError):
        wait_until(
            lambda: _kill([*_descendants(roots, spare), *trees], but=roots),
            timeout=timeout,
            what="their end",
        )
    _kill(roots)
    return _are_gone([*trees, *_descendants(roots, spare)], timeout)


def _descendants(roots: list[psutil.Process], spare: Callable[[list[str]], bool]) -> list[psutil.Process]:
    import psutil

    found: list[psutil.Process] = []
    spared: set[int] = set()
    for process in [one for root in roots for one in _below(root)]:
        with contextlib.suppress(psutil.Error, OSError):
            if spare(process.cmdline()) and os.getsid(process.pid) == process.pid:
                spared |= {process.pid, *(one.pid for one in _below(process))}
        found.append(process)
    return [process for process in found if process.pid not in spared]


def _below(root: psutil.Process) -> list[psutil.Process]:
    """Return all processes below `root`; none if it has ended. On Linux this reads no other processes."""
    import psutil

    found: list[psutil.Process] = []
    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error):
            found = root.children(recursive=True)
        return found
    # Another process can have the pid of one that has ended: what runs below that one must go on.
    for pid in probe.processes.descendants(root.pid) if root.is_running() else ():
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _kill(processes: Iterable[psutil.Process], *, but: Iterable[psutil.Process] = ()) -> bool | None:
    """Send SIGKILL to all that still run; True if none did."""
    import psutil

    spared, alive = {process.pid for process in but}, False
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.pid not in spared and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                process.kill()
                alive = True
    return None if alive else True


def _are_gone(processes: list[psutil.Process], timeout: float) -> bool:
    """Wait until none of `processes` runs. A zombie does not run, even before its parent (tmux, say) collects it."""
    import psutil

    def poll() -> bool | None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                if process.is_running() and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                    return None
        return True

    try:
        return wait_until(poll, timeout=timeout, what="their end")
    except TimedOutError:
        return False
