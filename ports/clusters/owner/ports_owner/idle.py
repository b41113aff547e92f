"""A cluster that nobody uses: its workers end, come back at the next task, and the cluster ends after days.

`idle_rules` decides what is due. A cluster whose workers have ended is asleep.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import gc
import inspect
import os
import time
from collections.abc import Awaitable, Callable
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from distributed import Scheduler
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin

from . import guard_rules, idle_rules, orphans
from .cluster import OwnedCluster, is_own
from .ground import probe
from .guard import MemoryGuard
from .keep_results import KeptResults
from .log import hours, say, warn
from .record import Record

REAP_SECONDS = 5.0
SPILL_SECONDS = 30.0  # without progress, until workers stop writing to the disk
BACK_SECONDS = 60.0  # at most that a request waits for workers to come back
QUESTION_SECONDS = 5.0  # a function on workers that takes longer is a use; `ports.client()` runs a short one itself
PUT_OFF_SECONDS = 3600.0  # at most, until results that could not be kept are written again


class WakeUp(SchedulerPlugin):
    """Wakes a sleeping cluster when a task or a client comes."""

    name = "ports-idle"

    def __init__(self, idle: IdlePolicy) -> None:
        self.idle = idle

    def update_graph(self, scheduler: Scheduler, **_: Any) -> None:
        """Wake for a task, which is a use."""
        self.idle.note_task()
        self.idle.wake("a task")

    def add_client(self, scheduler: Scheduler, client: str) -> None:
        """Wake for a client that connects, which may count the workers first."""
        self.idle.wake("a client")


class IdlePolicy:
    """Ends the workers of a cluster that nobody uses, brings them back, and ends the cluster after days."""

    def __init__(
        self, cluster: OwnedCluster, record: Record, directory: Path, ended: asyncio.Future[str], guard: MemoryGuard
    ) -> None:
        self.cluster, self.directory, self.ended, self.guard = cluster, directory, ended, guard
        self.kept = KeptResults(cluster, record, directory)
        limits = record.idle * idle_rules.HOUR, record.expire * idle_rules.DAY, record.lend_after * 60.0
        self.limits = idle_rules.Limits(*limits)
        self.asleep = self.waking = self.turn = 0  # numbers of workers; a turn ends when a user sets another number
        self.woken: asyncio.Task[None] | None = None
        self.spilling: asyncio.Task[None] | None = None
        self.scaling = asyncio.Lock()
        self.fit: Callable[[int], Awaitable[None]] | None = None  # lets workers that come back fit in what is free
        self.counter = -1
        self.calls: dict[str, tuple[int, int]] = {}
        self.uses: dict[object, float] = {}
        self.busy_at = self.task_at = time.monotonic()  # a client that connects is a use, but no task
        self.last_task, self.try_at = time.time(), float("-inf")
        self.spilled = self.noticed = False
        self.identity = cluster.scheduler.handlers["identity"]
        cluster.scheduler.handlers.update(identity=self.identity_awake, ports_wake=self.wake)
        self.serve_awake("scatter", "data", is_task=True, by_one=True)
        self.serve_awake("update_data", "data", is_task=True, by_one=True)  # a client sent it to workers itself
        self.serve_awake("ncores_running", "somebody who looks for workers", by_one=True)
        self.serve_awake("ncores", "somebody who counts workers")
        self.serve_awake("broadcast", "a function for workers")
        cluster.scheduler.add_plugin(WakeUp(self), name=WakeUp.name)

    async def run(self) -> None:
        """Look at intervals until the cluster ends."""
        reaped = 0.0
        while True:
            await asyncio.sleep(self.limits.look_every)
            try:
                await self.look(time.monotonic())
                if time.monotonic() - reaped > REAP_SECONDS:
                    reaped = time.monotonic()
                    orphans.reap()
            except Exception as error:  # noqa: BLE001 - a policy that fails once must look again
                warn(f"idle: {type(error).__name__}: {error}")

    async def look(self, now: float) -> None:
        """Look once, and do what is due."""
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

    def note_task(self) -> None:
        """Count the idle time from now on: there is a task."""
        self.busy_at = self.task_at = time.monotonic()
        self.last_task = time.time()
        self.spilled = self.noticed = False

    def has_tasks(self, now: float) -> bool:
        """Say whether there are tasks, or were since the last call. A call of an actor counts as one."""
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

    async def sleep(self) -> None:
        """End all workers and the fork server, which gives their memory back."""
        self.turn += 1
        self.asleep = len(self.cluster.worker_spec)
        say(f"idle: no task for {hours(self.limits.idle)}: {self.asleep} workers end, and come back at the first task")
        self.cluster.scale(0)
        await self.cluster
        if self.asleep:
            await self.give_memory_back()

    async def give_memory_back(self) -> None:
        """End the fork server where there are no workers; none can start from it meanwhile."""
        async with self.scaling:
            if not self.cluster.worker_spec:
                await asyncio.get_running_loop().run_in_executor(None, end_fork_server)

    def identity_awake(self, **kwargs: Any) -> Any:
        """Answer as the scheduler does; a client that asks for all workers wakes them."""
        if kwargs.get("n_workers") == -1:
            self.wake("somebody who counts workers")
        return self.identity(**kwargs)

    def wake(self, why: str = "somebody who waits for workers") -> None:
        """Bring the workers back; nothing where the cluster is awake."""
        if self.asleep:
            say(f"idle: {why} came, {self.asleep} workers start")
            self.waking, self.asleep = self.asleep, 0
            self.busy_at = time.monotonic()
            self.turn += 1
            self.woken = asyncio.get_running_loop().create_task(self.come_back(self.waking, self.turn))

    def forget_sleepers(self) -> None:
        """Let no worker come back: a user is about to set their number, which is a use."""
        self.asleep = self.waking = 0
        self.turn += 1
        self.busy_at = time.monotonic()

    async def come_back(self, n_workers: int, turn: int) -> None:
        """Start the workers again. Where some fail, try again until they run or a user sets another number."""
        pause = 1.0
        if hasattr(self.cluster, "_i"):
            self.cluster._i = 0  # of SpecCluster, which numbers workers from here: they get their names back
        while self.turn == turn:
            try:
                if self.fit is not None:
                    await self.fit(n_workers)
                await self.start_workers(n_workers, turn)
                return
            except Exception as error:  # noqa: BLE001 - whatever keeps a worker from starting may pass
                warn(f"idle: workers do not come back: {type(error).__name__}: {error}; again in {pause:g} seconds")
            finally:
                if self.turn == turn:
                    self.waking, self.busy_at = 0, time.monotonic()  # `look` can have waited as long as this
            await asyncio.sleep(pause)
            pause = min(60.0, 2 * pause)

    async def start_workers(self, n_workers: int, turn: int) -> None:
        """Start as many workers as there are cores, then the others: started at once, all would be late."""
        for number in (min(n_workers, os.cpu_count() or 1), n_workers):
            async with self.scaling:
                if self.turn != turn:
                    return
                for name, worker in list(self.cluster.workers.items()):
                    if worker.status in (Status.failed, Status.closed):
                        del self.cluster.workers[name]  # Dask would count it as one that runs
                self.cluster.scale(max(number, len(self.cluster.worker_spec)))
            await self.cluster

    def serve_awake(self, name: str, what: str, *, is_task: bool = False, by_one: bool = False) -> None:
        """Wake the workers before the scheduler answers the request `name`; with `by_one`, one of them is enough.

        The cluster is not idle while the request is answered.
        """
        handler = self.cluster.scheduler.handlers.get(name)
        if handler is None:
            return  # another version of Dask

        async def answer(**kwargs: Any) -> Any:
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

    async def wait_for_workers(self, by_one: bool) -> None:
        """Wait for workers that are starting."""
        until = time.monotonic() + BACK_SECONDS
        while self.waking and time.monotonic() < until and not (by_one and self.cluster.scheduler.running):
            await asyncio.sleep(0.05)

    async def spill(self) -> None:
        """Write held results to the disk, where they stay usable."""
        self.spilled = True
        names = self.held()
        what = f"{idle_rules.results(len(names))} held, so workers stay: {idle_rules.some(names)}"
        say(f"idle: no task for {hours(self.limits.idle)}: {what}")
        self.spilling = asyncio.get_running_loop().create_task(self.write_to_disk(self.task_at))

    async def write_to_disk(self, since: float) -> None:
        """Let workers spill what they hold until nothing is left, none makes progress, or a task comes; log the end."""
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

    def where_results_are(self) -> tuple[int, int]:
        """Return the bytes of results that workers hold on the disk, and in memory."""
        workers = self.cluster.scheduler.workers.values()
        written = [(worker.metrics.get("spilled_bytes") or {}).get("memory", 0) for worker in workers]
        in_memory = [max(0, worker.nbytes - n_bytes) for worker, n_bytes in zip(workers, written, strict=True)]
        return sum(written), sum(in_memory)

    def send(self, level: int) -> None:
        """Send the workers of this owner a level of the guard, unless the guard itself acts."""
        scheduler = self.cluster.scheduler
        if not self.guard.state.level:
            for address, worker in list(scheduler.workers.items()):
                if is_own(self.cluster, worker.name):
                    scheduler.stream_comms[address].send({"op": "ports-guard", "level": level})

    async def notice(self) -> None:
        """Log when the cluster will end."""
        self.noticed = True
        held = self.held()
        also = f"; {idle_rules.results(len(held))} held: {idle_rules.some(held)}" if held else ""
        say(f"idle: this cluster ends {time.strftime('%Y-%m-%d %H:%M', time.localtime(self.ends_at()))}{also}")

    async def expire(self) -> None:
        """Write held results to files and end the cluster, unless a task comes meanwhile."""
        last, now = self.task_at, time.monotonic()
        if self.ended.done() or now < self.try_at:
            return
        try:
            kept = await self.kept.keep()
        except Exception as error:  # noqa: BLE001 - results are not given up for an error that may pass
            self.kept.drop()
            pause = min(PUT_OFF_SECONDS, self.limits.expire / 20)
            self.try_at = now + pause
            warn(f"idle: results cannot be kept: {type(error).__name__}: {error}; again in {hours(pause)}")
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

    def held(self) -> list[str]:
        """Return the keys of results on workers."""
        return [str(task.key) for task in self.cluster.scheduler.tasks.values() if task.state == "memory"]

    def ends_at(self) -> float | None:
        """Return when the cluster will expire, seconds since the epoch; None: never."""
        if not self.limits.expire:
            return None
        # computed each time: the wall clock can be set, and the monotonic one stops while the machine sleeps
        return time.time() + self.limits.expire - (time.monotonic() - self.task_at)

    def summary(self) -> dict[str, Any]:
        """Return what is shown to users."""
        return {
            "asleep": self.asleep or None,
            "last_task": self.last_task,
            "ends_at": self.ends_at() if self.noticed else None,
        }


def end_fork_server() -> None:
    """End the fork server, which the next worker starts again, and return free memory to the system."""
    stop = getattr(forkserver._forkserver, "_stop", None)
    with contextlib.suppress(OSError):
        if stop is not None:
            stop()
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
