"""Processes, through psutil and the probe: which are alive, and their end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from ports import probe
from ports.deadlines import wait_until
from ports.errors import TimedOutError
from ports.records import ProcessId

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
    """Return the processes that were started with `argument`."""
    import psutil

    pids = [one.pid for one in psutil.process_iter(["cmdline"]) if argument in (one.info["cmdline"] or ())]
    return [who for pid in pids if (who := identity(pid)) is not None]


def end(processes: Iterable[ProcessId], *, timeout: float) -> bool:
    """End `processes` and all that they started: SIGTERM, after `timeout` seconds SIGKILL.

    Returns
    -------
    bool
        True when all of them are gone.
    """
    import psutil

    trees: list[psutil.Process] = []
    for who in processes:
        if is_alive(who):
            with contextlib.suppress(psutil.Error):
                process = psutil.Process(who.pid)
                trees += [process, *process.children(recursive=True)]
                process.terminate()
    if _are_gone(trees, timeout):
        return True
    for process in trees:
        with contextlib.suppress(psutil.Error):
            process.kill()
    return _are_gone(trees, timeout)


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
