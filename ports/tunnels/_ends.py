"""Jobs that ended on a host while tunnels to it are open: which ends are news, and how they are said at home."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ports import hosts
from ports.probe import ends as words
from ports.state import settings
from ports.tunnels import _desktop

Event = Callable[[Mapping[str, Any]], None]

_MOST = 100  # that a host can report at once


class NewEnds:
    """Knows which ends of each machine were reported before. What ended before the first report is no news."""

    def __init__(self) -> None:
        self._known: dict[str, dict[tuple[str, str], None]] = {}

    def take(self, told: Mapping[str, Any]) -> list[dict[str, Any]]:
        """Return the ends of a report that are new; what the host sends can be anything."""
        machine, rows = str(told.get("machine")), told.get("ends")
        given = [row for row in rows if isinstance(row, dict)][:_MOST] if isinstance(rows, list) else []
        keys = [(str(row.get("id")), str(row.get("ended_at"))) for row in given]
        known = self._known.get(machine)
        self._known[machine] = {**(known or {}), **dict.fromkeys(keys)}
        return [] if known is None else [row for key, row in zip(keys, given, strict=True) if key not in known]


def tell(host: str, ends: Sequence[Mapping[str, Any]], emit: Event) -> None:
    """Hand on an event for each end, or one for many; jobs with a notice also have one on the desktop."""
    rows = [{**row, "id": _id(host, row)} for row in ends]
    for told in words.notices(rows):
        emit(_event(host, told))
    asked = [row for row in rows if row.get("notify") is True]
    if asked and settings.get("open.desktop"):
        # in a thread: the desktop may not answer, and the connection must be watched meanwhile
        threading.Thread(target=_desktop.show_once, args=(words.notices(asked),), daemon=True).start()


def _id(host: str, row: Mapping[str, Any]) -> str:
    id = words.printable(row.get("id"))
    return id if hosts.is_here(host) else f"{host}:{id}"


def _event(host: str, told: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of an event: of one job with its id as the name, of many with none."""
    id, first = told["ids"][0] if len(told["ids"]) == 1 else None, str(told["body"]).partition("\n")[0]
    more = f"; `ports job show {id}` shows more" if id is not None and not told["is_good"] else ""
    state = "finished" if told["is_good"] else "error"
    return {
        "host": host,
        "kind": "job",
        "name": id,
        "state": state,
        "note": first + more,
    }
