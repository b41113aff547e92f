"""The end of a thing's log, for who looks at the thing: read in a thread, so that no screen waits for a host."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from ports.errors import FarSideError, PortsError
from ports.state import paths
from ports.web import _command

_LINES = 50
_KINDS = ("cluster", "notebook", "resource")
_HERE_SECONDS, _THERE_SECONDS = 3.0, 10.0  # between two looks: one there is an interpreter on that host
_MOST = 32  # things of which a log is kept


class Logs:
    """The last lines of the logs that somebody looks at.

    Parameters
    ----------
    target : callable
        Returns a host as commands name it; None for this machine.
    changed : callable
        Called, in any thread, when there are other lines.
    """

    def __init__(self, target: Callable[[str], str | None], changed: Callable[[], None]) -> None:
        self._target, self._changed = target, changed
        self._lock = threading.Lock()
        self._known: dict[tuple[str, str, str], tuple[list[str] | None, str, float]] = {}
        self._asked: set[tuple[str, str, str]] = set()

    def lines(self, host: str, kind: str, name: str) -> tuple[list[str] | None, str]:
        """Return the last lines, None where nobody read them yet, and why not; old ones are read again."""
        key = host, kind, name
        if kind not in _KINDS:
            return [], ""
        now, pause = time.monotonic(), _HERE_SECONDS if self._target(host) is None else _THERE_SECONDS
        with self._lock:
            lines, trouble, read_at = self._known.get(key, (None, "", float("-inf")))
            if now - read_at < pause or key in self._asked:
                return lines, trouble
            self._asked.add(key)
        threading.Thread(target=self._read, args=(key,), name="log", daemon=True).start()
        return lines, trouble

    def _read(self, key: tuple[str, str, str]) -> None:
        host, kind, name = key
        before = self._known.get(key, (None, "", 0.0))
        lines, trouble = before[0], ""
        try:
            lines = self._ask(self._target(host), kind, name)
        except PortsError as error:
            trouble = str(error)
        finally:
            with self._lock:
                self._asked.discard(key)
                self._known.pop(key, None)
                self._known[key] = lines, trouble, time.monotonic()
                while len(self._known) > _MOST:
                    del self._known[next(iter(self._known))]
        if (lines, trouble) != before[:2]:
            self._changed()

    def _ask(self, host: str | None, kind: str, name: str) -> list[str]:
        paths.check_name(name)
        if host is None:
            from ports import sessions

            return [*sessions.tail(sessions.files(kind, name).log, _LINES)]
        words = [kind, "logs", *([name] if kind != "resource" else []), "-n", str(_LINES), "-H", host]
        found: Any = _command.run(words, timeout=60.0)
        lines = found.get("lines") if isinstance(found, dict) else None
        if not isinstance(lines, list):
            raise FarSideError(host, "the `ports` there says nothing of lines of a log; it is of another version")
        return [str(line) for line in lines]
