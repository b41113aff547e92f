"""The memory of workers, seen by one watcher for each process that holds nannies, as quickly as by Dask's own timers.

Dask's nannies have timers each and ask psutil (30 us). The watcher reads files that it keeps open (2 us), and calls
Dask's own `memory_monitor` of a nanny once that would act.
"""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import dataclass
from typing import Any

from . import calm_rules
from .log import warn

PAGE = os.sysconf("SC_PAGE_SIZE")
PERIOD = 0.1  # seconds, where Dask's configuration has no other


@dataclass
class Watched:
    """One worker process: the open file of its size, and how it grows."""

    pid: int
    file: int
    growth: calm_rules.Growth


def is_possible(nanny: Any) -> bool:
    """Say whether a watcher can do what the timers of `nanny` do, with this system and this version of Dask."""
    return sys.platform == "linux" and hasattr(getattr(nanny, "memory_manager", None), "memory_monitor")


class MemoryWatch:
    """Looks at the workers of the nannies that were added.

    Attributes
    ----------
    scheduler : Scheduler or None
        Through its connections calm workers learn that they grow.
    """

    def __init__(self) -> None:
        self.nannies: dict[Any, Watched | None] = {}
        self.scheduler: Any = None
        self.task: asyncio.Task[None] | None = None

    def add(self, nanny: Any) -> None:
        """Watch the worker of `nanny`, and each that follows it."""
        self.nannies.setdefault(nanny, None)
        if self.task is None or self.task.done():
            self.task = asyncio.get_running_loop().create_task(self.run())

    def remove(self, nanny: Any) -> None:
        """Watch the workers of `nanny` no longer."""
        self._close(self.nannies.pop(nanny, None))

    async def run(self) -> None:
        """Look at intervals while there are nannies."""
        while self.nannies:
            periods = [getattr(one.memory_manager, "memory_monitor_interval", None) for one in self.nannies]
            await asyncio.sleep(max(0.01, min(period or PERIOD for period in periods)))
            for nanny in list(self.nannies):
                try:
                    self.look(nanny)
                except Exception as error:  # noqa: BLE001 - the other workers must be watched
                    warn(f"memory of worker {nanny.name}: {type(error).__name__}: {error}")

    def look(self, nanny: Any) -> None:
        """Look at one worker, and do what is due."""
        limit, n_bytes = nanny.memory_manager.memory_limit, self.size(nanny)
        if not limit or n_bytes is None:
            return
        most = nanny.memory_manager.memory_terminate_fraction
        if most and n_bytes > most * limit:
            nanny.memory_manager.memory_monitor(nanny)
        watched, address = self.nannies[nanny], nanny.worker_address
        worker = self.scheduler.workers.get(address) if self.scheduler is not None else None
        if watched is None or worker is None or address not in self.scheduler.stream_comms:
            return
        if watched.growth.is_reached(n_bytes, lively=bool(worker.processing)):
            self.scheduler.stream_comms[address].send({"op": "ports-stir"})

    def size(self, nanny: Any) -> int | None:
        """Return the resident bytes of the worker process; None where there is none."""
        watched, pid = self.nannies[nanny], nanny.pid
        try:
            if watched is None or watched.pid != pid:
                self._close(watched)
                self.nannies[nanny] = watched = None
                if not pid:
                    return None
                file = os.open(f"/proc/{pid}/statm", os.O_RDONLY | os.O_CLOEXEC)
                self.nannies[nanny] = watched = Watched(pid, file, calm_rules.Growth(sys.maxsize))
            return int(os.pread(watched.file, 100, 0).split()[1]) * PAGE
        except (OSError, IndexError):  # it has ended
            return None

    @staticmethod
    def _close(watched: Watched | None) -> None:
        if watched is not None:
            os.close(watched.file)


WATCH = MemoryWatch()  # of this process
