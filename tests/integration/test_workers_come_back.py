"""The number of workers that was asked for comes back, however workers end."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from distributed import Client

from ports import clusters
from ports.clusters._cluster import Cluster
from ports.state.waiting import wait_until
from tests.integration.conftest import Home

pytestmark = [pytest.mark.ci]

SMALL = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "1GB", "force": True}


@pytest.fixture
def main(home: Home) -> Iterator[tuple[Cluster, Client]]:
    cluster = clusters.start("main", **SMALL)
    with cluster.get_client() as client:
        yield cluster, client
    cluster.stop()


def pids(client: Client) -> list[int]:
    def of_workers(dask_scheduler: Any) -> list[int]:
        cluster = dask_scheduler.policies.cluster
        return [nanny.pid for nanny in cluster.workers.values() if nanny.pid]

    return client.run_on_scheduler(of_workers)  # type: ignore[no-any-return]


def shorten(dask_scheduler: Any) -> None:
    """Let Dask give up a lost worker after one second instead of fifteen."""
    import dask

    dask.config.set({"distributed.deploy.lost-worker-timeout": "1s"})


def all_back(cluster: Cluster, n_workers: int = 2) -> None:
    def there() -> bool | None:
        row = cluster.row()
        return True if row["n_workers"] == n_workers and row["note"] is None else None

    wait_until(there, timeout=60, what=f"{n_workers} workers", every=0.1)


def stays(cluster: Cluster, seconds: float) -> None:
    """Wait until Dask would have given workers up."""
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until or None, timeout=seconds + 5, what="Dask's timeout", every=0.1)
    all_back(cluster)


def test_a_storm_of_kills_leaves_the_number_that_was_asked_for(main: tuple[Cluster, Client]) -> None:
    cluster, client = main
    client.run_on_scheduler(shorten)
    until = time.monotonic() + 4
    while time.monotonic() < until:  # at each moment of the second, also just before it ends
        for pid in pids(client):
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.2)
    stays(cluster, 2.0)
    assert client.submit(sum, [1, 2]).result(timeout=30) == 3


def test_a_worker_whose_nanny_was_ended_comes_back(main: tuple[Cluster, Client]) -> None:
    cluster, client = main

    async def end(dask_scheduler: Any) -> None:
        await dask_scheduler.policies.cluster.workers[0].close()

    client.run_on_scheduler(end)
    all_back(cluster)


def test_a_worker_that_dies_while_it_starts_comes_back(main: tuple[Cluster, Client]) -> None:
    cluster, client = main

    async def fail(dask_scheduler: Any) -> None:
        from ports_owner.workers import PrivateNanny

        instantiate, failures = PrivateNanny.instantiate, [1, 2]

        async def fails(self: Any) -> Any:
            if failures:
                failures.pop()
                await self.close()
                raise RuntimeError("no memory for a process")
            return await instantiate(self)

        PrivateNanny.instantiate = fails
        for worker in list(dask_scheduler.policies.cluster.workers.values())[:1]:
            await worker.kill()

    client.run_on_scheduler(fail)
    all_back(cluster)


def test_a_restart_brings_back_workers_that_all_died(main: tuple[Cluster, Client]) -> None:
    cluster, client = main
    for _ in range(3):
        for pid in pids(client):
            os.kill(pid, signal.SIGKILL)
        client.restart()
        assert client.submit(sum, [1, 2], pure=False).result(timeout=30) == 3  # not cancelled
    for pid in pids(client):
        os.kill(pid, signal.SIGKILL)
    cluster.restart()
    assert cluster.row()["n_workers"] == 2


def test_a_worker_that_a_client_retires_stays_away(main: tuple[Cluster, Client]) -> None:
    cluster, client = main
    client.retire_workers([next(iter(client.scheduler_info()["workers"]))])
    all_back(cluster, 1)


def test_tasks_that_wait_for_no_worker_are_told_with_a_way_out(home: Home, main: tuple[Cluster, Client]) -> None:
    cluster, client = main
    cluster.scale(0)
    with pytest.warns(UserWarning, match="1 task waits in cluster 'main', because it has 0") as seen:
        future = client.submit(sum, [1, 2])
        wait_until(lambda: len(seen) or None, timeout=20, what="the warning", every=0.1)
    for told in (str(seen[0].message), home.ports("cluster", "show").stdout, home.ports("cluster", "list").stdout):
        assert "1 task waits in cluster 'main', because it has 0 workers" in " ".join(told.split())
    assert "runs without workers," in repr(cluster)
    (command,) = re.findall("`ports (cluster scale .*?)`", str(seen[0].message))
    done = home.ports(*command.split())
    assert done.returncode == 0, done.stderr
    assert future.result(timeout=30) == 3
    all_back(cluster, 1)


def test_the_last_of_two_scales_counts_for_number_and_memory(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, threads_per_worker=1)
    with ThreadPoolExecutor(1) as pool, pytest.warns(match="cluster 'main'"):
        first = pool.submit(clusters.get("main").scale, 6)
        asked = clusters.get("main")
        wait_until(lambda: asked.row()["n_asked"] == 6 or None, timeout=20, what="the first wish", every=0.02)
        clusters.get("main").scale(2)
        first.result()
    all_back(cluster)
    record = clusters.get("main").record
    assert record.n_workers == 2
    with cluster.get_client() as client:
        found = client.run(lambda dask_worker: dask_worker.memory_manager.memory_limit)
    assert set(found.values()) == {record.memory_limit}
    assert record.memory_limit == cluster.row()["memory_limit_bytes"] // 2
