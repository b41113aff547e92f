"""Workers that ended at their memory limit: how many, when, and with which task."""

from __future__ import annotations

import collections
from collections.abc import Iterable
from typing import Any, NamedTuple

SHOWN_SECONDS = 86400.0  # after the last one
MOST = 1000


class Death(NamedTuple):
    """The end of one worker: seconds since 1970, its limit in bytes, and the task that it ran, if it is known."""

    at: float
    limit: int
    task: str | None


DEATHS: collections.deque[Death] = collections.deque(maxlen=MOST)  # of the nannies of this process


def summary(deaths: Iterable[Death], now: float) -> dict[str, Any] | None:
    """Return what is shown of `deaths`; None where the last one was long ago. Pure."""
    found = list(deaths)
    if not found or now - found[-1].at > SHOWN_SECONDS:
        return None
    task = next((one.task for one in reversed(found) if one.task), None)
    return {"n_workers": len(found), "limit_bytes": found[-1].limit, "at": found[-1].at, "task": task}
