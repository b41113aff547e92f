"""What clients change: jobs are cancelled or removed, the queue drains or goes on."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ports.errors import UsageError
from ports.jobs import _headers
from ports.jobs._exchange import BY_REQUEST, Exchange, Request
from ports.jobs._live import Run
from ports.jobs._model import ENDED, STATES, JobId, Submission, parse_id, short
from ports.jobs._store import SubmissionRow, pack
from ports.probe import ended


class Changes:
    """Changes what clients ask for."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange, self.store = exchange, exchange.store
        self._ledger, self._waiting = exchange.ledger, exchange.waiting

    def cancel(self, request: Request) -> None:
        """Cancel pending jobs, and ask running ones to end."""
        ids = _headers.ids_of(request.header)
        reason = request.header.get("reason")
        if reason is not None and (not isinstance(reason, str) or len(reason) > 1000 or not reason.isprintable()):
            raise UsageError(f"reason: {short(reason)} is no text of up to 1000 characters")
        for id in ids:
            self.exchange.row(id)
        cancelled: list[str] = []
        ending: list[str] = []
        ended_already: list[str] = []
        n_cancelled = 0
        for id in ids:
            n_ended, runs = self._cancel(id, reason or BY_REQUEST)
            ending += [str(run.id) for run in runs]
            if n_ended:
                cancelled.append(str(id))
                n_cancelled += n_ended
            elif not runs:
                ended_already.append(str(id))
        answer = {"cancelled": cancelled, "ending": ending, "ended_already": ended_already}
        self.exchange.reply(request, {**answer, "n_cancelled": n_cancelled})

    def _cancel(self, id: JobId, reason: str) -> tuple[int, list[Run]]:
        """Cancel what waits of a job or a map, and ask what runs of it to end; return how many did not run."""
        live = self._ledger.lives.get(id.number)
        if live is None:
            return 0, []
        n_ended = self._ledger.cancel(live, id.item if live.is_map else 0, self.exchange.now(), reason)
        ones = [id.item] if id.item is not None else range(live.count) if live.is_map else [0]
        runs = [run for one in ones if (run := self._ledger.runs.get(pack(id.number, one))) is not None]
        for run in runs:
            self.exchange.ask_end(run, "cancel", reason)
        return n_ended, runs

    def do_left(self, requests: Sequence[Mapping[str, Any]]) -> None:
        """Do what was asked for while no resource ran, before anything begins. Jobs that ended or are gone stay so."""
        for header in requests:
            reason = header.get("reason")
            for id in header["ids"]:
                with contextlib.suppress(UsageError):
                    self._cancel(parse_id(id), reason if isinstance(reason, str) and reason else BY_REQUEST)

    def drain(self, request: Request) -> None:
        """Give no more jobs out."""
        self._set_draining(request, True)

    def resume(self, request: Request) -> None:
        """Give jobs out again."""
        self._set_draining(request, False)

    def _set_draining(self, request: Request, is_draining: bool) -> None:
        self.exchange.is_draining = is_draining
        self.store.put("facts", ("draining", int(is_draining)))
        counts = dict(self._ledger.totals)
        self.exchange.reply(request, {"draining": is_draining, "counts": counts, "n_given": len(self._ledger.runs)})

    def prune(self, request: Request) -> None:
        """Remove what ended long ago, with all that was kept of it."""
        header = request.header
        older = _headers.seconds(header.get("older", 0), "older") or 0.0
        states = header.get("states", list(ENDED))
        dry = header.get("dry", False)
        if not isinstance(states, list) or not states or not all(isinstance(one, str) for one in states):
            raise UsageError(f"states: {short(states)} is no list of states")
        if not set(states) <= set(ENDED):
            raise UsageError(f"states: only jobs that have ended can be removed: {', '.join(ENDED)}")
        if not isinstance(dry, bool):
            raise UsageError(f"dry: {short(dry)} is neither true nor false")
        unfetched = header.get("unfetched", True)
        if not isinstance(unfetched, bool):
            raise UsageError(f"unfetched: {short(unfetched)} is neither true nor false")
        self._ledger.save()
        needed = {one.number for live in self._ledger.lives.values() for one in _needed(live.spec)}
        needed |= {one.number for one in _headers.ids_of(header, "kept", least=0)}
        rows = [row for row in self.store.prunable(self.exchange.now() - older, states) if row.number not in needed]
        kept = [] if unfetched else [row for row in rows if self._is_unfetched(row)]
        staying = {row.number for row in kept}
        rows = [row for row in rows if row.number not in staying]
        if not dry:
            self._remove(rows)
            self.exchange.forget_unsubmitted()
            self._remove_environments(older)
        ids, unread = ([str(row.number) for row in some[:1000]] for some in (rows, kept))
        self.exchange.reply(request, {"n_removed": len(rows), "ids": ids, "unfetched": unread, "dry": dry})

    def _remove_environments(self, older: float) -> None:
        """Remove the environments of setups that no job has used for so long."""
        from ports.jobs.resource import set_up  # not on Windows

        limit = self.exchange.now() - older
        aside = set_up.put_aside(str(self.store.places.environments), lambda used: used < limit)
        self.exchange.removed += map(Path, aside)

    def _is_unfetched(self, row: SubmissionRow) -> bool:
        """Say whether a script has a copy of its own with what it made there, of which nobody has fetched anything."""
        places, id = self.store.places, JobId(row.number)
        if row.kind != "script" or places.fetched(id).exists() or not places.copy_of(id).is_dir():
            return False
        job = self.store.job(pack(row.number, 0))
        noted = None if job is None else ended.read_note(str(places.work_of(id) / "exit.json"), job.attempt)
        return noted is None or noted.get("made") is not False

    def _remove(self, rows: Sequence[SubmissionRow]) -> None:
        self.store.remove([row.number for row in rows])
        for row in rows:
            for name, n in zip(STATES, row.counts, strict=True):
                self._ledger.totals[name] -= n
        self.store.remove_unused_objects()
        places = self.store.places
        for row in rows:
            ids = (
                [JobId(row.number, item) for item in range(row.count)] if row.count is not None else [JobId(row.number)]
            )
            self.exchange.unlinked += [places.result_of(id) for id in ids]
            self.exchange.unlinked.append(places.notices / str(row.number))
            if row.key is not None:
                self.exchange.unlinked.append(places.workspace_of(row.key))
            self.exchange.removed += [places.work_of(id) for id in ids]


def _needed(spec: Submission) -> Iterable[JobId]:
    yield from spec.after
    for ids in spec.inputs.values():
        yield from ids
