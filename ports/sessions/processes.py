"""Processes, through psutil and the probe: which are alive, and their end."""

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
    """Return the identity of process `pid` (default: this one); None where it is gone."""
    try:
        return ProcessId.from_json(probe.process_identity(os.getpid() if pid is None else pid))
    except ProcessLookupError:
        return None


def is_alive(who: ProcessId) -> bool | None:
    """Say whether that very process runs; None where this machine cannot know."""
    return probe.is_same_process_alive(who.to_json())


def with_argument(argument: str) -> list[ProcessId]:
    """Return the processes of this user that were started with `argument`."""
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
    """End `processes` and all that they started: SIGTERM, after `timeout` seconds SIGKILL.

    Parameters
    ----------
    spare : callable, optional
        Says of a command line whether that process, if it leads a session of its own, goes on with all below it.

    Returns
    -------
    bool
        True when all of them are gone.
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
    # Once more from below: what a root leaves behind becomes its child again, as long as it lives (a subreaper);
    # it is halted, so that it starts nothing more meanwhile.
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
    """Return all processes below one; on Linux without a look at all the others."""
    import psutil

    found: list[psutil.Process] = []
    if sys.platform != "linux":
        with contextlib.suppress(psutil.Error):
            found = root.children(recursive=True)
        return found
    for pid in probe.processes.descendants(root.pid):
        with contextlib.suppress(psutil.Error):
            found.append(psutil.Process(pid))
    return found


def _kill(processes: Iterable[psutil.Process], *, but: Iterable[psutil.Process] = ()) -> bool | None:
    """Send SIGKILL to all that still run; True when there was none."""
    import psutil

    spared, alive = {process.pid for process in but}, False
    for process in processes:
        with contextlib.suppress(psutil.Error):
            if process.pid not in spared and process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                process.kill()
                alive = True
    return None if alive else True


def _are_gone(processes: list[psutil.Process], timeout: float) -> bool:
    """Wait until none of `processes` runs; a zombie runs no more, whenever its parent (tmux, say) may collect it."""
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
