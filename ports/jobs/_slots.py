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
    Needs,
    Submission,
    as_asked,
    parse_id,
    short,
)
from ports.jobs._room import MOST_OF_A_BATCH
from ports.jobs._store import pack
from ports.jobs._waiting import Claim

_MOST_BYTES_OF_WORK = 64 * 2**20  # in a batch of several jobs
_MOST_BYTES_OF_A_JOB = 960 * 2**20  # a frame holds 1 GiB, and a batch that is not full yet goes with it
_LONGEST_ERROR = 65_536
_LOOK_SECONDS = 1.0  # between two looks at the leases of slots that are not connected


class Slots:
    """Gives jobs to slots, and takes what becomes of them."""

    def __init__(
        self,
        exchange: Exchange,
        is_alive: Callable[[Lease], LeaseState],
        script_of: Callable[[JobId, int], Lease | None],
    ) -> None:
        self.exchange, self.store = exchange, exchange.store
        self._ledger, self._waiting = exchange.ledger, exchange.waiting
        self._is_alive, self._script_of = is_alive, script_of
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
        """Let a slot wait for work. It says for which jobs it still answers; what it has besides goes back."""
        header = request.header
        most, known = header.get("most", 1), header.get("known", [])
        kinds = header.get("kinds", ["function", "script"])
        if not isinstance(most, int) or isinstance(most, bool) or not 0 < most <= MOST_OF_A_BATCH:
            raise UsageError(f"most: {short(most)} is no whole number from 1 to {MOST_OF_A_BATCH}")
        for name, value in (("known", known), ("kinds", kinds)):
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise UsageError(f"{name}: {short(value)} is no list of texts")
        worker = _headers.text_of(header, "worker")
        lease = _headers.lease_of(header, self._slot(request))
        slot = lease.slot
        if slot.startswith("job-"):
            raise UsageError(f"slot: {slot} is the name of a script")
        holds = _headers.holds_of(header)
        self._know_slot(lease, worker)
        self._keep_only(slot, holds)
        claim = Claim(request.connection, request.n, slot, most, frozenset(known), frozenset(kinds), worker)
        self._waiting.claims.pop(slot, None)
        self._waiting.claims[slot] = claim

    def _know_slot(self, lease: Lease, worker: str) -> None:
        """Remember a slot. One that another process takes over had begun anything: its lease is overwritten."""
        known = self._ledger.slots.get(lease.slot)
        if known is not None and known.lease != lease and (known.lease.process or lease.process):
            self.reap(lease.slot, LeaseState(False, None, f"another process took slot {lease.slot} over"))
        self._ledger.slots.know(lease, worker)

    def _keep_only(self, slot: str, holds: Mapping[int, tuple[JobId, int | None]]) -> None:
        """Take back what a slot does not hold."""
        for job, run in list(self._ledger.runs_of.get(slot, {}).items()):
            if job not in holds or holds[job][1] not in (None, run.attempt):
                self._settle_unheard(run)

    def _settle_unheard(self, run: Run) -> None:
        """Take back what a slot does not hold: it never began, unless the slot had said so, or its script was seen."""
        if self._is_adopted(run):
            return
        if run.began is None:
            self._ledger.take_back(run, self.exchange.now(), None)
        else:
            self._fail(run, "lost", f"slot {run.slot} does not know it any more", self.exchange.now())

    def _is_adopted(self, run: Run) -> bool:
        """Let a script that was started be looked at by itself, though no slot says so; False if it was not."""
        if run.live.spec.kind != "script" or run.slot.startswith("job-"):
            return False
        lease = self._script_of(run.id, run.attempt)
        if lease is not None:
            self._start(run, lease)
        return lease is not None

    def _start(self, run: Run, lease: Lease) -> None:
        """Note that a script runs in a session of its own: its slot is free."""
        self._ledger.begin(run, self.exchange.now())
        self._ledger.move(run, lease)
        if run.ending is not None:
            self.exchange.push_end(run)

    def give(self) -> None:
        """Give work to the slots that wait, and for which nothing of theirs is to be heard any more."""
        if self.exchange.is_draining or self.exchange.is_held:
            return
        now = self.exchange.monotonic()
        for claim in list(self._waiting.claims.values()):
            if not self._ledger.shelves:
                return
            if claim.slot in self._ledger.runs_of:
                continue
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
                    asked[run.live.number] = _asked(run.live.spec, run.shelf[1])
                job = self._work(run, claim, asked[run.live.number], (functions, blobs, arguments))
                n_bytes += _checked_size(blobs[n_before:])
                jobs.append({**job, **gpus} if gpus else job)
            except (RecordError, UsageError) as error:
                del blobs[n_before:]
                functions = {digest: place for digest, place in functions.items() if place < n_before}
                told = json.dumps({"type": type(error).__name__, "text": str(error)})
                self._ledger.end(run, ERROR, self.exchange.now(), reason=str(error)[:1000], error=told)
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
            pid = request.header.get("pid")
            run.pid = pid if isinstance(pid, int) and not isinstance(pid, bool) and pid > 0 else None
            self._ledger.begin(run, self.exchange.now() if at is None else at)
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
            self._start(run, Lease(Path(lease).name, lease, _headers.plain(process, "process")))
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
        holds = _headers.holds_of(request.header)
        self._know_slot(lease, _headers.text_of(request.header, "worker"))
        self._keep_only(lease.slot, holds)
        runs = self._ledger.runs_of.get(lease.slot, {})
        for run in runs.values():
            if run.ending is not None:
                self.exchange.push_end(run)
        unknown = [str(id) for job, (id, _) in holds.items() if job not in runs]
        self.exchange.reply(request, {"unknown": unknown})

    def ended(self, request: Request) -> None:
        """Take results; what was told before is not taken twice. One that is wrong does not keep the others back."""
        slot, results = self._slot(request), request.header.get("results")
        if not isinstance(results, list) or len(results) != len(request.blobs):
            raise UsageError(f"results: {short(results)} is no list with a blob for each of {len(request.blobs)}")
        told: list[tuple[Run, Mapping[str, Any], bytes]] = []
        refused = []
        for place, (result, blob) in enumerate(zip(results, request.blobs, strict=True)):
            try:
                job, id, attempt = _headers.attempt_of(result)
            except UsageError as error:
                refused.append({"place": place, "text": str(error)})
                continue
            run = self._ledger.runs.get(job)
            if (
                run is not None
                and run.slot == slot
                and run.attempt == attempt
                and run.live.is_map == (id.item is not None)
            ):
                told.append((run, *_checked(result, blob)))
        for run, result, blob in told:
            if len(blob) > LARGE and result["state"] == FINISHED:
                self.store.keep_result(run.id, blob)
        self._learn(told)
        now = self.exchange.now()
        for run, result, blob in told:
            if run.job in self._ledger.runs:  # not twice in one request
                self._take(run, result, blob, now)
        self.exchange.reply(request, {"refused": refused} if refused else {})

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
            self._ledger.end(run, FINISHED, ended, began=began, blob=blob, usage=usage, note=note)
            return
        cause = result.get("reason") or ("lost" if how == LOST else "failure")
        if run.ending == "cancel":
            how, cause = CANCELLED, "failure"
        elif run.ending == "timeout" and cause == "failure":
            how, cause = ERROR, "time"
        if how == CANCELLED:
            reason = run.reason or BY_REQUEST
            self._ledger.end(run, CANCELLED, ended, began=began, reason=reason, usage=usage, note=note)
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
            self._ledger.end(run, CANCELLED, at, began=began, reason=run.reason or BY_REQUEST)
            return
        told, text = result or {}, text[:900]
        cause = run.live.spec.retries.cause(cause, (told.get("note") or {}).get("status"))
        why_not = self._why_not_again(run, cause)
        if why_not is None:
            self._try_again(run, cause, text, at, began=began)
            return
        self._ledger.end(
            run,
            LOST if cause == "lost" else ERROR,
            at,
            began=began,
            reason=text + why_not,
            error=json.dumps(_short_error(told["error"])) if told.get("error") is not None else None,
            blob=blob if len(blob) <= LARGE else b"",
            usage=_usage(told),
            note=json.dumps(told["note"]) if told.get("note") else None,
        )

    def _why_not_again(self, run: Run, cause: str) -> str | None:
        """Return what is said of a job that is not tried again; None if it is."""
        if cause == STOPPED:
            return None
        if run.used.get(cause, 0) >= run.live.spec.retries.most(cause):
            return ""
        has_all = (run.shelf[1].memory or 0) >= self._ledger.room.capacity.memory
        if cause == "memory" and run.live.spec.memory_growth > 1 and has_all:
            return "; it had all memory of this resource, so it is not tried again"
        return None

    def _try_again(self, run: Run, cause: str, text: str, at: float, *, began: float | None) -> None:
        """Let a job be tried again. An attempt that ended with the resource costs no retry."""
        if cause != STOPPED:
            n, most = run.used.get(cause, 0) + 1, run.live.spec.retries.most(cause)
            run.used = {**run.used, cause: n}
            needs = self._ledger.needs_of(run.live, run.used)
            grown = f", with {as_asked(needs.memory or 0)}" if needs.memory != run.shelf[1].memory else ""
            text = f"{text}; retry {n} of {most} ({cause}{grown})"
        self._ledger.again(run, at, text, began=began)

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
            if self._is_adopted(run):
                continue
            is_begun = run.began is not None or lease.begun is None or (str(run.id), run.attempt) in lease.begun
            reason = lease.reason or f"what ran it has ended without a word ({slot})"
            if is_begun:
                self._fail(run, "time" if run.ending == "timeout" else "lost", reason, now, began=now)
            else:
                self._ledger.take_back(run, now, reason[:900])
        self._ledger.slots.forget(slot)
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


def _checked(result: Mapping[str, Any], blob: bytes) -> tuple[Mapping[str, Any], bytes]:
    """Return a result and its blob; of one that cannot be kept, an error that says why."""
    try:
        return _headers.result_of(result), blob
    except UsageError as error:
        wrong = {"type": "UsageError", "text": f"its result was refused: {error}"}
        return {"state": ERROR, "error": wrong}, b""


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


def _asked(spec: Submission, needs: Needs) -> dict[str, Any]:
    """Return what all jobs of a submission have in common, for a slot; `needs` are those of the attempt."""
    told: dict[str, Any] = {"timeout": spec.timeout, "memory": needs.memory, "directory": spec.directory}
    told |= {"name": spec.name, "minor": spec.minor, "isolate": spec.isolate, "environ": dict(spec.environ)}
    told |= {"cpus": needs.cpus} if needs.cpus != 1 else {}
    return {"kind": spec.kind, **{name: value for name, value in told.items() if value}}
