"""How much of its promise a cluster without tasks lends to others, and how much it gets back. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from .ground import probe

STEP = 64 << 20  # bytes: what is held is rounded up, so that a promise is steady
LITTLE = 1 / 8  # of a promise: less is not worth lending

Numbers = tuple[int, ...]  # workers, threads, bytes, and the bytes that are lent while some are


def kept(whole: Numbers, held: int) -> Numbers:
    """Return what a cluster is promised while it lends: what it holds, and no threads."""
    n_workers, _, n_bytes = whole
    found = min(n_bytes, -(-held // STEP) * STEP)
    return n_workers, 0, found, n_bytes - found


def is_worth(whole: Numbers, held: int) -> bool:
    """Say whether a cluster that holds so many bytes has something to lend."""
    return kept(whole, held)[3] > LITTLE * whole[2]


def free(available: int, unfilled: Iterable[int]) -> int:
    """Return the bytes that are available and not promised to other clusters, which do not use `unfilled` of theirs."""
    return max(available - sum(unfilled), int(available * probe.promises.LEAST_PART), 0)


def limit_of_each(n_workers: int, full: int, held: int, free_bytes: int) -> int:
    """Return the memory limit of each worker once tasks come: `full`, else what it holds and what is free then."""
    part = (held + free_bytes) // max(1, n_workers) >> 20 << 20
    least: int = probe.promises.LEAST_WORKER
    return min(full, max(least, part))
