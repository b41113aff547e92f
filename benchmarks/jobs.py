"""Jobs: the latency of one, many at once, a fresh fork each, and a resource that was killed.

The peers are Dask's own tasks, and huey with its queue in SQLite: as it comes, which syncs each write, and without.
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.commands import PORTS, home, seconds
from benchmarks.measure import Aim, Result, Samples

MANY, SOME = 10_000, 1_000
# Both sides in one process, in turn: a resource of ports, and a cluster of ports for Dask's own tasks.
BOTH = """
import importlib.util, json, os, pathlib, signal, subprocess, sys, tempfile, time
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

def note(path):
    import time
    with open(path, "a") as file:
        file.write("x")
    time.sleep(0.005)

def repeated():
    path = tempfile.mktemp(dir=os.environ["DASK_TEMPORARY_DIRECTORY"])
    noted = ports.map(note, [path] * 300)
    while not os.path.exists(path) or os.path.getsize(path) < 50:
        time.sleep(0.01)
    restart()
    ports.gather(noted, progress=False)
    return os.path.getsize(path) - 300

APP = '''
from huey import SqliteHuey
huey = SqliteHuey(filename={file!r}{options})
@huey.task()
def noop(x):
    return x
'''

def by_huey(options):
    top = pathlib.Path(tempfile.mkdtemp(dir=os.environ["DASK_TEMPORARY_DIRECTORY"]))
    (top / "app.py").write_text(APP.format(file=str(top / "huey.db"), options=options))
    spec = importlib.util.spec_from_file_location("app", top / "app.py")
    app = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(app)
    command = [sys.executable, "-m", "huey.bin.huey_consumer", "app.huey", "-q"]
    consumer = subprocess.Popen(command, cwd=top, env={**os.environ, "PYTHONPATH": str(top)})
    app.noop(0).get(blocking=True)

    def once():
        app.huey.flush()
        for x in range(some):
            app.noop(x)
        while app.huey.result_count() < some:
            time.sleep(0.005)

    return consumer, lambda: took(once) / some

def mapped():
    return took(lambda: client.gather(client.map(noop, range(some), pure=False))) / some

def ours_of_many():
    return took(lambda: ports.gather(ports.map(noop, range(many)), progress=False)) / many

consumer = None
if what.startswith("huey"):
    consumer, huey = by_huey({"huey": "", "huey-unsynced": ", fsync=False"}[what])
PAIRS = {
    what: (ours_of_many, huey),
} if consumer else {
    "latency": (
        lambda: took(lambda: ports.submit(noop, 1).result()),
        lambda: took(lambda: client.submit(noop, 1, pure=False).result()),
    ),
    "many": (ours_of_many, mapped),
    "isolated": (lambda: took(lambda: ports.gather(ports.map(isolated, range(some)), progress=False)) / some, mapped),
    "restart": (restart, lambda: 0.0),
    "repeated": (repeated, lambda: 0.0),
}
ours, theirs = PAIRS[what]
ours(), theirs()
pairs = [(ours(), theirs()) for _ in range(runs)]
if consumer:
    consumer.kill()
    consumer.wait()
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
            for end in (("resource", "stop", "--now"), ("cluster", "stop", "peer")):
                with contextlib.suppress(RuntimeError):  # it failed before that was started
                    seconds([*PORTS, *end], env=env)
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
    peer = f"huey with SQLite, {SOME}, each"
    yield Result("jobs-huey", what, peer, "ms", Aim("speed", 8), _measured("huey", runs))
    peer = f"the same with fsync=False, {SOME}, each"
    yield Result("jobs-unsynced", what, peer, "ms", Aim("speed", 1), _measured("huey-unsynced", runs))


def isolated(runs: int) -> Iterator[Result]:
    """Time of one of many no-ops in a fresh fork each."""
    what = f"ports.map, {SOME} forks, each"
    yield Result("jobs-isolated", what, f"client.map, {SOME}, each", "ms", Aim("speed", 1), _measured("isolated", runs))


def restart(runs: int) -> Iterator[Result]:
    """Time from the end of a killed resource to the result of the next job."""
    samples = _measured("restart", runs)
    yield Result("job-restart", "resource killed → next result", "", "s", Aim("alone", 3), Samples(samples.ours, ()))
    samples = Samples((max(_measured("repeated", runs).ours),), ())
    yield Result("job-repeated", "killed in a map of 300: most repeated", "", "n", Aim("alone", 0), samples)


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "job-latency": latency,
    "jobs": many,
    "jobs-isolated": isolated,
    "job-restart": restart,
}
