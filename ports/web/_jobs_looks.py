"""Looks at the jobs of several hosts at once, for the page: in threads, which nobody waits for longer than a moment.

A host that hangs holds its own threads only. The same question is asked once at a time. An answer that comes late is
there for the next look. Nobody is asked for a password or code.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import Any

from ports import jobs
from ports.errors import PortsError, TimedOutError
from ports.web._job_view import Shown
from ports.web._jobs_view import Id, Looked, Query

HERE = ""
_THREADS = 3  # of each host
_PATIENCE, _PATIENCE_HERE = 0.8, 10.0  # seconds for which a page waits for an answer
_MOST_KEPT = 24  # of answers, and of outputs that are read on
_FILES_SECONDS = 5.0  # for which the list of a job's files stands
_MOST_FILES = 5000
_UNANSWERED = ("down", "needs login")


class Looks:
    """Asks hosts; one for each page."""

    def __init__(self) -> None:
        self._gates: dict[str, threading.Semaphore] = {}
        self._flying: dict[tuple[Any, ...], Future[Any]] = {}
        self._known: dict[tuple[Any, ...], Any] = {}
        self._tails: dict[tuple[Any, ...], tuple[jobs.Tail, threading.Lock]] = {}
        self._files: dict[Id, tuple[float, Any, Any]] = {}

    async def ask(self, host: str, key: tuple[Any, ...], question: Callable[[Any], Any]) -> Any:
        """Return what `question` makes of the jobs of a host, or what it made last, where it takes long.

        Raises
        ------
        TimedOutError
            The host has not answered yet; the next look can have the answer.
        PortsError
            What the host raised.
        """
        key = (host, *key)
        if (flying := self._flying.get(key)) is None:
            flying = self._flying[key] = self.begin(host, question)
            flying.add_done_callback(lambda _: self._arrived(key))
        patience = _PATIENCE if host else _PATIENCE_HERE
        done, _ = await asyncio.wait([_awaited(flying)], timeout=patience)
        if done:
            return flying.result()
        if key in self._known:
            return self._known[key]
        raise TimedOutError(f"the jobs of {host or 'this machine'}", patience)

    def _arrived(self, key: tuple[Any, ...]) -> None:
        """Keep an answer, for a look that does not wait for the next one."""
        flying = self._flying.pop(key, None)
        if flying is None or flying.cancelled() or flying.exception() is not None:
            self._known.pop(key, None)
            return
        self._known[key] = flying.result()
        for old in list(self._known)[:-_MOST_KEPT]:
            self._known.pop(old, None)

    def begin(self, host: str, question: Callable[[Any], Any]) -> Future[Any]:
        """Ask a host in a thread."""
        gate, answer = self._gates.setdefault(host, threading.Semaphore(_THREADS)), Future[Any]()

        def run() -> None:
            with gate, jobs.in_batch():
                try:
                    answer.set_result(question(jobs.at(host or None)))
                except BaseException as error:  # noqa: BLE001 - who waits gets it
                    answer.set_exception(error)

        # a daemon: the page ends although a host hangs
        threading.Thread(target=run, name=f"jobs of {host or 'this machine'}", daemon=True).start()
        return answer

    # --- what the pages show ---

    async def page(self, host: str, view: Mapping[str, Any] | None, filters: Mapping[str, Any], newest: int) -> Looked:
        """Return a page of the list of one host; of one that is not reached, why."""
        if host and view is not None and view.get("condition") in _UNANSWERED:
            reason = f"{view['condition']}: {view['reason']}" if view.get("reason") else str(view["condition"])
            return Looked(host, None, reason, str(view.get("way_out") or ""))
        key = ("page", newest, *sorted(filters.items()))
        try:
            return Looked(host, await self.ask(host, key, lambda machine: machine.page(newest=newest, **filters)))
        except TimedOutError:
            return Looked(host, None, "it has not answered yet")
        except PortsError as error:
            return Looked(host, None, str(error))

    async def list(self, query: Query, hosts: Mapping[str, str], views: Mapping[str, Any], newest: int) -> list[Looked]:
        """Return what each host of a query says."""
        wanted, words = query.asked(hosts)
        asked = (self.page(host, views.get(host), query.filters(host, words), newest) for host in wanted)
        return list(await asyncio.gather(*asked))

    async def row(self, id: Id) -> Mapping[str, Any]:
        """Return all that is known of a job; raises as `ask`."""
        found: Mapping[str, Any] = await self.ask(id.host, ("show", id.number), lambda one: one.show(id.number))
        return found

    async def shown(self, id: Id) -> Shown:
        """Return what the page of a job shows; raises as `ask`."""
        row = await self.row(id)
        if row.get("count") is not None:
            return Shown(row)
        output, files, why = await asyncio.gather(self._output(id, row), self._listed(id, row), self._why(id, row))
        lines, streams, trouble = output
        found, no_files = files
        return Shown(row, why, lines, streams, found, no_files, trouble)

    async def _why(self, id: Id, row: Mapping[str, Any]) -> str:
        """Return why a job waits, or ran although its result could have come from the cache."""
        note = row.get("note") or {}
        if row.get("reason") or row.get("why") or not (note.get("cache") or row.get("state") == "pending"):
            return ""
        try:
            found = await self.ask(id.host, ("why", id.number, row.get("state")), lambda one: one.why(id.number))
        except PortsError:  # the row says enough
            return ""
        return str(found.get("why") or "")

    async def _output(self, id: Id, row: Mapping[str, Any]) -> tuple[Any, dict[str, int], str]:
        """Return the last lines of a job, the sizes of its streams, and what went wrong."""
        key = (id, row.get("attempt"))

        def question(machine: Any) -> Any:
            if key not in self._tails:
                while len(self._tails) >= _MOST_KEPT:
                    self._tails.pop(next(iter(self._tails)))
                self._tails[key] = jobs.Tail(machine.output(id.number)), threading.Lock()
            tail, lock = self._tails[key]
            with lock:
                return tail.look(), tail.sizes()

        try:
            lines, sizes = await self.ask(id.host, ("output", id.number, row.get("attempt")), question)
        except TimedOutError:
            return [], {}, "its output has not come yet"
        except PortsError as error:
            return [], {}, str(error)
        return lines, sizes, ""

    async def _listed(self, id: Id, row: Mapping[str, Any]) -> tuple[Any, str]:
        """Return the files that are a job's output, or why there are none."""
        state = (row.get("state"), row.get("attempt"))
        known = self._files.get(id)
        if known is not None and known[1] == state and time.monotonic() - known[0] < _FILES_SECONDS:
            return known[2]  # type: ignore[no-any-return]
        try:
            found: tuple[Any, str] = await self.ask(id.host, ("files", id.number, *state), _files_of(row)), ""
        except TimedOutError:
            return None, "the list of its files has not come yet"
        except PortsError as error:
            found = None, str(error)
        self._files[id] = time.monotonic(), state, found
        while len(self._files) > _MOST_KEPT:
            del self._files[next(iter(self._files))]
        return found


def _awaited(flying: Future[Any]) -> asyncio.Future[Any]:
    """Return what can be awaited; nobody need do so."""
    made = asyncio.wrap_future(flying)
    made.add_done_callback(lambda one: one.cancelled() or one.exception())
    return made


def _files_of(row: Mapping[str, Any]) -> Callable[[Any], Any]:
    return lambda machine: machine.outputs(row).find()[:_MOST_FILES]


def chosen(machine: Any, row: Mapping[str, Any], path: str) -> tuple[Any, Any]:
    """Return the output of a job and the one file of it that is called `path`; raises NotFoundError.

    No path from outside is opened: it is one of those that the output lists.
    """
    from ports.errors import NotFoundError

    output = machine.outputs(row)
    for one in output.find():
        if one.path == path and one.kind == "f":
            return output, one
    raise NotFoundError("output", f"{row['id']}/{path}", f"`ports job fetch {row['id']}` shows what there is")
