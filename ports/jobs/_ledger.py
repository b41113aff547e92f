"""What happens to jobs: submitted, given to a slot, begun, ended, tried again, taken back, cancelled.

Each change is made in memory (`_live`) and put into the store, which makes all changes of a turn durable at once. Two
rules keep it true: a job has one run at a time, and a run that was never begun costs no attempt.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import heapq
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from ports.jobs._live import PLACE, Live, Pace, Room, Run, Shelf
from ports.jobs._model import (
    CANCELLED,
    ENDED,
    ERROR,
    FINISHED,
    LARGE,
    LOST,
    PENDING,
    RUNNING,
    STATES,
    WORST_FIRST,
    Capacity,
    JobId,
    Lease,
    Submission,
)
from ports.jobs._store import JobRow, Store, SubmissionRow, pack, unpack

_PENDING, _RUNNING = PLACE[PENDING], PLACE[RUNNING]
_WORST = tuple((PLACE[name], name) for name in WORST_FIRST)
_LONGEST_REASON = 1000
_UNTRIED: tuple[int, dict[str, int]] = (0, {})  # never changed: who counts a retry makes a new one
_MOST_SLOTS = 1024
_PATIENCE_SECONDS = 600.0  # for which smaller jobs pass a wide one


@functools.lru_cache(maxsize=4096)
def specification(text: str) -> Submission:
    """Return the submission that the store keeps as `text`; equal ones are one object."""
    return Submission.from_json(json.loads(text))


@dataclasses.dataclass(frozen=True)
class Slot:
    """A slot or a script: where it runs, and where it is seen whether it lives."""

    worker: str
    lease: Lease


class Ledger:
    """All jobs that have not ended, and what happens to them. `limits` is how many slots work for a queue at once."""

    def __init__(
        self, store: Store, capacity: Capacity, limits: Mapping[str, int], *, host: str, now: Callable[[], float]
    ) -> None:
        self.store, self.limits, self.host, self.now = store, limits, host, now
        self.room, self.pace = Room(capacity), Pace()
        self._clear()

    def _clear(self) -> None:
        self.lives: dict[int, Live] = {}
        self.runs: dict[int, Run] = {}
        self.runs_of: dict[str, dict[int, Run]] = {}
        self.slots: dict[str, Slot] = {}
        self.timed: dict[int, Run] = {}
        #: Submissions of which something changed in this turn, and those of which a job ended.
        self.dirty: dict[int, Live] = {}
        self.ended: set[int] = set()
        #: Submissions that ended in this turn, and of whose end somebody hears.
        self.over: list[int] = []
        self._shelves: dict[Shelf, list[tuple[int, int]]] = {}
        self._dependents: dict[JobId, list[tuple[Live, int | None]]] = {}
        self._settling: collections.deque[tuple[Live, int, str]] = collections.deque()
        self._is_settling = False
        self._keys: dict[str, int] = {}  # cache keys of runs
        self._asides: dict[str, list[tuple[Live, int]]] = {}
        self._timers: list[tuple[float, int, str]] = []
        self._passed: int | None = None  # the submission with a wide job that smaller ones passed, and since when
        self._passed_since = 0.0
        self.totals = dict.fromkeys(STATES, 0)
        self._kept_totals: dict[str, int] = {}
        self._serial = self._kept_serial = 0

    # --- from the disk and to it ---

    def load(self, monotonic: float, now: float) -> None:
        """Read from the store what has not ended, and forget all else."""
        self._clear()
        self.room = Room(self.room.capacity)
        self.totals = self.store.counts()
        self._kept_totals = dict(self.totals)
        self._serial = self._kept_serial = int(self.store.fact("serial") or 0)
        jobs: dict[int, list[JobRow]] = {}
        for job in self.store.unended_jobs():
            jobs.setdefault(unpack(job.job)[0], []).append(job)
        gpus = self._load_slots()
        for row in self.store.unended():
            live = Live(row, specification(row.spec))
            self.lives[live.number] = live
            self._place_jobs(live, jobs.get(live.number, ()), monotonic - now)
        for slot, runs in self.runs_of.items():
            queue, needs, _ = next(iter(runs.values())).live.shelf
            self.room.book(slot, queue, needs, gpus.get(slot, ()) if needs.gpus else ())
        for live in list(self.lives.values()):
            self._hold(live)
        self._settle()

    def _load_slots(self) -> dict[str, tuple[int, ...]]:
        """Read the slots; return which GPUs each has."""
        gpus: dict[str, tuple[int, ...]] = {}
        for slot, worker, path, process, had in self.store.slots():
            self.slots[slot] = Slot(worker, Lease(slot, path, json.loads(process) if process else None))
            gpus[slot] = tuple(json.loads(had)) if had else ()
        return gpus

    def _place_jobs(self, live: Live, rows: Iterable[JobRow], offset: float) -> None:
        """Put each job of a submission where it was. `offset` is from the clock on the wall to the monotonic one."""
        touched: set[int] = set()
        for row in rows:
            _, item = unpack(row.job)
            touched.add(item)
            used = json.loads(row.used) if row.used else {}
            if row.state in ENDED:
                continue
            if row.slot is None:
                live.remember(item, row.attempt, used)
                live.push(item)
                continue
            run = Run(live, item, row.attempt, row.slot, used)
            run.ending, run.reason = row.ending, row.reason
            if row.state == RUNNING:
                run.began = row.began
                self._time(run, (row.began or 0.0) + offset)
            self._hold_run(run)
        live.next_item = max(touched, default=-1) + 1
        for item in range(live.next_item):
            if item not in touched:
                live.push(item)

    def _hold_run(self, run: Run) -> None:
        self.runs[run.job] = run
        self.runs_of.setdefault(run.slot, {})[run.job] = run
        if (key := run.live.spec.cache_key(run.item)) is not None:
            self._keys.setdefault(key, run.job)

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

    def _note(self, job: int, attempt: int, state: str, at: float, reason: str | None = None) -> None:
        """Keep a transition."""
        self._serial += 1
        self.store.put("transitions", (job, self._serial, attempt, state, at, self.host, reason, None, None))

    def _keep(self, run: Run, state: str) -> None:
        """Keep the row of a run that goes on."""
        used = json.dumps(run.used) if run.used else None
        row = (run.job, state, run.attempt, run.slot, run.began, None, run.ending, run.reason, used)
        self.store.put("jobs", (*row, None, None, None, None))

    # --- submitted ---

    def submit(self, row: SubmissionRow, spec: Submission) -> Live:
        """Take in a submission whose arguments and function are in the store already."""
        live = Live(row, spec)
        counts = (None, None, PENDING, None, *row.counts)
        first = (row.number, row.key, row.kind, row.name, row.queue, row.priority, row.count, row.digest)
        self.store.put("submissions", (*first, row.spec, row.created, *counts))
        self.store.put_all("tags", ((name, value, live.number) for name, value in spec.tags.items()))
        self.lives[live.number] = live
        self.totals[PENDING] += live.count
        self.dirty[live.number] = live
        self._hold(live)
        self._settle()
        return live

    def _hold(self, live: Live) -> None:
        """Let a new submission wait for what it waits for, and put it on its shelf if that is nothing."""
        spec = live.spec
        if live.not_before is not None:
            heapq.heappush(self._timers, (live.not_before, live.number, "at"))
        if spec.lifetime is not None:
            heapq.heappush(self._timers, (live.created + spec.lifetime, live.number, "lifetime"))
        for one in spec.after:
            self._wait_for(live, None, one)
        for item, ids in spec.inputs.items():
            if live.is_pending(item):
                for one in ids:
                    self._wait_for(live, item, one)
        self._shelve(live)

    def _wait_for(self, live: Live, item: int | None, id: JobId) -> None:
        """Let a job, or all of a submission, wait for `id`, if that has not ended."""
        state = self.state_of(id)
        if state == FINISHED:
            return
        if state is None or state in ENDED:
            reason = f"dependency {id} failed" if state is not None else f"dependency {id} was removed"
            self._settling.append((live, -1 if item is None else item, reason))
            return
        live.wait_for(item, id)
        self._dependents.setdefault(id, []).append((live, item))

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

    def _shelve(self, live: Live) -> None:
        """Put a submission that has ready jobs where slots find it."""
        if not live.is_on_shelf and live.n_ready:
            heapq.heappush(self._shelves.setdefault(live.shelf, []), (-live.spec.priority, live.number))
            live.is_on_shelf = True

    def _top(self, shelf: Shelf) -> Live | None:
        """Return the submission of a shelf whose job is next; None if the shelf is empty."""
        heap = self._shelves.get(shelf)
        while heap:
            live = self.lives.get(heap[0][1])
            if live is not None and live.n_ready:
                return live
            if live is not None:
                live.is_on_shelf = False
            heapq.heappop(heap)
        self._shelves.pop(shelf, None)
        return None

    def _full(self, queue: str) -> bool:
        limit = self.limits.get(queue)
        return limit is not None and self.room.n_of_queue.get(queue, 0) >= limit

    def _next_shelf(self, kinds: frozenset[str], now: float) -> Shelf | None:
        """Return the shelf with the job that is next among those that fit: by priority, then by age.

        Smaller jobs pass a wide one that does not fit yet, for 10 minutes. Then they wait until it fits.
        """
        heads: list[tuple[tuple[int, int], Shelf]] = []
        for shelf in list(self._shelves):
            if shelf[2] in kinds and self._top(shelf) is not None and not self._full(shelf[0]):
                heads.append((self._shelves[shelf][0], shelf))
        for head, shelf in sorted(heads):
            if self.room.why_not(shelf[1]) is None:
                if self._passed == head[1]:
                    self._passed = None
                return shelf
            if self._passed is None and self.room.would_fit(shelf[1]):
                self._passed, self._passed_since = head[1], now
            if self._passed == head[1] and now - self._passed_since > _PATIENCE_SECONDS:
                return None
        return None

    @property
    def has_work(self) -> bool:
        """Whether any job could be given out if there was room."""
        return bool(self._shelves)

    def give(self, slot: str, most: int, kinds: frozenset[str], now: float) -> list[Run]:
        """Give jobs to a slot that has none: at most `most`, and as many as end within 50 ms. `now` is monotonic."""
        shelf = self._next_shelf(kinds, now)
        if shelf is None:
            return []
        first = self._top(shelf)
        runs: list[Run] = []
        limit = min(most, self.pace.batch(first.digest)) if first is not None else 0
        is_alone = first is not None and (first.spec.kind == "script" or first.spec.isolate)
        while len(runs) < (1 if is_alone else limit):
            live = self._top(shelf)
            if live is None or first is None or live.digest != first.digest or live.spec.isolate != first.spec.isolate:
                break
            item = live.pop()
            if item is not None and not self._is_put_aside(live, item):
                runs.append(self._give(live, item, slot))
        if runs:
            queue, needs, _ = shelf
            gpus = self.room.book(slot, queue, needs)
            if gpus:
                self._keep_slot(slot, gpus)
        return runs

    def _is_put_aside(self, live: Live, item: int) -> bool:
        """Put a job aside while an equal one runs: it then finds that one's result in the cache."""
        key = live.spec.cache_key(item) if live.spec.cache is not None else None
        if key is None:
            return False
        if key not in self._keys:
            self._keys[key] = pack(live.number, item)
            return False
        live.put_aside(item)
        self._asides.setdefault(key, []).append((live, item))
        return True

    def _give(self, live: Live, item: int, slot: str) -> Run:
        attempt, used = live.tried.pop(item, _UNTRIED)
        run = Run(live, item, attempt + 1, slot, used)
        self.runs[run.job] = run
        self.runs_of.setdefault(slot, {})[run.job] = run
        kept = json.dumps(used) if used else None
        row = (run.job, PENDING, attempt + 1, slot, None, None, None, None, kept, None, None, None, None)
        self.store.put("jobs", row)
        return run

    def know_slot(self, lease: Lease, worker: str) -> None:
        """Keep where it is seen whether a slot lives."""
        known = Slot(worker, lease)
        if self.slots.get(lease.slot) != known:
            self.slots[lease.slot] = known
            self._keep_slot(lease.slot)

    def _keep_slot(self, slot: str, gpus: tuple[int, ...] = ()) -> None:
        known = self.slots[slot]
        process = None if known.lease.process is None else json.dumps(known.lease.process)
        row = (slot, known.worker, known.lease.path, process, json.dumps(gpus) if gpus else None)
        self.store.put("slots", row)

    def forget_slot(self, slot: str) -> None:
        """Forget a slot or a script that has ended and holds nothing."""
        if self.slots.pop(slot, None) is not None:
            self.store.put("free_slots", (slot,))

    # --- begun ---

    def begin(self, run: Run, at: float, monotonic: float) -> None:
        """Note that a job runs."""
        if run.began is None:
            run.began = at
            self._count(run.live, _PENDING, _RUNNING)
            run.live.began = at if run.live.began is None else run.live.began
            self._note(run.job, run.attempt, RUNNING, at)
            self._keep(run, RUNNING)
            self._time(run, monotonic)

    def move(self, run: Run, lease: Lease) -> None:
        """Let a script, which runs in a session of its own, be looked at by itself. Its slot is free."""
        booking = self._drop(run)
        slot, worker = lease.slot, self.slots[run.slot].worker if run.slot in self.slots else ""
        run.slot = slot
        self._hold_run(run)
        self.slots[slot] = Slot(worker, lease)
        queue, needs, _ = run.live.shelf
        gpus = self.room.book(slot, queue, needs, booking)
        self._keep_slot(slot, gpus)
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
        return booking.gpus if booking is not None else ()

    # --- ended ---

    def _count(self, live: Live, before: int, after: int) -> None:
        live.counts[before] -= 1
        live.counts[after] += 1
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
        before = _RUNNING
        if run.began is None:
            before = _PENDING
            if began is not None:
                self._note(run.job, run.attempt, RUNNING, began)
                run.began = began
                if run.live.began is None:
                    run.live.began = began
        self._serial += 1
        self.store.put("transitions", (run.job, self._serial, run.attempt, state, at, self.host, reason, *usage))
        used = json.dumps(run.used) if run.used else None
        self._finish(run.live, run.item, before, state, at)
        place = run.live.n_ended - 1
        row = (run.job, state, run.attempt, None, run.began, at, None, reason, used, place, *usage, note)
        self.store.put("jobs", row)
        kept = blob if blob and len(blob) <= LARGE else None
        self.store.put("ends", (pack(run.live.number, place), run.item, state, error, len(blob), kept))
        if not self._is_settling:
            self._settle()

    def _finish(self, live: Live, item: int, before: int, state: str, at: float) -> None:
        """Count a job that ended, and let others hear of it."""
        live.n_ended += 1
        self._count(live, before, PLACE[state])
        live.ended = at
        self.ended.add(live.number)
        if self._dependents or live.spec.cache is not None:
            self._settling.append((live, item, state))
        if not (live.counts[_PENDING] or live.counts[_RUNNING]):
            del self.lives[live.number]
            if live.spec.notify or live.spec.kind == "script":
                self.over.append(live.number)

    def _end_pending(self, live: Live, item: int, at: float, reason: str) -> None:
        """Cancel a pending job that was withdrawn already."""
        job = pack(live.number, item)
        attempt, used = live.tried.pop(item, _UNTRIED)
        self._note(job, attempt, CANCELLED, at, reason)
        self._finish(live, item, _PENDING, CANCELLED, at)
        place, kept = live.n_ended - 1, json.dumps(used) if used else None
        self.store.put("jobs", (job, CANCELLED, attempt, None, None, at, None, reason, kept, place, None, None, None))
        self.store.put("ends", (pack(live.number, place), item, CANCELLED, None, 0, None))

    def again(self, run: Run, at: float, reason: str, *, began: float | None = None) -> None:
        """Let a job whose attempt failed be tried again."""
        self._drop(run)
        if run.began is None and began is not None:
            self._note(run.job, run.attempt, RUNNING, began)
        elif run.began is not None:
            self._count(run.live, _RUNNING, _PENDING)
        self._note(run.job, run.attempt, PENDING, at, reason)
        self._put_back(run, run.attempt, reason)

    def take_back(self, run: Run, at: float, reason: str | None) -> None:
        """Let a job that its slot never began be given out again. The attempt does not count."""
        self._drop(run)
        if run.ending == "cancel":
            run.live.remember(run.item, run.attempt - 1, run.used)
            self._end_pending(run.live, run.item, at, run.reason or "cancelled")
            self._free_key(run.live, run.item)
            self._settle()
            return
        if reason is not None:
            self._note(run.job, run.attempt - 1, PENDING, at, reason)
        self._put_back(run, run.attempt - 1, None)

    def _put_back(self, run: Run, attempt: int, reason: str | None) -> None:
        live = run.live
        if attempt or run.used:
            live.remember(run.item, attempt, run.used)
        live.push(run.item)
        used = json.dumps(run.used) if run.used else None
        row = (run.job, PENDING, attempt, None, None, None, None, reason, used, None, None, None, None)
        self.store.put("jobs", row)
        self.dirty[live.number] = live
        self._free_key(live, run.item)
        self._shelve(live)

    # --- cancelled, and what follows from ends ---

    def cancel(self, live: Live, item: int | None, at: float, reason: str) -> int:
        """Cancel pending jobs of a submission, or one of them, and return how many; runs are the caller's."""
        if item is None:
            items = live.withdraw_all()
        else:
            items = [item] if live.is_pending(item) else []
            for one in items:
                live.withdraw(one)
        for one in items:
            self._end_pending(live, one, at, reason)
        if items and not self._is_settling:
            self._settle()
        return len(items)

    def ask_end(self, run: Run, how: str, reason: str) -> None:
        """Keep that a run is to end: a resource that restarts asks again."""
        run.ending, run.reason = how, reason[:_LONGEST_REASON]
        self._keep(run, RUNNING if run.began is not None else PENDING)

    def _free_key(self, live: Live, item: int) -> None:
        """Let the equal jobs of a run that ended go on."""
        key = live.spec.cache_key(item) if live.spec.cache is not None else None
        if key is None or self._keys.get(key) != pack(live.number, item):
            return
        del self._keys[key]
        for waiting, one in self._asides.pop(key, ()):
            if one in waiting.aside:
                waiting.aside.remove(one)
                waiting.push(one)
                self._shelve(waiting)

    def _settle(self) -> None:
        """Let jobs that waited for others begin, or cancel them. A chain of any length settles in this loop."""
        self._is_settling = True
        while self._settling:
            live, item, state = self._settling.popleft()
            if state not in ENDED:  # a new job, which waits for one that has failed before
                self.cancel(live, None if item < 0 else item, self.now(), state)
                continue
            self._free_key(live, item)
            ids = {live.id_of(item), JobId(live.number)}
            for id in ids & self._dependents.keys():
                is_met = state == FINISHED and (live.is_all_finished if id.item is None else True)
                if is_met or state != FINISHED:
                    for waiting, one in self._dependents.pop(id):
                        self._hear(waiting, one, id, is_met)
        self._is_settling = False

    def _hear(self, live: Live, item: int | None, id: JobId, is_met: bool) -> None:
        """Let a job, or all of a submission, hear that what it waits for has ended."""
        if not is_met:
            self.cancel(live, item, self.now(), f"dependency {id} failed")
        elif item is None:
            live.waits_for.discard(id)
            self._shelve(live)
        elif item in live.waits:
            live.waits[item].discard(id)
            if not live.waits[item]:
                del live.waits[item]
                live.push(item)
                self._shelve(live)

    def due(self, now: float) -> None:
        """Do what the clock asks for: jobs whose time has come begin, those whose lifetime is over are cancelled."""
        while self._timers and self._timers[0][0] <= now:
            _, number, what = heapq.heappop(self._timers)
            live = self.lives.get(number)
            if live is None:
                continue
            if what == "at":
                live.not_before = None
                self._shelve(live)
                continue
            for item in [one for one in live.pending() if one not in live.tried]:
                live.withdraw(item)
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
            import datetime

            at = datetime.datetime.fromtimestamp(min(live.not_before, 2.5e11)).astimezone()
            return f"waits until {at:%Y-%m-%d %H:%M:%S}"
        if item in live.aside:
            job = self._keys.get(live.spec.cache_key(item) or "")
            return "waits for an equal job" + (
                "" if job is None else f": {self.runs[job].id}" if job in self.runs else ""
            )
        queue, needs, _ = live.shelf
        if self._full(queue):
            return f"waits for queue {queue}: at most {self.limits[queue]} at once"
        if self._passed is not None and self._passed != live.number and self.room.why_not(needs) is None:
            return f"waits for a slot, or for {self._passed}, which needs more"
        return self.room.why_not(needs) or "waits for a slot"

    def wanted(self) -> int:
        """Return how many slots would have work now: those that have some, and those for which there is more."""
        n_busy = sum(1 for slot in self.runs_of if not slot.startswith("job-"))
        room = Room(self.room.capacity)
        room.available, room.cpus, room.memory = self.room.available, self.room.cpus, self.room.memory
        room.gpus, room.n_of_queue = set(self.room.gpus), dict(self.room.n_of_queue)
        n_more = 0
        for shelf in sorted(self._shelves, key=lambda one: self._shelves[one][0] if self._shelves[one] else (0, 0)):
            live = self._top(shelf)
            if live is None:
                continue
            queue, needs, kind = shelf
            n_ready = sum(self.lives[number].n_ready for _, number in self._shelves[shelf] if number in self.lives)
            batch = 1 if kind == "script" or live.spec.isolate else self.pace.batch(live.digest)
            most = -(-n_ready // batch)
            if (limit := self.limits.get(queue)) is not None:
                most = min(most, limit - room.n_of_queue.get(queue, 0))
            for _ in range(room.how_often(needs, min(most, _MOST_SLOTS - n_more))):
                room.book(f"wanted-{n_more}", queue, needs)
                n_more += 1
        return n_busy + n_more


def _order(id: JobId) -> tuple[int, int]:
    return id.number, -1 if id.item is None else id.item
