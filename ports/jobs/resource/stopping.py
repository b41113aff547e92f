"""The last requests of a resource: nothing more is given out, and what slots have ends, or is named.

It holds for as long as one of those who asked is connected. So who interrupts `ports resource stop --wait` lets the
resource go on, and the next start begins what waits: nothing of this is on the disk.
"""

from __future__ import annotations

import dataclasses
import time
from typing import Any

from ports.errors import UsageError
from ports.jobs._model import STOPPED, short
from ports.jobs._turn import Queue, Reply

_SAY_SECONDS = 1.0  # between two words to slots: one can have been away
_PATIENCE_SECONDS = 5.0  # beyond the grace: then the end of the worker ends them
_MOST_NAMED = 20


@dataclasses.dataclass
class Asked:
    """One who asked that the resource stops. `until` is of the monotonic clock, None for ever."""

    n: object
    wait: bool
    now: bool
    until: float | None
    is_answered: bool = False


class Stopping:
    """Who asked the resource to stop, and what they are answered."""

    def __init__(self, queue: Queue, grace: float) -> None:
        self.queue, self.grace = queue, grace
        self.asked: dict[int, Asked] = {}
        self.said = float("-inf")

    def ask(self, connection: int, header: dict[str, Any]) -> None:
        """Give nothing more out from now on; raises UsageError."""
        for name in ("wait", "now"):
            if not isinstance(header.get(name, False), bool):
                raise UsageError(f"{name}: {short(header[name])} is neither true nor false")
        now = bool(header.get("now"))
        until = time.monotonic() + self.grace + _PATIENCE_SECONDS if now else None
        self.asked[connection] = Asked(header.get("n"), bool(header.get("wait")), now, until)
        self.queue.is_held = True

    def gone(self, connection: int) -> None:
        """Go on when all who asked have left."""
        if self.asked.pop(connection, None) is not None and not self.asked:
            self.queue.is_held = False

    def look(self) -> list[Reply]:
        """Return the answers that can be given now, and what slots are told."""
        waiting = {one: asked for one, asked in self.asked.items() if not asked.is_answered}
        if not waiting:
            return []
        replies: list[Reply] = []
        running, clock = self.queue.functions(), time.monotonic()
        if running and clock - self.said >= _SAY_SECONDS and any(asked.now for asked in waiting.values()):
            self.said = clock
            replies += self.queue.end_functions(STOPPED)
        for connection, asked in waiting.items():
            is_over = not running or (asked.until is not None and clock >= asked.until)
            if not is_over and (asked.wait or asked.now):
                continue
            asked.is_answered = True
            named = [] if is_over else running
            replies.append(Reply(connection, {"n": asked.n, "running": named[:_MOST_NAMED], "n_running": len(named)}))
            if named:
                self.gone(connection)
        return replies
