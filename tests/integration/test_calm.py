"""Workers without work stop their timers, lose nothing by it, and are watched as quickly as before."""

from __future__ import annotations

import time
from datetime import datetime
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, LocalCluster, Semaphore, wait

from ports import clusters
from ports.clusters._cluster import Cluster
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.integration.test_idle import SMALL, log_has, workers
from tests.integration.test_rest import Counter

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]

SOON = 0.2  # seconds of quiet, here


def is_calm(dask_worker: Any) -> bool:
    return bool(dask_worker.calm.is_on)  # this question itself does not stir it


def timers(dask_scheduler: Any) -> dict[str, bool]:
    return {name: timer.is_running() for name, timer in dask_scheduler.periodic_callbacks.items()}


def calm(client: Client) -> None:
    """Wait until all workers and the scheduler are calm."""

    def there() -> bool | None:
        found = [*client.run(is_calm).values(), not client.run_on_scheduler(timers)["tick"]]
        return all(found) or None

    wait_until(there, timeout=20, what="calm workers and a calm scheduler", every=0.05)


def cpu(cluster: Cluster, seconds: float) -> float:
    """Return the CPU seconds that owner and workers take meanwhile."""
    owner = psutil.Process(cluster.row()["pid"])

    def used() -> float:
        times = [one.cpu_times() for one in (owner, *owner.children(recursive=True))]
        return sum(one.user + one.system for one in times)

    before = used()
    time.sleep(seconds)
    return used() - before


def grow(n_bytes: int, began: str) -> None:
    """Leave a thread behind that takes memory once the worker is calm."""
    import threading

    def eat() -> None:
        time.sleep(2)
        Path(began).write_text(str(time.time()))
        kept.append(b"1" * n_bytes)
        time.sleep(600)

    kept: list[bytes] = []
    threading.Thread(target=eat, daemon=True).start()


@pytest.mark.parametrize("security", ["sockets", "tls"])
def test_calm_workers_compute_keep_actors_and_data_and_send_them(home: Home, security: str) -> None:
    cluster = clusters.start("main", n_workers=2, calm_after=SOON, security=security, **SMALL)
    with cluster.get_client() as client:
        one, other = client.scheduler_info()["workers"]
        counter = client.submit(Counter, actor=True, workers=[one]).result()
        made = client.submit(bytes, 20_000_000, workers=[one])
        wait(made)
        calm(client)
        assert counter.add().result() == 1
        calm(client)
        assert client.submit(len, made, workers=[other]).result() == 20_000_000
        calm(client)
        assert sum(client.gather(client.scatter([1, 2, 3]))) == 6
        calm(client)
        assert client.gather(client.map(abs, range(-50, 0))) == [*range(50, 0, -1)]
        calm(client)
        running = client.run_on_scheduler(timers)
        assert running["semaphore-lease-timeout"] and running["worker-ttl"]
        client.retire_workers([other])
        assert client.submit(len, made, pure=False).result() == 20_000_000
    cluster.stop()


def test_a_thread_left_behind_that_eats_memory_pauses_its_calm_worker(home: Home) -> None:
    options = {**SMALL, "memory_limit": "400MB"}
    cluster = clusters.start("main", n_workers=1, calm_after=SOON, **options)
    with cluster.get_client() as client:
        client.submit(grow, 285_000_000, str(home.work / "began")).result()  # with the 65 MB of a worker: 87 %
        calm(client)
        line = log_has(cluster, "Pausing worker", within=20)
        paused = datetime.strptime(line[:23], "%Y-%m-%d %H:%M:%S,%f").timestamp()
        assert paused - float((home.work / "began").read_text()) < 1.5  # 0.3 on a quiet machine
        workers(cluster, 1)
        assert client.run(lambda dask_worker: dask_worker.status.name).popitem()[1] == "paused"
    cluster.stop()


def test_a_hog_on_a_calm_worker_is_ended_at_its_limit(home: Home) -> None:
    options = {**SMALL, "memory_limit": "300MB"}
    cluster = clusters.start("main", n_workers=1, calm_after=SOON, **options)

    def hog() -> None:
        kept = []
        while True:
            kept.append(b"1" * 5_000_000)
            time.sleep(0.02)

    with cluster.get_client() as client:
        calm(client)
        before = client.run(lambda dask_worker: dask_worker.id).popitem()[1]
        hogging = client.submit(hog)
        assert "exceeded 95% memory budget" in log_has(cluster, "memory budget", within=20)
        del hogging

        def again() -> bool | None:
            found = client.run(lambda dask_worker: dask_worker.id, on_error="ignore")
            return (bool(found) and before not in found.values()) or None

        wait_until(again, timeout=30, what="the next worker", every=0.2)
    cluster.stop()


def test_a_silent_heartbeat_of_a_calm_worker_stays_within_its_limit(home: Home) -> None:
    keywords: dict[str, Any] = {"scheduler_kwargs": {"worker_ttl": 5}}
    cluster = clusters.start("main", n_workers=1, calm_after=SOON, **SMALL, **keywords)
    with cluster.get_client() as client:
        calm(client)
        until = time.monotonic() + 5
        while time.monotonic() < until:
            ages = client.run_on_scheduler(
                lambda dask_scheduler: [time.time() - one.last_seen for one in dask_scheduler.workers.values()]
            )
            assert len(ages) == 1 and ages[0] < 3
            time.sleep(0.2)
    cluster.stop()


def test_false_keeps_all_timers_running(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, calm_after=False, **SMALL)
    with cluster.get_client() as client:
        time.sleep(3)
        assert not any(client.run(is_calm).values()) and client.run_on_scheduler(timers)["tick"]
    cluster.stop()


@pytest.mark.long
@pytest.mark.parametrize("security", ["sockets", "tls"])
def test_an_idle_cluster_takes_a_tenth_of_what_dask_takes(home: Home, security: str) -> None:
    cluster = clusters.start("main", n_workers=4, security=security, **SMALL)
    workers(cluster, 4)
    time.sleep(5)
    ours = cpu(cluster, 30)
    cluster.stop()
    me = psutil.Process()
    with LocalCluster(n_workers=4, threads_per_worker=1, memory_limit="500MB", dashboard_address=":0"):
        time.sleep(5)
        found = []
        for wait_for in (30, 0):
            times = [one.cpu_times() for one in (me, *me.children(recursive=True))]
            found.append(sum(one.user + one.system for one in times))
            time.sleep(wait_for)
    assert ours <= 0.1 * (found[1] - found[0])


@pytest.mark.long
def test_sixty_idle_seconds_with_a_short_limit_restart_no_worker(home: Home) -> None:
    keywords: dict[str, Any] = {"scheduler_kwargs": {"worker_ttl": 5}}
    cluster = clusters.start("main", n_workers=2, calm_after=SOON, **SMALL, **keywords)
    with cluster.get_client() as client:
        before = client.run(lambda dask_worker: dask_worker.id)
        time.sleep(60)
        assert client.run(lambda dask_worker: dask_worker.id) == before
    assert not [line for line in cluster.logs() if "failed to heartbeat" in line]
    cluster.stop()


@pytest.mark.long
def test_a_thousand_turns_keep_the_number_of_heartbeats(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, calm_after=0.1, **SMALL)

    def count(dask_worker: Any) -> None:
        beat, dask_worker.beats = dask_worker.calm.beat, 0

        async def counted(heartbeat: Any) -> None:
            dask_worker.beats += 1
            await beat(heartbeat)

        dask_worker.calm.beat = counted

    with cluster.get_client() as client:
        for number in range(1000):
            client.submit(abs, number, pure=False).result()
            time.sleep(0.16)
        calm(client)
        client.run(count)
        time.sleep(30)
        assert 4 <= client.run(lambda dask_worker: dask_worker.beats).popitem()[1] <= 8
    cluster.stop()


@pytest.mark.long
def test_the_lease_of_a_dead_worker_is_released_while_all_is_calm(home: Home) -> None:
    cluster = clusters.start("main", n_workers=2, calm_after=SOON, environ=LEASE, **SMALL)
    with cluster.get_client() as client:
        semaphore = Semaphore(max_leases=1, name="one")

        def take(semaphore: Any) -> int:
            import os

            semaphore.acquire()
            return os.getpid()

        pid = client.submit(take, semaphore).result()
        calm(client)
        psutil.Process(pid).kill()
        assert semaphore.acquire(timeout=30)
        semaphore.release()
    cluster.stop()


LEASE = {
    "DASK_DISTRIBUTED__SCHEDULER__LOCKS__LEASE_TIMEOUT": "3s",
    "DASK_DISTRIBUTED__SCHEDULER__LOCKS__LEASE_VALIDATION_INTERVAL": "1s",
}
