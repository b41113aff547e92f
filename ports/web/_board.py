"""What is known of each host, for all who look: the views of `tunnels.watch`, and whether they changed. No I/O."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ports.web import _things

View = Mapping[str, Any]


def unseen(host: str, *, here: bool = False, now: float | None = None) -> dict[str, Any]:
    """Return the view of a host that has not answered yet."""
    return {
        "host": host,
        "here": here,
        "condition": "connecting",
        "since": time.time() if now is None else now,
        "seen_at": None,
        "reason": None,
        "way_out": None,
        "rows": [],
        "machine": None,
        "jobs": None,
        "history": {"machine": [], "clusters": {}},
        "warnings": [],
    }


class Board:
    """The last view of each host, in the order in which they were named. Any thread can change it."""

    def __init__(self, views: Iterable[View] = ()) -> None:
        self._views: dict[str, View] = {str(view["host"]): view for view in views}
        self._lock = threading.Lock()
        self.version = 0
        self.on_change: Callable[[], None] = lambda: None

    def take(self, view: View) -> None:
        """Take the view of a host; a view that says the same changes nothing."""
        with self._lock:
            if self._views.get(str(view["host"])) == view:
                return
            self._views[str(view["host"])] = view
            self.version += 1
        self.on_change()

    def views(self) -> list[View]:
        """Return all views."""
        with self._lock:
            return list(self._views.values())

    def view(self, host: str) -> View | None:
        """Return the view of a host; None for one that the page does not show."""
        with self._lock:
            return self._views.get(host)

    def row(self, host: str, kind: str, name: str) -> Mapping[str, Any] | None:
        """Return the row of a thing on a host, by its name or its port; None where there is none."""
        view = self.view(host)
        return None if view is None else _things.find(view, kind, name)
