"""Workers and nannies: private, nice to other users, ready to give way, and leaving nothing behind.

The guard sends each worker a level through the scheduler's stream. The worker then lowers the thresholds of Dask's own
memory management, so that Dask spills or pauses, and restores them later.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import multiprocessing
import os
import pickle
import sys
import time
from pathlib import Path
from typing import Any

from distributed import Nanny, Worker
from distributed.core import Status
from distributed.http.routing import RoutingApplication
from distributed.worker_state_machine import FindMissingEvent
from tornado.httpserver import HTTPServer

from . import calm, calm_rules, comm, guard_rules, memory_deaths, memory_watch, notes, orphans, peer_check
from .ground import probe
from .log import expect_the_end, warn

# in the owner, and in each worker process, which imports this module for the classes below
comm.register()
peer_check.register()
calm.let_the_profiler_rest()

NOTHING = 1e-9  # of the memory limit: any memory is more


def take_path(entries):
    """Look for modules where the starter of the cluster does, and only then where this process did."""
    sys.path[:] = [*entries, *(entry for entry in sys.path if entry not in entries)]


def be_nice(niceness: int) -> None:
    """Give this thread, and what it starts, at least the niceness `niceness`."""
    with contextlib.suppress(OSError, AttributeError):
        os.setpriority(os.PRIO_PROCESS, 0, max(niceness, os.getpriority(os.PRIO_PROCESS, 0)))


def make_nice(executor, niceness):
    """Give the threads of `executor` a niceness, and no other thread of this process."""
    submit = executor.submit

    def run(function, /, *args, **kwargs):
        be_nice(niceness)
        return function(*args, **kwargs)

    executor.submit = lambda function, /, *args, **kwargs: submit(run, function, *args, **kwargs)


class PrivateWorker(Worker):
    """A worker without an HTTP server, which any user could read. It spills and pauses at the guard's word."""

    status: Any  # Dask's property

    def __init__(self, *args, starter_path=(), nice=0, mark=None, calm_after=(False, 0.0), watched=False, **kwargs):
        take_path(starter_path)
        orphans.wear(mark)
        self.has_process = (
            multiprocessing.parent_process() is not None
        )  # else scheduler and guard share it with its tasks
        if self.has_process:
            be_nice(nice)
        self.actor_calls = self.actors_running = 0
        super().__init__(*args, **kwargs)
        for name in () if self.has_process else ("default", "actor"):
            make_nice(self.executors[name], nice)
        self.metrics["ports_actors"] = lambda worker: (worker.actor_calls, worker.actors_running)
        manager = self.memory_manager
        self.own_fractions = [getattr(manager, name, False) for name in FRACTIONS]
        self.stream_handlers["ports-guard"] = self.give_way
        self.stream_handlers["ports-memory-limit"] = self.limit_memory
        self.stream_handlers["ports-stir"] = self.stir
        self.stream_handlers["ports-listen"] = self.notice_prints
        self.handlers["ports_keep_results"] = self.keep_results
        self.calm = calm.CalmWorker(self, *calm_after, watched=watched)
        notes.write_line_by_line()
        notes.LISTENER.start()

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Make the application that other code expects; nothing listens."""
        self.http_application = RoutingApplication(routes)
        self.http_server = HTTPServer(self.http_application)

    def give_way(self, level, **_):
        """Spill results, start no further task, or go back to normal, as the guard's `level` says."""
        manager = self.memory_manager
        self.calm.is_held = level > guard_rules.CALM
        self.calm.stir()
        target, spill, pause = self.own_fractions
        if level >= guard_rules.SPILL and manager.memory_limit:
            target = spill = NOTHING
        if level >= guard_rules.PAUSE:
            pause = NOTHING if manager.memory_limit else pause
        for name, value in zip(FRACTIONS, (target, spill, pause), strict=True):
            setattr(manager, name, value)
        if level >= guard_rules.PAUSE and self.status == Status.running:
            self.status = Status.paused
        elif level < guard_rules.PAUSE and self.status == Status.paused and not self.is_over(pause):
            self.status = Status.running
        if manager.memory_limit and "memory_monitor" not in self.periodic_callbacks and level >= guard_rules.SPILL:
            self.loop.add_callback(manager.memory_monitor, self)  # the user has switched the thresholds off

    def limit_memory(self, limit, **_):
        """Have another memory limit from now on; results beyond its target go to the disk."""
        self.calm.stir()  # a smaller limit may be reached already
        self.memory_manager.memory_limit = limit
        fast: Any = getattr(self.data, "fast", None)
        target = self.own_fractions[0]
        if target and hasattr(fast, "n"):
            fast.n = int(limit * target)
            fast.evict_until_below_target()

    def is_over(self, fraction):
        """Say whether this worker is over its own limit, so that Dask itself would pause it."""
        limit = self.memory_manager.memory_limit
        return bool(limit and fraction and self.monitor.get_process_memory() > fraction * limit)

    def is_over_any(self):
        """Say whether Dask itself would spill or pause, so that it has to go on looking at the memory."""
        return any(self.is_over(fraction) for fraction in self.own_fractions[1:])

    def stir(self, **_):
        """Start the timers again: this process has grown while it was calm."""
        self.calm.stir()

    def notice_prints(self, **_):
        """Tell the scheduler when a task prints, once more."""
        notes.LISTENER.start()

    def handle_stimulus(self, *stims):
        """Do as Dask does, with all timers running: something happens."""
        if not (len(stims) == 1 and isinstance(stims[0], FindMissingEvent)):  # a timer's
            self.calm.stir()
        return super().handle_stimulus(*stims)

    async def close(self, *args, **kwargs):
        """Close as Dask does; a heartbeat that is on its way then fails, and so do tasks that run."""
        if self.has_process:
            expect_the_end()
        return await super().close(*args, **kwargs)

    async def heartbeat(self):
        """Send a heartbeat, less often while calm."""
        await self.calm.beat(super().heartbeat)

    async def actor_execute(self, *args, **kwargs):
        """Call an actor's method, and count the call, which the scheduler does not see."""
        self.calm.stir()
        self.actor_calls += 1
        self.actors_running += 1
        try:
            return await super().actor_execute(*args, **kwargs)
        finally:
            self.actors_running -= 1

    def actor_attribute(self, *args, **kwargs):
        """Read an actor's attribute, and count the access."""
        self.actor_calls += 1
        return super().actor_attribute(*args, **kwargs)

    async def keep_results(self, directory, keys):
        """Pickle those results of `keys` that are here to files in `directory`; return key → file or error."""
        kept = {}
        for key, name in keys.items():
            if key in self.data:
                try:
                    await asyncio.to_thread(write_pickle, Path(directory) / name, self.data[key])
                    kept[key] = name
                except Exception as error:  # noqa: BLE001 - one that cannot be pickled must not cost the others
                    kept[key] = f"not kept: {type(error).__name__}: {error}"
        return kept


FRACTIONS = ("memory_target_fraction", "memory_spill_fraction", "memory_pause_fraction")


def write_pickle(path, value):
    """Write `value` to a new file, 0600."""
    from distributed.protocol.pickle import dumps

    data = dumps(value, protocol=pickle.HIGHEST_PROTOCOL)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600), "wb") as file:
        try:
            file.write(data)
            file.flush()
        except OSError:  # a full disk: leave no partial file
            path.unlink()
            raise


GPUS_TAKEN: collections.Counter[str] = collections.Counter()  # by the nannies of this process


def take_gpus(gpu_ids, each):
    """Return the `each` GPUs of `gpu_ids` that the fewest workers of this cluster use, in the order of `gpu_ids`."""
    taken = sorted(gpu_ids, key=lambda one: GPUS_TAKEN[one])[:each]
    GPUS_TAKEN.update(taken)
    return taken


def gpus_taken():
    """Return the GPUs that workers of this cluster use."""
    return sorted(uuid for uuid, number in GPUS_TAKEN.items() if number > 0)


class PrivateNanny(Nanny):
    """A nanny that ends what its worker left behind, before the next worker starts and when the nanny itself ends."""

    def __init__(self, *args, gpu_ids=(), gpus=0, env=None, calm_after=(False, 0.0), **kwargs):
        self.mark = orphans.new_mark()
        self.counted_pid = -1
        self.gpus = take_gpus(gpu_ids, gpus)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if gpus else {}
        env = {**visible, **(env or {})}
        super().__init__(*args, worker_class=PrivateWorker, mark=self.mark, env=env, **kwargs)
        self.is_watched = calm_after[0] is not False and memory_watch.is_possible(self)
        self.worker_kwargs.update(calm_after=calm_after, watched=self.is_watched)
        for name in calm_rules.NANNY_TIMERS if self.is_watched else ():
            self.periodic_callbacks.pop(name, None)

    async def _on_worker_exit(self, exitcode):
        pid = getattr(self.memory_manager, "_last_terminated_pid", -1)
        if pid not in (-1, self.counted_pid):  # Dask ended it at its limit
            self.counted_pid = pid
            await self.count_memory_death()
        await super()._on_worker_exit(exitcode)

    async def count_memory_death(self):
        """Log that the worker ended at its memory limit, and count it for `ports cluster list`."""
        cluster = getattr(self, "_cluster", lambda: None)()
        scheduler, task = getattr(cluster, "scheduler", None), None
        if scheduler is not None and self.worker_address is not None:
            await scheduler.remove_worker(self.worker_address, stimulus_id=f"ports-memory-{time.time()}")
            task = scheduler.last_tasks.get(self.worker_address)
        death = memory_deaths.Death(time.time(), self.memory_manager.memory_limit or 0, task)
        memory_deaths.DEATHS.append(death)
        ran = f" with task {task}" if task else ""
        limit = probe.as_typed(getattr(cluster, "memory_typed", ""), death.limit)
        text = f"worker {self.name} ended at its memory limit of {limit}{ran}"
        warn(text)
        if scheduler is not None and scheduler.policies is not None:
            scheduler.policies.notes.tell_of_death(text)

    async def end_orphans(self):
        """End what tasks of the last worker have started."""
        await asyncio.get_running_loop().run_in_executor(None, orphans.end_left_by, self.mark)

    async def instantiate(self, *args, **kwargs):
        """Start the worker once nothing of the last one runs."""
        await self.end_orphans()
        if self.is_watched:
            memory_watch.WATCH.add(self)
        return await super().instantiate(*args, **kwargs)

    async def kill(self, *args, **kwargs):
        """End the worker and what its tasks started."""
        await super().kill(*args, **kwargs)
        await self.end_orphans()

    async def close(self, *args, **kwargs):
        """End the nanny, its worker and what tasks started."""
        answer = await super().close(*args, **kwargs)
        memory_watch.WATCH.remove(self)
        GPUS_TAKEN.subtract(self.gpus)
        self.gpus = []
        await self.end_orphans()
        return answer
