"""The process that owns one Dask cluster.

It runs with the cluster's own interpreter, which can be another environment's. So it imports `distributed` and the
standard library, and nothing of `ports`. It is started as ``python -c "… ports_owner … owner.main(DIR)"``. The folder
of its code stands last on ``sys.path``, where worker processes find it, too.

DIR holds ``record.json`` (what was asked for), ``code`` (these modules) and ``credentials`` (certificate and key).
``running.json`` is written once the scheduler runs and the workers that were asked for are starting.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import multiprocessing
import multiprocessing.spawn
import multiprocessing.util
import os
import platform
import signal
import sys
import time
import traceback
from pathlib import Path

import dask
import dask.utils
import distributed
from distributed.security import Security

from . import calm_rules, orphans, promise
from .ground import probe
from .log import expect_the_end
from .policies import Policies
from .record import read_record
from .scheduler import PrivateScheduler
from .workers import PrivateNanny, PrivateWorker, take_path
from .workforce import KeptCluster

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
SYNC = {"scheduler_sync_interval": 60}  # seconds: nobody reads what LocalCluster asks its scheduler for
FORKSERVER_FROM = 4  # workers; with fewer, spawn is quicker (2 workers: 1.1 against 1.6 s with TLS)


def guard_children(own_path):
    """Let child processes import Python's modules and Dask before any module of the current directory.

    multiprocessing runs ``python -c``, and passes this process's ``sys.path`` on before the child imports Dask. The
    child gets `own_path` instead. A worker takes the starter's path once all of Dask is imported.
    """
    # Python's fork server before 3.10.9 listens at a name without a file, where any user can connect and give orders.
    multiprocessing.util.abstract_sockets_supported = False  # type: ignore[misc]
    start, describe = multiprocessing.util.spawnv_passfds, multiprocessing.spawn.get_preparation_data

    def start_safely(path, args, passfds):
        code = args.index("-c") + 1
        return start(path, [*args[:code], f"{probe.SAFE_PATH}; {args[code]}", *args[code + 1 :]], passfds)

    def describe_safely(name):
        return {**describe(name), "sys_path": [*own_path]}

    multiprocessing.util.spawnv_passfds = start_safely
    multiprocessing.spawn.get_preparation_data = describe_safely


def worker_start(record):
    """Return how worker processes start: ``"spawn"`` or ``"forkserver"``."""
    if record.worker_start != "auto":
        return record.worker_start
    n_workers = record.n_workers
    if n_workers is None:
        n_workers = distributed.deploy.utils.nprocesses_nthreads()[0]
    return "forkserver" if n_workers >= FORKSERVER_FROM else "spawn"


def configure(record):
    """Set what Dask reads from its configuration."""
    dask.config.set(record.dask_config)  # what the starter has set; nannies pass it on to workers
    method = worker_start(record)
    dask.config.set(
        {
            "temporary-directory": record.scratch,  # the scheduler's too: Dask's default is open to all users
            "distributed.worker.multiprocessing-method": method,
            "distributed.worker.daemon": record.daemon,
            # what Dask logs; by itself it names port 0, where nothing listens
            "distributed.dashboard.link": "a private socket; `ports open` shows it at home",
        }
    )
    if method == "forkserver":
        preload()
        # The fork server is started once and forks: variables that a nanny sets for a new process come too late there.
        for name, value in dask.config.get("distributed.nanny.pre-spawn-environ").items():
            os.environ.setdefault(name, str(value))


def preload():
    """Let the fork server import what a worker imports, so that workers share it.

    Dask's own list holds packages, among them numpy and pandas, whose versions every worker reports. It lacks the
    modules that a worker imports while it starts. With these, 32 idle workers take 785 MB instead of 924 (PSS) and
    start in half the time. Modules that are missing are passed over.
    """
    getattr(distributed.utils, "get_mp_context", lambda: None)()  # sets Dask's list once, else later
    packages = [*distributed.versions.required_packages, *distributed.versions.optional_packages]
    # older versions of Dask list pairs of a name and a function
    names = [package if isinstance(package, str) else package[0] for package in packages]
    multiprocessing.set_forkserver_preload(["distributed.nanny", *names, *IMPORTED_BY_WORKERS])


def tls(credentials):
    """Return the settings by which every connection of a cluster needs the certificate in the file `credentials`."""
    roles = ("client", "scheduler", "worker")
    files = {f"tls_{role}_{part}": credentials for role in roles for part in ("cert", "key")}
    return Security(tls_ca_file=credentials, require_encryption=True, **files)


def new_cluster(record, directory, port):
    """Return the cluster that `record` describes, not started yet."""
    options = dict(record.options)
    sizes = {"n_workers": record.n_workers, "threads_per_worker": record.threads_per_worker}
    sizes["memory_limit"] = record.memory_limit
    options.update({name: value for name, value in sizes.items() if value is not None})
    scheduler_kwargs = {**options.pop("scheduler_kwargs", {}), "dashboard_socket": record.dashboard}
    if record.token_file:
        scheduler_kwargs["gate"] = (Path(record.token_file).read_text().strip(), record.name)
    listen_options = {"security": tls(str(directory / "credentials")), "scheduler_port": port}
    if record.interface:  # else Dask listens on 127.0.0.1
        listen_options["interface"] = record.interface
    if record.sockets:  # a directory: each listener makes a socket of its own there
        listen_options = {"security": Security(), "protocol": "unix", "host": record.sockets}
        scheduler_kwargs["host"] = f"{record.sockets}/scheduler"  # the same when the owner starts again
    cluster = KeptCluster(
        name=record.name,
        processes=record.processes,
        worker_class=PrivateNanny if record.processes else PrivateWorker,
        scheduler_kwargs=scheduler_kwargs,
        local_directory=record.scratch,
        asynchronous=True,
        silence_logs=False,
        starter_path=record.sys_path,
        nice=record.nice,
        calm_after=(record.calm_after, calm_rules.slow_heartbeat(worker_ttl(scheduler_kwargs))),
        **({"gpus": record.gpus, "gpu_ids": record.gpu_ids} if record.processes else {}),
        **{"dashboard_address": "unix", **SYNC, **options, **listen_options},
    )
    cluster.scheduler_spec["cls"] = PrivateScheduler
    cluster.memory_typed = record.memory_typed
    return cluster


def worker_ttl(scheduler_kwargs):
    """Return the seconds after which the scheduler gives a silent worker up; None: never."""
    default = dask.config.get("distributed.scheduler.worker-ttl", None)
    return dask.utils.parse_timedelta(scheduler_kwargs.get("worker_ttl", default))


def add_commands(cluster, ended):
    """Let any process with the credentials scale and restart; `ended` gets the reason to start the owner again."""

    async def restart():
        if cluster.processes:
            await cluster.scheduler.restart(stimulus_id=f"ports-restart-{time.time()}")
        elif not ended.done():
            ended.set_result("restart")  # workers are threads here: only a new process imports modules again

    async def plan():
        return list(cluster.worker_spec)

    policies = cluster.scheduler.policies
    cluster.scheduler.handlers.update(ports_scale=policies.scale, ports_adapt=policies.adapt)
    cluster.scheduler.handlers.update(ports_restart=restart, ports_plan=plan)


def own_identity(record):
    """Return this process as `ports` identifies processes, with the machine and boot of its starter."""
    pid = os.getpid()
    return {**record.started_by, "pid": pid, "start_ticks": probe.stat_of(pid)[2]}


def announce(cluster, record, directory):
    """Write ``running.json``, by which the cluster counts as running."""
    versions = {"python": platform.python_version(), "dask": dask.__version__, "distributed": distributed.__version__}
    data = {
        "format": 1,
        "process": own_identity(record),
        "address": cluster.scheduler_address,
        "dashboard": record.dashboard,
        "dashboard_port": cluster.scheduler.dashboard_port,
        "versions": versions,
        "started_at": time.time(),
    }
    probe.files.write_text(str(directory / "running.json"), json.dumps(data, indent=2, sort_keys=True))


async def own(record, directory, port):
    """Run the cluster until it should stop; return what follows, ``"stop"`` or ``"restart"``, and its port."""
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
    cluster.scheduler.policies = Policies(cluster, record, directory, ended)
    following = loop.create_task(promised.follow(cluster.scheduler.policies.lending.numbers))
    add_commands(cluster, ended)
    announce(cluster, record, directory)
    port = 0 if record.sockets else cluster.scheduler.port
    print(f"cluster {record.name} runs at {cluster.scheduler_address}: {record.explained}", flush=True)
    what = await ended
    print(f"cluster {record.name}: {what}", flush=True)
    expect_the_end()
    if what == "stop":
        with contextlib.suppress(OSError):  # before any client hears of it and asks for the cluster again
            (directory / "ending").touch()
        cluster.scheduler.policies.notes.tell_of_end(why_it_ends(record.name, directory))
        await cluster.scheduler.told()
    cluster.scheduler.policies.close()
    cluster.scheduler.handlers["terminate"] = cluster.scheduler.close  # LocalCluster ends its scheduler by this
    await cluster.close()
    following.cancel()
    promised.close()
    return what, port


def why_it_ends(name, directory):
    """Return what clients read about the end of the cluster. `Cluster.stop` writes the file ``why`` before SIGTERM."""
    try:
        why = (directory / "why").read_text().strip()
    except OSError:
        why = "it got SIGTERM"
    return f"cluster {name!r} ended at {time.strftime('%H:%M')}: {why}; ports.client({name!r}) starts it again"


def main(directory, port=0):
    """Own the cluster described in `directory` until SIGTERM."""
    for stream in (sys.stdout, sys.stderr):  # the log takes what a locale lacks: a directory in Chinese, a "×"
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    directory = Path(directory)
    record = read_record(directory)
    orphans.adopt()
    guard_children([*sys.path])
    take_path(record.sys_path)
    os.umask(0o077)
    configure(record)
    try:
        what, port = asyncio.run(own(record, directory, port))
    except Exception as error:  # noqa: BLE001 - whatever it is, the log must end with its cause
        logging.disable()  # what Dask logs of its own end would stand below the cause
        traceback.print_exc()
        print(f"cause: {root_cause(error)}", flush=True)  # the last of the lines that a failed start shows
        sys.exit(1)
    if what == "restart":
        orphans.end_all()
        os.execv(sys.executable, [sys.executable, *command(str(directory), port)])


def root_cause(error):
    """Return the first error, which all others followed from, in a line."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}"


def command(directory, port=0):
    """Return the interpreter's arguments that own the cluster of `directory`."""
    here = str(Path(__file__).parents[1])
    code = f"sys.path.append({here!r}); from ports_owner import owner; owner.main({directory!r}, {port})"
    return ["-c", f"{probe.SAFE_PATH}; {code}"]
