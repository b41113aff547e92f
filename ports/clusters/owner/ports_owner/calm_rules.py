"""What a calm worker and a calm scheduler leave out, and when they are calm. The decisions are pure.

Calm: nothing to do for a few seconds. What an idle Dask process costs is its timers. A turn of the event loop takes
about 45 us whatever it does, and one timer of 10 or 20 ms keeps the loop awake, so all quick timers have to stop.
"""

from __future__ import annotations

from typing import Any

# Names of Dask's own in `Server.periodic_callbacks`, the same from 2024.4.0 to 2026.8.0. Each that is missing is passed
# over. Timers with other names run on: `semaphore-lease-timeout` and the active memory manager have to. So does
# `stealing`, once a second: begun again with a task, it would come half a second later than in the middle without.
SERVER_TIMERS = ("tick", "ticks", "monitor", "shift_counters")
WORKER_TIMERS = (*SERVER_TIMERS, "profile", "profile-cycle", "find-missing", "memory_monitor", "ports-calm")
SCHEDULER_TIMERS = SERVER_TIMERS
NANNY_TIMERS = (*SERVER_TIMERS, "memory_monitor")

SLOWEST_HEARTBEAT = 5.0  # seconds
GROWTH = 8 * 2**20  # bytes by which a calm worker grows until it looks after its memory itself again
LOOKS = 4  # in the quiet time
WORK = ("executing", "long_running", "ready", "constrained", "in_flight_tasks", "missing_dep_flight")


def slow_heartbeat(worker_ttl: float | None) -> float:
    """Return the seconds between two heartbeats of a calm worker, of which the scheduler may miss two."""
    return min(SLOWEST_HEARTBEAT, worker_ttl / 3) if worker_ttl else SLOWEST_HEARTBEAT


def has_work(state: Any) -> bool:
    """Say whether the state of a worker has something that runs, waits to run, is fetched or is missing."""
    return any(getattr(state, name, None) for name in WORK)


class Quiet:
    """How long nothing happened.

    Parameters
    ----------
    after : float
        Seconds without anything until it is calm.
    """

    def __init__(self, after: float, now: float) -> None:
        self.after, self.since = after, now

    def is_reached(self, now: float, *, busy: bool) -> bool:
        """Say whether it is calm at the moment `now`; `busy` says whether anything happened since the last call."""
        if busy:
            self.since = now
        return now - self.since >= self.after


class Growth:
    """Whether a process has grown by `GROWTH` bytes from the least that it had since the last time."""

    def __init__(self, n_bytes: int) -> None:
        self.least = n_bytes

    def is_reached(self, n_bytes: int, *, lively: bool) -> bool:
        """Say whether to tell the process, which has `n_bytes` now; one that is `lively` looks for itself."""
        reached = n_bytes > self.least + GROWTH
        self.least = n_bytes if lively or reached else min(self.least, n_bytes)
        return reached and not lively
