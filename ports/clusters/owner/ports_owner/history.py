"""What a cluster did: its workers, their memory and its pace now, and a point every 15 s for a day."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from typing import Any

from .ground import probe

ENDS = ("memory", "erred")
PACE_SECONDS = 10.0  # over which a pace is the mean, while somebody looks
LEAST_PACE_SECONDS = 0.5


class History:
    """The numbers of one cluster over time."""

    def __init__(self, scheduler: Any) -> None:
        self.scheduler = scheduler
        self.ring = probe.ring.Ring(6)
        self.pace, self.live = Pace(float("inf")), Pace(PACE_SECONDS)
        self.pace.see(time.monotonic(), n_ended(scheduler))

    async def run(self) -> None:
        """Add points until the cluster ends."""
        while True:
            await asyncio.sleep(probe.ring.POINT_SECONDS)
            self.sample()

    def sample(self) -> None:
        """Add a point."""
        now, count = time.monotonic(), n_ended(self.scheduler)
        pace = self.pace.see(now, count)
        self.pace.forget()
        self.live.see(now, count)
        workers = self.scheduler.workers.values()
        self.ring.add(time.time(), len(workers), *(memory_of(workers) or (None,) * 3), limit_of(workers), pace)

    def summary(self, workers: Sequence[Any]) -> dict[str, Any]:
        """Return how it is now."""
        pace = self.live.see(time.monotonic(), n_ended(self.scheduler))
        numbers = {"worker_memory_bytes": memory_of(workers), "worker_limit_bytes": limit_of(workers)}
        return {**numbers, "tasks_per_second": pace}


class Pace:
    """How many tasks end in a second, from counts at several moments. No clock.

    Parameters
    ----------
    seconds : float
        How long a count is used.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.seen: deque[tuple[float, int]] = deque()
        self.last = 0.0

    def see(self, now: float, count: int) -> float:
        """Take a count into account, and return the mean since the oldest that is used; the last one if that is new."""
        seen = self.seen
        if not seen or now - seen[-1][0] >= LEAST_PACE_SECONDS:
            seen.append((now, count))
        while len(seen) > 2 and now - seen[1][0] >= self.seconds:  # the first one used can be older: nobody looked
            seen.popleft()
        at, before = seen[0]
        if now - at >= LEAST_PACE_SECONDS:
            self.last = round(max(0, count - before) / (now - at), 3)
        return self.last

    def forget(self) -> None:
        """Use only the newest count from now on."""
        while len(self.seen) > 1:
            self.seen.popleft()


def n_ended(scheduler: Any) -> int:
    """Return how many tasks have ended since the cluster started, with a result or an error."""
    return sum(prefix.state_counts[state] for prefix in scheduler.task_prefixes.values() for state in ENDS)


def memory_of(workers: Any) -> list[int] | None:
    """Return the bytes of the worker that uses least, of the middle one, and of the one that uses most."""
    used = sorted(int(worker.metrics.get("memory") or 0) for worker in workers)
    return [used[0], used[len(used) // 2], used[-1]] if used else None


def limit_of(workers: Any) -> int | None:
    """Return the smallest memory limit of a worker; None without one."""
    return min((worker.memory_limit for worker in workers if worker.memory_limit), default=None)
