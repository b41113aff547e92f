"""Find or start a cluster: a Dask `LocalCluster` in a process that outlives notebook, terminal and connection."""

from __future__ import annotations

import asyncio
import functools
import inspect
import sys
import threading
import types
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ports import machine, sessions, state
from ports.clusters import _certificates, _dask, _find, _options, _owner, _plan, _scheduler, _scratch
from ports.clusters._cluster import Cluster
from ports.clusters._options import KIND, ClusterRecord
from ports.clusters._snapshot import Snapshot
from ports.errors import InvalidNameError, NameInUseError, NotFoundError, StartError, warn, with_this_line
from ports.sessions import Found, environments
from ports.state import paths, settings, wait_until

if TYPE_CHECKING:
    from distributed import Client


def client(name: str | None = None, *, reuse: str | None = None, **asked: Any) -> Client:
    """Return a `distributed.Client` of my cluster `name` on this machine; start the cluster if there is none.

    Parameters
    ----------
    name : str, optional
        Default: the setting ``cluster.name``, ``"main"``.
    reuse : {"warn", "any", "exact"}, optional
        What to do when it runs and differs from what is asked for. Default: ``"warn"``.
    asynchronous : bool, optional
        ``await ports.client(asynchronous=True)`` gives a client of the running event loop, which nothing blocks.
    **asked
        Options of a start, among them ``n_workers``, ``threads_per_worker``, ``memory_limit``, ``env``, ``gpus`` and
        ``timeout``; ``help(ports.clusters.start)`` describes each. Keywords of `distributed.Client`, such as
        ``direct_to_workers`` and ``set_as_default``, reach the client.

    Raises
    ------
    PortsError
        As `cluster`; `DaskError` if the scheduler does not answer.
    """
    is_asynchronous = bool(asked.pop("asynchronous", False))
    options = {key: asked.pop(key) for key in _options.CLIENT_KEYWORDS if key in asked}
    if is_asynchronous:
        return cast("Client", _dask.Later(_client_of_loop(name, reuse, asked, options)))
    return _find_or_start(name, reuse, asked).get_client(**options)


async def _client_of_loop(
    name: str | None, reuse: str | None, asked: Mapping[str, Any], options: Mapping[str, Any]
) -> Client:
    find = functools.partial(_find_or_start, name, reuse, dict(asked))
    found = await asyncio.to_thread(with_this_line(find))
    return await cast("Awaitable[Client]", found.get_client(asynchronous=True, **options))


def cluster(name: str | None = None, *, reuse: str | None = None, **asked: Any) -> Cluster:
    """Return my cluster `name` on this machine; start it if there is none.

    Several processes that ask at the same time get the same cluster. In a coroutine, ``async with ports.cluster():``
    and ``await ports.cluster()`` start it in a thread, and the event loop goes on.

    Parameters
    ----------
    name : str, optional
        Default: the setting ``cluster.name``, ``"main"``.
    reuse : {"warn", "any", "exact"}, optional
        What to do when it runs and differs from what is asked for: warn and name each difference, nothing, or raise
        an error. Default: the setting ``cluster.reuse``, ``"warn"``.
    **asked
        Options of `start`.

    Raises
    ------
    UsageError
        An option is invalid.
    DifferentClusterError
        It differs, and ``reuse="exact"``.
    StartError
        It did not start; says why.
    """
    is_asynchronous = asked.pop("asynchronous", None)
    if is_asynchronous or (is_asynchronous is None and _is_coroutine(sys._getframe(1))):
        name = _checked_name(name)
        return Cluster(_in_thread(functools.partial(_find_or_start, name, reuse, asked)), name=name)
    return _find_or_start(name, reuse, asked)


def _is_coroutine(frame: types.FrameType) -> bool:
    """Say whether a coroutine calls: a cell of a notebook runs in an event loop, too, but needs its cluster now."""
    return bool(frame.f_code.co_flags & inspect.CO_COROUTINE)


def _in_thread(function: Callable[[], Cluster]) -> Future[Cluster]:
    future: Future[Cluster] = Future()
    future.set_running_or_notify_cancel()  # a start goes on, also where nobody waits for it any more
    function = with_this_line(function)

    def run() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # noqa: BLE001 - whoever awaits it gets it
            future.set_exception(error)

    threading.Thread(target=run, name="ports-cluster").start()
    return future


def _checked_name(name: str | None) -> str:
    """Return `name`, or that of the setting. `Client(cluster)` becomes ``ports.client(cluster)`` in an old notebook."""
    if hasattr(name, "get_client"):
        raise InvalidNameError(str(name), "to connect to a cluster that you have, use Client(cluster)")
    return paths.check_name(name or settings.get("cluster.name"))


def _find_or_start(name: str | None, reuse: str | None, asked: dict[str, Any]) -> Cluster:
    """Do what `cluster` says, in any thread."""
    defaults = settings.get("cluster")
    name, reuse = _checked_name(name), reuse or defaults["reuse"]
    known = {option: value for option, value in asked.items() if option in settings.options(KIND)}
    settings.check(KIND, {"reuse": reuse, **known})  # an invalid option is an error if a cluster runs, too
    timeout = asked.pop("timeout", None) or defaults["start_timeout"]
    keywords = {option: value for option, value in asked.items() if option not in known}
    _options.check_keywords(keywords)
    if asked.get("env", defaults["env"]) is None:
        _dask.check_keywords(keywords)
    while True:
        with state.telling(f"cluster {name!r}, which another process is starting"):
            found = _wait_for_other_start(name, timeout)
        if found is not None and _waited_for_end(found, timeout):
            continue
        if found is not None and found.state == "running":
            return _find.reuse(found, asked, reuse)
        if found is not None and found.state == "unknown":
            raise found.error or NotFoundError(KIND, name, f"{found.reason}; pass another name=")
        if found is not None:
            warn(f"cluster {name!r} had stopped ({found.reason}); a new one starts")
        try:
            # this process makes a client next: it imports Dask (0.3 s) while the owner does the same
            with state.telling(f"the start of cluster {name!r}; log: {sessions.files(KIND, name).log}"):
                started = _start(name, timeout, asked, meanwhile=_dask.import_client)
            state.tell(f"started {name!r}: {started.explained}")
            return started
        except NameInUseError:
            continue  # another process has just claimed the name: wait for its start


def start(name: str | None = None, *, timeout: float | None = None, **asked: Any) -> Cluster:
    """Start a cluster and return it once its scheduler answers; it runs until `Cluster.stop`.

    It has this process's interpreter, directory, ``sys.path`` and environment variables. The settings can change each
    default below.

    Parameters
    ----------
    name : str, optional
        Default: the setting ``cluster.name``.
    timeout : float, optional
        Seconds to wait for the start. Default: 60.
    n_workers : int or "all", optional
        Number of workers; all: use the whole machine. Default: a fair share of the machine.
    threads_per_worker : int, optional
        Threads of each worker. Default: the cores of a fair share, divided among the workers.
    memory_limit : float or str, optional
        Memory of each worker: bytes, 4GB, 2GiB, or a fraction of the machine's memory (0.25); 0: no limit. Default: the
        memory of a fair share, divided among the workers.
    force : bool, optional
        Start (or scale) even if workers may use more memory than the machine has. Default: False.
    processes : bool, optional
        Workers are processes, not threads of one process. Default: True.
    daemon : bool, optional
        Workers are daemon processes, whose tasks cannot start processes. Default: False.
    worker_start : {"auto", "spawn", "forkserver"}, optional
        How worker processes start; auto: by forkserver if there are 4 or more, else by spawn. Default: ``"auto"``.
    security : {"auto", "sockets", "tls"}, optional
        How other users are kept out; auto: sockets on Linux, else tls. Default: ``"auto"``.
    dashboard : {"socket", "tcp"}, optional
        Where the dashboard listens; tcp: also on a port that asks for a token. Default: ``"socket"``.
    interface : str, optional
        Network interface to listen on (eth0), for other machines, with TLS. Default: 127.0.0.1 only.
    local_directory : str, optional
        Directory for the workers' scratch files, on a disk. Default: Dask's temporary-directory, else the largest of
        /scratch, /local and /var/tmp.
    env : str, optional
        Environment to run in: a conda environment (name or path) or a venv (path). Default: the environment that starts
        the cluster.
    environ : mapping, optional
        Environment variables for the cluster, in addition to yours. Default: none.
    nice : int, optional
        Niceness of workers, 0 to 19. Default: 5.
    guard : {"off", "pause", "restart"}, optional
        What the memory guard may do when the machine's memory runs short. Default: ``"pause"``.
    guard_mark : float, optional
        Fraction of the memory that the guard keeps free, at most 8 GiB. Default: 0.1.
    guard_pressure : float, optional
        Percent of time stalled on memory (PSI, full) from which the guard acts. Default: 20.
    idle : float, optional
        Hours without tasks or results in memory until workers end, to return at the next task; 0: never. Default: 12.
    expire : float, optional
        Days without tasks until the cluster ends; 0: never. Default: 14.
    calm_after : float or bool, optional
        Seconds without work until workers stop their timers, so that an idle cluster costs next to nothing; false:
        never. Default: 2.
    lend_after : float or bool, optional
        Minutes without tasks until the memory that a cluster does not use counts as free for others; 0 or false: never.
        Default: 30.
    gpus : int, optional
        Number of GPUs of each worker, which sees only these. Default: 0.
    **asked
        The options above, and any keyword of `LocalCluster`.

    Raises
    ------
    NameInUseError
        A cluster of that name is running or starting.
    UsageError
        An option is invalid.
    OverpromisedError
        Together with my other clusters, it may use more memory than the machine has.
    StartError
        It ended while it was starting; says the exit status, the log and its last lines.
    """
    named = _checked_name(name)
    if (found := sessions.find(KIND, named, ClusterRecord)) is not None:
        _waited_for_end(found, timeout or settings.get("cluster.start_timeout"))
    with state.telling(f"the start of cluster {named!r}"):
        return _start(name, timeout, asked)


def _start(
    name: str | None, timeout: float | None, asked: Mapping[str, Any], meanwhile: Callable[[], None] | None = None
) -> Cluster:
    paths.check_serves("clusters")
    defaults = settings.get("cluster")
    name = _checked_name(name)
    known = sessions.find(KIND, name, ClusterRecord)
    if known is not None and known.state in ("running", "starting"):  # before any warning about its size
        shows, stops = f"`ports cluster show {name}` shows", f"`ports cluster stop {name}` stops it"
        ways = f"{shows} it, `ports cluster scale {name} N` and `ports cluster restart {name}` change it"
        ways = ways if known.state == "running" else f"it is starting: {shows} when it runs"
        raise NameInUseError(KIND, name, f"{ways}, {stops}")
    options = _options.merge(defaults, asked)
    if options["env"] is None:  # another environment can have another Dask
        _dask.check_keywords(options["options"])
    record, environ, reckoned = _plan.plan(name, options)
    record = replace(record, asked=sessions.words(KIND, asked))
    found = sessions.claim(record)
    needs = ("dask", "distributed")
    with sessions.undone(found), environments.missing_named(record.interpreter, environ, needs=needs):
        _make_places(record, found.files)
        argv = [record.interpreter, *_owner.command(found.files.directory)]
        found = sessions.start(
            found,
            argv,
            environ=environ,
            cwd=record.directory,
            timeout=timeout or defaults["start_timeout"],
            what=f"cluster {name!r}",
            meanwhile=meanwhile,
        )
        now, said = _scheduler.look_again(Snapshot(found), options["n_workers"], reckoned)
    for warning in (machine.logout_warning(), said):
        if warning is not None:
            warn(warning)
    return Cluster(now, just_started=True)


def _make_places(record: ClusterRecord, files: sessions.SessionPaths) -> None:
    """Make the directories of a cluster, its credentials, and the copy of its owner's code."""
    _scratch.create(Path(record.scratch))
    if record.sockets:
        _scratch.create(Path(record.sockets))
    else:
        _certificates.write_self_signed(files.credentials)
    if record.token_file:
        state.ensure_token(Path(record.token_file))
    _owner.copy_code(files.directory)


def _waited_for_end(found: Found[ClusterRecord], timeout: float) -> bool:
    """Wait until a cluster has ended and its reason is known, if it is ending; say whether it was."""
    now = Snapshot(found)
    if not now.is_ending:
        return False

    def has_ended() -> bool | None:
        now.refresh()
        return None if now.is_ending or now.is_noting_its_end else True

    what = f"the end of cluster {now.name!r}"
    with state.telling(what):
        wait_until(has_ended, timeout=timeout, what=what)
    return True


def _wait_for_other_start(name: str, timeout: float) -> Found[ClusterRecord] | None:
    """Return what is known of `name`, once another process has finished starting it."""
    found = sessions.find(KIND, name, ClusterRecord)
    if found is None or found.state != "starting":
        return found

    def settled() -> Found[ClusterRecord] | None:
        now = sessions.find(KIND, name, ClusterRecord)
        if now is None:
            log, began = found.files.log, found.record.created_at if found.record is not None else 0.0
            lines = sessions.tail_of_start(log, 20, began=began)
            raise StartError(f"cluster {name!r}", "another process was starting it, and it is gone", log, lines)
        return now if now.state != "starting" else None

    return wait_until(settled, timeout=timeout, what=f"cluster {name!r}, which another process is starting")
