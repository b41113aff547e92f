"""Clusters on a shared machine: the cost of an idle one, and its fate beside a memory hog of another account."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psutil

from benchmarks.clusters import pss
from benchmarks.commands import PORTS, home, seconds, until_ready
from benchmarks.measure import RUNS, Aim, Result, Samples
from tests.lab import hog as lab

N_WORKERS = 32
FEW_WORKERS = 8
IDLE_SECONDS = 60.0
SETTLE_SECONDS = 5.0  # until the rest of the start is done
MOST_RUNS = 3  # runs of the idle cluster; each takes more than two minutes
HOG_RUNS = 20
THEIRS = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1)
    print("ready", flush=True)
    sys.stdin.read()
"""


def idle_few(runs: int) -> Iterator[Result]:
    """Measure the CPU seconds of an idle cluster of 8 workers in a minute."""
    yield next(_idle(FEW_WORKERS, runs))


def idle(runs: int) -> Iterator[Result]:
    """Measure the CPU seconds of an idle cluster of 32 workers in a minute, and its memory scaled to zero."""
    return _idle(N_WORKERS, runs)


def _idle(n: int, runs: int) -> Iterator[Result]:
    """Measure the CPU seconds of an idle cluster in a minute, and its memory scaled to zero, without clients."""
    ours: list[tuple[float, int]] = []
    theirs: list[tuple[float, int]] = []
    for _ in range(min(runs, MOST_RUNS)):
        with home() as env:
            with _ours(env, n=n) as top:
                used = _cpu_of_a_minute(top)
                seconds([*PORTS, "cluster", "scale", "main", "0"], env=env)
                time.sleep(SETTLE_SECONDS)
                ours.append((used, _memory(top)))
            with until_ready([sys.executable, "-c", THEIRS, str(n)], env=env) as (_, pid):
                top = psutil.Process(pid)
                theirs.append((_cpu_of_a_minute(top), _memory(top)))
    what, peer = f"ports cluster start, {n} workers", f"LocalCluster(n_workers={n})"
    cpu = Samples(tuple(one[0] for one in ours), tuple(one[0] for one in theirs))
    yield Result(f"idle-{n}", f"{what}, CPU in a minute", peer, "s", Aim("ratio", 0.1), cpu)
    memory = Samples(tuple(one[1] for one in ours), tuple(one[1] for one in theirs))
    yield Result("scaled-to-0", f"{what}, then 0", f"{peer}, idle", "MB", Aim("ratio", 0.1), memory)


WAKE = """
import json, sys, time
import psutil
import ports
cluster = ports.cluster()
owner = psutil.Process(cluster.row()["pid"])
took = []
def has_fork_server():
    try:
        return any("forkserver" in " ".join(one.cmdline()) for one in owner.children())
    except psutil.NoSuchProcess:  # it ends now
        return True
with cluster.get_client() as client:
    for _ in range(int(sys.argv[1])):
        while cluster.row()["n_workers"]:
            time.sleep(0.2)
        while has_fork_server():
            time.sleep(0.2)
        start = time.perf_counter()
        client.submit(sum, [1, 2], pure=False).result()
        took.append(time.perf_counter() - start)
        client.wait_for_workers(int(sys.argv[2]))
print(json.dumps(took))
"""


def wake(runs: int) -> Iterator[Result]:
    """Time from the submission of a task to its result, after the workers were scaled to zero."""
    with home() as env, _ours(env, "--idle", "0.0005"):
        argv = [sys.executable, "-c", WAKE, str(runs + 1), str(N_WORKERS)]
        took = json.loads(subprocess.check_output(argv, env=env).splitlines()[-1])
    what = f"{N_WORKERS} workers come back: first result"
    yield Result(f"wake-{N_WORKERS}", what, "", "s", Aim("alone", 2.0), Samples(tuple(took[1:]), ()))


@contextmanager
def _ours(env: dict[str, str], *options: str, n: int = N_WORKERS) -> Iterator[psutil.Process]:
    """Start a cluster and yield its tmux server, the ancestor of all its processes."""
    start = ["cluster", "start", "main", "--n-workers", str(n), "--threads-per-worker", "1"]
    seconds([*PORTS, *start, "--memory-limit", "400MB", "--force", *options], env=env)
    try:
        while True:
            shown = json.loads(subprocess.check_output([*PORTS, "cluster", "show", "main", "--json"], env=env))
            if shown["n_workers"] == n:
                break
            time.sleep(0.2)
        parents = psutil.Process(shown["pid"]).parents()
        yield next((one for one in parents if one.name().startswith("tmux")), parents[1])
    finally:
        seconds([*PORTS, "cluster", "stop", "main"], env=env)


def _tree(top: psutil.Process) -> list[psutil.Process]:
    return [top, *top.children(recursive=True)]


def _cpu_of_a_minute(top: psutil.Process) -> float:
    time.sleep(SETTLE_SECONDS)
    before = _cpu(top)
    time.sleep(IDLE_SECONDS)
    after = _cpu(top)
    return sum(used - before.get(pid, 0.0) for pid, used in after.items())


def _cpu(top: psutil.Process) -> dict[int, float]:
    found = {}
    for process in _tree(top):
        try:
            times = process.cpu_times()
        except psutil.NoSuchProcess:
            continue
        found[process.pid] = times.user + times.system
    return found


def _memory(top: psutil.Process) -> int:
    return sum(pss(process.pid) for process in _tree(top))


TINY = """
import json, sys, time
import ports
options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": "400MB", "force": True}
found = {True: [], False: []}
started = [ports.cluster("calm", **options), ports.cluster("lively", calm_after=False, **options)]
clients = {True: started[0].get_client(), False: started[1].get_client()}
def is_lively():
    workers = clients[True].run(lambda dask_worker: not dask_worker.calm.is_on)
    tick = clients[True].run_on_scheduler(lambda dask_scheduler: dask_scheduler.periodic_callbacks["tick"].is_running())
    return tick or any(workers.values())  # neither question stirs them
for number in range(int(sys.argv[1])):
    while is_lively():
        time.sleep(0.05)
    for is_calm in (True, False) if number % 2 else (False, True):
        start = time.perf_counter()
        clients[is_calm].gather(clients[is_calm].map(abs, range(int(sys.argv[2])), pure=False))
        found[is_calm].append(time.perf_counter() - start)
for client, one in zip(clients.values(), started):
    client.close()
    one.stop()
print(json.dumps([found[True][1:], found[False][1:]]))
"""
TINY_TASKS = 2_000


def calm_tiny(runs: int) -> Iterator[Result]:
    """Time tiny tasks on a calm cluster, beside one that keeps its timers."""
    with home() as env:
        argv = [sys.executable, "-c", TINY, str(runs + 1), str(TINY_TASKS)]
        ours, theirs = json.loads(subprocess.check_output(argv, env=env).splitlines()[-1])
    samples = Samples(tuple(ours), tuple(theirs))
    yield Result(
        "calm-tiny", f"{TINY_TASKS:,} tiny tasks after calm", "calm_after=False", "s", Aim("ratio", 1.05), samples
    )


def hog(runs: int) -> Iterator[Result]:
    """Count processes that the kernel kills when another account's process takes 60 % of the cluster's memory.

    Ours has ``guard="restart"`` and runs twenty times; the control runs once."""
    if (reason := lab.why_not()) is not None:
        print(f"hog: left out, {reason}", file=sys.stderr)
        return
    killed = []
    for _ in range(HOG_RUNS if runs >= RUNS else runs):
        with home() as env:
            outcome = lab.beside("ports", env)
            killed.append(outcome.oom_kills + (not outcome.hog_reached))
    with home() as env:
        control = lab.beside("LocalCluster", env)
    samples = Samples((float(sum(killed)),), (float(control.oom_kills),))
    what = f"guard=restart, {len(killed)} runs: killed"
    yield Result("hog", what, "LocalCluster, 1 run: killed", "n", Aim("alone", 0), samples)


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "idle-8": idle_few,
    "idle-32": idle,
    "calm-tiny": calm_tiny,
    "wake-32": wake,
    "hog": hog,
}
