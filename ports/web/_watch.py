"""Looks at hosts for as long as somebody looks at the page: nobody looks, nothing is asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Sequence

from ports.errors import PortsError
from ports.web._board import Board, unseen

_EVERY = 2.0  # seconds


class Watch:
    """Keeps a board true between `begin` and `end`, which can follow each other again and again."""

    def __init__(self, board: Board, here: str, hosts: Sequence[str]) -> None:
        self.board, self.here, self.hosts = board, here, tuple(hosts)
        self._is_over: threading.Event | None = None

    def begin(self) -> None:
        """Begin to look; it returns at once."""
        if self._is_over is None:
            self._is_over = threading.Event()
            threading.Thread(target=self._look, args=(self._is_over,), name="watch", daemon=True).start()

    def end(self) -> None:
        """Look no more; it returns at once."""
        if self._is_over is not None:
            self._is_over.set()
            self._is_over = None

    def _look(self, is_over: threading.Event) -> None:
        from ports import listeners, machine

        while not is_over.is_set():
            view = dict(self.board.view(self.here) or unseen(self.here, here=True))
            with contextlib.suppress(PortsError):
                view["rows"] = [one.row() for one in listeners.list()]
                view["machine"] = machine.usage(interval=0.2).row()
                if view["condition"] != "connected":
                    view.update(condition="connected", since=time.time())
                view["seen_at"] = time.time()
                self.board.take(view)
            is_over.wait(_EVERY)
