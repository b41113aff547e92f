"""The policies of a running cluster: a guard of the memory, sleep when nobody uses it, and workers that come back."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

from . import memory, memory_deaths, memory_watch, resize, workers
from .adapt import Adaptive
from .adapt_rules import Bounds
from .calm import CalmScheduler
from .cluster import OwnedCluster
from .guard import MemoryGuard
from .history import History
from .idle import IdlePolicy
from .lending import Lending
from .notes import Notes
from .record import Record
from .waiting import Waiting
from .workforce import Workforce


class Policies:
    """The policies of one cluster, made once its scheduler runs."""

    def __init__(self, cluster: OwnedCluster, record: Record, directory: Path, ended: asyncio.Future[str]) -> None:
        self.cluster = cluster
        self.guard = MemoryGuard(cluster, record, memory.Meter())
        self.idle = IdlePolicy(cluster, record, directory, ended, self.guard)
        self.lending = Lending(cluster, record, self.idle)
        self.calm = CalmScheduler(cluster.scheduler, record.calm_after)
        self.history = History(cluster.scheduler)
        self.notes = Notes(cluster.scheduler, record.name)
        memory_watch.WATCH.scheduler = cluster.scheduler
        if record.guard != "off":
            self.guard.start()
        self.workforce = Workforce(cluster)
        self.adaptive = Adaptive(cluster, self.idle, self.lending)
        self.wishes = 0  # how often the number or the size of workers was set
        resize.follow(cluster)
        self.waiting = Waiting(cluster, self.idle, self.workforce, self.adaptive)
        loop = asyncio.get_running_loop()
        self.watching = [loop.create_task(one.run()) for one in (self.idle, self.workforce, self.waiting, self.history)]

    async def scale(self, n_workers: int, gpu_ids: tuple[str, ...] = (), memory_limit: int | None = None) -> bool:
        """Run `n_workers` workers, also where some sleep; new ones take the first free GPUs of `gpu_ids`.

        With `memory_limit`, each has that many bytes from now on, running ones included. Raises ValueError where one of
        them uses too much of it already. Return whether nobody has set another number while workers started.
        """
        self.resize(gpu_ids, memory_limit)
        self.adaptive.stop()
        self.idle.forget_sleepers()
        self.wishes += 1
        wish = self.wishes
        async with self.idle.scaling:
            self.cluster.scale(n_workers)
        await self.cluster
        await self.idle.give_memory_back()
        return self.wishes == wish

    def resize(self, gpu_ids: tuple[str, ...], memory_limit: int | None) -> None:
        """Set the memory of each worker, and the GPUs that new ones take."""
        if memory_limit is not None:
            resize.limit_workers(self.cluster, memory_limit)
        if gpu_ids:
            self.cluster.new_spec["options"]["gpu_ids"] = tuple(gpu_ids)

    async def adapt(
        self,
        bounds: tuple[int, int, int],
        interval: float,
        target_duration: float,
        *,
        gpu_ids: tuple[str, ...] = (),
        memory_limit: int | None = None,
    ) -> None:
        """Let the number of workers follow the tasks, until `scale`; raises as `scale`."""
        self.resize(gpu_ids, memory_limit)
        self.wishes += 1
        if self.idle.asleep:
            self.idle.wake("somebody who lets it adapt")
        self.adaptive.start(Bounds(*bounds), interval, target_duration)

    def close(self) -> None:
        """Stop all watching, before the cluster ends."""
        self.adaptive.stop()
        self.guard.over.set()
        for watching in self.watching:
            watching.cancel()

    def summary(self) -> dict[str, Any]:
        """Return what is shown beside the counts of the cluster."""
        guard = self.guard.shown if self.guard.state.level else None
        n_asked = len(self.cluster.worker_spec)
        deaths = memory_deaths.summary(memory_deaths.DEATHS, time.time())
        bounds = self.adaptive.bounds
        numbers: dict[str, Any] = {"short": self.adaptive.short}
        adapts = bounds and {**numbers, "minimum": bounds.minimum, "maximum": bounds.maximum}
        own = {"adapts": adapts, "guard": guard, "gpu_ids": self.gpu_ids(), "n_asked": n_asked, "memory_deaths": deaths}
        own["failure"] = self.workforce.failure
        return {**own, **self.idle.summary(), **self.lending.summary(), **self.waiting.summary()}

    def gpu_ids(self) -> list[str]:
        """Return the GPUs that workers use, or will use when they come back."""
        options = self.cluster.new_spec["options"]
        n_asleep = self.idle.asleep * options.get("gpus", 0)
        return workers.gpus_taken() or list(options.get("gpu_ids", ())[:n_asleep])
