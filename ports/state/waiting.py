"""Waiting with a limit."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from ports.errors import TimedOutError
from ports.errors import say as say_line

PATIENCE = 3.0  # seconds of waiting without a word
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
def said_when_slow(
    say: Callable[[str], object], text: str, *, after: float, unless: Callable[[], bool] | None = None
) -> Iterator[None]:
    """Call `say` with `text` in a thread if the block takes longer than `after` seconds.

    Parameters
    ----------
    unless : callable, optional
        Tells whether the moment is bad; then `after` seconds pass again.
    """
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(after):
            if unless is None or not unless():
                say(text)
                return

    threading.Thread(target=watch, name="slow", daemon=True).start()
    try:
        yield
    finally:
        ended.set()


def tell(text: str) -> None:
    """Print a line where a person looks on: in a notebook, in ipython, in a terminal. A script prints its own."""
    ipython = sys.modules.get("IPython")
    if (ipython is not None and ipython.get_ipython() is not None) or hasattr(sys, "ps1") or sys.stdout.isatty():
        say_line(text)


def telling(what: str) -> contextlib.AbstractContextManager[None]:
    """Tell what is awaited, once it has taken `PATIENCE` seconds; the command line says what it waits for itself."""
    if "ports.cli.output" in sys.modules:
        return contextlib.nullcontext()
    return said_when_slow(tell, f"waiting for {what}", after=PATIENCE)
