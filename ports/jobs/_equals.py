"""Equal jobs: one of those with the same key of the cache runs, the others wait and then find its result. Pure."""

from __future__ import annotations

from ports.jobs._live import ASIDE, READY, Live
from ports.jobs._store import pack


def key_of(live: Live, item: int) -> str | None:
    """Return the key of a job in the cache; None if it is not cached."""
    return live.spec.cache_key(item) if live.spec.cache is not None else None


class Equals:
    """Which job of each key runs, and which wait for it."""

    def __init__(self) -> None:
        self._first: dict[str, int] = {}
        self._others: dict[str, list[tuple[Live, int]]] = {}

    def hold(self, live: Live, item: int) -> bool:
        """Note that a job runs; False if an equal one does."""
        key = key_of(live, item)
        return key is None or self._first.setdefault(key, pack(live.number, item)) == pack(live.number, item)

    def wait(self, live: Live, item: int) -> None:
        """Let a job wait for its equal."""
        live.move(item, ASIDE)
        self._others.setdefault(key_of(live, item) or "", []).append((live, item))

    def first(self, live: Live, item: int) -> int | None:
        """Return the job that runs for this one."""
        return self._first.get(key_of(live, item) or "")

    def free(self, live: Live, item: int) -> list[Live]:
        """Let the equal jobs of one that runs no more be ready; return their submissions."""
        key = key_of(live, item)
        if key is None or self._first.get(key) != pack(live.number, item):
            return []
        del self._first[key]
        freed = [(one, place) for one, place in self._others.pop(key, ()) if one.place(place) is ASIDE]
        for one, place in freed:
            one.move(place, READY)
        return [one for one, _ in freed]
