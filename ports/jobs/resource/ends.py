"""What the resource does when somebody wants to hear of an end: a file for home, and a notice through services.

`ports open` reads the file through the session that it holds. It contains the last ends only, so a look at it is cheap.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from typing import Any

from ports.errors import RecordError, StoreError
from ports.jobs import _durable, _notices, _rows
from ports.jobs._model import JobId
from ports.jobs._store import Store, SubmissionRow, pack

_MOST = 20  # ends in the file
_KEPT = ("id", "name", "state", "what", "count", "counts", "reason", "began_at", "ended_at", "notify")
_MISSED_SECONDS = 86400.0  # an older end is no news


class Ends:
    """Tells of ends; it is called with the numbers of submissions, after the commit in which they ended."""

    def __init__(self, store: Store, notifier: _notices.Notifier, now: Callable[[], float]) -> None:
        self.store, self.notifier, self.now = store, notifier, now
        self._last = _read(store)

    def __call__(self, numbers: Sequence[int]) -> None:
        """Tell of the end of some submissions; raises StoreError or RecordError where the store cannot be read."""
        rows = [row for row in map(self.store.submission, numbers) if row is not None]
        if not rows:
            return
        told = [self._told(row) for row in rows]
        self._last = [*self._last, *({name: one[name] for name in _KEPT if name in one} for one in told)][-_MOST:]
        with contextlib.suppress(StoreError):  # a full disk: the next end is written with the last ones
            _durable.write(
                self.store.places.ends, json.dumps({"format": 1, "ends": self._last}).encode(), is_synced=False
            )
        self.notifier.put([one for one in told if one["notify"]])

    def _told(self, row: SubmissionRow) -> dict[str, Any]:
        if row.count is None:
            shown = _rows.job_row(row, JobId(row.number), self.store.job(pack(row.number, 0)))
        else:
            shown = _rows.submission_row(row)
        return {**shown, "notify": bool(json.loads(row.spec).get("notify"))}

    def catch_up(self) -> None:
        """Send the notices that a resource before this one did not send: it was killed, or none ran."""
        with contextlib.suppress(StoreError, RecordError):
            numbers = self.store.ended_with_notice(self.now() - _MISSED_SECONDS)
            rows = [row for row in map(self.store.submission, numbers) if row is not None]
            missed = [row for row in rows if _notices.kept(self.store.places, JobId(row.number)) is None]
            self.notifier.put([self._told(row) for row in missed])


def _read(store: Store) -> list[dict[str, Any]]:
    try:
        found = json.loads(store.places.ends.read_bytes())["ends"]
        return [dict(one) for one in found][-_MOST:]
    except (OSError, ValueError, KeyError, TypeError):
        return []
