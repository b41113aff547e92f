"""What counts as use of a cluster, what keeps it, what wakes it, and what is left at its end; limits in seconds."""

from __future__ import annotations

import contextlib
import pickle
import re
import shutil
import time
import warnings
from pathlib import Path

import dask.bag
import pytest
from distributed import Client, wait

from ports import clusters
from ports.clusters._cluster import Cluster
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.integration.test_idle import DAY, HOUR, SMALL, log_has, workers

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]


class Counter:
    """An actor."""

    def __init__(self) -> None:
        self.n = 0

    def add(self) -> int:
        self.n += 1
        return self.n


class Slow:
    """Takes `seconds` to be pickled, and makes the file `begun` then."""

    def __init__(self, begun: str, seconds: float) -> None:
        self.begun, self.seconds = begun, seconds

    def __reduce__(self) -> tuple[type[str], tuple[str]]:
        Path(self.begun).touch()
        time.sleep(self.seconds)
        return str, ("slow",)


def end_of(name: str, *, within: float = 40) -> Cluster:
    """Wait until the cluster has stopped by itself, and return it."""

    def ended() -> Cluster | None:
        found = clusters.get(name)
        # its launcher is about to say why
        return found if found.state == "stopped" and found.reason != "it was killed" else None

    return wait_until(ended, timeout=within, what=f"the end of cluster {name}", every=0.1)


def kept_in(cluster: Cluster) -> Path:
    """Return where the reason of its end says that results are."""
    found = re.search(r"held results? (?:is|are) in (\S+)", cluster.reason or "")
    assert found, cluster.reason
    return Path(found[1])


def test_results_kept_at_the_end_stay_until_their_user_removes_them(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=0, expire=8 / DAY, **SMALL)
    with cluster.get_client() as client:
        answer = client.submit(sum, [20, 22], key="the/answer")
        many = client.persist(dask.bag.from_sequence([1, 2, 3], npartitions=2))
        counter = client.submit(Counter, actor=True, key="counter").result()
        assert answer.result() == 42 and counter.add().result() == 1
        wait(many)
        ended = end_of("main")
    place = kept_in(ended)
    assert "held result counter: not kept" in log_has(cluster, "result counter")
    assert place.stat().st_mode & 0o777 == 0o700
    values = [pickle.loads(file.read_bytes()) for file in sorted(place.iterdir())]
    assert 42 in values and len(values) == 3
    with pytest.warns(UserWarning, match=re.escape(str(place))):
        clusters.cluster("main", **SMALL)
    clusters.get("main").stop()
    assert len([*place.iterdir()]) == 3
    [row] = [row for row in home.json("prune") if row["kind"] == "results"]
    assert row["name"] == "main" and "`ports prune --held` removes" in row["state"] and str(place) in row["state"]
    assert place.exists()
    [row] = [row for row in home.json("prune", "--held") if row["kind"] == "results"]
    assert row["state"] == "removed" and not place.exists()
    assert not [row for row in home.json("prune") if row["kind"] == "results"]


@pytest.mark.long
def test_only_an_actor_that_is_called_keeps_its_cluster(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=0, expire=4 / DAY, **SMALL)
    with cluster.get_client() as client:
        counter = client.submit(Counter, actor=True).result()
        until = time.monotonic() + 10
        while time.monotonic() < until:
            counter.add().result(timeout=5)
            time.sleep(0.2)
        assert clusters.get("main").state == "running"
        end_of("main")


@pytest.mark.long
def test_results_that_cannot_be_kept_put_the_end_off_until_they_can(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=0, expire=6 / DAY, **SMALL)
    with cluster.get_client() as client:
        held = client.submit(sum, [20, 22])
        assert held.result() == 42
        shutil.rmtree(home.disk)  # as a cleaner of /var/tmp may
        blocked = cluster._now.found.files.directory.parents[1] / "held"
        blocked.touch()
        log_has(cluster, "results cannot be kept")
        assert clusters.get("main").state == "running"
        blocked.unlink()
        place = kept_in(end_of("main"))
    home.disk.mkdir()
    (kept,) = place.iterdir()
    assert pickle.loads(kept.read_bytes()) == 42


@pytest.mark.long
def test_a_task_that_comes_while_results_are_kept_keeps_the_cluster(home: Home) -> None:
    cluster = clusters.start("main", n_workers=2, idle=0, expire=5 / DAY, **SMALL)
    with cluster.get_client() as client:
        slow = client.submit(Slow, str(home.work / "begun"), 4.0)
        wait(slow)
        wait_until(lambda: (home.work / "begun").exists() or None, timeout=30, what="the end", every=0.1)
        del slow  # released meanwhile
        assert client.submit(sum, [1, 2]).result(timeout=30) == 3
        time.sleep(5)
        assert client.submit(sum, [3, 4]).result(timeout=30) == 7
        end_of("main")
    assert not [path for path in home.disk.iterdir() if path.name.endswith("-held")]


@pytest.mark.long
def test_who_only_connects_wakes_a_resting_cluster_and_does_not_keep_it(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=1 / HOUR, expire=10 / DAY, **SMALL)
    until = time.monotonic() + 35
    while time.monotonic() < until and clusters.get("main").state == "running":
        with contextlib.suppress(Exception), Client(cluster.scheduler_address, timeout=3):
            pass
        time.sleep(1.5)
    assert end_of("main", within=5).reason == "no task came for 10 seconds: it expired"


@pytest.mark.long
def test_a_requested_number_of_workers_stays_until_the_next_rest(home: Home) -> None:
    cluster = clusters.start("main", n_workers=2, idle=5 / HOUR, **SMALL)
    workers(cluster, 0)
    cluster.scale(1)
    workers(cluster, 1)  # older versions of distributed return before
    until = time.monotonic() + 2.5
    while time.monotonic() < until:
        assert cluster.row()["n_workers"] == 1
        time.sleep(0.1)
    workers(cluster, 0)
    cluster.stop()


@pytest.mark.long
def test_a_function_or_data_for_workers_wakes_them_and_keeps_them(home: Home) -> None:
    cluster = clusters.start("main", n_workers=2, idle=2 / HOUR, **SMALL)

    def name(dask_worker: object) -> object:
        return dask_worker.name  # type: ignore[attr-defined]

    with cluster.get_client() as client:
        names = sorted(client.run(name).values())
        workers(cluster, 0)
        assert sorted(client.run(name).values()) == names
        workers(cluster, 0)
        assert client.gather(client.scatter([1, 2], direct=True)) == [1, 2]
        workers(cluster, 0)
        assert [*client.run(time.sleep, 5).values()] == [None, None]
    cluster.stop()


@pytest.mark.long
def test_workers_that_fail_to_start_are_started_again(home: Home) -> None:
    cluster = clusters.start("main", n_workers=2, idle=3 / HOUR, **SMALL)
    with cluster.get_client() as client:
        workers(cluster, 0)
        scratch = Path(cluster.record.scratch)
        aside = scratch.with_name("aside")  # on the same disk
        scratch.rename(aside)
        scratch.touch()
        answer = client.submit(sum, [1, 2])
        log_has(cluster, "workers do not come back")
        scratch.unlink()
        aside.rename(scratch)
        assert answer.result(timeout=60) == 3
        workers(cluster, 2)
        del answer
        workers(cluster, 0)
    cluster.stop()


@pytest.mark.long
def test_what_is_said_of_held_results_is_what_became_of_them(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, idle=2 / HOUR, **SMALL)
    with cluster.get_client() as client:
        held = client.submit(bytes, 50_000_000, key="fifty-megabytes")
        wait(held)
        assert "fifty-megabytes" in log_has(cluster, "1 result is held")
        assert "47.7 MiB are on the disk, 0 B in memory" in log_has(cluster, "of what is held")
    cluster.stop()
    cluster = clusters.start("endless", n_workers=1, idle=2 / HOUR, **{**SMALL, "memory_limit": 0})
    with cluster.get_client() as client:
        held = client.submit(bytes, 50_000_000)
        wait(held)
        assert "47.7 MiB stay in memory" in log_has(cluster, "of what is held")
    cluster.stop()


@pytest.mark.long
def test_waiting_and_held_tasks_keep_workers_and_resources_wake_them(
    home: Home,
) -> None:
    cluster = clusters.start("main", n_workers=1, idle=2 / HOUR, resources={"licence": 1}, **SMALL)
    with cluster.get_client() as client:
        queued = client.map(time.sleep, [0.5] * 10, pure=False)  # one after the other: longer than the limit
        assert client.gather(queued) == [None] * 10
        del queued
        workers(cluster, 0)
        assert client.submit(sum, [1, 2], resources={"licence": 1}).result(timeout=30) == 3
        numbers = client.persist(dask.bag.from_sequence([1, 2, 3], npartitions=2))
        client.publish_dataset(numbers=numbers)
        wait(numbers)
        del numbers
    time.sleep(5)
    assert cluster.row()["n_workers"] == 1
    with warnings.catch_warnings(), cluster.get_client() as client:
        warnings.simplefilter("ignore")
        assert client.get_dataset("numbers").sum().compute() == 6
        client.unpublish_dataset("numbers")
        workers(cluster, 0)
        held = client.persist(dask.bag.from_sequence([1, 2, 3], npartitions=2))
        wait(held)
        time.sleep(5)
        assert cluster.row()["n_workers"] == 1 and held.sum().compute() == 6
    workers(cluster, 0)
    cluster.stop()
