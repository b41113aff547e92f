"""Waiting with a limit."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ports.errors import TimedOutError

T = TypeVar("T")


def wait_until(poll: Callable[[], T | None], *, timeout: float, what: str, every: float = 0.02) -> T:
    """Call `poll` until it returns something other than None.

    Parameters
    ----------
    timeout : float
        Seconds. 0 polls once.
    what : str
        What it waits for, as the error names it: ``"scheduler of cluster 'main'"``.
    every : float
        Seconds between two calls.

    Raises
    ------
    TimedOutError
        Nothing came within `timeout` seconds.
    """
    end = time.monotonic() + timeout
    while True:
        found = poll()
        if found is not None:
            return found
        left = end - time.monotonic()
        if left <= 0:
            raise TimedOutError(what, timeout)
        time.sleep(min(every, left))


@contextlib.contextmanager
def said_when_slow(say: Callable[[str], object], text: str, *, after: float) -> Iterator[None]:
    """Call `say` with `text` in a thread if the block takes longer than `after` seconds."""
    timer = threading.Timer(after, say, (text,))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
