"""The promise of a cluster without tasks: others can have what it does not use, until tasks come.

`lending_rules` decides how much. Memory that others took meanwhile stays theirs, so workers can get a smaller limit.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from . import guard, lending_rules, memory, promise, resize
from .adapt_rules import Memory
from .cluster import OwnedCluster, is_own
from .ground import probe
from .idle import IdlePolicy
from .log import hours, say, warn
from .record import Record

MINUTE = 60.0


class Lending:
    """Decides what one cluster is promised at each moment."""

    def __init__(self, cluster: OwnedCluster, record: Record, idle: IdlePolicy) -> None:
        self.cluster, self.idle, self.meter, self.path = cluster, idle, memory.Meter(), record.promise
        self.typed = record.memory_typed
        self.after = float(record.lend_after) * MINUTE
        self.lent = 0  # bytes
        self.is_lending = False
        self.full: int | None = None  # the limit of each worker, where a smaller one was set here
        self.reduced_to = 0
        idle.fit = self.fit

    async def numbers(self) -> lending_rules.Numbers:
        """Return the workers, threads and bytes that the cluster is promised now, and what it lends."""
        whole, held = promise.numbers_of(self.cluster), self.held()
        is_idle = bool(self.after) and time.monotonic() - self.idle.task_at >= self.after
        if self.is_lending and not is_idle:
            await self.take_back(held)
            whole = promise.numbers_of(self.cluster)
        elif is_idle and not self.is_lending and (lending_rules.is_worth(whole, held) or self.is_reduced):
            self.is_lending = True
            n_bytes = lending_rules.kept(whole, held)[3]
            say(f"promise: no task for {hours(self.after)}: {self.said(n_bytes)} are free for others until tasks come")
        found = lending_rules.kept(whole, held) if self.is_lending else whole
        self.lent = whole[2] - found[2]
        return found

    @property
    def is_reduced(self) -> bool:
        """Whether workers have a smaller limit because others use what was lent."""
        return self.full is not None and self.reduced_to < self.full

    def held(self) -> int:
        """Return the bytes that the workers use, as they last said."""
        workers = self.cluster.scheduler.workers.values()
        return sum(one.metrics.get("memory", 0) for one in workers if is_own(self.cluster, one.name))

    async def take_back(self, held: int) -> None:
        """Take back what was lent, as far as it is free now; workers get a smaller limit where it is not."""
        n_workers = max(len(self.cluster.worker_spec), self.idle.waking)
        if n_workers:  # else they come back first
            self.is_lending = False
            await self.limit(n_workers, held, "tasks came")

    async def fit(self, n_workers: int) -> None:
        """Give workers that are about to come back what is free now: others can have taken what they had."""
        await self.limit(n_workers, self.held(), "workers come back")

    async def limit(self, n_workers: int, held: int, why: str) -> None:
        """Set the limit of each of `n_workers`: the full one, as far as that is free now."""
        now = self.limit_now()
        if not now:
            return
        if self.full is None or now != self.reduced_to:
            self.full = now  # a user has set it
        free = (await asyncio.to_thread(self.left))[1]
        limit = lending_rules.limit_of_each(n_workers, self.full, held, free)
        if limit != now:
            try:
                resize.limit_workers(self.cluster, limit, self.typed)
            except ValueError as error:
                warn(f"promise: {why}, and not all memory of this cluster is free, but its limits stay: {error}")
                self.full = None
                return
            self.reduced_to = limit
        if limit < self.full:
            each = f"{self.said(limit)} instead of {self.said(self.full)} each"
            warn(f"promise: {why}, and not all memory of this cluster is free: its workers have {each}")
        else:
            self.full = None
            say(f"promise: {why}: {self.said(n_workers * limit)} are promised to this cluster again")

    def said(self, n_bytes: int) -> str:
        """Return bytes in the unit in which the memory limit was typed."""
        return str(probe.as_typed(self.typed, n_bytes))

    def limit_now(self) -> int:
        """Return the bytes that each worker is promised; 0: no limit."""
        return int(promise.bytes_of(self.cluster.new_spec["options"].get("memory_limit")))

    async def memory(self) -> Memory:
        """Return what counts for further workers."""
        available, free = await asyncio.to_thread(self.left)
        return Memory(self.limit_now(), self.held(), free, available)

    def left(self) -> tuple[int, int]:
        """Return the bytes that are available, and those of them that are not promised to other clusters.

        It reads /proc, so it runs in a thread.
        """
        self.meter.refresh()
        available = min((one.available for one in self.meter.domains()), default=0)
        return available, lending_rules.free(available, [unfilled(one) for one in promise.of_others(self.path)])

    def summary(self) -> dict[str, Any]:
        """Return what is shown to users."""
        reduced = {"limit_bytes": self.reduced_to, "full_bytes": self.full} if self.is_reduced else None
        return {"lent_bytes": (self.lent if self.is_lending else 0) or None, "reduced": reduced}


def unfilled(one: dict[str, Any]) -> int:
    """Return the bytes of another cluster's promise that it does not use yet; all of it where it is hidden."""
    in_use: int = guard.weight(one["pid"]) if one["pid"] else 0
    return max(0, int(one["bytes"]) - in_use)
