"""The compute resource at work: started, asked, killed in all its parts, stopped."""

from __future__ import annotations

import collections
import contextlib
import os
import secrets
import shutil
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ports import clusters
from ports.errors import ConflictError, NotFoundError, PortsError
from ports.jobs import _places, _resource, _travel
from ports.jobs._connection import Connection
from ports.state import wait_until
from tests.integration.conftest import Home, stop_resource

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]


@pytest.fixture
def site(home: Home) -> Iterator[Home]:
    """A home in which a resource may run; it and its cluster are stopped afterwards."""
    yield home
    stop_resource()


def submit(connection: Connection, function: Callable[..., Any], calls: list[Any], **fields: Any) -> str:
    """Submit a map of calls with one argument each; return its id."""
    parcel = _travel.pack(function, [((one,), {}) for one in calls])
    submission = {"kind": "function", "name": function.__name__, **fields}
    header = connection.ask(
        "submit",
        [parcel.function, *parcel.arguments],
        key=secrets.token_hex(16),
        submission=submission,
        count=len(calls),
    ).header
    return str(header["id"])


def results(connection: Connection, job: str, timeout: float = 100) -> dict[int, Any]:
    """Return the results of a map by index; a state where there is none."""
    found: dict[int, Any] = {}
    for frame in connection.stream("result", id=job, wait=None, timeout=timeout, **{"from": 0}):
        header = frame.header
        for index, state, blob in zip(header["indices"], header["states"], frame.blobs, strict=True):
            found[index] = _travel.unpack(blob, job) if state == "finished" else state
    return found


def processes(words: str) -> list[psutil.Process]:
    """Return the processes of this home's jobs whose command line has `words`."""
    own = str(_places.here().runtime)
    found = []
    for one in psutil.process_iter(["cmdline"]):
        line = " ".join(one.info["cmdline"] or ())
        try:
            if words in line and (own in line or one.environ().get("PORTS_HOME") == os.environ["PORTS_HOME"]):
                found.append(one)
        except psutil.Error:
            continue
    return found


def the_worker() -> int:
    """Return the process in which the slots are: the parent of a child."""
    (child, *_) = wait_until(lambda: processes("/child.py ") or None, timeout=60, what="a child")
    return int(child.ppid())


def test_a_function_comes_back_with_its_result(site: Home) -> None:
    with _resource.connect() as connection:
        job = submit(connection, lambda x: x + 1, [41])
        assert results(connection, job) == {0: 42}
        status = connection.ask("status").header
        assert (status["counts"]["finished"], status["cluster"]["state"]) == (1, "running")
    row = _resource.get_resource().row()
    assert (row["kind"], row["name"], row["state"], row["counts"]["finished"]) == ("resource", "jobs", "running", 1)


def test_the_socket_answers_before_there_is_a_cluster(site: Home) -> None:
    with _resource.connect() as connection:
        assert connection.ask("status").header["cluster"]["state"] == "not started"
    with pytest.raises(NotFoundError):
        clusters.get("jobs")


def test_the_resource_is_started_shown_drained_and_stopped(site: Home) -> None:
    assert "no compute resource" in site.ports("resource", "list").stdout + site.ports("resource", "list").stderr
    assert site.json("resource", "start")["state"] == "running"
    again = site.ports("resource", "start")
    assert again.returncode == 4 and "exists already" in again.stderr
    (row,) = site.json("resource", "list")
    assert (row["kind"], row["state"], row["draining"]) == ("resource", "running", False)
    (listed,) = [one for one in site.json("list") if one["kind"] == "resource"]
    assert (listed["name"], listed["state"], listed["managed"]) == ("jobs", "running", True)
    assert site.json("resource", "drain")["draining"] is True
    with _resource.connect() as connection:
        job = submit(connection, abs, [-1])
    assert "begins no more" in site.ports("resource", "drain").stdout
    assert "1 waits" in site.ports("resource", "resume").stdout
    with _resource.connect() as connection:
        assert results(connection, job) == {0: 1}
    assert site.json("resource", "show")["counts"]["finished"] == 1
    assert site.json("resource", "stop")["state"] == "stopped"
    assert site.ports("resource", "show").returncode == 3


def test_a_stop_says_what_runs_and_waits_or_ends_it(site: Home) -> None:
    with _resource.connect() as connection:
        job = submit(connection, time.sleep, [60], retries={"lost": 0})
        running = lambda: connection.ask("show", id=f"{job}.0").header["row"]["state"] == "running" or None  # noqa: E731
        wait_until(running, timeout=60, what="the job")
    found = _resource.get_resource()
    with pytest.raises(ConflictError, match=rf"jobs run: {job}\.0; `ports resource stop --wait`"):
        found.stop()
    assert site.ports("resource", "stop", "--now").returncode == 0
    with pytest.raises(NotFoundError):
        _resource.get_resource()
    with _resource.connect() as connection:
        row = connection.ask("show", id=f"{job}.0").header["row"]
        assert row["state"] in ("pending", "running") and row["attempt"] >= 1, row
        assert "Lost: the compute resource was stopped" in [one.get("reason") for one in row["transitions"]]
        short = submit(connection, time.sleep, [0.5])
        connection.ask("cancel", ids=[job], reason="")
        wait_until(lambda: connection.ask("status").header["running"] or None, timeout=60, what="the short job")
    _resource.get_resource().stop(wait=True)
    with _resource.connect() as connection:
        assert results(connection, short) == {0: None}
        assert connection.ask("status").header["draining"] is False
        assert results(connection, submit(connection, abs, [-3])) == {0: 3}


def test_a_resource_that_was_killed_goes_on_where_it_was(site: Home, tmp_path: Path) -> None:
    file = tmp_path / "effects"

    def append(number: int) -> int:
        with file.open("a") as out:
            out.write(f"{number}\n")
        time.sleep(0.01)
        return number

    with _resource.connect() as connection:
        job = submit(connection, append, list(range(200)))
        wait_until(lambda: (file.exists() and file.stat().st_size > 100) or None, timeout=60, what="effects")
        pid = connection.resource["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: None if psutil.pid_exists(pid) and _zombie(pid) is False else True, timeout=10, what="its end")
    assert site.json("resource", "show")["state"] == "stopped"
    began = time.monotonic()
    with _resource.connect() as connection:
        took = time.monotonic() - began
        assert results(connection, job) == {number: number for number in range(200)}
    assert took < 30
    assert sorted(map(int, file.read_text().split())) == list(range(200))  # none is repeated


def _zombie(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def test_all_jobs_end_once_while_all_parts_are_killed(site: Home, tmp_path: Path) -> None:
    """Effects are compared with the attempts that are recorded, never more, and with the jobs, never fewer."""
    file = tmp_path / "effects"
    n_jobs = 300

    def append(number: int) -> int:
        with file.open("a") as out:
            out.write(f"{number}\n")
        time.sleep(0.02)
        return number

    def effects() -> int:
        return file.read_text().count("\n") if file.exists() else 0

    with _resource.connect() as connection:
        job = submit(connection, append, list(range(n_jobs)), retries={"lost": 10})
        pid = connection.resource["pid"]
    for mark, end in (
        (20, lambda: [one.kill() for one in processes("/child.py ")]),
        (80, lambda: os.kill(the_worker(), signal.SIGKILL)),
        (140, lambda: os.kill(pid, signal.SIGKILL)),
        (160, lambda: [one.kill() for one in processes("/child.py ")]),
        (200, lambda: os.kill(the_worker(), signal.SIGKILL)),
    ):
        wait_until(lambda mark=mark: effects() >= mark or None, timeout=90, what=f"{mark} effects")  # type: ignore[misc]
        end()
        if mark == 140:
            wait_until(lambda: _zombie(pid) or None, timeout=10, what="its end")
            _resource.connect().close()
    with _resource.connect() as connection:
        found = results(connection, job)
        rows = [connection.ask("show", id=f"{job}.{number}").header["row"] for number in range(n_jobs)]
    assert found == {number: number for number in range(n_jobs)}
    counted = collections.Counter(map(int, file.read_text().split()))
    assert set(counted) == set(range(n_jobs))
    attempts = {number: row["attempt"] for number, row in enumerate(rows)}
    assert all(counted[number] <= attempts[number] for number in range(n_jobs)), (counted, attempts)


def test_a_cluster_that_was_stopped_is_started_for_the_next_job(site: Home) -> None:
    with _resource.connect() as connection:
        assert results(connection, submit(connection, abs, [-1])) == {0: 1}
        clusters.stop("jobs")
        assert results(connection, submit(connection, abs, [-2])) == {0: 2}


def test_slots_without_work_end_and_come_back(site: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_PORTS__JOBS__SLOT_IDLE", "1")
    with _resource.connect() as connection:
        assert results(connection, submit(connection, abs, [-1])) == {0: 1}
        slots = lambda: connection.ask("status").header["slots"]  # noqa: E731
        wait_until(lambda: True if not slots() else None, timeout=20, what="the end of the slot")
        wait_until(lambda: None if processes("/child.py ") else True, timeout=10, what="the end of its child")
        n_tasks = lambda: (clusters.get("jobs").summary or {}).get("n_tasks")  # noqa: E731
        wait_until(lambda: True if n_tasks() == 0 else None, timeout=20, what="the end of its task")
        assert results(connection, submit(connection, abs, [-2])) == {0: 2}


def test_a_removed_runtime_directory_comes_back(site: Home) -> None:
    with _resource.connect() as connection:
        job = submit(connection, time.sleep, [3])
        wait_until(lambda: connection.ask("status").header["running"] or None, timeout=60, what="the job")
        places = _places.here()
        shutil.rmtree(places.leases)
        places.socket.unlink()
        assert results(connection, job) == {0: None}
    wait_until(lambda: True if places.socket.exists() else None, timeout=10, what="the socket")
    with _resource.connect(start=False) as connection:
        assert results(connection, submit(connection, abs, [-2])) == {0: 2}


def test_a_store_of_a_newer_ports_is_said_at_the_start(site: Home) -> None:
    _resource.connect().close()
    _resource.get_resource().stop()
    with contextlib.closing(sqlite3.connect(_places.here().store)) as database:
        database.execute("PRAGMA user_version = 1000")
        database.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    done = site.ports("resource", "start")
    assert done.returncode == 7 and "upgrade ports with" in done.stderr and "Traceback" not in done.stderr


def test_a_resource_of_another_protocol_is_refused_in_words(site: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    _resource.connect().close()
    monkeypatch.setattr("ports.jobs._connection.PROTOCOL", 99)
    with pytest.raises(PortsError, match="asks in protocol 99, but this resource answers in 1"):
        Connection(_places.here().socket)
