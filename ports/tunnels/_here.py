"""The view of this machine, to which no way leads: a thread looks."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from ports import listeners, machine, probe
from ports.errors import PortsError, harmless
from ports.hosts import is_here
from ports.tunnels import _records, _views
from ports.tunnels._everywhere import local_ends
from ports.tunnels._viewers import EVERY


class Here:
    """This machine, see `_watching.Follower`."""

    def __init__(self, note: Callable[[str], None], want: tuple[str, ...]) -> None:
        self._name = socket.gethostname().partition(".")[0]
        self.view = _views.empty(self._name, here=True, since=time.time())
        self._note, self._want = note, want
        self._viewer = probe.view.Viewer()
        self._again, self._over = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._keep, name="watch-here", daemon=True)
        self._answers = probe.Answers()
        self._document: dict[str, Any] = {}
        self._glance: Any = None

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def refresh(self) -> None:
        """Look at once."""
        self._glance = None
        self._again.set()

    def end(self) -> None:
        """Look no more."""
        self._over.set()
        self._again.set()

    def _keep(self) -> None:
        while not self._over.is_set():
            try:
                self._look()
            except Exception as error:  # noqa: BLE001 - a disk that fails for a while; whatever it is, the view says it
                self._fail(error)
            self._again.wait(EVERY)
            self._again.clear()

    def _fail(self, error: Exception) -> None:
        known = error if isinstance(error, PortsError) else PortsError(harmless(str(error) or type(error).__name__))
        since = self.view["since"] if self.view["condition"] == "down" else time.time()
        self._set({**self.view, **_views.condition(self._name, "down", since, known)})

    def _look(self) -> None:
        glance, due = probe.glance({}, self._document), self._answers.next_time()
        if glance != self._glance or (due is not None and due <= time.monotonic()):
            self._document, self._glance = probe.probe({"answers": self._answers}), glance
        answer = self._viewer.view(_views.request(self._want, self.view["history"]))
        found = listeners.from_probe(self._document, host=self._name)
        parts = {
            **_views.looked(answer),
            "rows": _views.rows(found, _links_to_here(), hidden=local_ends()),
            "seen_at": time.time(),
        }
        parts["warnings"] = list(self._document["warnings"])
        if self.view["condition"] != "connected":
            parts |= _views.condition(self._name, "up", time.time(), None)
        who = answer["who"]
        view = _views.merged(self.view, parts, None if who is None else machine.from_probe(who, self._name).row())
        view["history"] = _views.with_history(view["history"], answer["history"])
        self._set(view)

    def _set(self, view: _views.View) -> None:
        if view != self.view:
            self.view = view
            self._note("")


def _links_to_here() -> list[dict[str, Any]]:
    """Return the rows of tunnels that lead to this machine itself, as their processes recorded them."""
    return [
        row for _, record, alive in _records.read_all_records() if alive for row in record.rows if is_here(row["host"])
    ]
