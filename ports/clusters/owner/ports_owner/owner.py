"""The process that owns one Dask cluster.

It runs with the cluster's own interpreter, which may be another environment's: it imports `distributed` and the
standard library, nothing of `ports`. It is started as ``python -c "… ports_owner … owner.main(DIR)"``: its folder
stands last on ``sys.path``, so that worker processes find the classes below too.

DIR holds ``record.json`` (what was asked for) and ``credentials`` (certificate and key); ``running.json`` is written
once the scheduler runs and the workers that were asked for are starting.
"""

from __future__ import annotations

import asyncio
import json
import logging
import multiprocessing
import multiprocessing.spawn
import multiprocessing.util
import os
import platform
import signal
import sys
import tempfile
import time
import traceback
from pathlib import Path

import dask
import distributed
from distributed import LocalCluster, Scheduler
from distributed.http.routing import RoutingApplication
from distributed.security import Security
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_unix_socket
from tornado.web import ErrorHandler, RequestHandler

from . import comm, dashboard_gate, orphans, peer_check, promise
from .ground import probe
from .policies import Fair
from .workers import FairNanny, FairWorker

# here, in the fork server, and in workers, which import this module for the classes below
comm.register()
peer_check.register()

IMPORTED_BY_WORKERS = (
    "distributed.http.health",
    "distributed.http.statics",
    "distributed.http.worker",
    "distributed.http.worker.prometheus.core",
    "multiprocessing.popen_forkserver",
    "multiprocessing.synchronize",
    "numpy.random",
    "prometheus_client",
    "tornado.platform.asyncio",
)
# `-c` puts the current directory first, before the standard library: a co-user's random.py there would run.
SAFE_PATH = "import sys; sys.path[:] = [entry for entry in sys.path if entry]; "
FORKSERVER_FROM = 4  # workers; with fewer, spawn is quicker (2 workers: 1.1 against 1.6 s with TLS)


def guard_children(own_path):
    """Let processes that this one starts import Python's modules and Dask before any of the directory at hand.

    multiprocessing runs ``python -c``, and hands this process's ``sys.path`` over before the child imports Dask: the
    child gets `own_path` instead, and a worker takes the starter's path once all that is imported.
    """
    # Python before 3.10.9 let its fork server listen at a name without a file, where any user may connect and order.
    multiprocessing.util.abstract_sockets_supported = False
    start, describe = multiprocessing.util.spawnv_passfds, multiprocessing.spawn.get_preparation_data

    def start_safely(path, args, passfds):
        code = args.index("-c") + 1
        return start(path, [*args[:code], SAFE_PATH + args[code], *args[code + 1 :]], passfds)

    def describe_safely(name):
        return {**describe(name), "sys_path": [*own_path]}

    multiprocessing.util.spawnv_passfds = start_safely
    multiprocessing.spawn.get_preparation_data = describe_safely


def take_path(entries):
    """Let modules be found as the starter finds them; what only this process has comes last."""
    sys.path[:] = [*entries, *(entry for entry in sys.path if entry not in entries)]


class PrivateWorker(FairWorker):
    """A worker that finds modules as the starter does, without an HTTP server, which any user could read."""

    def __init__(self, *args, starter_path=(), **kwargs):
        take_path(starter_path)
        super().__init__(*args, **kwargs)

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Make the application that other code expects; nothing listens."""
        self.http_application = RoutingApplication(routes)
        self.http_server = HTTPServer(self.http_application)


class PrivateNanny(FairNanny):
    """A nanny of a PrivateWorker."""

    def __init__(self, *args, **kwargs):
        super().__init__(*args, worker_class=PrivateWorker, **kwargs)


def is_local(name):
    """Say whether `name` is this machine's own, whatever a name server says."""
    return name is not None and (name.strip("[]") in ("localhost", "127.0.0.1", "::1") or name.endswith(".localhost"))


class PrivateApplication(RoutingApplication):
    """Answers as localhost only, which is what the dashboard is called at both ends of a tunnel, and to its own pages.

    Any page that the browser at home shows, one of another local port too, can open a websocket to it, or have its own
    name resolve to 127.0.0.1.
    """

    def find_handler(self, request, **kwargs):
        """Refuse other names in Host and Origin, then route as Dask does."""
        if is_local(request.host_name) and dashboard_gate.comes_from_its_own_page(request):
            return super().find_handler(request, **kwargs)
        return self.get_handler_delegate(request, ErrorHandler, {"status_code": 403})


class PrivateScheduler(Scheduler):
    """A scheduler whose dashboard listens on a Unix socket of its owner, and which only its owner ends."""

    def __init__(self, *args, dashboard_socket, gate=None, **kwargs):
        self.dashboard_socket = dashboard_socket
        self.gate, self.gate_server, self.dashboard_port = gate, None, None
        self.fair = None
        super().__init__(*args, **kwargs)
        self.handlers["terminate"] = self.refuse_to_end

    def start_http_server(self, routes, dashboard_address, default_port=0, ssl_options=None):
        """Serve the dashboard on the Unix socket, 0600, and nowhere else."""
        self.http_application = PrivateApplication([*routes, ("/ports.json", Summary, {"scheduler": self})])
        self.http_server = peer_check.OwnServer(self.http_application)
        Path(self.dashboard_socket).unlink(missing_ok=True)
        self.http_server.add_socket(bind_unix_socket(self.dashboard_socket, mode=0o600))
        self.http_server.address, self.http_server.port = self.dashboard_socket, 0
        self.services["dashboard"] = self.http_server
        if self.gate is not None:
            self.gate_server, self.dashboard_port = dashboard_gate.open_gate(self.http_application, *self.gate)

    async def refuse_to_end(self, *args, **kwargs):
        """Answer a client's `shutdown`: other notebooks use this cluster."""
        raise RuntimeError("a client may not end this cluster, others use it; `ports cluster stop` does")


class Summary(RequestHandler):
    """What ``ports cluster list`` shows, read from memory."""

    def initialize(self, scheduler):
        """Keep the scheduler at hand."""
        self.scheduler = scheduler

    def get(self):
        """Answer with counts, bytes and the start of the oldest worker."""
        workers = list(self.scheduler.workers.values())
        self.write(
            {
                "n_workers": len(workers),
                "n_threads": sum(worker.nthreads for worker in workers),
                "memory_bytes": sum(worker.metrics.get("memory", 0) for worker in workers),
                "memory_limit_bytes": sum(worker.memory_limit or 0 for worker in workers),
                "n_tasks": len(self.scheduler.tasks),
                "n_clients": len([key for key in self.scheduler.clients if key != "fire-and-forget"]),
                **(self.scheduler.fair.summary() if self.scheduler.fair else {}),
            }
        )


def worker_start(record):
    """Return how worker processes start: ``"spawn"`` or ``"forkserver"``."""
    if record["worker_start"] != "auto":
        return record["worker_start"]
    n_workers = record["n_workers"]
    if n_workers is None:
        n_workers = distributed.deploy.utils.nprocesses_nthreads()[0]
    return "forkserver" if n_workers >= FORKSERVER_FROM else "spawn"


def configure(record):
    """Set what Dask reads from its configuration."""
    method = worker_start(record)
    dask.config.set(
        {
            "temporary-directory": record["scratch"],  # the scheduler's too: Dask's default is open to all users
            "distributed.worker.multiprocessing-method": method,
            "distributed.worker.daemon": record["daemon"],
        }
    )
    if method == "forkserver":
        preload()
        # The fork server is started once and forks: variables that a nanny sets for a new process come too late there.
        for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items():
            os.environ.setdefault(name, str(value))


def preload():
    """Let the fork server import what a worker imports, so that workers share it.

    Dask's own list holds packages (numpy and pandas among them, which every worker imports to tell their versions), but
    not the modules that a worker imports while it starts: with them, 32 idle workers take 785 MB instead of 924 (PSS)
    and start in half the time. Modules that are not there are passed over.
    """
    getattr(distributed.utils, "get_mp_context", lambda: None)()  # sets Dask's list, once, and would do so later
    packages = [*distributed.versions.required_packages, *distributed.versions.optional_packages]
    # older versions of Dask list pairs of a name and a function
    names = [package if isinstance(package, str) else package[0] for package in packages]
    multiprocessing.set_forkserver_preload(["distributed.nanny", *names, *IMPORTED_BY_WORKERS])


def tls(credentials):
    """Return what makes every connection of a cluster ask for the certificate in the file `credentials`."""
    roles = ("client", "scheduler", "worker")
    files = {f"tls_{role}_{part}": credentials for role in roles for part in ("cert", "key")}
    return Security(tls_ca_file=credentials, require_encryption=True, **files)


def new_cluster(record, directory, port):
    """Return the cluster that `record` describes, not started yet."""
    options = dict(record["options"])
    for name in ("n_workers", "threads_per_worker", "memory_limit"):
        if record[name] is not None:
            options[name] = record[name]
    scheduler_kwargs = {**options.pop("scheduler_kwargs", {}), "dashboard_socket": record["dashboard"]}
    if record.get("token_file"):
        scheduler_kwargs["gate"] = (Path(record["token_file"]).read_text().strip(), record["name"])
    door = {"security": tls(str(directory / "credentials")), "scheduler_port": port}
    if record.get("interface"):  # else Dask listens on 127.0.0.1
        door["interface"] = record["interface"]
    if record.get("sockets"):  # a directory: whatever listens makes a socket of its own there
        door = {"security": Security(), "protocol": "unix", "host": record["sockets"]}
        scheduler_kwargs["host"] = f"{record['sockets']}/scheduler"  # the same when the owner runs anew
    cluster = LocalCluster(
        name=record["name"],
        processes=record["processes"],
        worker_class=PrivateNanny if record["processes"] else PrivateWorker,
        scheduler_kwargs=scheduler_kwargs,
        local_directory=record["scratch"],
        asynchronous=True,
        silence_logs=False,
        starter_path=tuple(record["sys_path"]),
        nice=record["nice"],
        **({"gpus": record["gpus"], "gpu_ids": record["gpu_ids"]} if record["processes"] else {}),
        **{"dashboard_address": "unix", **options, **door},
    )
    cluster.scheduler_spec["cls"] = PrivateScheduler
    return cluster


def add_commands(cluster, ended):
    """Let any process with the credentials scale and restart; `ended` gets why the owner shall run anew."""

    async def restart():
        if cluster.processes:
            await cluster.scheduler.restart(stimulus_id=f"ports-restart-{time.time()}")
        elif not ended.done():
            ended.set_result("restart")  # threads of this process: only a new process imports modules anew

    cluster.scheduler.handlers.update(ports_scale=cluster.scheduler.fair.scale, ports_restart=restart)


def own_identity(record):
    """Return this process as `ports` identifies processes; machine and boot are those of the starter."""
    pid = os.getpid()
    return {**record["started_by"], "pid": pid, "start_ticks": probe.stat_of(pid)[2]}


def announce(cluster, record, directory):
    """Write ``running.json``: from now on the cluster counts as running."""
    versions = {"python": platform.python_version(), "dask": dask.__version__, "distributed": distributed.__version__}
    data = {
        "format": 1,
        "process": own_identity(record),
        "address": cluster.scheduler_address,
        "dashboard": record["dashboard"],
        "dashboard_port": cluster.scheduler.dashboard_port,
        "versions": versions,
        "started_at": time.time(),
    }
    descriptor, temporary = tempfile.mkstemp(dir=directory, prefix=".running.")
    with os.fdopen(descriptor, "w") as file:
        json.dump(data, file, indent=2, sort_keys=True)
    Path(temporary).replace(directory / "running.json")


async def own(record, directory, port):
    """Run the cluster until it is told to stop; return what to do then, ``"stop"`` or ``"restart"``, and its port."""
    loop = asyncio.get_running_loop()
    ended = loop.create_future()

    def stop():
        if not ended.done():
            ended.set_result("stop")

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop)
    promised = promise.of(record)
    cluster = new_cluster(record, directory, port)
    await cluster
    following = loop.create_task(promised.follow(cluster))
    cluster.scheduler.fair = Fair(cluster, record, directory, ended)
    add_commands(cluster, ended)
    announce(cluster, record, directory)
    port = 0 if record.get("sockets") else cluster.scheduler.port
    print(f"cluster {record['name']} runs at {cluster.scheduler_address}: {record.get('explained')}", flush=True)
    what = await ended
    print(f"cluster {record['name']}: {what}", flush=True)
    cluster.scheduler.fair.close()
    cluster.scheduler.handlers["terminate"] = cluster.scheduler.close  # LocalCluster ends its scheduler by this
    await cluster.close()
    following.cancel()
    promised.close()
    return what, port


def main(directory, port=0):
    """Own the cluster described in `directory` until SIGTERM."""
    directory = Path(directory)
    record = json.loads((directory / "record.json").read_text())
    orphans.adopt()
    guard_children([*sys.path])
    take_path(record["sys_path"])
    os.umask(0o077)
    configure(record)
    try:
        what, port = asyncio.run(own(record, directory, port))
    except Exception as error:  # noqa: BLE001 - whatever it is, the log shall end with its cause
        logging.disable()  # what Dask has to say of its own end would stand below the cause
        traceback.print_exc()
        print(f"cause: {root_cause(error)}", flush=True)  # the last of the lines that a failed start shows
        sys.exit(1)
    if what == "restart":
        orphans.end_all()
        os.execv(sys.executable, [sys.executable, *command(str(directory), port)])


def root_cause(error):
    """Return the error that all others followed from, in a line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}"


def command(directory, port=0):
    """Return the interpreter's arguments that own the cluster of `directory`."""
    here = str(Path(__file__).parents[1])
    code = f"{SAFE_PATH}sys.path.append({here!r}); from ports_owner import owner; owner.main({directory!r}, {port})"
    return ["-c", code]
