"""The pages of jobs: the list, one job with its output and files, a new one. Mixins, as in `_handlers`."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from ports import jobs
from ports.errors import NotFoundError, PortsError, UsageError
from ports.web import _job_form, _job_view, _jobs_looks, _jobs_view, _render
from ports.web._jobs_acts import MOST, Acts, Failed
from ports.web._jobs_looks import Looks
from ports.web._jobs_view import Id, Query

Given = Mapping[str, Sequence[str]]
_LIST, _NEW, _SELECTED, _JOB = "/-/jobs", "/-/jobs/new", "/-/jobs/selected", "/-/jobs/"
_VERBS = ("cancel", "rerun")
_BUFFER = 1 << 20
EVERY = 1.0  # seconds between two looks at the jobs that a page shows


class Acted(NamedTuple):
    """What a POST leads to: a path below the place of the page, or a page with the error in it."""

    to: str | None = None
    html: str | None = None


class JobsOf:
    """The jobs of the hosts of one page."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.looks = Looks()
        self.acts = Acts(self.looks)

    @property
    def hosts(self) -> dict[str, str]:
        """The hosts of the page by the names that people use; this machine's is the empty text."""
        views = self.page.board.views()
        return {str(view["host"]): "" if view.get("here") else str(view["host"]) for view in views}

    @property
    def called(self) -> dict[str, str]:
        """The names of the hosts by what stands before an id."""
        return {alias: name for name, alias in self.hosts.items()}

    def id_of(self, text: str) -> Id:
        """Return the id of a job of a host of this page; raises UsageError, and NotFoundError for another host."""
        id = _jobs_view.parse_id(text)
        if id.host not in self.called:
            raise NotFoundError("host", id.host, "this page does not show it; `ports page` takes the hosts to show")
        return id

    # --- the values of each page ---

    async def draw(self, below: str, given: Given, **values: Any) -> str:
        """Return the HTML of a page of jobs.

        Parameters
        ----------
        below : str
            Its path below the place of the page.
        **values
            What replaces what the template shows: ``part``, ``notice``.

        Raises
        ------
        PortsError
            There is no such job, or its host did not answer.
        """
        template, found = await self._found(below, given)
        return self.render(template, below, {**found, **values})

    def render(self, template: str, below: str, found: Mapping[str, Any]) -> str:
        """Return a template with what every page has."""
        return _render.render(template, **{**self.page.values(below), "tab": "jobs", **found})

    async def _found(self, below: str, given: Given) -> tuple[str, dict[str, Any]]:
        if below == _LIST:
            return "jobs.html", await self._list(given)
        if below == _NEW:
            return "job_new.html", await self._new(given)
        if below == _SELECTED:
            return "jobs_selected.html", await self._selected(given)
        id = self.id_of(unquote(below[len(_JOB) :]))
        shown = await self.looks.shown(id)
        found = _job_view.job(id, shown, self.called, _now())
        return "job.html", {**found, "notes": self.acts.notes.get(str(id), [])}

    async def _list(self, given: Given) -> dict[str, Any]:
        hosts = self.hosts
        query = Query.of(given, hosts)
        views = {"" if view.get("here") else str(view["host"]): view for view in self.page.board.views()}
        looks = await self.looks.list(query, hosts, views, _jobs_view.PAGE + 1)
        return _jobs_view.jobs(query, hosts, looks, _now())

    async def _new(self, given: Given) -> dict[str, Any]:
        hosts = self.hosts
        source = _last(given, "from")
        if not source:
            host = _last(given, "host")
            first = {"host": host if host in hosts else next(iter(hosts)), "directory": "~"}
            return _job_form.new_job(first, hosts)
        id = self.id_of(source)
        row = await self.looks.row(id)
        values = _job_form.filled(row, self.called[id.host])
        return _job_form.new_job(values, hosts, source=str(id), copied=has_copy(row))

    async def _selected(self, given: Given) -> dict[str, Any]:
        verb, ids = _last(given, "verb"), [self.id_of(one) for one in dict.fromkeys(given.get("id", ()))]
        if verb not in _VERBS:
            raise UsageError(f"the page cannot {verb[:40]!r} a job; `ports job --help` lists what the command line can")
        if not ids:
            raise UsageError("no job is chosen; mark those that you mean, and press the button again")
        rows = await asyncio.gather(*(self.looks.row(id) for id in ids[:MOST]))
        return _jobs_view.selected(verb, list(zip(ids, rows, strict=False)), self.called)

    # --- acts ---

    async def act(self, given: Given) -> Acted:
        """Do what a form says."""
        verb = _last(given, "verb")
        if verb == "submit":
            return await self._submit(given)
        below = {"verb": [verb], "id": list(given.get("id", ()))}
        try:
            ids = [self.id_of(one) for one in dict.fromkeys(below["id"])]
            if verb not in _VERBS or not 0 < len(ids) <= MOST:
                return Acted(html=await self._refused(UsageError(f"no act on 1 to {MOST} jobs")))
            failed = await (self.acts.cancel(ids) if verb == "cancel" else self.acts.rerun(ids))
        except PortsError as error:
            return Acted(html=await self._refused(error))
        if not failed:
            return Acted(to=f"/{ids[0].href}" if verb == "cancel" and len(ids) == 1 else _LIST)
        return Acted(html=await self._refused(PortsError(_said(failed))))

    async def _refused(self, error: PortsError) -> str:
        return await self.draw(_LIST, {}, notice=str(error))

    async def _submit(self, given: Given) -> Acted:
        values = {name: _last(given, name) for name in _job_form.NAMES}
        hosts, source, copied = self.hosts, _last(given, "source"), False
        try:
            if values["host"] not in hosts:
                raise UsageError(f"host: {values['host'][:60]!r} is none of this page")
            host, id = hosts[values["host"]], self.id_of(source) if source else None
            copied = id is not None and has_copy(await self.looks.row(id))
            if copied and id is not None and id.host != host:
                raise UsageError(f"host: the files of job {id} are on {self.called[id.host]}; choose that host")
            return Acted(to=f"/{(await self.acts.submit(host, values, id if copied else None)).href}")
        except PortsError as error:
            found = _job_form.new_job(values, hosts, error=str(error), source=source, copied=copied)
            return Acted(html=self.render("job_new.html", _NEW, found))


def has_copy(row: Mapping[str, Any]) -> bool:
    """Say whether a job ran in a copy of its directory."""
    script = (row.get("asked") or {}).get("script") or {}
    return isinstance(script.get("workspace"), Mapping)


def _now() -> float:
    import time

    return time.time()


def _last(given: Given, name: str) -> str:
    return given[name][-1] if given.get(name) else ""


def _said(failed: Sequence[Failed]) -> str:
    """Return what failed, in a sentence for each reason."""
    by_reason: dict[str, list[str]] = {}
    for one in failed:
        by_reason.setdefault(one.reason, []).extend(map(str, one.ids))
    return "; ".join(f"{', '.join(ids[:10])}{' …' if ids[10:] else ''}: {reason}" for reason, ids in by_reason.items())


def jobs_of(page: Any) -> JobsOf:
    """Return the jobs of a page, which all its handlers share."""
    found = getattr(page, "jobs", None)
    if found is None:
        found = page.jobs = JobsOf(page)
    return found


def is_of_jobs(below: str) -> bool:
    """Say whether a path below the place of the page is one of jobs."""
    return below == _LIST or below.startswith(_JOB)


async def main(page: Any, below: str, given: Given) -> str | None:
    """Return ``<main>`` of a page of jobs as it is now; None where nobody need send it again."""
    if not is_of_jobs(below) or below in (_NEW, _SELECTED):
        return None
    try:
        return await jobs_of(page).draw(below, given, part="main")
    except PortsError:
        return None


async def act(page: Any, given: Given) -> Acted:
    """Do what a form about jobs says, whose guard has let it in."""
    return await jobs_of(page).act(given)


# --- handlers ---


class JobsScreen:
    """A page of jobs."""

    page: Any
    request: Any

    def initialize(self, page: Any) -> None:
        """Take the page that all handlers share."""
        self.page = page

    @property
    def below(self) -> str:
        """The path of the request below the place of the page."""
        return str(self.request.path)[len(self.page.where) :]

    @property
    def given(self) -> dict[str, list[str]]:
        """The query of the request."""
        return {
            name: [one.decode("utf-8", "replace") for one in values]
            for name, values in self.request.query_arguments.items()
        }

    async def get(self, *_: str) -> None:
        """Draw it."""
        own = jobs_of(self.page)
        self.page.live.touch()
        try:
            text = await own.draw(self.below, self.given)
        except PortsError as error:
            self.set_status(404 if isinstance(error, NotFoundError | UsageError) else 503)  # type: ignore[attr-defined]
            text = own.render("job_missing.html", self.below, {"notice": str(error)})
        self.set_header("Content-Type", "text/html; charset=utf-8")  # type: ignore[attr-defined]
        self.finish(text)  # type: ignore[attr-defined]


class JobFile(JobsScreen):
    """A file of a job's output, or one of its streams, as bytes to save: never a page of this origin."""

    async def get(self, id: str = "", *_: str) -> None:
        """Send it."""
        own = jobs_of(self.page)
        try:
            host, begin = self._source(own, own.id_of(id))
            name, size, pieces = await asyncio.wrap_future(own.looks.begin(host, begin))
        except PortsError as error:
            self.set_status(404)  # type: ignore[attr-defined]
            self.set_header("Content-Type", "text/plain; charset=utf-8")  # type: ignore[attr-defined]
            self.finish(f"{error}\n")  # type: ignore[attr-defined]
            return
        for header, value in as_file(name, size).items():
            self.set_header(header, value)  # type: ignore[attr-defined]
        await self._send(own, host, pieces)

    def _source(self, own: JobsOf, id: Id) -> tuple[str, Any]:
        """Return the host, and what gives there name, size and pieces."""
        given = self.given
        named = self.request.query_arguments.get("path") or [b""]
        stream, path = _last(given, "stream"), named[-1].decode("utf-8", "surrogateescape")

        def of_stream(machine: Any) -> Any:
            return f"job-{id.number}.{stream}.txt", None, jobs.whole(machine.output(id.number), stream)

        def of_path(machine: Any) -> Any:
            output, one = _jobs_looks.chosen(machine, machine.show(id.number), path)
            return one.path.rpartition("/")[2], one.size, _at_most(output.pieces(one, 0), one.size)

        if stream in ("stdout", "stderr"):
            return id.host, of_stream
        return id.host, of_path

    async def _send(self, own: JobsOf, host: str, pieces: Iterator[bytes]) -> None:
        """Send what a host gives, one piece after the other; a connection that ends, ends it."""
        while True:
            piece = await asyncio.wrap_future(own.looks.begin(host, lambda _: next(pieces, b"")))
            if not piece:
                break
            self.write(piece)  # type: ignore[attr-defined]
            await self.flush()  # type: ignore[attr-defined]
        with contextlib.suppress(Exception):  # fewer bytes than its length: the connection ends, and a browser says so
            self.finish()  # type: ignore[attr-defined]


def _at_most(pieces: Iterator[bytes], size: int) -> Iterator[bytes]:
    """Yield so many bytes: a file can grow while it is read."""
    left = size
    for piece in pieces:
        for begin in range(0, min(len(piece), left), _BUFFER):
            yield piece[begin : min(begin + _BUFFER, left)]
        left -= min(len(piece), left)
        if not left:
            return


def as_file(name: str, size: int | None) -> dict[str, str]:
    """Return the headers of bytes that a browser saves, whatever is in them."""
    plain = "".join(one if one.isascii() and (one.isalnum() or one in "._-") else "_" for one in name)[-100:] or "file"
    encoded = quote(name.encode("utf-8", "surrogateescape"), safe="")
    told = {
        "Content-Type": "application/octet-stream",
        "Content-Disposition": f"attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}",
        "X-Content-Type-Options": "nosniff",
        "Content-Security-Policy": "default-src 'none'; sandbox",
    }
    return told if size is None else {**told, "Content-Length": str(size)}


def routes(page: Any, over: Any, place: str = "") -> list[tuple[str, type[Any], dict[str, Any]]]:
    """Return the routes of jobs; `over` makes a handler of a mixin."""
    screen, file = over(JobsScreen), over(JobFile)
    return [
        (f"{place}/-/jobs", screen, {"page": page}),
        (f"{place}/-/jobs/([^/]+)/file", file, {"page": page}),
        (f"{place}/-/jobs/([^/]+)", screen, {"page": page}),
    ]
