"""The memory guard at work: it watches what is left of the memory, and makes this owner's workers give way.

`guard_rules` decides what to do.
"""

from __future__ import annotations

import asyncio
import fcntl
import inspect
import os
import threading
import time
from dataclasses import replace
from pathlib import Path

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from . import guard_rules, memory, orphans, promise
from .cluster import is_own
from .ground import probe
from .log import say, warn
from .memory import MACHINE

PERIOD = 0.2  # seconds: a hog that grows by 200 MB/s takes 40 MB meanwhile
BASELINE_SECONDS = 10.0  # between two looks at which user has how much, while all is calm
BASELINE_PART = 1 / 500  # of the time, at most, for these looks; one takes 12 us for each process of the machine
PRESSURE_SECONDS = 1.0  # between two looks at the pressure, which the kernel averages over ten seconds
REFUSED_SECONDS = 0.5  # until the guard asks again whether it may restart a worker
RESTART_WAITS = 0.15  # seconds that a busy event loop has to end a worker itself
LONGEST_TURN = 2.0  # seconds: a guard that has its turn for longer hangs
DONE = {
    guard_rules.CALM: "workers go on",
    guard_rules.SPILL: "workers spill results to disk",
    guard_rules.PAUSE: "workers are paused: what runs goes on, nothing further starts",
    guard_rules.RESTART: "workers are paused, and restarted while this is more than a fair share",
}


class Newcomers(SchedulerPlugin):
    """Tells a worker that joins during a shortage, before a task is sent to it."""

    name = "ports-guard"

    def __init__(self, guard):
        self.guard = guard

    def add_worker(self, scheduler, worker):
        """Pause a new worker if all others are paused."""
        self.guard.tell_one(scheduler.workers[worker])


class Turn:
    """Lets one of a user's clusters at a time end workers: the next one first sees what this one has given back.

    It is a lock on `path`, a local file. Where `path` cannot be made, no cluster waits for its turn.
    """

    def __init__(self, path):
        self.path, self.descriptor, self.refused = path, None, (float("-inf"), float("-inf"))

    def take(self, now):
        """Say whether it is this cluster's turn at the moment `now`; if so, it is until `leave`."""
        if self.descriptor is not None:
            return True
        try:
            flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
            self.descriptor = os.open(self.path, flags, 0o600)
        except OSError:
            return True
        try:
            fcntl.flock(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self.descriptor)
            self.descriptor = None
            first, last = self.refused
            self.refused = (first if now - last < LONGEST_TURN else now, now)
            return now - self.refused[0] >= LONGEST_TURN
        return True

    def leave(self):
        """Let another cluster have its turn."""
        if self.descriptor is not None:
            fcntl.flock(self.descriptor, fcntl.LOCK_UN)  # a process that was forked meanwhile has it, too
            os.close(self.descriptor)
            self.descriptor = None


class MemoryGuard(threading.Thread):
    """Watches the memory that is left, and makes this owner's workers give way; never another user's process.

    Workers that joined from elsewhere are left alone: the memory of their machine is another one's, with a guard of its
    own, and a plain Dask worker does not understand what it would be told.

    It is a thread, because the event loop of a busy scheduler can be seconds late.
    """

    def __init__(self, cluster, record, meter):
        super().__init__(name="memory guard", daemon=True)
        self.cluster, self.meter = cluster, meter
        self.loop = asyncio.get_running_loop()
        self.mode = guard_rules.MODES[record.guard]
        self.marks = {"share": record.guard_mark, "pressure": record.guard_pressure, "most": self.mode}
        self.state = guard_rules.State()
        self.over = threading.Event()
        self.told, self.shown, self.restarts = {}, None, 0
        self.pressure, self.pressed_at = 0.0, float("-inf")
        self.before = {}
        self.turn = Turn(Path(record.dashboard).with_name("memory-guard.lock"))
        self.next_try = self.next_baseline = float("-inf")
        cluster.scheduler.add_plugin(Newcomers(self), name=Newcomers.name)

    def run(self):
        """Look every `PERIOD` seconds until the cluster ends."""
        while not self.over.wait(PERIOD):
            try:
                self.look(time.monotonic())
            except Exception as error:  # noqa: BLE001 - a guard that dies protects nobody
                warn(f"guard: {type(error).__name__}: {error}")
                self.over.wait(10)

    def look(self, now):
        """Take one look, and do what follows from it."""
        if now >= self.next_baseline and self.state.level == guard_rules.CALM:
            self.meter.refresh()
            self.before = self.users()
            self.next_baseline = now + max(BASELINE_SECONDS, (time.monotonic() - now) / BASELINE_PART)
        if now - self.pressed_at >= PRESSURE_SECONDS:
            self.pressure, self.pressed_at = self.meter.pressure(), now
        sample = guard_rules.Sample(now, self.meter.domains(), self.pressure)
        level = self.state.level
        self.state = guard_rules.step(self.state, sample, **self.marks)
        if self.state.level or self.told:
            self.loop.call_soon_threadsafe(self.tell)
        self.restart(now)  # before the report, which can take long on a busy machine
        if self.state.level != level:
            self.report(f"{self.cause(self.state.level > level)}: {DONE[self.state.level]}")

    def users(self, domain=MACHINE):
        """Return the bytes of each uid's processes in `domain`; those of all hidden users under `HIDDEN`."""
        seen = self.meter.by_user(domain)
        if self.meter.sees_everybody():
            return seen
        return {**seen, guard_rules.HIDDEN: max(0, self.meter.used(domain) - sum(seen.values()))}

    def cause(self, is_worse):
        """Return what is left, and which user took it."""
        where = self.state.where
        name = where.name if where.name == MACHINE else f"control group {where.name.rpartition('/')[2]}"
        left = f"{probe.size(where.available)} of {probe.size(where.total)} of {name} are available"
        if not is_worse:
            return f"{left} again"
        left += guard_rules.why_worse(self.state, self.marks["share"], self.marks["pressure"])
        grown = guard_rules.grower(self.before, self.users())
        if grown is None or grown[1] < where.total * guard_rules.ACTIVE_SHARE:
            return left
        name = "others (hidden here)" if grown[0] == guard_rules.HIDDEN else probe.user_name(grown[0])
        return f"{left}, {name} grew most, by {probe.size(grown[1])}"

    def report(self, text):
        """Log a step, and keep it for `ports cluster list`."""
        say(f"guard: {text}")
        level = guard_rules.LEVELS[self.state.level]
        self.shown = {"level": level, "since": time.time(), "reason": text, "restarts": self.restarts}
        event = dict(self.shown)
        self.loop.call_soon_threadsafe(lambda: self.cluster.scheduler.log_event("ports-guard", event))

    def tell(self):
        """Send each worker the level if it does not know it yet; on the event loop."""
        workers = list(self.cluster.scheduler.workers.values())
        for worker in workers:
            self.tell_one(worker)
        there = {(worker.address, worker.server_id) for worker in workers}
        self.told = {key: told for key, told in self.told.items() if told and key in there}

    def tell_one(self, worker):
        """Send a worker of this owner the level. One that should pause gets no task from now on, before it answers."""
        if not is_own(self.cluster, worker.name):
            return
        scheduler, level, key = self.cluster.scheduler, self.state.level, (worker.address, worker.server_id)
        if self.told.get(key, guard_rules.CALM) != level and worker.address in scheduler.stream_comms:
            scheduler.stream_comms[worker.address].send({"op": "ports-guard", "level": level})
            self.told[key] = level
            if level >= guard_rules.PAUSE and worker.status == Status.running:
                scheduler.handle_worker_status_change("paused", worker, f"ports-guard-{time.time()}")

    def restart(self, now):
        """End workers if that is due, and if it is this cluster's turn among those of its user."""
        restarted_at = self.state.restarted_at
        if restarted_at is None or now - restarted_at >= guard_rules.BETWEEN_RESTARTS:
            self.turn.leave()  # not before: the others must see what came back
        if not guard_rules.may_restart(self.state, now, self.marks["share"]) or now < self.next_try:
            return
        if self.turn.take(now):
            self.next_try = now + REFUSED_SECONDS
            try:
                self.restart_largest(now)
            finally:
                if self.state.restarted_at != now:  # nothing was restarted
                    self.turn.leave()

    def restart_largest(self, now):
        """End the largest workers, as many as it takes, while the user has more than a fair share; they start again."""
        where, me = self.state.where, os.getuid()
        users = self.users(where.name)
        mine = users.get(me, 0)
        is_hidden = where.name == MACHINE and guard_rules.HIDDEN in users
        n_users = guard_rules.active(people(users), me, where.total, promise.others() if is_hidden else 0)
        share = guard_rules.fair_share(where.available, mine, n_users)
        nannies = {nanny.name: nanny for nanny in list(self.cluster.workers.values()) if getattr(nanny, "pid", None)}
        sizes = {name: weight(nanny.pid) for name, nanny in nannies.items()}
        names = guard_rules.to_restart(
            sizes,
            need=guard_rules.missing(self.state, self.marks["share"]),
            mine=mine,
            available=where.available,
            n_users=n_users,
        )
        if not names:
            return
        self.state, self.next_try = replace(self.state, restarted_at=now, samples=()), now
        self.restarts += len(names)
        ended = threading.Event()
        self.loop.call_soon_threadsafe(self.end, [nannies[name] for name in names], ended)
        if not ended.wait(RESTART_WAITS):
            for name in names:
                kill_worker(nannies[name])
        which = ", ".join(f"worker {name} with {probe.size(sizes[name])}" for name in names)
        self.report(
            f"{self.cause(True)}: {which} restarted, "
            f"because {probe.user_name(me)} had {probe.size(mine)} and a fair share is {probe.size(share)}"
        )

    def end(self, nannies, ended):
        """End workers and blame no task for it; on the event loop."""
        addresses = [nanny.worker_address for nanny in nannies]
        for nanny in nannies:
            kill_worker(nanny)
        ended.set()
        scheduler = self.cluster.scheduler
        takes = inspect.signature(scheduler.remove_worker).parameters
        blameless = {"expected" if "expected" in takes else "safe": True}  # the older name
        for address in addresses:
            if address in scheduler.workers:
                gone = scheduler.remove_worker(
                    address, stimulus_id=f"ports-guard-{time.time()}", close=False, **blameless
                )
                self.loop.create_task(gone).add_done_callback(lambda done: done.cancelled() or done.exception())


def people(users):
    """Return those of `users` that are people or hidden, without root and services."""
    is_person = probe.is_person
    return {uid: used for uid, used in users.items() if uid == guard_rules.HIDDEN or is_person(uid)}


def weight(pid):
    """Return the bytes of a worker with what its tasks started."""
    return sum(memory.anonymous(one) for one in (pid, *probe.processes.descendants(pid)))


def kill_worker(nanny):
    """Kill a worker and what its tasks started; its nanny starts another one."""
    pid = nanny.pid
    for one in [pid, *probe.processes.descendants(pid)] if pid else ():
        orphans.kill_and_free(one)
