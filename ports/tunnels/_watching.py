"""Watch hosts: their views, from the processes that hold the ways to them.

One process holds the connection to a host, and all who watch it here share what it sees: the one with an open tunnel,
else the one in the background, which is started where none runs. It asks nobody for a login.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from types import TracebackType
from typing import Any, Protocol

from ports import hosts, machine
from ports.errors import PortsError
from ports.hosts import is_here
from ports.tunnels import _background, _here, _views
from ports.tunnels import _records as tunnel_records
from ports.tunnels._records import GroupRecord, Lines
from ports.tunnels._views import View

_LEAST_PAUSE, _MOST_PAUSE = 0.1, 3.0  # seconds before another process is asked
_LATEST = 15.0  # seconds; the process says a word every five


def watch(
    hosts: Iterable[str],
    *,
    on_change: Callable[[View], None] | None = None,
    batch: bool = True,
    want: Iterable[str] = _views.WANTED,
) -> Watching:
    """Watch hosts: a context manager with their `views`, which change for as long as it lasts.

    The first views are there at once, and say ``connecting``.

    Parameters
    ----------
    hosts : iterable of str
        Aliases of ``~/.ssh/config``. An empty one, or a name of this machine, is this machine.
    on_change : callable, optional
        Called with the view of a host that has changed, one at a time, in a thread of its own. A view is replaced,
        never changed.
    batch : bool
        Ask nobody for a password. Else each login is asked for here, before the host is watched.
    want : iterable of str
        What is looked at beside the rows of listeners: ``who`` (and the history of the machine), ``jobs``, ``clusters``
        (their numbers and history). Default: all.
    """
    return Watching(hosts, on_change=on_change, batch=batch, want=tuple(want))


class Watching:
    """Hosts that are watched, see `watch`."""

    def __init__(
        self, hosts: Iterable[str], *, on_change: Callable[[View], None] | None, batch: bool, want: tuple[str, ...]
    ) -> None:
        self._on_change = on_change
        self._changed: dict[str, None] = {}
        self._news, self._over = threading.Event(), threading.Event()
        self._followers: dict[str, Follower] = {}
        for alias in dict.fromkeys("" if not one or is_here(one) else one for one in hosts):
            here = not alias
            self._followers[alias] = (
                _here.Here(self._note, want) if here else _There(alias, self._note, batch=batch, want=want)
            )
        self._teller = threading.Thread(target=self._tell, name="views", daemon=True)

    def views(self) -> list[View]:
        """Return the view of each host as it is now, in the order in which they were named."""
        return [one.view for one in self._followers.values()]

    def refresh(self, host: str) -> None:
        """Look at a host at once; nothing happens if it is not watched."""
        follower = self._followers.get("" if not host or is_here(host) else host)
        if follower is not None:
            follower.refresh()

    def __enter__(self) -> Watching:
        self._teller.start()
        for follower in self._followers.values():
            follower.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._news.set()
        for follower in self._followers.values():
            follower.end()
        if self._teller is not threading.current_thread():
            self._teller.join(2)

    def _note(self, alias: str) -> None:
        self._changed[alias] = None
        self._news.set()

    def _tell(self) -> None:
        while self._news.wait() and not self._over.is_set():
            self._news.clear()
            changed, self._changed = self._changed, {}
            for alias in changed:
                if self._on_change is not None and not self._over.is_set():
                    self._call(self._on_change, self._followers[alias].view)

    def _call(self, on_change: Callable[[View], None], view: View) -> None:
        try:
            on_change(view)
        except Exception as error:  # noqa: BLE001 - the next view may be another one
            threading.excepthook(threading.ExceptHookArgs((type(error), error, error.__traceback__, self._teller)))


class Follower(Protocol):
    """One host, as `Watching` needs it."""

    view: View

    def start(self) -> None:
        """Begin to look."""

    def refresh(self) -> None:
        """Look at once."""

    def end(self) -> None:
        """Look no more."""


class _There:
    """Another host: what the process that holds the way to it tells."""

    def __init__(self, alias: str, note: Callable[[str], None], *, batch: bool, want: tuple[str, ...]) -> None:
        self.view = _views.empty(alias, here=False, since=time.time())
        self._alias, self._note, self._batch, self._want = alias, note, batch, want
        self._parts: dict[str, Any] = {}
        self._machine: dict[str, Any] | None = None
        self._lines: Lines | None = None
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._follow, name=f"watch-{alias}", daemon=True)

    def start(self) -> None:
        """Begin to follow."""
        self._thread.start()

    def refresh(self) -> None:
        """Let the process that watches the host look at once."""
        lines = self._lines
        if lines is not None:
            lines.say({"look": self._alias})

    def end(self) -> None:
        """Follow no more."""
        self._over.set()
        lines = self._lines
        if lines is not None:
            lines.close()

    def _follow(self) -> None:
        if not self._batch:
            with contextlib.suppress(PortsError):  # the process that connects says why it cannot
                hosts.login(self._alias)
        pause = _LEAST_PAUSE
        while not self._over.is_set():
            began = time.monotonic()
            try:
                self._read(_holder(self._alias))
            except (PortsError, OSError) as error:
                self._fail(error)
            # a process that ended at once may do so again
            pause = _LEAST_PAUSE if time.monotonic() - began > _MOST_PAUSE else min(_MOST_PAUSE, 2 * pause)
            self._over.wait(pause)

    def _read(self, record: GroupRecord) -> None:
        """Take the lines of a process until it ends, or has another answer than lines."""
        self._parts = {}
        request = {"watch": [self._alias], "want": list(self._want)}
        with Lines(record, request, timeout=_LATEST) as lines:
            self._lines = lines
            try:
                for line in lines:
                    if self._over.is_set():
                        return
                    if "error" in line or ("rows" in line and "host" not in line):
                        raise PortsError(
                            f"process {record.process.pid}, which keeps the tunnels, is of an older ports: end it by "
                            "`ports tunnel close --all`"
                        )
                    self._take(line)
            finally:
                self._lines = None

    def _take(self, line: dict[str, Any]) -> None:
        if line.get("host") != self._alias:
            return
        history = line.pop("history", None)
        self._parts.update(line)
        if "who" in line:
            self._machine = _machine(line["who"], self._alias)
        view = _views.merged(self.view, self._parts, self._machine)
        if history is not None:
            view["history"] = _views.with_history(view["history"], history)
        self._set(view)

    def _fail(self, error: PortsError | OSError) -> None:
        """Say that nobody tells anything of the host."""
        since = self.view["since"] if self.view["condition"] == "down" else time.time()
        told = {"condition": "down", "since": since, "reason": str(error), "way_out": None}
        self._set({**self.view, **told})

    def _set(self, view: View) -> None:
        if view != self.view:
            self.view = view
            self._note(self._alias)


def _machine(who: Any, host: str) -> dict[str, Any] | None:
    """Return the row of a machine; None where a host sent none, or one of another version of `ports`."""
    try:
        return None if who is None else machine.from_probe(who, host).row()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError):
        return None


def _holder(alias: str) -> GroupRecord:
    """Return the process that has tunnels to a host open, else the one in the background; started if none runs."""
    holding = [
        record
        for _, record, alive in tunnel_records.read_all_records()
        if alive and any(row["host"] == alias for row in record.rows)
    ]
    return max(holding, key=lambda one: (one.background, one.started_at), default=None) or _background.running()
