"""What is asked of the scheduler of a running cluster: other workers, new workers, workers back."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ports import machine
from ports.clusters import _dask, _gpus, _options
from ports.clusters._options import ClusterRecord
from ports.clusters._snapshot import Snapshot, with_promises
from ports.errors import DaskError, UsageError, warn
from ports.machine import fair_share
from ports.probe import promises
from ports.state import record_this_interpreter, records, settings, wait_until

_CALL_SECONDS = 60.0
_CLOCK_SECONDS = 0.02  # the times of files come from a coarser clock


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


def adapt(now: Snapshot, bounds: Mapping[str, Any], interval: float, target_duration: float, wait_count: int) -> None:
    """Let the number of workers follow the tasks; raises as `Cluster.adapt`."""
    now.refresh()
    record, limit = now.record, now.record.memory_limit
    minimum, maximum = _options.adapt_bounds(record, bounds)
    arguments: dict[str, Any] = {}
    if record.divided_bytes and limit:
        limit = arguments["memory_limit"] = fair_share.divide(maximum, record.divided_bytes, record.most_memory)
    if isinstance(limit, int) and maximum > (record.n_workers or 0) and not settings.get("cluster.force"):
        room = replace(machine.room(without=now.running.process.pid), own_clusters=with_promises(now.name))
        fair_share.check(room, maximum, limit, record.memory_typed)
    arguments |= _gpus.for_scale(now, maximum, force=False)
    how = {"bounds": (minimum, maximum, wait_count), "interval": interval, "target_duration": target_duration}
    _call(now, "ports_adapt", **how, **arguments)
    if isinstance(limit, int) and limit != record.memory_limit:
        changed = {**record.to_json(), "memory_limit": limit}
        changed["explained"] = fair_share.describe_division(maximum, limit, record.divided_bytes)
        records.write(now.found.files.record, ClusterRecord.from_json(changed))
    now.refresh()


def look_again(now: Snapshot, n_asked: int | str | None) -> Snapshot:
    """Reduce a cluster that has just started if somebody else's start was first, and its size did not know of it.

    What was asked for stays: `n_asked` workers, or their memory. It is the cluster whose promise was published later.
    """
    record = now.record
    is_share = bool(record.divided_bytes) or n_asked is None
    if is_share and not (record.force or record.takes_all) and record.promise and _came_second(record):
        _reduce(now, n_asked)
    return now


def _reduce(now: Snapshot, n_asked: int | str | None) -> None:
    """Give a cluster the size that it gets now, if that is less."""
    now.refresh()
    record = now.record
    room = replace(machine.room(without=now.running.process.pid), own_clusters=with_promises(now.name))
    limit = None if record.divided_bytes else record.memory_limit
    asked = {"n_workers": n_asked, "threads_per_worker": record.threads_per_worker, "memory_limit": limit}
    size = fair_share.decide(room, {**asked, "memory_typed": record.memory_typed}, processes=record.processes)
    before = (record.n_workers or 0) * int(record.memory_limit or 0)
    if size.promised_bytes >= before or size.n_workers > (record.n_workers or 0):
        return
    arguments: dict[str, Any] = {"memory_limit": size.memory_limit} if record.divided_bytes else {}
    try:
        gpus = _gpus.for_scale(now, size.n_workers, force=True)
        _call(now, "ports_scale", n_workers=size.n_workers, **arguments, **gpus)
    except DaskError as error:
        warn(f"another cluster started at the same time, and cluster {now.name!r} was not reduced: {error}")
        return
    changed = {"n_workers": size.n_workers, "memory_limit": size.memory_limit, "explained": size.explained}
    most = size.memory_limit if size.divided_bytes else 0
    changed |= {"divided_bytes": size.divided_bytes, "most_memory": most}
    records.write(now.found.files.record, ClusterRecord.from_json({**record.to_json(), **changed}))
    warn(f"another cluster started at the same time and was first; cluster {now.name!r} now has {size.explained}")
    now.refresh()


def _came_second(record: ClusterRecord) -> bool:
    """Say whether another cluster's promise appeared since the size of this one was decided, and before its own."""
    others, mine = [], None
    for path, _ in promises.candidates(promises.DIRECTORY):
        with contextlib.suppress(OSError):
            at = Path(path).lstat().st_mtime
            if path == record.promise:
                mine = at
            else:
                others.append(at)
    return mine is not None and fair_share.came_second(mine, others, record.created_at - _CLOCK_SECONDS)


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


def ask(now: Snapshot, question: str) -> Any:
    """Return the scheduler's answer to one of Dask's own questions; raises DaskError."""
    return _call(now, question)


def _call(now: Snapshot, operation: str, **arguments: Any) -> Any:
    record_this_interpreter()
    return _dask.call(address(now), now.found.files.credentials, operation, timeout=_CALL_SECONDS, **arguments)
