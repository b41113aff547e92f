"""Clusters: the time to connect to one and to start its workers, and the memory of the workers."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil

from benchmarks.commands import PORTS, home, seconds, until_ready
from benchmarks.measure import Aim, Result, Samples, interleave

WAIT = "print('ready', flush=True); import sys; sys.stdin.read()"
OUR_CLIENT = f"import ports; client = ports.client(); {WAIT}"
THEIR_CLIENT = f"""
from distributed import Client
client = Client({{address!r}}); {WAIT}
"""
OUR_WORKERS = f"""
import ports
client = ports.cluster(n_workers={{n}}, threads_per_worker=1).get_client()
client.wait_for_workers({{n}}); {WAIT}
"""
THEIR_WORKERS = f"""
from distributed import Client, LocalCluster
cluster = LocalCluster(n_workers={{n}}, threads_per_worker=1)
client = Client(cluster); client.wait_for_workers({{n}}); {WAIT}
"""
SETTLE_SECONDS = 2.0  # until new workers have finished the rest of their start


def client(runs: int) -> Iterator[Result]:
    """Time from the start of a process to its connected client."""
    with home() as env:
        seconds([*PORTS, "cluster", "start", "main", "--n-workers", "2"], env=env)
        try:
            shown = json.loads(subprocess.check_output([*PORTS, "cluster", "show", "main", "--json"], env=env))
            by_hand = THEIR_CLIENT.format(address=shown["address"])

            def once(code: str) -> float:
                with until_ready([sys.executable, "-c", code], env=env) as (took, _):
                    return took

            samples = interleave(lambda: once(OUR_CLIENT), lambda: once(by_hand), runs)
        finally:
            seconds([*PORTS, "cluster", "stop", "main"], env=env)
    yield Result("client", "ports.client()", "Client(address)", "s", Aim("ratio", 1.15), samples)


def few_workers(runs: int) -> Iterator[Result]:
    """Time the start of 2 workers."""
    yield _workers(2, runs)[0]


def many_workers(runs: int) -> Iterator[Result]:
    """Time the start of 32 workers, and measure their memory."""
    yield from _workers(32, runs)


def _workers(n: int, runs: int) -> list[Result]:
    memory: dict[str, list[int]] = {"ours": [], "theirs": []}
    with home() as env:

        def ours() -> float:
            with until_ready([sys.executable, "-c", OUR_WORKERS.format(n=n)], env=env) as (took, pid):
                shown = json.loads(subprocess.check_output([*PORTS, "cluster", "show", "--json"], env=env))
                owner = psutil.Process(shown["pid"])
                tmux = owner.parents()[1]  # the launcher's parent is the tmux server of this home alone
                memory["ours"].append(_memory_when_idle([psutil.Process(pid), tmux]))
            seconds([*PORTS, "cluster", "stop"], env=env)
            return took

        def theirs() -> float:
            with until_ready([sys.executable, "-c", THEIR_WORKERS.format(n=n)], env=env) as (took, pid):
                memory["theirs"].append(_memory_when_idle([psutil.Process(pid)]))
            return took

        samples = interleave(ours, theirs, runs)
    started = f"ports.cluster(n_workers={n})"
    peer = f"LocalCluster(n_workers={n})"
    idle = Samples(tuple(memory["ours"][1:]), tuple(memory["theirs"][1:]))
    return [
        Result(f"start-{n}", started, peer, "s", Aim("ratio", 1.8 if n == 2 else 0.5), samples),
        Result(f"memory-{n}", started, peer, "MB", Aim("ratio", 0.6), idle),
    ]


def _memory_when_idle(tops: list[psutil.Process]) -> int:
    """Return the bytes (PSS) of `tops` and their descendants: client, owner, launcher, tmux, workers, fork server."""
    time.sleep(SETTLE_SECONDS)
    everybody = {process.pid for top in tops for process in [top, *top.children(recursive=True)]}
    return sum(pss(pid) for pid in everybody)


def pss(pid: int) -> int:
    """Return the proportional set size of a process in bytes; 0 if it has just ended."""
    try:
        text = Path(f"/proc/{pid}/smaps_rollup").read_text()
    except OSError:
        return 0
    return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "client": client,
    "start-2": few_workers,
    "start-32": many_workers,
}
