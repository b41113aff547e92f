"""Which jobs wait for which others, and what the end of one means for them. Pure."""

from __future__ import annotations

import collections
from collections.abc import Iterator

from ports.jobs._live import READY, Live
from ports.jobs._model import CANCELLED, ENDED, FINISHED, LOST, JobId

News = tuple[Live, int | None, str | None]
_HOW = {None: "was removed", CANCELLED: "was cancelled", LOST: "was lost"}


def _reason(id: JobId, state: str | None) -> str:
    return f"dependency {id} {_HOW.get(state, 'failed')}"


class Following:
    """What waits for other jobs: a job, or all of a submission, where its item is None."""

    def __init__(self) -> None:
        self._waiting: dict[JobId, list[tuple[Live, int | None]]] = {}
        self._news: collections.deque[News] = collections.deque()

    def wait(self, live: Live, item: int | None, id: JobId, state: str | None) -> None:
        """Let a job wait for another one, which is in this state now, if that has not ended; None: it was removed."""
        if state is None or (state in ENDED and state != FINISHED):
            self._news.append((live, item, _reason(id, state)))
        elif state != FINISHED:
            live.wait_for(item, id)
            self._waiting.setdefault(id, []).append((live, item))

    def note_end(self, live: Live, item: int, state: str) -> None:
        """Let those who wait for a job hear that it has ended."""
        for id in (live.id_of(item), JobId(live.number)) if self._waiting else ():
            is_met = state == FINISHED and (id.item is not None or live.is_all_finished)
            if is_met or state != FINISHED:
                for waiting, one in self._waiting.pop(id, ()):
                    self._hear(waiting, one, id, None if is_met else _reason(id, state))

    def _hear(self, live: Live, item: int | None, id: JobId, reason: str | None) -> None:
        if reason is not None:
            self._news.append((live, item, reason))
            return
        if item is None:
            live.waits_for.discard(id)
        elif item in live.waits:
            live.waits[item].discard(id)
            if not live.waits[item]:
                live.move(item, READY)
        self._news.append((live, item, None))

    def news(self) -> Iterator[News]:
        """Yield what follows: jobs with the reason why they never run, or with None where they could begin."""
        while self._news:
            yield self._news.popleft()
