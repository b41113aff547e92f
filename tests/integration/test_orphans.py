"""What tasks start ends with their worker, however it tries to get away."""

from __future__ import annotations

import os
import signal
import sys

import psutil
import pytest
from distributed import Client

from ports import clusters
from ports.state.waiting import wait_until
from tests.integration.conftest import Home

pytestmark = [pytest.mark.ci, pytest.mark.skipif(not sys.platform.startswith("linux"), reason="subreapers are Linux's")]
# With a cleaned environment, in a session of its own, its parent gone: as daemons do it.
DAEMON = """
import os, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
os.chdir("/")
print(os.getpid(), flush=True)
os.closerange(0, 3)
time.sleep(1000)
"""


def start_everything(daemon: str) -> dict[str, int]:
    """Start processes in four ways, from a task; return their pids and the worker's."""
    import multiprocessing
    import os
    import subprocess
    import sys
    import time

    child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(1000,))
    child.start()
    reading, writing = os.pipe()
    if not (forked := os.fork()):  # a daemon that is never another program
        os.setsid()
        if not os.fork():
            os.write(writing, str(os.getpid()).encode())
            time.sleep(1000)
        os._exit(0)
    os.waitpid(forked, 0)
    told = subprocess.run([sys.executable, "-S", "-c", daemon], env={}, stdout=subprocess.PIPE, check=True)
    return {
        "subprocess": subprocess.Popen(["sleep", "1000"]).pid,
        "multiprocessing": child.pid or 0,
        "forked daemon": int(os.read(reading, 20)),
        "daemon": int(told.stdout),
        "worker": os.getpid(),
    }


def alive(pids: dict[str, int]) -> list[str]:
    found = []
    for name, pid in pids.items():
        try:
            if psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
                found.append(name)
        except psutil.NoSuchProcess:
            pass
    return found


def started(client: Client, worker: str) -> dict[str, int]:
    found = client.submit(start_everything, DAEMON, workers=[worker], pure=False).result(timeout=30)
    assert len(alive(found)) == 5
    return found  # type: ignore[no-any-return]


def gone(pids: dict[str, int], *, within: float = 20) -> None:
    wait_until(lambda: not alive(pids) or None, timeout=within, what="end of what a task started", every=0.05)


@pytest.mark.parametrize("how", [pytest.param("spawn", marks=pytest.mark.long), "forkserver"])
def test_what_tasks_start_ends_with_their_worker_alone(home: Home, how: str) -> None:
    started_cluster = clusters.start("main", n_workers=2, threads_per_worker=1, worker_start=how)
    with started_cluster.get_client() as client:
        first, second = sorted(client.scheduler_info()["workers"])
        there, here = started(client, first), started(client, second)
        os.kill(there["worker"], signal.SIGKILL)
        gone(there)
        assert len(alive(here)) == 5  # another worker's go on
        client.restart(timeout=60)
        gone(here)
        again = started(client, sorted(client.scheduler_info()["workers"])[0])
        started_cluster.scale(0)
        gone(again)
    started_cluster.stop()


@pytest.mark.long
def test_daemons_that_end_by_themselves_are_collected(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, threads_per_worker=1)

    def leave_one() -> int:
        import subprocess
        import sys

        code = "import os, time\nif os.fork(): os._exit(0)\nprint(os.getpid(), flush=True)\nos.closerange(0, 3)"
        return int(subprocess.run([sys.executable, "-S", "-c", code], stdout=subprocess.PIPE, check=True).stdout)

    with cluster.get_client() as client:
        left = client.submit(leave_one).result(timeout=30)
        wait_until(lambda: not psutil.pid_exists(left) or None, timeout=60, what="collecting of an ended daemon")
    cluster.stop()


def test_a_subprocess_of_a_task_keeps_its_exit_status(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, threads_per_worker=1)

    def statuses() -> list[int]:
        import subprocess
        import time

        children = [subprocess.Popen(["sh", "-c", f"exit {n}"]) for n in range(5)]
        time.sleep(6)  # longer than orphans wait to be collected
        return [child.wait() for child in children]

    with cluster.get_client() as client:
        assert client.submit(statuses).result(timeout=30) == [0, 1, 2, 3, 4]
    cluster.stop()


@pytest.mark.parametrize("processes", [True, False])
def test_what_tasks_start_ends_when_the_owner_is_killed(home: Home, processes: bool) -> None:
    cluster = clusters.start("main", n_workers=1, threads_per_worker=1, processes=processes)
    with cluster.get_client() as client:
        (worker,) = client.scheduler_info()["workers"]
        pids = started(client, worker)
        os.kill(cluster.row()["pid"], signal.SIGKILL)
        gone(pids)
    assert clusters.get("main").state == "stopped"


@pytest.mark.quick
def test_what_tasks_start_ends_when_threads_of_the_owner_run_anew(home: Home) -> None:
    cluster = clusters.start("main", n_workers=1, threads_per_worker=1, processes=False)
    with cluster.get_client() as client:
        (worker,) = client.scheduler_info()["workers"]
        pids = started(client, worker)
        del pids["worker"]  # the owner's own pid, which goes on as another program
        cluster.restart()
        gone(pids)
    cluster.stop()
