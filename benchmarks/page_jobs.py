"""The list of jobs on the page, against the runs page of MLflow: the time of one answer, with everything in it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from benchmarks.commands import PORTS, home, seconds
from benchmarks.measure import Aim, Result, Samples, interleave

N_RUNS, N_MANY = 10_000, 200_000
ROWS = 50
#: Fills the queue of this machine with scripts that have ended.
FILL = """
import sys, time
from ports.jobs import _places
from ports.jobs._store import Store
from tests.lab.job_queue import ENDED, fill

store = Store.open(_places.make_places())
fill(store, int(sys.argv[1]), now=time.time(), states=ENDED)
store.close()
"""
#: Makes the tables of MLflow's own store, and fills them with runs that have ended; each has what a job here has.
MLFLOW_FILL = """
import sqlite3, sys, time
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

path, n = sys.argv[1], int(sys.argv[2])
made = SqlAlchemyStore("sqlite:///" + path, path + "-artifacts").create_experiment("night")
database, now = sqlite3.connect(path), int(time.time() * 1000)
for number in range(n):
    run, at = f"{number:032x}", now - 7000 * (n - number)
    database.execute(
        "INSERT INTO runs (run_uuid, name, source_type, source_name, entry_point_name, user_id, status, start_time,"
        " end_time, source_version, lifecycle_stage, artifact_uri, experiment_id)"
        " VALUES (?, 'train.py', 'LOCAL', 'train.py', '', 'alice', 'FINISHED', ?, ?, '', 'active', ?, ?)",
        (run, at, at + 60000, path + "-artifacts/" + run, int(made)),
    )
    params = (("lr", "0.1"), ("seed", str(number)), ("fold", "3"))
    database.executemany("INSERT INTO params (key, value, run_uuid) VALUES (?, ?, ?)", [(*one, run) for one in params])
    database.execute("INSERT INTO tags (key, value, run_uuid) VALUES ('mlflow.runName', 'train.py', ?)", (run,))
    metric = ("loss", 1 / (number + 1), at, 0, 0, run)
    for table in ("metrics", "latest_metrics"):
        columns = "(key, value, timestamp, step, is_nan, run_uuid)"
        database.execute(f"INSERT INTO {table} {columns} VALUES (?, ?, ?, ?, ?, ?)", metric)
database.commit()
print(made)
"""


class Client:
    """A browser's connection to a server at 127.0.0.1, which stays open."""

    def __init__(self, port: int, headers: dict[str, str] | None = None) -> None:
        self.headers, self._connection = headers or {}, http.client.HTTPConnection("127.0.0.1", port, timeout=60)

    def seconds(self, method: str, path: str, marks: bytes, n: int, body: bytes | None = None) -> float:
        """Return how long an answer takes, of which `marks` must be there `n` times."""
        begin = time.perf_counter()
        self._connection.request(method, path, body, self.headers)
        answer = self._connection.getresponse()
        text = answer.read()
        took = time.perf_counter() - begin
        if answer.status != 200 or len(re.findall(marks, text)) != n:
            raise RuntimeError(f"{path} answered {answer.status}: {text[:500].decode(errors='replace')}")
        return took


@contextlib.contextmanager
def page(n: int) -> Iterator[Client]:
    """Yield a browser at the page of a machine that has `n` jobs, and a compute resource."""
    root = str(Path(__file__).resolve().parents[1])
    with home() as env:
        seconds([sys.executable, "-c", FILL, str(n)], env={**env, "PYTHONPATH": root})
        seconds([*PORTS, "resource", "start"], env=env)
        try:
            shown = subprocess.run(
                [*PORTS, "page", "--background", "--no-browser", "--json"], env=env, capture_output=True, check=True
            )
            link = urlsplit(json.loads(shown.stdout)["local_url"])
            first = http.client.HTTPConnection("127.0.0.1", link.port or 0, timeout=60)
            first.request("GET", f"{link.path}?{link.query}")
            cookie = str(first.getresponse().getheader("Set-Cookie")).partition(";")[0]
            yield Client(link.port or 0, {"Cookie": cookie})
        finally:
            seconds([*PORTS, "page", "stop"], env=env)
            seconds([*PORTS, "resource", "stop", "--now"], env=env)


def mlflow_python() -> str:
    """Return the interpreter of an environment that has MLflow: it is made once, apart, and brings 100 packages."""
    top = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ports-bench" / "mlflow"
    python = top / "bin" / "python"
    if not (top / "complete").exists():
        subprocess.run([sys.executable, "-m", "venv", str(top)], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", "mlflow>=3"], check=True)
        (top / "complete").touch()
    return str(python)


@contextlib.contextmanager
def mlflow(n: int) -> Iterator[tuple[Client, str]]:
    """Yield a browser at MLflow's server, which has `n` runs in its own store, and the id of their experiment."""
    python = mlflow_python()
    with tempfile.TemporaryDirectory(prefix="ports-bench-", dir="/var/tmp") as top:
        path = f"{top}/mlflow.db"
        env = {**os.environ, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}
        filled = subprocess.run(
            [python, "-c", MLFLOW_FILL, path, str(n)], env=env, cwd=top, check=True, capture_output=True, text=True
        )
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        words = ["server", "--backend-store-uri", f"sqlite:///{path}", "--port", str(port), "--workers", "1"]
        with subprocess.Popen([python, "-m", "mlflow", *words], env=env, cwd=top, **quiet) as server:
            client = Client(port, {"Content-Type": "application/json"})
            try:
                wait_for(client)
                yield client, filled.stdout.split()[-1]
            finally:
                server.terminate()
                server.wait(60)


def wait_for(client: Client) -> None:
    """Wait until a server answers."""
    end = time.monotonic() + 120
    while True:
        try:
            client.seconds("GET", "/health", b"OK", 1)
            return
        except (OSError, http.client.HTTPException):
            if time.monotonic() > end:
                raise
            client._connection.close()
            time.sleep(0.2)


def ours(client: Client, query: str = "") -> Callable[[], float]:
    """Return what times the page that lists jobs."""
    return lambda: client.seconds("GET", f"/-/jobs{query}", rb'name="id"', ROWS)


def theirs(client: Client, experiment: str) -> Callable[[], float]:
    """Return what times the question that the runs page of MLflow asks, for as many rows."""
    asked: dict[str, Any] = {"experiment_ids": [experiment], "run_view_type": "ACTIVE_ONLY", "max_results": ROWS}
    body = json.dumps({**asked, "order_by": ["attributes.start_time DESC"]}).encode()
    path = "/ajax-api/2.0/mlflow/runs/search"
    return lambda: client.seconds("POST", path, rb'"run_uuid"', ROWS, body)


def against_mlflow(runs: int) -> Iterator[Result]:
    """Time the list of 10,000 jobs against MLflow's."""
    with page(N_RUNS) as own, mlflow(N_RUNS) as (other, experiment):
        found = interleave(ours(own), theirs(other, experiment), runs)
    what, peer = "10,000 jobs listed, the whole page", "the data of MLflow's runs page, 10,000 runs"
    yield Result("page-jobs", what, peer, "ms", Aim("ratio", 0.2), found)
    yield Result("page-jobs", what, "", "ms", Aim("alone", 0.03), Samples(found.ours, ()))


def many(runs: int) -> Iterator[Result]:
    """Time the list of 200,000 jobs, a search in it, and one of its states."""
    with page(N_MANY) as own:
        for what, query in (
            ("200,000 jobs listed", ""),
            ("those of a search", "?q=train+0.05"),
            ("those of a state", "?state=error"),
        ):
            ask = ours(own, query)
            ask()
            samples = tuple(ask() for _ in range(runs))
            yield Result("page-jobs-many", what, "", "ms", Aim("alone", 0.08), Samples(samples, ()))


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "page-jobs": against_mlflow,
    "page-jobs-many": many,
}
