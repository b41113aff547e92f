"""Another memory limit for workers that run: a cluster divides what it has among another number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distributed import Scheduler
from distributed.diagnostics.plugin import SchedulerPlugin
from distributed.system import MEMORY_LIMIT

from .cluster import OwnedCluster, is_own
from .ground import probe

FULL = 0.7  # of the new limit: a worker that uses more would soon end


def too_large(used: Mapping[Any, int], limit: int, typed: str = "") -> str | None:
    """Return why workers that use so many bytes cannot get this limit; None where they can. Pure."""
    name = max(used, key=lambda one: used[one], default=None)
    if name is None or used[name] <= FULL * limit:
        return None
    return (
        f"worker {name} uses {probe.as_typed(typed, used[name])}, too much for a limit of "
        f"{probe.as_typed(typed, limit)}; scale to fewer workers, or release results first"
    )


def limit_workers(cluster: OwnedCluster, limit: int, typed: str = "") -> None:
    """Set the memory limit of all own workers, running and future ones; raises ValueError where one uses too much."""
    scheduler = cluster.scheduler
    own = {address: worker for address, worker in scheduler.workers.items() if is_own(cluster, worker.name)}
    reason = too_large({one.name: one.metrics.get("memory", 0) for one in own.values()}, limit, typed)
    if reason is not None:
        raise ValueError(reason)
    for spec in (*cluster.worker_spec.values(), {"options": cluster.new_spec["options"]}):
        spec["options"]["memory_limit"] = limit
    for nanny in [*cluster.workers.values(), *starting(cluster)]:
        nanny.memory_manager.memory_limit = limit
        if (process := getattr(nanny, "process", None)) is not None:
            process.worker_kwargs["memory_limit"] = limit  # its next process starts with these
    for address in own:
        tell(scheduler, address, limit)


def tell(scheduler: Scheduler, address: str, limit: int) -> None:
    """Give a running worker another limit."""
    scheduler.workers[address].memory_limit = limit
    scheduler.stream_comms[address].send({"op": "ports-memory-limit", "limit": limit})


def starting(cluster: OwnedCluster) -> list[Any]:
    """Return nannies that have been made and have not started yet: Dask counts them among the workers later."""
    known = {id(one) for one in cluster.workers.values()}
    return [one for one in getattr(cluster, "_created", ()) if id(one) not in known]


def follow(cluster: OwnedCluster) -> None:
    """Give each worker that comes the limit that was set while it started."""
    cluster.scheduler.add_plugin(Late(cluster), name=Late.name)


class Late(SchedulerPlugin):
    """Sets the limit of a worker whose process was started with an older one."""

    name = "ports-resize"

    def __init__(self, cluster: OwnedCluster) -> None:
        self.cluster = cluster

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Compare the limit of a new worker with the one that it should have."""
        found = scheduler.workers[worker]
        if not is_own(self.cluster, found.name):
            return
        limit = self.cluster.worker_spec[found.name]["options"].get("memory_limit")
        if isinstance(limit, int) and limit > 1 and min(limit, MEMORY_LIMIT) != found.memory_limit:
            tell(scheduler, worker, limit)
