"""Looks at hosts for as long as somebody looks at the page: nobody looks, nothing is asked."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence

from ports import tunnels
from ports.web._board import Board, View

_OLD_SECONDS = 20.0


class Watch:
    """Keeps a board true between `begin` and `end`, which can follow each other again and again."""

    def __init__(self, board: Board, here: str, hosts: Sequence[str]) -> None:
        self.board, self.here, self.hosts = board, here, tuple(hosts)
        self._watching: tunnels.Watching | None = None
        self._ended_at = time.monotonic()

    def begin(self) -> None:
        """Begin to look; it returns at once. What was seen long ago is shown as such until it is seen again."""
        if self._watching is not None:
            return
        if time.monotonic() - self._ended_at > _OLD_SECONDS:
            for view in self.board.views():
                self.board.take({**view, "condition": "connecting", "since": time.time()})
        self._watching = tunnels.watch(["", *self.hosts], on_change=self._take)
        self._watching.__enter__()

    def end(self) -> None:
        """Look no more; it returns at once."""
        watching, self._watching = self._watching, None
        if watching is not None:
            self._ended_at = time.monotonic()
            # it waits for its threads
            threading.Thread(target=watching.__exit__, args=(None, None, None), daemon=True).start()

    def again(self) -> None:
        """Look at other hosts from now on, if anybody looks."""
        if self._watching is not None:
            self.end()
            self.begin()

    def refresh(self, host: str) -> None:
        """Look at a host at once."""
        if self._watching is not None:
            self._watching.refresh("" if host == self.here else host)

    def _take(self, view: View) -> None:
        if view["here"]:  # without this very page
            rows = [row for row in view["rows"] if row["kind"] != "page" or row["pid"] != os.getpid()]
            view = {**view, "host": self.here, "rows": rows}
        self.board.take(view)
