"""The cost of a cluster's connections: Unix sockets compared with TCP, which is open to all users, and with TLS."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client, wait
from distributed.security import Security

from benchmarks.commands import home
from benchmarks.measure import Aim, Result, Samples
from ports.clusters import _certificates

KINDS = ("sockets", "tcp", "tls")
LARGE = 100_000_000
TASKS = 5_000
# The same cluster three times; only the connections differ.
CLUSTER = """
import sys
import dask
from distributed import LocalCluster
from distributed.security import Security
kind, place, scratch = sys.argv[1:]
roles = ("client", "scheduler", "worker")
files = {f"tls_{role}_{part}": place for role in roles for part in ("cert", "key")}
door = {
    "sockets": {"protocol": "unix", "host": place},
    "tcp": {},
    "tls": {"security": Security(tls_ca_file=place, require_encryption=True, **files)},
}
if __name__ == "__main__":
    dask.config.set({"distributed.scheduler.http.routes": [], "distributed.worker.http.routes": []})
    options = {"n_workers": 2, "threads_per_worker": 1, "memory_limit": 0}
    options["scheduler_kwargs"] = {"dashboard": False, "dashboard_address": "127.0.0.1:0"}
    with LocalCluster(**options, **door[kind], local_directory=scratch) as cluster:
        print(cluster.scheduler_address, flush=True)
        sys.stdin.read()
"""


@contextlib.contextmanager
def _three() -> Iterator[dict[str, tuple[str, Security | None]]]:
    """Start a cluster of each kind, and yield the address and credentials of each."""
    with home() as env, contextlib.ExitStack() as stack:
        top = Path(tempfile.mkdtemp(prefix="ports-", dir="/tmp"))
        stack.callback(shutil.rmtree, top, ignore_errors=True)
        file = str(top / "credentials")
        _certificates.write_self_signed(Path(file))
        (top / "cluster.py").write_text(CLUSTER)
        tls = Security(tls_ca_file=file, tls_client_cert=file, tls_client_key=file, require_encryption=True)
        found: dict[str, tuple[str, Security | None]] = {}
        for kind in KINDS:
            (top / kind).mkdir(mode=0o700)
            place = {"sockets": str(top / kind), "tls": file}.get(kind, "")
            command = [sys.executable, str(top / "cluster.py"), kind, place, env["DASK_TEMPORARY_DIRECTORY"]]
            pipe = subprocess.PIPE
            process = stack.enter_context(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=env))
            assert process.stdout is not None
            found[kind] = process.stdout.readline().strip(), tls if kind == "tls" else None
        yield found


def _connect(address: str, security: Security | None) -> Client:
    return Client(address, security=security, set_as_default=False)


def _between(client: Client) -> float:
    """Return the seconds until one worker has the array of another one, and a task has read it."""
    one, other = client.scheduler_info()["workers"]
    made = client.submit(np.ones, LARGE // 8, workers=[one], pure=False)
    with client.as_current():
        wait(made)
    start = time.perf_counter()
    client.submit(len, made, workers=[other], pure=False).result()
    return time.perf_counter() - start


def _gathered(client: Client) -> float:
    made = client.submit(np.ones, LARGE // 8, pure=False)
    with client.as_current():
        wait(made)
    start = time.perf_counter()
    made.result()
    return time.perf_counter() - start


def _tiny(client: Client) -> float:
    start = time.perf_counter()
    client.gather(client.map(abs, range(TASKS), pure=False))
    return time.perf_counter() - start


def _rounds(calls: dict[str, Callable[[], float]], runs: int) -> dict[str, tuple[float, ...]]:
    """Measure in turn, `runs` times each, after one round that does not count."""
    rounds = [{kind: call() for kind, call in calls.items()} for _ in range(runs + 1)]
    return {kind: tuple(one[kind] for one in rounds[1:]) for kind in calls}


def _rows(name: str, unit: str, aims: tuple[float, float], found: dict[str, tuple[float, ...]]) -> Iterator[Result]:
    for peer, aim in zip(("tcp", "tls"), aims, strict=True):
        samples = Samples(found["sockets"], found[peer])
        yield Result(f"{name}-{peer}", "Unix sockets", peer.upper(), unit, Aim("ratio", aim), samples)


def comms(runs: int) -> Iterator[Result]:
    """Time 100 MB between workers, 100 MB gathered, 5,000 tiny tasks, and connecting."""
    rows: tuple[tuple[str, Callable[[Client], float], str, tuple[float, float]], ...] = (
        ("between", _between, "ms", (1.2, 0.6)),
        ("gather", _gathered, "ms", (1.2, 0.6)),
        ("tiny", _tiny, "s", (1.05, 1.0)),
    )
    with _three() as clusters, contextlib.ExitStack() as stack:
        clients = {kind: stack.enter_context(_connect(*where)) for kind, where in clusters.items()}
        for client in clients.values():
            client.wait_for_workers(2, timeout=60)
        for name, measure, unit, aims in rows:
            calls = {kind: _call(measure, client) for kind, client in clients.items()}
            yield from _rows(name, unit, aims, _rounds(calls, runs))
        connecting = {kind: _call(_connecting, where) for kind, where in clusters.items()}
        yield from _rows("connect", "ms", (1.0, 0.5), _rounds(connecting, 3 * runs))


def _call(measure: Callable[[Any], float], what: Any) -> Callable[[], float]:
    return lambda: measure(what)


def _connecting(where: tuple[str, Security | None]) -> float:
    start = time.perf_counter()
    with _connect(*where):
        return time.perf_counter() - start


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {"comms": comms}
