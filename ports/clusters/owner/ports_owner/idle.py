"""A cluster that nobody uses: scaled to zero, woken by the next task, and ended after days.

What is due is decided in `idle_rules`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import inspect
import os
import time
from multiprocessing import forkserver

from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from . import guard_rules, idle_rules, orphans
from .ground import probe
from .keep_results import Kept
from .log import hours, say

REAP_SECONDS = 5.0
SPILL_SECONDS = 30.0  # without anything further on the disk, until workers are told to write no more
BACK_SECONDS = 60.0  # that a request waits for workers to come back
QUESTION_SECONDS = 5.0  # a function on workers that takes longer is work: `ports.client()` asks them something itself
PUT_OFF_SECONDS = 3600.0  # at most, until results that could not be kept are tried again


class Wakes(SchedulerPlugin):
    """Has workers come back when a task or a client comes."""

    name = "ports-idle"

    def __init__(self, rest):
        self.rest = rest

    def update_graph(self, scheduler, **_):
        """Wake at a task, and begin to count anew."""
        self.rest.note_task()
        self.rest.wake("a task")

    def add_client(self, scheduler, client):
        """Wake for a client that connects, which may count the workers first."""
        self.rest.wake("a client")


class Rest:
    """Scales a cluster that nobody uses to zero, brings its workers back, and ends it after days."""

    def __init__(self, cluster, record, directory, ended, guard):
        self.cluster, self.directory, self.ended, self.guard = cluster, directory, ended, guard
        self.kept = Kept(cluster, record, directory)
        self.limits = idle_rules.Limits(record.idle * idle_rules.HOUR, record.expire * idle_rules.DAY)
        self.asleep = self.waking = self.turn = 0  # workers there were; a turn ends when somebody says another number
        self.woken, self.spilling, self.giving = None, None, asyncio.Lock()
        self.counter, self.calls, self.uses = -1, {}, {}
        self.busy_at = self.task_at = time.monotonic()  # who connects is a use, and no task
        self.last_task, self.try_at = time.time(), float("-inf")
        self.spilled = self.noticed = False
        self.identity = cluster.scheduler.handlers["identity"]
        cluster.scheduler.handlers.update(identity=self.identity_awake, ports_wake=self.wake)
        self.serve_awake("scatter", "data", is_task=True, by_one=True)
        self.serve_awake("update_data", "data", is_task=True, by_one=True)  # which a client sent to workers itself
        self.serve_awake("ncores_running", "somebody who looks for workers", by_one=True)
        self.serve_awake("ncores", "somebody who counts workers")
        self.serve_awake("broadcast", "a function for workers")
        cluster.scheduler.add_plugin(Wakes(self), name=Wakes.name)

    async def run(self):
        """Look again and again until the cluster ends."""
        reaped = 0.0
        while True:
            await asyncio.sleep(self.limits.look_every)
            try:
                await self.look(time.monotonic())
                if time.monotonic() - reaped > REAP_SECONDS:
                    reaped = time.monotonic()
                    orphans.reap()
            except Exception as error:  # noqa: BLE001 - a policy that fails once shall look again
                say(f"idle: {type(error).__name__}: {error}")

    async def look(self, now):
        """Take one look, and do what is due."""
        if self.has_tasks(now):
            self.note_task()
        elif self.waking or self.uses:
            self.busy_at = now
        scheduler = self.cluster.scheduler
        quiet, taskless = now - self.busy_at, now - self.task_at
        if not idle_rules.may_be_due(quiet, taskless, self.limits):
            return
        held = idle_rules.holds_results(task.state for task in scheduler.tasks.values())
        workers = bool(self.cluster.worker_spec)
        action = idle_rules.due(
            idle_rules.Seen(quiet, taskless, held, workers, self.spilled, self.noticed), self.limits
        )
        if action is not None:
            await getattr(self, action)()

    def note_task(self):
        """Begin to count anew: there is a task."""
        self.busy_at = self.task_at = time.monotonic()
        self.last_task = time.time()
        self.spilled = self.noticed = False

    def has_tasks(self, now):
        """Say whether there are tasks, or were since the last call; a call of an actor is one."""
        scheduler = self.cluster.scheduler
        calls = {address: worker.metrics.get("ports_actors", (0, 0)) for address, worker in scheduler.workers.items()}
        called = any(n > self.calls.get(address, (0, 0))[0] or running for address, (n, running) in calls.items())
        changed = scheduler.transition_counter != self.counter
        self.counter, self.calls = scheduler.transition_counter, calls
        working = any(now - began > QUESTION_SECONDS for began in self.uses.values())
        waiting = scheduler.unrunnable or getattr(scheduler, "queued", ())
        if called or changed or working or waiting or getattr(scheduler, "_active_graph_updates", 0):
            return True
        return any(worker.processing for worker in scheduler.workers.values())

    async def sleep(self):
        """Scale to zero; the memory goes back, that of the fork server too."""
        self.turn += 1
        self.asleep = len(self.cluster.worker_spec)
        say(f"idle: no task for {hours(self.limits.idle)}: {self.asleep} workers end, and come back at the first task")
        self.cluster.scale(0)
        await self.cluster
        if self.asleep:
            await self.give_back()

    async def give_back(self):
        """Return memory, without a worker that starts meanwhile from the fork server that ends."""
        async with self.giving:
            if not self.cluster.worker_spec:
                await asyncio.get_running_loop().run_in_executor(None, give_memory_back)

    def identity_awake(self, **kwargs):
        """Tell what the scheduler is; who asks for all workers by number waits for them."""
        if kwargs.get("n_workers") == -1:
            self.wake("somebody who counts workers")
        return self.identity(**kwargs)

    def wake(self, why="somebody who waits for workers"):
        """Bring the workers back."""
        if self.asleep:
            say(f"idle: {why} came, {self.asleep} workers start")
            self.waking, self.asleep = self.asleep, 0
            self.busy_at = time.monotonic()
            self.turn += 1
            self.woken = asyncio.get_running_loop().create_task(self.come_back(self.waking, self.turn))

    def count_anew(self):
        """Forget those that would come back: somebody says how many there shall be, and that is a use."""
        self.asleep = self.waking = 0
        self.turn += 1
        self.busy_at = time.monotonic()

    async def come_back(self, n_workers, turn):
        """Have the workers back; where some fail to start, again and again until somebody says another number."""
        pause = 1.0
        self.cluster._i = 0  # of Dask, which numbers workers from here: they get their names back
        while self.turn == turn:
            try:
                await self.start_workers(n_workers, turn)
                return
            except Exception as error:  # noqa: BLE001 - whatever keeps a worker from starting may pass
                say(f"idle: workers do not come back: {type(error).__name__}: {error}; again in {pause:g} seconds")
            finally:
                if self.turn == turn:
                    self.waking = 0
            await asyncio.sleep(pause)
            pause = min(60.0, 2 * pause)

    async def start_workers(self, n_workers, turn):
        """Start as many workers as there are cores, then the others: all at once would all be there late."""
        for number in (min(n_workers, os.cpu_count() or 1), n_workers):
            async with self.giving:
                if self.turn != turn:
                    return
                for name, worker in list(self.cluster.workers.items()):
                    if worker.status in (Status.failed, Status.closed):
                        del self.cluster.workers[name]  # Dask would take it for one that is there
                self.cluster.scale(max(number, len(self.cluster.worker_spec)))
            await self.cluster

    def serve_awake(self, name, what, *, is_task=False, by_one=False):
        """Have the workers back before the scheduler answers the request `name`, or one of them where that is enough.

        Nothing is idle while a request is answered.
        """
        handler = self.cluster.scheduler.handlers.get(name)
        if handler is None:
            return  # another version of Dask

        async def answer(**kwargs):
            use = object()
            self.uses[use] = time.monotonic()
            if is_task:
                self.note_task()
            try:
                self.wake(what)
                await self.wait_for_workers(by_one)
                found = handler(**kwargs)
                return await found if inspect.isawaitable(found) else found
            finally:
                del self.uses[use]
                self.busy_at = time.monotonic()

        self.cluster.scheduler.handlers[name] = answer

    async def wait_for_workers(self, by_one):
        """Wait for workers that are on their way."""
        until = time.monotonic() + BACK_SECONDS
        while self.waking and time.monotonic() < until and not (by_one and self.cluster.scheduler.running):
            await asyncio.sleep(0.05)

    async def spill(self):
        """Send held results to the disk; they stay usable."""
        self.spilled = True
        names = self.held()
        what = f"{idle_rules.results(len(names))} held, so workers stay: {idle_rules.some(names)}"
        say(f"idle: no task for {hours(self.limits.idle)}: {what}")
        self.spilling = asyncio.get_running_loop().create_task(self.write_to_disk(self.task_at))

    async def write_to_disk(self, since):
        """Have workers write what they hold, for as long as it gets less and no task comes; then say what is where."""
        left, until = float("inf"), time.monotonic() + SPILL_SECONDS
        self.send(guard_rules.SPILL)
        while left and self.task_at == since and time.monotonic() < until:
            await asyncio.sleep(1.0)
            written, now = self.where_results_are()
            if now < left:
                left, until = now, time.monotonic() + SPILL_SECONDS
            if not any(worker.memory_limit for worker in self.cluster.scheduler.workers.values()):
                break  # these have no disk to write to
        self.send(guard_rules.CALM)
        if self.task_at == since:
            written, left = self.where_results_are()
            on_disk = f"{probe.size(written)} are on the disk, {probe.size(left)} in memory"
            say("idle: of what is held, " + (on_disk if written else f"{probe.size(left)} stay in memory"))

    def where_results_are(self):
        """Return the bytes of results that workers have on the disk, and in memory."""
        workers = self.cluster.scheduler.workers.values()
        written = [(worker.metrics.get("spilled_bytes") or {}).get("memory", 0) for worker in workers]
        in_memory = [max(0, worker.nbytes - n_bytes) for worker, n_bytes in zip(workers, written, strict=True)]
        return sum(written), sum(in_memory)

    def send(self, level):
        """Tell all workers a level of the guard, unless it has one of its own to tell."""
        scheduler = self.cluster.scheduler
        if not self.guard.state.level:
            for address in list(scheduler.workers):
                scheduler.stream_comms[address].send({"op": "ports-guard", "level": level})

    async def notice(self):
        """Say that the end is near."""
        self.noticed = True
        held = self.held()
        also = f"; {idle_rules.results(len(held))} held: {idle_rules.some(held)}" if held else ""
        say(f"idle: this cluster ends {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.ends_at()))}{also}")

    async def expire(self):
        """Keep what is held in files, name it, and end the cluster, unless a task comes meanwhile."""
        last, now = self.task_at, time.monotonic()
        if self.ended.done() or now < self.try_at:
            return
        try:
            kept = await self.kept.keep()
        except Exception as error:  # noqa: BLE001 - what is held is not given up for a reason that may pass
            self.kept.drop()
            pause = min(PUT_OFF_SECONDS, self.limits.expire / 20)
            self.try_at = now + pause
            say(f"idle: results cannot be kept: {type(error).__name__}: {error}; again in {hours(pause)}")
            return
        if self.has_tasks(time.monotonic()) or self.task_at != last:
            self.kept.drop()
            self.note_task()
            say("idle: a task came while results were kept: the cluster goes on")
            return
        why = f"no task came for {hours(self.limits.expire)}: it expired" + (f"; {kept}" if kept else "")
        with contextlib.suppress(OSError):
            (self.directory / "why").write_text(why)
        say(f"idle: {why}")
        if not self.ended.done():
            self.ended.set_result("stop")

    def held(self):
        """Return the keys of results on workers."""
        return [str(task.key) for task in self.cluster.scheduler.tasks.values() if task.state == "memory"]

    def ends_at(self):
        """Return when the cluster will expire, seconds since the epoch; None: never."""
        if not self.limits.expire:
            return None
        # anew each time: the clock on the wall may be set, and this one stands still while the machine sleeps
        return time.time() + self.limits.expire - (time.monotonic() - self.task_at)

    def summary(self):
        """Return what is shown of it."""
        return {
            "asleep": self.asleep or None,
            "last_task": self.last_task,
            "ends_at": self.ends_at() if self.noticed else None,
        }


def give_memory_back():
    """End the fork server, which comes back with the next worker, and return what is free to the system."""
    stop = getattr(forkserver._forkserver, "_stop", None)
    with contextlib.suppress(OSError):
        if stop is not None:
            stop()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
