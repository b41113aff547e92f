"""A machine that many use: the default size, what is promised, what is refused; with two users and ``hidepid``, too."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dask
import pytest

from ports import clusters, machine
from ports.clusters._cluster import Cluster
from ports.errors import OverpromisedError, UsageError
from ports.machine import fair_share
from ports.probe.promises import promises
from ports.state.waiting import wait_until
from tests.integration.conftest import Home
from tests.lab import hog
from tests.lab.namespaces import NamespaceSite

pytestmark = [pytest.mark.ci, pytest.mark.xdist_group("machine")]

SMALL = {"n_workers": 1, "threads_per_worker": 1}
GIB = 1 << 30


def promise_of(cluster: Cluster) -> dict[str, Any] | None:
    """Return what any user sees of the promise of `cluster`."""
    pid = cluster.row()["pid"]
    return next((one for one in promises() if one["pid"] == pid), None)


@pytest.mark.quick
def test_a_start_says_how_its_size_came_about(home: Home) -> None:
    done = home.ports("cluster", "start", "--n-workers", "1", "--threads-per-worker", "1")
    assert done.returncode == 0, done.stderr
    said = done.stderr.splitlines()[-1]
    assert said.startswith("1 worker × 1 thread, ") and " available" in said
    assert clusters.get("main").explained == said == home.json("cluster", "show")["explained"]
    assert any(line.endswith(said) for line in clusters.logs("main"))


def test_a_default_cluster_is_a_share_of_what_is_available(home: Home) -> None:
    before = machine.usage()
    started = clusters.start("main", n_workers=None)
    record = started.record
    assert record.n_workers and record.threads_per_worker and isinstance(record.memory_limit, int)
    assert record.n_workers * record.threads_per_worker <= before.usable_cores
    assert record.n_workers * record.memory_limit <= 0.95 * before.available_bytes
    wait_until(lambda: clusters.get("main").row()["n_workers"] == record.n_workers or None, timeout=30, what="workers")
    row = clusters.get("main").row()
    assert row["memory_limit_bytes"] == record.n_workers * record.memory_limit
    assert row["n_threads"] == record.n_workers * record.threads_per_worker


@pytest.mark.quick
def test_a_promise_follows_its_cluster_and_ends_with_it(home: Home) -> None:
    started = clusters.start("main", memory_limit="500MB", **SMALL)
    found = promise_of(started)
    assert found is not None and (found["n_workers"], found["n_threads"], found["bytes"]) == (1, 1, 500_000_000)
    path = Path(started.record.promise)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644 and path.parent == Path("/tmp")
    started.scale(2)
    wait_until(lambda: (promise_of(started) or {})["bytes"] == 10**9 or None, timeout=10, what="its new promise")
    assert started.explained == "2 workers × 1 thread, 500MB each, as scaled"
    usage = machine.usage()
    [me] = [one for one in usage.users if one.is_me]
    assert me.promised_bytes >= 10**9 and me.dask_bytes > 0 and usage.room.promised_bytes >= 10**9
    started.stop()
    assert not path.exists()


def test_the_promise_of_a_killed_owner_is_void(home: Home) -> None:
    started = clusters.start("main", memory_limit="500MB", **SMALL)
    assert promise_of(started) is not None
    pid = started.row()["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not [one for one in promises() if one["pid"] == pid] or None, timeout=10, what="its end")
    wait_until(lambda: clusters.get("main").state == "stopped" or None, timeout=20, what="its end")
    clusters.get("main").stop()
    assert not Path(started.record.promise).exists()


def test_prune_removes_void_promises_and_leaves_living_ones(home: Home) -> None:
    started = clusters.start("main", memory_limit="500MB", **SMALL)
    void, young = (Path(f"/tmp/ports-promise-{os.getuid()}-{os.urandom(8).hex()}") for _ in range(2))
    for path in (void, young):
        path.touch(0o644)
    for path in (void, Path(started.record.promise)):
        os.utime(path, (0, 0))
    removed = [row["name"] for row in home.json("prune") if row["kind"] == "promise"]
    assert void.name in removed and not void.exists() and young.exists()
    assert Path(started.record.promise).exists() and promise_of(started) is not None
    young.unlink()


def test_threads_of_one_process_keep_their_promise_over_a_restart(home: Home) -> None:
    started = clusters.start("main", processes=False, memory_limit="500MB", **SMALL)
    promise = started.record.promise

    def look() -> int:
        """Read the promise in the owner itself, which gives up its lock when it closes the file."""
        with open(promise) as file:
            return len(file.read())

    with started.get_client() as client:
        assert client.submit(look, pure=False).result() == Path(promise).stat().st_size
    wait_until(lambda: promise_of(started), timeout=10, what="the lock")
    started.restart()
    assert wait_until(lambda: promise_of(started), timeout=10, what="the promise")["bytes"] == 500_000_000


@pytest.mark.quick
def test_more_than_the_machine_has_is_refused_unless_it_is_forced(home: Home) -> None:
    whole = machine.usage().memory_bytes
    done = home.ports("cluster", "start", "main", "--n-workers=2", f"--memory-limit={whole}", "--json")
    assert done.returncode == 4
    told = json.loads(done.stdout)["error"]
    assert told["type"] == "OverpromisedError" and "or pass force=True (--force)" in told["message"]
    assert home.json("cluster", "list") == [] and home.files() == []
    done = home.ports("cluster", "start", "main", "--n-workers=0", f"--memory-limit={whole * 2}")
    assert done.returncode == 0, done.stderr  # none of them
    done = home.ports("cluster", "scale", "main", "1")
    assert done.returncode == 4 and "1 worker of " in done.stderr
    done = home.ports("cluster", "scale", "main", "1", "--force")
    assert done.returncode == 0, done.stderr


def test_sizes_are_shown_as_they_were_typed(home: Home) -> None:
    done = home.ports("cluster", "start", "--n-workers=1", "--threads-per-worker=1", "--memory-limit=600MB")
    assert done.returncode == 0 and "600MB" in done.stderr, done.stderr
    wait_until(lambda: clusters.get("main").row()["n_workers"] or None, timeout=30, what="the worker")
    for shown in (home.ports("cluster", "list").stdout, repr(clusters.get("main"))):
        assert "MB of 600MB" in shown and "MiB" not in shown
    assert home.json("cluster", "show")["memory_typed"] == "600MB"
    done = home.ports("cluster", "scale", "1000")
    assert done.returncode == 4 and "1000 workers of 600MB are 600GB" in done.stderr


def test_the_setting_force_goes_ahead(home: Home) -> None:
    with dask.config.set({"ports.cluster.force": True}):
        clusters.start("main", memory_limit=machine.usage().memory_bytes * 2, **SMALL)
    assert clusters.get("main").record.force


def test_my_own_clusters_count_when_another_one_starts(home: Home) -> None:
    room = machine.room()
    much = int((room.memory_bytes - room.promised_bytes) * 0.6)
    first = clusters.start("first", memory_limit=much, **SMALL)
    assert first.explained.endswith(", as requested")
    with pytest.raises(
        OverpromisedError, match=r"are promised to your cluster first.*`ports cluster scale first 0` frees"
    ):
        clusters.start("second", memory_limit=much, **SMALL)
    second = clusters.start("second", **SMALL)
    assert isinstance(second.record.memory_limit, int) and second.record.memory_limit < much
    first.scale(0)
    wait_until(lambda: (promise_of(first) or {})["bytes"] == 0 or None, timeout=10, what="its new promise")
    first.scale(1)  # what it was promised itself is not in its way


def test_of_two_clusters_that_start_at_once_one_is_reduced(home: Home) -> None:
    room = machine.room()
    code = "import sys; from ports import clusters; clusters.start(sys.argv[1], n_workers=1, threads_per_worker=64)"
    with ThreadPoolExecutor(2) as pool:
        done = [*pool.map(lambda name: home.python(code, name), ("first", "second"))]
    assert [one.returncode for one in done] == [0, 0], done
    said = [one for one in done if "started at the same time and was first" in one.stderr]
    promised = sum(int(clusters.get(name).record.memory_limit or 0) for name in ("first", "second"))
    assert promised < 1.1 * room.can_have, (promised, room, done)  # not nine tenths each; an eighth is always given
    assert len(said) == 1 or "are promised to your cluster" in done[0].stderr + done[1].stderr


@pytest.mark.parametrize("way", ["command line", "python"])
def test_a_cluster_of_default_size_divides_what_it_has(home: Home, way: str) -> None:
    started = clusters.start("main", n_workers=1, threads_per_worker=4)
    whole = started.record.memory_limit
    assert isinstance(whole, int)
    with started.get_client() as client:
        held = client.submit(bytes, 10_000_000)
        held.result(timeout=30)
        (first,) = client.run(os.getpid).values()
        if way == "python":
            with pytest.warns(match="3 workers × "):
                started.scale(3)
        else:
            done = home.ports("cluster", "scale", "main", "3")
            assert done.returncode == 0 and "3 workers × " in done.stderr, done.stderr
        client.wait_for_workers(3, timeout=60)
        each = whole // 3 >> 20 << 20
        limits = client.run(lambda dask_worker: (os.getpid(), dask_worker.memory_manager.memory_limit))
        assert {limit for _, limit in limits.values()} == {each}
        assert first in {pid for pid, _ in limits.values()} and len(held.result()) == 10_000_000  # it was not restarted
    row = clusters.get("main").row()
    assert "of this cluster" in str(row["explained"]) and row["memory_limit_bytes"] == 3 * each
    promised = wait_until(lambda: promise_of(started), timeout=10, what="the promise")
    assert promised["bytes"] <= whole


@pytest.mark.parametrize("way", ["command line", "python", "setting"])
def test_all_of_the_machine_can_be_had_in_words(home: Home, way: str) -> None:
    if way == "command line":
        done = home.ports("cluster", "start", "--n-workers", "all", "--threads-per-worker", "1")
        assert done.returncode == 0, done.stderr
        assert "all of this machine" in done.stderr
    elif way == "python":
        clusters.start(n_workers="all", threads_per_worker=1)
    else:
        with dask.config.set({"ports.cluster.n_workers": "all"}):
            clusters.start(threads_per_worker=1)
    record = clusters.get("main").record
    assert record.n_workers == len(os.sched_getaffinity(0)) and record.takes_all
    clusters.cluster("main", n_workers="all", reuse="exact")
    with pytest.raises(UsageError, match="n_workers is 'most'"):
        clusters.start("other", n_workers="most")


TMUX = "the limits of your tmux server"


def begin_within(home: Home, *command: str) -> None:
    """Start a first cluster, and with it the tmux server, by `command`."""
    code = "import ports; ports.clusters.start('first', n_workers=0, memory_limit='300MB')"
    done = subprocess.run([*command, sys.executable, "-c", code], cwd=home.work, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(hog.why_not() is not None, reason=str(hog.why_not()))
def test_a_tmux_server_in_a_control_group_makes_later_clusters_fit_into_it(home: Home) -> None:
    with hog.cgroup(hog.LIMIT) as group:
        begin_within(home, *group.argv([]))
        second = clusters.start("second", n_workers=1, threads_per_worker=1)
        assert isinstance(second.record.memory_limit, int) and second.record.memory_limit < hog.LIMIT
        assert second.explained.endswith(f", within {TMUX}")
        assert second.row()["pid"] in group.pids()
        with pytest.raises(OverpromisedError, match=f"the 2GiB \\({TMUX}\\) that you can use here"):
            clusters.start("third", n_workers=1, memory_limit="3GiB")
        for name in ("second", "first"):
            clusters.get(name).stop()


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core cannot be less")
def test_a_tmux_server_of_less_cores_makes_later_clusters_smaller(home: Home) -> None:
    begin_within(home, "taskset", "-c", str(min(os.sched_getaffinity(0))))
    second = clusters.start("second", n_workers="all", threads_per_worker=1)
    assert second.record.n_workers == 1 and second.explained.endswith(f", within {TMUX}")


def test_watching_looks_again_until_ctrl_c(home: Home) -> None:
    command = [sys.executable, "-m", "ports", "who", "--watch"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None and watching.stderr is not None
        headings = 0
        while headings < 2:
            line = watching.stdout.readline()
            assert line, watching.stderr.read()
            headings += " available; " in line or line.rstrip().endswith(" available")
        watching.send_signal(signal.SIGINT)
        assert watching.wait(20) == 130 and watching.stderr.read().strip() == ""


# --- with others ---

START = (
    "import sys, ports, json; c = ports.clusters.start(sys.argv[1], **json.loads(sys.argv[2])); "
    "print(json.dumps([c.explained, c.record.n_workers, c.record.memory_limit, c.record.promise]))"
)


@pytest.fixture
def shared(root_site: NamespaceSite, fresh_home: object) -> Iterator[NamespaceSite]:
    """A server that alice and bob use."""
    yield root_site
    for user in ("alice", "bob"):
        for name in ("main", "big"):
            root_site.run("server1", ["ports", "cluster", "stop", name], user=user, timeout=60)


def start(site: NamespaceSite, user: str, name: str = "main", **options: Any) -> list[Any]:
    done = site.run("server1", [sys.executable, "-c", START, name, json.dumps(options)], user=user, timeout=90)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout.splitlines()[-1]))


def who(site: NamespaceSite, user: str) -> dict[str, Any]:
    done = site.run("server1", ["ports", "who", "--json"], user=user, timeout=60)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    return {**row, "users": {one["user"]: one for one in row["users"]}}


def test_what_alice_is_promised_makes_bobs_default_smaller_only(shared: NamespaceSite) -> None:
    alone = who(shared, "bob")["share"]
    assert "nobody else active" in alone["explained"]
    much = int(machine.usage().memory_bytes * 0.4)
    start(shared, "alice", memory_limit=much, **SMALL)
    seen = who(shared, "bob")
    assert seen["users"]["alice"]["promised_bytes"] == much and not seen["users"]["alice"]["is_me"]
    explained, n_workers, limit, _ = start(shared, "bob")
    assert "one other active" in explained and "half of" in explained and "not promised" in explained
    assert n_workers * limit < 0.7 * alone["n_workers"] * alone["memory_limit"]
    start(shared, "bob", "big", memory_limit=int(machine.usage().memory_bytes * 0.4), **SMALL)


def test_of_two_accounts_that_start_at_once_one_is_reduced(shared: NamespaceSite) -> None:
    alone = who(shared, "bob")["share"]
    with ThreadPoolExecutor(2) as pool:
        found = [*pool.map(lambda user: start(shared, user, n_workers=1, threads_per_worker=64), ("alice", "bob"))]
    promised = sum(n_workers * limit for _, n_workers, limit, _ in found)
    assert promised < 1.4 * alone["n_workers"] * alone["memory_limit"], found  # nine tenths each would be twice as much


def test_where_processes_are_hidden_promises_and_totals_are_seen(shared: NamespaceSite) -> None:
    shared.run("server1", ["mount", "-o", "remount,hidepid=2", "/proc"], user="root", check=True)
    try:
        start(shared, "alice", memory_limit="2GB", **SMALL)
        seen = who(shared, "bob")
        assert seen["hidden"] and set(seen["users"]) == {"alice", "bob"}
        alice = seen["users"]["alice"]
        assert (alice["promised_bytes"], alice["held_bytes"], alice["n_processes"]) == (2 * 10**9, None, 0)
        assert "processes of others are hidden here" in seen["share"]["explained"]
        text = shared.run("server1", ["ports", "who"], user="bob", timeout=60).stdout
        assert "this machine hides the processes of others (hidepid)" in text
        assert not who(shared, "root")["hidden"]
    finally:
        shared.run("server1", ["mount", "-o", "remount,hidepid=0", "/proc"], user="root", check=True)
    assert not who(shared, "bob")["hidden"]


SHORT = """
import ports, sys, time

def short(dask_scheduler):
    from ports_owner import memory as ports_memory

    class Told(ports_memory.Meter):
        def domains(self):
            return (ports_memory.Domain(ports_memory.MACHINE, 4 * 2**30, 0),)

    dask_scheduler.policies.guard.meter.__class__ = Told

def hold():
    held = bytearray(b"x") * 150_000_000
    time.sleep(600)

cluster = ports.clusters.start("main", n_workers=1, threads_per_worker=1, guard="restart", memory_limit="500MB")
with cluster.get_client() as client:
    future = client.submit(hold)
    while min(client.run(lambda dask_worker: dask_worker.monitor.get_process_memory()).values()) < 150e6:
        time.sleep(0.1)
    client.run_on_scheduler(short)
    end = time.monotonic() + 20
    while time.monotonic() < end and not any(" restarted, because " in line for line in cluster.logs()):
        time.sleep(0.1)
print(*(line for line in cluster.logs() if "guard: " in line), sep="\\n")
"""


@pytest.mark.parametrize("hidepid", [1, 2])
def test_where_processes_are_hidden_the_guard_restarts_and_tells(shared: NamespaceSite, hidepid: int) -> None:
    shared.run("server1", ["mount", "-o", f"remount,hidepid={hidepid}", "/proc"], user="root", check=True)
    try:
        done = shared.run("server1", [sys.executable, "-c", SHORT], user="alice", timeout=90)
    finally:
        shared.run("server1", ["mount", "-o", "remount,hidepid=0", "/proc"], user="root", check=True)
    assert done.returncode == 0, done.stderr
    restarted = [line for line in done.stdout.splitlines() if " restarted, because alice had " in line]
    assert len(restarted) == 1 and "the machine are available" in restarted[0], done.stdout
    assert "workers are paused, and restarted while" in done.stdout and "Error" not in done.stdout


def test_a_server_without_ports_is_looked_at_from_the_laptop(root_site: NamespaceSite, fresh_home: object) -> None:
    done = root_site.run("laptop", ["ports", "who", "-H", "server2", "--json"], timeout=60)
    assert done.returncode == 0, done.stderr
    row = json.loads(done.stdout)
    assert (row["host"], row["kind"], row["gpus"]) == ("server2", "machine", None)
    assert "alice" in [one["user"] for one in row["users"] if one["is_me"]]
    shown = root_site.run("laptop", ["ports", "who", "-H", "server2"], timeout=60)
    assert shown.stdout.startswith("server2: ") and "\nleft: " in shown.stdout, shown.stderr


def test_shares_are_what_the_probe_sees(home: Home) -> None:
    usage = machine.usage()
    unasked = {"n_workers": None, "threads_per_worker": None, "memory_limit": None}
    assert usage.share == fair_share.decide(usage.room, unasked)
