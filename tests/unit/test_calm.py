"""When a worker, a scheduler and a nanny without work leave their timers out: decided without a clock."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import profile
from distributed.core import Status
from tornado.ioloop import IOLoop, PeriodicCallback

import ports

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import calm, calm_rules, memory_watch

MB = 10**6


def test_a_calm_heartbeat_comes_three_times_within_the_limit() -> None:
    assert [calm_rules.slow_heartbeat(ttl) for ttl in (None, 300, 9, 5)] == [5.0, 5.0, 3.0, 5 / 3]


@pytest.mark.parametrize("name", ["executing", "long_running", "ready", "constrained", "in_flight_tasks"])
def test_whatever_runs_waits_or_is_fetched_is_work(name: str) -> None:
    assert not calm_rules.has_work(SimpleNamespace(**{name: ()}))
    assert calm_rules.has_work(SimpleNamespace(**{name: ["task"]}))


def test_a_version_of_dask_without_a_state_of_that_name_is_taken() -> None:
    assert not calm_rules.has_work(SimpleNamespace())


def test_the_quiet_time_begins_again_with_all_that_happens() -> None:
    quiet = calm_rules.Quiet(2.0, 0.0)
    assert [quiet.is_reached(t, busy=t == 1.5) for t in (1.0, 1.5, 3.0, 3.5)] == [False, False, False, True]


def test_a_worker_that_grows_slowly_is_told_once_for_each_eight_megabytes() -> None:
    growth = calm_rules.Growth(100 * MB)
    told = [size for size in range(100, 130) if growth.is_reached(size * MB, lively=False)]
    assert told == [109, 118, 127]


def test_a_worker_that_computes_is_told_nothing_and_counts_from_there() -> None:
    growth = calm_rules.Growth(100 * MB)
    assert not growth.is_reached(300 * MB, lively=True)
    assert not growth.is_reached(305 * MB, lively=False)
    assert not growth.is_reached(250 * MB, lively=False)  # it gave memory back: that is the least now
    assert growth.is_reached(260 * MB, lively=False)


class Server:
    """What a `distributed` server has for its timers."""

    def __init__(self, **timers: PeriodicCallback) -> None:
        self.periodic_callbacks = timers
        self._last_tick = self._last_tick_cycle = 0.0
        self._tick_counter, self._last_tick_counter = 9, 3


def test_timers_start_again_as_before_and_unknown_ones_run_on() -> None:
    async def check() -> None:
        tick, semaphore = (PeriodicCallback(lambda: None, ms) for ms in (20, 1000))
        server = Server(**{"tick": tick, "semaphore-lease-timeout": semaphore})
        for timer in (tick, semaphore):
            timer.start()
        timers = calm.Timers(server, calm_rules.SCHEDULER_TIMERS)  # most of these are not there
        timers.stop()
        assert not tick.is_running() and semaphore.is_running()
        timers.start()
        again = server.periodic_callbacks["tick"]
        assert again is not tick and again.is_running() and again.callback_time == 20
        assert time.time() - server._last_tick < 10  # else it would call itself unresponsive
        assert server._last_tick_counter == 9
        for timer in server.periodic_callbacks.values():
            timer.stop()

    asyncio.run(check())


def test_a_timer_that_somebody_removed_meanwhile_stays_away() -> None:
    async def check() -> None:
        server = Server(stealing=PeriodicCallback(lambda: None, 100))
        server.periodic_callbacks["stealing"].start()
        timers = calm.Timers(server, ["stealing"])
        timers.stop()
        del server.periodic_callbacks["stealing"]
        timers.start()
        assert not server.periodic_callbacks

    asyncio.run(check())


class Worker(Server):
    """As much of a worker as `CalmWorker` looks at; its heartbeat takes a while."""

    status, actors_running, state = Status.running, 0, SimpleNamespace()

    def __init__(self) -> None:
        self.beats = 0
        self.loop = IOLoop.current()
        self.monitor = SimpleNamespace(update=lambda: None)
        super().__init__(heartbeat=PeriodicCallback(self.heartbeat, 20))
        self.calm = calm.CalmWorker(self, 0.01, 5.0, watched=False)
        for timer in self.periodic_callbacks.values():
            timer.start()

    def is_over_any(self) -> bool:
        return False

    async def heartbeat(self) -> None:
        async def ask() -> None:
            self.beats += 1
            await asyncio.sleep(0.01)
            self.periodic_callbacks["heartbeat"].callback_time = 20  # as the scheduler's answer does

        await self.calm.beat(ask)


def test_many_turns_between_calm_and_lively_leave_one_chain_of_heartbeats() -> None:
    async def check() -> None:
        worker = Worker()
        for _ in range(60):
            while not worker.calm.is_on:
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.003)
            worker.calm.stir()
        worker.calm.is_held = True
        worker.beats = 0
        await asyncio.sleep(0.4)
        assert 0 < worker.beats <= 21  # one chain: at most one in 20 ms
        for timer in worker.periodic_callbacks.values():
            timer.stop()

    asyncio.run(check())


def test_a_calm_worker_beats_slowly_and_a_stirred_one_as_before() -> None:
    async def check() -> None:
        worker = Worker()
        while worker.periodic_callbacks["heartbeat"].callback_time != 5000:
            await asyncio.sleep(0.005)
        assert worker.calm.is_on
        worker.calm.stir()
        assert worker.periodic_callbacks["heartbeat"].callback_time == 20
        for timer in worker.periodic_callbacks.values():
            timer.stop()

    asyncio.run(check())


def test_a_worker_that_wakes_reports_at_once_after_a_long_silence() -> None:
    async def check() -> None:
        worker = Worker()
        while worker.periodic_callbacks["heartbeat"].callback_time != 5000:  # no heartbeat is under way
            await asyncio.sleep(0.001)
        worker.calm.lively = 3000
        for silent, beats in ((2.0, 0), (4.0, 1)):
            worker.calm.is_on, worker.beats = True, 0
            worker.calm.beat_at = time.monotonic() - silent
            worker.calm.stir()
            await asyncio.sleep(0.05)
            assert worker.beats == beats
        for timer in worker.periodic_callbacks.values():
            timer.stop()

    asyncio.run(check())


def test_a_worker_that_becomes_calm_files_its_profile() -> None:
    async def check() -> None:
        filed: list[bool] = []
        worker = Worker()
        cycle = PeriodicCallback(lambda: filed.append(worker.calm.is_on), 60_000)
        worker.periodic_callbacks["profile-cycle"] = cycle
        while not worker.calm.is_on:
            await asyncio.sleep(0.001)
        assert filed == [True]
        for timer in worker.periodic_callbacks.values():
            timer.stop()

    asyncio.run(check())


@pytest.mark.parametrize("why", ["status", "actors_running", "state", "held"])
def test_a_worker_with_a_reason_stays_lively(why: str) -> None:
    async def check() -> None:
        worker: Any = Worker()
        reasons = {"status": Status.paused, "actors_running": 1, "state": SimpleNamespace(ready=[1])}
        if why == "held":  # by the guard
            worker.calm.is_held = True
        else:
            setattr(worker, why, reasons[why])
        await asyncio.sleep(0.1)
        assert not worker.calm.is_on
        for timer in worker.periodic_callbacks.values():
            timer.stop()

    asyncio.run(check())


def test_the_profiler_of_the_event_loop_rests_while_its_server_is_calm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "watch", lambda *, stop: asked.append(stop))
    asked: list[Any] = []
    calm.let_the_profiler_rest()
    profile.watch(stop=lambda: False)  # type: ignore[call-arg]
    calm.GATE.clear()
    try:
        asking = threading.Thread(target=asked[0], daemon=True)
        asking.start()
        asking.join(0.1)
        assert asking.is_alive()
    finally:
        calm.GATE.set()
    asking.join(5)
    assert not asking.is_alive()


class Nanny:
    """As much of a nanny as the watcher looks at."""

    name, worker_address = "0", "unix:///worker"

    def __init__(self, pid: int, limit: int) -> None:
        self.pid, self.ended = pid, 0
        self.memory_manager = SimpleNamespace(
            memory_limit=limit, memory_terminate_fraction=0.95, memory_monitor=self.end, memory_monitor_interval=0.1
        )

    def end(self, nanny: Any) -> None:
        self.ended += 1


EATER = "import sys; kept = []\nfor line in sys.stdin: kept.append(b'1' * int(line)); print('ate', flush=True)"


@pytest.fixture
def eater() -> Iterator[subprocess.Popen[str]]:
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", EATER], stdin=pipe, stdout=pipe, text=True) as process:
        eat(process, 0)
        yield process


def eat(process: subprocess.Popen[str], n_bytes: int) -> None:
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(f"{n_bytes}\n")
    process.stdin.flush()
    process.stdout.readline()


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_watcher_stirs_a_worker_that_grows_and_ends_one_over_its_limit(eater: subprocess.Popen[str]) -> None:
    sent: list[dict[str, str]] = []
    watch = memory_watch.MemoryWatch()
    state = SimpleNamespace(processing={})
    watch.scheduler = SimpleNamespace(
        workers={Nanny.worker_address: state}, stream_comms={Nanny.worker_address: SimpleNamespace(send=sent.append)}
    )
    nanny: Any = Nanny(eater.pid, 100 * MB)
    watch.nannies[nanny] = None
    for n_bytes, messages, ended in ((0, 0, 0), (5 * MB, 0, 0), (10 * MB, 1, 0), (80 * MB, 2, 1)):
        eat(eater, n_bytes)
        watch.look(nanny)
        assert (len(sent), nanny.ended) == (messages, ended)
    file = watch.nannies[nanny].file  # type: ignore[union-attr]
    assert sent[0] == {"op": "ports-stir"}
    nanny.pid = os.getpid()  # the next worker
    watch.look(nanny)
    watch.remove(nanny)
    assert not watch.nannies and not Path(f"/proc/self/fd/{file}").exists()


def test_the_watcher_passes_over_a_worker_that_has_ended(eater: subprocess.Popen[str]) -> None:
    watch = memory_watch.MemoryWatch()
    nanny: Any = Nanny(eater.pid, 1)
    watch.nannies[nanny] = None
    assert watch.size(nanny)
    eater.kill()
    eater.wait()
    assert watch.size(nanny) is None or watch.size(nanny) == 0
    nanny.pid = None
    assert watch.size(nanny) is None
    watch.remove(nanny)
