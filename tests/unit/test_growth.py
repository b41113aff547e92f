"""Workers that come, come back, or do not: a cluster in this process, whose free memory the tests say."""

from __future__ import annotations

import asyncio
import dataclasses
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from distributed import Client, Scheduler, SpecCluster

import ports
from tests.unit.test_owner import HOUR, until

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import guard_rules, waiting
from ports_owner.adapt_rules import Bounds
from ports_owner.policies import Policies
from ports_owner.record import Record
from ports_owner.waiting import Seen
from ports_owner.workers import PrivateWorker

GIB = 1 << 30
Test = Callable[[Any, Policies, Client], Awaitable[None]]


class SlowWorker(PrivateWorker):
    """A worker that takes a while to start."""

    async def start_unsafe(self) -> Any:
        await asyncio.sleep(0.3)
        return await super().start_unsafe()


def within(directory: Path, test: Test, n_workers: int = 1, **options: Any) -> None:
    """Run `test` with a cluster of `n_workers` workers of 1 GiB, its policies, and a client."""

    async def run() -> None:
        limits = {"nthreads": 1, "memory_limit": GIB, "local_directory": str(directory)}
        worker = {"cls": options.pop("cls", PrivateWorker), "options": limits}
        scheduler = {"cls": Scheduler, "options": {"protocol": "inproc", "dashboard": False, "dashboard_address": ":0"}}
        record = Record("main", {}, scratch=str(directory / "scratch"), dashboard=str(directory / "dashboard.sock"))
        record = dataclasses.replace(record, **options)
        specs = dict.fromkeys(range(n_workers), worker)
        async with SpecCluster(specs, scheduler, worker, name="main", asynchronous=True) as cluster:
            policies = Policies(cluster, record, directory, asyncio.get_running_loop().create_future())
            try:
                async with Client(cluster, asynchronous=True) as client:
                    await test(cluster, policies, client)
            finally:
                policies.close()

    asyncio.run(asyncio.wait_for(run(), 60))


def free(policies: Policies, n_bytes: int) -> None:
    policies.lending.left = lambda: (n_bytes, n_bytes)  # type: ignore[method-assign]


def limits(cluster: Any) -> list[int]:
    return sorted(one.memory_limit for one in cluster.scheduler.workers.values())


def test_an_adapting_cluster_takes_what_is_free_and_says_so(tmp_path: Path) -> None:
    async def test(cluster: Any, policies: Policies, client: Client) -> None:
        free(policies, 2 * GIB)
        cluster.scheduler.adaptive_target = lambda **_: 4
        policies.adaptive.start(Bounds(0, 4), 0.02, 5.0)
        await until(lambda: len(cluster.scheduler.workers) == 2 and policies.adaptive.short)
        shown = policies.summary()["adapts"]["short"]
        assert (shown["wanted"], shown["fitting"]) == (4, 2)
        free(policies, 9 * GIB)
        await until(lambda: len(cluster.scheduler.workers) == 4)
        assert policies.summary()["adapts"]["short"] is None

    within(tmp_path, test, n_workers=0)


@pytest.mark.parametrize("lend_after", [0, pytest.param(0.001, marks=pytest.mark.ci)])
def test_workers_come_back_into_what_is_free_and_it_is_shown(tmp_path: Path, lend_after: float) -> None:
    async def test(cluster: Any, policies: Policies, client: Client) -> None:
        await until(lambda: policies.summary()["asleep"] == 2)
        free(policies, GIB)
        assert await client.submit(sum, [1, 2]) == 3
        await until(lambda: limits(cluster) == [GIB // 2] * 2)
        assert policies.summary()["reduced"] == {"limit_bytes": GIB // 2, "full_bytes": GIB}
        await until(lambda: policies.summary()["asleep"] == 2)
        free(policies, 4 * GIB)
        assert await client.submit(sum, [3, 4]) == 7
        await until(lambda: limits(cluster) == [GIB] * 2)
        assert policies.summary()["reduced"] is None

    within(tmp_path, test, n_workers=2, idle=0.2 / HOUR, lend_after=lend_after)


@pytest.mark.parametrize("way", ["scale", pytest.param("adapt", marks=pytest.mark.ci)])
def test_the_last_wish_counts_while_workers_of_the_first_start(tmp_path: Path, way: str) -> None:
    async def test(cluster: Any, policies: Policies, client: Client) -> None:
        free(policies, 9 * GIB)
        first = asyncio.ensure_future(policies.scale(3, memory_limit=GIB // 2))
        await until(lambda: len(cluster._created) == 3)
        if way == "scale":
            assert await policies.scale(2, memory_limit=GIB // 4) is True
        else:
            await policies.adapt((2, 2, 1), 0.05, 5.0, memory_limit=GIB // 4)
        assert await first is False
        await until(lambda: len(cluster.scheduler.workers) == 2)
        assert limits(cluster) == [GIB // 4] * 2
        assert {one.memory_manager.memory_limit for one in cluster.workers.values()} == {GIB // 4}

    within(tmp_path, test, n_workers=0, cls=SlowWorker)


@pytest.mark.ci
def test_a_worker_that_comes_with_an_old_limit_gets_the_last_one(tmp_path: Path) -> None:
    async def test(cluster: Any, policies: Policies, client: Client) -> None:
        async with PrivateWorker(
            cluster.scheduler_address, name=0, nthreads=1, memory_limit=GIB // 2, local_directory=str(tmp_path)
        ) as late:
            await until(lambda: late.memory_manager.memory_limit == GIB and limits(cluster) == [GIB])

    async def without_its_own(cluster: Any, policies: Policies, client: Client) -> None:
        policies.workforce.look = asyncio.sleep  # type: ignore[method-assign,assignment]
        await cluster.workers[0].close()
        await test(cluster, policies, client)

    within(tmp_path, without_its_own)


def test_a_client_is_told_that_tasks_wait_without_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(waiting, "PATIENCE", 0.1)

    async def test(cluster: Any, policies: Policies, client: Client) -> None:
        await policies.scale(0)
        told = r"1 task waits in cluster 'main', because it has 0 workers; `ports cluster scale main 1` starts one"
        with pytest.warns(UserWarning, match=told) as seen:
            future = client.submit(sum, [1, 2])
            await until(lambda: len(seen))
        assert "it has 0 workers" in policies.summary()["waiting"]
        await policies.scale(1)
        assert await future == 3
        await until(lambda: policies.summary()["waiting"] is None)

    within(tmp_path, test)


@pytest.mark.ci
def test_a_client_is_told_that_tasks_wait_for_paused_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, seconds in (("LOOK_SECONDS", 0.02), ("PAUSED_PATIENCE", 0.1)):
        monkeypatch.setattr(waiting, name, seconds)

    async def test(cluster: Any, policies: Policies, client: Client) -> None:
        (worker,) = cluster.workers.values()
        worker.give_way(guard_rules.PAUSE)
        await until(lambda: not cluster.scheduler.running)
        with pytest.warns(UserWarning, match="1 task waits in cluster 'main', because its workers are paused") as seen:
            future = client.submit(sum, [1, 2])
            await until(lambda: len(seen))
        worker.give_way(guard_rules.CALM)
        assert await future == 3

    within(tmp_path, test)


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (Seen(0), "it has 0 workers; `ports cluster scale main 1` starts one"),
        (Seen(0, maximum=0), "it adapts to 0 workers at most; `ports cluster scale main 1` starts one"),
        (Seen(0, maximum=2), None),
        (
            Seen(0, maximum=2, short={"limit_bytes": GIB, "free_bytes": GIB // 2}),
            "it adapts, and a worker needs 1.0 GiB, but only 512.0 MiB are free; `ports who` shows who uses how much",
        ),
        (Seen(2), None),  # they are starting
        (
            Seen(2, failure="OSError: no memory"),
            "its workers do not start (OSError: no memory); `ports cluster logs main --warnings` shows more",
        ),
        (Seen(0, is_coming_back=True), None),
        (
            Seen(2, is_paused=True, guard="1.0 GiB are available: workers are paused"),
            "its workers are paused: 1.0 GiB are available: workers are paused; `ports who` shows who uses how much",
        ),
        (
            Seen(2, is_paused=True),
            "its workers are paused, as their memory is full; release results, or `ports cluster restart main`",
        ),
    ],
)
def test_it_is_said_why_no_worker_comes(seen: Seen, told: str | None) -> None:
    assert waiting.reason(seen, "main") == told
