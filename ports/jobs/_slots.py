"""What slots ask and tell: work, what began, how it ended; and what becomes of the jobs of a slot that dies."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ports.errors import BrokenRecordError, RecordError, UsageError
from ports.jobs import _headers
from ports.jobs._exchange import BY_REQUEST, Exchange, Reply, Request
from ports.jobs._live import Run
from ports.jobs._model import (
    CANCELLED,
    ERROR,
    FINISHED,
    LARGE,
    LOST,
    STOPPED,
    JobId,
    Lease,
    LeaseState,
    Submission,
    parse_id,
    short,
)
from ports.jobs._store import pack
from ports.jobs._waiting import Claim

_MOST_BYTES_OF_WORK = 64 * 2**20  # in a batch of several jobs
_MOST_BYTES_OF_A_JOB = 960 * 2**20  # a frame holds 1 GiB, and a batch that is not full yet goes with it
_LONGEST_ERROR = 65_536
_LOOK_SECONDS = 1.0  # between two looks at the leases of slots that are not connected


class Slots:
    """Gives jobs to slots, and takes what becomes of them."""

    def __init__(self, exchange: Exchange, is_alive: Callable[[Lease], LeaseState]) -> None:
        self.exchange, self.store = exchange, exchange.store
        self._ledger, self._waiting = exchange.ledger, exchange.waiting
        self._is_alive = is_alive
        self._looked = -_LOOK_SECONDS

    def _slot(self, request: Request) -> str:
        """Return the slot that asks, and remember by which connection."""
        slot = request.header.get("slot")
        if not isinstance(slot, str) or not 0 < len(slot) <= 255 or not slot.isascii() or not slot.isprintable():
            raise UsageError(f"slot: {short(slot)} is no name")
        if "/" in slot or slot.startswith("."):
            raise UsageError(f"slot: {short(slot)} is no name of a file")
        if request.connection is not None:
            self.exchange.connections[slot] = request.connection
        return slot

    def claim(self, request: Request) -> None:
        """Let a slot wait for work. It holds nothing else."""
        header = request.header
        most, known = header.get("most", 1), header.get("known", [])
        kinds = header.get("kinds", ["function", "script"])
        if not isinstance(most, int) or isinstance(most, bool) or not 0 < most <= 64:
            raise UsageError(f"most: {short(most)} is no whole number from 1 to 64")
        for name, value in (("known", known), ("kinds", kinds)):
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise UsageError(f"{name}: {short(value)} is no list of texts")
        worker = _headers.text_of(header, "worker")
        lease = _headers.lease_of(header, self._slot(request))
        slot = lease.slot
        if slot.startswith("job-"):
            raise UsageError(f"slot: {slot} is the name of a script")
        self._know_slot(lease, worker)
        held = {pack(id.number, id.item or 0) for id in _headers.ids_of(header, "holds", least=0)}
        for job, run in list(self._ledger.runs_of.get(slot, {}).items()):
            if job not in held:  # what it has reported, and what was not acknowledged
                self._settle_unheard(run)
        claim = Claim(request.connection, request.n, slot, most, frozenset(known), frozenset(kinds), worker)
        self._waiting.claims.pop(slot, None)
        self._waiting.claims[slot] = claim

    def _know_slot(self, lease: Lease, worker: str) -> None:
        """Remember a slot. One that another process takes over had begun anything: its lease is overwritten."""
        known = self._ledger.slots.get(lease.slot)
        if known is not None and known.lease != lease and (known.lease.process or lease.process):
            self.reap(lease.slot, LeaseState(False, None, f"another process took slot {lease.slot} over"))
        self._ledger.know_slot(lease, worker)

    def _settle_unheard(self, run: Run) -> None:
        """Take back what a slot does not hold: it never began, unless the slot had said so."""
        if run.began is None:
            self._ledger.take_back(run, self.exchange.now(), None)
        else:
            self._fail(run, "lost", f"slot {run.slot} does not know it any more", self.exchange.now())

    def give(self) -> None:
        """Give work to the slots that wait."""
        if self.exchange.is_draining or self.exchange.is_held:
            return
        now = self.exchange.monotonic()
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
                self._ledger.take_back(run, self.exchange.now(), None)  # it comes with the next batch
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
                self._end(run, ERROR, self.exchange.now(), reason=str(error)[:1000], error=told)
        if jobs:
            self.exchange.send(claim.connection, {"n": claim.n, "jobs": jobs, "functions": functions}, blobs)
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
            blobs.append(self.exchange.read_arguments(arguments.get(run.job, b"")))
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
        return self.exchange.read_result(id.number, item, n_bytes, blob, is_map=id.item is not None)

    def _run_of(self, request: Request) -> Run | None:
        """Return the run that a slot speaks of; None if it is not its any more."""
        header = request.header
        slot, id, attempt = self._slot(request), parse_id(header.get("id")), header.get("attempt")
        run = self._ledger.runs.get(pack(id.number, id.item or 0))
        return run if run is not None and run.slot == slot and run.attempt == attempt and run.id == id else None

    def begun(self, request: Request) -> None:
        """Note that a job runs."""
        at = _headers.seconds(request.header.get("at"), "at")
        run = self._run_of(request)
        if run is not None:
            self._ledger.begin(run, self.exchange.now() if at is None else at, self.exchange.monotonic())
        self.exchange.reply(request, {"known": run is not None})

    def started(self, request: Request) -> None:
        """Let a script be looked at by itself, in a session of its own; its slot is free."""
        header = request.header
        lease = header.get("lease")
        if not isinstance(lease, str) or not Path(lease).name.startswith("job-") or "\0" in lease:
            raise UsageError(f"lease: {short(lease)} is not the lease of a script")
        process = header.get("process")
        if process is not None and not isinstance(process, dict):
            raise UsageError(f"process: {short(process)} is no process")
        run = self._run_of(request)
        if run is not None and run.live.spec.kind == "script":
            self._ledger.begin(run, self.exchange.now(), self.exchange.monotonic())
            self._ledger.move(run, Lease(Path(lease).name, lease, _headers.plain(process, "process")))
            if run.ending is not None:
                self.exchange.push_end(run)
        self.exchange.reply(request, {"known": run is not None})

    def returned(self, request: Request) -> None:
        """Take back what a slot never began."""
        slot = self._slot(request)
        for id in _headers.ids_of(request.header):
            run = self._ledger.runs.get(pack(id.number, id.item or 0))
            if run is not None and run.slot == slot and run.id == id and run.began is None:
                self._ledger.take_back(run, self.exchange.now(), None)
        self.exchange.reply(request, {})

    def holding(self, request: Request) -> None:
        """Hear after a reconnect what a slot still has; all else of it goes back."""
        lease = _headers.lease_of(request.header, self._slot(request))
        held = {pack(id.number, id.item or 0) for id in _headers.ids_of(request.header, least=0)}
        self._know_slot(lease, _headers.text_of(request.header, "worker"))
        runs = dict(self._ledger.runs_of.get(lease.slot, {}))
        for job, run in runs.items():
            if job not in held:
                self._settle_unheard(run)
            elif run.ending is not None:
                self.exchange.push_end(run)
        unknown = [
            str(id) for id in _headers.ids_of(request.header, least=0) if pack(id.number, id.item or 0) not in runs
        ]
        self.exchange.reply(request, {"unknown": unknown})

    def ended(self, request: Request) -> None:
        """Take results; what was told before is not taken twice."""
        slot, results = self._slot(request), request.header.get("results")
        if not isinstance(results, list) or len(results) != len(request.blobs):
            raise UsageError(f"results: {short(results)} is no list with a blob for each of {len(request.blobs)}")
        checked = [_headers.result_of(result) for result in results]
        now, runs, told = self.exchange.now(), self._ledger.runs, []
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
        self.exchange.reply(request, {})

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
            reason = run.reason or BY_REQUEST
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
            self._end(run, CANCELLED, at, began=began, reason=run.reason or BY_REQUEST)
            return
        used, most = run.used.get(cause, 0), getattr(run.live.spec.retries, cause, 0)
        text = text[:900]
        if cause == STOPPED:
            self._ledger.again(run, at, text, began=began)
            return
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
            self.exchange.unlinked.append(self.store.places.environ_of(live.key))
        if run.slot.startswith("job-") and run.slot not in self._ledger.runs_of:
            self._ledger.forget_slot(run.slot)

    def look_at_slots(self) -> None:
        """Look whether the slots that are not connected live; what dead ones had goes back or is lost."""
        now = self.exchange.monotonic()
        if now - self._looked < _LOOK_SECONDS:
            return
        self._looked = now
        for slot, known in list(self._ledger.slots.items()):
            if slot in self.exchange.connections or slot.startswith("job-"):
                continue
            found = self._is_alive(known.lease)
            if found.alive is False:
                self.reap(slot, found)

    def reap(self, slot: str, lease: LeaseState) -> None:
        """Take the jobs of a slot or a script that ended without a word."""
        if lease.alive:
            return
        now = self.exchange.now()
        for run in list(self._ledger.runs_of.get(slot, {}).values()):
            is_begun = run.began is not None or lease.begun is None or (str(run.id), run.attempt) in lease.begun
            reason = lease.reason or f"what ran it has ended without a word ({slot})"
            if is_begun:
                self._fail(run, "time" if run.ending == "timeout" else "lost", reason, now, began=now)
            else:
                self._ledger.take_back(run, now, reason[:900])
        self._ledger.forget_slot(slot)
        self._waiting.claims.pop(slot, None)

    def functions(self) -> list[str]:
        """Return the ids of the functions that slots have."""
        return [str(run.id) for run in self._ledger.runs.values() if not run.slot.startswith("job-")]

    def end_functions(self, how: str) -> list[Reply]:
        """Return what asks the slots that are connected to end what they have."""
        runs = [run for run in self._ledger.runs.values() if run.slot in self.exchange.connections]
        told = [(run.slot, {"op": "end", "id": str(run.id), "attempt": run.attempt, "how": how}) for run in runs]
        return [Reply(self.exchange.connections[slot], header) for slot, header in told]

    def time_out(self) -> None:
        """Ask for the end of jobs that run too long. The launcher of a script does it by itself."""
        now = self.exchange.monotonic()
        for run in list(self._ledger.timed.values()):
            is_over = run.deadline is not None and run.deadline <= now and run.ending is None
            if is_over and not run.slot.startswith("job-"):
                reason = f"it ran longer than its timeout of {run.live.spec.timeout:g} s"
                self.exchange.ask_end(run, "timeout", reason)


def _usage(result: Mapping[str, Any]) -> tuple[Any, Any]:
    return result.get("peak_memory"), result.get("cpu_time")


_WORDS = {
    "failure": "it failed",
    "time": "it ran longer than its timeout",
    "lost": "what ran it has ended",
    STOPPED: "the compute resource was stopped",
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
