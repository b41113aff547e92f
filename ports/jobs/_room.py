"""The room of a resource: what is booked of its capacity, what others leave of it, and how many jobs fit into 50 ms.

Pure: it decides what fits. What others use and how long jobs take comes from the caller.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any

from ports import probe
from ports.jobs._model import Available, Capacity, Needs

MOST_OF_A_BATCH, BATCH_SECONDS = 256, 0.05
FEW = 64  # jobs, which one slot gets at once however many other slots could have some


@dataclasses.dataclass(slots=True)
class Booking:
    """What the jobs of one slot, or a script, take. A slot runs its jobs one after the other, all from one shelf."""

    queue: str
    cpus: float
    memory: int
    gpus: tuple[int, ...]


class Room:
    """What is booked of the capacity, and what others leave of it."""

    def __init__(self, capacity: Capacity) -> None:
        self.capacity, self.available = capacity, Available()
        self.booked: dict[str, Booking] = {}
        self.cpus: float = capacity.cpus
        self.memory = capacity.memory
        self.gpus = set(capacity.gpus)
        self.n_of_queue: dict[str, int] = {}

    def copy(self) -> Room:
        """Return a room that is as full, for what could be booked; its bookings cannot be released."""
        other = Room(self.capacity)
        other.available, other.cpus, other.memory = self.available, self.cpus, self.memory
        other.gpus, other.n_of_queue = set(self.gpus), dict(self.n_of_queue)
        return other

    def book(self, slot: str, queue: str, needs: Needs, gpus: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Book what a job needs; return the GPUs that it gets: `gpus` where it has them already."""
        if gpus is None:
            gpus = tuple(sorted(self.gpus - set(self.available.taken_gpus))[: needs.gpus])
        self.booked[slot] = Booking(queue, needs.cpus, needs.memory or 0, gpus)
        self.cpus = round(self.cpus - needs.cpus, 9)  # what is given back is what was taken, also of 0.1
        self.memory -= needs.memory or 0
        self.gpus -= set(gpus)
        self.n_of_queue[queue] = self.n_of_queue.get(queue, 0) + 1
        return gpus

    def release(self, slot: str) -> Booking | None:
        """Give back what a slot has booked."""
        if (booking := self.booked.pop(slot, None)) is not None:
            self.cpus = round(self.cpus + booking.cpus, 9)
            self.memory += booking.memory
            self.gpus |= set(booking.gpus) & set(self.capacity.gpus)  # it may have had more before a restart
            self.n_of_queue[booking.queue] -= 1
        return booking

    def why_not(self, needs: Needs) -> str | None:
        """Return in words what a job with these needs waits for; None if it fits now."""
        if (never := self.capacity.refuse(needs)) is not None:
            return never  # the resource had more when it was submitted
        if needs.cpus > self.cpus + 1e-9:
            return f"waits for {_amount(needs.cpus)}: {_left(self.cpus)} of {self.capacity.cpus:g} free"
        if needs.memory is not None:
            others = self.available
            free = self.memory if others.memory is None else min(self.memory, others.memory)
            if needs.memory > free:
                who = others.memory_why if others.memory is not None and needs.memory > others.memory else ""
                return f"waits for memory: {who or f'{probe.size(max(free, 0))} free'}"
        if needs.gpus > len(self.gpus - set(self.available.taken_gpus)):
            return f"waits for a GPU: {self._who_has_gpus()}"
        return None

    def free(self) -> dict[str, Any]:
        """Return what a job could have now, JSON-able: neither jobs nor other users have it."""
        others = self.available
        memory = self.memory if others.memory is None else max(0, min(self.memory, others.memory))
        return {"cpus": self.cpus, "memory": memory, "gpus": sorted(self.gpus - set(others.taken_gpus))}

    def without_jobs(self) -> dict[str, Any]:
        """Return what a job could have if no other job ran, JSON-able: what other users leave."""
        has, others = self.capacity, self.available
        memory = has.memory if others.memory is None else min(has.memory, others.memory)
        return {"cpus": has.cpus, "memory": memory, "gpus": sorted(set(has.gpus) - set(others.taken_gpus))}

    def would_fit(self, needs: Needs) -> bool:
        """Say whether it is own jobs that keep a job with these needs waiting, not other users or the machine."""
        others = self.available
        n_gpus = len(set(self.capacity.gpus) - set(others.taken_gpus))
        has_memory = needs.memory is None or others.memory is None or needs.memory <= others.memory
        return self.capacity.refuse(needs) is None and needs.gpus <= n_gpus and has_memory

    def _who_has_gpus(self) -> str:
        """Return who has the GPUs: ``0-3 bob, 4 jobs``."""
        taken = self.available.taken_gpus
        users = {index: taken.get(index) or ("free" if index in self.gpus else "jobs") for index in self.capacity.gpus}
        parts: list[list[int]] = []
        for index in sorted(users):
            if parts and users[parts[-1][0]] == users[index] and parts[-1][-1] == index - 1:
                parts[-1].append(index)
            else:
                parts.append([index])
        return ", ".join(
            (f"{part[0]}-{part[-1]}" if len(part) > 1 else f"{part[0]}") + f" {users[part[0]]}" for part in parts
        )

    def how_often(self, needs: Needs, most: int) -> int:
        """Return how often a job with these needs would fit now, at most `most`."""
        if most <= 0 or self.why_not(needs) is not None:
            return 0
        fits: list[float] = [most]
        if needs.cpus:
            fits.append((self.cpus + 1e-9) / needs.cpus)
        if needs.memory:
            left = self.available.memory
            fits.append((self.memory if left is None else min(self.memory, left)) / needs.memory)
        if needs.gpus:
            fits.append(len(self.gpus - set(self.available.taken_gpus)) / needs.gpus)
        return math.floor(min(fits))


def _amount(cpus: float) -> str:
    return f"{cpus:g} cpu" + ("" if cpus == 1 else "s")


def _left(cpus: float) -> str:
    return f"{max(round(cpus, 3), 0):g}"


class Pace:
    """How many jobs of one function a slot gets at once: 1 at first, then as many as end within 50 ms."""

    def __init__(self) -> None:
        self._batch: dict[str, int] = {}

    def batch(self, digest: str) -> int:
        """Return how many jobs of the function a slot gets at once."""
        return self._batch.get(digest, 1)

    def learn(self, digest: str, n_jobs: int, seconds: float) -> None:
        """Note that `n_jobs` of the function took so long together."""
        now = self._batch.get(digest, 1)
        each = max(seconds, 0.0) / n_jobs
        fits = BATCH_SECONDS / each if each > 0 else MOST_OF_A_BATCH
        if len(self._batch) > 10_000:
            self._batch.clear()
        self._batch[digest] = max(1, min(now * 2, int(fits), MOST_OF_A_BATCH))
