"""What is asked of the scheduler of a running cluster: other workers, new workers, workers back."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ports import machine
from ports.clusters import _dask, _gpus, _options
from ports.clusters._options import ClusterRecord
from ports.clusters._snapshot import Snapshot, with_promises
from ports.errors import NotFoundError, UsageError, warn
from ports.machine import fair_share
from ports.probe import promises
from ports.state import record_this_interpreter, records, settings, wait_until

_CALL_SECONDS = 60.0


def scale(now: Snapshot, n_workers: int, *, force: bool | None) -> None:
    """Set the number of workers, and write it to the record; raises as `Cluster.scale`."""
    settings.check("cluster", {"n_workers": n_workers})
    if not isinstance(n_workers, int):  # "all" belongs to a start
        raise UsageError(f"n_workers is {n_workers!r}; scale to a number of workers")
    now.refresh()
    record = now.record
    forced = bool(settings.get("cluster.force") if force is None else force)
    limit = _limit(now, n_workers, forced=forced)
    divides = bool(record.divided_bytes and limit)
    arguments: dict[str, Any] = {"memory_limit": limit} if divides else {}
    gpus = _gpus.for_scale(now, n_workers, force=forced)
    is_last = _call(now, "ports_scale", n_workers=n_workers, **arguments, **gpus)
    if is_last is False:
        warn(f"cluster {now.name!r} was scaled again before {n_workers} workers had started; it has the later size")
        now.refresh()
        return
    changed = {**record.to_json(), "n_workers": n_workers, "memory_limit": limit, "takes_all": False}
    if isinstance(limit, int):
        changed["explained"] = (
            fair_share.describe(n_workers, record.threads_per_worker or 1, limit, record.memory_typed) + ", as scaled"
        )
    if isinstance(limit, int) and divides and limit != record.memory_limit:
        changed["explained"] = fair_share.describe_division(n_workers, limit, record.divided_bytes)
        if limit < fair_share.divide(n_workers, record.divided_bytes, record.most_memory):
            changed["explained"] += "; others have taken the rest"
        warn(f"cluster {now.name!r} now has {changed['explained']}")
    records.write(now.found.files.record, ClusterRecord.from_json(changed))
    now.refresh()


def _limit(now: Snapshot, n_workers: int, *, forced: bool, adapts: bool = False) -> Any:
    """Return the memory limit of each of so many workers: as asked for, else a part of what the cluster can have now.

    Raises OverpromisedError where the machine has less, and warns where others have left less. A cluster that adapts
    looks itself at what is left.
    """
    record = now.record
    limit = record.memory_limit
    if not isinstance(limit, int) or not limit:
        return limit
    counts = now.summary or {}
    has, held = counts.get("memory_limit_bytes", 0), counts.get("memory_bytes", 0)
    has = min(has, counts.get("n_asked", 0) * limit)  # workers of other machines count in the sum
    if record.divided_bytes:
        limit = fair_share.divide(n_workers, record.divided_bytes, record.most_memory)
    if n_workers * limit <= has:
        return limit
    room = replace(machine.room(without=now.running.process.pid), own_clusters=with_promises(now.name))
    if record.divided_bytes and not forced:
        whole = min(record.divided_bytes, max(has, fair_share.can_grow_to(room, held)))
        limit = fair_share.divide(n_workers, whole, record.most_memory)
    is_more = n_workers > (record.n_workers or 0)
    if is_more and not forced:
        fair_share.check(room, n_workers, limit, record.memory_typed)
    if is_more and not adapts and not record.divided_bytes:
        for warning in fair_share.warnings_of_growth(room, held, n_workers * limit, record.memory_typed):
            warn(warning)
    return limit


def adapt(now: Snapshot, bounds: Mapping[str, Any], interval: float, target_duration: float, wait_count: int) -> None:
    """Let the number of workers follow the tasks; raises as `Cluster.adapt`."""
    now.refresh()
    record = now.record
    minimum, maximum = _options.adapt_bounds(record, bounds)
    forced = bool(settings.get("cluster.force"))
    limit = _limit(now, maximum, forced=forced, adapts=True)
    arguments: dict[str, Any] = {"memory_limit": limit} if record.divided_bytes and limit else {}
    arguments |= _gpus.for_scale(now, maximum, force=False)
    how = {"bounds": (minimum, maximum, wait_count), "interval": interval, "target_duration": target_duration}
    _call(now, "ports_adapt", **how, **arguments)
    if isinstance(limit, int) and limit != record.memory_limit:
        changed = {**record.to_json(), "memory_limit": limit}
        changed["explained"] = fair_share.describe_division(maximum, limit, record.divided_bytes)
        records.write(now.found.files.record, ClusterRecord.from_json(changed))
    now.refresh()


def look_again(now: Snapshot, n_asked: int | str | None, known: Collection[str]) -> tuple[Snapshot, str | None]:
    """Reduce a cluster that has just started if somebody else's start was first, and its size did not know of it.

    What was asked for stays: `n_asked` workers, or their memory. It is the cluster whose promise was published later.
    `known` are the promises that its size reckons with. Return what to warn of, too; nothing here ends the start.
    """
    said = None
    try:
        record = now.record
        is_share = bool(record.divided_bytes) or n_asked is None
        if is_share and not (record.force or record.takes_all) and _came_second(record, known):
            said = _reduce(now, n_asked)
    except Exception as error:  # noqa: BLE001 - the cluster runs, whatever kept this process from looking again
        what = f"cluster {now.name!r} runs, but whether another one started at the same time is unknown"
        said = f"{what}: {type(error).__name__}: {error}"
    return now, said


def _reduce(now: Snapshot, n_asked: int | str | None) -> str | None:
    """Give a cluster the size that it gets now, if that is less, and return what to say about it."""
    now.refresh()
    record = now.record
    room = replace(machine.room(without=now.running.process.pid), own_clusters=with_promises(now.name))
    limit = None if record.divided_bytes else record.memory_limit
    asked = {"n_workers": n_asked, "threads_per_worker": record.threads_per_worker, "memory_limit": limit}
    size = fair_share.decide(room, {**asked, "memory_typed": record.memory_typed}, processes=record.processes)
    before = (record.n_workers or 0) * int(record.memory_limit or 0)
    if size.promised_bytes >= before or size.n_workers > (record.n_workers or 0):
        return None
    arguments: dict[str, Any] = {"memory_limit": size.memory_limit} if record.divided_bytes else {}
    gpus = _gpus.for_scale(now, size.n_workers, force=True)
    if _call(now, "ports_scale", n_workers=size.n_workers, **arguments, **gpus) is False:
        return None  # somebody has scaled it meanwhile
    changed = {"n_workers": size.n_workers, "memory_limit": size.memory_limit, "explained": size.explained}
    most = size.memory_limit if size.divided_bytes else 0
    changed |= {"divided_bytes": size.divided_bytes, "most_memory": most}
    records.write(now.found.files.record, ClusterRecord.from_json({**record.to_json(), **changed}))
    now.refresh()
    return f"another cluster started at the same time and was first; cluster {now.name!r} now has {size.explained}"


def _came_second(record: ClusterRecord, known: Collection[str]) -> bool:
    """Say whether another cluster's promise was published before this one's, and is none of the `known` ones."""
    there = [one for one in promises.candidates(promises.DIRECTORY) if one[0] not in known]
    read = [promises.read_promise(path, uid) for path, uid in there]
    published = {one["path"]: one["published"] for one in read if one is not None}
    return fair_share.came_second(record.promise, published, known)


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
    if now.is_ending:  # `Client` would raise an error without a way out
        raise NotFoundError("running cluster", now.name, f"it is ending; `{now.start_line}` starts it again")
    _dask.prepare()
    _dask.check_address(now.running.address, now.name)  # 0.1 ms; `Client(ports.cluster())` asks nothing else
    return now.running.address


def ask(now: Snapshot, question: str) -> Any:
    """Return the scheduler's answer to one of Dask's own questions; raises DaskError."""
    return _call(now, question)


def _call(now: Snapshot, operation: str, **arguments: Any) -> Any:
    record_this_interpreter()
    where, credentials = address(now), now.found.files.credentials
    return _dask.call(where, credentials, operation, cluster=now.name, timeout=_CALL_SECONDS, **arguments)
