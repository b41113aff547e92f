"""Clusters: a Dask `LocalCluster` in a process of its own that outlives notebook, terminal and connection."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ports import machine, sessions, state
from ports.clusters import _certificates, _dask, _options, _scratch
from ports.clusters._cluster import Cluster, held_gpus
from ports.clusters._options import ClusterRecord
from ports.errors import DifferentClusterError, NameInUseError, NotFoundError, StartError, UsageError, warn
from ports.machine import fair_share, gpus
from ports.probe import promises
from ports.sessions import Found, environments
from ports.state import paths, settings, wait_until

if TYPE_CHECKING:
    import builtins

    from distributed import Client

KIND = "cluster"
REUSE = ("warn", "any", "exact")


def client(name: str | None = None, *, reuse: str | None = None, **asked: Any) -> Client:
    """Return a `distributed.Client` of my cluster `name` on this machine, which is started where there is none.

    Takes and raises what `cluster` does. Modules that changed after a worker may have imported them are warned of.
    """
    return cluster(name, reuse=reuse, **asked).get_client()


def cluster(name: str | None = None, *, reuse: str | None = None, **asked: Any) -> Cluster:
    """Return my cluster `name` on this machine; it is started where there is none.

    Several processes that ask in the same second end up on one cluster.

    Parameters
    ----------
    name : str, optional
        Default: the setting ``cluster.name``, ``"main"``.
    reuse : {"warn", "any", "exact"}, optional
        What to do when it runs and differs from what is asked for: a warning that names each difference, nothing, or
        an error. Default: the setting ``cluster.reuse``, ``"warn"``.
    **asked
        Options of `start`.

    Raises
    ------
    DifferentClusterError
        It differs, and ``reuse="exact"``.
    StartError
        It could not be started; says why.
    """
    defaults = settings.get("cluster")
    name, reuse = paths.check_name(name or defaults["name"]), reuse or defaults["reuse"]
    if reuse not in REUSE:
        raise UsageError(f"reuse is {reuse!r}; it must be one of {', '.join(REUSE)}")
    timeout = asked.pop("timeout", None) or defaults["start_timeout"]
    while True:
        found = _wait_for_other_start(name, timeout)
        if found is not None and found.state == "running":
            return _take(found, asked, reuse)
        if found is not None and found.state == "unknown":
            raise found.error or NotFoundError(KIND, name, f"{found.reason}; pass another name=")
        if found is not None:
            warn(f"cluster {name!r} had stopped ({found.reason}); a new one starts")
        try:
            # the client is this process's next step: its 0.3 s of imports pass while the owner imports the same
            return _start(name, timeout, asked, meanwhile=_dask.import_client)
        except NameInUseError:
            continue  # another process claimed it in this moment: wait for its start


def start(name: str | None = None, *, timeout: float | None = None, **asked: Any) -> Cluster:
    """Start a cluster and return it once its scheduler answers; it runs until `Cluster.stop`.

    It runs with this process's interpreter, directory, ``sys.path`` and environment variables. Options that are not
    given come from the settings.

    Parameters
    ----------
    name : str, optional
        Default: the setting ``cluster.name``.
    timeout : float, optional
        Seconds until the start is given up. Default: 60.
    n_workers : int or "all", optional
        Number of workers; ``"all"``: what the machine has. Default: a fair share of it.
    threads_per_worker : int, optional
        Threads of each. Default: the cores of a fair share, divided.
    memory_limit : int, float or str, optional
        Of one worker: bytes, a text such as ``"4GB"``, a part of the machine up to 1.0; 0: none. Default: its part of a
        fair share.
    force : bool, optional
        Also where that promises more memory than the machine has. Default: False.
    processes : bool, optional
        Workers are processes; False: threads of the owner's. Default: True.
    daemon : bool, optional
        Tasks may not start processes. Default: False.
    worker_start : {"auto", "spawn", "forkserver"}, optional
        How worker processes start. Default: ``"auto"``, forkserver from 4 workers on.
    security : {"auto", "sockets", "tls"}, optional
        How others are kept out. Default: ``"auto"``, Unix sockets where the kernel tells who is at the other end.
    dashboard : {"socket", "tcp"}, optional
        ``"tcp"``: with TLS, also on a port, by token. Default: ``"socket"``.
    interface : str, optional
        Network interface to listen on, for clients and workers of other machines, with TLS. Default: 127.0.0.1 only.
    local_directory : str, optional
        Scratch of workers. Default: the largest disk, as in the settings.
    env : str, optional
        A conda environment or venv. Default: this interpreter's.
    environ : mapping, optional
        Variables on top of this process's. Default: none.
    nice : int, optional
        Niceness of workers, 0 to 19. Default: 5.
    guard : {"off", "pause", "restart"}, optional
        What the memory guard may do. Default: ``"pause"``.
    guard_mark : float, optional
        Part of the memory below which it acts. Default: 0.1, at most 8 GiB.
    guard_pressure : float, optional
        Percent of the time that all wait for memory from which it acts. Default: 20.
    idle : float, optional
        Hours without tasks and held results until workers end, to come back at the first task; 0: never. Default: 12.
    expire : float, optional
        Days without tasks until the cluster ends; 0: never. Default: 14.
    gpus : int, optional
        GPUs of each worker. Default: 0.
    **asked
        Those above, and any keyword of `LocalCluster`.

    Raises
    ------
    NameInUseError
        A cluster of that name runs or starts.
    UsageError
        An option that cannot be.
    OverpromisedError
        More memory than the machine has, with what my other clusters are promised.
    StartError
        It ended while it started: with exit status, log and its last lines.
    """
    return _start(name, timeout, asked)


def _start(
    name: str | None, timeout: float | None, asked: Mapping[str, Any], meanwhile: Callable[[], None] | None = None
) -> Cluster:
    paths.check_serves("clusters")
    defaults = settings.get("cluster")
    name = paths.check_name(name or defaults["name"])
    known = sessions.find(KIND, name, ClusterRecord)
    if known is not None and known.state in ("running", "starting"):  # before its size is reckoned, and warned of
        raise NameInUseError(KIND, name, f"`ports cluster stop {name}` ends it")
    record, environ = _plan(name, _options.merge(defaults, asked))
    found = sessions.claim(record)
    try:
        _scratch.create(Path(record.scratch))
        if record.sockets:
            _scratch.create(Path(record.sockets))
        else:
            _certificates.write_self_signed(found.files.credentials)
        if record.token_file:
            state.ensure_token(Path(record.token_file))
        argv = [record.interpreter, *_dask.owner_command(found.files.directory)]
        found = sessions.start(
            found,
            argv,
            environ=environ,
            cwd=record.directory,
            timeout=timeout or defaults["start_timeout"],
            what=f"cluster {name!r}",
            meanwhile=meanwhile,
        )
    except BaseException:
        sessions.abandon(found)
        raise
    if (warning := machine.logout_warning()) is not None:
        warn(warning)
    return Cluster(found, just_started=True)


def list() -> builtins.list[Cluster]:
    """Return my clusters on this machine by name: running, starting, stopped (with the reason) or unknown."""
    found = [sessions.find(KIND, name, ClusterRecord) for name in sessions.names(KIND)]
    return [Cluster(one) for one in found if one is not None]


def get(name: str | None = None) -> Cluster:
    """Return my cluster `name` on this machine, whatever its state.

    Raises
    ------
    NotFoundError
        There is none of that name.
    RecordError
        What it was started with cannot be read.
    """
    name = paths.check_name(name or settings.get("cluster.name"))
    found = sessions.find(KIND, name, ClusterRecord)
    if found is None:
        raise NotFoundError(KIND, name, _hint(name))
    if found.record is None:
        raise found.error or NotFoundError(KIND, name, _hint(name))
    return Cluster(found)


def logs(name: str | None = None, lines: int = 0) -> tuple[str, ...]:
    """Return the last `lines` lines of the log of cluster `name`, also of one that is stopped and gone; 0: all.

    Raises
    ------
    NotFoundError
        There never was one of that name.
    """
    name = paths.check_name(name or settings.get("cluster.name"))
    log = paths.here().session(KIND, name).log
    if not log.exists():
        raise NotFoundError(KIND, name, _hint(name))
    return sessions.tail(log, lines)


def prune() -> builtins.list[str]:
    """Remove the records and scratch of clusters that have stopped, and return their names; logs stay."""
    stopped = [one for one in list() if one.state == "stopped"]
    for one in stopped:
        with contextlib.suppress(NameInUseError):  # started anew meanwhile
            one.stop()
    return [one.name for one in stopped]


def _hint(name: str) -> str:
    if its_node := sessions.elsewhere(KIND, name):
        return its_node
    there = sessions.names(KIND)
    return f"there is {', '.join(there)}" if there else "`ports cluster start` starts one"


def _plan(name: str, merged: Mapping[str, Any]) -> tuple[ClusterRecord, dict[str, str]]:
    """Return the record of a cluster that is to be started, and its environment variables."""
    mine, now = sessions.new_identity()
    environ = sessions.starter_environ()
    interpreter, sys_path = sys.executable, _own_path()
    if merged["env"] is not None:
        found = environments.find(merged["env"], Path.cwd(), environ=environ)
        interpreter, environ = str(found.python), environments.activated(found, environ)
        sys_path = _foreign_path(sys_path)
    environ.update(merged["environ"])
    if merged["interface"] is not None:
        _check_interface(merged["interface"])
    own = f"cluster-{name}-{secrets.token_hex(3)}"
    takes_all = merged["n_workers"] == fair_share.ALL
    merged = {**merged, **_with_gpus(name, merged, environ)}
    merged = {**merged, **_sized(merged, takes_all=takes_all)}
    record = ClusterRecord(
        kind=KIND,
        name=name,
        created_at=now,
        interpreter=interpreter,
        directory=str(Path.cwd()),
        started_by=mine,
        sys_path=sys_path,
        scratch=str(_scratch.choose(name, merged["local_directory"])),
        sockets=str(paths.runtime_directory() / own) if merged["security"] == "sockets" else "",
        token_file=str(paths.here().token(KIND, name)) if merged["dashboard"] == "tcp" else "",
        **{
            **merged,
            "dashboard": str(paths.runtime_directory() / f"{own}.sock"),
            "promise": f"{promises.PLACE}/ports-promise-{os.getuid()}-{secrets.token_hex(8)}",
        },
    )
    return record, environ


def _check_interface(name: str) -> None:
    there = _dask.interfaces()
    if name not in there:
        known = ", ".join(f"{one} ({address})" for one, address in sorted(there.items()))
        raise UsageError(f"interface is {name!r}, and this machine has no such one with IPv4; there are {known}")


def _with_gpus(name: str, merged: Mapping[str, Any], environ: Mapping[str, str]) -> dict[str, Any]:
    """Return the GPUs for workers, and how many workers those make; warns of GPUs that somebody else has as well."""
    if not merged["gpus"]:
        return {}
    held = held_gpus(but=name)
    chosen = gpus.for_workers(merged, environ, held)
    taken = chosen["gpu_ids"][: merged["gpus"] * chosen["n_workers"]]
    if (said := gpus.shared(taken, held)) is not None:
        warn(said)
    return chosen


def _sized(merged: Mapping[str, Any], *, takes_all: bool) -> dict[str, Any]:
    """Return workers, threads and memory as numbers, what is not asked for a fair share, and how they came about."""
    room = machine.room()
    asked = {name: merged[name] for name in ("n_workers", "threads_per_worker")}
    asked["memory_limit"] = _memory(merged["memory_limit"], room.may_have)
    size = fair_share.decide(room, asked, processes=merged["processes"], takes_all=takes_all)
    # what nobody asked for has become smaller instead, down to a least worker, which always starts
    is_asked = asked["memory_limit"] is not None or size.n_workers > 1 or size.promised_bytes > room.may_have
    if is_asked and not merged["force"]:
        fair_share.check(room, size.n_workers, size.memory_limit)
    for warning in size.warnings:
        warn(warning)
    return {
        "n_workers": size.n_workers,
        "threads_per_worker": size.threads_per_worker,
        "memory_limit": size.memory_limit,
        "takes_all": takes_all,
        "explained": size.explained,
    }


def _memory(asked: Any, whole: int) -> int | None:
    """Return the limit of a worker in bytes; of a part, ``0.5``, that of `whole`; None for ``"auto"``."""
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(asked, int) and 0 < float(asked) <= 1:
            return int(float(asked) * whole)
    found = _dask.parse_bytes(asked)
    return None if found in (None, "auto") else int(found)


def _is_same_interpreter(one: str, other: str) -> bool:
    """Say whether two paths are one interpreter of one environment: ``bin/python`` and ``bin/python3`` are."""
    return Path(one).parent == Path(other).parent and Path(one).resolve() == Path(other).resolve()


def _own_path() -> tuple[str, ...]:
    return tuple(entry or str(Path.cwd()) for entry in sys.path)


def _foreign_path(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out what belongs to this interpreter: another one has its own."""
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return tuple(entry for entry in entries if "site-packages" not in entry and not entry.startswith(own))


def _wait_for_other_start(name: str, timeout: float) -> Found[ClusterRecord] | None:
    """Return what there is of `name`, after a start by another process has come to its end."""
    found = sessions.find(KIND, name, ClusterRecord)
    if found is None or found.state != "starting":
        return found

    def settled() -> Found[ClusterRecord] | None:
        now = sessions.find(KIND, name, ClusterRecord)
        if now is None:
            log = found.files.log
            raise StartError(f"cluster {name!r}", "another process started it", log, sessions.tail(log, 20))
        return now if now.state != "starting" else None

    return wait_until(settled, timeout=timeout, what=f"cluster {name!r}, which another process starts,")


def _take(found: Found[ClusterRecord], asked: Mapping[str, Any], reuse: str) -> Cluster:
    """Return a running cluster, after `reuse` has been applied to how it differs."""
    taken = Cluster(found)
    record = taken.record
    if reuse != "any":
        interpreter = sys.executable
        if asked.get("env") is not None:
            found_env = environments.find(asked["env"], Path.cwd(), environ=sessions.starter_environ())
            interpreter = str(found_env.python)
        elif record.env is not None and record.env == settings.get("cluster.env"):
            interpreter = record.interpreter
        wanted = (
            {**asked, "memory_limit": _dask.parse_bytes(asked["memory_limit"])} if "memory_limit" in asked else asked
        )
        if _is_same_interpreter(record.interpreter, interpreter):
            interpreter = record.interpreter
        different = _options.differences(record, wanted, interpreter=interpreter, directory=str(Path.cwd()))
        if different and reuse == "exact":
            raise DifferentClusterError(record.name, different)
        if different:
            hint = f"pass name= for another, stop it (`ports cluster stop {record.name}`), or pass reuse='any'"
            warn(f"cluster {record.name!r} runs, but {'; '.join(different)}: {hint}")
    taken.warn_of_versions()
    taken.warn_of_end()
    return taken
