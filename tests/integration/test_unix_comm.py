"""Clusters on Unix sockets: no TCP port at all, and all that a client of Dask does works over them."""

from __future__ import annotations

import os
import re
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pytest
from distributed import Client, Lock, Queue, Variable, get_client, secede, worker_client

import ports
from ports import clusters
from ports.clusters._cluster import Cluster
from ports.errors import DaskError
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.integration.test_cluster_privacy import tcp_listeners
from tests.lab.processes import listeners

pytestmark = pytest.mark.ci

SMALL = {"threads_per_worker": 1, "memory_limit": "1GB", "security": "sockets"}


@pytest.fixture(scope="module")
def main(shared_home: Home) -> Iterator[Cluster]:
    yield clusters.start("main", n_workers=2, **SMALL)
    clusters.get("main").stop()


@pytest.fixture
def client(main: Cluster) -> Iterator[Client]:
    with ports.client() as found:
        yield found


def sockets_of(home: Home) -> list[Path]:
    """Return the Unix sockets on which something listens for this home, but for tmux's."""
    found = [Path(one.where) for one in listeners(Path("/proc/self")) if one.where.startswith(str(home.runtime))]
    return [path for path in found if path.name != "tmux.sock"]


@pytest.mark.quick
def test_no_process_of_a_cluster_listens_on_tcp(shared_home: Home, main: Cluster, client: Client) -> None:
    client.wait_for_workers(2, timeout=30)
    assert len([one for one in shared_home.processes() if "python" in one.name()]) >= 4  # launcher, owner, two workers
    assert tcp_listeners(shared_home) == {}
    own = Path(main.record.sockets)
    assert {path.parent for path in sockets_of(shared_home)} == {shared_home.runtime, own}
    assert len(os.listdir(own)) == 5  # scheduler, two nannies, two workers
    assert stat.S_IMODE(own.stat().st_mode) == 0o700
    assert all(stat.S_IMODE(path.stat().st_mode) & 0o077 == 0 for path in own.iterdir())
    assert all(len(os.fsencode(path)) < 108 for path in own.iterdir())


@pytest.mark.quick
def test_it_is_what_a_cluster_has_where_nothing_is_said(shared_home: Home, main: Cluster) -> None:
    shown = shared_home.json("cluster", "show", "main")
    assert (shown["security"], shown["state"]) == ("sockets", "running")
    assert shown["address"] == main.scheduler_address == f"unix://{main.record.sockets}/scheduler"
    assert not main._now.found.files.credentials.exists()  # nothing to steal


@pytest.mark.quick
def test_a_plain_client_needs_nothing_but_the_address(shared_home: Home, main: Cluster) -> None:
    code = "import sys; from distributed import Client\n"
    code += "with Client(sys.argv[1], timeout=10) as client: print(client.submit(sum, [1, 2]).result())"
    done = shared_home.python(code, main.scheduler_address)
    assert done.stdout == "3\n", done.stderr


def test_a_stopped_owner_is_an_error_after_the_timeout(main: Cluster) -> None:
    owner = main._now.running.process.pid
    os.kill(owner, signal.SIGSTOP)
    try:
        with pytest.raises(DaskError, match=r"the scheduler did not answer within 0\.5 s"):
            main.get_client(timeout=0.5)
    finally:
        os.kill(owner, signal.SIGCONT)
    with main.get_client() as client:
        assert client.submit(sum, [1, 2]).result(timeout=20) == 3


@pytest.mark.quick
def test_data_passes_between_workers_and_to_the_client(client: Client) -> None:
    client.wait_for_workers(2, timeout=30)
    one, other = client.scheduler_info()["workers"]
    made = client.submit(np.arange, 3_000_000, workers=[one], pure=False)
    total = client.submit(np.sum, made, workers=[other])
    assert int(total.result()) == 3_000_000 * 2_999_999 // 2
    assert made.result().nbytes == 24_000_000
    kept = client.scatter(np.ones(3_000_000), direct=False)
    assert float(client.submit(np.sum, kept).result()) == 3_000_000


@pytest.mark.quick
def test_tasks_have_clients_locks_queues_and_variables(client: Client) -> None:
    def from_within(number: int) -> int:
        with Lock("a lock"):
            Queue("a queue").put(number)
        secede()  # the thread goes to the tasks that are waited for
        return int(get_client().submit(sum, [number, 1]).result())

    def with_a_client(number: int) -> int:
        with worker_client() as inner:
            return int(inner.submit(sum, [number, 2]).result())

    Variable("a variable").set("shared")
    assert client.gather(client.map(from_within, range(3))) == [1, 2, 3]
    assert sorted(Queue("a queue").get() for _ in range(3)) == [0, 1, 2]
    assert client.submit(with_a_client, 1).result() == 3
    assert client.submit(lambda: Variable("a variable").get()).result() == "shared"


@pytest.mark.quick
def test_messages_of_tasks_and_events_arrive(client: Client) -> None:
    got: list[object] = []
    client.subscribe_topic("news", lambda event: got.append(event[1]))

    def tell() -> None:
        from distributed import get_worker

        get_worker().log_event("news", "hello")

    client.submit(tell, pure=False).result()
    wait_until(lambda: got or None, timeout=10, what="event")
    client.unsubscribe_topic("news")
    assert got == ["hello"]


def test_the_cluster_scales_retires_and_restarts(shared_home: Home, main: Cluster, client: Client) -> None:
    main.scale(3)
    client.wait_for_workers(3, timeout=60)
    before = client.run(os.getpid)
    client.retire_workers(list(before)[:1])
    wait_until(lambda: len(client.scheduler_info()["workers"]) < 3 or None, timeout=30, what="retired worker")
    main.scale(2)
    client.wait_for_workers(2, timeout=60)
    main.restart()
    client.wait_for_workers(2, timeout=60)
    wait_until(lambda: not set(client.run(os.getpid).values()) & set(before.values()) or None, timeout=30, what="anew")
    assert client.submit(sum, [1, 2]).result() == 3
    assert tcp_listeners(shared_home) == {}
    wait_until(
        lambda: len(os.listdir(main.record.sockets)) == 5 or None, timeout=10, what="sockets of the living alone"
    )


def test_a_killed_worker_is_replaced_and_its_socket_goes(main: Cluster, client: Client) -> None:
    client.wait_for_workers(2, timeout=30)
    [(address, pid), *_] = client.run(os.getpid).items()
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: address not in client.scheduler_info()["workers"] or None, timeout=30, what="end of the worker")
    client.wait_for_workers(2, timeout=60)
    gone = Path(address.removeprefix("unix://"))
    wait_until(lambda: not gone.exists() or None, timeout=30, what="removal of the socket")


def test_a_client_of_a_killed_cluster_fails_at_once_and_stop_removes_all(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, **SMALL)
    address, own = cluster.scheduler_address, Path(cluster.record.sockets)
    psutil.Process(cluster.row()["pid"]).kill()
    wait_until(lambda: clusters.get("main").state == "stopped" or None, timeout=20, what="end of the cluster")
    code = "import sys, time, distributed; start = time.monotonic()\n"
    code += "try: distributed.Client(sys.argv[1], timeout=30)\n"
    code += "except OSError as error: print(f'{time.monotonic() - start:.1f} s: {error}')"
    done = home.python(code, address)
    found = re.match(r"(\d+\.\d) s: nobody listens on unix:///", done.stdout)
    assert found and float(found[1]) < 8, done.stderr
    clusters.get("main").stop()
    assert not own.exists() and sockets_of(home) == []


def test_threads_of_one_process_keep_the_address_when_they_run_anew(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, processes=False, **SMALL)
    address = cluster.scheduler_address
    cluster.restart()
    assert cluster.scheduler_address == address
    with cluster.get_client() as client:
        assert client.submit(sum, [1, 2]).result() == 3
    assert tcp_listeners(home) == {}


def test_workers_of_a_fork_server_listen_on_sockets_too(home: Home) -> None:
    cluster = clusters.start("main", n_workers=2, worker_start="forkserver", **SMALL)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=60)
        assert all(address.startswith("unix://") for address in client.scheduler_info()["workers"])
    assert tcp_listeners(home) == {}


def test_the_clusters_environment_may_lack_ports(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if not Path(entry, "ports").is_dir()])
    bare = home.work / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    [site] = bare.glob("lib/python*/site-packages")
    for path in Path(np.__file__).parents[1].iterdir():
        if not re.search("ports|distutils|_virtualenv", path.name):
            (site / path.name).symlink_to(path)
    cluster = clusters.start("main", n_workers=1, env=str(bare), **SMALL)
    with cluster.get_client() as client:

        def find() -> object:
            import importlib.util

            return importlib.util.find_spec("ports")

        assert client.submit(find).result(timeout=60) is None


@pytest.mark.skipif(os.getuid() != 0, reason="only root can make a socket of another user")
def test_a_rogue_scheduler_at_the_address_is_never_spoken_to(home: Home) -> None:
    cluster = clusters.start("main", n_workers=0, **SMALL)
    where = Path(cluster.record.sockets) / "scheduler"
    where.rename(where.with_name("aside"))
    code = "import socket, os, sys; listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1])\n"
    code += "os.setgid(54321); os.setuid(54321); listener.listen(); print('up', flush=True)\n"
    code += "connection, _ = listener.accept(); print(len(connection.recv(100)), flush=True)"
    with subprocess.Popen([sys.executable, "-c", code, str(where)], stdout=subprocess.PIPE, text=True) as rogue:
        assert rogue.stdout is not None and rogue.stdout.readline() == "up\n"
        with pytest.raises(DaskError, match="but by uid 54321"):
            cluster.get_client()
        assert rogue.stdout.readline() == "0\n"
    where.unlink()
    where.with_name("aside").rename(where)
