"""What has not ended, in memory: submissions, where each of their jobs is, and the runs that were given to slots.

Pure: nothing of it reads a clock or a file. A job is in one place at a time, and `MOVES` says where it can go.
"""

from __future__ import annotations

import heapq
import sys
from collections.abc import Iterator, Mapping

from ports.jobs._model import FINISHED, PENDING, RUNNING, STATES, Capacity, JobId, Needs, Submission
from ports.jobs._store import SubmissionRow, pack

PLACE = {name: place for place, name in enumerate(STATES)}  # in `Live.counts`
#: The counts of a submission of one job, which all have in common: hundreds of thousands can wait.
_OF_ONE = {one: one for one in (tuple(int(name == state) for name in STATES) for state in STATES)}

#: Where a job is: it could begin; it waits for other jobs, or for an equal one that runs; a slot has it; it has ended.
READY, WAITS, ASIDE, GIVEN, OVER = "ready", "waits", "aside", "given", "over"
MOVES = {
    READY: frozenset({WAITS, ASIDE, GIVEN, OVER}),
    WAITS: frozenset({READY, OVER}),
    ASIDE: frozenset({READY, OVER}),
    GIVEN: frozenset({READY, ASIDE, OVER}),
    OVER: frozenset[str](),
}

Shelf = tuple[str, Needs, str]
# Most submissions never need theirs: these stand for it, and are never changed.
_NO_PLACES: dict[int, str] = {}
_NO_IDS: set[JobId] = set()
_NO_WAITS: dict[int, set[JobId]] = {}
_NO_TRIES: dict[int, tuple[int, dict[str, int]]] = {}
_NO_BACK: list[int] = []
_SHELVES: dict[Shelf, Shelf] = {}  # one object for equal ones


def shelf_of(queue: str, needs: Needs, kind: str) -> Shelf:
    """Return the shelf of jobs with these needs: equal ones are one object."""
    shelf = (queue, needs, kind)
    return _SHELVES.setdefault(shelf, shelf)


class Run:
    """One job that was given to a slot or a script, and that has not ended."""

    __slots__ = (
        "attempt", "began", "deadline", "ending", "item", "job", "live", "pid", "reason", "slot", "stamp", "used",
    )  # fmt: skip

    def __init__(self, live: Live, item: int, attempt: int, slot: str, used: dict[str, int]) -> None:
        self.live, self.item, self.attempt, self.slot, self.used = live, item, attempt, slot, used
        self.job = pack(live.number, item)
        self.began: float | None = None  # said by `begun` or `started`
        self.stamp: str | None = None  # of that moment, by the clocks that nobody sets
        self.deadline: float | None = None  # of the monotonic clock
        self.ending: str | None = None  # "cancel" or "timeout", when its end was asked for
        self.reason: str | None = None  # of that
        self.pid: int | None = None  # of a function: the process that runs it, said by `begun`

    @property
    def id(self) -> JobId:
        """The id of the job."""
        return self.live.id_of(self.item)

    @property
    def shelf(self) -> Shelf:
        """The shelf that it came from: its needs are those of its attempt."""
        return self.live.shelf_of(self.item)


class Line:
    """The ready jobs of one submission whose needs have grown, on a shelf of their own."""

    __slots__ = ("back", "is_on_shelf", "n_ready")

    def __init__(self) -> None:
        self.back: list[int] = []
        self.n_ready, self.is_on_shelf = 0, False


class Grown:
    """The jobs of one submission whose needs have grown since they ended by their memory."""

    __slots__ = ("lines", "shelves")

    def __init__(self) -> None:
        self.shelves: dict[int, Shelf] = {}
        self.lines: dict[Shelf, Line] = {}


class Live:
    """One submission with jobs that have not ended.

    `where` has the place of each job that something happened to; from `next_item` on, the others are ready, and before
    it they are over. `back` is the heap of those that are ready again: what is not ready any more is skipped there.
    """

    __slots__ = (
        "back",
        "began",
        "count",
        "counts",
        "digest",
        "ended",
        "grown",
        "is_map",
        "is_on_shelf",
        "key",
        "n_ended",
        "n_ready_here",
        "next_item",
        "not_before",
        "number",
        "reason",
        "shelf",
        "spec",
        "tried",
        "waits",
        "waits_for",
        "where",
    )

    def __init__(self, row: SubmissionRow, spec: Submission, capacity: Capacity) -> None:
        self.number, self.began = row.number, row.began
        self.key = row.key if spec.kind == "script" else None  # of the file with its environment
        self.digest = sys.intern(row.digest)
        self.ended, self.reason = row.ended, row.reason
        counts = tuple(row.counts)
        self.spec, self.counts = spec, _OF_ONE.get(counts, counts)
        self.is_map, self.count = row.count is not None, 1 if row.count is None else row.count
        self.shelf = shelf_of(spec.queue, spec.needs.on(capacity), spec.kind)
        self.n_ended = sum(row.counts[PLACE[RUNNING] + 1 :])
        self.next_item = 0
        self.where = _NO_PLACES
        self.back = _NO_BACK
        self.n_ready_here = self.count  # on its own shelf
        self.grown: Grown | None = None
        self.waits = _NO_WAITS
        self.waits_for = _NO_IDS  # all of its jobs do
        self.not_before = spec.at
        self.tried = _NO_TRIES  # attempts and retries of pending jobs that had some
        self.is_on_shelf = False

    def count_change(self, before: int, after: int) -> None:
        """Count a job in another state than before."""
        counts = list(self.counts)
        counts[before] -= 1
        counts[after] += 1
        found = tuple(counts)
        self.counts = _OF_ONE.get(found, found)

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

    # --- where its jobs are ---

    def place(self, item: int) -> str:
        """Return where a job is."""
        found = self.where.get(item)
        return found if found is not None else READY if item >= self.next_item else OVER

    def move(self, item: int, to: str) -> None:
        """Let a job go to another place; raises ValueError where it cannot go there from its place."""
        before = self.place(item)
        if to not in MOVES[before]:
            raise ValueError(f"job {self.id_of(item)} cannot go from {before} to {to}")
        if before is READY or to is READY:
            self._count_ready(item, 1 if to is READY else -1)
        if before is WAITS:
            del self.waits[item]
        if to is OVER:
            self._forget(item)
        else:
            self._set(item, to)

    def _set(self, item: int, to: str) -> None:
        if not self.where:
            self.where = {}
        self.where[item] = to

    def _forget(self, item: int) -> None:
        """Let a job be over."""
        if item >= self.next_item:
            self._set(item, OVER)  # until `pop` comes there
        else:
            self.where.pop(item, None)
        if self.grown is not None:
            self.grown.shelves.pop(item, None)

    def _count_ready(self, item: int, by: int) -> None:
        """Count a job that is ready now, or not any more."""
        line = self._line(item)
        if line is not None:
            line.n_ready += by
        else:
            self.n_ready_here += by
        if by > 0:
            if line is None and not self.back:
                self.back = []
            heapq.heappush(self.back if line is None else line.back, item)

    def _line(self, item: int) -> Line | None:
        """Return the line of a job whose needs have grown; None for others."""
        shelf = None if self.grown is None else self.grown.shelves.get(item)
        return None if shelf is None or self.grown is None else self.grown.lines[shelf]

    def shelf_of(self, item: int) -> Shelf:
        """Return the shelf of a job: that of the submission, unless its needs have grown."""
        return self.shelf if self.grown is None else self.grown.shelves.get(item, self.shelf)

    def grow(self, item: int, needs: Needs) -> None:
        """Let a job that is not ready need more from now on."""
        shelf = shelf_of(self.spec.queue, needs, self.spec.kind)
        self.grown = self.grown or Grown()
        self.grown.shelves[item] = shelf
        self.grown.lines.setdefault(shelf, Line())

    def shelves(self) -> list[Shelf]:
        """Return the shelves on which it has ready jobs, and is not yet."""
        if self.is_held:
            return []
        found = [] if self.is_on_shelf or not self.n_ready_here else [self.shelf]
        if self.grown is not None:
            lines = self.grown.lines.items()
            found += [shelf for shelf, line in lines if line.n_ready and not line.is_on_shelf]
        return found

    def note_shelf(self, shelf: Shelf, is_on_it: bool) -> None:
        """Note that it is on a shelf now, or not any more."""
        if shelf is self.shelf:
            self.is_on_shelf = is_on_it
        elif self.grown is not None:
            self.grown.lines[shelf].is_on_shelf = is_on_it

    def n_ready(self, shelf: Shelf) -> int:
        """Return how many of its jobs on a shelf could begin now if there was room."""
        if self.is_held:
            return 0
        if shelf is self.shelf:
            return self.n_ready_here
        line = None if self.grown is None else self.grown.lines.get(shelf)
        return 0 if line is None else line.n_ready

    def pop(self, shelf: Shelf) -> int | None:
        """Give out the first ready job of a shelf; None if there is none."""
        is_here = shelf is self.shelf
        back = self.back if is_here or self.grown is None else self.grown.lines[shelf].back
        while back:
            item = heapq.heappop(back)
            if self.where.get(item) is READY:
                self.move(item, GIVEN)
                return item
        while is_here and self.next_item < self.count:
            item = self.next_item
            self.next_item += 1
            if (found := self.where.get(item)) is None:
                self._set(item, GIVEN)
                self.n_ready_here -= 1
                return item
            if found is OVER:
                del self.where[item]
        return None

    def wait_for(self, item: int | None, id: JobId) -> None:
        """Let a ready job, or all of them, wait for another job."""
        if item is None:
            if not self.waits_for:
                self.waits_for = set()
            self.waits_for.add(id)
            return
        if self.place(item) is not WAITS:
            self.move(item, WAITS)
        if not self.waits:
            self.waits = {}
        self.waits.setdefault(item, set()).add(id)

    def remember(self, item: int, attempt: int, used: dict[str, int]) -> None:
        """Remember the attempts and retries of a pending job."""
        if not self.tried:
            self.tried = {}
        self.tried[item] = attempt, used

    def pending(self) -> Iterator[int]:
        """Yield the items of all pending jobs that no slot has."""
        yield from (item for item, place in self.where.items() if place is not GIVEN and place is not OVER)
        yield from (item for item in range(self.next_item, self.count) if item not in self.where)

    def is_pending(self, item: int) -> bool:
        """Say whether that job is pending, and no slot has it."""
        return item < self.count and self.place(item) in (READY, WAITS, ASIDE)

    def withdraw_all(self) -> list[int]:
        """Let all pending jobs be over, and return their items."""
        items = sorted(self.pending())
        self.where = {item: place for item, place in self.where.items() if place is GIVEN} or _NO_PLACES
        self.back, self.n_ready_here, self.next_item = _NO_BACK, 0, self.count
        self.waits = _NO_WAITS
        if self.grown is not None:
            self.grown.shelves = {item: shelf for item, shelf in self.grown.shelves.items() if item in self.where}
            for line in self.grown.lines.values():
                line.back, line.n_ready = [], 0
        return items

    def restore(self, places: Mapping[int, str]) -> None:
        """Put jobs where they were when the queue was last open: those that `places` names were touched."""
        self.next_item = max(places, default=-1) + 1
        self.where, self.back, self.n_ready_here = {}, [], self.count - self.next_item
        for item in range(self.next_item):
            if (place := places.get(item, READY)) is not OVER:
                self.where[item] = place
                if place is READY:
                    self._count_ready(item, 1)
