"""GPUs of this machine: which users use them, and which ones a cluster gets."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from ports.errors import UsageError
from ports.machine import _nvml
from ports.machine._nvml import Gpu
from ports.probe import user_name

_PART = "MIG-"  # how the name of a part of a GPU begins


def rows() -> list[dict[str, Any]]:
    """Return the GPUs with the bytes that each user has there, JSON-able; none if NVML knows none."""
    found = []
    for gpu in _nvml.gpus():
        users: dict[str, int] = {}
        for pid, used in gpu.processes.items():
            user = _user(pid)
            users[user] = users.get(user, 0) + used
        known = {key: value for key, value in vars(gpu).items() if key != "processes"}
        found.append({**known, "users": users})
    return found


def found() -> tuple[Gpu, ...]:
    """Return the GPUs of this machine; none if NVML knows none."""
    return _nvml.gpus()


def for_workers(asked: Mapping[str, Any], environ: Mapping[str, str], used_by: Mapping[str, str]) -> dict[str, Any]:
    """Return how many workers a cluster with GPUs has, and the GPUs in the order in which workers take them.

    Parameters
    ----------
    asked : mapping
        Options of a cluster: ``gpus`` of each worker, ``n_workers``.
    environ : mapping
        The starter's variables: a cluster gets only GPUs of its ``CUDA_VISIBLE_DEVICES``.
    used_by : mapping
        UUID → name of another cluster of this user that uses it: NVML does not show workers that compute nothing there.

    Raises
    ------
    UsageError
        There are too few, or it is unknown which GPU a number means.
    """
    if not asked["gpus"]:
        return {}
    found = _nvml.gpus()
    usable, within = visible(found, environ), environ.get("CUDA_VISIBLE_DEVICES")
    return choose(usable, asked["gpus"], asked["n_workers"], others=_others(found), used_by=used_by, within=within)


def choose(
    usable: Sequence[Gpu],
    each: int,
    n_workers: int | str | None,
    *,
    others: Mapping[str, int],
    used_by: Mapping[str, str],
    within: str | None = None,
) -> dict[str, Any]:
    """Return ``n_workers``, and as ``gpu_ids`` all of `usable`, in the order in which workers take them. Pure.

    GPUs in use by others come last, before them those in use by clusters of mine. Without a number of workers there
    are as many as the free GPUs allow, at least one; ``"all"`` takes the rest, too. Raises as `for_workers`.
    """
    order = sorted(usable, key=lambda gpu: _rank(gpu, others, used_by))
    free = [gpu for gpu in order if not others.get(gpu.uuid) and gpu.uuid not in used_by]
    if n_workers is None or n_workers == "all":
        n_workers = max(1, len(order if n_workers == "all" else free) // each)
    if each * max(1, int(n_workers)) > len(order):  # a cluster without workers can get some later
        there = f"only {len(order)} available" if order else "none that NVML knows"
        there += f" in CUDA_VISIBLE_DEVICES={within}" if within is not None else ""
        hint = "ask for fewer" if order else 'install the driver\'s NVML and `pip install "ports[gpu]"`, or gpus=0'
        raise UsageError(
            f"gpus is {each} for each of {n_workers} workers, but there {'are' if order else 'is'} {there}; {hint}"
        )
    if each > 1 and any(gpu.uuid.startswith(_PART) for gpu in order):
        raise UsageError(
            f"gpus is {each}, but CUDA_VISIBLE_DEVICES={within} names parts of GPUs (MIG), and CUDA gives a process "
            "only one of these; pass gpus=1"
        )
    return {"n_workers": n_workers, "gpu_ids": tuple(gpu.uuid for gpu in order)}


def ordered(gpu_ids: Sequence[str], *, own: Collection[str], used_by: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs of a cluster in the order for its workers: first its `own`, last those in use by others."""
    found = _nvml.gpus()
    known, others = {gpu.uuid: gpu for gpu in found}, _others(found)
    order = [known.get(uuid) or Gpu(index=number, uuid=uuid, name="") for number, uuid in enumerate(gpu_ids)]
    order.sort(key=lambda gpu: (gpu.uuid not in own, *_rank(gpu, others, used_by)))
    return tuple(gpu.uuid for gpu in order)


def check_number(gpu_ids: Sequence[str], each: int, n_workers: int) -> None:
    """Check that a cluster has `each` of `gpu_ids` for so many workers; raises UsageError if not."""
    if each * n_workers > len(gpu_ids):
        raise UsageError(
            f"gpus is {each} for each of {n_workers} workers, but this cluster can use only {len(gpu_ids)}; scale to "
            f"at most {len(gpu_ids) // each}, or pass force=True (--force) to let workers share them"
        )


def shared(taken: Collection[str], used_by: Mapping[str, str]) -> str | None:
    """Return in words which of the GPUs `taken` others use as well; None if none."""
    others = _others(_nvml.gpus()) if taken else {}
    said = [f"{uuid} by your cluster {used_by[uuid]!r}" for uuid in taken if uuid in used_by]
    said += [f"{uuid} by other users" for uuid in taken if others.get(uuid)]
    return f"GPUs for these workers are already in use: {', '.join(said)}; `ports who` shows by whom" if said else None


def visible(found: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that a process with these variables may use. Pure.

    Raises
    ------
    UsageError
        They are named by numbers, and CUDA can count in another order than NVML.
    """
    named = environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [*found]
    words = [word.strip() for word in named.split(",")]
    words = words[: words.index("-1")] if "-1" in words else words  # CUDA reads no further
    numbers = {word for word in words if word.isdigit()}
    by_bus = environ.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID" or len({gpu.name for gpu in found}) < 2
    if numbers and not by_bus and not {str(gpu.index) for gpu in found} <= numbers:
        raise UsageError(
            f"CUDA_VISIBLE_DEVICES={named} has numbers, but there are GPUs of several models, which CUDA numbers in "
            "its own order; set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by UUID (`nvidia-smi -L` shows them)"
        )
    usable: list[Gpu] = []
    for word in words:
        gpus = [gpu for gpu in found if word == str(gpu.index) or (len(word) > 4 and gpu.uuid.startswith(word))]
        if word.startswith(_PART):  # NVML lists it below its GPU, and nobody asks which processes use it
            gpus = [Gpu(index=len(found) + len(usable), uuid=word, name="MIG")]
        usable += [gpu for gpu in gpus if gpu not in usable]
    return usable


def _rank(gpu: Gpu, others: Mapping[str, int], used_by: Mapping[str, str]) -> tuple[int, ...]:
    return others.get(gpu.uuid, 0), gpu.uuid in used_by, len(gpu.processes), gpu.used_bytes or 0, gpu.index


def _others(found: Sequence[Gpu]) -> dict[str, int]:
    """Return how many processes of other users each GPU has, by UUID."""
    mine = os.getuid()
    return {gpu.uuid: sum(_uid(pid) != mine for pid in gpu.processes) for gpu in found}


def _uid(pid: int) -> int | None:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}").stat().st_uid
    return None


def _user(pid: int) -> str:
    uid = _uid(pid)
    if uid is None:
        return "others"  # hidepid, or the process has just ended
    return user_name(uid)
