"""What the page does: each act is a command of the command line in a child process, one at a time for a thing."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from ports.errors import ConflictError, NotFoundError, PortsError
from ports.web import _command

T = TypeVar("T")

#: Runs the words of a command, and returns its document: `_command.run`.
Do = Callable[[Sequence[str]], Any]
_ENDING = {"start": "started", "stop": "stopped", "scale": "scaled", "restart": "restarted", "remove": "removed"}


def in_daemon(work: Callable[[], T]) -> asyncio.Future[T]:
    """Return what `work` makes in a thread for which no process waits at its end, as it does for those of asyncio."""
    answer = Future[T]()
    answer.set_running_or_notify_cancel()

    def run() -> None:
        try:
            answer.set_result(work())
        except BaseException as error:  # noqa: BLE001 - who waits gets it
            answer.set_exception(error)

    made = asyncio.wrap_future(answer)
    threading.Thread(target=run, name="act", daemon=True).start()
    return made


class Thing(NamedTuple):
    """What an act is on."""

    host: str
    kind: str
    name: str


class Acts:
    """The acts that go on at this moment."""

    def __init__(self, do: Do = _command.run) -> None:
        self._do = do
        self._lock = threading.Lock()
        self._on: dict[Thing, tuple[str, float]] = {}

    def doing(self) -> list[dict[str, Any]]:
        """Return what goes on, the oldest first."""
        with self._lock:
            return [
                {"verb": verb, "host": one.host, "kind": one.kind, "name": one.name, "since": since}
                for one, (verb, since) in self._on.items()
            ]

    @contextmanager
    def holding(self, thing: Thing, verb: str) -> Iterator[None]:
        """Let no other act begin on a thing; raises ConflictError where one goes on."""
        with self._lock:
            if (other := self._on.get(thing)) is not None:
                raise ConflictError(f"{_called(thing)} is being {_passive(other[0])}; wait until that has ended")
            self._on[thing] = verb, time.time()
        try:
            yield
        finally:
            with self._lock:
                del self._on[thing]

    def run(self, thing: Thing, verb: str, words: Sequence[str]) -> Any:
        """Run the words of a command; raises ConflictError, and what the command raises. Call it in a thread."""
        with self.holding(thing, verb):
            return self._do(words)


def _called(thing: Thing) -> str:
    return f"{thing.kind} {thing.name!r} on {thing.host}" if thing.name else f"the {thing.kind} on {thing.host}"


def _passive(verb: str) -> str:
    return _ENDING.get(verb, f"{verb}ed")


def link_to(target: Thing, called: str, rows: Sequence[Mapping[str, Any]], do: Do = _command.run) -> str:
    """Return the link, with its token, to a thing; its tunnel is opened if it is not open.

    Parameters
    ----------
    target : Thing
        Its name is what a target names it by: a name, or a port.
    called : str
        The name of its row, which the row of its tunnel has, too.
    rows : sequence of mapping
        The tunnels that are open, as `ports.tunnels.list` returns them.

    Raises
    ------
    NotFoundError
        There is none.
    PortsError
        It cannot be opened.
    """
    mine = [row for row in rows if (row.get("host"), row.get("name")) == (target.host, called)]
    if (found := _open_link(mine)) is not None:
        return found
    named = f"[{target.host}]" if ":" in target.host else target.host
    opened = do(["open", f"{named}:{target.name}", "--background", "--no-browser"])
    if (found := _open_link(opened)) is not None:
        return found
    for row in opened:
        if row.get("error"):
            raise PortsError(str(row["error"]))
    raise NotFoundError("link", f"{target.host}:{target.name}", "`ports list` shows what can be opened")


def _open_link(rows: Sequence[Mapping[str, Any]]) -> str | None:
    """Return the link of the first row that has one; it leads to this machine, whatever a host said."""
    links = [str(row.get("local_url") or "") for row in rows if row.get("state") == "open"]
    return next((link for link in links if _leads_here(link)), None)


def _leads_here(link: str) -> bool:
    try:
        parts = urlsplit(link)
    except ValueError:
        return False
    return parts.scheme in ("http", "https") and parts.hostname in ("localhost", "127.0.0.1")
