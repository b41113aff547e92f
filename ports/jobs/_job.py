"""A job in Python: its state, its result, its end. It is known by its id, also in another process."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import html
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future
from typing import Any, NamedTuple, ParamSpec, TypeVar, overload

from ports import hosts
from ports.errors import (
    JobCancelledError,
    JobError,
    JobLostError,
    NotFoundError,
    PortsError,
    TimedOutError,
    UnsendableError,
    UsageError,
    harmless,
)
from ports.jobs import _awaited, _client, _logs, _machine, _model, _travel, _where
from ports.jobs._model import CANCELLED, ENDED, FINISHED, LOST, JobId, parse_id
from ports.jobs._protocol import Frame
from ports.jobs._where import Where

_MOST_LISTED = 1000


class RemoteTraceback(Exception):
    """The traceback where a job ran; the cause of the exception that `Job.result` raises."""

    def __str__(self) -> str:
        return harmless(f'\n"""\n{self.args[0]}"""')


P = ParamSpec("P")
R = TypeVar("R")


def brief(function: Callable[P, R]) -> Callable[P, R]:
    """Let what users call raise a PortsError without the frames of `ports` below it: its sentence says what counts.

    It names the machine that said it, if that is another one. What is said after Ctrl-C has no such frames either. The
    traceback of a job stays, where it is the cause.
    """

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return function(*args, **kwargs)
        except (PortsError, KeyboardInterrupt) as error:
            if isinstance(error, PortsError) and error.where is not None:
                error.at_home = hosts.targets.said_by(error.where, str(error))
            cause = error.__cause__ if isinstance(error.__cause__, RemoteTraceback) else None
            raise error.with_traceback(None) from cause

    return called


class End(NamedTuple):
    """How a job ended, as the resource says it; nothing is unpickled yet."""

    state: str
    error: Mapping[str, Any]
    reason: str
    blob: bytes

    @classmethod
    def of(cls, frame: Frame) -> End:
        """Return the end that an answer tells."""
        told = frame.header
        return cls(
            told["state"],
            told.get("error") or {},
            str(told.get("reason") or ""),
            frame.blobs[0] if frame.blobs else b"",
        )

    def value(self, job: Job) -> Any:
        """Return the result of `job`, or raise its exception."""
        if self.state == FINISHED and not self.blob:
            return None  # of a script
        if self.state == FINISHED:
            return job._unpack(self.blob, f"the result of job {job.id}")
        raise self.exception(job)

    def exception(self, job: Job) -> BaseException:
        """Return the exception of a job that did not finish."""
        kind, text = self.error.get("type"), str(self.error.get("text") or "")
        remote = str(self.error.get("traceback") or "")
        if self.state in (CANCELLED, LOST):
            error = JobCancelledError if self.state == CANCELLED else JobLostError
            reason = self.reason if job.host is None else _where.reason_at_home(job.host, self.reason)
            return error(job.id, reason or text or "it is not known why", remote)
        if self.blob:
            with contextlib.suppress(Exception):
                found = job._unpack(self.blob, "the exception")
                if isinstance(found, Exception):  # a SystemExit or KeyboardInterrupt would end the caller's program
                    found.__cause__ = RemoteTraceback(f"job {job.id}:\n{remote}")
                    return found
        if kind == UnsendableError.__name__:
            return UnsendableError(text)
        said = f"{kind}: {text}" if kind else text
        return JobError(job.id, said or self.reason or "it is not known why", remote)


class Job:
    """One job. It lives in the queue of its machine, and goes on when this object and this process are gone.

    As an argument of another job, it stands for its result. Pickled, it is its id.

    Examples
    --------
    >>> job = fit.submit(data)          # doctest: +SKIP
    >>> ports.jobs.get("12").result()   # doctest: +SKIP
    """

    def __init__(self, id: JobId | str | int, name: str = "", where: Where | None = None) -> None:
        self._where, self._id = _placed(id, where)
        self.name = name
        self._ended: str | None = None  # its last state
        self._future: Future[End] | None = None

    @property
    def id(self) -> str:
        """Its id: ``"12"``, or ``"12.7"`` for a job of a map; of another machine ``"server1:12"``."""
        return _where.called(self.host, self._id)

    @property
    def host(self) -> str | None:
        """The machine that has it, an alias of ``~/.ssh/config``; None for this machine."""
        return self._where.host

    def __ports_job__(self) -> str:
        """Return the id of the result that stands for it among arguments."""
        return _where.as_argument(self.host, self._id)

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.host, str(self._id), None, self.name)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Job) and (other.host, other._id) == (self.host, self._id)

    def __hash__(self) -> int:
        return hash((self.host, self._id))

    def __repr__(self) -> str:
        parts = filter(None, ("Job", self.id, self.name, self._ended))
        return harmless(f"<{' '.join(parts)}>", lines=False)

    def _repr_html_(self) -> str:
        return _as_html(self)

    # --- what it is now ---

    @property
    @brief
    def status(self) -> dict[str, Any]:
        """Its row: state, times, attempts, reason, usage; as ``ports job show --json`` has it.

        Raises
        ------
        NotFoundError
            It was removed.
        """
        row = _row(self.host, self._id)
        self._note(row["state"])
        self.name = self.name or row.get("name") or ""
        return row

    @property
    def state(self) -> str:
        """``"pending"``, ``"running"``, ``"finished"``, ``"error"``, ``"cancelled"`` or ``"lost"``."""
        return self._ended or str(self.status["state"])

    def done(self) -> bool:
        """Say whether it has ended, in whichever way."""
        return self.state in ENDED

    @brief
    def logs(self) -> str:
        """Return what it printed so far: of a function stdout, then stderr; of a script both in their order."""
        found = _machine.at(self.host).output(self.id)
        pieces, _ = _logs.last_of(found, 0)
        return b"".join(one.text for one in pieces).decode("utf-8", "backslashreplace")

    @brief
    def why(self) -> str:
        """Return why it waits, failed, or is lost, and whether its result came from the cache."""
        row = _machine.at(self.host).why(self.id)
        return str(row.get("why") or row.get("reason") or f"it is {row['state']}")

    # --- its end ---

    @brief
    def result(self, timeout: float | str | None = None) -> Any:
        """Wait for its end, and return what the function returned.

        Ctrl-C ends the waiting, not the job.

        Parameters
        ----------
        timeout : float or str, optional
            Seconds to wait, or a text like ``"5m"``. Default: until it ends.

        Raises
        ------
        Exception
            What the function raised; its cause is the traceback where it ran.
        JobError
            It failed, and the exception cannot be raised here.
        JobCancelledError, JobLostError
            It did not end by itself.
        TimedOutError
            It had not ended after `timeout`. It goes on.
        """
        return self._end(timeout).value(self)

    @brief
    def exception(self, timeout: float | str | None = None) -> BaseException | None:
        """Wait for its end, and return what `result` would raise; None if it finished. Raises TimedOutError."""
        end = self._end(timeout)
        return None if end.state == FINISHED else end.exception(self)

    @brief
    def wait(self, timeout: float | str | None = None) -> bool:
        """Wait for its end; say whether it has ended."""
        with contextlib.suppress(TimedOutError):
            self._end(timeout)
            return True
        return False

    def _end(self, timeout: float | str | None) -> End:
        limit = None if timeout is None else _model.parse_duration(timeout, "timeout")
        if self._future is not None and self._future.done():
            return self._future.result()
        try:
            frame = _client.ask("result", host=self.host, id=str(self._id), wait=limit)
        except KeyboardInterrupt:
            # Sixty lines of what waited would say nothing that a user can use.
            raise KeyboardInterrupt(f"job {self.id} goes on; job.cancel() ends it") from None
        if frame.header["state"] not in ENDED:
            raise TimedOutError(f"job {self.id}", limit or 0)
        return self._ended_by(End.of(frame))

    def _unpack(self, blob: bytes, what: str) -> Any:
        """Return what its machine sends; of one that is not trusted, plain data only."""
        if self._where.trust or _where.is_trusted(self.host):
            return _travel.unpack(blob, what)
        return _travel.read(blob, what, str(self.host))

    def _ended_by(self, end: End) -> End:
        self._note(end.state)
        return end

    def _note(self, state: str) -> None:
        if state in ENDED:
            self._ended = state

    @brief
    def cancel(self) -> bool:
        """Cancel it, running or not; say whether it had not ended before."""
        said = _client.ask("cancel", host=self.host, ids=[str(self._id)]).header
        return not said.get("ended_already")

    def add_done_callback(self, function: Callable[[Job], Any]) -> None:
        """Call `function` with this job when it has ended, at once if it has. It is called in a thread."""
        self._coming().add_done_callback(lambda _: function(self))

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait in an event loop, which goes on meanwhile, and return the result. Cancelling the wait cancels no job."""
        end = yield from asyncio.shield(asyncio.wrap_future(self._coming())).__await__()
        return self._ended_by(end).value(self)

    def _coming(self) -> Future[End]:
        if self._future is None:
            self._future = _awaited.end(self.host, self._id, End.of)
        return self._future


class JobMap(Sequence[Job]):
    """The jobs of one `map`, in its order. They are one submission, with one id.

    As an argument of another job, it stands for the list of their results.
    """

    def __init__(self, id: JobId | str | int | None, n_jobs: int, name: str = "", where: Where | None = None) -> None:
        self._id: JobId | None = None
        self._where = where or Where()
        if id is not None:
            self._where, self._id = _placed(id, where)
        self._n_jobs = n_jobs
        self.name = name
        self._jobs: dict[int, Job] = {}

    @property
    def id(self) -> str:
        """Its id; the third of its jobs is ``id + ".2"``. Empty for a map of nothing."""
        return "" if self._id is None else _where.called(self.host, self._id)

    @property
    def host(self) -> str | None:
        """The machine that has it, an alias of ``~/.ssh/config``; None for this machine."""
        return self._where.host

    def __ports_jobs__(self) -> tuple[Job, ...]:
        """Return the jobs whose results, as a list, stand for it among arguments."""
        return tuple(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return _loaded, (self.host, self._id and str(self._id), self._n_jobs, self.name)

    def __len__(self) -> int:
        return self._n_jobs

    @overload
    def __getitem__(self, index: int) -> Job: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Job]: ...
    def __getitem__(self, index: int | slice) -> Job | Sequence[Job]:
        if isinstance(index, slice):
            return [self[one] for one in range(self._n_jobs)[index]]
        try:
            place = range(self._n_jobs)[index]
        except IndexError:
            raise IndexError(f"{self!r} has no job {index}") from None
        if place not in self._jobs and self._id is not None:
            self._jobs[place] = Job(JobId(self._id.number, place), self.name, self._where)
        return self._jobs[place]

    def __repr__(self) -> str:
        parts = filter(None, ("JobMap", self.id, self.name))
        return harmless(f"<{' '.join(parts)}: {self._n_jobs} jobs>", lines=False)

    def _repr_html_(self) -> str:
        return _as_html(self)

    @property
    def status(self) -> dict[str, Any]:
        """Its row, with the number of its jobs in each state as ``counts``."""
        if self._id is None:
            return {"id": "", "state": FINISHED, "counts": {}, "count": 0}
        return _row(self.host, self._id)

    @property
    def state(self) -> str:
        """The state of all together: ``"running"`` while one runs, then the worst of them."""
        return str(self.status["state"])

    def done(self) -> bool:
        """Say whether all have ended."""
        return self.state in ENDED

    def cancel(self) -> None:
        """Cancel all that have not ended."""
        if self._id is not None:
            _client.ask("cancel", host=self.host, ids=[str(self._id)])

    def ends(self, timeout: float | str | None = None) -> Iterator[tuple[Job, End]]:
        """Yield each job at its end, in the order of their ends; raises TimedOutError."""
        if self._id is None:
            return
        limit = None if timeout is None else time.monotonic() + _model.parse_duration(timeout, "timeout")
        for frame in _client.results(str(self._id), limit, host=self.host):
            header = frame.header
            for index, state, error, blob in zip(
                header["indices"], header["states"], header["errors"], frame.blobs, strict=True
            ):
                job = self[index]
                if state in (CANCELLED, LOST):  # only the job's own answer says why
                    yield job, job._end(None if limit is None else max(0.0, limit - time.monotonic()))
                else:
                    yield job, job._ended_by(End(state, error or {}, "", blob))

    def __await__(self) -> Generator[Any, None, Any]:
        """Wait in an event loop for all of them, and return their results in their order."""
        return asyncio.get_running_loop().run_in_executor(None, self._results).__await__()

    def _results(self) -> Any:
        found = {job: end.value(job) for job, end in self.ends()}
        return [found[one] for one in self]

    def as_completed(self, timeout: float | str | None = None) -> Iterator[Job]:
        """Yield each job when it has ended."""
        for job, end in self.ends(timeout):
            job._future = Future()
            job._future.set_result(end)
            yield job


def _placed(id: JobId | str | int, where: Where | None) -> tuple[Where, JobId]:
    """Return the machine and the number of a job; `ports.host` says the machine only where neither argument does."""
    if where is not None:
        return where, parse_id(_where.bare(id))
    host, found = _where.split(id)
    return Where(host, _where.is_trusted(host)), found


def _loaded(host: str | None, id: str | None, n_jobs: int | None, name: str) -> Job | JobMap:
    """Return a job or a map that was pickled: it is of the machine that had it, whatever `ports.host` says now."""
    where = Where(host, _where.is_trusted(host))
    return Job(str(id), name, where) if n_jobs is None else JobMap(id, n_jobs, name, where)


def _as_html(found: Job | JobMap) -> str:
    """Return a small table for a notebook; the id alone where the resource does not answer."""
    try:
        row: Mapping[str, Any] = found.status
    except PortsError as error:
        row = {"id": found.id, "name": found.name, "state": str(error)}
    counts = row.get("counts") or {}
    many = ", ".join(f"{n} {state}" for state, n in counts.items()) if isinstance(found, JobMap) else ""
    cells = {"job": row.get("id"), "name": row.get("name"), "state": many or row.get("state"), "": row.get("reason")}
    body = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(str(value))}</td></tr>"
        for name, value in cells.items()
        if value
    )
    return f"<table>{body}{_bar_as_html(row)}</table>"


def _bar_as_html(row: Mapping[str, Any]) -> str:
    """Return how far a job says it is, or how many jobs of a map have ended; nothing where neither is known."""
    if row.get("count") is not None:
        done, total = sum(n for state, n in row["counts"].items() if state in ENDED), row["count"]
    else:
        said = row.get("progress") or {}
        done, total = said.get("done"), said.get("total")
    if done is None or not total:
        return ""
    words = f"{done:g} of {total:g}"
    return f'<tr><th>done</th><td><progress value="{done:g}" max="{total:g}">{words}</progress> {words}</td></tr>'


@brief
def get(id: object) -> Job | JobMap:
    """Return the job or map with this id: ``"12"`` or ``"12.7"``, or ``"server1:12"`` of another machine.

    Without a host, it is a job of the machine that `ports.host` names, else of this one.

    Raises
    ------
    NotFoundError
        There is none.
    """
    host, wanted = _where.split(id)
    return _of_row(host, _row(host, wanted))


def _row(host: str | None, id: JobId) -> dict[str, Any]:
    """Return what the machine of a job says of it, with the id that it has here."""
    row: dict[str, Any] = _client.look("show", host=host, id=str(id))["row"]
    return row if host is None else _where.asked_for(host, str(id), row)


def _of_row(host: str | None, row: Mapping[str, Any]) -> Job | JobMap:
    name, where = str(row.get("name") or ""), Where(host, _where.is_trusted(host))
    id = parse_id(str(row["id"]).rpartition(":")[2])
    if row.get("count") is not None:
        return JobMap(id, int(row["count"]), name, where)
    job = Job(id, name, where)
    job._note(str(row["state"]))
    return job


@brief
def list(newest: int = 50, **filters: Any) -> Sequence[Job | JobMap]:
    """Return the newest jobs and maps of the machine that `ports.host` names, else of this one.

    Parameters
    ----------
    newest : int
        How many, at most 1000.
    **filters
        ``state``, ``name``, ``queue``, ``tag``.
    """
    here = _where.current.get()
    if here.among:
        raise UsageError(f"jobs are listed of one machine; name one of {', '.join(here.among)} with ports.host")
    host = here.host
    rows = _client.look("list", host=host, newest=min(newest, _MOST_LISTED), filters=filters)["rows"]
    return [_of_row(host, row) for row in rows]


def of_one_machine(job: object) -> Job | JobMap:
    """Return `job`, or raise UsageError if it is none."""
    if not isinstance(job, Job | JobMap):
        raise UsageError(f"{_model.short(job)} is no job; give what submit(), map() and get() return")
    return job


__all__ = ["End", "Job", "JobMap", "NotFoundError", "RemoteTraceback", "get", "list"]
