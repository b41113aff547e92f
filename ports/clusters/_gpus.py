"""Which GPUs the workers of a cluster get, at its start and when it is scaled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ports import sessions
from ports.clusters._options import KIND, ClusterRecord
from ports.clusters._snapshot import Snapshot
from ports.errors import warn
from ports.machine import fair_share, gpus


def for_start(record: ClusterRecord, environ: Mapping[str, str]) -> ClusterRecord:
    """Return the record of a new cluster with its GPUs, and as many workers as they suffice for if none were asked for.

    Warns of GPUs that are in use already.
    """
    in_use = _of_other_clusters(record.name)
    asked = {"gpus": record.gpus, "n_workers": fair_share.ALL if record.takes_all else record.n_workers}
    chosen = gpus.for_workers(asked, environ, in_use)
    _warn_of_shared(chosen["gpu_ids"][: record.gpus * chosen["n_workers"]], in_use)
    return replace(record, **chosen)


def for_scale(now: Snapshot, n_workers: int, *, force: bool) -> dict[str, Any]:
    """Return ``gpu_ids`` in the order in which new workers take them; warns of those that are in use already.

    Raises
    ------
    UsageError
        The cluster has too few GPUs for `n_workers`, without `force`.
    """
    record = now.record
    if not record.gpus:
        return {}
    if not force:
        gpus.check_number(record.gpu_ids, record.gpus, n_workers)
    in_use, own = _of_other_clusters(now.name), (now.summary or {}).get("gpu_ids") or ()
    order = gpus.ordered(record.gpu_ids, own=own, used_by=in_use)
    _warn_of_shared([one for one in order[: n_workers * record.gpus] if one not in own], in_use)
    return {"gpu_ids": order}


def _warn_of_shared(taken: Sequence[str], in_use: Mapping[str, str]) -> None:
    if (warning := gpus.shared(taken, in_use)) is not None:
        warn(warning)


def _of_other_clusters(own: str) -> dict[str, str]:
    """Return the GPUs of my clusters on this machine except `own`: UUID → name of the cluster."""
    in_use: dict[str, str] = {}
    for name in sessions.names(KIND):
        found = sessions.find(KIND, name, ClusterRecord) if name != own else None
        if found is None or found.record is None or not found.record.gpus or found.state == "stopped":
            continue
        record, summary = found.record, Snapshot(found).summary or {}
        as_started = record.gpu_ids[: record.gpus * (record.n_workers or 0)]  # while it starts, or is busy
        in_use.update(dict.fromkeys(summary.get("gpu_ids", as_started), name))
    return in_use
