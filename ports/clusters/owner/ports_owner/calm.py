"""Workers and a scheduler without work stop their quick timers, and start them again with the next event.

`calm_rules` decides when, and which. 32 idle workers of Dask take 64 CPU-seconds a minute; calm ones take about one.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any

from distributed import Scheduler, profile
from distributed.core import Status
from distributed.diagnostics.plugin import SchedulerPlugin
from tornado.ioloop import PeriodicCallback

from . import calm_rules

PROFILER_ASKS_SECONDS = 5.0  # between two looks of the resting profiler whether its event loop has closed


class Timers:
    """Timers of a `distributed` server, stopped and started by name."""

    def __init__(self, server: Any, names: Iterable[str]) -> None:
        self.server, self.names = server, tuple(names)
        self.stopped: dict[str, PeriodicCallback] = {}

    def stop(self) -> None:
        """Stop those that run."""
        for name in self.names:
            timer = self.server.periodic_callbacks.get(name)
            if timer is not None and timer.is_running():
                timer.stop()
                self.stopped[name] = timer

    def start(self) -> None:
        """Start those that `stop` stopped, unless somebody has removed or replaced them since."""
        server, now = self.server, time.time()
        for name, timer in self.stopped.items():
            if server.periodic_callbacks.get(name) is timer:
                renew(server, name, timer.callback_time)
        self.stopped.clear()
        # Else the server would call itself unresponsive for as long as it was calm.
        server._last_tick = server._last_tick_cycle = now
        server._last_tick_counter = getattr(server, "_tick_counter", 0)


def renew(server: Any, name: str, milliseconds: float) -> None:
    """Start a timer of `server` as a new one: an old one whose coroutine still runs would go on beside itself."""
    old = server.periodic_callbacks[name]
    old.stop()
    new = server.periodic_callbacks[name] = type(old)(old.callback, milliseconds)
    new.start()


class CalmWorker:
    """When one worker is calm.

    Parameters
    ----------
    after : float or False
        Seconds without work; False: never.
    heartbeat : float
        Seconds between two heartbeats of a calm worker.
    watched : bool
        Its nanny's process looks at its memory, so this worker need not while it is calm.
    """

    def __init__(self, worker: Any, after: float | bool, heartbeat: float, *, watched: bool) -> None:
        self.worker, self.slow = worker, heartbeat * 1000
        self.is_on, self.is_stirred, self.is_held = False, True, False
        self.lively = worker.periodic_callbacks["heartbeat"].callback_time
        self.beat_at = time.monotonic()
        self.gate = GATE if watched else threading.Event()
        self.timers = Timers(worker, [n for n in calm_rules.WORKER_TIMERS if watched or n != "memory_monitor"])
        if after is not False:
            self.quiet = calm_rules.Quiet(after, time.monotonic())
            timer = PeriodicCallback(self.look, after * 1000 / calm_rules.LOOKS)
            worker.periodic_callbacks["ports-calm"] = timer

    def look(self) -> None:
        """Become calm if it is time."""
        worker = self.worker
        busy = self.is_stirred or self.is_held or worker.status != Status.running or worker.actors_running
        busy, self.is_stirred = busy or calm_rules.has_work(worker.state), False
        if self.quiet.is_reached(time.monotonic(), busy=bool(busy)) and not worker.is_over_any():
            self.is_on = True
            cycle = worker.periodic_callbacks.get("profile-cycle")
            if cycle is not None:  # Dask shows no profile before its first cycle, which short work does not reach
                cycle.callback()
            self.timers.stop()
            self.gate.clear()

    def stir(self) -> None:
        """Go back to normal at once: there is work, or memory to look after."""
        self.is_stirred = True
        if self.is_on:
            self.is_on = False
            self.gate.set()
            self.timers.start()
            renew(self.worker, "heartbeat", self.lively)
            if time.monotonic() - self.beat_at > self.lively / 1000:  # the scheduler has waited for longer than usual
                self.worker.loop.add_callback(self.worker.heartbeat)

    async def beat(self, heartbeat: Callable[[], Any]) -> None:
        """Send a heartbeat and choose when the next one follows; the scheduler's answer names a time for all."""
        self.beat_at = time.monotonic()
        if self.is_on:
            self.worker.monitor.update()
        with contextlib.suppress(KeyError):
            self.worker.periodic_callbacks["heartbeat"].callback_time = self.lively
        await heartbeat()
        timer = self.worker.periodic_callbacks.get("heartbeat")
        if timer is not None:
            self.lively = timer.callback_time
            if self.is_on:
                timer.callback_time = max(self.slow, self.lively)


class CalmScheduler(SchedulerPlugin):
    """When the scheduler is calm."""

    name = "ports-calm"

    def __init__(self, scheduler: Scheduler, after: float | bool) -> None:
        self.scheduler, self.is_on, self.counter = scheduler, False, -1
        self.timers = Timers(scheduler, calm_rules.SCHEDULER_TIMERS)
        if after is not False:
            self.quiet = calm_rules.Quiet(after, time.monotonic())
            timer = scheduler.periodic_callbacks[self.name] = PeriodicCallback(
                self.look, after * 1000 / calm_rules.LOOKS
            )
            timer.start()
            scheduler.add_plugin(self, name=self.name)

    def look(self) -> None:
        """Become calm if it is time."""
        scheduler = self.scheduler
        waiting = scheduler.unrunnable or getattr(scheduler, "queued", ())
        busy = scheduler.transition_counter != self.counter or waiting
        busy = busy or any(worker.processing for worker in scheduler.workers.values())
        self.counter = scheduler.transition_counter
        if busy:
            self.stir()
        if self.quiet.is_reached(time.monotonic(), busy=bool(busy)) and not self.is_on:
            self.is_on = True
            self.timers.stop()
            GATE.clear()

    def stir(self) -> None:
        """Go back to normal at once."""
        self.quiet.since = time.monotonic()
        if self.is_on:
            self.is_on = False
            GATE.set()
            self.timers.start()

    def update_graph(self, scheduler: Scheduler, **_: Any) -> None:
        """Go back to normal: there are tasks."""
        self.stir()

    def add_worker(self, scheduler: Scheduler, worker: str) -> None:
        """Go back to normal: tasks may move to it."""
        self.stir()

    def remove_worker(self, scheduler: Scheduler, worker: str, **_: Any) -> None:
        """Go back to normal: what it held is computed again."""
        self.stir()


GATE = threading.Event()  # closed while the server of this process is calm
GATE.set()


def let_the_profiler_rest() -> None:
    """Let the thread that profiles the event loop of this process every 10 ms wait while `GATE` is closed."""
    watch = profile.watch
    if getattr(watch, "rests", False):
        return

    def watch_at_work(*args: Any, stop: Callable[[], bool] = lambda: False, **kwargs: Any) -> Any:
        def stop_or_rest() -> bool:
            while not GATE.wait(PROFILER_ASKS_SECONDS) and not stop():
                pass
            return stop()

        return watch(*args, stop=stop_or_rest, **kwargs)

    watch_at_work.rests = True  # type: ignore[attr-defined]
    profile.watch = watch_at_work
