"""Workers that give way when the machine's memory runs short; also in a real shortage, beside another account."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client, Future, KilledWorker

from ports import clusters
from ports.clusters._cluster import Cluster
from ports.clusters._documents import GuardShown
from ports.errors import UsageError
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.lab import hog

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]

GiB = 2**30
SMALL = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "1GB", "force": True}


class Machine:
    """A /proc of a machine whose memory the test decides on; processes are this machine's."""

    def __init__(self, directory: Path, cluster: Cluster, client: Client) -> None:
        self.directory, self.cluster, self.client = directory / "proc", cluster, client
        (self.directory / "1").mkdir(parents=True)
        (self.directory / "1" / "stat").write_text("1 (init) S 0\n")  # nobody's processes are hidden
        self.left(8 * GiB)

        def look_there(root: str, dask_scheduler: Any) -> None:
            from ports_owner import memory as ports_memory

            class Told(ports_memory.Meter):  # type: ignore[misc]
                def by_user(self, domain: str = "") -> dict[int, int]:
                    return ports_memory.Meter().by_user()  # type: ignore[no-any-return]

            dask_scheduler.policies.guard.meter = Told(root)

        client.run_on_scheduler(look_there, str(directory))

    def left(self, n_bytes: int) -> None:
        """Let `n_bytes` of 16 GiB be available."""
        new = self.directory / "new"
        new.write_text(f"MemTotal: {16 * GiB // 1024} kB\nMemAvailable: {n_bytes // 1024} kB\n")
        new.replace(self.directory / "meminfo")

    def level(self, name: str | None) -> dict[str, Any]:
        """Wait until the cluster says that its guard is at this level."""

        def there() -> dict[str, Any] | None:
            row = self.cluster.row()
            return row if (row["guard"] or {}).get("level") == name else None

        return wait_until(there, timeout=30, what=f"level {name}", every=0.1)


def takes_all(n_bytes: int) -> int:
    import time

    held = bytearray(b"x") * n_bytes
    time.sleep(30)
    return len(held)


def test_an_end_at_the_memory_limit_is_told_in_plain_words(home: Home, capsys: pytest.CaptureFixture[str]) -> None:
    cluster = clusters.start("main", n_workers=1, threads_per_worker=1, memory_limit="300MB", force=True)
    with cluster.get_client() as client:
        with pytest.raises(KilledWorker):
            client.submit(takes_all, 500_000_000, retries=0).result(timeout=120)
        row = cluster.row()
        words = r"its worker ended at its memory limit of 300MB( [2-9] times)? \([0-9:]{5}\), last with task takes_all;"
        assert re.match(words, str(row["note"]).partition("the others are starting; ")[2] or str(row["note"]))
        shown = [home.ports("cluster", verb).stdout for verb in ("list", "show")]
        shown += [repr(cluster), cluster._repr_html_()]
        assert ["memory limit of 300MB" in text for text in shown] == [True] * 4
        with pytest.warns(match="ended at its memory limit of 300MB"):
            clusters.cluster("main")
        assert any("ended at its memory limit of 300MB with task takes_all" in line for line in cluster.logs())
        client.restart()
        assert cluster.row()["note"] is None
    assert capsys.readouterr().err.count("`ports cluster logs main --warnings` shows more") == 1
    cluster.stop()


@pytest.fixture
def on_machine(home: Home, tmp_path: Path) -> Iterator[Callable[..., tuple[Machine, Client]]]:
    """Return a function that starts a cluster on a machine with memory of the test's choice."""
    opened: list[Client] = []

    def start(**options: Any) -> tuple[Machine, Client]:
        cluster = clusters.start("main", **SMALL, **options)
        opened.append(cluster.get_client())
        return Machine(tmp_path, cluster, opened[0]), opened[0]

    yield start
    for client in opened:
        client.close()
    clusters.get("main").stop()


def on_disk(client: Client) -> int:
    return sum(client.run(lambda dask_worker: len(dask_worker.data.slow)).values())


def test_workers_spill_then_pause_then_go_on(on_machine: Callable[..., tuple[Machine, Client]]) -> None:
    machine, client = on_machine()
    held = client.map(bytes, [10_000_000, 10_000_001, 10_000_002])
    client.gather(held)
    assert on_disk(client) == 0
    machine.left(int(1.55 * GiB))
    row = machine.level("spill")
    assert "GiB of 16.0 GiB of the machine are available" in row["note"]
    wait_until(lambda: on_disk(client) == 3 or None, timeout=30, what="results on the disk", every=0.1)
    assert client.submit(sum, [1, 2]).result(timeout=30) == 3  # it still works
    machine.left(int(0.9 * GiB))
    machine.level("pause")
    waiting = client.submit(sum, [3, 4])
    with pytest.raises(TimeoutError):
        waiting.result(timeout=3)
    assert [len(one) for one in client.gather(held)] == [10_000_000, 10_000_001, 10_000_002]  # held results too
    machine.left(0)
    assert machine.level("pause")["n_workers"] == 2  # no restart: nobody asked for one
    machine.left(8 * GiB)
    assert waiting.result(timeout=60) == 7
    machine.level(None)
    log = "\n".join(machine.cluster.logs())
    assert [line in log for line in ("workers spill", "workers are paused", "workers go on")] == [True] * 3
    client.cancel([waiting, *held])


def test_each_step_is_shown_where_one_looks(on_machine: Callable[..., tuple[Machine, Client]], home: Home) -> None:
    machine, _ = on_machine()
    machine.left(int(1.55 * GiB))
    machine.level("spill")
    assert "memory guard: " in home.ports("cluster", "list").stdout
    assert "memory guard: " in home.ports("cluster", "show").stdout
    assert "memory guard: " in repr(machine.cluster)
    assert "memory guard: " in machine.cluster._repr_html_()
    assert set(machine.cluster.row()["guard"] or ()) == GuardShown.__required_keys__


def test_the_largest_worker_is_restarted_and_its_task_is_not_to_blame(
    on_machine: Callable[..., tuple[Machine, Client]], tmp_path: Path
) -> None:
    machine, client = on_machine(guard="restart")
    mark = tmp_path / "ran"

    def hold(n: int, mark: str) -> int:
        import os
        import time

        held = bytearray(b"x") * n
        with open(mark, "a") as file:
            file.write(f"{os.getpid()}\n")
        while os.path.getsize(mark) < 16 and n:  # the first time it is interrupted
            time.sleep(0.05)
        return len(held)

    def pids() -> list[int]:
        return [int(line) for line in mark.read_text().split()] if mark.exists() else []

    long_one: Future = client.submit(hold, 200_000_000, str(mark), pure=False)
    first = wait_until(lambda: pids() or None, timeout=30, what="start of the task", every=0.05)[0]
    # alone on a machine one is never above one's share: somebody else has to be there
    client.run_on_scheduler(somebody_else)
    machine.left(0)
    machine.level("restart")
    wait_until(lambda: not psutil.pid_exists(first) or None, timeout=30, what="end of the largest worker", every=0.05)
    line = wait_until(
        lambda: next((line for line in machine.cluster.logs() if " restarted, because " in line), None),
        timeout=30,
        what="the restart in the log",
        every=0.05,
    )
    assert "a fair share is" in line
    wait_until(lambda: len(client.scheduler_info()["workers"]) == 2 or None, timeout=60, what="2 workers", every=0.1)
    assert len(pids()) == 1  # the new one is paused before the task comes back
    machine.left(8 * GiB)
    mark.write_text(mark.read_text().rjust(32))
    assert long_one.result(timeout=90) == 200_000_000
    suspicious = client.run_on_scheduler(lambda dask_scheduler: [t.suspicious for t in dask_scheduler.tasks.values()])
    assert suspicious == [0]


def somebody_else(dask_scheduler: Any) -> None:
    """Let the guard see another user, with 4 GiB."""
    from ports_owner import memory as ports_memory

    class Told(type(dask_scheduler.policies.guard.meter)):  # type: ignore[misc]
        def by_user(self, domain: str = "") -> dict[int, int]:
            return {**ports_memory.Meter().by_user(), 51234: 4 * 2**30}

    dask_scheduler.policies.guard.meter.__class__ = Told


def test_a_guard_that_is_off_does_nothing(on_machine: Callable[..., tuple[Machine, Client]]) -> None:
    machine, client = on_machine(guard="off")
    machine.left(0)
    assert client.submit(sum, [1, 2]).result(timeout=30) == 3
    assert machine.cluster.row()["guard"] is None


def test_workers_run_at_the_niceness_that_is_set(home: Home) -> None:
    cluster = clusters.start("main", nice=7, **SMALL)
    with cluster.get_client() as client:
        assert set(client.run(lambda: os.getpriority(os.PRIO_PROCESS, 0)).values()) == {7}
        assert client.submit(lambda: os.getpriority(os.PRIO_PROCESS, 0)).result() == 7
    cluster.stop()


def test_of_threads_of_the_owner_tasks_alone_are_nice(home: Home) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)  # of whoever runs the tests
    cluster = clusters.start("main", nice=own + 2, **SMALL, processes=False)

    def threads() -> dict[str, int]:
        import threading

        return {one.name: os.getpriority(os.PRIO_PROCESS, one.native_id or 0) for one in threading.enumerate()}

    with cluster.get_client() as client:
        assert client.submit(lambda: os.getpriority(os.PRIO_PROCESS, 0)).result() == own + 2
        found = client.run_on_scheduler(threads)
        assert (found["MainThread"], found["memory guard"]) == (own, own)
    cluster.stop()


REASON = hog.why_not()


@pytest.mark.skipif(REASON is not None, reason=str(REASON))
@pytest.mark.long
def test_a_hog_of_another_account_is_given_way_to(home: Home) -> None:
    found = hog.beside("ports", os.environ)
    assert (found.oom_kills, found.hog_reached) == (0, True), found


@pytest.mark.long
@pytest.mark.timeout(1500)
@pytest.mark.skipif(REASON is not None, reason=str(REASON))
def test_nothing_is_killed_for_want_of_memory_in_twenty_runs(home: Home) -> None:
    runs = [hog.beside("ports", os.environ) for _ in range(20)]
    assert [(run.oom_kills, run.hog_reached) for run in runs] == [(0, True)] * 20
    assert hog.beside("LocalCluster", os.environ).oom_kills, "the control loses a process"


FAKE_NVML = """
import types
class NVMLError(Exception): pass
nvmlInit = nvmlShutdown = lambda: None
nvmlDeviceGetCount = lambda: 2
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetUUID = lambda handle: "GPU-" + "ab"[handle] * 8
nvmlDeviceGetName = lambda handle: "A stand-in"
nvmlDeviceGetMemoryInfo = lambda handle: types.SimpleNamespace(total=16 * 2**30, used=0)
nvmlDeviceGetUtilizationRates = lambda handle: types.SimpleNamespace(gpu=0)
nvmlDeviceGetComputeRunningProcesses = nvmlDeviceGetGraphicsRunningProcesses = lambda handle: []
"""


@pytest.fixture
def two_gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A binding of NVML that knows two."""
    (tmp_path / "pynvml.py").write_text(FAKE_NVML)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)


GPU_EACH: Any = {"gpus": 1, "threads_per_worker": 1, "memory_limit": "500MB", "force": True}


def gpus_of(client: Client, n_workers: int) -> list[str]:
    """Return what each of `n_workers` workers sees."""
    client.wait_for_workers(n_workers, timeout=30)
    return sorted(client.run(lambda: os.environ["CUDA_VISIBLE_DEVICES"]).values())


def test_workers_that_come_later_get_gpus_of_their_own(home: Home, two_gpus: None) -> None:
    cluster = clusters.start("main", n_workers=0, **GPU_EACH)
    cluster.scale(1)
    with cluster.get_client() as client:
        assert gpus_of(client, 1) == ["GPU-aaaaaaaa"]
        cluster.scale(2)
        assert gpus_of(client, 2) == ["GPU-aaaaaaaa", "GPU-bbbbbbbb"]
        with pytest.raises(UsageError, match="this cluster can use only 2; scale to at most 2"):
            cluster.scale(3, force=False)
        with pytest.raises(UsageError, match="with processes=False"):
            clusters.start("threads", gpus=1, processes=False)


def test_another_cluster_of_mine_gets_other_gpus(home: Home, two_gpus: None) -> None:
    first = clusters.start("first", n_workers=1, **GPU_EACH)
    second = clusters.start("second", **GPU_EACH)
    with second.get_client() as client:
        assert gpus_of(client, 1) == ["GPU-bbbbbbbb"]
    with pytest.warns(UserWarning, match="GPU-bbbbbbbb by your cluster 'second'"):
        first.scale(2)
    second.stop()
    first.stop()


def test_all_gpus_are_all_of_the_machine(home: Home, two_gpus: None) -> None:
    assert clusters.start("main", n_workers="all", **GPU_EACH).record.takes_all
    clusters.cluster("main", n_workers="all", reuse="exact", **{**GPU_EACH, "memory_limit": 500_000_000})


def test_each_worker_sees_its_own_gpu(home: Home, two_gpus: None) -> None:
    cluster = clusters.start("main", gpus=1, threads_per_worker=1, memory_limit="500MB", force=True)
    with cluster.get_client() as client:
        client.wait_for_workers(2, timeout=30)
        seen = client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
        assert sorted(seen.values()) == ["GPU-aaaaaaaa", "GPU-bbbbbbbb"]
        cluster.scale(1)
        cluster.scale(2)
        client.wait_for_workers(2, timeout=30)
        seen = client.run(lambda: os.environ.get("CUDA_VISIBLE_DEVICES"))
        assert sorted(seen.values()) == ["GPU-aaaaaaaa", "GPU-bbbbbbbb"]
    cluster.stop()
