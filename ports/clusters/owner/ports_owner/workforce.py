"""The workers that were asked for: each one that is lost comes back, however often and however it ended.

Dask's `SpecCluster` closes a worker for good if it is not registered 15 seconds after its last death, even where its
nanny is starting it again (``distributed.deploy.lost-worker-timeout``). Nothing starts it after that.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

from distributed import LocalCluster
from distributed.core import Status
from distributed.deploy.cluster import Cluster

from .cluster import OwnedCluster
from .log import warn

LOOK_SECONDS = 1.0
LOST_SECONDS = 60.0  # a busy machine takes long to start a worker, which is no reason to start it again
LONGEST_PAUSE = 60.0  # between two attempts while workers fail to start


class Seen(NamedTuple):
    """One worker that was asked for: its nanny has ended, the scheduler knows it, and its process."""

    has_ended: bool
    is_there: bool
    pid: int | None


Absent = Mapping[Any, tuple[int | None, float]]  # name → process, and since when the scheduler does not know it


def absent(seen: Mapping[Any, Seen], before: Absent, now: float) -> dict[Any, tuple[int | None, float]]:
    """Return since when each worker is absent; a new process has a new clock. Pure."""
    away = {name: one.pid for name, one in seen.items() if not one.is_there}
    return {name: before[name] if before.get(name, (-1,))[0] == pid else (pid, now) for name, pid in away.items()}


def lost(seen: Mapping[Any, Seen], away: Absent, now: float) -> list[Any]:
    """Return the workers that must be made again: ended ones, and those that have been absent for too long. Pure."""
    return [
        name for name, one in seen.items() if one.has_ended or (name in away and now - away[name][1] >= LOST_SECONDS)
    ]


class KeptCluster(LocalCluster):
    """A `LocalCluster` that gives no worker up; `Workforce` makes lost ones again."""

    def _update_worker_status(self, op, msg):
        Cluster._update_worker_status(self, op, msg)  # not SpecCluster's, which closes the nanny of a lost worker


class Workforce:
    """Compares the workers that were asked for with those that there are, and starts the missing ones."""

    def __init__(self, cluster: OwnedCluster) -> None:
        self.cluster = cluster
        self.away: dict[Any, tuple[int | None, float]] = {}
        self.pause = LOOK_SECONDS
        self.failure: str | None = None  # why the last start of workers failed
        self.now = asyncio.Event()
        cluster.scheduler.handlers["retire_workers"] = self.retire

    async def run(self) -> None:
        """Look at intervals until the cluster ends."""
        while True:
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self.now.wait(), self.pause)
            self.now.clear()
            try:
                # not cancelled with this task: Dask would forget a worker that is starting, and fail at the end
                await asyncio.shield(asyncio.ensure_future(self.look(time.monotonic())))
                self.pause, self.failure = LOOK_SECONDS, None
            except Exception as error:  # noqa: BLE001 - whatever keeps a worker from starting may pass
                self.pause = min(LONGEST_PAUSE, 2 * self.pause)
                self.failure = f"{type(error).__name__}: {error}"
                warn(f"a worker did not start: {self.failure}; again in {self.pause:g} seconds")

    def hurry(self) -> None:
        """Look at once, however often workers failed to start."""
        self.pause = LOOK_SECONDS
        self.now.set()

    async def look(self, now: float) -> None:
        """Make lost workers again, and wait until they have started."""
        seen = self.seen()
        self.away = absent(seen, self.away, now)
        closing = []
        for name in lost(seen, self.away, now):
            warn(f"worker {name} {'has ended' if seen[name].has_ended else 'does not come back'}: another one starts")
            closing.append(self.cluster.workers.pop(name))
            self.away.pop(name, None)
        if closing:
            await asyncio.gather(*(one.close() for one in closing), return_exceptions=True)
        if any(name not in self.cluster.workers for name in self.cluster.worker_spec):
            await self.cluster

    def seen(self) -> dict[Any, Seen]:
        """Return what there is of each worker that was started and should run."""
        there = {worker.name for worker in self.cluster.scheduler.workers.values()}
        found = {}
        for name, worker in list(self.cluster.workers.items()):
            if name in self.cluster.worker_spec:
                has_ended = worker.status in (Status.failed, Status.closed)
                found[name] = Seen(has_ended, name in there, getattr(worker, "pid", None))
        return found

    def n_missing(self) -> int:
        """Return how many workers of those that were asked for the scheduler does not know."""
        there = {worker.name for worker in self.cluster.scheduler.workers.values()}
        return sum(name not in there for name in self.cluster.worker_spec)

    async def wait(self, timeout: float) -> None:
        """Wait until all workers that were asked for are there; raises TimeoutError."""
        self.hurry()
        until = time.monotonic() + timeout
        while missing := self.n_missing():
            if time.monotonic() > until:
                n_workers = len(self.cluster.worker_spec)
                raise TimeoutError(f"{missing} of {n_workers} workers did not come back within {timeout:g} s")
            await asyncio.sleep(0.05)

    async def retire(self, *args: Any, close_workers: bool = False, **kwargs: Any) -> Any:
        """Retire workers as Dask does; own ones that a client closes are no longer asked for."""
        answer = await self.cluster.scheduler.retire_workers(*args, close_workers=close_workers, **kwargs)
        if close_workers and isinstance(answer, dict):
            names = {one.get("name") for one in answer.values() if isinstance(one, dict)}
            for name in names & set(self.cluster.worker_spec):
                del self.cluster.worker_spec[name]  # type: ignore[attr-defined]
        return answer
