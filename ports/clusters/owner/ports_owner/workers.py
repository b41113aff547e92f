"""Workers and nannies that are fair: nice, ready to give way, and leaving nothing behind.

What each worker is told comes as a message of the scheduler's stream; Dask's own memory management of the worker then
spills and pauses: its thresholds are lowered, and given back later.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import multiprocessing
import os
import pickle
from pathlib import Path

from distributed import Nanny, Worker
from distributed.core import Status

from . import guard_rules, orphans

NOTHING = 1e-9  # of the memory limit: any memory is more


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


class FairWorker(Worker):
    """A worker that spills and pauses when it is told to."""

    def __init__(self, *args, nice=0, mark=None, **kwargs):
        orphans.wear(mark)
        is_own = multiprocessing.parent_process() is not None  # else scheduler and guard are threads beside its tasks
        if is_own:
            be_nice(nice)
        self.actor_calls = self.actors_running = 0
        super().__init__(*args, **kwargs)
        for name in () if is_own else ("default", "actor"):
            make_nice(self.executors[name], nice)
        self.metrics["ports_actors"] = lambda worker: (worker.actor_calls, worker.actors_running)
        manager = self.memory_manager
        self.own_fractions = [getattr(manager, name, False) for name in FRACTIONS]
        self.stream_handlers["ports-guard"] = self.give_way
        self.handlers["ports_keep"] = self.keep_results

    def give_way(self, level, **_):
        """Spill results, start no further task, or go back to normal, by the guard's `level`."""
        manager = self.memory_manager
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
            self.loop.add_callback(manager.memory_monitor, self)  # thresholds switched off by the user

    def is_over(self, fraction):
        """Say whether this worker is over its own limit, so that Dask itself would pause it."""
        limit = self.memory_manager.memory_limit
        return bool(limit and fraction and self.monitor.get_process_memory() > fraction * limit)

    async def actor_execute(self, *args, **kwargs):
        """Call an actor's method, and count that: the scheduler sees nothing of it."""
        self.actor_calls += 1
        self.actors_running += 1
        try:
            return await super().actor_execute(*args, **kwargs)
        finally:
            self.actors_running -= 1

    def actor_attribute(self, *args, **kwargs):
        """Read an actor's attribute, and count that."""
        self.actor_calls += 1
        return super().actor_attribute(*args, **kwargs)

    async def keep_results(self, directory, keys):
        """Pickle the results `keys`, as far as they are here, to files of `directory`; return key → file or error."""
        kept = {}
        for key, name in keys.items():
            if key in self.data:
                try:
                    await asyncio.to_thread(write_pickle, Path(directory) / name, self.data[key])
                    kept[key] = name
                except Exception as error:  # noqa: BLE001 - a result that cannot be pickled costs the others nothing
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
        except OSError:  # a full disk: no half of it
            path.unlink()
            raise


GPUS_TAKEN = collections.Counter()  # by the nannies of this process


def take_gpus(gpu_ids, each):
    """Return `each` of `gpu_ids`, those that the fewest workers of this cluster have, in this order."""
    taken = sorted(gpu_ids, key=lambda one: GPUS_TAKEN[one])[:each]
    GPUS_TAKEN.update(taken)
    return taken


def gpus_taken():
    """Return the GPUs that workers of this cluster have."""
    return sorted(uuid for uuid, number in GPUS_TAKEN.items() if number > 0)


class FairNanny(Nanny):
    """A nanny that ends what its worker left behind, before the next one starts and when it ends itself."""

    def __init__(self, *args, gpu_ids=(), gpus=0, env=None, **kwargs):
        self.mark = orphans.new_mark()
        self.gpus = take_gpus(gpu_ids, gpus)
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(self.gpus)} if gpus else {}
        super().__init__(*args, mark=self.mark, env={**visible, **(env or {})}, **kwargs)

    async def end_orphans(self):
        """End what tasks of the worker that is gone have started."""
        await asyncio.get_running_loop().run_in_executor(None, orphans.end_left_by, self.mark)

    async def instantiate(self, *args, **kwargs):
        """Start the worker once nothing of the last one is left."""
        await self.end_orphans()
        return await super().instantiate(*args, **kwargs)

    async def kill(self, *args, **kwargs):
        """End the worker and what its tasks started."""
        await super().kill(*args, **kwargs)
        await self.end_orphans()

    async def close(self, *args, **kwargs):
        """End for good, with all that is left of the worker."""
        answer = await super().close(*args, **kwargs)
        GPUS_TAKEN.subtract(self.gpus)
        self.gpus = []
        await self.end_orphans()
        return answer
