"""Processes, through psutil and the probe: which are alive, and their end."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable

from ports import probe
from ports.records import ProcessId


def identity(pid: int | None = None) -> ProcessId | None:
    """Return the identity of process `pid` (default: this one); None where it is gone."""
    try:
        return ProcessId.from_json(probe.process_identity(os.getpid() if pid is None else pid))
    except ProcessLookupError:
        return None


def is_alive(who: ProcessId) -> bool | None:
    """Say whether that very process runs; None where this machine cannot know."""
    return probe.is_same_process_alive(who.to_json())


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
    _, alive = psutil.wait_procs(trees, timeout=timeout)
    for process in alive:
        with contextlib.suppress(psutil.Error):
            process.kill()
    _, alive = psutil.wait_procs(alive, timeout=timeout)
    return not any(process.is_running() and process.status() != psutil.STATUS_ZOMBIE for process in alive)
