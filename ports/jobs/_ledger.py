"""What happens to jobs: submitted, given to a slot, begun, ended, tried again, taken back, cancelled.

Each change is made in memory (`_live`) and put into the store, which makes all changes of a turn durable at once. Two
rules keep it true: a job is in one place at a time, and a run that was never begun costs no attempt.
"""

from __future__ import annotations

import datetime
import functools
import heapq
import json
from collections.abc import Iterable, Mapping
from typing import Any

from ports.jobs._clocks import Clocks
from ports.jobs._equals import Equals
from ports.jobs._following import Following
from ports.jobs._leases import Leases, Slot
from ports.jobs._live import ASIDE, GIVEN, OVER, PLACE, READY, Live, Run
from ports.jobs._model import (
    CANCELLED,
    ENDED,
    ERROR,
    FINISHED,
    LARGE,
    LOST,
    NEXT,
    PENDING,
    RUNNING,
    STATES,
    WORST_FIRST,
    Capacity,
    JobId,
    Lease,
    Needs,
    Submission,
)
from ports.jobs._room import Pace, Room
from ports.jobs._shelves import Shelves
from ports.jobs._store import JobRow, Store, SubmissionRow, pack, unpack

_PENDING, _RUNNING = PLACE[PENDING], PLACE[RUNNING]
_WORST = tuple((PLACE[name], name) for name in WORST_FIRST)
_LONGEST_REASON = 1000
_UNTRIED: tuple[int, dict[str, int]] = (0, {})  # never changed: who counts a retry makes a new one


@functools.lru_cache(maxsize=4096)
def specification(text: str) -> Submission:
    """Return the submission that the store keeps as `text`; equal ones are one object."""
    return Submission.from_json(json.loads(text))


class Ledger:
    """All jobs that have not ended, and what happens to them. `limits` is how many slots work for a queue at once."""

    def __init__(
        self, store: Store, capacity: Capacity, limits: Mapping[str, int], *, host: str, clocks: Clocks
    ) -> None:
        self.store, self.limits, self.host, self.clocks = store, limits, host, clocks
        self.room, self.pace = Room(capacity), Pace()
        self._clear()

    def _clear(self) -> None:
        self.lives: dict[int, Live] = {}
        self.runs: dict[int, Run] = {}
        self.runs_of: dict[str, dict[int, Run]] = {}
        self.slots = Leases(self.store)
        self.timed: dict[int, Run] = {}
        #: Submissions of which something changed in this turn, and those of which a job ended.
        self.dirty: dict[int, Live] = {}
        self.ended: set[int] = set()
        #: Submissions that ended in this turn: scripts, and those of whose end somebody hears.
        self.over: list[Live] = []
        self.shelves = Shelves(self.lives, self.room, self.limits)
        self._following, self._is_settling = Following(), False
        self._equals = Equals()
        self._times: list[tuple[float, int]] = []  # of `at`, by the clock on the wall
        self._lifetimes: list[tuple[float, int]] = []  # by the clock that nobody sets
        self.totals = dict.fromkeys(STATES, 0)
        self._kept_totals: dict[str, int] = {}
        self._serial = self._kept_serial = 0

    # --- from the disk and to it ---

    def load(self) -> None:
        """Read from the store what has not ended, and forget all else."""
        available, self.room = self.room.available, Room(self.room.capacity)
        self.room.available = available
        self._clear()
        self.totals = self.store.counts()
        self._kept_totals = dict(self.totals)
        self._serial = self._kept_serial = int(self.store.fact("serial") or 0)
        jobs: dict[int, list[JobRow]] = {}
        for job in self.store.unended_jobs():
            jobs.setdefault(unpack(job.job)[0], []).append(job)
        gpus = self.slots.load()
        since: dict[int, tuple[float, str | None]] = {}
        for row in self.store.unended():
            live = Live(row, specification(row.spec), self.room.capacity)
            self.lives[live.number] = live
            since[live.number] = row.created, row.stamp
            self._place_jobs(live, jobs.get(live.number, ()))
        for slot, runs in self.runs_of.items():
            queue, needs, _ = next(iter(runs.values())).shelf
            self.room.book(slot, queue, needs, gpus.get(slot, ()) if needs.gpus else ())
        for live in list(self.lives.values()):
            self._hold(live, *since[live.number])
        self._settle()

    def _place_jobs(self, live: Live, rows: Iterable[JobRow]) -> None:
        """Put each job of a submission where it was."""
        places: dict[int, str] = {}
        for row in rows:
            _, item = unpack(row.job)
            places[item] = OVER if row.state in ENDED else READY if row.slot is None else GIVEN
            if row.state in ENDED:
                continue
            used = json.loads(row.used) if row.used else {}
            self._let_grow(live, item, used)
            if row.slot is None:
                live.remember(item, row.attempt, used)
                continue
            run = Run(live, item, row.attempt, row.slot, used)
            run.ending, run.reason, run.stamp = row.ending, row.reason, row.stamp
            if row.state == RUNNING:
                run.began = row.began
                self._time(run, self.clocks.monotonic_at(row.stamp, row.began or 0.0))
            self._hold_run(run)
        live.restore(places)

    def _hold_run(self, run: Run) -> None:
        self.runs[run.job] = run
        self.runs_of.setdefault(run.slot, {})[run.job] = run
        self._equals.hold(run.live, run.item)

    def _time(self, run: Run, began: float) -> None:
        """Note until when a run may last, by the monotonic clock."""
        if run.live.spec.timeout is not None:
            run.deadline = began + run.live.spec.timeout
            self.timed[run.job] = run

    def save(self) -> None:
        """Put the counts and states of what changed; the caller commits."""
        put = self.store.put
        for live in self.dirty.values():
            counts = live.counts
            state = next(name for place, name in _WORST if counts[place])
            ended = live.ended if state in ENDED else None
            put("states", (live.began, ended, state, live.reason, *counts, live.number))
        self.dirty.clear()
        if self.totals != self._kept_totals:
            self.store.put_all("counts", self.totals.items())
            self._kept_totals = dict(self.totals)
        if self._serial != self._kept_serial:
            put("facts", ("serial", self._serial))
            self._kept_serial = self._serial

    def _note(
        self,
        job: int,
        attempt: int,
        change: tuple[str, str],
        at: float,
        *,
        reason: str | None = None,
        usage: tuple[Any, Any] = (None, None),
    ) -> None:
        """Keep a transition, `change`, from one state to another; raises ValueError for one that a job cannot make."""
        before, state = change
        if state not in NEXT.get(before, ()):
            raise ValueError(f"job {JobId(*unpack(job))} cannot be {state} after it was {before}")
        self._serial += 1
        self.store.put("transitions", (job, self._serial, attempt, state, at, self.host, reason, *usage))

    def _keep(self, run: Run, state: str) -> None:
        """Keep the row of a run that goes on."""
        used = json.dumps(run.used) if run.used else None
        row = (run.job, state, run.attempt, run.slot, run.began, None, run.ending, run.reason, used)
        self.store.put("jobs", (*row, None, None, None, None, run.stamp))

    # --- submitted ---

    def submit(self, row: SubmissionRow, spec: Submission) -> Live:
        """Take in a submission whose arguments and function are in the store already."""
        live = Live(row, spec, self.room.capacity)
        counts = (None, None, PENDING, None, *row.counts, row.stamp, row.command)
        first = (row.number, row.key, row.kind, row.name, row.queue, row.priority, row.count, row.digest)
        self.store.put("submissions", (*first, row.spec, row.created, *counts))
        self.store.put_all("tags", ((name, value, live.number) for name, value in spec.tags.items()))
        self.lives[live.number] = live
        self.totals[PENDING] += live.count
        self.dirty[live.number] = live
        self._hold(live, row.created, row.stamp)
        self._settle()
        return live

    def _hold(self, live: Live, created: float, stamp: str | None) -> None:
        """Let a new submission wait for what it waits for, and put it on its shelf if that is nothing."""
        spec = live.spec
        if live.not_before is not None:
            heapq.heappush(self._times, (live.not_before, live.number))
        if spec.lifetime is not None:
            heapq.heappush(self._lifetimes, (self.clocks.real_at(stamp, created) + spec.lifetime, live.number))
        for one in spec.after:
            self._following.wait(live, None, one, self.state_of(one))
        for item, ids in spec.inputs.items():
            if live.is_pending(item):
                for one in ids:
                    self._following.wait(live, item, one, self.state_of(one))
        self.shelves.put(live)

    def state_of(self, id: JobId) -> str | None:
        """Return the state of a job, or of a whole map as far as others wait for it; None if there is none."""
        live = self.lives.get(id.number)
        if live is None:
            row = self.store.submission(id.number)
            if row is None or (id.item is not None and (row.count is None or id.item >= row.count)):
                return None
            if id.item is None:
                return row.state
        elif id.item is None:
            failed = any(live.counts[PLACE[state]] for state in (ERROR, CANCELLED, LOST))
            return ERROR if failed else FINISHED if live.is_all_finished else PENDING
        elif not live.is_map or id.item >= live.count:
            return None
        elif (run := self.runs.get(pack(id.number, id.item or 0))) is not None:
            return RUNNING if run.began is not None else PENDING
        found = self.store.job(pack(id.number, id.item or 0))
        return PENDING if found is None else found.state

    # --- given out ---

    def give(self, slot: str, most: int, kinds: frozenset[str], now: float) -> list[Run]:
        """Give jobs to a slot that has none: at most `most`, and as many as end within 50 ms. `now` is monotonic."""
        shelf = self.shelves.next(kinds, now)
        first = None if shelf is None else self.shelves.top(shelf)
        if shelf is None or first is None:
            return []
        runs: list[Run] = []
        limit = min(most, self.shelves.batch(shelf, first, self.pace))
        while len(runs) < limit:
            live = self.shelves.top(shelf)
            if live is None or live.digest != first.digest or live.spec.isolate != first.spec.isolate:
                break
            item = live.pop(shelf)
            if item is not None and self._equals.hold(live, item):
                runs.append(self._give(live, item, slot))
            elif item is not None:
                self._equals.wait(live, item)  # it will find the result of its equal in the cache
        if runs:
            gpus = self.room.book(slot, shelf[0], shelf[1])
            if gpus:
                self.slots.keep(self.slots[slot], gpus)
        return runs

    def _give(self, live: Live, item: int, slot: str) -> Run:
        attempt, used = live.tried.pop(item, _UNTRIED)
        run = Run(live, item, attempt + 1, slot, used)
        self.runs[run.job] = run
        self.runs_of.setdefault(slot, {})[run.job] = run
        kept = json.dumps(used) if used else None
        row = (run.job, PENDING, attempt + 1, slot, None, None, None, None, kept, None, None, None, None, None)
        self.store.put("jobs", row)
        return run

    # --- begun ---

    def begin(self, run: Run, at: float) -> None:
        """Note that a job runs."""
        if run.began is None:
            run.began, run.stamp = at, self.clocks.stamp()
            self._count(run.live, _PENDING, _RUNNING)
            run.live.began = at if run.live.began is None else run.live.began
            self._note(run.job, run.attempt, (PENDING, RUNNING), at)
            self._keep(run, RUNNING)
            self._time(run, self.clocks.monotonic())

    def move(self, run: Run, lease: Lease) -> None:
        """Let a script, which runs in a session of its own, be looked at by itself. Its slot is free."""
        before = self.slots.get(run.slot)
        booking = self._drop(run)
        if lease.process is None and before is not None:  # which has ended, if the lock is gone
            lease = lease._replace(process=before.lease.process)
        run.slot = lease.slot
        self._hold_run(run)
        queue, needs, _ = run.shelf
        gpus = self.room.book(run.slot, queue, needs, booking)
        self.slots.keep(Slot("" if before is None else before.worker, lease), gpus)
        self._keep(run, RUNNING if run.began is not None else PENDING)

    def _drop(self, run: Run) -> tuple[int, ...]:
        """Take a run from its slot; return the GPUs that the slot gives back if it was its last one."""
        del self.runs[run.job]
        held = self.runs_of[run.slot]
        del held[run.job]
        self.timed.pop(run.job, None)
        if held:
            return ()
        del self.runs_of[run.slot]
        booking = self.room.release(run.slot)
        if run.slot.startswith("job-"):
            self.slots.forget(run.slot)
        return booking.gpus if booking is not None else ()

    # --- ended ---

    def _count(self, live: Live, before: int, after: int) -> None:
        live.count_change(before, after)
        self.totals[STATES[before]] -= 1
        self.totals[STATES[after]] += 1
        self.dirty[live.number] = live

    def end(
        self,
        run: Run,
        state: str,
        at: float,
        *,
        began: float | None = None,
        reason: str | None = None,
        error: str | None = None,
        blob: bytes = b"",
        usage: tuple[Any, Any] = (None, None),
        note: str | None = None,
    ) -> None:
        """Note how a run ended, for good. A `blob` above 64 KiB is in its file already.

        `began` is when it began, if nothing said so before. `usage` is peak memory in bytes and cpu time in seconds.
        """
        self._drop(run)
        live, before = run.live, PENDING if run.began is None else RUNNING
        counted = PLACE[before]
        if before is PENDING and began is not None:
            self._note(run.job, run.attempt, (PENDING, RUNNING), began)
            before, run.began = RUNNING, began
            live.began = began if live.began is None else live.began
        self._note(run.job, run.attempt, (before, state), at, reason=reason, usage=usage)
        used = json.dumps(run.used) if run.used else None
        place = self._finish(live, run.item, counted, state, at)
        row = (run.job, state, run.attempt, None, run.began, at, None, reason, used, place, *usage, note, None)
        self.store.put("jobs", row)
        kept = blob if blob and len(blob) <= LARGE else None
        self.store.put("ends", (pack(live.number, place), run.item, state, error, len(blob), kept))
        self._settle()

    def _finish(self, live: Live, item: int, before: int, state: str, at: float) -> int:
        """Count a job that ended, and let others hear of it; return its place among those that ended."""
        if live.place(item) is not OVER:  # `withdraw_all` has moved it
            live.move(item, OVER)
        live.n_ended += 1
        self._count(live, before, PLACE[state])
        live.ended = at
        self.ended.add(live.number)
        self._following.note_end(live, item, state)
        if live.spec.cache is not None:
            self._free_equals(live, item)
        if live.has_ended:
            del self.lives[live.number]
            if live.spec.notify or live.spec.kind == "script":
                self.over.append(live)
        return live.n_ended - 1

    def _end_pending(self, live: Live, item: int, at: float, reason: str) -> None:
        """Cancel a job that no slot has."""
        job = pack(live.number, item)
        attempt, used = live.tried.pop(item, _UNTRIED)
        self._note(job, attempt, (PENDING, CANCELLED), at, reason=reason)
        place, kept = self._finish(live, item, _PENDING, CANCELLED, at), json.dumps(used) if used else None
        row = (job, CANCELLED, attempt, None, None, at, None, reason, kept, place, None, None, None, None)
        self.store.put("jobs", row)
        self.store.put("ends", (pack(live.number, place), item, CANCELLED, None, 0, None))

    def again(self, run: Run, at: float, reason: str, *, began: float | None = None) -> None:
        """Let a job whose attempt failed be tried again."""
        self._drop(run)
        before = PENDING
        if run.began is None and began is not None:
            self._note(run.job, run.attempt, (PENDING, RUNNING), began)
            before = RUNNING
        elif run.began is not None:
            self._count(run.live, _RUNNING, _PENDING)
            before = RUNNING
        self._note(run.job, run.attempt, (before, PENDING), at, reason=reason)
        self._let_grow(run.live, run.item, run.used)
        self._put_back(run, run.attempt, reason)

    def needs_of(self, live: Live, used: Mapping[str, int]) -> Needs:
        """Return what the next attempt of a job needs: more memory after each that ended by its memory."""
        first, capacity = live.spec.needs.on(self.room.capacity), self.room.capacity
        return live.spec.needs_after(first, used.get("memory", 0), capacity)

    def _let_grow(self, live: Live, item: int, used: Mapping[str, int]) -> None:
        """Let a job that is not ready need more from now on, if it ended by its memory."""
        if used and (needs := self.needs_of(live, used)) != live.shelf_of(item)[1]:
            live.grow(item, needs)

    def take_back(self, run: Run, at: float, reason: str | None) -> None:
        """Let a job that its slot never began be given out again. The attempt does not count."""
        self._drop(run)
        if run.ending == "cancel":
            run.live.remember(run.item, run.attempt - 1, run.used)
            self._end_pending(run.live, run.item, at, run.reason or "cancelled")
            self._settle()
            return
        if reason is not None:
            self._note(run.job, run.attempt - 1, (PENDING, PENDING), at, reason=reason)
        self._put_back(run, run.attempt - 1, None)

    def _put_back(self, run: Run, attempt: int, reason: str | None) -> None:
        live = run.live
        if attempt or run.used:
            live.remember(run.item, attempt, run.used)
        live.move(run.item, READY)
        used = json.dumps(run.used) if run.used else None
        row = (run.job, PENDING, attempt, None, None, None, None, reason, used, None, None, None, None, None)
        self.store.put("jobs", row)
        self.dirty[live.number] = live
        self._free_equals(live, run.item)
        self.shelves.put(live)

    # --- cancelled, and what follows from ends ---

    def cancel(self, live: Live, item: int | None, at: float, reason: str) -> int:
        """Cancel pending jobs of a submission, or one of them, and return how many; runs are the caller's."""
        items = live.withdraw_all() if item is None else [item] if live.is_pending(item) else []
        for one in items:
            self._end_pending(live, one, at, reason)
        self._settle()
        return len(items)

    def ask_end(self, run: Run, how: str, reason: str) -> None:
        """Keep that a run is to end: a resource that restarts asks again."""
        run.ending, run.reason = how, reason[:_LONGEST_REASON]
        self._keep(run, RUNNING if run.began is not None else PENDING)

    def _free_equals(self, live: Live, item: int) -> None:
        """Let the equal jobs of a run that ended go on."""
        for one in self._equals.free(live, item):
            self.shelves.put(one)

    def _settle(self) -> None:
        """Let jobs that waited for others begin, or cancel them. A chain of any length settles in this loop."""
        if self._is_settling:
            return
        self._is_settling = True
        for live, item, reason in self._following.news():
            if reason is None:
                self.shelves.put(live)
            else:
                self.cancel(live, item, self.clocks.now(), reason)
        self._is_settling = False

    def due(self) -> None:
        """Do what the clocks ask for: jobs whose time has come begin, those whose lifetime is over are cancelled."""
        now, real = self.clocks.now(), self.clocks.real()
        while self._times and self._times[0][0] <= now:
            live = self.lives.get(heapq.heappop(self._times)[1])
            if live is not None:
                live.not_before = None
                self.shelves.put(live)
        while self._lifetimes and self._lifetimes[0][0] <= real:
            live = self.lives.get(heapq.heappop(self._lifetimes)[1])
            for item in [] if live is None else [one for one in live.pending() if one not in live.tried]:
                assert live is not None
                self._end_pending(live, item, now, f"not begun within its lifetime of {live.spec.lifetime:g} s")
            self._settle()

    # --- what is asked ---

    def why(self, live: Live, item: int) -> str:
        """Return in words why a pending job does not run."""
        waits_for = live.waits_for | live.waits.get(item, set())
        if waits_for:
            first = ", ".join(str(one) for one in sorted(waits_for, key=_order)[:3])
            return f"waits for {first}" + (f" and {len(waits_for) - 3} more" if len(waits_for) > 3 else "")
        if live.not_before is not None:
            at = datetime.datetime.fromtimestamp(min(live.not_before, 2.5e11)).astimezone()
            return f"waits until {at:%Y-%m-%d %H:%M:%S}"
        if live.place(item) is ASIDE:
            run = self.runs.get(self._equals.first(live, item) or 0)
            return "waits for an equal job" + ("" if run is None else f": {run.id}")
        return self.shelves.why_not(live.number, live.shelf_of(item))

    def wanted(self) -> int:
        """Return how many slots would have work now: those that have some, and those for which there is more."""
        n_busy = sum(1 for slot in self.runs_of if not slot.startswith("job-"))
        return n_busy + self.shelves.wanted(self.pace)


def _order(id: JobId) -> tuple[int, int]:
    return id.number, -1 if id.item is None else id.item
