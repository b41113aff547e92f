"""The queue: requests in, replies out, one commit a turn."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any, NamedTuple

from ports.jobs._model import Available, Capacity, Lease, LeaseState
from ports.jobs._store import Store


class Request(NamedTuple):
    """What came from one connection: a frame's header and blobs."""

    connection: Hashable
    header: dict[str, Any]
    blobs: Sequence[bytes] = ()


class Reply(NamedTuple):
    """What goes to one connection."""

    connection: Hashable
    header: dict[str, Any]
    blobs: Sequence[bytes] = ()


class Queue:
    """All jobs of a resource.

    Parameters
    ----------
    limits : mapping, optional
        How many jobs of a queue run at once, by the name of the queue.
    is_alive : callable
        Looks at the lock of a slot or a script. Asked in `tick` about slots that are not connected, and about scripts.
    """

    def __init__(
        self,
        store: Store,
        *,
        capacity: Capacity,
        is_alive: Callable[[Lease], LeaseState],
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.store, self.capacity, self.available = store, capacity, Available()

    def turn(self, inbox: Sequence[Request]) -> list[Reply]:
        """Do all that `inbox` asks for in one transaction, and return the replies, after the commit.

        A wrong request is answered by an error; it never raises for one.
        """
        return []

    def tick(self) -> list[Reply]:
        """Do what the clock asks for: times, lifetimes, timeouts, waits that ran out, submission files, dead slots."""
        return []

    def gone(self, connection: Hashable) -> None:
        """Forget what `connection` waits for. Its jobs go on: their lease shows whether they live."""

    def reap(self, slot: str, lease: LeaseState) -> list[Reply]:
        """Take the jobs of a slot or a script that ended without a word: begun ones are lost, others go back."""
        return []

    @property
    def wanted_slots(self) -> int:
        """How many slots would have work now, those that work included."""
        return 0
