"""What is asked of the scheduler of a running cluster: other workers, new workers, workers back."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from ports import machine
from ports.clusters import _dask, _gpus
from ports.clusters._options import ClusterRecord
from ports.clusters._snapshot import Snapshot, with_promises
from ports.errors import UsageError, warn
from ports.machine import fair_share
from ports.state import record_this_interpreter, records, settings, wait_until

_CALL_SECONDS = 60.0


def scale(now: Snapshot, n_workers: int, *, force: bool | None) -> None:
    """Set the number of workers, and write it to the record; raises as `Cluster.scale`."""
    settings.check("cluster", {"n_workers": n_workers})
    if not isinstance(n_workers, int):  # "all" belongs to a start
        raise UsageError(f"n_workers is {n_workers!r}; scale to a number of workers")
    now.refresh()
    record, limit = now.record, now.record.memory_limit
    forced = bool(settings.get("cluster.force") if force is None else force)
    divides = bool(record.divided_bytes and limit)
    if divides:
        limit = fair_share.divide(n_workers, record.divided_bytes, record.most_memory)
    if isinstance(limit, int) and n_workers > (record.n_workers or 0) and not forced:
        room = replace(machine.room(without=now.running.process.pid), own_clusters=with_promises(now.name))
        fair_share.check(room, n_workers, limit, record.memory_typed)
    arguments: dict[str, Any] = {"memory_limit": limit} if divides else {}
    _call(now, "ports_scale", n_workers=n_workers, **arguments, **_gpus.for_scale(now, n_workers, force=forced))
    changed = {**record.to_json(), "n_workers": n_workers, "memory_limit": limit, "takes_all": False}
    if isinstance(limit, int):
        changed["explained"] = (
            fair_share.describe(n_workers, record.threads_per_worker or 1, limit, record.memory_typed) + ", as scaled"
        )
    if isinstance(limit, int) and divides and limit != record.memory_limit:
        changed["explained"] = fair_share.describe_division(n_workers, limit, record.divided_bytes)
        warn(f"cluster {now.name!r} now has {changed['explained']}")
    records.write(now.found.files.record, ClusterRecord.from_json(changed))
    now.refresh()


def restart(now: Snapshot) -> None:
    """Start all workers again; raises as `Cluster.restart`."""
    now.refresh()
    before = now.running
    _call(now, "ports_restart")
    if not now.record.processes:  # the owner itself starts again, and then announces itself again

        def is_back() -> bool | None:
            now.refresh()
            return True if now.found.running != before else None

        wait_until(is_back, timeout=_CALL_SECONDS, what=f"cluster {now.name!r}")
    now.refresh()


def wait_for_workers(now: Snapshot, n_workers: int, timeout: float | None) -> None:
    """Wake a resting cluster and wait until it has `n_workers`; raises as `Cluster.wait_for_workers`."""
    _call(now, "ports_wake")

    def are_there() -> bool | None:
        now.refresh()
        return True if (now.summary or {}).get("n_workers", 0) >= n_workers else None

    what = f"{n_workers} workers of cluster {now.name!r}"
    wait_until(are_there, timeout=math.inf if timeout is None else timeout, what=what, every=0.05)


def address(now: Snapshot) -> str:
    """Return the scheduler's address, once it is known to be this user's; raises as `Cluster.scheduler_address`."""
    _dask.prepare()
    _dask.check_address(now.running.address)  # 0.1 ms; `Client(ports.cluster())` asks nothing else
    return now.running.address


def _call(now: Snapshot, operation: str, **arguments: Any) -> None:
    record_this_interpreter()
    _dask.call(address(now), now.found.files.credentials, operation, timeout=_CALL_SECONDS, **arguments)
