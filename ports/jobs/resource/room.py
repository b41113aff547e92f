"""What the machine has for jobs, and what other users leave of it at this moment."""

from __future__ import annotations

import contextlib

from ports import machine, sessions
from ports.errors import UsageError
from ports.jobs._model import Available, Capacity
from ports.machine import gpus
from ports.probe import size

_INTERVAL = 0.001  # seconds between the two looks at who computes, which nothing here asks


def capacity() -> Capacity:
    """Return what jobs can have of this machine at all: cores, memory, and the GPUs that this process may use."""
    room = machine.room(interval=_INTERVAL)
    return Capacity(cpus=room.my_cores, memory=room.may_have, gpus=tuple(sorted(uuids())))


def uuids() -> dict[int, str]:
    """Return the GPUs that jobs can have: index → UUID, which means the same to NVML and to CUDA."""
    with contextlib.suppress(UsageError):  # numbers that nobody can read: no GPUs, rather than others'
        return {gpu.index: gpu.uuid for gpu in gpus.visible(gpus.found(), sessions.surroundings.of_this_process())}
    return {}


def available(whole: int) -> Available:
    """Return what others leave: of `whole` bytes of memory, and on which GPUs somebody else computes."""
    now = machine.usage(interval=_INTERVAL)
    others = [one for one in now.users if not one.is_me]
    used = sum(one.memory_bytes for one in others)
    most = max((one for one in others if one.is_person), key=lambda one: one.memory_bytes, default=None)
    why = f"{most.user} has {size(most.memory_bytes)}" if most is not None and most.memory_bytes > whole / 50 else ""
    me = next((one.user for one in now.users if one.is_me), "")
    taken = {
        row["index"]: ", ".join(sorted(user for user in row["users"] if user != me))
        for row in now.gpus or ()
        if any(user != me for user in row["users"])
    }
    return Available(memory=max(0, whole - used), taken_gpus=taken, memory_why=why)
