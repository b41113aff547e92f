"""The jobs of another machine, as `_asking` has those of this one: everything is asked through one session.

Rows that come home have the ids that their jobs have here, ``server1:12``, and hints as they are typed here.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ports import hosts
from ports.errors import (
    ConflictError,
    ConnectionLostError,
    FarSideError,
    NotFoundError,
    PortsError,
    ResourceLostError,
    SSHError,
    TimedOutError,
    UsageError,
    warn,
)
from ports.jobs import _client, _logs, _model, _where
from ports.jobs._logs import Part
from ports.jobs._model import ENDED, PENDING, Capacity, Copied, Said, Submission, parse_id, untold
from ports.jobs._there import FarConnection
from ports.probe import size

if TYPE_CHECKING:
    from ports.jobs import _outputs
    from ports.jobs._copies import Plan
    from ports.jobs._protocol import Frame
    from ports.jobs._scripts import Script

_EVERY = 0.5  # seconds between two questions whether a job that is followed has ended
_QUIET = 1.0  # between two looks at jobs that are waited for


class FarFile:
    """A file of output on another machine, by its path below the directory of jobs."""

    def __init__(self, machine: Afar, path: str) -> None:
        self._machine, self.path = machine, path

    @property
    def older(self) -> FarFile:
        """The file to which this one is moved when it has grown too large."""
        return FarFile(self._machine, f"{self.path}.1")

    def read(self, offset: int, most: int) -> Part | None:
        """Return a part of it; asked again for as long as the way to the machine is cut."""
        frame = self._machine.ask("disk.read", is_patient=True, path=self.path, offset=offset, most=most)
        if frame.header.get("missing") or not frame.blobs:
            return None
        told = frame.header
        return Part(int(told["size"]), str(told["head"]).encode("latin-1"), int(told["offset"]), frame.blobs[0])


class Output:
    """The output of one job on another machine."""

    def __init__(self, machine: Afar, row: Mapping[str, Any]) -> None:
        self._machine, self._row, self._look_at = machine, row, 0.0
        self.id = parse_id(_where.bare(row["id"]))
        self.stamped = row.get("what") == "script"

    @property
    def called(self) -> str:
        """What the job is called here."""
        return _where.called(self._machine.host, self.id)

    def files(self) -> dict[str, _logs.Source]:
        """Return the file of each stream; it need not exist."""
        kept = {name: FarFile(self._machine, f"work/{self.id}/{name}") for name in _logs.STREAMS}
        return {name: _logs.joined(self._row, one, kept[name]) for name, one in self.paths().items()}

    def paths(self) -> dict[str, FarFile]:
        """Return the file to which each stream goes now."""
        if (place := _logs.place_of(self._row)) is not None:
            named = {"stdout": f"streams/{place[0]}.out", "stderr": f"streams/{place[0]}.err"}
        else:
            named = {name: f"work/{self.id}/{name}" for name in _logs.STREAMS}
        return {name: FarFile(self._machine, path) for name, path in named.items()}

    def is_over(self) -> bool:
        """Tell whether the job has ended; the queue is asked once in a while."""
        if self._row["state"] not in ENDED and time.monotonic() >= self._look_at:
            self._look_at = time.monotonic() + _EVERY
            frame = self._machine.ask("show", is_patient=True, id=str(self.id))
            self._row = _where.asked_for(self._machine.host, str(self.id), frame.header.get("row"))
        return self._row["state"] in ENDED

    def is_still(self) -> bool:
        """Say whether the job still has the files that `files` named; see `_logs.Output`."""
        before = _logs.place_of(self._row)
        if before is not None:
            self._row = self._machine.ask("show", is_patient=True, id=str(self.id)).header["row"]
        return _logs.place_of(self._row) == before


class Afar:
    """The jobs of the machine `host`, an alias of ``~/.ssh/config``."""

    def __init__(self, host: str) -> None:
        self.host = host

    def reach(self) -> None:
        """Connect, so that nothing is waited for later; raises SSHError."""
        _client.connection(self.host, start=False)

    def ask(self, op: str, blobs: Sequence[bytes] = (), *, start: bool | None = False, **fields: Any) -> Frame:
        """Return the answer to a request that can be repeated; see `_client.ask`."""
        return _client.ask(op, blobs, host=self.host, start=start, **fields)

    def list_jobs(self, *, newest: int = 50, **filters: Any) -> tuple[list[dict[str, Any]], dict[str, int]]:
        """Return the rows of the newest jobs and maps, and how many jobs are in each state."""
        given = {name: value for name, value in filters.items() if value is not None}
        found = self.ask("list", newest=newest, filters=given).header
        return _where.at_home(self.host, found.get("rows") or []), dict(found.get("counts") or {})

    def page(self, *, newest: int = 50, **filters: Any) -> dict[str, Any]:
        """Return one page of the list; see `_asking.page`."""
        from ports.jobs import _rows  # the store, which other commands about another machine do not need

        found = self.ask("list", newest=newest, filters=filters, tally=True).header
        return _rows.paged({**found, "rows": _where.at_home(self.host, found.get("rows") or [])}, self.host)

    def show(self, id: object, *, is_patient: bool = False, until: float | None = None) -> dict[str, Any]:
        """Return everything that is known of a job or a map; raises NotFoundError, and as `_client.ask`."""
        number = _where.bare(id)
        found = self.ask("show", id=number, is_patient=is_patient, until=until).header.get("row")
        return _where.asked_for(self.host, number, found)

    def files(self, row: Mapping[str, Any]) -> dict[str, str]:
        """Return where on that machine the files of a job are."""
        if row.get("count") is not None:
            return {}
        root = str(self.ask("disk.status").header.get("data") or "")
        found = {name: one for name, one in Output(self, row).paths().items() if one.read(0, 0) is not None}
        return {name: f"{root}/{one.path}" for name, one in found.items()}

    def is_running(self) -> bool:
        """Say whether a compute resource answers there."""
        found = _client.connection(self.host, start=False)
        return not (isinstance(found, FarConnection) and found.is_at_rest)

    def wait(
        self, ids: Sequence[object], *, within: float | None = None, idle: Callable[[], None] = lambda: None
    ) -> list[dict[str, Any]]:
        """Wait until jobs have ended, however often the way there is cut, and return their rows; see `_asking.wait`."""
        wanted = [_where.bare(one) for one in ids]
        end = float("inf") if within is None else time.monotonic() + within
        until = None if within is None else end
        while True:
            with contextlib.suppress(SSHError):  # a way that is cut is waited for below
                if not self.is_running():
                    idle()
            try:
                for frame in _client.watch(wanted, end, host=self.host):
                    if all(row["state"] in ENDED for row in frame.header["rows"]) or time.monotonic() >= end:
                        break
            except TimedOutError:
                return [self.show(one, is_patient=True, until=until) for one in wanted]
            rows = [self.show(one, is_patient=True, until=until) for one in wanted]
            if all(row["state"] in ENDED for row in rows) or time.monotonic() >= end:
                return rows
            time.sleep(max(0.0, min(_QUIET, end - time.monotonic())))

    def why(self, id: object) -> dict[str, Any]:
        """Return the row of a job, with a sentence why it is in its state as ``why``, if that has no reason."""
        row = self.show(id)
        note = row.get("note") or {}
        if row["state"] == PENDING and not self.is_running():
            row["why"] = f"no compute resource runs there; `ports resource start -H {self.host}` goes on"
        if note.get("cache") and not row.get("reason"):
            row["why"] = "its result came from the cache" if note["cache"] == "hit" else self._why_kept(id)
        return row

    def _why_kept(self, id: object) -> str:
        """Return why a job ran whose result could have come from the cache, which `ports` there reads."""
        row = hosts.run_ports(self.host, ["job", "why", _where.bare(id)], login=True, batch=_client.batch())
        return str(row.get("why") or row.get("reason") or f"it is {row['state']}")

    def outputs(self, row: Mapping[str, Any]) -> _outputs.Output:
        """Return the files that are the output of a job there; see `_outputs.Output`."""
        from ports.jobs import _outputs

        return _outputs.There(self.ask, self.host, row)

    def fetch(
        self,
        id: object,
        to: Path | None = None,
        *,
        force: bool = False,
        progress: Callable[[int], None] = lambda n_bytes: None,
        say: Callable[[str], object] = lambda text: None,
    ) -> dict[str, Any]:
        """Copy the output of a job there into a directory here, and return what was copied; see `_fetch.fetch`."""
        from ports.jobs import _fetch, _outputs

        row = self.show(id)
        output = _outputs.There(self.ask, self.host, row)
        return _fetch.fetch(output, row, to, force=force, progress=progress, say=say).row(row["id"])

    def cancel(self, ids: Sequence[object]) -> dict[str, list[str]]:
        """Cancel jobs; see `_asking.cancel`."""
        found = self.ask("cancel", ids=[_where.bare(one) for one in ids], reason="you cancelled it").header
        names = ("cancelled", "ending", "ended_already")
        told: dict[str, list[str]] = _where.at_home(self.host, {name: list(found.get(name) or ()) for name in names})
        return told

    def submit_script(
        self,
        script: Script | Plan,
        *,
        start: bool = True,
        copied: Copied = untold,
        said: Said = untold,
        can_wait: bool = True,
        key: str = "",
    ) -> str:
        """Submit a script, and return its id once it is durable there; the answer that was lost is asked for again.

        Where no resource can be started, it waits in the queue there, if it `can_wait`.

        Raises
        ------
        UsageError
            The machine can never run it.
        """
        from ports.jobs import _scripts

        key, begin = key or _scripts.new_key(), start
        try:
            _client.connection(self.host, start=start)
        except FarSideError as error:
            if not (can_wait and self.has_session()):
                raise
            warn(f"{error}. The job waits in the queue there")
            begin = False
        try:
            script = self._with_files(script, key, copied, said)
            if script.environ:
                self.ask("disk.environ", [json.dumps(dict(script.environ)).encode()], start=begin, key=key)
            reply = self._submitted(script, key, begin)
        except ConnectionLostError:
            raise  # it can have arrived
        except Exception:
            self._forget(key)
            raise
        if reply.get("said"):
            said(str(reply["said"]))
        return _where.called(self.host, parse_id(reply["id"]))

    def _submitted(self, script: Script, key: str, start: bool) -> Mapping[str, Any]:
        """Submit a script whose files are there; raises ConnectionLostError if it can have arrived."""
        told = script.submission.to_json()
        try:
            return self.ask("submit", [script.blob(key)], start=start, key=key, submission=told, count=None).header
        except (SSHError, ResourceLostError) as error:
            shows = f"`ports job list -H {self.host}` shows whether the job is there"
            raise ConnectionLostError(self.host, f"the answer to the submission was lost ({error}); {shows}") from error

    def _forget(self, key: str) -> None:
        """Remove what was kept there for a job that there will not be; where the way is cut, `prune` does it later."""
        with contextlib.suppress(PortsError):
            self.ask("disk.environ", key=key)
            self.ask("disk.forget", key=key)

    def _with_files(
        self,
        script: Script | Plan,
        key: str,
        copied: Copied,
        said: Said,
    ) -> Script:
        """Send the files of a script, if some are planned, and return it."""
        from ports.jobs import _copies, _needed_there

        if not isinstance(script, _copies.Plan):
            script = self._in_place(script, said)
            _needed_there.check(self, script, host=self.host, has_files=_copies.of(script) is not None)
            return script
        from ports.jobs import _sending  # 10 ms

        self._check_possible(script.script.submission)
        root = script.selection.root
        asks_python = _sending.asked_packages(script.script, root) is not None
        _needed_there.check(self, script.script, host=self.host, has_files=True, knows_python=asks_python)
        script, row = _sending.send(self, script, key, host=self.host, say=said)
        copied(row)
        script, notes, has_python = _sending.recorded(self, script, root, host=self.host)
        if not has_python:  # is it missing, or has it nothing to say?
            _needed_there.check(self, script, host=self.host, has_files=True)
        for note in notes:
            said(note)
        return script

    def _check_possible(self, asked: Submission) -> None:
        """Raise now what a submission would be refused for once its files are there: they can take long.

        Raises
        ------
        UsageError
            The machine has less than it needs.
        NotFoundError
            There is no job that it waits for.
        """
        for one in asked.after:
            self.ask("show", id=str(one))
        needs = asked.needs
        if needs.memory is None and not needs.gpus and not needs.tags and (needs.is_whole or needs.cpus <= 1):
            return
        capacity = Capacity.of_status(self.ask("status").header)
        if capacity is not None and (why := capacity.refuse(needs.on(capacity))) is not None:
            refused = _model.never(why)
            refused.where = self.host
            raise refused

    def _in_place(self, script: Script, said: Said) -> Script:
        """Return a script that runs in the home there if its directory is none of that machine."""
        if not script.or_home:
            return script
        directory = str(script.submission.directory)
        if self.has_directory(directory):
            return script
        said(f"{directory} is not on {self.host}: the job runs in your home there; without --in-place, files are sent")
        return script.at_home()

    def has_directory(self, path: str) -> bool:
        """Say whether a directory is there."""
        return bool(self.ask("disk.status", directory=path).header.get("is_directory"))

    def has_session(self) -> bool:
        """Say whether our program runs there: `ports` can be missing where python3 is there."""
        try:
            return not _client.connection(self.host, start=False).is_lost
        except FarSideError:
            return False

    def rerun(
        self,
        id: object,
        *,
        start: bool = True,
        here: bool = False,
        change: Callable[[dict[str, Any]], dict[str, Any]] = dict,
    ) -> str:
        """Run a job again, and return the id of the new one; a script gets the environment of the login shell there.

        With `here`, the directory here from which it was sent goes there as it is now.
        """
        from ports.jobs import _asking, _copies, _scripts

        row = self.show(id)
        if row.get("what") == "script":
            script = _scripts.again(change(row), is_far=True)
            if here and (planned := _copies.today(script)) is not None:
                root = str(planned[0].submission.directory)
                return self.submit_script(_asking.plan_copy(planned[0], root=root, **planned[1]), start=start)
            if _copies.of(script) is not None:
                return self._again(script, start)
            return self.submit_script(script, start=start)
        said = self.ask("rerun", start=start, id=_where.bare(id), key=_scripts.new_key()).header
        return _where.called(self.host, parse_id(said["id"]))

    def _again(self, script: Script, start: bool) -> str:
        """Submit a script with the files that are there already."""
        from ports.jobs import _copies, _scripts

        workspace = _copies.of(script) or {}
        key, objects = _scripts.new_key(), [workspace["patch"]] if "patch" in workspace else []
        kept = self.ask("disk.keep", key=key, trees=[workspace["tree"]], objects=objects).header
        if not kept.get("is_whole"):
            raise UsageError(
                f"the files of that job are gone on {self.host}; `ports job rerun --here` sends those of today"
            )
        return self.submit_script(script, start=start, key=key)

    def prune(
        self, *, older: str | float = "30d", keep_failed: bool = False, unfetched: bool = False, dry_run: bool = False
    ) -> dict[str, Any]:
        """Remove jobs that ended some time ago, with their output and results; see `_asking.prune`."""
        states = [_model.FINISHED, _model.CANCELLED] if keep_failed else list(ENDED)
        limit = _model.parse_duration(older, "older")
        try:
            found = self.ask("prune", older=limit, states=states, dry=dry_run, unfetched=unfetched).header
        except NotFoundError:  # no resource runs there
            found = self._pruned_at_rest(older, keep_failed=keep_failed, unfetched=unfetched, dry_run=dry_run)
        if not dry_run:
            try:
                self.ask("disk.sweep")
            except ConflictError as error:  # the jobs are removed
                warn(hosts.targets.hints_at(self.host, f"{self.host}: {error}"))
        told = {"removed": list(found.get("ids") or ()), "unfetched": list(found.get("unfetched") or ())}
        home: dict[str, Any] = _where.at_home(self.host, told)
        return home

    def _pruned_at_rest(self, older: str | float, **flags: bool) -> dict[str, Any]:
        """Let `ports` there remove jobs from the queue, which no resource has open; where no job ever ran, none ended.

        Raises
        ------
        FarSideError
            Jobs ran there, and `ports` is gone: only python3 is there.
        """
        if not self.ask("status").header.get("has_store"):
            return {}
        words = [f"--{name.replace('_', '-')}" for name, is_given in flags.items() if is_given]
        told = hosts.run_ports(self.host, ["job", "prune", "--older", str(older), *words], login=True)
        return {"ids": told.get("removed"), "unfetched": told.get("unfetched")}

    def output(self, id: object) -> Output:
        """Return the output of a job; raises NotFoundError, and UsageError if it is a map."""
        row = self.show(id)
        if row.get("count") is not None:
            raise UsageError(f"{row['id']} is a map of {row['count']} jobs; name one of them: {row['id']}.0")
        return Output(self, row)

    def where(self) -> str:
        """Return in a sentence where jobs are kept there, and how much room is there."""
        told = self.ask("disk.status").header
        free = size(told.get("free"))
        return f"jobs and what they print are kept on {self.host} below {told.get('data')}, where {free} are free"
