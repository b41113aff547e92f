"""Requests whose answer comes later: slots that wait for work, and clients that wait for results or changes."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Hashable, Iterable

from ports.jobs._model import JobId

EVERY_SECONDS = 0.1  # a watch says no more often than that what changed


@dataclasses.dataclass(slots=True)
class Claim:
    """A slot that waits for work. `known` are the digests of functions that it has."""

    connection: Hashable
    n: object
    slot: str
    most: int
    known: frozenset[str]
    kinds: frozenset[str]
    worker: str


@dataclasses.dataclass(slots=True)
class Result:
    """A client that waits for the result of one job; `until` is of the monotonic clock, None for ever."""

    connection: Hashable
    n: object
    id: JobId
    until: float | None


@dataclasses.dataclass(slots=True)
class Stream:
    """A client that gets the results of a map in the order of their end; `place` is the next one."""

    connection: Hashable
    n: object
    number: int
    place: int
    until: float | None


@dataclasses.dataclass(slots=True)
class Watch:
    """A client that hears of each change of some jobs; `said` is when it last heard, of the monotonic clock."""

    connection: Hashable
    n: object
    ids: tuple[JobId, ...]
    said: float = -1.0
    has_news: bool = True


class Waiting:
    """All requests that are held. `changed` are the submissions of which something is to be told."""

    def __init__(self) -> None:
        self.claims: dict[str, Claim] = {}  # by slot, the longest waiting first
        self.results: dict[int, list[Result]] = {}  # by the submission's number
        self.streams: dict[int, list[Stream]] = {}
        self.watches: list[Watch] = []
        self._by_number: dict[int, list[Watch]] = {}

    def add_watch(self, watch: Watch) -> None:
        """Hold a watch."""
        self.watches.append(watch)
        for number in {one.number for one in watch.ids}:
            self._by_number.setdefault(number, []).append(watch)

    def remove_watch(self, watch: Watch) -> None:
        """Forget a watch."""
        self.watches.remove(watch)
        for number in {one.number for one in watch.ids}:
            self._by_number[number].remove(watch)
            if not self._by_number[number]:
                del self._by_number[number]

    def changed(self, numbers: Iterable[int]) -> None:
        """Note that something of these submissions changed."""
        if self._by_number:
            for number in numbers:
                for watch in self._by_number.get(number, ()):
                    watch.has_news = True

    def gone(self, connection: Hashable) -> None:
        """Forget what a connection waits for."""
        self._keep(lambda one: one.connection != connection)

    def answered(self, requests: Collection[tuple[Hashable, object]]) -> None:
        """Forget requests, by connection and number."""
        if requests:
            self._keep(lambda one: (one.connection, one.n) not in requests)

    def _keep(self, is_kept: Callable[[Claim | Result | Stream | Watch], bool]) -> None:
        self.claims = {slot: one for slot, one in self.claims.items() if is_kept(one)}
        results = {number: [one for one in held if is_kept(one)] for number, held in self.results.items()}
        self.results = {number: held for number, held in results.items() if held}
        streams = {number: [one for one in held if is_kept(one)] for number, held in self.streams.items()}
        self.streams = {number: held for number, held in streams.items() if held}
        for watch in [one for one in self.watches if not is_kept(one)]:
            self.remove_watch(watch)
