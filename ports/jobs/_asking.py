"""What people ask about jobs: list, show, wait, cancel, run again, remove; and where a job's output is.

The compute resource answers. Where none runs, the queue itself is looked at, for a moment, under the resource's lock.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ports import listeners
from ports.errors import ConflictError, PortsError, ResourceLostError, TimedOutError, UsageError
from ports.jobs import (
    _copies,
    _durable,
    _fetch,
    _logs,
    _model,
    _outputs,
    _places,
    _resource,
    _rows,
    _scripts,
    _submissions,
)
from ports.jobs._connection import Connection, revive
from ports.jobs._model import ENDED, Capacity, Copied, JobId, LeaseState, Said, parse_id, untold
from ports.jobs._scripts import Script
from ports.jobs._trees import Objects
from ports.probe import rest, size, words

#: The machine; for `_afar` an alias.
host: str | None = None
_TRIES = 3
_PATIENCE = 10.0  # seconds for which the queue can be open in a process that does not answer
_EVERY, _EVERY_WITHOUT = 1.0, 2.0  # seconds between two looks at jobs that are waited for


class Output:
    """The output of one job: where it is at this moment, whether its lines have stamps, and whether more can come."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        self.id = parse_id(row["id"])
        self.stamped = row.get("what") == "script"
        self._row, self._look_at = row, 0.0

    @property
    def called(self) -> str:
        """What the job is called here."""
        return str(self.id)

    def files(self) -> dict[str, _logs.Source]:
        """Return the file of each stream; it need not exist."""
        work = _places.here().work_of(self.id)
        now = {name: _logs.File(path) for name, path in self.paths().items()}
        return {name: _logs.joined(self._row, one, _logs.File(work / name)) for name, one in now.items()}

    def paths(self) -> dict[str, Path]:
        """Return the file to which each stream goes now."""
        places = _places.here()
        if (place := _logs.place_of(self._row)) is not None:
            return {"stdout": places.stdout_of(place[0]), "stderr": places.stderr_of(place[0])}
        work = places.work_of(self.id)
        return {name: work / name for name in _logs.STREAMS}

    def is_over(self) -> bool:
        """Tell whether the job has ended; the queue is asked once in a while."""
        if self._row["state"] not in ENDED and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + (_EVERY / 2 if is_running() else _EVERY_WITHOUT)
            with contextlib.suppress(ConflictError):  # the resource is starting
                self._row = show(self.id)
        return self._row["state"] in ENDED

    def is_still(self) -> bool:
        """Say whether the job still has the files that `files` named; see `_logs.Output`."""
        before = _logs.place_of(self._row)
        if before is None:
            return True
        with contextlib.suppress(ConflictError):
            self._row = show(self.id)
        return _logs.place_of(self._row) == before


def ask(op: str, blobs: Sequence[bytes] = (), **fields: Any) -> dict[str, Any]:
    """Return the answer of the resource of this machine to one request, or of the queue where none runs.

    Raises
    ------
    PortsError
        What the resource raised.
    ConflictError
        A process has the queue open for 10 s and does not answer.
    """
    places, end = _places.here(), time.monotonic() + _PATIENCE
    while True:
        try:
            with Connection(places.socket) as connection:
                return dict(connection.ask(op, blobs, **fields).header)
        except ResourceLostError:
            try:
                return _ask_queue(places, {"op": op, **fields}, blobs)
            except words.Refused as refused:
                # A resource starts or ends, or somebody else looks.
                if not isinstance(refused, words.Busy) or time.monotonic() > end:
                    raise revive(refused.told()) from refused


def _ask_queue(places: _places.Places, header: dict[str, Any], blobs: Sequence[bytes]) -> dict[str, Any]:
    """Answer one request from the queue on the disk, which no resource has open; raises Refused."""
    if header["op"] == "prune":
        return _prune_queue(places, header)

    def looked(question: Callable[[Any], Any], is_lenient: bool) -> Any:
        return rest.look(str(places.root), str(places.runtime), question, is_lenient)

    told, _, _ = rest.answered(header, blobs, looked)
    return dict(told)


def _prune_queue(places: _places.Places, header: dict[str, Any]) -> dict[str, Any]:
    """Remove old jobs at once: who asks wants room now, and a request left for later would need some itself.

    What was submitted meanwhile is not taken in: only a resource knows what it can run.
    """
    if not places.store.exists():
        return {"ids": [], "unfetched": []}
    from ports.jobs._store import Store  # 15 ms with SQLite, which nothing else here needs
    from ports.jobs._turn import Queue, Request

    store = Store.open(places, timeout=1.0)
    try:
        queue = Queue(store, capacity=Capacity(), is_alive=lambda _: LeaseState(None))
        kept = [one for left in _submissions.read(places) for one in _needed(left.header)]
        (reply,) = queue.turn([Request("here", {**header, "n": 1, "kept": kept})])
    finally:
        store.close()
    if (told := reply.header.get("error")) is not None:
        raise revive(told)
    return dict(reply.header)


def _needed(header: Mapping[str, Any]) -> Iterator[str]:
    """Yield the ids of the jobs for which a submission that was left waits."""
    told = header.get("submission")
    told = told if isinstance(told, dict) else {}
    inputs = told.get("inputs")
    for ids in (told.get("after"), *(inputs.values() if isinstance(inputs, dict) else ())):
        for one in ids if isinstance(ids, list) else ():
            with contextlib.suppress(UsageError):
                yield str(parse_id(one))


def list_jobs(*, newest: int = 50, **filters: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
    """Return the rows of the newest jobs and maps, and how many jobs are in each state.

    Parameters
    ----------
    newest : int
        How many, at most 1000.
    **filters
        ``state``, ``name``, ``queue``; ``tag`` as ``NAME=VALUE`` or ``NAME``.
    """
    given = {name: value for name, value in filters.items() if value is not None}
    found = ask("list", newest=newest, filters=given)
    host = listeners.short_name()
    return [{"host": host, **row} for row in found.get("rows") or ()], dict(found.get("counts") or {})


def page(*, newest: int = 50, **filters: Any) -> dict[str, Any]:
    """Return one page of the list: ``rows``, ``counts`` of jobs by state, ``tally`` of rows by state, ``at_rest``.

    Parameters
    ----------
    newest : int
        How many rows, at most 1000.
    **filters
        ``state`` (one, or a list), ``search`` (words that are in the name or the command, an id, a tag as
        ``NAME=VALUE``), and ``before``, the id of a job: only older ones. Also those of `list_jobs`.
        `tally` counts what matches the search, whatever its state. It is None where an older version answers.
    """
    return _rows.paged(ask("list", newest=newest, filters=filters, tally=True), listeners.short_name())


def show(id: object) -> dict[str, Any]:
    """Return everything that is known of a job or a map.

    Raises
    ------
    NotFoundError
        There is no such job.
    UsageError
        It is no id.
    """
    return {"host": listeners.short_name(), **ask("show", id=str(parse_id(str(id))))["row"]}


def wait(
    ids: Sequence[object], *, within: float | None = None, idle: Callable[[], None] = lambda: None
) -> list[dict[str, Any]]:
    """Wait until jobs have ended, and return their rows.

    Parameters
    ----------
    within : float, optional
        Seconds after which it returns, whatever runs still. Default: no limit.
    idle : callable, optional
        Called when it is seen that jobs wait and no resource runs.

    Raises
    ------
    NotFoundError
        There is no such job.
    """
    wanted = [str(parse_id(str(one))) for one in ids]
    end = float("inf") if within is None else time.monotonic() + within
    while True:
        try:
            _watch(wanted, end)
        except TimedOutError:
            return [show(one) for one in wanted]
        except ResourceLostError:
            pass
        rows = [show(one) for one in wanted]
        if all(row["state"] in ENDED for row in rows) or time.monotonic() >= end:
            return rows
        if not is_running():
            idle()
        time.sleep(max(0.0, min(_EVERY_WITHOUT, end - time.monotonic())))


def _watch(ids: Sequence[str], end: float) -> None:
    """Return when the resource says that all have ended; raises ResourceLostError, and TimedOutError at `end`."""
    while True:
        with Connection(_places.here().socket) as connection:
            left = None if end == float("inf") else max(0.01, end - time.monotonic())
            answers = connection.stream("watch", ids=list(ids), timeout=left)
            next(answers)  # how it is; the next one comes with a change
            if next(answers, None) is None:
                return


def is_running() -> bool:
    """Say whether a compute resource answers here."""
    try:
        Connection(_places.here().socket).close()
    except ResourceLostError:
        return False
    return True


def where() -> str:
    """Return in a sentence where jobs are kept, and how much room is there."""
    places = _places.here()
    text = f"jobs and what they print are kept below {places.data}, where {size(shutil.disk_usage(places.data).free)}"
    ways = "; the setting jobs.directory names another disk" if places.data == places.root else ""
    return f"{text} are free{ways}"


def why(id: object) -> dict[str, Any]:
    """Return the row of a job, with a sentence why it is in its state as ``why``, if that has no reason.

    Raises
    ------
    NotFoundError
        There is no such job.
    """
    row = show(id)
    if row["state"] == _model.PENDING and not is_running():
        row["why"] = "no compute resource runs here; `ports resource start` goes on"
    if (row.get("note") or {}).get("cache") and not row.get("reason"):
        row["why"] = why_cached(row)
    return row


def why_cached(row: Mapping[str, Any]) -> str:
    """Return in a sentence why the job of a row ran, or took its result from the cache."""
    from ports.jobs import _cache

    note = row.get("note") or {}
    if "cache" not in note or "key" not in note:
        said = "its function has cache='off', or something of it has no digest"
        return str(note.get("cache") or (said if row["state"] in ENDED else f"it is {row['state']}"))
    if note["cache"] == "hit":
        return f"its result came from the cache {note['from']}" if "from" in note else "its result came from the cache"
    return f"it ran, because {_cache.here().why_kept(str(note['function']), str(note['key']))}"


def cancel(ids: Sequence[object]) -> dict[str, list[str]]:
    """Cancel jobs, and return the ids that are ``cancelled``, ``ending`` (they run), or had ``ended_already``.

    Raises
    ------
    NotFoundError
        One of the jobs does not exist; then none is cancelled.
    """
    wanted = [str(parse_id(str(one))) for one in ids]
    found = ask("cancel", ids=wanted, reason="you cancelled it")
    result = {name: [str(one) for one in found.get(name) or ()] for name in ("cancelled", "ending", "ended_already")}
    if result["ending"] and not is_running():
        from ports.jobs.resource import script  # not on Windows

        for one in result["ending"]:  # no resource would do it: its launcher is asked here
            row = show(one)
            script.end(_places.here().work_of(parse_id(one)), int(row.get("attempt") or 0), "cancel")
    return result


def submit_script(
    script: Script | _copies.Plan,
    *,
    start: bool = True,
    copied: Copied = untold,
    said: Said = untold,
) -> JobId:
    """Submit a script, and return its id once it is durable.

    Parameters
    ----------
    script : Script or Plan
        It runs in place; a plan: in a copy of its directory, which is made now.
    copied : callable
        Gets what was copied, and what stays behind.
    said : callable
        Gets what is to be known of it: which packages it imports that are missing; that no notice can be sent.
    start : bool
        Start the compute resource if none runs. Else the job waits until one is started.

    Raises
    ------
    UsageError
        The resource can never run it.
    StartError
        The resource did not start; nothing was submitted.
    """
    places, key = _places.make_places(), _scripts.new_key()
    _places.check_room(places)
    with Objects(places.objects).kept(), contextlib.ExitStack() as undone:
        if isinstance(script, _copies.Plan):
            script, row = script.written(places)
            copied(row)
        script, notes, patch = _copies.with_records(script)
        for data in patch.values():
            Objects(places.objects).put(data)
        for note in notes:
            said(note)
        kept = script.environ_file(places, key) | _copies.needed(places, key, script)
        for path in kept:
            undone.callback(path.unlink, missing_ok=True)
        _durable.write_together(kept)
        reply = _submitted(key, script, start, undone)
        if reply.get("said"):
            said(str(reply["said"]))
        return parse_id(reply["id"])


def plan_copy(
    script: Script,
    *,
    root: str | None = None,
    out: Sequence[str] = (),
    send_all: bool = False,
    reuse: Sequence[str] = (),
) -> _copies.Plan:
    """Return what a copy of a script's directory would have; nothing is written.

    Parameters
    ----------
    root : str, optional
        The directory on this machine, if the script runs on another one. Default: that of the script.
    out : sequence of str
        Files and directories that are its output. Default: what it makes or changes.
    send_all : bool
        Copy a home directory, more than 1 GB, or more than 50,000 files.
    reuse : sequence of str
        ``12/results``: output of job 12 that is put there.

    Raises
    ------
    UsageError
        Too much would be copied, or the command line names a file that would stay behind.
    NotFoundError
        There is no such job, or no such output.
    """
    found: dict[str, str] = {}
    for one in reuse if root is None else ():  # else they are jobs of the machine that it is sent to
        id, slash, path = one.partition("/")
        if not slash:
            raise UsageError(f"reuse: {one!r} has no path; write JOB/PATH, for example {id}/results")
        found |= _outputs.of_another(_places.here(), show(id), path or ".")
    return _copies.plan(script, root=root, out=out, send_all=send_all, reuse=found, reused=reuse)


def files(row: Mapping[str, Any]) -> dict[str, str]:
    """Return where the files of a job are that are there; a map has none."""
    if row.get("count") is not None:
        return {}
    found = {name: path for name, path in Output(row).paths().items() if path.exists()}
    return {name: str(path) for name, path in (found | copy_files(row)).items()}


def copy_files(row: Mapping[str, Any]) -> dict[str, Path]:
    """Return where the copy of a job is, and the patch of what was not committed; what it has of them."""
    script = (row.get("asked") or {}).get("script") or {}
    workspace, places = script.get("workspace") or {}, _places.here()
    found = {"workspace": places.copy_of(parse_id(row["id"]))} if workspace else {}
    if patch := workspace.get("patch") or script.get("patch"):
        found["patch"] = Objects(places.objects).path(patch)
    return {name: path for name, path in found.items() if path.exists()}


def outputs(row: Mapping[str, Any]) -> _outputs.Output:
    """Return the files that are the output of a job which `show` shows; see `_outputs.Output`."""
    return _outputs.Here(_places.here(), row)


def fetch(
    id: object,
    to: Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda n_bytes: None,
    say: Callable[[str], object] = lambda text: None,
) -> dict[str, Any]:
    """Copy the output of a job into a directory, and return what was copied; see `_fetch.fetch`."""
    row = show(id)
    done = _fetch.fetch(_outputs.Here(_places.here(), row), row, to, force=force, progress=progress, say=say)
    return done.row(row["id"])


def _submitted(key: str, script: Script, start: bool, undone: contextlib.ExitStack) -> dict[str, Any]:
    """Submit a script. What was written for it goes (`undone`) only if it is sure that nothing was submitted."""
    asked: dict[str, Any] = {"key": key, "submission": script.submission.to_json(), "count": None}
    blobs, sent, was_lost = [script.blob(key)], contextlib.ExitStack(), False
    for left in range(_TRIES - 1, -1, -1):
        try:
            with _connected(script, start) as connection:
                sent.push(undone.pop_all())  # from here on it can have arrived, whatever interrupts us
                if connection is not None:
                    return dict(connection.ask("submit", blobs, **asked).header)
                return ask("submit", blobs, **asked)
        except ResourceLostError:
            was_lost = True
            if not left:
                raise
        except PortsError:
            if not was_lost:
                sent.close()  # it was refused
            raise
    raise AssertionError


def _connected(script: Script, start: bool) -> contextlib.AbstractContextManager[Connection | None]:
    """Return the connection by which a script is submitted; None leaves it for a resource that starts later."""
    asked = script.submission
    can_begin = asked.at is None and not asked.after
    return _resource.connect(for_a_job=can_begin) if start else contextlib.nullcontext()


def rerun(
    id: object,
    *,
    start: bool = True,
    here: bool = False,
    change: Callable[[dict[str, Any]], dict[str, Any]] = dict,
) -> JobId:
    """Run a job again, and return the id of the new one. A script gets the environment of this process.

    Parameters
    ----------
    here : bool
        Copy its directory as it is now. Default: a script with a copy gets the files that it had.
    change : callable, optional
        Gets the row of a script, and returns that of the one to run: see `_scripts.changed`.

    Raises
    ------
    NotFoundError
        There is no such job.
    UsageError
        Its directory or its program is gone.
    """
    row = show(id)
    if row.get("what") == "script":
        script = _scripts.again(change(row))
        planned = _copies.today(script) if here else None
        return submit_script(plan_copy(planned[0], **planned[1]) if planned else script, start=start)
    wanted, key = str(parse_id(str(id))), _scripts.new_key()
    if not start:
        return parse_id(ask("rerun", id=wanted, key=key)["id"])
    with _resource.connect() as connection:
        return parse_id(connection.ask("rerun", id=wanted, key=key).header["id"])


def prune(
    *, older: str | float = "30d", keep_failed: bool = False, unfetched: bool = False, dry_run: bool = False
) -> dict[str, Any]:
    """Remove jobs that ended some time ago, with their output and results; return ``removed`` and ``unfetched``, ids.

    Parameters
    ----------
    older : str or float
        How long ago they ended: ``30d``, or seconds.
    keep_failed : bool
        Remove finished and cancelled ones only.
    unfetched : bool
        Remove those with a copy of their own, too, whose output was never fetched after their end. Default: they stay.
    """
    states = [_model.FINISHED, _model.CANCELLED] if keep_failed else list(ENDED)
    limit = _model.parse_duration(older, "older")
    found = ask("prune", older=limit, states=states, dry=dry_run, unfetched=unfetched)
    if not dry_run:
        _copies.sweep(_places.here())
    return {
        "removed": [str(one) for one in found.get("ids") or ()],
        "unfetched": [str(one) for one in found.get("unfetched") or ()],
    }


def output(id: object) -> Output:
    """Return where the output of a job is.

    Raises
    ------
    NotFoundError
        There is no such job.
    UsageError
        It is a map; each of its jobs has an output of its own.
    """
    row = show(id)
    if row.get("count") is not None:
        raise UsageError(f"{row['id']} is a map of {row['count']} jobs; name one of them: {row['id']}.0")
    return Output(row)
