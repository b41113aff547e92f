"""Jobs: the latency of one, many at once, a fresh fork each, and a resource that was killed."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.commands import PORTS, home, seconds
from benchmarks.measure import Aim, Result, Samples

MANY, SOME = 10_000, 1_000
# Both sides in one process, in turn: a resource of ports, and a cluster of ports for Dask's own tasks.
BOTH = """
import json, os, signal, sys, time
import ports
from ports.jobs import _resource

what, runs, many, some = sys.argv[1], *map(int, sys.argv[2:])

def noop(x):
    return x

isolated = ports.job(isolate=True)(noop)
client = ports.client("peer", n_workers=1, threads_per_worker=2, memory_limit="1GB", force=True)

def took(call):
    began = time.perf_counter()
    call()
    return time.perf_counter() - began

def restart():
    with _resource.connect() as connection:
        os.kill(connection.resource["pid"], signal.SIGKILL)
    began = time.perf_counter()
    _resource.connect().close()
    ports.submit(noop, 1).result()
    return time.perf_counter() - began

def mapped():
    return took(lambda: client.gather(client.map(noop, range(some), pure=False))) / some

PAIRS = {
    "latency": (
        lambda: took(lambda: ports.submit(noop, 1).result()),
        lambda: took(lambda: client.submit(noop, 1, pure=False).result()),
    ),
    "many": (lambda: took(lambda: ports.gather(ports.map(noop, range(many)), progress=False)) / many, mapped),
    "isolated": (lambda: took(lambda: ports.gather(ports.map(isolated, range(some)), progress=False)) / some, mapped),
    "restart": (restart, lambda: 0.0),
}
ours, theirs = PAIRS[what]
ours(), theirs()
pairs = [(ours(), theirs()) for _ in range(runs)]
print(json.dumps(pairs))
"""


def _measured(what: str, runs: int) -> Samples:
    """Return the samples of both sides, in seconds."""
    with home() as env:
        try:
            words = [sys.executable, "-c", BOTH, what, *map(str, (runs, MANY, SOME))]
            done = subprocess.run(words, env=env, stdout=subprocess.PIPE, check=True, timeout=600)
            pairs = json.loads(done.stdout.splitlines()[-1])
        finally:
            for kind, name in (("resource", "jobs"), ("cluster", "peer")):
                seconds([*PORTS, kind, "stop", name], env=env)
    return Samples(tuple(pair[0] for pair in pairs), tuple(pair[1] for pair in pairs))


def latency(runs: int) -> Iterator[Result]:
    """Time from the submission of a no-op to its result, warm."""
    samples = _measured("latency", 20 * runs)
    peer = "client.submit(…).result()"
    yield Result("job-latency", "ports.submit(…).result()", peer, "ms", Aim("ratio", 0.5), samples)


def many(runs: int) -> Iterator[Result]:
    """Time of one of many no-ops: durable, every transition kept."""
    what = f"ports.map, {MANY} no-ops, each"
    yield Result("jobs", what, f"client.map, {SOME}, each", "ms", Aim("speed", 10), _measured("many", runs))


def isolated(runs: int) -> Iterator[Result]:
    """Time of one of many no-ops in a fresh fork each."""
    what = f"ports.map, {SOME} forks, each"
    yield Result("jobs-isolated", what, f"client.map, {SOME}, each", "ms", Aim("speed", 1), _measured("isolated", runs))


def restart(runs: int) -> Iterator[Result]:
    """Time from the end of a killed resource to the result of the next job."""
    samples = _measured("restart", runs)
    yield Result("job-restart", "resource killed → next result", "", "s", Aim("alone", 3), Samples(samples.ours, ()))


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "job-latency": latency,
    "jobs": many,
    "jobs-isolated": isolated,
    "job-restart": restart,
}
