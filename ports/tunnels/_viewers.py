"""Whoever watches the hosts of one process: each gets what has changed, in a stream of lines.

A host is asked for as long as somebody watches it, and by one watcher, however many there are.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, Protocol

from ports.errors import PortsError, TimedOutError
from ports.tunnels import _views

EVERY = 2.0  # seconds between two looks at a host
_PATIENCE = 10.0  # seconds for the answer to a look


class Host(Protocol):
    """A host, as its watcher needs it; see `HostTunnels`."""

    @property
    def is_up(self) -> bool:
        """Whether the connection to it stands."""

    def parts(self) -> dict[str, Any]:
        """Return what is known of its condition and its listeners."""

    def follow(self) -> None:
        """Connect to it, and stay connected."""

    def nodes(self) -> list[str]:
        """Return other nodes of its name on which something of mine runs."""

    def look(self) -> None:
        """Let our program there look at once at what listens."""

    def ask(self, request: dict[str, Any], *, timeout: float) -> dict[str, Any]:
        """Return what our program there sees of the machine; raises PortsError, TimeoutError, RuntimeError."""


class Watched:
    """A host that somebody watches: what is known of it, and the thread that asks.

    Parameters
    ----------
    find : callable
        Returns a node of the host's name.
    wanted : callable
        Returns what those who watch want to know, of `_views.WANTED`.
    tell : callable
        Called when something has changed.
    """

    def __init__(
        self, host: Host, *, find: Callable[[str], Host], wanted: Callable[[], Iterable[str]], tell: Callable[[], None]
    ) -> None:
        self._host, self._find, self._wanted, self._tell = host, find, wanted, tell
        self.nodes: dict[str, Host] = {}
        self._looked: dict[str, Any] = {"seen_at": None}
        self.history = _views.no_history()
        self._again, self._over = threading.Event(), threading.Event()
        self._was_up = False

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

    def heed_condition(self) -> None:
        """Look at once when the connection has come back."""
        is_up, before = self._host.is_up, self._was_up
        self._was_up = is_up
        if is_up and not before:
            self._again.set()

    def parts(self) -> dict[str, Any]:
        """Return all that is known, without the history; what runs on other nodes has rows, too."""
        told = self._host.parts()
        for node, host in list(self.nodes.items()):
            there = host.parts()
            told["rows"] = [*told["rows"], *there["rows"]]
            told["warnings"] += [f"{node}: {there['reason']}"] if there["reason"] else []
        return {**told, **self._looked}

    def _keep(self) -> None:
        self._host.follow()  # it waits where somebody else connects just now
        while not self._over.is_set():
            try:
                if self._host.is_up:
                    self._look()
                    self._follow_nodes()
            except Exception as error:  # noqa: BLE001 - a host that nobody asks any more would be shown as it was
                now = threading.current_thread()
                threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, now)))
            self._again.wait(EVERY)
            self._again.clear()

    def _follow_nodes(self) -> None:
        for node in self._host.nodes():
            if node not in self.nodes and not self._over.is_set():
                self.nodes[node] = self._find(node)
                self.nodes[node].follow()

    def _look(self) -> None:
        try:
            answer = self._host.ask(_views.request(self._wanted(), self.history), timeout=_PATIENCE)
        except TimedOutError as error:
            self._looked = {**self._looked, "troubles": [str(error)]}
        except (PortsError, OSError, RuntimeError):  # lost or closed meanwhile
            return
        else:
            self._looked = {**_views.looked(answer), "seen_at": time.time()}
            told = answer.get("history")
            self.history = _views.with_history(self.history, told if isinstance(told, dict) else {})
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
        if (watched := self._watched.get(alias)) is not None:
            watched.heed_condition()
        for stream in list(self._streams):
            stream.note(alias)
            stream.note(alias.partition("/")[0])  # a node's rows are shown with its name's

    def watched(self, alias: str) -> Watched | None:
        """Return a host that is watched."""
        return self._watched.get(alias)

    def stream(self, aliases: Iterable[str], wanted: Iterable[str]) -> Stream:
        """Return a stream of lines about `aliases`; its hosts are asked from now on what is `wanted`, until its end."""
        stream = Stream(self, tuple(dict.fromkeys(aliases)), frozenset(wanted))
        with self._lock:
            self._streams.append(stream)
            for alias in stream.aliases:
                if alias in self._watched:
                    self._watched[alias].look()  # it may want to know more than the others
                    continue
                self._watched[alias] = Watched(
                    self._find(alias),
                    find=self._find,
                    wanted=partial(self._wanted, alias),
                    tell=partial(self.changed, alias),
                )
                self._watched[alias].start(alias)
        return stream

    def end(self, stream: Stream) -> None:
        """Forget a stream, and ask hosts no more that nobody else watches."""
        with self._lock:
            if stream not in self._streams:
                return
            self._streams.remove(stream)
            needed = {alias for one in self._streams for alias in one.aliases}
            ended = [(alias, self._watched.pop(alias)) for alias in stream.aliases if alias not in needed]
        for alias, watched in ended:
            watched.end()
            for left in (*watched.nodes, alias):
                self._left(left)

    def _wanted(self, alias: str) -> set[str]:
        return {what for stream in list(self._streams) if alias in stream.aliases for what in stream.wanted}

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

    def __init__(self, viewers: Viewers, aliases: tuple[str, ...], wanted: frozenset[str]) -> None:
        self.aliases, self.wanted, self._viewers = aliases, wanted, viewers
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
        points, last = _views.later(watched.history, self._points[alias])
        if last != self._points[alias]:
            line["history"] = points
        self._sent[alias], self._points[alias] = now, last
        return {"host": alias, **line} if line else None
