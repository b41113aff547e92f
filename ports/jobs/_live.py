"""What has not ended, in memory: submissions, the runs that were given to slots, and the room that they take.

Pure: it decides what fits and what comes next. Times come from the caller.
"""

from __future__ import annotations

import dataclasses
import heapq
import math
import sys
from collections.abc import Iterator

from ports import probe
from ports.jobs._model import FINISHED, PENDING, RUNNING, STATES, Available, Capacity, JobId, Needs, Submission
from ports.jobs._store import SubmissionRow, pack

PLACE = {name: place for place, name in enumerate(STATES)}  # in `Live.counts`
MOST_OF_A_BATCH, BATCH_SECONDS = 64, 0.05

Shelf = tuple[str, Needs, str]
# Most submissions never need theirs: these stand for it, and are never changed.
_NO_ITEMS: set[int] = set()
_NO_IDS: set[JobId] = set()
_NO_WAITS: dict[int, set[JobId]] = {}
_NO_TRIES: dict[int, tuple[int, dict[str, int]]] = {}
_NO_BACK: list[int] = []
_SHELVES: dict[Shelf, Shelf] = {}  # one object for equal ones


class Run:
    """One job that was given to a slot or a script, and that has not ended."""

    __slots__ = ("attempt", "began", "deadline", "ending", "item", "job", "live", "reason", "slot", "used")

    def __init__(self, live: Live, item: int, attempt: int, slot: str, used: dict[str, int]) -> None:
        self.live, self.item, self.attempt, self.slot, self.used = live, item, attempt, slot, used
        self.job = pack(live.number, item)
        self.began: float | None = None  # said by `begun` or `started`
        self.deadline: float | None = None  # of the monotonic clock
        self.ending: str | None = None  # "cancel" or "timeout", when its end was asked for
        self.reason: str | None = None  # of that

    @property
    def id(self) -> JobId:
        """The id of the job."""
        return self.live.id_of(self.item)


class Live:
    """One submission with jobs that have not ended.

    A pending job is in one place. `back` and the items from `next_item` on are ready. `waits` has those that wait for
    other jobs, `aside` those whose equal runs. `withdrawn` are items from `next_item` on that ended without running.
    """

    __slots__ = (
        "aside",
        "back",
        "began",
        "count",
        "counts",
        "created",
        "digest",
        "ended",
        "is_map",
        "is_on_shelf",
        "key",
        "n_ended",
        "next_item",
        "not_before",
        "number",
        "reason",
        "shelf",
        "spec",
        "tried",
        "waits",
        "waits_for",
        "withdrawn",
    )

    def __init__(self, row: SubmissionRow, spec: Submission) -> None:
        self.number, self.created, self.began = row.number, row.created, row.began
        self.key = row.key if spec.kind == "script" else None  # of the file with its environment
        self.digest = sys.intern(row.digest)
        self.ended, self.reason = row.ended, row.reason
        self.spec, self.counts = spec, row.counts
        self.is_map, self.count = row.count is not None, 1 if row.count is None else row.count
        shelf = (spec.queue, spec.needs, spec.kind)
        self.shelf: Shelf = _SHELVES.setdefault(shelf, shelf)
        self.n_ended = sum(row.counts[PLACE[RUNNING] + 1 :])
        self.next_item = 0
        self.back = _NO_BACK
        self.withdrawn = _NO_ITEMS
        self.waits = _NO_WAITS
        self.aside = _NO_ITEMS
        self.waits_for = _NO_IDS  # all of its jobs do
        self.not_before = spec.at
        self.tried = _NO_TRIES  # attempts and retries of pending jobs that had some
        self.is_on_shelf = False

    def id_of(self, item: int) -> JobId:
        """Return the id of one of its jobs."""
        return JobId(self.number, item if self.is_map else None)

    @property
    def has_ended(self) -> bool:
        """Whether all of its jobs have ended."""
        return not (self.counts[PLACE[PENDING]] or self.counts[PLACE[RUNNING]])

    @property
    def is_all_finished(self) -> bool:
        """Whether all of its jobs have finished, none with an error."""
        return self.counts[PLACE[FINISHED]] == self.count

    @property
    def is_held(self) -> bool:
        """Whether none of its jobs can begin, because it waits for other jobs or for its time."""
        return bool(self.waits_for) or self.not_before is not None

    @property
    def n_ready(self) -> int:
        """How many of its jobs could begin now if there was room."""
        return 0 if self.is_held else len(self.back) + self.count - self.next_item - len(self.withdrawn)

    def pop(self) -> int | None:
        """Take the first ready job; None if there is none."""
        if self.back:
            return heapq.heappop(self.back)
        while self.next_item < self.count:
            item = self.next_item
            self.next_item += 1
            if item not in self.withdrawn:
                return item
            self.withdrawn.remove(item)
        return None

    def push(self, item: int) -> None:
        """Make a job ready (again)."""
        if not self.back:
            self.back = []
        heapq.heappush(self.back, item)

    def put_aside(self, item: int) -> None:
        """Let a job that was popped wait until its equal has ended."""
        if not self.aside:
            self.aside = set()
        self.aside.add(item)

    def remember(self, item: int, attempt: int, used: dict[str, int]) -> None:
        """Remember the attempts and retries of a pending job."""
        if not self.tried:
            self.tried = {}
        self.tried[item] = attempt, used

    def wait_for(self, item: int | None, id: JobId) -> None:
        """Let a ready job, or all of them, wait for another job."""
        if item is None:
            if not self.waits_for:
                self.waits_for = set()
            self.waits_for.add(id)
            return
        if not self.waits:
            self.waits = {}
        if item not in self.waits:
            self.withdraw(item)
            self.waits[item] = set()
        self.waits[item].add(id)

    def pending(self) -> Iterator[int]:
        """Yield the items of all pending jobs that no slot has."""
        yield from self.back
        yield from (item for item in range(self.next_item, self.count) if item not in self.withdrawn)
        yield from self.waits
        yield from self.aside

    def is_pending(self, item: int) -> bool:
        """Say whether that job is pending, and no slot has it."""
        is_untouched = self.next_item <= item < self.count and item not in self.withdrawn
        return is_untouched or item in self.waits or item in self.aside or item in self.back

    def withdraw(self, item: int) -> None:
        """Take a pending job out, wherever it is."""
        if item in self.waits:
            del self.waits[item]
        elif item in self.aside:
            self.aside.remove(item)
        elif item >= self.next_item:
            if not self.withdrawn:
                self.withdrawn = set()
            self.withdrawn.add(item)
        else:
            self.back.remove(item)
            heapq.heapify(self.back)

    def withdraw_all(self) -> list[int]:
        """Take all pending jobs out, and return their items."""
        items = sorted(self.pending())
        self.back, self.withdrawn, self.next_item = _NO_BACK, _NO_ITEMS, self.count
        self.waits, self.aside = _NO_WAITS, _NO_ITEMS
        return items


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

    def book(self, slot: str, queue: str, needs: Needs, gpus: tuple[int, ...] | None = None) -> tuple[int, ...]:
        """Book what a job needs; return the GPUs that it gets: `gpus` where it has them already."""
        if gpus is None:
            gpus = tuple(sorted(self.gpus - set(self.available.taken_gpus))[: needs.gpus])
        self.booked[slot] = Booking(queue, needs.cpus, needs.memory or 0, gpus)
        self.cpus -= needs.cpus
        self.memory -= needs.memory or 0
        self.gpus -= set(gpus)
        self.n_of_queue[queue] = self.n_of_queue.get(queue, 0) + 1
        return gpus

    def release(self, slot: str) -> Booking | None:
        """Give back what a slot has booked."""
        if (booking := self.booked.pop(slot, None)) is not None:
            self.cpus += booking.cpus
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
