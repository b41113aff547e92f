"""Tasks that wait while no worker runs, and none comes by itself: every client gets a line about it.

A cluster that was scaled to 0 looks like one that works for long. Workers that are starting are worth no line.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from typing import Any, NamedTuple

from distributed.core import Status

from .adapt import Adaptive
from .cluster import OwnedCluster
from .ground import probe
from .idle import IdlePolicy
from .log import warn
from .notes import event
from .workforce import Workforce

LOOK_SECONDS = 1.0
PATIENCE = 3.0  # seconds that tasks wait before it is told
PAUSED_PATIENCE = 15.0  # a pause often ends by itself, once results are on the disk


class Seen(NamedTuple):
    """A cluster of which no worker runs: how many were asked for, why they do not start, and how it adapts.

    `is_paused`: they are there, and all of them are paused. `guard` is what the memory guard says while it acts.
    """

    n_asked: int
    failure: str | None = None
    maximum: int | None = None
    short: dict[str, int] | None = None
    is_coming_back: bool = False
    is_paused: bool = False
    guard: str | None = None
    typed: str = ""


def reason(seen: Seen, name: str) -> str | None:
    """Return why no worker comes, and the way out; None where one is about to come. Pure."""
    if seen.is_coming_back:
        return None
    if seen.is_paused and seen.guard is not None:
        return f"its workers are paused: {seen.guard}; `ports who` shows who uses how much"
    if seen.is_paused:
        return f"its workers are paused, as their memory is full; release results, or `ports cluster restart {name}`"
    if seen.n_asked:
        failed = f"its workers do not start ({seen.failure}); `ports cluster logs {name} --warnings` shows more"
        return failed if seen.failure else None
    way_out = f"`ports cluster scale {name} 1` starts one"
    if seen.maximum is None:
        return f"it has 0 workers; {way_out}"
    if not seen.maximum:
        return f"it adapts to 0 workers at most; {way_out}"
    if seen.short is None:
        return None
    each, free = (probe.as_typed(seen.typed, seen.short[key]) for key in ("limit_bytes", "free_bytes"))
    return f"it adapts, and a worker needs {each}, but only {free} are free; `ports who` shows who uses how much"


class Waiting:
    """Looks at intervals whether tasks wait for nothing."""

    def __init__(self, cluster: OwnedCluster, idle: IdlePolicy, workforce: Workforce, adaptive: Adaptive) -> None:
        self.cluster, self.idle, self.workforce, self.adaptive = cluster, idle, workforce, adaptive
        self.guard = idle.guard
        self.since: float | None = None  # epoch
        self.why: str | None = None
        self.told: frozenset[str] = frozenset()  # clients that have had the line

    async def run(self) -> None:
        """Look until the cluster ends."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                self.look(time.time())
            except Exception as error:  # noqa: BLE001 - a policy that fails once must look again
                warn(f"waiting: {type(error).__name__}: {error}")

    def look(self, now: float) -> None:
        """Look once, and tell each client once."""
        self.why = reason(self.seen(), self.name) if self.n_waiting() else None
        if self.why is None:
            self.since, self.told = None, frozenset()
            return
        self.since = self.since or now
        clients = frozenset(self.cluster.scheduler.client_comms)
        patience = PAUSED_PATIENCE if self.cluster.scheduler.workers else PATIENCE
        if abs(now - self.since) >= patience and not clients <= self.told:
            self.tell(clients - self.told, is_new=not self.told)
            self.told |= clients

    @property
    def name(self) -> str:
        """The cluster's name."""
        return str(getattr(self.cluster, "name", ""))

    def n_waiting(self) -> int:
        """Return how many tasks wait for a worker while none runs."""
        scheduler: Any = self.cluster.scheduler
        waiting: list[Collection[Any]] = [scheduler.unrunnable, getattr(scheduler, "queued", ())]
        return 0 if scheduler.running else sum(map(len, waiting))

    def seen(self) -> Seen:
        """Return what decides whether a worker is about to come."""
        bounds, is_back = self.adaptive.bounds, bool(self.idle.asleep or self.idle.waking)
        maximum = None if bounds is None else bounds.maximum
        n_asked = len(self.cluster.worker_spec)
        workers = self.cluster.scheduler.workers.values()
        is_paused = bool(workers) and all(one.status == Status.paused for one in workers)
        guard = self.guard.shown["reason"] if self.guard.state.level and self.guard.shown else None
        found = Seen(n_asked, self.workforce.failure, maximum, self.adaptive.short, is_back, is_paused, guard)
        return found._replace(typed=self.adaptive.lending.typed)

    def tell(self, clients: Collection[str], *, is_new: bool) -> None:
        """Let clients warn, as Dask's own handler of this topic does with a text; write it to the log if it is new."""
        text = f"{self.words()} (since {time.strftime('%H:%M:%S', time.localtime(self.since))})"
        if is_new:
            warn(text)
        self.cluster.scheduler.send_all({client: [event("warn", text)] for client in clients}, {})

    def words(self) -> str:
        """Return how many tasks wait for what, and the way out."""
        n_tasks = self.n_waiting()
        tasks = "1 task waits" if n_tasks == 1 else f"{n_tasks} tasks wait"
        return f"{tasks} in cluster {self.name!r}, because {self.why}"

    def summary(self) -> dict[str, Any]:
        """Return what is shown to users."""
        return {"waiting": self.words() if self.why is not None and self.n_waiting() else None}
