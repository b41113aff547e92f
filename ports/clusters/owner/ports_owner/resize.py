"""Another memory limit for workers that run: a cluster divides what it has among another number of workers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .cluster import OwnedCluster, is_own
from .ground import probe

FULL = 0.7  # of the new limit: a worker that uses more would soon end


def too_large(used: Mapping[Any, int], limit: int) -> str | None:
    """Return why workers that use so many bytes cannot get this limit; None where they can. Pure."""
    name = max(used, key=lambda one: used[one], default=None)
    if name is None or used[name] <= FULL * limit:
        return None
    return (
        f"worker {name} uses {probe.size(used[name])}, too much for a limit of {probe.size(limit)}; scale to fewer "
        "workers, or release results first"
    )


def limit_workers(cluster: OwnedCluster, limit: int) -> None:
    """Set the memory limit of all own workers, running and future ones; raises ValueError where one uses too much."""
    scheduler = cluster.scheduler
    own = {address: worker for address, worker in scheduler.workers.items() if is_own(cluster, worker.name)}
    reason = too_large({one.name: one.metrics.get("memory", 0) for one in own.values()}, limit)
    if reason is not None:
        raise ValueError(reason)
    for spec in (*cluster.worker_spec.values(), {"options": cluster.new_spec["options"]}):
        spec["options"]["memory_limit"] = limit
    for nanny in list(cluster.workers.values()):
        nanny.memory_manager.memory_limit = limit
        if (process := getattr(nanny, "process", None)) is not None:
            process.worker_kwargs["memory_limit"] = limit  # its next process starts with these
    for address, worker in own.items():
        worker.memory_limit = limit
        scheduler.stream_comms[address].send({"op": "ports-memory-limit", "limit": limit})
