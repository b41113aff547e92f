"""A cluster that adapts: it follows what its scheduler wants, between two bounds, whether or not a client is there.

`adapt_rules` decides. Dask's own `Adaptive` lives in the process of a client.
"""

from __future__ import annotations

import asyncio
from typing import Any

from .adapt_rules import Bounds, fitting, step
from .cluster import OwnedCluster
from .idle import IdlePolicy
from .lending import Lending
from .log import say, warn


class Adaptive:
    """Sets the number of workers at intervals, from `start` to `stop`."""

    def __init__(self, cluster: OwnedCluster, idle: IdlePolicy, lending: Lending) -> None:
        self.cluster, self.idle, self.lending = cluster, idle, lending
        self.bounds: Bounds | None = None
        self.short: dict[str, int] | None = None  # where fewer workers fit than are wanted
        self.running: asyncio.Task[None] | None = None

    def start(self, bounds: Bounds, interval: float, target_duration: float) -> None:
        """Adapt from now on, every `interval` seconds, so that all tasks end within `target_duration` seconds."""
        self.stop()
        self.bounds = bounds
        say(f"adapts between {bounds.minimum} and {bounds.maximum} workers")
        self.running = asyncio.get_running_loop().create_task(self.run(bounds, interval, target_duration))

    def stop(self) -> None:
        """Leave the number of workers as it is."""
        self.bounds = self.short = None
        if self.running is not None:
            self.running.cancel()
            self.running = None

    async def run(self, bounds: Bounds, interval: float, target_duration: float) -> None:
        """Look at intervals until `stop`."""
        n_low = 0
        while True:
            try:
                n_low = await self.look(bounds, target_duration, n_low)
            except Exception as error:  # noqa: BLE001 - a policy that fails once must look again
                warn(f"adapt: {type(error).__name__}: {error}")
            await asyncio.sleep(interval)

    async def look(self, bounds: Bounds, target_duration: float, n_low: int) -> int:
        """Look once; return how often in a row fewer workers were wanted."""
        if self.idle.asleep or self.idle.waking:
            return 0  # a resting cluster keeps no minimum
        scheduler, n_workers = self.cluster.scheduler, len(self.cluster.worker_spec)
        wanted = scheduler.adaptive_target(target_duration=target_duration)
        target, n_low = step(wanted, n_workers, bounds, n_low)
        target = await self.fit(target, n_workers)
        if target > n_workers:
            say(f"adapt: {n_workers} → {target} workers")
            async with self.idle.scaling:
                self.cluster.scale(target)
        elif target < n_workers:
            say(f"adapt: {n_workers} → {target} workers")
            await asyncio.shield(self.retire(target, bounds))  # half done, workers would neither end nor get tasks
        if target != n_workers:
            await asyncio.shield(self._settled())
        return n_low

    async def fit(self, target: int, n_workers: int) -> int:
        """Return how many of `target` workers fit in what is free now, and say so where that is fewer."""
        short = None
        if target > n_workers:
            memory = await self.lending.memory()
            found = fitting(target, n_workers, memory)
            if found < target:
                short = {"wanted": target, "fitting": found, "limit_bytes": memory.limit, "free_bytes": memory.free}
            target = found
        if short and (self.short or {}).get("wanted") != short["wanted"]:
            free, each = self.lending.said(short["free_bytes"]), self.lending.said(short["limit_bytes"])
            wanted = f"{short['wanted']} workers of {each} are wanted"
            warn(f"adapt: {wanted}, but only {free} are free, so there are {target}")
        self.short = short
        return target

    async def retire(self, target: int, bounds: Bounds) -> None:
        """Let those workers end that have least to do, after their results went to others; a later size counts more."""
        async with self.idle.scaling:
            if self.bounds is not bounds:
                return
            names: list[Any] = self.cluster.scheduler.workers_to_close(target=target, attribute="name")
            if names:  # the cluster closes them: closed by the scheduler too, a nanny would log an error
                await self.cluster.scheduler.retire_workers(names=names, close_workers=False, remove=False)
            for name in {*names} & {*self.cluster.worker_spec}:
                del self.cluster.worker_spec[name]  # type: ignore[attr-defined]
            if len(self.cluster.worker_spec) > target and not self.cluster.scheduler.workers:
                self.cluster.scale(target)  # they have not started yet

    async def _settled(self) -> None:
        """Wait for workers that start or end; not cancelled, as Dask would forget a worker that is starting."""
        await self.cluster
        await self.idle.give_memory_back()
