"""How many workers an adapting cluster should have. Pure."""

from __future__ import annotations

from typing import NamedTuple


class Bounds(NamedTuple):
    """What was asked for: the fewest and the most workers, and how often the scheduler must want fewer in a row."""

    minimum: int
    maximum: int
    wait_count: int = 3


def step(wanted: int, n_workers: int, bounds: Bounds, n_low: int) -> tuple[int, int]:
    """Return how many workers should run, and how often in a row fewer were wanted.

    More workers come at once. Fewer stay only after `bounds.wait_count` looks, because the next task may be near; more
    than the maximum are never kept.
    """
    target = min(bounds.maximum, max(bounds.minimum, wanted))
    if target >= n_workers:
        return target, 0
    if n_low + 1 >= bounds.wait_count:
        return target, 0
    return min(n_workers, bounds.maximum), n_low + 1


class Memory(NamedTuple):
    """What counts for further workers, in bytes: the limit of each, what the workers hold, and what is left now.

    `free` is not promised to others. `available` is more than that, if others do not use what they are promised.
    """

    limit: int
    held: int
    free: int
    available: int


def fitting(target: int, n_workers: int, memory: Memory) -> int:
    """Return how many of `target` workers fit in the memory that is free now; `n_workers` run, and stay.

    The first worker may take memory that others were promised and do not use: a promise refuses nobody everything.
    """
    if target <= n_workers or not memory.limit:
        return target
    most = (memory.held + memory.free) // memory.limit
    if not n_workers and memory.available >= memory.limit:
        most = max(1, most)
    return max(n_workers, min(target, most))
