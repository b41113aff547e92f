"""The shelves with ready jobs, by what they need, and which of them is next: by priority, then by age. Pure."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Mapping

from ports.jobs._live import Live, Shelf
from ports.jobs._room import FEW, MOST_OF_A_BATCH, Pace, Room

_MOST_SLOTS = 1024
_LOOKED = 1024  # submissions, to see how many jobs wait: hundreds of thousands can
_PATIENCE_SECONDS = 600.0  # for which smaller jobs pass a wide one


class Shelves:
    """All ready jobs. `limits` is how many slots work for a queue at once."""

    def __init__(self, lives: Mapping[int, Live], room: Room, limits: Mapping[str, int]) -> None:
        self.lives, self.room, self.limits = lives, room, limits
        self._heaps: dict[Shelf, list[tuple[int, int]]] = {}
        self.passed: int | None = None  # the submission with a wide job that smaller ones passed, and since when
        self._passed_since = 0.0

    def __bool__(self) -> bool:
        """Say whether any job could be given out if there was room."""
        return bool(self._heaps)

    def put(self, live: Live) -> None:
        """Put a submission that has ready jobs where slots find it."""
        for shelf in live.shelves():
            heapq.heappush(self._heaps.setdefault(shelf, []), (-live.spec.priority, live.number))
            live.note_shelf(shelf, True)

    def top(self, shelf: Shelf) -> Live | None:
        """Return the submission of a shelf whose job is next; None if the shelf is empty."""
        heap = self._heaps.get(shelf)
        while heap:
            live = self.lives.get(heap[0][1])
            if live is not None and live.n_ready(shelf):
                return live
            if live is not None:
                live.note_shelf(shelf, False)
            heapq.heappop(heap)
        self._heaps.pop(shelf, None)
        return None

    def is_full(self, queue: str) -> bool:
        """Say whether as many slots work for a queue as may."""
        limit = self.limits.get(queue)
        return limit is not None and self.room.n_of_queue.get(queue, 0) >= limit

    def next(self, kinds: frozenset[str], now: float) -> Shelf | None:
        """Return the shelf with the job that is next among those that fit; `now` is monotonic.

        Smaller jobs pass a wide one that does not fit yet, for 10 minutes. Then they wait until it fits.
        """
        heads: list[tuple[tuple[int, int], Shelf]] = []
        for shelf in list(self._heaps):
            if shelf[2] in kinds and self.top(shelf) is not None and not self.is_full(shelf[0]):
                heads.append((self._heaps[shelf][0], shelf))
        if len(heads) > 1:
            heads.sort(key=lambda one: one[0])
        for head, shelf in heads:
            if self.room.why_not(shelf[1]) is None:
                if self.passed == head[1]:
                    self.passed = None
                return shelf
            if self.passed is None and self.room.would_fit(shelf[1]):
                self.passed, self._passed_since = head[1], now
            if self.passed == head[1] and now - self._passed_since > _PATIENCE_SECONDS:
                return None
        return None

    def why_not(self, number: int, shelf: Shelf) -> str:
        """Return in words why a ready job of a shelf does not run."""
        queue, needs, _ = shelf
        if self.is_full(queue):
            return f"waits for queue {queue}: at most {self.limits[queue]} at once"
        why = self.room.why_not(needs)
        if why is None and self.passed is not None and self.passed != number:
            return f"waits for a slot, or for {self.passed}, which needs more"
        return why or "waits for a slot"

    @property
    def is_waiting(self) -> bool:
        """Whether a job is ready, whether or not there is room for it."""
        return any(self.top(shelf) is not None for shelf in list(self._heaps))

    def _n_ready(self, shelf: Shelf, most: int, looked: int | None = None) -> int:
        """Return how many jobs of a shelf could begin, at most `most`, and of `looked` submissions: not of all."""
        n_ready, seen = 0, set[int]()
        for _, number in itertools.islice(self._heaps[shelf], looked):
            if n_ready >= most:
                break
            live = self.lives.get(number)
            if live is not None and number not in seen:
                seen.add(number)
                n_ready += live.n_ready(shelf)
        return min(n_ready, most)

    def batch(self, shelf: Shelf, live: Live, pace: Pace) -> int:
        """Return how many jobs of `live`, the next ones of a shelf, a slot gets: others get their part of what waits.

        Each cpu gets some twice, so that no slot has much to do when the others have nothing more.
        """
        fits = 1 if live.spec.kind == "script" else pace.batch(live.digest)
        if fits <= FEW:
            return fits
        n_parts = 2 * max(1, math.ceil(self.room.capacity.cpus))
        return min(fits, max(FEW, self._n_ready(shelf, n_parts * MOST_OF_A_BATCH, _LOOKED) // n_parts))

    def wanted(self, pace: Pace) -> int:
        """Return how many more slots would have work now."""
        room = self.room.copy()
        n_more = 0
        for shelf in sorted(self._heaps, key=lambda one: self._heaps[one][0] if self._heaps[one] else (0, 0)):
            live = self.top(shelf)
            if live is None:
                continue
            queue, needs, kind = shelf
            limit = self.limits.get(queue, _MOST_SLOTS) - room.n_of_queue.get(queue, 0)
            fits = room.how_often(needs, min(limit, _MOST_SLOTS - n_more))
            batch = 1 if kind == "script" or live.spec.isolate else min(pace.batch(live.digest), FEW)
            for _ in range(-(-self._n_ready(shelf, fits * batch) // batch)):
                room.book(f"wanted-{n_more}", queue, needs)
                n_more += 1
        return n_more
