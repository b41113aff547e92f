"""The owner of a cluster: what it reads of the record, and policies that serve any cluster object."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import sys
import typing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client, Scheduler, SpecCluster, Worker

import ports
from ports.clusters import ClusterRecord
from ports.sessions import new_identity
from ports.state import settings

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import guard_rules, log, owner, scheduler
from ports_owner.policies import Policies
from ports_owner.record import Record, read_record
from ports_owner.workers import PrivateWorker

FIELDS = {one.name: one for one in dataclasses.fields(Record)}
OPTIONS = set(settings.options("cluster"))
HOUR = 3600.0


def recorded(**options: Any) -> ClusterRecord:
    mine, now = new_identity()
    given = {"kind": "cluster", "name": "main", "created_at": now, "interpreter": sys.executable, "directory": "/"}
    return ClusterRecord(**{**given, "started_by": mine, **options})


def test_the_owner_and_ports_agree_on_the_fields_of_a_record() -> None:
    theirs = {one.name: one for one in dataclasses.fields(ClusterRecord)}
    own_types, their_types = typing.get_type_hints(Record), typing.get_type_hints(ClusterRecord)
    for name, field in FIELDS.items():
        assert name in theirs or name in OPTIONS, name
        if name not in theirs:
            default = settings.get("cluster")[name]
            assert isinstance(default, own_types[name]), name
        elif name != "started_by":
            assert (own_types[name], field.default) == (their_types[name], theirs[name].default), name
    assert OPTIONS - set(theirs) <= set(FIELDS), "options that only the owner can know, and does not read"


def test_the_owner_reads_what_ports_writes(tmp_path: Path) -> None:
    written = recorded(n_workers=3, gpu_ids=("GPU-1",), sys_path=("/a",), for_owner={"nice": 7, "idle": 0.5})
    (tmp_path / "record.json").write_text(json.dumps({**written.to_json(), "of_a_newer_version": 1}))
    read = read_record(tmp_path)
    assert (read.name, read.n_workers, read.gpu_ids, read.sys_path) == ("main", 3, ("GPU-1",), ("/a",))
    assert (read.nice, read.idle, read.guard) == (7, 0.5, "off")
    assert read.started_by == written.started_by.to_json()


async def until(condition: Any) -> None:
    for _ in range(400):
        if condition():
            return
        await asyncio.sleep(0.025)
    raise AssertionError("not within 10 s")


def test_the_policies_serve_a_cluster_of_another_kind(tmp_path: Path) -> None:
    async def run() -> None:
        worker = {"cls": PrivateWorker, "options": {"nthreads": 1, "local_directory": str(tmp_path)}}
        scheduler = {"cls": Scheduler, "options": {"protocol": "inproc", "dashboard": False, "dashboard_address": ":0"}}
        record = Record("main", {}, guard="pause", idle=0.3 / HOUR, scratch=str(tmp_path / "scratch"))
        record = dataclasses.replace(record, dashboard=str(tmp_path / "dashboard.sock"))
        async with SpecCluster({0: worker}, scheduler, worker, asynchronous=True) as cluster:
            policies = Policies(cluster, record, tmp_path, asyncio.get_running_loop().create_future())
            async with Client(cluster, asynchronous=True) as client:
                assert await client.submit(sum, [1, 2]) == 3
                await until(lambda: policies.summary()["asleep"] == 1 and not cluster.scheduler.workers)
                assert await client.submit(sum, [3, 4]) == 7  # the worker comes back for it
                await policies.scale(2)
                await until(lambda: len(cluster.scheduler.workers) == 2)
                async with Worker(cluster.scheduler_address, name="joined", local_directory=str(tmp_path)):
                    policies.idle.send(guard_rules.SPILL)  # a message that a plain worker does not understand
                    assert await client.submit(sum, [5, 6], workers=["joined"]) == 11
            policies.close()

    asyncio.run(asyncio.wait_for(run(), 60))


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("distributed.worker", "Failed to communicate with scheduler during heartbeat.", False),
        ("distributed.worker.state_machine", "Async instruction for <Task> ended with CancelledError", False),
        ("distributed.scheduler", "Removing worker 'x' caused the cluster to lose already computed task(s)", False),
        ("distributed.nanny", "Worker process still alive after 4.0 seconds, killing", False),
        ("distributed.batched", "Batched Comm Closed %r", False),
        ("distributed.nanny", "Failed to start process", True),
        ("mine", "Removing worker", True),
    ],
)
def test_what_dask_warns_of_at_each_end_is_no_news(name: str, text: str, expected: bool) -> None:
    record = logging.LogRecord(name, logging.WARNING, "", 0, text, (), None)
    assert log.is_news(record) is expected


def test_clients_learn_who_ended_their_cluster(tmp_path: Path) -> None:
    assert "ended at" in (told := owner.why_it_ends("main", tmp_path))
    assert told.endswith(": it got SIGTERM; ports.client('main') starts it again")
    (tmp_path / "why").write_text("no task came for 14 days: it expired")
    assert ": no task came for 14 days: it expired; ports.client(" in owner.why_it_ends("main", tmp_path)


def test_a_worker_runs_no_more_tasks_than_it_has_threads() -> None:
    seen = [({1, 2, 3}, set(), 2), ({1, 2, 3, 4}, {4}, 2), ({4}, {4}, 2), (set(), set(), 1)]
    workers = [SimpleNamespace(processing=busy, long_running=left, nthreads=n) for busy, left, n in seen]
    assert [*map(scheduler.n_running, workers)] == [2, 3, 1, 0]
