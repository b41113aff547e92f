"""What clients ask of jobs: lists, rows, results and changes, now or when they are there."""

from __future__ import annotations

import json
from typing import Any

from ports.errors import RecordError, UsageError
from ports.jobs import _headers, _inside, _notices, _rows
from ports.jobs._exchange import Exchange, Request
from ports.jobs._live import Live
from ports.jobs._model import CANCELLED, ENDED, ERROR, LOST, MOST_JOBS, PENDING, RUNNING, JobId, parse_id, short
from ports.jobs._store import SubmissionRow, pack
from ports.jobs._waiting import EVERY_SECONDS, Result, Stream, Watch

_MOST_ROWS, _USUAL_ROWS = 1000, 50
_MOST_BYTES_OF_A_REPLY, _MOST_RESULTS_OF_A_REPLY = 8 * 2**20, 1000
_MOST_BYTES_AT_ONCE = 32 * 2**20  # of results in one turn; the rest follows


class Answers:
    """Answers clients that look."""

    def __init__(self, exchange: Exchange) -> None:
        self.exchange, self.store = exchange, exchange.store
        self._ledger, self._waiting = exchange.ledger, exchange.waiting

    def list(self, request: Request) -> None:
        """Answer with the newest submissions, and how many jobs are in each state."""
        newest = request.header.get("newest", _USUAL_ROWS)
        if not isinstance(newest, int) or isinstance(newest, bool) or not 0 < newest <= _MOST_ROWS:
            raise UsageError(f"newest: {short(newest)} is no whole number from 1 to {_MOST_ROWS}")
        filters = _headers.filters_of(request.header.get("filters"))
        self._ledger.save()
        rows = [self._shown(row) for row in self.store.newest(newest, filters)]
        told: dict[str, Any] = {"rows": rows, "counts": dict(self._ledger.totals)}
        if request.header.get("tally"):
            told["tally"] = self.store.tally(filters)
        self.exchange.reply(request, told)

    def _shown(self, row: SubmissionRow) -> dict[str, Any]:
        """Return the row of a submission; that of a single job has its attempt, its usage, and why it waits."""
        if row.count is not None:
            return _rows.submission_row(row)
        shown = _rows.job_row(row, JobId(row.number), self.store.job(pack(row.number, 0)))
        self._add_progress(shown)
        live = self._ledger.lives.get(row.number)
        if live is not None and shown["state"] == PENDING and (why := self._why(live, 0)):
            shown["why"] = why
        return shown

    def _add_progress(self, shown: dict[str, Any]) -> None:
        """Add how far a job is that runs, if it says so."""
        work = self.store.places.work / shown["id"]
        if shown["state"] == RUNNING and (said := _inside.read(work, shown["attempt"])) is not None:
            shown["progress"] = said

    def _why(self, live: Live, item: int) -> str | None:
        """Return why a pending job does not run; None if a slot has it."""
        if pack(live.number, item) in self._ledger.runs:
            return None
        why = self._ledger.why(live, item)
        if self.exchange.trouble is not None and why.startswith("waits for a slot"):
            why = f"{why}; {self.exchange.trouble}"
        return f"the resource drains: `ports resource resume` goes on; {why}" if self.exchange.is_draining else why

    def show(self, request: Request) -> None:
        """Answer with all that is known of a job or a map."""
        id = parse_id(request.header.get("id"))
        row = self.exchange.row(id)
        if id.item is None and row.count is not None:
            shown = self._shown(row)
            jobs = self.store.jobs(row.number)
            failed = [job.job for job in jobs if job.state in (ERROR, CANCELLED, LOST)][:20]
            shown["failed"] = [str(JobId(row.number, job & pack(1, 0) - 1)) for job in failed]
        else:
            shown = self._show_job(row, id)
        shown["asked"] = _rows.asked(json.loads(row.spec))
        if shown["asked"].get("notify") and (told := _notices.kept(self.store.places, id)) is not None:
            shown["notice"] = told
        self.exchange.reply(request, {"row": shown})

    def _show_job(self, row: SubmissionRow, id: JobId) -> dict[str, Any]:
        job, live = pack(row.number, id.item or 0), self._ledger.lives.get(row.number)
        kept = self.store.job(job)
        shown = _rows.job_row(row, id, kept)
        self._add_progress(shown)
        shown["transitions"] = _rows.transitions(self.store.transitions(job), row.created)
        run = self._ledger.runs.get(job)
        if run is not None and run.slot in self._ledger.slots:
            known = self._ledger.slots[run.slot]
            shown.update(slot=run.slot, worker=known.worker, process=known.lease.process)
            if run.pid is not None:
                shown["pid"] = run.pid
        if live is not None and shown["state"] == PENDING and (why := self._why(live, id.item or 0)):
            shown["why"] = why
        if kept is not None and kept.place is not None:
            _, _, _, error, n_bytes, _ = self.store.ends(row.number, kept.place, 1)[0]
            shown["result_bytes"] = n_bytes
            if error is not None:
                shown["error"] = json.loads(error)
        return shown

    def status(self, request: Request) -> None:
        """Answer with what the queue has and does."""
        ledger = self._ledger
        queues: dict[str, dict[str, Any]] = {}
        for live in ledger.lives.values():
            queue = queues.setdefault(live.spec.queue, {"name": live.spec.queue, PENDING: 0, RUNNING: 0})
            for place, name in ((0, PENDING), (1, RUNNING)):
                queue[name] += live.counts[place]
        for name, limit in ledger.limits.items():
            queues.setdefault(name, {"name": name, PENDING: 0, RUNNING: 0})["limit"] = limit
        scripts = [str(id) for id, _, _ in self.exchange.scripts()]
        running = [str(run.id) for run in ledger.runs.values() if not run.slot.startswith("job-")]
        slots = [
            {"slot": slot, "worker": known.worker, "n_jobs": len(ledger.runs_of.get(slot, ()))}
            for slot, known in ledger.slots.items()
        ]
        self.exchange.reply(
            request,
            {
                "counts": dict(ledger.totals),
                "queues": sorted(queues.values(), key=lambda queue: str(queue["name"])),
                "slots": slots,
                "capacity": self.exchange.capacity.to_json(),
                "free": ledger.room.free(),
                "without_jobs": ledger.room.without_jobs(),
                "draining": self.exchange.is_draining,
                "running": running[:20],
                "running_scripts": scripts[:20],
                "wanted_slots": self.exchange.wanted_slots,
                "notices": list(self.store.notices),
            },
        )

    def result(self, request: Request) -> None:
        """Answer with the result of a job, or those of a map, now or when they are there."""
        header = request.header
        id = parse_id(header.get("id"))
        wait = _headers.seconds(header.get("wait"), "wait")
        row = self.exchange.row(id)
        until = None if wait is None else self.exchange.monotonic() + wait
        if id.item is None and row.count is not None:
            start = header.get("from", 0)
            if not isinstance(start, int) or isinstance(start, bool) or not 0 <= start <= MOST_JOBS:
                raise UsageError(f"from: {short(start)} is no whole number from 0 to {MOST_JOBS}")
            stream = Stream(request.connection, request.n, id.number, start, until)
            if not self._tell_stream(stream):
                self._waiting.streams.setdefault(id.number, []).append(stream)
            return
        held = Result(request.connection, request.n, id, until)
        if not self._tell_result(held):
            self._waiting.results.setdefault(id.number, []).append(held)

    def tell_results(self) -> None:
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
        is_over = held.until is not None and held.until <= self.exchange.monotonic()
        if job is None or job.state not in ENDED or job.place is None:
            if is_over:
                self.exchange.send(held.connection, {"n": held.n, "state": PENDING if job is None else job.state})
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
            result = self.exchange.read_result(held.id.number, item, n_bytes, blob, is_map=held.id.item is not None)
        except RecordError as problem:
            self.exchange.send(held.connection, _headers.error_of(held.n, problem))
            return True
        self.exchange.send(held.connection, header, [result])
        return True

    def _tell_stream(self, stream: Stream) -> bool:
        """Send the results that are there; return True if it was the last reply, because all ended or time is over."""
        live, n_now = self._ledger.lives.get(stream.number), 0
        while found := self.store.ends(stream.number, stream.place, _MOST_RESULTS_OF_A_REPLY):
            if n_now > _MOST_BYTES_AT_ONCE:
                self.exchange.unfinished.add(stream.number)
                return False
            indices, states, errors, n_sent = [], [], [], 0
            blobs: list[bytes] = []
            for place, item, how, error, n_bytes, blob in found:
                if blobs and n_sent + n_bytes > _MOST_BYTES_OF_A_REPLY:
                    break
                try:
                    blobs.append(self.exchange.read_result(stream.number, item, n_bytes, blob, is_map=True))
                except RecordError as problem:
                    blobs.append(b"")
                    how, error = ERROR, json.dumps({"type": type(problem).__name__, "text": str(problem)})
                indices.append(item)
                states.append(how)
                errors.append(json.loads(error) if error is not None else None)
                n_sent += n_bytes
                stream.place = place + 1
            header = {"indices": indices, "states": states, "errors": errors, "next": stream.place}
            self.exchange.send(stream.connection, {"n": stream.n, "more": True, **header}, blobs)
            n_now += n_sent
        is_over = live is None or (stream.until is not None and stream.until <= self.exchange.monotonic())
        if is_over:
            header = {"indices": [], "states": [], "errors": [], "next": stream.place}
            self.exchange.send(stream.connection, {"n": stream.n, **header, "has_ended": live is None})
        return is_over

    def watch(self, request: Request) -> None:
        """Answer now and at each change of some jobs."""
        ids = _headers.ids_of(request.header)
        for id in ids:
            self.exchange.row(id)
        self._waiting.add_watch(Watch(request.connection, request.n, ids))

    def tell_watches(self) -> None:
        """Tell who watches what changed: the end of all at once, else at most ten times a second."""
        now, lives = self.exchange.monotonic(), self._ledger.lives
        for watch in list(self._waiting.watches):
            if not watch.has_news:
                continue
            if now - watch.said >= EVERY_SECONDS or not any(id.number in lives for id in watch.ids):
                watch.said, watch.has_news = now, False
                rows = [self._watched(id) for id in watch.ids]
                is_last = all(row["state"] in ENDED for row in rows)
                self.exchange.send(
                    watch.connection, {"n": watch.n, "rows": rows, **({} if is_last else {"more": True})}
                )
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

    def note_waits(self) -> None:
        """Let those be answered whose wait is over, and those to whom not all was sent."""
        now, ended = self.exchange.monotonic(), self._ledger.ended
        ended |= self.exchange.unfinished
        self.exchange.unfinished.clear()
        for held in (self._waiting.results, self._waiting.streams):
            for number, ones in held.items():
                if any(one.until is not None and one.until <= now for one in ones):
                    ended.add(number)
