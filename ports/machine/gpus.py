"""GPUs of this machine: who uses them, and which a cluster gets."""

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
    """Return the GPUs with who uses how many bytes of each, JSON-able; none where NVML knows none."""
    found = []
    for gpu in _nvml.gpus():
        users: dict[str, int] = {}
        for pid, used in gpu.processes.items():
            user = _user(pid)
            users[user] = users.get(user, 0) + used
        known = {key: value for key, value in vars(gpu).items() if key != "processes"}
        found.append({**known, "users": users})
    return found


def for_workers(asked: Mapping[str, Any], environ: Mapping[str, str], held: Mapping[str, str]) -> dict[str, Any]:
    """Return how many workers a cluster has with GPUs, and which they take, one after the other.

    Parameters
    ----------
    asked : mapping
        Options of a cluster: ``gpus`` of each worker, ``n_workers``.
    environ : mapping
        The starter's variables: a cluster gets no GPU beside those of its ``CUDA_VISIBLE_DEVICES``.
    held : mapping
        UUIDs that other clusters of this user hold, to their names: NVML shows no worker that computes nothing there.

    Raises
    ------
    UsageError
        There are not as many, or it cannot be known which a number means.
    """
    if not asked["gpus"]:
        return {}
    found = _nvml.gpus()
    usable, within = visible(found, environ), environ.get("CUDA_VISIBLE_DEVICES")
    return choose(usable, asked["gpus"], asked["n_workers"], others=_others(found), held=held, within=within)


def choose(
    usable: Sequence[Gpu],
    each: int,
    n_workers: int | str | None,
    *,
    others: Mapping[str, int],
    held: Mapping[str, str],
    within: str | None = None,
) -> dict[str, Any]:
    """Return ``n_workers``, and as ``gpu_ids`` all of `usable`, in the order in which workers take them. Pure.

    Those that others use come last, before them those that clusters of mine hold. Without a number of workers there
    are as many as free GPUs suffice for, at least one; ``"all"`` takes the rest too. Raises as `for_workers`.
    """
    order = sorted(usable, key=lambda gpu: _rank(gpu, others, held))
    free = [gpu for gpu in order if not others.get(gpu.uuid) and gpu.uuid not in held]
    if n_workers is None or n_workers == "all":
        n_workers = max(1, len(order if n_workers == "all" else free) // each)
    if each * max(1, int(n_workers)) > len(order):  # a cluster without workers may get some
        there = f"{len(order)} of them" if order else "none that NVML knows"
        there += f" in CUDA_VISIBLE_DEVICES={within}" if within is not None else ""
        hint = "ask for fewer" if order else 'install the driver\'s NVML and `pip install "ports[gpu]"`, or gpus=0'
        raise UsageError(f"gpus is {each} for each of {n_workers} workers, and there is {there}; {hint}")
    if each > 1 and any(gpu.uuid.startswith(_PART) for gpu in order):
        raise UsageError(
            f"gpus is {each}, and CUDA_VISIBLE_DEVICES={within} names parts of GPUs (MIG), of which CUDA gives a "
            "process one; pass gpus=1"
        )
    return {"n_workers": n_workers, "gpu_ids": tuple(gpu.uuid for gpu in order)}


def ordered(gpu_ids: Sequence[str], *, own: Collection[str], held: Mapping[str, str]) -> tuple[str, ...]:
    """Return the GPUs of a cluster as its workers shall take them now: first its `own`, last those that others use."""
    found = _nvml.gpus()
    known, others = {gpu.uuid: gpu for gpu in found}, _others(found)
    order = [known.get(uuid) or Gpu(index=number, uuid=uuid, name="") for number, uuid in enumerate(gpu_ids)]
    order.sort(key=lambda gpu: (gpu.uuid not in own, *_rank(gpu, others, held)))
    return tuple(gpu.uuid for gpu in order)


def check_number(gpu_ids: Sequence[str], each: int, n_workers: int) -> None:
    """Look whether a cluster has `each` of `gpu_ids` for as many workers; raises UsageError where it has not."""
    if each * n_workers > len(gpu_ids):
        raise UsageError(
            f"gpus is {each} for each of {n_workers} workers, and this cluster may use {len(gpu_ids)}: scale to at "
            f"most {len(gpu_ids) // each}, or pass force=True (--force): workers then share them"
        )


def shared(taken: Collection[str], held: Mapping[str, str]) -> str | None:
    """Return which of the GPUs `taken` somebody else has as well, in words; None where nobody has."""
    others = _others(_nvml.gpus()) if taken else {}
    said = [f"{uuid} by your cluster {held[uuid]!r}" for uuid in taken if uuid in held]
    said += [f"{uuid} by other users" for uuid in taken if others.get(uuid)]
    return f"GPUs that workers get are used already: {', '.join(said)}; `ports who` shows by whom" if said else None


def visible(found: Sequence[Gpu], environ: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that a process with these variables may use. Pure.

    Raises
    ------
    UsageError
        They are named by numbers, and CUDA may count in another order than NVML does.
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
            f"CUDA_VISIBLE_DEVICES={named} has numbers, and there are GPUs of several models, which CUDA counts in an "
            "order of its own: set CUDA_DEVICE_ORDER=PCI_BUS_ID, or name GPUs by UUID (`nvidia-smi -L` shows them)"
        )
    usable: list[Gpu] = []
    for word in words:
        gpus = [gpu for gpu in found if word == str(gpu.index) or (len(word) > 4 and gpu.uuid.startswith(word))]
        if word.startswith(_PART):  # NVML lists it below its GPU, and who uses it is not asked
            gpus = [Gpu(index=len(found) + len(usable), uuid=word, name="MIG")]
        usable += [gpu for gpu in gpus if gpu not in usable]
    return usable


def _rank(gpu: Gpu, others: Mapping[str, int], held: Mapping[str, str]) -> tuple[int, ...]:
    return others.get(gpu.uuid, 0), gpu.uuid in held, len(gpu.processes), gpu.used_bytes or 0, gpu.index


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
        return "others"  # hidepid, or it has just ended
    return user_name(uid)
