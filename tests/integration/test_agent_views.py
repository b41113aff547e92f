"""What the program on a host tells somebody who watches: users of the machine, jobs, and numbers of clusters."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ports import jobs, probe
from ports.errors import FarSideError
from ports.state import wait_until
from ports.tunnels._agent_session import PYTHON
from tests.integration.conftest import Home, stop_resource
from tests.integration.test_agent import HERE, NOT_ROOT, OLD_PYTHON, Far, echo, far, run, say, service

ALL = {"who": True, "jobs": 50, "clusters": True, "patience": 60.0}
PATIENCE = 60.0  # seconds

pytestmark = [pytest.mark.usefixtures("home"), pytest.mark.timeout(150), pytest.mark.ci]


def processes_of(found: Far) -> list[int]:
    """Return the processes of the program: what connects, what watches, and once somebody looked, what looks."""
    children = psutil.Process(found.process.pid).children(recursive=True)
    return [one.pid for one in children if not probe.is_zombie(one.pid)]


@pytest.fixture
def folder(home: Home) -> Iterator[Path]:
    """The directory of a cluster's records; its socket is `owner.sock` in the runtime directory."""
    found = Path(probe.host_directory()) / "clusters" / "main"
    found.mkdir(parents=True)
    (found / "running.json").write_text(json.dumps({"format": 1, "dashboard": str(home.runtime / "owner.sock")}))
    yield found
    shutil.rmtree(found)


@pytest.fixture
def owner(home: Home, folder: Path) -> Iterator[list[bytes]]:
    """A cluster on the disk with a socket that answers; yields what was asked there."""
    asked: list[bytes] = []
    path = str(home.runtime / "owner.sock")
    told = {"n_workers": 3, "tasks_per_second": 1.5, "name": "main", "history": [[7.0, 3, 1, 2, 3, 4, 1.5]]}

    def answer() -> None:
        while True:
            connection, _ = listener.accept()
            with connection:
                asked.append(connection.recv(4096))
                if not asked[-1]:
                    return
                body = json.dumps(told).encode()
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=answer)
        thread.start()
        yield asked
        with socket.socket(socket.AF_UNIX) as last:
            last.connect(path)
        thread.join()


PYTHONS = [pytest.param(HERE, id="this python")]
if OLD_PYTHON is not None:
    PYTHONS.append(pytest.param(PYTHON.format(python=OLD_PYTHON), id="python 3.6"))


@pytest.mark.parametrize("command", PYTHONS)
def test_users_jobs_and_clusters_come_over_the_running_session(command: str, owner: list[bytes]) -> None:
    async def test() -> None:
        async with far(command=command) as found:
            told = await found.agent.view({**ALL, "since": {"clusters": {"main": 6}}}, timeout=PATIENCE)
            assert told["troubles"] == {} and not found.lost
            me = next(one for one in told["who"]["users"] if one["uid"] == os.getuid())
            assert me["n_processes"] > 0 and told["who"]["host"] == socket.gethostname()
            assert told["jobs"]["rows"] == [] and told["jobs"]["resource"] is None and told["jobs"]["at_rest"]
            assert told["clusters"] == {"main": {"n_workers": 3, "tasks_per_second": 1.5}}
            assert told["history"]["clusters"] == {"main": [[7.0, 3, 1, 2, 3, 4, 1.5]]}
            assert owner[0].startswith(b"GET /ports.json?since=6.0 ")
            assert not [one for one in found.messages if one["type"] not in ("document", "ends")]

    run(test)


def test_nobody_looks_and_no_process_looks_one_look_and_it_stays(owner: list[bytes]) -> None:
    async def test() -> None:
        async with far() as found:
            await found.until(found.documents, "first document")
            before = processes_of(found)
            assert len(before) == 1 and owner == []
            for _ in range(3):
                await found.agent.view(ALL, timeout=PATIENCE)
            (new,) = set(processes_of(found)) - set(before)
            assert len(owner) == 3
            os.kill(new, 9)
            await found.until(lambda: set(processes_of(found)) == set(before), "end of that process")
            told = await found.agent.view(ALL, timeout=PATIENCE)
            assert told["clusters"]["main"]["n_workers"] == 3

    run(test)


def test_only_what_is_asked_for_is_looked_at(owner: list[bytes]) -> None:
    async def test() -> None:
        async with far() as found:
            told = await found.agent.view({"jobs": 5}, timeout=PATIENCE)
            assert told["who"] is None and told["clusters"] is None and told["jobs"]["rows"] == []
            assert owner == []

    run(test)


def test_looks_that_hang_let_connections_go_on_and_are_refused_then(owner: list[bytes]) -> None:
    async def test() -> None:
        async with far() as found, service(echo) as where:
            before = set(processes_of(found))
            await found.agent.view(ALL, timeout=PATIENCE)
            (looks,) = set(processes_of(found)) - before
            os.kill(looks, 19)  # SIGSTOP: as on a file server that does not answer
            hanging = [asyncio.ensure_future(found.agent.view(ALL, timeout=PATIENCE)) for _ in range(4)]
            await asyncio.sleep(0)  # they are sent in this order
            with pytest.raises(FarSideError, match="a disk there does not answer"):
                await found.agent.view(ALL, timeout=PATIENCE)
            assert await say(found, where, b"still here") == b"still here"
            os.kill(looks, 18)
            answers: list[dict[str, Any]] = await asyncio.gather(*hanging)
            assert [one["clusters"]["main"]["n_workers"] for one in answers] == [3] * 4

    run(test)


def test_a_cluster_that_says_nothing_does_not_hold_up_the_others(home: Home, folder: Path) -> None:
    path = str(home.runtime / "owner.sock")

    async def test() -> None:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen()
            async with far() as found:
                quick = {**ALL, "patience": 1.0}
                first = await found.agent.view(quick, timeout=PATIENCE)
                again = await found.agent.view(quick, timeout=PATIENCE)  # which does not wait for it
                for told in (first, again):
                    assert told["clusters"] == {"main": None} and told["who"] is not None
                    assert "does not answer" in told["troubles"]["cluster main"]
            listener.settimeout(PATIENCE)
            assert listener.accept()[0].recv(4096)
            listener.setblocking(False)
            with pytest.raises(BlockingIOError):
                listener.accept()

    run(test)


@NOT_ROOT
def test_another_users_socket_in_the_place_of_a_cluster_says_nothing(home: Home, folder: Path) -> None:
    path = str(home.runtime / "owner.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        child = os.fork()
        if not child:  # the kernel tells who called listen
            os.setuid(65534)
            listener.listen()
            time.sleep(600)
        try:
            viewer, end = probe.view.Viewer(), time.monotonic() + PATIENCE
            while True:
                told = viewer.view({"clusters": True, "patience": 60.0})
                viewer.silent.clear()
                if "65534" in told["troubles"].get("cluster main", "") or time.monotonic() > end:
                    break
            assert told["clusters"] == {"main": None}
            assert "uid 65534 answers" in told["troubles"]["cluster main"]
        finally:
            os.kill(child, 9)
            os.waitpid(child, 0)


@pytest.mark.xdist_group("machine")
def test_the_compute_resource_is_seen_as_it_comes_and_goes(home: Home) -> None:
    viewer = probe.view.Viewer()

    def look(is_there: bool) -> dict[str, Any] | None:
        found: dict[str, Any] | None = viewer.view({"jobs": 5})["jobs"]
        return found if found is not None and (found["resource"] is not None) == is_there else None

    assert (look(False) or {})["at_rest"]
    jobs.start_resource()
    try:
        job = json.loads(home.ports("job", "submit", "--json", "--", "true").stdout)
        seen = wait_until(lambda: look(True), timeout=PATIENCE, what="the resource")
        assert seen["resource"]["capacity"]["cpus"] > 0 and not seen["at_rest"]
        assert [row["id"] for row in seen["rows"]] == [str(job["id"])]

        def finished() -> bool | None:
            counts = (look(True) or {}).get("counts") or {}
            return True if counts.get("finished") == 1 else None

        wait_until(finished, timeout=PATIENCE, what="the end of the job")
        # nothing runs and nothing has changed: it is not asked
        wait_until(lambda: look(True) is look(True) or None, timeout=PATIENCE, what="two looks that are one")
    finally:
        stop_resource()
    gone = wait_until(lambda: look(False), timeout=PATIENCE, what="the end of the resource")
    assert gone["counts"]["finished"] == 1 and gone["rows"][0]["state"] == "finished"
