"""Clusters as a notebook meets them: found or started, shared, shown, and ended by `stop` alone."""

from __future__ import annotations

import asyncio
import copy
import importlib
import json
import os
import pickle
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints, is_typeddict

import cloudpickle
import dask
import distributed
import pytest
from distributed import Client

import ports
from ports import clusters, errors, probe, sessions
from ports.clusters import _dask, _documents
from ports.clusters._cluster import Cluster
from ports.clusters._options import ClusterRunning
from ports.state.waiting import wait_until
from tests.integration.conftest import Home

pytestmark = pytest.mark.xdist_group("machine")

SMALL = {"n_workers": 1, "threads_per_worker": 1}


@pytest.fixture(scope="module")
def main(shared_home: Home) -> Iterator[Cluster]:
    """One cluster for the tests that leave it as it is."""
    (shared_home.work / "beside.py").write_text("ANSWER = 42\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OF_THE_STARTER", "seen in a task")
        patch.syspath_prepend(str(shared_home.work))
        yield clusters.start("main", environ={"ALSO": "given"}, memory_limit="1GB", **SMALL)
        clusters.get("main").stop()


@pytest.fixture
def client(main: Cluster) -> Iterator[Client]:
    with ports.client() as found:
        yield found


def test_the_cell_finds_the_running_cluster(main: Cluster, client: Client) -> None:
    assert isinstance(client, distributed.Client)
    assert client.scheduler.address == main.scheduler_address
    assert client.submit(sum, [1, 2]).result() == 3


def test_a_plain_client_takes_the_cluster_object(main: Cluster) -> None:
    with Client(ports.cluster()) as client:
        assert client.submit(sum, [1, 2]).result() == 3
        assert client.cluster.name == "main"


def test_tasks_see_the_starters_directory_variables_and_modules(shared_home: Home, client: Client) -> None:
    def look() -> tuple[str, str | None, str | None, int]:
        import beside

        return os.getcwd(), os.environ.get("OF_THE_STARTER"), os.environ.get("ALSO"), beside.ANSWER

    assert client.submit(look, pure=False).result() == (str(shared_home.work), "seen in a task", "given", 42)


def test_tasks_may_start_processes_of_their_own(client: Client) -> None:
    def limited() -> int | None:
        import multiprocessing

        child = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
        child.start()
        child.join(0.1)
        child.terminate()
        child.join()
        return child.exitcode

    assert client.submit(limited, pure=False).result() == -15


def test_only_stop_ends_a_cluster(main: Cluster) -> None:
    found = ports.cluster()
    assert found.close() is not None
    with found, found.get_client() as client:
        pass
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        ports.client().shutdown()
    assert [
        "`ports cluster stop main`" in str(one.message) for one in caught if "only disconnected" in str(one.message)
    ]
    with ports.client() as client:
        assert client.submit(sum, [2]).result() == 2


def test_a_client_with_address_and_credentials_cannot_end_it_either(main: Cluster) -> None:
    with Client(main.scheduler_address, security=main.security) as client, pytest.raises(Exception, match="others use"):
        client.sync(client.scheduler.terminate)
    assert clusters.get("main").state == "running"


def test_it_shows_itself_in_a_terminal_and_in_a_notebook(main: Cluster) -> None:
    found = clusters.get("main")
    assert repr(found).startswith("<cluster 'main' runs: 1 worker with 1 thread, ")
    assert found.dashboard_link in repr(found)
    page = found._repr_html_()
    assert "<td" in page and "1 with 1 thread" in page and " of 1GB" in page
    assert found.explained in page and f'href="{found.dashboard_link}"' in page and "ports open " in page


def test_its_row_tells_what_a_program_wants(main: Cluster) -> None:
    row = clusters.get("main").row()
    assert (row["kind"], row["name"], row["state"]) == ("cluster", "main", "running")
    assert (row["n_workers"], row["n_threads"], row["memory_limit_bytes"]) == (1, 1, 1_000_000_000)
    assert row["url"].startswith("unix:/tmp/ports-") and row["interpreter"] == sys.executable
    json.dumps(row)


def is_a(value: object, hint: Any) -> bool:
    """Say whether JSON's `value` is of a type as a TypedDict names it."""
    kinds = get_args(hint) if get_origin(hint) is types.UnionType else (hint,)
    plain = [dict if is_typeddict(kind) else get_origin(kind) or kind for kind in kinds]
    return isinstance(value, tuple(plain)) or (float in plain and isinstance(value, int))


def test_what_is_sent_about_a_cluster_is_as_typed(shared_home: Home, main: Cluster) -> None:
    running = json.loads(main._now.found.files.running.read_text())
    assert set(running) == {one.name for one in fields(ClusterRunning)}
    [row], answer = shared_home.json("cluster", "list"), _dask.summary(main.record.dashboard, main.name)
    for document, kind in ((row, _documents.ClusterRow), (answer, _documents.Summary)):
        hints = get_type_hints(kind)
        assert set(document or ()) == set(hints)
        assert [key for key, value in (document or {}).items() if not is_a(value, hints[key])] == []


def test_who_watches_hears_how_fast_tasks_end_and_what_workers_hold(main: Cluster, client: Client) -> None:
    viewer = probe.view.Viewer()

    def busy() -> dict[str, Any] | None:
        client.gather(client.map(str, range(20), pure=False))
        told = viewer.view({"clusters": True, "patience": 60.0, "since": {"clusters": {"main": 0}}})
        assert told["troubles"] == {} and isinstance(told["history"]["clusters"]["main"], list)
        found: dict[str, Any] = told["clusters"]["main"]
        return found if found["tasks_per_second"] > 0 else None

    found = wait_until(busy, timeout=60, what="tasks in a second")
    least, middle, most = found["worker_memory_bytes"]
    assert (found["n_workers"], found["worker_limit_bytes"]) == (1, 1_000_000_000)
    assert 0 < least == middle == most < 1_000_000_000
    assert clusters.get("main").row()["worker_limit_bytes"] == 1_000_000_000


def test_what_differs_is_named_with_the_way_out(main: Cluster) -> None:
    with pytest.warns(UserWarning, match=r"n_workers is 1, not 3.*name=.*ports cluster stop main.*reuse='any'"):
        ports.cluster(n_workers=3)
    with pytest.warns(UserWarning, match=r"\$ALSO differs"):
        ports.cluster(environ={"ALSO": "other"})


@pytest.mark.parametrize(
    "asked", [{}, SMALL, {"memory_limit": "1GB"}, {"memory_limit": 10**9}, {"environ": {"ALSO": "given"}}]
)
def test_what_is_the_same_is_taken_in_silence(main: Cluster, asked: dict[str, object]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ports.cluster(reuse="exact", **asked)


def test_another_directory_is_a_difference(main: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "of_here.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ports.cluster()  # no module of it is in use
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("of_here")
    with pytest.warns(UserWarning, match=f"directory is {main.record.directory}, not {tmp_path}"):
        ports.cluster()
    for _ in range(2):  # the warning is shown once; what must be exact is compared each time
        with pytest.raises(errors.DifferentClusterError, match="its directory is"):
            ports.cluster(reuse="exact")


# --- code that was written for LocalCluster ---


def test_a_client_of_an_event_loop_is_awaited(main: Cluster) -> None:
    async def use() -> tuple[int, int, int]:
        client = await ports.client(asynchronous=True)  # type: ignore[misc]
        async with client, Client(ports.cluster(), asynchronous=True) as other, ports.cluster() as cluster:
            await other.wait_for_workers(1)
            await cluster.wait_for_workers(1, timeout="20s")  # type: ignore[func-returns-value]
            async with ports.client(asynchronous=True) as third:
                assert await third.submit(sum, [4]) == 4
            return await client.submit(sum, [1, 2]), await other.submit(sum, [3]), len(cluster.workers)

    assert asyncio.run(use()) == (3, 3, 1)


class Ticker:
    """Looks how long the event loop did nothing else at most."""

    async def __aenter__(self) -> Ticker:
        self.longest, self.began = 0.0, time.monotonic()
        self.task = asyncio.ensure_future(self.watch())
        return self

    async def watch(self) -> None:
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.01)
            self.longest, last = max(self.longest, time.monotonic() - last), time.monotonic()

    async def __aexit__(self, *_: object) -> None:
        self.task.cancel()
        self.seconds = time.monotonic() - self.began

    def check(self) -> None:
        """A start, or a stop, would block for nearly all of the time."""
        assert self.longest < max(0.5, self.seconds / 3)


@pytest.mark.ci
@pytest.mark.parametrize("security", ["sockets", "tls"])
def test_a_cluster_starts_while_the_event_loop_goes_on(home: Home, security: str) -> None:
    async def use() -> None:
        async with Ticker() as ticker:
            coming = ports.cluster("loop", security=security, **SMALL)
            assert repr(coming) == "<ports cluster loop: starting; await it>"
            assert copy.deepcopy(coming).name == pickle.loads(cloudpickle.dumps(coming)).name == "loop"
            async with Client(coming, asynchronous=True) as client:
                await client.wait_for_workers(1)
                assert await client.submit(sum, [1, 2]) == 3
                assert pickle.loads(pickle.dumps(client.cluster)).record == coming.record
        ticker.check()
        async with Ticker() as ticker, ports.cluster("loop") as cluster:
            async with cluster.get_client(asynchronous=True) as client:  # type: ignore[attr-defined]
                assert await client.submit(sum, [3, 4]) == 7
            await cluster.stop()  # type: ignore[func-returns-value]
        ticker.check()

    asyncio.run(use())
    assert clusters.list() == []


@pytest.mark.ci
def test_a_start_that_fails_reaches_whoever_awaits_it(home: Home) -> None:
    async def use() -> None:
        with pytest.raises(errors.UsageError, match="n_workers"):
            async with ports.cluster("loop", n_workers=-1):
                pass
        with pytest.raises(errors.UsageError, match="n_workers"):
            await ports.client("loop", n_workers=-1, asynchronous=True)  # type: ignore[misc]
        before = {id(one) for one in Client._instances}
        with pytest.raises(errors.UsageError, match="n_workers"):
            async with Client(ports.cluster("loop", n_workers=-1), asynchronous=True):
                pass
        for _ in range(500):
            if not (left := {one.status for one in Client._instances if id(one) not in before} - {"closed"}):
                break
            await asyncio.sleep(0.01)
        assert left == set()

    asyncio.run(use())


@pytest.mark.ci
def test_a_person_reads_one_line_about_what_was_started(home: Home) -> None:
    program = "import sys; sys.ps1 = '>'; import ports; from ports.state import waiting; waiting.PATIENCE = 600\n"
    program += "ports.client(n_workers=1, threads_per_worker=1).close()"

    def run() -> str:
        ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True)
        return ended.stdout

    *waited, told = run().splitlines()
    assert told.startswith("started 'main': 1 worker × 1 thread, ")
    assert all(line.startswith("waiting for ") for line in waited)  # on a busy machine a start takes 3 seconds
    assert run() == ""  # it was found
    clusters.stop("main")


@pytest.mark.ci
def test_a_start_and_a_stop_in_python_say_what_they_wait_for(home: Home) -> None:
    program = (
        "import sys; sys.ps1 = '>>> '\n"  # a person looks on
        "from ports import clusters; from ports.state import waiting; waiting.PATIENCE = 0.05\n"
        "clusters.start('main', n_workers=1, threads_per_worker=1).stop()\n"
    )
    assert home.python(program).stdout.splitlines() == [
        "waiting for the start of cluster 'main'",
        "waiting for the end of cluster 'main'",
    ]


@pytest.mark.ci
def test_a_killed_worker_names_the_command_that_shows_why(home: Home) -> None:
    program = (
        "import dask, os, ports\n"
        "dask.config.set({'distributed.scheduler.allowed-failures': 0})\n"
        "from dask.distributed import Client\n"
        "client = Client(ports.cluster('main', n_workers=1, threads_per_worker=1))\n"
        "client.submit(os._exit, 3).result()\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert "KilledWorker" in ended.stderr and "`ports cluster logs main --warnings` shows what" in ended.stderr
    assert "main runs at" in "\n".join(clusters.logs("main"))
    clusters.stop("main")


PRINTS = """
import dask, ports
from dask.distributed import Client, print as print_here
def say(text):
    print(text)
with Client(ports.cluster()) as client:
    client.submit(print_here, "in the notebook").result()
    print("first", flush=True)
    client.submit(say, "one").result()
    dask.delayed(sum)([dask.delayed(lambda: print("two") or 2)()]).compute()
with ports.client() as client:
    client.submit(say, "three").result()
"""


def test_the_first_print_of_a_task_names_the_log_once(shared_home: Home, main: Cluster) -> None:
    for _ in range(2):  # another process is told, too
        done = shared_home.python(PRINTS)
        assert done.stdout == "in the notebook\nfirst\n", done.stderr
        assert done.stderr.count("`ports cluster logs main -f`") == 1, done.stderr
    assert [line for line in clusters.logs("main") if line in ("one", "two", "three")] == ["one", "two", "three"] * 2


def test_what_a_task_prints_is_in_the_log_at_once(main: Cluster, client: Client) -> None:
    client.submit(print, "from a task", pure=False).result(timeout=30)
    wait_until(lambda: "from a task" in clusters.logs("main") or None, timeout=10, what="the line in the log")


def test_a_handle_in_a_task_is_the_cluster_of_its_name(main: Cluster, client: Client) -> None:
    assert client.submit(lambda: (main.name, main.state)).result(timeout=30) == ("main", "running")
    for other in (copy.copy(main), copy.deepcopy(main), pickle.loads(pickle.dumps(main))):
        assert other.record == main.record and other.scheduler_address == main.scheduler_address


def test_a_pickled_handle_of_no_cluster_says_so_when_it_is_used(main: Cluster) -> None:
    gone = pickle.loads(pickle.dumps(main).replace(b"main", b"mine"))
    assert (gone.state, gone.reason) == ("stopped", "this machine has none of that name")
    with pytest.raises(errors.NotFoundError, match="`ports cluster start mine` starts it"):
        Client(gone)


def test_a_stop_that_is_refused_leaves_clients_connected(main: Cluster, client: Client) -> None:
    held, path = clusters.get("main"), sessions.files("cluster", "main").record
    as_it_was = path.read_text()
    other = {**json.loads(as_it_was), "created_at": main.record.created_at + 1}
    try:
        path.write_text(json.dumps(other))
        with pytest.raises(errors.NameInUseError):
            held.stop()
    finally:
        path.write_text(as_it_was)
    assert client.status == "running" and client.submit(sum, [5, 6]).result(timeout=30) == 11


def test_a_client_is_closed_if_a_warning_about_it_is_an_error(main: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_dask, "stale_modules", lambda client, **_: {"old.py": 1.0})
    before = {id(one) for one in Client._instances}
    with warnings.catch_warnings(), pytest.raises(UserWarning, match="imported older versions"):
        warnings.simplefilter("error")
        ports.client()
    assert {one.status for one in Client._instances if id(one) not in before} <= {"closed"}


@pytest.mark.ci
def test_a_cluster_adapts_by_itself_until_it_is_scaled(home: Home) -> None:
    cluster = clusters.start("main", memory_limit="300MB", **SMALL)
    program = "import ports; ports.clusters.get('main').adapt(maximum=2, interval='200ms', wait_count=2)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)  # it goes on when this has ended

    def has(n_workers: int) -> bool | None:
        return True if cluster.row()["n_workers"] == n_workers else None

    wait_until(lambda: has(0), timeout=30, what="no worker")
    assert "adapts between 0 and 2 workers" in str(cluster.row()["note"])
    with cluster.get_client() as client:
        futures = client.map(time.sleep, [1.5] * 8, pure=False)
        wait_until(lambda: has(2), timeout=30, what="two workers")
        assert client.gather(futures) == [None] * 8
    with pytest.raises(errors.UsageError, match="minimum is 3, more than maximum, which is 2"):
        cluster.adapt(minimum=3, maximum=2)
    with pytest.raises(errors.UsageError, match="interval is 0 s; pass a longer time"):
        cluster.adapt(interval=0)
    cluster.scale(1)
    wait_until(lambda: has(1), timeout=30, what="one worker")
    assert cluster.row()["note"] is None and "Traceback" not in "\n".join(cluster.logs())


def test_it_has_the_surface_of_local_cluster(main: Cluster) -> None:
    assert set(main.get_logs()) >= {"Cluster", "Scheduler"} and "runs at" in main.get_logs()["Cluster"]
    assert [one["nthreads"] for one in main.workers.values()] == [1]
    assert main.scheduler_info["address"] == main.scheduler_address
    assert main.plan == main.requested == main.observed == set(main.workers)
    main.wait_for_workers(1, timeout="20s")
    main.scale(n=1)
    main.scale(cores=1)
    main.scale(memory="1GB")
    with pytest.raises(TimeoutError):
        main.wait_for_workers(9, timeout="100ms")
    with pytest.raises(AttributeError, match=r"client\.run_on_scheduler"):
        main.scheduler.workers  # noqa: B018


def test_keywords_of_client_reach_the_client(main: Cluster) -> None:
    with ports.client(set_as_default=False, heartbeat_interval="7s", direct_to_workers=True) as client:
        assert distributed.client._get_global_client() is not client and client.direct_to_workers is True
        assert client._periodic_callbacks["heartbeat"].callback_time == 7000


def test_an_uploaded_module_is_not_called_old(main: Cluster, tmp_path: Path) -> None:
    (tmp_path / "uploaded.py").write_text("WORD = 'here'\n")
    with ports.client() as client, warnings.catch_warnings():
        warnings.simplefilter("error")
        client.upload_file(str(tmp_path / "uploaded.py"))
        assert client.submit(lambda: importlib.import_module("uploaded").WORD, pure=False).result() == "here"
        ports.client().close()


def test_reuse_decides_what_a_difference_means(main: Cluster) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ports.cluster(n_workers=3, reuse="any")
    with pytest.raises(errors.DifferentClusterError, match="n_workers is 1, not 3") as caught:
        ports.cluster(n_workers=3, reuse="exact")
    assert caught.value.exit_code == 4
    with pytest.raises(errors.UsageError, match=r"n_workers is 0.5; it must be a whole number"):
        ports.cluster(n_workers=0.5, reuse="any")
    with pytest.raises(errors.UsageError, match="there is no option 'n_worker'; did you mean 'n_workers'"):
        ports.cluster(n_worker=1, reuse="any")
    with pytest.raises(errors.UsageError, match="reuse is 'maybe'; it must be one of warn, any, exact"):
        ports.cluster(reuse="maybe")


def test_an_option_of_dask_that_runs_otherwise_is_a_difference(main: Cluster) -> None:
    with pytest.warns(UserWarning, match="resources is None, not"):
        ports.cluster(resources={"GPU": 1})


def test_a_name_in_use_is_not_started_again(main: Cluster) -> None:
    with pytest.raises(
        errors.NameInUseError, match=r"cluster 'main' exists already;.*`ports cluster stop main` stops it"
    ):
        clusters.start("main")


@pytest.mark.parametrize("name", ["Main", "1st", "a/b", "../a", "", " ", "a" * 32, "-x", "ä"])
def test_what_is_no_name_is_refused(shared_home: Home, name: str) -> None:
    if name:
        with pytest.raises(errors.InvalidNameError):
            clusters.start(name)
    with pytest.raises(errors.NotFoundError if not name else errors.InvalidNameError):
        clusters.get(name or "none")


def test_who_is_not_there_is_told_with_who_is(main: Cluster) -> None:
    with pytest.raises(errors.NotFoundError, match="no cluster 'other'; there is main"):
        clusters.get("other")


def test_another_version_of_dask_is_warned_of(main: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    here = {"python": "3.99.0", "dask": "1.0", "distributed": distributed.__version__}
    monkeypatch.setattr("ports.clusters._dask.versions", lambda: here)
    with pytest.warns(UserWarning) as caught:
        ports.cluster()
    told = [str(one.message) for one in caught]
    assert len(told) == 2 and all(f"run this with {sys.executable}" in text for text in told)
    assert "dask is 1.0 here and" in told[1]


def test_any_process_of_mine_scales_it(shared_home: Home, main: Cluster) -> None:
    done = shared_home.ports("cluster", "scale", "0")
    assert (done.returncode, done.stdout.splitlines()[0]) == (0, "cluster 'main' runs without workers")
    with ports.client() as client:
        waiting = client.submit(sum, [1, 2], pure=False)
        clusters.get("main").scale(1)
        assert waiting.result(timeout=20) == 3
    assert clusters.get("main").record.n_workers == 1
    with pytest.raises(errors.UsageError, match="n_workers is -1"):
        clusters.get("main").scale(-1)


def test_a_connection_that_loses_its_scheduler_says_so_in_time(main: Cluster) -> None:
    with Client(main.scheduler_address, security=main.security, timeout=5) as client:
        assert client.status == "running"


# --- started, and ended ---

CELL = """
import os, ports
client = ports.client(n_workers=1, threads_per_worker=1)
print(client.scheduler.address, client.submit(os.getppid, pure=False).result())
"""


@pytest.mark.ci
def test_eight_notebooks_that_ask_at_once_end_on_one_cluster(home: Home) -> None:
    cells = [
        subprocess.Popen([sys.executable, "-c", CELL], cwd=home.work, stdout=subprocess.PIPE, text=True)
        for _ in range(8)
    ]
    answers = {cell.communicate(timeout=100)[0] for cell in cells}
    assert [cell.returncode for cell in cells] == [0] * 8
    assert len(answers) == 1
    owners = [one for one in home.processes() if "owner.main(" in " ".join(one.cmdline())]
    assert len(owners) == 1


def test_a_stop_that_fails_leaves_a_cluster_that_runs(main: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(found: Any) -> None:  # as with a process in uninterruptible sleep
        assert why.exists()
        raise errors.StopError("cluster 'main'", "one of its processes does not end", found.files.log)

    why = sessions.files("cluster", "main").directory / "why"
    with monkeypatch.context() as patch:
        patch.setattr("ports.sessions._end.end", fails)
        with pytest.raises(errors.StopError):
            main.stop()
    assert not why.exists()  # it would be the reason of any later end
    assert main.status == "running"
    with ports.client() as client:
        assert client.submit(sum, [7, 8]).result() == 15


BACK = """
import asyncio, sys, time, ports, ports.errors
from ports.state import waiting
client = ports.client(n_workers=1, threads_per_worker=1, memory_limit="500MB")
sleeps = client.submit(time.sleep, 60, pure=False)
print("waits", flush=True)
try:
    sleeps.result()
except (Exception, asyncio.CancelledError):
    pass
try:
    client.cluster.get_client()
except ports.errors.NotFoundError as error:
    print(error, flush=True)
sys.ps1, waiting.PATIENCE = ">>> ", 0.05  # a person looks on
print(ports.client(n_workers=0).submit(sum, [1, 2]).status)
"""


@pytest.mark.ci
def test_a_notebook_gets_a_new_cluster_while_the_old_one_ends(home: Home) -> None:
    with subprocess.Popen([sys.executable, "-c", BACK], stdout=subprocess.PIPE, text=True, cwd=home.work) as notebook:
        assert notebook.stdout is not None
        assert notebook.stdout.readline() == "waits\n"
        wait_until(lambda: clusters.get().row()["n_running"] or None, timeout=20, what="a task that runs")
        os.kill(clusters.get().row()["pid"] or 0, signal.SIGTERM)  # the worker does not end for 4 s
        said, waits, *_, status = notebook.stdout.read().splitlines()
        assert "it is ending; `ports cluster start main --n-workers=1" in said
        assert waits == "waiting for the end of cluster 'main'"
        assert status == "pending"  # at the new one, which has no workers


def test_stop_leaves_nothing_but_the_log(home: Home) -> None:
    clusters.start("main", **SMALL).stop()
    assert clusters.list() == []
    assert home.files() == ["cluster-main.log"]
    assert clusters.logs("main")[0].endswith("ports 0.1.0")
    with pytest.raises(errors.NotFoundError, match="`ports cluster start` starts one"):
        clusters.get("main")
    with pytest.raises(errors.NotFoundError):
        clusters.logs("never")


def test_what_dask_config_set_says_reaches_owner_and_workers(home: Home) -> None:
    given = {"distributed.scheduler.allowed-failures": 100, "distributed.worker.memory.pause": 0.77}
    with dask.config.set(given):
        client = ports.client(**SMALL)
        assert client.run_on_scheduler(lambda dask_scheduler: dask_scheduler.allowed_failures) == 100
        paused = client.run(lambda dask_worker: dask_worker.memory_manager.memory_pause_fraction)
        assert [*paused.values()] == [0.77]
    told = pytest.warns(UserWarning, match=r"dask's distributed.worker.memory.pause is 0.77, not 0.5")
    with dask.config.set({"distributed.worker.memory.pause": 0.5}), told:
        ports.client().close()
    told = pytest.warns(UserWarning, match=r"dask's distributed.worker.memory.pause is 0.77, not 0.8")
    with dask.config.set({"distributed.worker.memory.pause": 0.8}), told:  # Dask's default
        ports.client().close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ports.client().close()  # once in a process: nobody may mean it
    held = clusters.get("main")
    clusters.stop("main")
    assert (held.state, held.status, client.status) == ("stopped", "closed", "closed")


def test_stop_ends_what_tasks_started(home: Home) -> None:
    with clusters.start("main", **SMALL).get_client() as client:
        children = client.submit(start_children, pure=False).result()
        assert all(map(alive, children))
    clusters.get("main").stop()
    assert not any(map(alive, children))


def start_children() -> list[int]:
    """Start a child with a session of its own, and an orphan that nobody waits for; return their pids."""
    child = subprocess.Popen(["sh", "-c", "trap '' HUP; sleep 600; true"], start_new_session=True)
    orphan = subprocess.run(["setsid", "-f", "sh", "-c", "echo $$; exec sleep 600 >&-"], stdout=subprocess.PIPE)
    return [child.pid, int(orphan.stdout)]


def alive(pid: int) -> bool:
    """Say whether `pid` runs; a zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def test_a_changed_module_is_warned_of_and_restart_brings_it(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    module = home.work / "mine.py"
    module.write_text("VERSION = 'old'\n")
    monkeypatch.syspath_prepend(str(home.work))

    def version() -> str:
        import mine

        return str(mine.VERSION)

    started = clusters.start("main", **SMALL)
    with started.get_client() as client:
        assert client.submit(version, pure=False).result() == "old"
    module.write_text("VERSION = 'brand new'\n")
    with pytest.warns(UserWarning, match=rf"older versions of {module}; run `ports cluster restart main` to reload"):
        ports.client(reuse="any").close()
    clusters.get("main").restart()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with ports.client(reuse="any") as client:
            assert client.submit(version, pure=False).result() == "brand new"
    assert clusters.get("main").scheduler_address == started.scheduler_address


def test_threads_of_one_process_are_a_cluster_too(home: Home) -> None:
    started = clusters.start("main", processes=False, **SMALL)
    with started.get_client() as client:
        owner = client.submit(os.getpid, pure=False).result()
    assert owner == started.row()["pid"]
    before = started.scheduler_address
    started.restart()
    assert started.scheduler_address == before
    with ports.client() as client:
        assert client.submit(sum, [1, 2]).result() == 3


@pytest.mark.parametrize(("n_workers", "method"), [(1, "spawn"), (4, "forkserver")])
@pytest.mark.ci
def test_four_workers_and_more_start_by_forkserver(home: Home, n_workers: int, method: str) -> None:
    started = clusters.start("main", n_workers=n_workers, threads_per_worker=1)
    wait_until(lambda: home_workers(started) == n_workers or None, timeout=30, what="workers")
    servers = [one for one in home.processes() if "forkserver" in " ".join(one.cmdline())]
    assert bool(servers) == (method == "forkserver")


def home_workers(cluster: Cluster) -> int:
    """Return how many workers there are now."""
    return int(clusters.get(cluster.name).row()["n_workers"] or 0)
