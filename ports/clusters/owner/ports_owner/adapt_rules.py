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
