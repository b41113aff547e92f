"""Whoever watches the hosts of one process: each gets what has changed, in a stream of lines.

A host is asked for as long as somebody watches it, and by one watcher, however many there are.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from ports.errors import PortsError

EVERY = 2.0  # seconds between two looks at a host
_MOST_POINTS = 5760  # of each series: a day with a point in 15 s


class Host(Protocol):
    """A host, as its watcher needs it; see `HostTunnels`."""

    @property
    def is_up(self) -> bool:
        """Whether the connection to it stands."""

    def parts(self) -> dict[str, Any]:
        """Return what is known of its condition and its listeners."""

    def follow(self) -> None:
        """Connect to it, and stay connected."""

    def look(self) -> None:
        """Let our program there look at once at what listens."""

    def ask(self, request: dict[str, Any]) -> dict[str, Any] | None:
        """Return what our program there sees of the machine; None where it sees nothing."""


class Watched:
    """A host that somebody watches: what is known of it, and the thread that asks."""

    def __init__(self, host: Host, tell: Callable[[], None]) -> None:
        self._host, self._tell = host, tell
        self._asked: dict[str, Any] = {}
        self._seen_at: float | None = None
        self.history: dict[str, Any] = {"machine": [], "clusters": {}}
        self._again, self._over = threading.Event(), threading.Event()

    def start(self, alias: str) -> None:
        """Begin to connect, and to ask."""
        threading.Thread(target=self._keep, name=f"look-{alias}", daemon=True).start()

    def end(self) -> None:
        """Ask no more."""
        self._over.set()
        self._again.set()

    def look(self) -> None:
        """Look at once."""
        self._host.look()
        self._again.set()

    def parts(self) -> dict[str, Any]:
        """Return all that is known, but for the history."""
        return {**self._host.parts(), "seen_at": self._seen_at, **self._asked}

    def _keep(self) -> None:
        self._host.follow()  # it waits where somebody else connects just now
        while not self._over.is_set():
            if self._host.is_up:
                self._look()
            self._again.wait(EVERY)
            self._again.clear()

    def _look(self) -> None:
        with contextlib.suppress(PortsError, OSError, RuntimeError):  # lost or closed meanwhile
            self._host.ask({})
            if self._host.is_up:
                self._seen_at = time.time()
                self._tell()


class Viewers:
    """The streams of one process, and the hosts that they watch."""

    def __init__(self, find: Callable[[str], Host], left: Callable[[str], None]) -> None:
        self._find, self._left = find, left
        self._lock = threading.RLock()
        self._watched: dict[str, Watched] = {}
        self._streams: list[Stream] = []

    @property
    def hosts(self) -> frozenset[str]:
        """The hosts that somebody watches now."""
        return frozenset(self._watched)

    def changed(self, alias: str) -> None:
        """Let the streams of a host say what has changed."""
        for stream in list(self._streams):
            stream.note(alias)

    def watched(self, alias: str) -> Watched | None:
        """Return a host that is watched."""
        return self._watched.get(alias)

    def stream(self, aliases: Iterable[str]) -> Stream:
        """Return a stream of lines about `aliases`; its hosts are asked from now on, until its end."""
        stream = Stream(self, tuple(dict.fromkeys(aliases)))
        with self._lock:
            self._streams.append(stream)
            for alias in stream.aliases:
                if alias not in self._watched:
                    self._watched[alias] = Watched(self._find(alias), partial(self.changed, alias))
                    self._watched[alias].start(alias)
        return stream

    def end(self, stream: Stream) -> None:
        """Forget a stream, and ask hosts no more that nobody else watches."""
        with self._lock:
            if stream not in self._streams:
                return
            self._streams.remove(stream)
            needed = {alias for one in self._streams for alias in one.aliases}
            ended = [alias for alias in stream.aliases if alias not in needed]
            for alias in ended:
                self._watched.pop(alias).end()
        for alias in ended:
            self._left(alias)

    def close(self) -> None:
        """Ask no host any more."""
        with self._lock:
            for one in self._watched.values():
                one.end()
            self._watched.clear()
            self._streams.clear()


class Stream:
    """What one process is told of hosts, see `_event_loop.Stream`: each line has the host, and the parts that changed.

    A reader that is slow misses lines, and no change: a line has what is true when it is sent.
    """

    def __init__(self, viewers: Viewers, aliases: tuple[str, ...]) -> None:
        self.aliases, self._viewers = aliases, viewers
        self._changed = dict.fromkeys(aliases)
        self._sent: dict[str, dict[str, Any]] = {alias: {} for alias in aliases}
        self._points: dict[str, dict[str, float]] = {alias: {} for alias in aliases}
        self._wake: Callable[[], None] = lambda: None

    def begin(self, wake: Callable[[], None]) -> None:
        """Call `wake`, from any thread, as soon as there are lines."""
        self._wake = wake
        wake()

    def note(self, alias: str) -> None:
        """A host has changed."""
        if alias in self._sent:
            self._changed[alias] = None
            self._wake()

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines that are due."""
        changed, self._changed = self._changed, {}
        return [line for alias in changed if (line := self._line(alias)) is not None]

    def hear(self, line: Mapping[str, Any]) -> None:
        """Take what the reader says: ``{"look": HOST}``."""
        watched = self._viewers.watched(str(line.get("look")))
        if watched is not None:
            watched.look()

    def end(self) -> None:
        """Nobody reads any more."""
        self._viewers.end(self)

    def _line(self, alias: str) -> dict[str, Any] | None:
        watched = self._viewers.watched(alias)
        if watched is None:
            return None
        sent, now = self._sent[alias], watched.parts()
        line = {key: value for key, value in now.items() if key not in sent or sent[key] != value}
        self._sent[alias] = now
        return {"host": alias, **line} if line else None
