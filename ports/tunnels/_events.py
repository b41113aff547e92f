"""Rows of tunnels that changed, handed to whoever listens, in a thread of its own."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator, Mapping
from typing import Any

Event = Callable[[Mapping[str, Any]], None]

_TELL_SECONDS = 2.0


class Events:
    """Calls its listeners with each row, one row at a time, until `end`.

    A listener that waits, for a terminal that was stopped say, holds up the other rows, but no tunnel.
    """

    def __init__(self, *listeners: Event) -> None:
        self._listeners = [*listeners]
        self._queue: queue.SimpleQueue[Mapping[str, Any] | threading.Event | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._tell, name="tunnel-events", daemon=True)
        self._thread.start()

    def emit(self, row: Mapping[str, Any]) -> None:
        """Hand on `row`, soon."""
        self._queue.put(row)

    def flush(self) -> None:
        """Wait until the listeners have what was emitted, if they take it."""
        told = threading.Event()
        self._queue.put(told)
        if self._thread.is_alive():
            told.wait(_TELL_SECONDS)

    def end(self) -> None:
        """Hand on nothing more."""
        self._queue.put(None)

    @contextlib.contextmanager
    def listener(self, one: Event) -> Iterator[None]:
        """Call `one`, too, for as long as this context lasts."""
        self._listeners.append(one)
        try:
            yield
        finally:
            self._listeners.remove(one)

    def _tell(self) -> None:
        while (row := self._queue.get()) is not None:
            if isinstance(row, threading.Event):
                row.set()
                continue
            for listener in list(self._listeners):
                with contextlib.suppress(OSError):  # a terminal that is gone, a full disk: the tunnels go on
                    listener(row)
