"""The queue: requests in, replies out, one commit a turn.

`Queue` reads requests, which can be anything, lets `_ledger` change what they ask for, and says what came of it once
that is durable. It does no I/O but the store's: sockets, processes and locks are the loop's.
"""

from __future__ import annotations

import contextlib
import json
import shutil
import time
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports import state
from ports.errors import BrokenRecordError, NotFoundError, PortsError, RecordError, StoreError, UsageError
from ports.jobs import _headers, _rows, _submissions
from ports.jobs._ledger import Ledger, specification
from ports.jobs._live import Live, Run
from ports.jobs._model import (
    CANCELLED,
    ENDED,
    ERROR,
    FINISHED,
    LARGE,
    LOST,
    MOST_JOBS,
    PENDING,
    RUNNING,
    STATES,
    Available,
    Capacity,
    JobId,
    Lease,
    LeaseState,
    Submission,
    check_key,
    parse_id,
)
from ports.jobs._store import Store, SubmissionRow, pack
from ports.jobs._waiting import EVERY_SECONDS, Claim, Result, Stream, Waiting, Watch

#: The connection of replies that ask the loop itself to end a script.
SCRIPTS = "scripts"
_MOST_ROWS, _USUAL_ROWS = 1000, 50
_MOST_BYTES_OF_A_REPLY, _MOST_RESULTS_OF_A_REPLY = 8 * 2**20, 1000
_MOST_BYTES_AT_ONCE = 32 * 2**20  # of results in one turn; the rest follows
_MOST_BYTES_OF_WORK = 64 * 2**20  # in a batch of several jobs
_MOST_BYTES_OF_A_JOB = 960 * 2**20  # a frame holds 1 GiB, and a batch that is not full yet goes with it
_LONGEST_ERROR = 65_536
_LOOK_SECONDS = 1.0  # between two looks at the leases of slots that are not connected
_CANCELLED = "cancelled"


class Request(NamedTuple):
    """What came from one connection: a frame's header and blobs."""

    connection: Hashable
    header: dict[str, Any]
    blobs: Sequence[bytes] = ()


class Reply(NamedTuple):
    """What goes to one connection."""

    connection: Hashable
    header: dict[str, Any]
    blobs: Sequence[bytes] = ()


class Queue:
    """All jobs of a resource.

    Parameters
    ----------
    capacity : Capacity
        What the jobs can have together.
    is_alive : callable
        Looks at the lock of a slot. `tick` asks it about slots that are not connected.
    now, monotonic : callable, optional
        The clocks, in seconds.
    limits : mapping, optional
        How many slots work for a queue at once, by the name of the queue.
    """

    def __init__(
        self,
        store: Store,
        *,
        capacity: Capacity,
        is_alive: Callable[[Lease], LeaseState],
        now: Callable[[], float] = time.time,
        monotonic: Callable[[], float] = time.monotonic,
        limits: Mapping[str, int] | None = None,
    ) -> None:
        self.store, self.capacity = store, capacity
        self._is_alive, self._now, self._monotonic = is_alive, now, monotonic
        self._ledger = Ledger(store, capacity, dict(limits or {}), host=state.paths.host_name(), now=now)
        self._waiting = Waiting()
        self._connections: dict[str, Hashable] = {}  # of slots
        self._replies: list[Reply] = []
        self._new_keys: dict[str, int] = {}
        self._unlinked: list[Path] = []  # files to remove after the commit
        self._removed: list[Path] = []  # directories
        self._unfinished: set[int] = set()  # maps of whose results more is there than was sent
        self._looked = -_LOOK_SECONDS
        self._left_at: int | None = None
        self._load()

    def _load(self) -> None:
        self._ledger.load(self._monotonic(), self._now())
        self.is_draining = bool(self.store.fact("draining"))

    @property
    def available(self) -> Available:
        """What other users leave of the capacity; whoever looks at the machine sets it."""
        return self._ledger.room.available

    @available.setter
    def available(self, available: Available) -> None:
        """Set what other users leave; it counts from the next turn on."""
        self._ledger.room.available = available

    @property
    def wanted_slots(self) -> int:
        """How many slots would have work now, those that work included."""
        return self._ledger.wanted() if not self.is_draining else len(self._busy_slots())

    def scripts(self) -> list[tuple[JobId, int, Lease]]:
        """Return id, attempt and lease of the scripts that run in sessions of their own."""
        ledger = self._ledger
        return [
            (run.id, run.attempt, ledger.slots[slot].lease)
            for slot, runs in ledger.runs_of.items()
            if slot.startswith("job-")
            for run in runs.values()
        ]

    def _busy_slots(self) -> list[str]:
        return [slot for slot in self._ledger.runs_of if not slot.startswith("job-")]

    # --- turns ---

    def turn(self, inbox: Sequence[Request]) -> list[Reply]:
        """Do all that `inbox` asks for in one transaction, and return the replies, after the commit.

        A wrong request is answered by an error; it never raises for one. If the disk refuses, every request of the turn
        is answered by that error, and nothing of the turn counts.
        """
        try:
            for request in inbox:
                self._answer(request)
                if self.store.has_failed:
                    raise StoreError(self.store.path, "it could not be written")
            return self._end_turn()
        except (StoreError, RecordError) as error:
            told = self._undo(error, inbox)
            replies, self._replies = [*self._replies, *told], []
            return replies
        except BaseException as error:  # a fault of ours: nothing of it may stay half done
            self._undo(error, inbox)  # the loop answers what came in
            raise

    def tick(self) -> list[Reply]:
        """Do what the clock asks for: times, lifetimes, timeouts, waits that ran out, submission files, dead slots.

        Raises
        ------
        StoreError
            The disk refuses; nothing of it counts, and the next one does it again.
        """
        try:
            lefts = self._take_in()
            self._ledger.due(self._now())
            self._time_out()
            self._look_at_slots()
            replies = self._end_turn()
        except BaseException as error:
            self._left_at = None
            self._undo(error)
            raise
        if lefts:
            _submissions.taken(self.store.places, lefts)
        with contextlib.suppress(StoreError):  # a submission will say so
            if self.store.reserve_ahead():
                _submissions.tidy(self.store.places)
        return replies

    def gone(self, connection: Hashable) -> None:
        """Forget what `connection` waits for. Its jobs go on: their lease shows whether they live."""
        self._waiting.gone(connection)
        self._connections = {slot: one for slot, one in self._connections.items() if one != connection}

    def reap(self, slot: str, lease: LeaseState) -> list[Reply]:
        """Take the jobs of a slot or a script that ended without a word: begun ones are lost, others go back.

        Raises
        ------
        StoreError
            The disk refuses; nothing of it counts.
        """
        try:
            self._reap(slot, lease)
            return self._end_turn()
        except BaseException as error:
            self._undo(error)
            raise

    def _end_turn(self) -> list[Reply]:
        """Give work to slots that wait, tell clients what changed, and commit."""
        self._give()
        self._waiting.changed(self._ledger.dirty)
        self._ledger.save()
        self._tell_results()
        self._tell_watches()
        self.store.commit()
        for path in self._unlinked:
            with contextlib.suppress(OSError):
                path.unlink()
        for path in self._removed:
            shutil.rmtree(path, ignore_errors=True)
        self._unlinked, self._removed, self._new_keys = [], [], {}
        replies, self._replies = self._replies, []
        return replies

    def _undo(self, error: BaseException, inbox: Sequence[Request] = ()) -> list[Reply]:
        """Go back to what the store has, and return the answers to `inbox`. Others hear of it with the next turn."""
        told = error if isinstance(error, PortsError) else PortsError("the resource failed; its log says how")
        self.store.roll_back()
        lost = {(one.connection, one.header["n"]): None for one in self._replies if one.header.get("n") is not None}
        asked = {(one.connection, _n(one)): None for one in inbox if one.connection is not None}
        self._waiting.answered({**lost, **asked})
        self._replies = [Reply(one, _headers.error_of(n, told)) for one, n in lost if (one, n) not in asked]
        self._new_keys, self._unlinked, self._removed = {}, [], []
        available = self.available
        self._load()
        self.available = available
        return [Reply(one, _headers.error_of(n, told)) for one, n in asked]

    def _answer(self, request: Request) -> None:
        """Do what one request asks for."""
        header = request.header
        try:
            op = header.get("op")
            handler = _HANDLERS.get(op) if isinstance(op, str) else None
            if handler is None:
                raise UsageError(f"op: {_headers.short(op)} is unknown; known are {', '.join(_HANDLERS)}")
            handler(self, request)
        except PortsError as error:
            self._send(request.connection, _headers.error_of(_n(request), error))

    def _send(self, connection: Hashable, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        if connection is not None:
            self._replies.append(Reply(connection, header, blobs))

    def _reply(self, request: Request, header: dict[str, Any], blobs: Sequence[bytes] = ()) -> None:
        self._send(request.connection, {"n": _n(request), **header}, blobs)

    # --- clients: submit ---

    def _submit(self, request: Request) -> None:
        header = request.header
        key = check_key(header.get("key"))
        count = header.get("count")
        known = self._known(key)
        if known is None:
            spec = Submission.from_json(header.get("submission"))
            known = self._add(spec, request.blobs, key=key, count=_headers.count_of(count)), count, False
        number, count, was_known = known
        self._reply(request, {"id": str(number), "count": count, "known": was_known})

    def _known(self, key: str) -> tuple[int, int | None, bool] | None:
        """Return id and count of the submission that has this key."""
        number = self._new_keys.get(key) or self.store.number_of_key(key)
        if number is None:
            return None
        row = self.store.submission(number)
        return number, None if row is None else row.count, True

    def _add(
        self,
        spec: Submission,
        blobs: Sequence[bytes],
        *,
        key: str | None,
        count: int | None,
        number: int | None = None,
        created: float | None = None,
    ) -> int:
        """Take in a submission, and return its number; what cannot be taken in is refused before anything is put."""
        self._check(spec, blobs, count)
        digest = self.store.put_object(blobs[0])
        number = self.store.reserve() if number is None else number
        self.store.put_arguments(number, blobs[1:])
        text = json.dumps(spec.to_json(), sort_keys=True)
        row = SubmissionRow(
            number=number,
            key=key,
            kind=spec.kind,
            name=spec.name,
            queue=spec.queue,
            priority=spec.priority,
            count=count,
            digest=digest,
            spec=text,
            created=self._now() if created is None else created,
            began=None,
            ended=None,
            state=PENDING,
            reason=None,
            counts=[1 if count is None else count, 0, 0, 0, 0, 0],
        )
        self._ledger.submit(row, specification(text))
        if key is not None:
            self._new_keys[key] = number
        return number

    def _check(self, spec: Submission, blobs: Sequence[bytes], count: int | None) -> None:
        """Raise UsageError or NotFoundError for a submission that cannot be taken in."""
        n_jobs = 1 if count is None else count
        allowed = {n_jobs + 1} | ({1} if spec.kind == "script" else set())
        if len(blobs) not in allowed:
            raise UsageError(f"a {spec.kind} and the arguments of {n_jobs} jobs were expected; {len(blobs)} blobs came")
        if (why := self.capacity.refuse(spec.needs)) is not None:
            raise UsageError(f"this job can never run here: {why}; ask for less, or submit it to another machine")
        if beyond := [index for index in spec.inputs if index >= n_jobs]:
            raise UsageError(f"inputs: there is no job {beyond[0]} among {n_jobs}")
        for one in dict.fromkeys((*spec.after, *(id for ids in spec.inputs.values() for id in ids))):
            if self._ledger.state_of(one) is None:
                raise NotFoundError("job", str(one), "`ports job list` shows what there is")
        for one in dict.fromkeys(id for ids in spec.inputs.values() for id in ids):
            if one.item is None and self._row(one).count is not None:
                raise UsageError(f"inputs: {one} is a map; name its jobs, {one}.0 and so on")

    def _read_arguments(self, kept: bytes | str) -> bytes:
        return kept if isinstance(kept, bytes) else self.store.object(kept)

    def _rerun(self, request: Request) -> None:
        id = parse_id(request.header.get("id"))
        row = self._row(id)
        data = json.loads(row.spec)
        ones = range(row.count or 1) if id.item is None else [id.item]
        for name in ("at", "lifetime", "after"):
            data.pop(name, None)
        if id.item is not None:
            inputs = data.pop("inputs", {}).get(str(id.item))
            data.update({"inputs": {"0": inputs}} if inputs else {})
            if data.get("cache"):
                data["cache"]["keys"] = [specification(row.spec).cache_key(id.item)]
        arguments = self.store.arguments([pack(row.number, one) for one in ones])
        blobs = [self._read_arguments(arguments.get(pack(row.number, one), b"")) for one in ones]
        count = row.count if id.item is None else None
        number = self._add(Submission.from_json(data), [self.store.object(row.digest), *blobs], key=None, count=count)
        self._reply(request, {"id": str(number), "count": count})

    # --- clients: look ---

    def _row(self, id: JobId) -> SubmissionRow:
        """Return the submission of an id; raises NotFoundError."""
        self._ledger.save()
        row = self.store.submission(id.number)
        if row is None or (id.item is not None and (row.count is None or id.item >= row.count)):
            raise NotFoundError("job", str(id), "`ports job list` shows what there is")
        return row

    def _list(self, request: Request) -> None:
        newest = request.header.get("newest", _USUAL_ROWS)
        if not isinstance(newest, int) or isinstance(newest, bool) or not 0 < newest <= _MOST_ROWS:
            raise UsageError(f"newest: {_headers.short(newest)} is no whole number from 1 to {_MOST_ROWS}")
        filters = _headers.filters_of(request.header.get("filters"))
        self._ledger.save()
        rows = [self._shown(row) for row in self.store.newest(newest, filters)]
        self._reply(request, {"rows": rows, "counts": dict(self._ledger.totals)})

    def _shown(self, row: SubmissionRow) -> dict[str, Any]:
        """Return the row of a submission; that of a single job has its attempt, its usage, and why it waits."""
        if row.count is not None:
            return _rows.submission_row(row)
        shown = _rows.job_row(row, JobId(row.number), self.store.job(pack(row.number, 0)))
        live = self._ledger.lives.get(row.number)
        if live is not None and shown["state"] == PENDING and (why := self._why(live, 0)):
            shown["why"] = why
        return shown

    def _why(self, live: Live, item: int) -> str | None:
        """Return why a pending job does not run; None if a slot has it."""
        if pack(live.number, item) in self._ledger.runs:
            return None
        why = self._ledger.why(live, item)
        return f"the resource drains: `ports resource resume` goes on; {why}" if self.is_draining else why

    def _show(self, request: Request) -> None:
        id = parse_id(request.header.get("id"))
        row = self._row(id)
        if id.item is None and row.count is not None:
            shown = self._shown(row)
            jobs = self.store.jobs(row.number)
            failed = [job.job for job in jobs if job.state in (ERROR, CANCELLED, LOST)][:20]
            shown["failed"] = [str(JobId(row.number, job & pack(1, 0) - 1)) for job in failed]
        else:
            shown = self._show_job(row, id)
        shown["asked"] = _rows.asked(json.loads(row.spec))
        self._reply(request, {"row": shown})

    def _show_job(self, row: SubmissionRow, id: JobId) -> dict[str, Any]:
        job, live = pack(row.number, id.item or 0), self._ledger.lives.get(row.number)
        kept = self.store.job(job)
        shown = _rows.job_row(row, id, kept)
        shown["transitions"] = _rows.transitions(self.store.transitions(job), row.created)
        run = self._ledger.runs.get(job)
        if run is not None and run.slot in self._ledger.slots:
            known = self._ledger.slots[run.slot]
            shown.update(slot=run.slot, worker=known.worker, process=known.lease.process)
        if live is not None and shown["state"] == PENDING and (why := self._why(live, id.item or 0)):
            shown["why"] = why
        if kept is not None and kept.place is not None:
            _, _, _, error, n_bytes, _ = self.store.ends(row.number, kept.place, 1)[0]
            shown["result_bytes"] = n_bytes
            if error is not None:
                shown["error"] = json.loads(error)
        return shown

    def _status(self, request: Request) -> None:
        ledger = self._ledger
        queues: dict[str, dict[str, Any]] = {}
        for live in ledger.lives.values():
            queue = queues.setdefault(live.spec.queue, {"name": live.spec.queue, PENDING: 0, RUNNING: 0})
            for place, name in ((0, PENDING), (1, RUNNING)):
                queue[name] += live.counts[place]
        for name, limit in ledger.limits.items():
            queues.setdefault(name, {"name": name, PENDING: 0, RUNNING: 0})["limit"] = limit
        scripts = [str(id) for id, _, _ in self.scripts()]
        running = [str(run.id) for run in ledger.runs.values() if not run.slot.startswith("job-")]
        slots = [
            {"slot": slot, "worker": known.worker, "n_jobs": len(ledger.runs_of.get(slot, ()))}
            for slot, known in ledger.slots.items()
        ]
        room = ledger.room
        self._reply(
            request,
            {
                "counts": dict(ledger.totals),
                "queues": sorted(queues.values(), key=lambda queue: str(queue["name"])),
                "slots": slots,
                "capacity": self.capacity.to_json(),
                "free": {"cpus": room.cpus, "memory": room.memory, "gpus": sorted(room.gpus)},
                "draining": self.is_draining,
                "running": running[:20],
                "running_scripts": scripts[:20],
                "wanted_slots": self.wanted_slots,
                "notices": list(self.store.notices),
            },
        )

    # --- clients: results and changes ---

    def _result(self, request: Request) -> None:
        header = request.header
        id = parse_id(header.get("id"))
        wait = _headers.seconds(header.get("wait"), "wait")
        row = self._row(id)
        until = None if wait is None else self._monotonic() + wait
        if id.item is None and row.count is not None:
            start = header.get("from", 0)
            if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start <= MOST_JOBS:
                raise UsageError(f"from: {_headers.short(start)} is no whole number from 0 to {MOST_JOBS}")
            stream = Stream(request.connection, _n(request), id.number, start, until)
            if not self._tell_stream(stream):
                self._waiting.streams.setdefault(id.number, []).append(stream)
            return
        held = Result(request.connection, _n(request), id, until)
        if not self._tell_result(held):
            self._waiting.results.setdefault(id.number, []).append(held)

    def _tell_results(self) -> None:
        """Answer who waits for results of what ended in this turn."""
        results, streams = self._waiting.results, self._waiting.streams
        for number in self._ledger.ended:
            if waiting := [one for one in results.pop(number, ()) if not self._tell_result(one)]:
                results[number] = waiting
            if following := [one for one in streams.pop(number, ()) if not self._tell_stream(one)]:
                streams[number] = following
        self._ledger.ended.clear()

    def _tell_result(self, held: Result) -> bool:
        """Answer a client that waits for one job, if that has ended or the wait is over."""
        job = self.store.job(pack(held.id.number, held.id.item or 0))
        is_over = held.until is not None and held.until <= self._monotonic()
        if job is None or job.state not in ENDED or job.place is None:
            if is_over:
                self._send(held.connection, {"n": held.n, "state": PENDING if job is None else job.state})
            return is_over
        header: dict[str, Any] = {"n": held.n, "state": job.state, "attempt": job.attempt}
        if job.reason is not None:
            header["reason"] = job.reason
        if job.note is not None:
            header["note"] = json.loads(job.note)
        _, item, _, error, n_bytes, blob = self.store.ends(held.id.number, job.place, 1)[0]
        if error is not None:
            header["error"] = json.loads(error)
        try:
            result = self._read_result(held.id.number, item, n_bytes, blob, is_map=held.id.item is not None)
        except RecordError as problem:
            self._send(held.connection, _headers.error_of(held.n, problem))
            return True
        self._send(held.connection, header, [result])
        return True

    def _read_result(self, number: int, item: int, n_bytes: int, blob: bytes | None, *, is_map: bool) -> bytes:
        return self.store.result(JobId(number, item if is_map else None), n_bytes, blob)

    def _tell_stream(self, stream: Stream) -> bool:
        """Send the results that are there; return True if it was the last reply, because all ended or time is over."""
        live, n_now = self._ledger.lives.get(stream.number), 0
        while found := self.store.ends(stream.number, stream.place, _MOST_RESULTS_OF_A_REPLY):
            if n_now > _MOST_BYTES_AT_ONCE:
                self._unfinished.add(stream.number)
                return False
            indices, states, errors, n_sent = [], [], [], 0
            blobs: list[bytes] = []
            for place, item, how, error, n_bytes, blob in found:
                if blobs and n_sent + n_bytes > _MOST_BYTES_OF_A_REPLY:
                    break
                try:
                    blobs.append(self._read_result(stream.number, item, n_bytes, blob, is_map=True))
                except RecordError as problem:
                    blobs.append(b"")
                    how, error = ERROR, json.dumps({"type": type(problem).__name__, "text": str(problem)})
                indices.append(item)
                states.append(how)
                errors.append(json.loads(error) if error is not None else None)
                n_sent += n_bytes
                stream.place = place + 1
            header = {"indices": indices, "states": states, "errors": errors, "next": stream.place}
            self._send(stream.connection, {"n": stream.n, "more": True, **header}, blobs)
            n_now += n_sent
        is_over = live is None or (stream.until is not None and stream.until <= self._monotonic())
        if is_over:
            header = {"indices": [], "states": [], "errors": [], "next": stream.place}
            self._send(stream.connection, {"n": stream.n, **header, "has_ended": live is None})
        return is_over

    def _watch(self, request: Request) -> None:
        ids = _headers.ids_of(request.header)
        for id in ids:
            self._row(id)
        self._waiting.add_watch(Watch(request.connection, _n(request), ids))

    def _tell_watches(self) -> None:
        """Tell who watches what changed, at most ten times a second."""
        now = self._monotonic()
        for watch in list(self._waiting.watches):
            if watch.has_news and now - watch.said >= EVERY_SECONDS:
                watch.said, watch.has_news = now, False
                rows = [self._watched(id) for id in watch.ids]
                is_last = all(row["state"] in ENDED for row in rows)
                self._send(watch.connection, {"n": watch.n, "rows": rows, **({} if is_last else {"more": True})})
                if is_last:
                    self._waiting.remove_watch(watch)

    def _watched(self, id: JobId) -> dict[str, Any]:
        row = self.store.submission(id.number)
        if row is None:  # removed meanwhile
            return {"id": str(id), "state": LOST, "reason": "it was removed"}
        if id.item is None and row.count is not None:
            shown = _rows.submission_row(row)
        else:
            shown = _rows.job_row(row, id, self.store.job(pack(id.number, id.item or 0)))
        kept = ("id", "state", "counts", "count", "attempt", "reason", "began_at", "ended_at", "created_at")
        return {name: shown[name] for name in kept if name in shown}

    # --- clients: change ---

    def _cancel(self, request: Request) -> None:
        ids = _headers.ids_of(request.header)
        reason = request.header.get("reason")
        if reason is not None and (not isinstance(reason, str) or len(reason) > 1000 or not reason.isprintable()):
            raise UsageError(f"reason: {_headers.short(reason)} is no text of up to 1000 characters")
        for id in ids:
            self._row(id)
        cancelled: list[str] = []
        ending: list[str] = []
        ended_already: list[str] = []
        n_cancelled = 0
        for id in ids:
            live = self._ledger.lives.get(id.number)
            n_ended, runs = 0, []
            if live is not None:
                n_ended = self._ledger.cancel(live, id.item if live.is_map else 0, self._now(), reason or _CANCELLED)
                ones = [id.item] if id.item is not None else range(live.count) if live.is_map else [0]
                runs = [run for one in ones if (run := self._ledger.runs.get(pack(id.number, one))) is not None]
            for run in runs:
                self._ask_end(run, "cancel", reason or _CANCELLED)
                ending.append(str(run.id))
            if n_ended:
                cancelled.append(str(id))
                n_cancelled += n_ended
            elif not runs:
                ended_already.append(str(id))
        answer = {"cancelled": cancelled, "ending": ending, "ended_already": ended_already}
        self._reply(request, {**answer, "n_cancelled": n_cancelled})

    def _ask_end(self, run: Run, how: str, reason: str) -> None:
        """Ask a slot, or the loop where it is a script, to end a job."""
        if run.ending != "cancel":
            self._ledger.ask_end(run, how, reason)
        self._push_end(run)

    def _push_end(self, run: Run) -> None:
        connection = SCRIPTS if run.slot.startswith("job-") else self._connections.get(run.slot)
        how = "cancel" if run.ending == "cancel" else "timeout"
        self._send(connection, {"op": "end", "id": str(run.id), "attempt": run.attempt, "how": how})

    def _drain(self, request: Request) -> None:
        self._set_draining(request, True)

    def _resume(self, request: Request) -> None:
        self._set_draining(request, False)

    def _set_draining(self, request: Request, is_draining: bool) -> None:
        self.is_draining = is_draining
        self.store.put("facts", ("draining", int(is_draining)))
        counts = dict(self._ledger.totals)
        self._reply(request, {"draining": is_draining, "counts": counts, "n_given": len(self._ledger.runs)})

    def _prune(self, request: Request) -> None:
        header = request.header
        older = _headers.seconds(header.get("older", 0), "older") or 0.0
        states = header.get("states", list(ENDED))
        dry = header.get("dry", False)
        if not isinstance(states, list) or not states or not all(isinstance(one, str) for one in states):
            raise UsageError(f"states: {_headers.short(states)} is no list of states")
        if not set(states) <= set(ENDED):
            raise UsageError(f"states: only jobs that have ended can be removed: {', '.join(ENDED)}")
        if not isinstance(dry, bool):
            raise UsageError(f"dry: {_headers.short(dry)} is neither true nor false")
        self._ledger.save()
        needed = {one.number for live in self._ledger.lives.values() for one in _needed(live.spec)}
        rows = [row for row in self.store.prunable(self._now() - older, states) if row.number not in needed]
        if not dry:
            self._remove(rows)
        self._reply(request, {"n_removed": len(rows), "ids": [str(row.number) for row in rows[:1000]], "dry": dry})

    def _remove(self, rows: Sequence[SubmissionRow]) -> None:
        self.store.remove([row.number for row in rows])
        for row in rows:
            for name, n in zip(STATES, row.counts, strict=True):
                self._ledger.totals[name] -= n
        digests = self.store.unused_objects()
        self.store.remove_objects(digests)
        places = self.store.places
        self._unlinked += [places.objects / digest for digest in digests]
        for row in rows:
            ids = (
                [JobId(row.number, item) for item in range(row.count)] if row.count is not None else [JobId(row.number)]
            )
            self._unlinked += [places.result_of(id) for id in ids]
            self._removed += [places.work_of(id) for id in ids]

    # --- slots ---

    def _slot(self, request: Request) -> str:
        """Return the slot that asks, and remember by which connection."""
        slot = request.header.get("slot")
        if not isinstance(slot, str) or not 0 < len(slot) <= 255 or not slot.isascii() or not slot.isprintable():
            raise UsageError(f"slot: {_headers.short(slot)} is no name")
        if "/" in slot or slot.startswith("."):
            raise UsageError(f"slot: {_headers.short(slot)} is no name of a file")
        if request.connection is not None:
            self._connections[slot] = request.connection
        return slot

    def _claim(self, request: Request) -> None:
        header = request.header
        most, known = header.get("most", 1), header.get("known", [])
        kinds = header.get("kinds", ["function", "script"])
        if not isinstance(most, int) or isinstance(most, bool) or not 0 < most <= 64:
            raise UsageError(f"most: {_headers.short(most)} is no whole number from 1 to 64")
        for name, value in (("known", known), ("kinds", kinds)):
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise UsageError(f"{name}: {_headers.short(value)} is no list of texts")
        worker = _headers.text_of(header, "worker")
        lease = _headers.lease_of(header, self._slot(request))
        slot = lease.slot
        if slot.startswith("job-"):
            raise UsageError(f"slot: {slot} is the name of a script")
        self._know_slot(lease, worker)
        for run in list(self._ledger.runs_of.get(slot, {}).values()):
            self._settle_unheard(run)
        claim = Claim(request.connection, _n(request), slot, most, frozenset(known), frozenset(kinds), worker)
        self._waiting.claims.pop(slot, None)
        self._waiting.claims[slot] = claim

    def _know_slot(self, lease: Lease, worker: str) -> None:
        """Remember a slot. One that another process takes over had begun anything: its lease is overwritten."""
        known = self._ledger.slots.get(lease.slot)
        if known is not None and known.lease != lease:
            self._reap(lease.slot, LeaseState(False, None, f"another process took slot {lease.slot} over"))
        self._ledger.know_slot(lease, worker)

    def _settle_unheard(self, run: Run) -> None:
        """Take back what a slot does not hold: it never began, unless the slot had said so."""
        if run.began is None:
            self._ledger.take_back(run, self._now(), None)
        else:
            self._fail(run, "lost", f"slot {run.slot} does not know it any more", self._now())

    def _give(self) -> None:
        """Give work to the slots that wait."""
        if self.is_draining:
            return
        now = self._monotonic()
        for claim in list(self._waiting.claims.values()):
            if not self._ledger.has_work:
                return
            while runs := self._ledger.give(claim.slot, claim.most, claim.kinds, now):
                if self._send_work(claim, runs):
                    del self._waiting.claims[claim.slot]
                    break

    def _send_work(self, claim: Claim, runs: list[Run]) -> bool:
        """Answer a claim; return False if none of these jobs can run, because what they need cannot be read."""
        blobs: list[bytes] = []
        functions: dict[str, int] = {}
        jobs: list[dict[str, Any]] = []
        asked: dict[int, dict[str, Any]] = {}
        booking = self._ledger.room.booked.get(claim.slot)
        gpus = {"gpus": list(booking.gpus)} if booking is not None and booking.gpus else {}
        arguments, n_bytes = self.store.arguments([run.job for run in runs]), 0
        for run in runs:
            if n_bytes > _MOST_BYTES_OF_WORK:
                self._ledger.take_back(run, self._now(), None)  # it comes with the next batch
                continue
            n_before = len(blobs)
            try:
                if run.live.number not in asked:
                    asked[run.live.number] = _asked(run.live.spec)
                job = self._work(run, claim, asked[run.live.number], (functions, blobs, arguments))
                n_bytes += _checked_size(blobs[n_before:])
                jobs.append({**job, **gpus} if gpus else job)
            except (RecordError, UsageError) as error:
                del blobs[n_before:]
                functions = {digest: place for digest, place in functions.items() if place < n_before}
                told = json.dumps({"type": type(error).__name__, "text": str(error)})
                self._end(run, ERROR, self._now(), reason=str(error)[:1000], error=told)
        if jobs:
            self._send(claim.connection, {"n": claim.n, "jobs": jobs, "functions": functions}, blobs)
        return bool(jobs)

    def _work(
        self,
        run: Run,
        claim: Claim,
        asked: Mapping[str, Any],
        given: tuple[dict[str, int], list[bytes], Mapping[int, bytes | str]],
    ) -> dict[str, Any]:
        """Return what a slot must know of a job, with what was `asked`; its blobs go to those that are `given`."""
        functions, blobs, arguments = given
        live, spec = run.live, run.live.spec
        job = {"id": str(run.id), "attempt": run.attempt, "function": live.digest, **asked}
        if spec.kind == "script":
            job["arguments"] = len(blobs)
            blobs.append(self.store.object(live.digest))
        else:
            if live.digest not in claim.known and live.digest not in functions:
                function = self.store.object(live.digest)
                functions[live.digest] = len(blobs)
                blobs.append(function)
            results = [(id, self._input(id)) for id in spec.inputs.get(run.item, ())]
            job["arguments"] = len(blobs)
            blobs.append(self._read_arguments(arguments.get(run.job, b"")))
            if results:
                job["results"] = {str(id): len(blobs) + place for place, (id, _) in enumerate(results)}
                blobs += [result for _, result in results]
        needs = spec.needs
        told: dict[str, Any] = {
            "timeout": spec.timeout,
            "memory": needs.memory,
            "directory": spec.directory,
            "name": spec.name,
        }
        told |= {"minor": spec.minor, "isolate": spec.isolate, "environ": dict(spec.environ)}
        job.update({name: value for name, value in told.items() if value})
        if needs.cpus != 1:
            job["cpus"] = needs.cpus
        if spec.cache is not None:
            rest = {name: value for name, value in spec.cache.items() if name != "keys"}
            job["cache"] = {**rest, "key": spec.cache_key(run.item)}
        return job

    def _input(self, id: JobId) -> bytes:
        """Return the result of a job that another one needs; raises BrokenRecordError."""
        kept = self.store.job(pack(id.number, id.item or 0))
        if kept is None or kept.place is None:
            raise BrokenRecordError(self.store.path, f"it has no result of job {id}")
        _, item, _, _, n_bytes, blob = self.store.ends(id.number, kept.place, 1)[0]
        return self._read_result(id.number, item, n_bytes, blob, is_map=id.item is not None)

    def _run_of(self, request: Request) -> Run | None:
        """Return the run that a slot speaks of; None if it is not its any more."""
        header = request.header
        slot, id, attempt = self._slot(request), parse_id(header.get("id")), header.get("attempt")
        run = self._ledger.runs.get(pack(id.number, id.item or 0))
        return run if run is not None and run.slot == slot and run.attempt == attempt and run.id == id else None

    def _begun(self, request: Request) -> None:
        at = _headers.seconds(request.header.get("at"), "at")
        run = self._run_of(request)
        if run is not None:
            self._ledger.begin(run, self._now() if at is None else at, self._monotonic())
        self._reply(request, {"known": run is not None})

    def _started(self, request: Request) -> None:
        """Let a script be looked at by itself, in a session of its own; its slot is free."""
        header = request.header
        lease = header.get("lease")
        if not isinstance(lease, str) or not Path(lease).name.startswith("job-") or "\0" in lease:
            raise UsageError(f"lease: {_headers.short(lease)} is not the lease of a script")
        process = header.get("process")
        if process is not None and not isinstance(process, dict):
            raise UsageError(f"process: {_headers.short(process)} is no process")
        run = self._run_of(request)
        if run is not None and run.live.spec.kind == "script":
            self._ledger.begin(run, self._now(), self._monotonic())
            self._ledger.move(run, Lease(Path(lease).name, lease, _headers.plain(process, "process")))
            if run.ending is not None:
                self._push_end(run)
        self._reply(request, {"known": run is not None})

    def _returned(self, request: Request) -> None:
        slot = self._slot(request)
        for id in _headers.ids_of(request.header):
            run = self._ledger.runs.get(pack(id.number, id.item or 0))
            if run is not None and run.slot == slot and run.id == id and run.began is None:
                self._ledger.take_back(run, self._now(), None)
        self._reply(request, {})

    def _holding(self, request: Request) -> None:
        """Hear after a reconnect what a slot still has; all else of it goes back."""
        lease = _headers.lease_of(request.header, self._slot(request))
        held = {pack(id.number, id.item or 0) for id in _headers.ids_of(request.header, least=0)}
        self._know_slot(lease, _headers.text_of(request.header, "worker"))
        runs = dict(self._ledger.runs_of.get(lease.slot, {}))
        for job, run in runs.items():
            if job not in held:
                self._settle_unheard(run)
            elif run.ending is not None:
                self._push_end(run)
        unknown = [
            str(id) for id in _headers.ids_of(request.header, least=0) if pack(id.number, id.item or 0) not in runs
        ]
        self._reply(request, {"unknown": unknown})

    def _ended(self, request: Request) -> None:
        slot, results = self._slot(request), request.header.get("results")
        if not isinstance(results, list) or len(results) != len(request.blobs):
            raise UsageError(
                f"results: {_headers.short(results)} is no list with a blob for each of {len(request.blobs)}"
            )
        checked = [_headers.result_of(result) for result in results]
        now, runs, told = self._now(), self._ledger.runs, []
        for (job, id, attempt, result), blob in zip(checked, request.blobs, strict=True):
            run = runs.get(job)
            if (
                run is not None
                and run.slot == slot
                and run.attempt == attempt
                and run.live.is_map == (id.item is not None)
            ):
                if len(blob) > LARGE and result["state"] == FINISHED:
                    self.store.keep_result(id, blob)
                told.append((run, result, blob))
        self._learn(told)
        for run, result, blob in told:
            if run.job in runs:  # not twice in one request
                self._take(run, result, blob, now)
        self._reply(request, {})

    def _learn(self, told: Sequence[tuple[Run, Mapping[str, Any], bytes]]) -> None:
        """Note how long the jobs of each function took."""
        took: dict[str, list[float]] = {}
        for run, result, _ in told:
            if (began := result.get("began")) is not None and (ended := result.get("ended")) is not None:
                took.setdefault(run.live.digest, []).append(ended - began)
        for digest, seconds in took.items():
            self._ledger.pace.learn(digest, len(seconds), sum(seconds))

    def _take(self, run: Run, result: Mapping[str, Any], blob: bytes, now: float) -> None:
        """Take the result of an attempt: the job ends, or is tried again."""
        how, error = result["state"], result.get("error")
        began, ended = result.get("began"), result.get("ended")
        began = now if began is None else began
        ended = now if ended is None else ended
        note, usage = json.dumps(result["note"]) if result.get("note") else None, _usage(result)
        if how == FINISHED:
            self._end(run, FINISHED, ended, began=began, blob=blob, usage=usage, note=note)
            return
        cause = result.get("reason") or ("lost" if how == LOST else "failure")
        if run.ending == "cancel":
            how, cause = CANCELLED, "failure"
        elif run.ending == "timeout" and cause == "failure":
            how, cause = ERROR, "time"
        if how == CANCELLED:
            reason = run.reason or _CANCELLED
            self._end(run, CANCELLED, ended, began=began, reason=reason, usage=usage, note=note)
            return
        text = _text_of(error) or _WORDS[cause]
        if cause == "time":
            text = run.reason or text
            error = error or {"type": "TimeoutError", "text": text}
        self._fail(run, cause, text, ended, began=began, result={**result, "error": error}, blob=blob)

    def _fail(
        self,
        run: Run,
        cause: str,
        text: str,
        at: float,
        *,
        began: float | None = None,
        result: Mapping[str, Any] | None = None,
        blob: bytes = b"",
    ) -> None:
        """End an attempt that failed: the job is tried again if it has retries of that cause left."""
        if run.ending == "cancel":
            self._end(run, CANCELLED, at, began=began, reason=run.reason or _CANCELLED)
            return
        used, most = run.used.get(cause, 0), getattr(run.live.spec.retries, cause)
        text = text[:900]
        if used < most:
            run.used = {**run.used, cause: used + 1}
            run.ending, run.reason = None, None
            self._ledger.again(run, at, f"{text}; retry {used + 1} of {most} ({cause})", began=began)
            return
        error = (result or {}).get("error")
        self._end(
            run,
            LOST if cause == "lost" else ERROR,
            at,
            began=began,
            reason=text,
            error=None if error is None else json.dumps(_short_error(error)),
            blob=blob if len(blob) <= LARGE else b"",
            usage=_usage(result or {}),
            note=json.dumps(result["note"]) if result is not None and result.get("note") else None,
        )

    def _end(self, run: Run, how: str, at: float, **told: Any) -> None:
        """End a job for good."""
        self._ledger.end(run, how, at, **told)
        live = run.live
        if live.spec.kind == "script" and live.has_ended and live.key is not None:
            self._unlinked.append(self.store.places.environ_of(live.key))
        if run.slot.startswith("job-") and run.slot not in self._ledger.runs_of:
            self._ledger.forget_slot(run.slot)

    # --- the clock ---

    def _time_out(self) -> None:
        now = self._monotonic()
        self._ledger.ended |= self._unfinished
        self._unfinished.clear()
        for run in list(self._ledger.timed.values()):
            is_over = run.deadline is not None and run.deadline <= now and run.ending is None
            if is_over and not run.slot.startswith("job-"):  # the launcher of a script does it by itself
                self._ask_end(run, "timeout", f"it ran longer than its timeout of {run.live.spec.timeout:g} s")
        for number, held in list(self._waiting.results.items()):
            if any(one.until is not None and one.until <= now for one in held):
                self._ledger.ended.add(number)
        for number, streams in list(self._waiting.streams.items()):
            if any(one.until is not None and one.until <= now for one in streams):
                self._ledger.ended.add(number)

    def _look_at_slots(self) -> None:
        """Look whether the slots that are not connected live; what dead ones had goes back or is lost."""
        now = self._monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for slot, known in list(self._ledger.slots.items()):
            if slot in self._connections or slot.startswith("job-"):
                continue
            found = self._is_alive(known.lease)
            if found.alive is False:
                self._reap(slot, found)

    def _reap(self, slot: str, lease: LeaseState) -> None:
        if lease.alive:
            return
        now = self._now()
        for run in list(self._ledger.runs_of.get(slot, {}).values()):
            is_begun = run.began is not None or lease.begun is None or (str(run.id), run.attempt) in lease.begun
            reason = lease.reason or f"what ran it has ended without a word ({slot})"
            if is_begun:
                self._fail(run, "time" if run.ending == "timeout" else "lost", reason, now, began=now)
            else:
                self._ledger.take_back(run, now, reason[:900])
        self._ledger.forget_slot(slot)
        self._waiting.claims.pop(slot, None)

    def _take_in(self) -> list[_submissions.Left]:
        """Take in what was submitted while no resource ran."""
        places = self.store.places
        try:
            changed = places.submissions.stat().st_mtime_ns
        except OSError:
            return []
        if changed == self._left_at:
            return []
        self._left_at = changed
        lefts = list(_submissions.read(places))
        for left in lefts:
            if left.broken is not None:
                aside = _submissions.put_aside(left)
                self.store.notices.append(f"a submission cannot be read: {left.broken}; it is kept as {aside}")
            else:
                self._take_one_in(left)
        return [left for left in lefts if left.broken is None]

    def _take_one_in(self, left: _submissions.Left) -> None:
        """Take a submission in. One that cannot run is cancelled with the reason: its id was printed."""
        header = left.header
        try:
            key = check_key(header.get("key"))
            known = self._known(key)
            count = _headers.count_of(header.get("count"))
            at = _headers.seconds(header.get("at"), "at")
            if known is not None and known[0] == left.number:
                return
            if known is not None:
                raise UsageError(f"it is job {known[0]}, submitted again")
            if self.store.submission(left.number) is not None:
                raise UsageError(f"its id {left.number} belongs to another one")
            spec = Submission.from_json(header.get("submission"))
            self._add(spec, left.blobs, key=key, count=count, number=left.number, created=at)
        except (UsageError, NotFoundError) as error:
            self._refuse(left, str(error))

    def _refuse(self, left: _submissions.Left, reason: str) -> None:
        """Keep a submission that cannot run as a cancelled one."""
        if self.store.submission(left.number) is not None:
            self.store.notices.append(f"submission {left.number} was refused: {reason}")
            return
        name = (
            left.header.get("submission", {}).get("name", "") if isinstance(left.header.get("submission"), dict) else ""
        )
        kind = "function"
        spec = Submission(kind=kind, name=name if isinstance(name, str) and name.isprintable() else "")
        digest, now = self.store.put_object(b""), self._now()
        text = json.dumps(spec.to_json(), sort_keys=True)
        row = SubmissionRow(
            left.number, None, kind, spec.name, spec.queue, 0, None, digest, text, now, None, None, PENDING, None,
            [1, 0, 0, 0, 0, 0],
        )  # fmt: skip
        live = self._ledger.submit(row, specification(text))
        self._ledger.cancel(live, 0, now, f"refused: {reason}"[:900])


def _n(request: Request) -> object:
    """Return the number of a request, if that is one."""
    n = request.header.get("n")
    return n if isinstance(n, int | str) and not isinstance(n, bool) else None


def _usage(result: Mapping[str, Any]) -> tuple[Any, Any]:
    return result.get("peak_memory"), result.get("cpu_time")


_WORDS = {
    "failure": "it failed",
    "time": "it ran longer than its timeout",
    "lost": "what ran it has ended",
    "memory": "it used more memory than it asked for",
}


def _text_of(error: Mapping[str, Any] | None) -> str:
    """Return an error in one line: ``ValueError: no such column``."""
    if error is None:
        return ""
    parts = [one for one in (error.get("type"), error.get("text")) if isinstance(one, str) and one]
    return " ".join(": ".join(parts).encode("utf-8", "backslashreplace").decode().split())


def _short_error(error: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error whose texts are not longer than a screen of anybody: the end of a traceback is what matters."""
    return {
        name: f"… {value[-_LONGEST_ERROR:]}" if isinstance(value, str) and len(value) > _LONGEST_ERROR else value
        for name, value in error.items()
    }


def _checked_size(blobs: Sequence[bytes]) -> int:
    """Return how many bytes a job needs; raises UsageError if no frame holds them."""
    n_bytes = sum(map(len, blobs))
    if n_bytes > _MOST_BYTES_OF_A_JOB:
        raise UsageError(f"its function and arguments have {n_bytes} bytes; at most {_MOST_BYTES_OF_A_JOB} are allowed")
    return n_bytes


def _asked(spec: Submission) -> dict[str, Any]:
    """Return what all jobs of a submission have in common, for a slot."""
    needs = spec.needs
    told: dict[str, Any] = {"timeout": spec.timeout, "memory": needs.memory, "directory": spec.directory}
    told |= {"name": spec.name, "minor": spec.minor, "isolate": spec.isolate, "environ": dict(spec.environ)}
    told |= {"cpus": needs.cpus} if needs.cpus != 1 else {}
    return {"kind": spec.kind, **{name: value for name, value in told.items() if value}}


def _needed(spec: Submission) -> Iterable[JobId]:
    yield from spec.after
    for ids in spec.inputs.values():
        yield from ids


_HANDLERS: dict[str, Callable[[Queue, Request], None]] = {
    "submit": Queue._submit,
    "list": Queue._list,
    "show": Queue._show,
    "result": Queue._result,
    "watch": Queue._watch,
    "cancel": Queue._cancel,
    "status": Queue._status,
    "drain": Queue._drain,
    "resume": Queue._resume,
    "prune": Queue._prune,
    "rerun": Queue._rerun,
    "claim": Queue._claim,
    "begun": Queue._begun,
    "started": Queue._started,
    "returned": Queue._returned,
    "holding": Queue._holding,
    "ended": Queue._ended,
}
