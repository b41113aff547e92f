"""A cluster that nobody uses gives its memory back, loses nothing, and ends after days; limits are seconds here."""

from __future__ import annotations

import inspect
import os
import pickle
import re
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from distributed import Client, Scheduler

import ports
from ports import clusters
from ports.clusters._cluster import Cluster
from ports.probe import promises
from ports.state.waiting import wait_until
from tests.integration.conftest import Home

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import promise

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]

HOUR, DAY = 3600, 86400
SMALL = {"threads_per_worker": 1, "memory_limit": "500MB", "force": True}  # whatever runs beside the tests


def workers(cluster: Cluster, n: int, *, within: float = 40) -> dict[str, object]:
    """Wait until the cluster says that it has `n` workers, and return what it says of itself."""

    def there() -> dict[str, object] | None:
        row = cluster.row()
        return row if row["n_workers"] == n else None

    return wait_until(there, timeout=within, what=f"{n} workers", every=0.1)


def log_has(cluster: Cluster, text: str, *, within: float = 40) -> str:
    def there() -> str | None:
        return next((line for line in cluster.logs() if re.search(text, line)), None)

    return wait_until(there, timeout=within, what=f"{text!r} in the log", every=0.1)


def test_an_idle_cluster_ends_its_workers_and_has_them_at_the_first_task(home: Home) -> None:
    cluster = clusters.start("main", n_workers=4, idle=3 / HOUR, **SMALL)
    with cluster.get_client() as client:
        assert client.submit(sum, [1, 2]).result() == 3
        row = workers(cluster, 0)
        assert row["asleep"] == 4
        assert row["note"] == "nobody uses it: 4 workers come back at the next task"
        owner = psutil.Process(row["pid"])  # type: ignore[arg-type]
        wait_until(
            lambda: not any("forkserver" in " ".join(one.cmdline()) for one in owner.children()) or None,
            timeout=20,
            what="end of the fork server",
            every=0.1,
        )
        shown = home.ports("cluster", "list").stdout
        assert "come back at the next task" in shown
        assert client.submit(sum, [3, 4]).result(timeout=30) == 7
        assert workers(cluster, 4)["asleep"] is None
    cluster.stop()


def test_what_is_held_keeps_its_workers_and_goes_to_the_disk(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=2 / HOUR, **SMALL)
    with cluster.get_client() as client:
        held = client.submit(bytes, 50_000_000, key="fifty-megabytes")
        held.result()
        line = log_has(cluster, "1 result is held")
        assert "fifty-megabytes" in line

        wait_until(
            lambda: client.run(lambda dask_worker: len(dask_worker.data.slow)).popitem()[1] or None,
            timeout=30,
            what="the result on the disk",
            every=0.1,
        )
        time.sleep(3)  # more than the limit: it still counts
        assert cluster.row()["n_workers"] == 1
        assert len(held.result()) == 50_000_000
        del held
        workers(cluster, 0)
        # data that is scattered wakes it too, as does a client that counts workers first
        assert client.gather(client.scatter([1, 2])) == [1, 2]
        workers(cluster, 1)
        workers(cluster, 0)
        with ports.client() as other:
            other.wait_for_workers(1, timeout=40)
            workers(cluster, 0)
            other.wait_for_workers(1, timeout=40)  # of a cluster that fell asleep since
        # with older versions it asks as any client does that only looks
        if "n_workers" in inspect.signature(Scheduler.identity).parameters:
            with Client(cluster.scheduler_address) as other:
                workers(cluster, 0)
                other.wait_for_workers(1, timeout=40)
    cluster.stop()


def test_a_long_task_is_not_idle(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=1 / HOUR, **SMALL)
    with cluster.get_client() as client:
        assert client.submit(time.sleep, 4).result() is None
    assert not [line for line in cluster.logs() if "workers end" in line and "no task" in line and "0 workers" in line]
    cluster.stop()


def test_who_scales_a_resting_cluster_says_how_many_come_back(home: Home) -> None:
    cluster = clusters.start("main", n_workers=2, idle=2 / HOUR, **SMALL)
    workers(cluster, 0)
    cluster.scale(1)
    workers(cluster, 1)
    workers(cluster, 0)
    assert cluster.row()["asleep"] == 1
    cluster.stop()


def test_zero_is_never(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=0, expire=0, **SMALL)
    time.sleep(3)
    assert cluster.row()["n_workers"] == 1
    cluster.stop()


@pytest.mark.long
def test_a_cluster_without_tasks_for_days_ends_and_keeps_held_results(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, expire=16 / DAY, idle=0, **SMALL)
    with cluster.get_client() as client:
        held = client.submit(sum, [20, 22], key="the/answer")
        assert held.result() == 42
        note = wait_until(lambda: cluster.row()["note"], timeout=40, what="the notice", every=0.1)
        assert re.match(r"ends at \S+ \S+, because no task has run since \S+ \S+; any task keeps it running", note)
        with pytest.warns(UserWarning, match="any task keeps it"), ports.client() as other:
            assert other.submit(sum, [1]).result() == 1  # which is one
        assert cluster.row()["note"] is None
        log_has(cluster, "it expired", within=60)
        ended = wait_until(
            # its launcher is about to say why
            lambda: (
                found
                if (found := clusters.get("main")).state == "stopped" and "kill" not in str(found.reason)
                else None
            ),
            timeout=40,
            what="the end of the cluster",
            every=0.1,
        )
        assert (ended.reason or "").startswith("no task came for 16 seconds: it expired; 1 held result is in /")
    line = log_has(cluster, "held result the/answer")
    (kept,) = Path(f"{cluster.record.scratch}-held").iterdir()
    assert kept.name in line
    assert pickle.loads(kept.read_bytes()) == 42
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        clusters.get("main").stop()
    assert kept.exists()
    shutil.rmtree(kept.parent)


def test_memory_that_is_not_used_is_lent_and_taken_back_where_free(home: Home) -> None:
    whole = int(psutil.virtual_memory().total * 0.9)
    cluster = clusters.start(
        "main", n_workers=1, threads_per_worker=1, memory_limit=whole, force=True, lend_after=2 / 60
    )
    own = cluster.record.promise

    def becomes(fits: Callable[[int, int], bool]) -> int:
        def look() -> int | None:
            found = promises.read_promise(own, os.getuid())
            return found["bytes"] if found and fits(found["n_threads"], found["bytes"]) else None

        return wait_until(look, timeout=20, what="another promise", every=0.05)

    log_has(cluster, "promise: no task for 2 seconds: .* are free for others until tasks come")
    n_bytes = becomes(lambda n_threads, n_bytes: n_threads == 0 and 0 < n_bytes < whole / 4)
    assert "of its memory to others until tasks come" in str(cluster.row()["note"])
    with cluster.get_client() as client:
        client.submit(sum, [1, 2]).result()
        log_has(cluster, "promise: tasks came")
        before = becomes(lambda n_threads, now: n_threads == 1 and now > n_bytes)  # what is free on this machine
        becomes(lambda n_threads, now: n_threads == 0 and now < before)
        other = promise.Promise(own[:-16] + "0123456789abcdef", (1, 1, 1 << 50))  # takes all that there is
        try:
            client.submit(sum, [1, 3]).result()
            log_has(cluster, "warning: promise: tasks came, and not all .* instead of .* each")
            now = becomes(lambda n_threads, now: n_threads == 1 and now < min(before, whole / 2))
            note = str(cluster.row()["note"])
            assert "not all of its memory is free, so its workers have " in note
            limits = client.run(lambda dask_worker: dask_worker.memory_manager.memory_limit)
            assert set(limits.values()) == {now}
        finally:
            other.close()
    cluster.stop()
