"""GPUs of this machine: who uses them, and which a cluster gets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ports import peers
from ports.adapters import nvml
from ports.adapters.nvml import Gpu
from ports.errors import UsageError


def rows() -> list[dict[str, Any]]:
    """Return the GPUs with who uses how many bytes of each, JSON-able; none where NVML knows none."""
    found = []
    for gpu in nvml.gpus():
        users: dict[str, int] = {}
        for pid, used in gpu.processes.items():
            user = _user(pid)
            users[user] = users.get(user, 0) + used
        known = {key: value for key, value in vars(gpu).items() if key != "processes"}
        found.append({**known, "users": users})
    return found


def for_workers(asked: Mapping[str, Any], visible: str | None) -> dict[str, Any]:
    """Return which GPUs the workers of a cluster share out among them, and how many workers that makes.

    Parameters
    ----------
    asked : mapping
        Options of a cluster: ``gpus`` of each worker, ``n_workers``.
    visible : str, optional
        The starter's own ``CUDA_VISIBLE_DEVICES``: a cluster gets none beside them.

    Raises
    ------
    UsageError
        There are not as many.
    """
    if not asked["gpus"]:
        return {}
    found, mine = nvml.gpus(), os.getuid()
    others = {gpu.uuid: sum(_uid(pid) != mine for pid in gpu.processes) for gpu in found}
    return choose(found, asked["gpus"], asked["n_workers"], others=others, visible=visible)


def choose(
    found: Sequence[Gpu], each: int, n_workers: int | str | None, *, others: Mapping[str, int], visible: str | None
) -> dict[str, Any]:
    """Return ``n_workers`` and ``gpu_ids``, those that others use last; raises as `for_workers`. Pure.

    Without a number of workers there are as many as free GPUs suffice for, at least one; ``"all"`` takes others' too.
    """
    usable = [gpu for gpu in found if is_visible(gpu, visible)]
    usable.sort(key=lambda gpu: (others.get(gpu.uuid, 0), len(gpu.processes), gpu.used_bytes or 0, gpu.index))
    free = [gpu for gpu in usable if not others.get(gpu.uuid)]
    if n_workers is None or n_workers == "all":
        n_workers = max(1, len(usable if n_workers == "all" else free) // each)
    needed = each * int(n_workers)
    if needed > len(usable):
        there = f"{len(usable)} of them" if usable else "none that NVML knows"
        within = f" in CUDA_VISIBLE_DEVICES={visible}" if visible is not None else ""
        way_out = "ask for fewer" if usable else 'install the driver\'s NVML and `pip install "ports[gpu]"`, or gpus=0'
        raise UsageError(f"gpus is {each} for each of {n_workers} workers, and there is {there}{within}; {way_out}")
    return {"n_workers": n_workers, "gpu_ids": tuple(gpu.uuid for gpu in usable[:needed])}


def is_visible(gpu: Gpu, visible: str | None) -> bool:
    """Say whether a process with this ``CUDA_VISIBLE_DEVICES`` may use `gpu`: numbers, or beginnings of UUIDs."""
    if visible is None:
        return True
    named = [one.strip() for one in visible.split(",")]
    return any(one == str(gpu.index) or (len(one) > 4 and gpu.uuid.startswith(one)) for one in named)


def _uid(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid
    return None


def _user(pid: int) -> str:
    uid = _uid(pid)
    if uid is None:
        return "others"  # hidepid, or it has just ended
    return peers.name_of(uid)
