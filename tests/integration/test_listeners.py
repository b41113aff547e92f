"""``ports list`` on this machine: what a user sees of clusters, notebook servers and others, in one table."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ports import clusters, jobs, listeners, notebooks
from ports.listeners import Listener
from ports.state.waiting import wait_until
from tests.integration.conftest import Home

pytestmark = pytest.mark.xdist_group("machine")


@pytest.fixture
def web(home: Home) -> Iterator[int]:
    """A web server of one's own that everybody on the network reaches; its port."""
    code = (
        "import functools, http.server as h; s = h.ThreadingHTTPServer(('0.0.0.0', 0), h.SimpleHTTPRequestHandler); "
        "print(s.server_port, flush=True); s.serve_forever()"
    )
    with subprocess.Popen(
        [sys.executable, "-I", "-c", code], cwd=home.work, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as child:
        assert child.stdout is not None
        try:
            yield int(child.stdout.readline())
        finally:
            child.terminate()


@pytest.mark.skipif(sys.platform != "linux", reason="the variables of a process are in /proc")
def test_what_a_job_opens_is_found_with_its_id(home: Home) -> None:
    code = (
        "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); "
        "print(s.server_port, flush=True); s.serve_forever()"
    )
    command, environ = [sys.executable, "-I", "-c", code], {**os.environ, "PORTS_JOB": "4711"}
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as child:
        assert child.stdout is not None
        try:
            port = int(child.stdout.readline())
            (found,) = [one for one in listeners.list() if one.port == port]
            assert (found.name, found.job, found.http) == ("job-4711", "4711", True)
            (told,) = jobs.listening(None, "4711")
            assert (told["port"], told["is_page"], told["local_url"]) == (port, True, f"http://localhost:{port}/")
            assert jobs.listening(None, "47") == []
        finally:
            child.terminate()


def managed() -> dict[str, Listener]:
    return {str(one.name): one for one in listeners.list() if one.managed}


def test_a_cluster_and_a_notebook_server_have_one_row_each(home: Home, web: int) -> None:
    with_cluster = clusters.start("main", n_workers=2)
    try:
        notebook = notebooks.start("lab", root=home.work)
        try:
            tree = {process.pid for process in psutil.Process(os.getpid()).children(recursive=True)}
            rows: list[dict[str, Any]] = home.json("list")
            found = {row["name"]: row for row in rows if row["managed"] or row["port"] == web}
            assert [(row["kind"], row["state"]) for row in list(found.values())[:2]] == [
                ("cluster", "running"),
                ("notebook", "running"),
            ]
            assert found["main"]["path"] == with_cluster.record.dashboard and found["main"]["port"] is None
            assert found["lab"]["url"] == f"http://localhost:{notebook.port}/{notebook.url_path}"
            (other,) = (row for row in rows if row["port"] == web)
            assert (other["http"], other["open_to_network"], other["directory"]) == (True, True, str(home.work))
            assert not {row["pid"] for row in rows if not row["managed"]} & (tree - {other["pid"]})
            assert notebook.token and notebook.token not in json.dumps(rows)
            table = home.ports("list").stdout
            assert "open to the network" in table and notebook.token not in table
        finally:
            notebook.stop()
    finally:
        with_cluster.stop()
    assert managed() == {}


# In a task: a plain cluster, which anybody may use, and a port that other machines reach.
OPENED = """
import distributed, ports, socket, sys
def open_doors():
    worker = distributed.get_worker()
    worker.door = socket.create_server(("0.0.0.0", 0))
    worker.plain = distributed.LocalCluster(n_workers=1, threads_per_worker=1)
    return worker.door.getsockname()[1]
def close_doors(dask_worker):
    dask_worker.door.close()
    dask_worker.plain.close()
with ports.client(reuse="any") as client:
    print(client.submit(open_doors, pure=False).result(timeout=60), flush=True)
    sys.stdin.read()
    client.run(close_doors)
"""


@pytest.mark.parametrize("security", ["sockets", "tls"])
@pytest.mark.ci
def test_what_a_task_opens_is_listed_with_what_others_can_do_with_it(home: Home, security: str) -> None:
    started = clusters.start("main", n_workers=1, security=security)
    pipe = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", OPENED], cwd=home.work, text=True, **pipe) as client:
        assert client.stdin is not None and client.stdout is not None
        port = int(client.stdout.readline())
        found = [one for one in listeners.list() if "of cluster 'main'" in str(one.reason)]
        exposed = {each.reason: each for one in found for each in one.exposed}
        assert set(exposed) == {"dask", "network"}
        assert any(str(port) in each.what for one in found for each in one.exposed)  # with certificates, in its own row
        assert exposed["dask"].hint.startswith("end the task of cluster 'main' that opened it, `ports.client()`")
        own = managed()["main"]
        assert own.path == started.record.dashboard and not own.exposed and not own.open_to_network
        client.stdin.close()
        assert client.wait(60) == 0
    assert not [one for one in listeners.list() if "of cluster 'main'" in str(one.reason)]
    started.stop()


def test_a_killed_cluster_is_listed_as_stopped_with_the_reason(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1)
    spilled = Path(cluster.record.scratch, "dask-scratch-space", "storage")
    spilled.write_bytes(b"data that a worker spilled")
    try:
        os.kill(managed()["main"].pid or 0, signal.SIGKILL)
        found = wait_until(
            lambda: managed()["main"] if managed()["main"].state == "stopped" else None, timeout=10, what="its end"
        )
        assert "killed" in str(found.reason) and found.path is None
        left = Path(cluster.record.scratch)
        wait_until(lambda: [*left.iterdir()] == [] or None, timeout=20, what="the end of what its workers wrote there")
    finally:
        cluster.stop()


@pytest.mark.ci
def test_a_cluster_without_its_sockets_is_listed_with_a_way_out(home: Home) -> None:
    """What the row says is done, and helps."""
    clusters.start("main", n_workers=1)
    shutil.rmtree(home.runtime)  # somebody tidies /tmp
    (row,) = (one for one in home.json("list") if one["managed"])
    assert "removed its sockets" in row["reason"] and "does not answer yet" not in row["reason"]
    for command in re.findall("`ports ([^`]+)`", row["reason"]):
        done = home.ports(*command.split(), *(["--n-workers", "1"] if "start" in command else []))
        assert done.returncode == 0, done.stderr
    (row,) = (one for one in home.json("list") if one["managed"])
    assert row["state"] == "running" and row["path"] and row["reason"] is None


def test_another_machine_s_records_in_a_shared_home_are_not_listed(home: Home) -> None:
    other = home.state / "hosts" / ("f" * 32) / "clusters" / "main"
    other.mkdir(parents=True)
    (other / "record.json").write_text('{"format": 1}')
    assert managed() == {} and (other / "record.json").exists()
    shutil.rmtree(other)
