"""A cluster that nobody uses: scaled to zero, woken by the next task, and ended after days.

What is due is decided in `ports_idle`.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import os
import time
from dataclasses import replace
from multiprocessing import forkserver
from pathlib import Path

import ports_guard
import ports_idle
import ports_orphans
from distributed.diagnostics.plugin import SchedulerPlugin
from ports_log import hours, say

REAP_SECONDS = 5.0
SPILL_SECONDS = 30.0  # that workers have for sending held results to the disk


class Wakes(SchedulerPlugin):
    """Has workers come back when a task or a client comes."""

    name = "ports-idle"

    def __init__(self, rest):
        self.rest = rest

    def update_graph(self, scheduler, **_):
        """Wake at a task, and begin to count anew."""
        self.rest.note_task(time.monotonic())
        self.rest.wake("a task")

    def add_client(self, scheduler, client):
        """Wake for a client that connects, which may count the workers first."""
        self.rest.wake("a client")


class Rest:
    """Scales a cluster that nobody uses to zero, brings its workers back, and ends it after days."""

    def __init__(self, cluster, record, directory, ended, guard):
        self.cluster, self.directory, self.ended, self.guard = cluster, directory, ended, guard
        self.scratch = Path(record["scratch"])
        self.limits = ports_idle.Limits(record["idle"] * ports_idle.HOUR, record["expire"] * ports_idle.DAY)
        self.asleep = self.waking = 0  # workers there were
        self.woken, self.giving = None, asyncio.Lock()
        self.counter, self.busy_at, self.last_task = -1, time.monotonic(), time.time()
        self.spilled = self.noticed = False
        self.scatter = cluster.scheduler.handlers["scatter"]
        cluster.scheduler.handlers["scatter"] = self.scatter_awake
        self.identity = cluster.scheduler.handlers["identity"]
        cluster.scheduler.handlers.update(identity=self.identity_awake, ports_wake=self.wake)
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
                    ports_orphans.reap()
            except Exception as error:  # noqa: BLE001 - a policy that fails once shall look again
                say(f"idle: {type(error).__name__}: {error}")

    async def look(self, now):
        """Take one look, and do what is due."""
        scheduler = self.cluster.scheduler
        if self.is_busy():
            self.counter = scheduler.transition_counter
            self.note_task(now)
        quiet = now - self.busy_at
        first = min([limit for limit in (self.limits.idle, self.limits.expire / 2) if limit], default=0)
        if not first or quiet < first:
            return
        held = ports_idle.holds_results(task.state for task in scheduler.tasks.values())
        seen = ports_idle.Seen(quiet, held, bool(self.cluster.worker_spec), self.spilled, self.noticed)
        action = ports_idle.due(seen, self.limits)
        if action is not None:
            await getattr(self, action)()

    def note_task(self, now):
        """Begin to count anew: there is a task."""
        self.busy_at, self.last_task = now, time.time()
        self.spilled = self.noticed = False

    def is_busy(self):
        """Say whether there are tasks, or were since the last look."""
        scheduler = self.cluster.scheduler
        updating = getattr(scheduler, "_active_graph_updates", 0)
        if scheduler.transition_counter != self.counter or updating or self.waking:
            return True
        waiting = scheduler.unrunnable or getattr(scheduler, "queued", ())
        return bool(waiting) or any(worker.processing for worker in scheduler.workers.values())

    async def sleep(self):
        """Scale to zero; the memory goes back, that of the fork server too."""
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
            self.woken = asyncio.get_running_loop().create_task(self.come_back(self.waking))

    async def come_back(self, n_workers):
        """Start as many workers as there are cores, then the others: all at once would all be there late."""
        async with self.giving:
            self.cluster.scale(min(n_workers, os.cpu_count() or 1))
        await self.cluster
        if self.waking == n_workers:  # nobody has said another number since
            self.cluster.scale(n_workers)
            await self.cluster
            self.waking = 0

    async def scatter_awake(self, *args, **kwargs):
        """Take data once there is a worker for it."""
        if self.asleep:
            self.wake("data")
            for _ in range(200):
                if self.cluster.scheduler.running:
                    break
                await asyncio.sleep(0.05)
        return await self.scatter(*args, **kwargs)

    async def spill(self):
        """Send held results to the disk; they stay usable."""
        self.spilled = True
        names = self.held()
        held = f"{len(names)} results are held and spilled: {ports_idle.some(names)}"
        say(f"idle: no task for {hours(self.limits.idle)}: {held}")
        self.send(ports_guard.SPILL)
        asyncio.get_running_loop().call_later(SPILL_SECONDS, self.send, ports_guard.CALM)

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
        also = f"; {len(held)} results are held: {ports_idle.some(held)}" if held else ""
        say(f"idle: this cluster ends {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.ends_at()))}{also}")

    async def expire(self):
        """Keep what is held in files, name it, and end the cluster."""
        why = f"no task came for {hours(self.limits.expire)}: it expired"
        self.limits = replace(self.limits, idle=0, expire=0)
        await self.keep()
        with contextlib.suppress(OSError):
            (self.directory / "why").write_text(why)
        say(f"idle: {why}")
        if not self.ended.done():
            self.ended.set_result("stop")

    async def keep(self):
        """Pickle what is held to files that stay until the cluster is removed, and name each in the log."""
        names = self.held()
        if not names:
            return
        place = self.scratch / "held"
        place.mkdir(mode=0o700, exist_ok=True)
        tasks = [task for task in self.cluster.scheduler.tasks.values() if task.state == "memory"]
        files = {task.key: ports_idle.file_name(str(task.key), number) for number, task in enumerate(tasks)}
        for task in tasks:
            address = next(iter(task.who_has)).address
            message = {"op": "ports_keep", "directory": str(place), "keys": {task.key: files[task.key]}}
            answers = await self.cluster.scheduler.broadcast(msg=message, workers=[address], on_error="return")
            answer = answers.get(address)
            kept = answer.get(task.key) if isinstance(answer, dict) else f"not kept: {answer}"
            say(f"idle: held result {task.key}: {kept}")
        say(f"idle: held results are in {place} until the cluster is started anew or removed; pickle.load reads them")

    def held(self):
        """Return the keys of results on workers."""
        return [str(task.key) for task in self.cluster.scheduler.tasks.values() if task.state == "memory"]

    def ends_at(self):
        """Return when the cluster will expire, seconds since the epoch; None: never."""
        return self.last_task + self.limits.expire if self.limits.expire else None

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
