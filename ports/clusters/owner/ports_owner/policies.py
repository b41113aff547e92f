"""What makes a running cluster fair: its niceness, its guard of the machine's memory, its rest when nobody uses it."""

from __future__ import annotations

import asyncio

from . import memory, workers
from .guard import MemoryGuard
from .idle import Rest


class Fair:
    """The fairness of one cluster; made once its scheduler runs."""

    def __init__(self, cluster, record, directory, ended):
        self.cluster = cluster
        self.guard = MemoryGuard(cluster, record, memory.Meter())
        self.rest = Rest(cluster, record, directory, ended, self.guard)
        if record.guard != "off":
            self.guard.start()
        self.resting = asyncio.get_running_loop().create_task(self.rest.run())

    async def scale(self, n_workers, gpu_ids=()):
        """Have as many workers as somebody asks for, new ones with the first free of `gpu_ids`; none comes back."""
        if gpu_ids:
            self.cluster.new_spec["options"]["gpu_ids"] = tuple(gpu_ids)
        self.rest.count_anew()
        async with self.rest.giving:
            self.cluster.scale(n_workers)
        await self.cluster
        await self.rest.give_back()

    def close(self):
        """End all watching, before the cluster ends."""
        self.guard.over.set()
        self.resting.cancel()

    def summary(self):
        """Return what is told with the counts of the cluster."""
        guard = self.guard.shown if self.guard.state.level else None
        return {"guard": guard, "gpu_ids": self.gpu_ids(), **self.rest.summary()}

    def gpu_ids(self):
        """Return the GPUs that workers have, or will take when they come back."""
        options = self.cluster.new_spec["options"]
        n_resting = self.rest.asleep * options.get("gpus", 0)
        return workers.gpus_taken() or list(options.get("gpu_ids", ())[:n_resting])
