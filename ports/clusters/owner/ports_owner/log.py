"""Lines of a cluster's log, and lengths of time in words."""

from __future__ import annotations

import time


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
