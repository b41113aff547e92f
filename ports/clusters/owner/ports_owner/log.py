"""Lines of a cluster's log, and lengths of time in words."""

from __future__ import annotations

import logging
import time

#: How lines begin that Dask logs of each orderly end, by logger: nothing is wrong, and nothing is to be done.
AT_AN_END = {
    "distributed.batched": ("Batched Comm Closed",),
    "distributed.worker": ("Failed to communicate with scheduler during heartbeat",),
    "distributed.worker.state_machine": ("Async instruction for ",),
    "distributed.scheduler": ("Removing worker ",),
    "distributed.nanny": ("Worker process still alive after ",),
}


def is_news(record: logging.LogRecord) -> bool:
    """Say whether a line of Dask's belongs in the log of a process that was asked to end. Pure."""
    return not str(record.msg).startswith(AT_AN_END.get(record.name, ()))


def expect_the_end() -> None:
    """Leave out of the log, from now on, what Dask warns of at each orderly end of this process."""
    for name in AT_AN_END:
        logging.getLogger(name).addFilter(is_news)


def say(text):
    """Write a line to the cluster's log."""
    print(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}", flush=True)


def warn(text):
    """Write a line to the cluster's log that `ports cluster logs --warnings` shows."""
    say(f"warning: {text}")


def hours(seconds):
    """Return a length of time in words."""
    for unit, length in (("days", 86400), ("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:g} {unit}"
    return f"{seconds:.3g} seconds"
