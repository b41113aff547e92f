"""When a cluster that nobody uses gives its memory back, and when it ends. The decisions are pure.

Idle: no task for a while, and no result held on a worker. The workers end, and come back at the first task. Where
results are held, they are spilled to the disk instead.

Expired: no task for days, whoever is connected. This has a clock of its own: connecting wakes workers, but is no task.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

HOUR, DAY = 3600.0, 86400.0
NOTICE_DAYS = 3.0  # before a cluster ends; with a short `expire`, a quarter of it
GONE = ("erred", "released", "forgotten")  # states of a task that keep nothing on a worker


@dataclass(frozen=True)
class Limits:
    """Seconds without tasks; 0: never."""

    idle: float
    expire: float
    lend: float = 0.0

    @property
    def notice(self) -> float:
        """Seconds between the notice and the end."""
        return min(NOTICE_DAYS * DAY, self.expire / 4)

    @property
    def look_every(self) -> float:
        """Seconds between two looks."""
        return max(0.1, min([20.0, *(limit / 20 for limit in (self.idle, self.expire, self.lend) if limit)]))


@dataclass(frozen=True)
class Seen:
    """What one look shows: seconds without any use, seconds without tasks, and what was done since the last task."""

    quiet: float
    taskless: float
    holds_results: bool
    has_workers: bool
    is_spilled: bool = False
    is_noticed: bool = False


def due(seen: Seen, limits: Limits) -> str | None:
    """Return what is due: ``"sleep"``, ``"spill"``, ``"notice"`` or ``"expire"``; None: nothing."""
    if limits.expire and seen.taskless >= limits.expire:
        return "expire"
    if limits.expire and not seen.is_noticed and seen.taskless >= limits.expire - limits.notice:
        return "notice"
    if not limits.idle or seen.quiet < limits.idle or not seen.has_workers:
        return None
    if not seen.holds_results:
        return "sleep"
    return None if seen.is_spilled else "spill"


def may_be_due(quiet: float, taskless: float, limits: Limits) -> bool:
    """Say whether anything can be due; this is cheaper than a look at all tasks."""
    is_late = limits.expire and taskless >= limits.expire - limits.notice
    return bool(is_late or (limits.idle and quiet >= limits.idle))


def holds_results(states: Iterable[str]) -> bool:
    """Say whether any of these task states means that a worker holds or computes a result."""
    return any(state not in GONE for state in states)


def file_name(key: str, number: int) -> str:
    """Return the name of the file of a kept result: readable, and unique by `number`."""
    plain = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in key)[:60].lstrip(".")
    return f"{number:04d}-{plain}.pickle"


def some(names: list[str], most: int = 20) -> str:
    """Return the first `most` of `names` as a list in words."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def results(number: int, noun: str = "result") -> str:
    """Return "1 result is" or "2 results are", for the beginning of a sentence."""
    return f"{number} {noun} is" if number == 1 else f"{number} {noun}s are"
