"""One cluster: what `ports.cluster()` returns. Dask takes it as a cluster object of its own kind."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar, cast

from ports import listeners, sessions
from ports.clusters import _dask, _options, _row, _scheduler, _text
from ports.clusters._documents import ClusterRow, Summary
from ports.clusters._options import KIND, ClusterRecord, ClusterRunning
from ports.clusters._snapshot import Snapshot
from ports.errors import PortsError, UsageError, warn, with_this_line
from ports.sessions import Found
from ports.state import record_this_interpreter, telling

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security


T = TypeVar("T")
_COMING = "unix://"  # the address of a cluster that is starting: a `Client` wants some text
_DASK_WORDS = {"running": "running", "starting": "starting", "stopped": "closed", "unknown": "undefined"}
_ELSEWHERE = {  # attributes of LocalCluster that need the process of the cluster
    "scheduler": "client.run_on_scheduler(function) or cluster.scheduler_info",
    "scheduler_comm": "client.run_on_scheduler(function)",
    "worker_spec": "cluster.workers",
    "loop": "client.loop",
    "sync": "client.sync",
}


class Cluster:
    """A cluster of mine on this machine, as it was found at one moment.

    Leaving a ``with``, `close` and ``client.shutdown()`` only disconnect, because other notebooks use the cluster.
    `stop` ends it.
    """

    def __init__(self, now: Snapshot | Future[Cluster], *, name: str = "", just_started: bool = False) -> None:
        self._found = now
        self._name = name  # of one that a thread finds or starts
        self._started = time.monotonic() if just_started else None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._security: Any = None  # what a `Client` got while the start went on

    def __reduce__(self) -> tuple[Callable[[str], Cluster], tuple[str]]:
        """Pickle the name. In another process it is the cluster of that name, as it is then.

        A function that is sent to a task often takes a handle along, because it is a global of the notebook.
        """
        return _of_name, (self.name,)

    def __copy__(self) -> Cluster:
        return Cluster(self._found, name=self._name)

    def __deepcopy__(self, memo: dict[int, Any]) -> Cluster:
        return self.__copy__()

    @property
    def _now(self) -> Snapshot:
        """What was found; waits for a start that goes on in a thread."""
        return self._found if isinstance(self._found, Snapshot) else self._found.result()._now

    @property
    def _is_coming(self) -> bool:
        """Whether a thread still finds or starts it: a `Client` that is made in an event loop awaits it later."""
        return isinstance(self._found, Future) and not self._found.done() and _is_in_loop()

    # --- what it is ---

    @property
    def name(self) -> str:
        """Its name, ``"main"``."""
        return self._name or self._now.name

    @property
    def record(self) -> ClusterRecord:
        """What it was started with.

        Raises
        ------
        RecordError
            The record cannot be read.
        """
        return self._now.record

    @property
    def state(self) -> str:
        """``"running"``, ``"starting"``, ``"stopped"``, or ``"unknown"``: no answer, or another machine's cluster."""
        self._now.refresh()
        return self._now.state

    @property
    def reason(self) -> str | None:
        """Why it does not run, or why its state is unknown."""
        return self._now.reason

    @property
    def explained(self) -> str:
        """How its size was decided, in a line; empty where an older `ports` started it."""
        return self._now.record.explained

    @property
    def log(self) -> Path:
        """Path of its log, which stays when the cluster stops."""
        return self._now.log

    @property
    def summary(self) -> Summary | None:
        """Counts from its scheduler: workers, threads, memory (bytes), tasks, clients; None without an answer."""
        return self._now.summary

    # --- what Dask asks of a cluster object ---

    @property
    def scheduler_address(self) -> str:
        """Address of the scheduler, ``unix:///tmp/…`` or ``tls://127.0.0.1:…``; a plain `Client` takes it as it is.

        Raises
        ------
        ForeignListenerError
            Another user has been listening there since the cluster was found.
        DaskError
            The record has an address that `ports` never writes.
        """
        return _COMING if self._is_coming else _scheduler.address(self._now)

    @property
    def security(self) -> Security:
        """Credentials for its scheduler; empty where the scheduler listens on a Unix socket."""
        if self._is_coming and isinstance(self._found, Future):
            if self._security is None:
                self._security = _dask.coming_security()
                self._found.add_done_callback(self._settle)
            return cast("Security", self._security)
        return _dask.security(self.scheduler_address, self._now.found.files.credentials)

    def _settle(self, done: Future[Cluster]) -> None:
        if done.exception() is None:
            with contextlib.suppress(PortsError):  # `scheduler_address` raises it again
                self._security.become(done.result().security)

    @property
    def status(self) -> str:
        """Dask's word for the state: ``"running"``, ``"starting"`` or ``"closed"``; ``"undefined"`` if it is unknown.

        It equals Dask's own `Status`, too: a client of a cluster that has ended closes at once.
        """
        if self._is_coming:
            return "starting"
        self._now.refresh()
        return _Status("closed" if self._now.is_ending else _DASK_WORDS[self._now.found.state])

    @property
    def dashboard_link(self) -> str:
        """Link of the dashboard at home, where ``ports open`` runs."""
        return listeners.cluster_link(self.name)

    def close(self, timeout: float | None = None) -> _Nothing:
        """Disconnect; the cluster keeps running. `stop` ends it."""
        try:
            asyncio.get_running_loop()  # `client.shutdown()` calls this from Dask's event loop
        except RuntimeError:
            return _Nothing()
        warn(
            f"only disconnected: cluster {self.name!r} keeps running for its other clients; "
            f"`ports cluster stop {self.name}` or ports.clusters.get({self.name!r}).stop() ends it"
        )
        return _Nothing()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    # --- in an event loop ---

    def __await__(self) -> Generator[Any, None, Cluster]:
        """Note the event loop of an asynchronous client, in which nothing may block, and wait for a start."""
        self._loop = asyncio.get_running_loop()
        if not isinstance(self._found, Snapshot):
            try:
                yield from asyncio.wrap_future(self._found).__await__()
            except BaseException:
                _dask.close_waiting(self)
                raise
        return self

    async def __aenter__(self) -> Cluster:
        return await self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def _run(self, function: Callable[[], T]) -> T:
        """Run `function`; in the event loop of an asynchronous client, return a future of it instead."""
        is_coming = self._is_coming
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return function()
        if loop is not self._loop and not is_coming:
            return function()
        later: Any = asyncio.ensure_future(asyncio.to_thread(with_this_line(function)))
        return cast(T, later)

    def __getattr__(self, name: str) -> Any:
        way = _ELSEWHERE.get(name)
        hint = f": it is in another process; use {way}" if way else ""
        raise AttributeError(f"a cluster of ports has no attribute {name!r}{hint}")

    def get_client(self, *, timeout: float = 10.0, asynchronous: bool = False, **options: Any) -> Client:
        """Return a connected `distributed.Client`; warns where workers imported an older version of a module.

        Parameters
        ----------
        timeout : float
            Seconds to wait for the scheduler's answer.
        asynchronous : bool
            Return something to await, which gives a client of the running event loop.
        **options
            Keywords of `distributed.Client`.

        Raises
        ------
        DaskError
            The scheduler did not answer.
        NotFoundError
            The cluster does not run, or it is ending.
        """
        if asynchronous:
            return cast("Client", _dask.Later(self._client_of_loop(timeout, options)))
        self._look_before_connecting()
        client = _dask.connect(self, timeout=timeout, **options)
        with _dask.closed_on_error(client):
            self._warn_of_old_modules(client)
        return client

    async def _client_of_loop(self, timeout: float, options: Mapping[str, Any]) -> Client:
        await asyncio.to_thread(self._look_before_connecting)
        return await _dask.connect_async(self, timeout=timeout, **options)

    def _look_before_connecting(self) -> None:
        self._now.refresh()
        record_this_interpreter()

    def _warn_of_old_modules(self, client: Client) -> None:
        # workers that started a second ago have imported nothing older
        is_new = self._started is not None and time.monotonic() - self._started < 1
        stale = {} if is_new else _dask.stale_modules(client, scratch=self.record.scratch, timeout=1.0)
        if stale:
            warn(
                f"workers of cluster {self.name!r} imported older versions of {', '.join(sorted(stale))}; "
                f"run `ports cluster restart {self.name}` to reload them"
            )

    def wait_for_workers(self, n_workers: int, timeout: float | str | None = None) -> None:
        """Wait until there are `n_workers`; `Client.wait_for_workers` calls this. A resting cluster wakes up.

        Parameters
        ----------
        timeout : float or str, optional
            Seconds, or a text such as ``"1s"``; None: no limit.

        Raises
        ------
        TimedOutError
            There were fewer in time.
        """
        seconds = _dask.parse_seconds(timeout)
        return self._run(lambda: _scheduler.wait_for_workers(self._now, n_workers, seconds))

    # --- what it does ---

    def scale(
        self,
        n: int | None = None,
        *,
        n_workers: int | None = None,
        cores: int | None = None,
        memory: int | str | None = None,
        force: bool | None = None,
    ) -> None:
        """Set the number of workers, from any process of mine.

        Parameters
        ----------
        n, n_workers : int
            The number of workers.
        cores : int
            As many workers as have that many threads.
        memory : int or str
            As many workers as have that much memory: bytes, or ``"16GB"``.
        force : bool, optional
            Scale even if workers may then use more memory than the machine has. Default: the setting
            ``cluster.force``.

        Raises
        ------
        UsageError
            `n_workers` is negative, or there are too few GPUs for that many.
        OverpromisedError
            That many workers may use more memory than the machine has.
        DaskError
            The scheduler did not do it.
        """
        n = n_workers if n is None else n
        size = None if memory is None else int(_dask.parse_bytes(memory))
        if n is None and cores is None and size is None:
            raise UsageError("scale needs a number of workers n, or cores=, or memory=")

        def scale() -> None:
            is_number = n is not None and cores is None and size is None
            number = n if is_number else _options.how_many(self.record, n, cores, size, memory)
            _scheduler.scale(self._now, cast(int, number), force=force)

        return self._run(scale)

    def adapt(
        self,
        *,
        minimum: int = 0,
        maximum: float | None = None,
        minimum_cores: int | None = None,
        maximum_cores: int | None = None,
        minimum_memory: int | str | None = None,
        maximum_memory: int | str | None = None,
        interval: float | str = 1.0,
        target_duration: float | str = 5.0,
        wait_count: int = 3,
    ) -> None:
        """Let the number of workers follow the tasks, until `scale` sets it. It goes on when this process ends.

        Parameters
        ----------
        minimum, maximum : int
            The fewest and the most workers. Default: 0, and the number that the cluster has now.
        minimum_cores, maximum_cores : int, optional
            The same, as threads of all workers.
        minimum_memory, maximum_memory : int or str, optional
            The same, as memory of all workers: bytes, or ``"16GB"``.
        interval : float or str
            Seconds between two looks.
        target_duration : float or str
            Seconds in which all tasks should end; the scheduler wants more workers where they would take longer.
        wait_count : int
            How often in a row fewer workers must be wanted until some end.

        Raises
        ------
        UsageError
            A bound is invalid.
        OverpromisedError
            The most workers may use more memory than the machine has.
        DaskError
            The scheduler did not do it.
        """
        sizes = {"minimum_memory": minimum_memory, "maximum_memory": maximum_memory}
        bounds: dict[str, Any] = {
            name: int(_dask.parse_bytes(size)) for name, size in sizes.items() if size is not None
        }
        bounds |= {"minimum": minimum, "maximum": maximum}
        bounds |= {"minimum_cores": minimum_cores, "maximum_cores": maximum_cores}
        every, target = [_dask.parse_seconds(one) or 0.0 for one in (interval, target_duration)]
        for name, value in (("interval", every), ("target_duration", target)):
            if value <= 0:
                raise UsageError(f"{name} is {value:g} s; pass a longer time, such as '1s'")
        return self._run(lambda: _scheduler.adapt(self._now, bounds, every, target, wait_count))

    @property
    def scheduler_info(self) -> dict[str, Any]:
        """What the scheduler says of itself and of its workers, as `LocalCluster.scheduler_info`."""
        return dict(_scheduler.ask(self._now, "identity"))

    @property
    def workers(self) -> dict[Any, dict[str, Any]]:
        """What the scheduler says of each worker, by its name."""
        return {one["name"]: one for one in self.scheduler_info["workers"].values()}

    @property
    def observed(self) -> set[Any]:
        """The names of the workers that the scheduler knows."""
        return set(self.workers)

    @property
    def plan(self) -> set[Any]:
        """The names of the workers that should run."""
        return set(_scheduler.ask(self._now, "ports_plan"))

    @property
    def requested(self) -> set[Any]:
        """The names of the workers that were started, or that start by themselves: all of `plan`."""
        return self.plan

    def get_logs(self, cluster: bool = True, scheduler: bool = True, workers: bool = True) -> dict[str, str]:
        """Return logs by name, as `LocalCluster.get_logs`: of the cluster, its scheduler, and each worker."""
        return self._run(lambda: self._get_logs(cluster, scheduler, workers))

    def _get_logs(self, cluster: bool, scheduler: bool, workers: bool) -> dict[str, str]:
        found = {"Cluster": "\n".join(self.logs())} if cluster else {}
        if scheduler:
            found["Scheduler"] = _joined(_scheduler.ask(self._now, "logs"))
        if workers:
            found |= {name: _joined(lines) for name, lines in _scheduler.ask(self._now, "worker_logs").items()}
        return found

    def restart(self) -> None:
        """Restart all workers, so that they import changed modules. Results in their memory are lost; links stay.

        Raises
        ------
        DaskError
            The scheduler did not do it.
        """
        return self._run(lambda: _scheduler.restart(self._now))

    def stop(self, *, force: bool = False) -> None:
        """End the cluster: its workers, what their tasks started, and the tmux session. Only the log stays.

        Parameters
        ----------
        force : bool
            Also forget a cluster of which nothing can be known from here; only its records are removed.

        Raises
        ------
        NameInUseError
            It was stopped before, and another cluster of its name has started since; that one keeps running.
        UsageError
            It is another machine's, or its record does not say whose.
        StopError
            One of its processes does not end.
        RecordError
            Its record cannot be read.
        """

        def stop() -> None:
            with telling(f"the end of cluster {self.name!r}"):
                try:
                    sessions.stop(self._now.found, force=force, before_the_end=self._say_goodbye)
                except BaseException:
                    self._now.forget_end()
                    raise

        return self._run(stop)

    def _say_goodbye(self) -> None:
        running = self._now.found.running
        if isinstance(running, ClusterRunning):
            _dask.close_clients(running.address)
            self._now.note_end("it was stopped, by `ports cluster stop` or by stop() in Python")

    def logs(self, lines: int = 0, *, warnings: bool = False) -> tuple[str, ...]:
        """Return the last `lines` lines of its log, with `warnings` of warning level or worse only; 0: all."""
        return sessions.tail(self.log, lines, warnings=warnings)

    def attach(self) -> None:
        """Replace this process by tmux, attached to the cluster's session; raises TmuxError where there is none."""
        sessions.attach(self.record)

    # --- how it shows itself ---

    def row(self, *, with_token: bool = False) -> ClusterRow:
        """Return what ``ports cluster list --json`` shows, as it is now.

        `with_token` adds the token to the link of a dashboard on a TCP port, as ``ports cluster show`` does.
        """
        self._now.refresh()
        return _row.row(self._now, with_token=with_token)

    def __repr__(self) -> str:
        if self._is_coming:
            return f"<ports cluster {self._name}: starting; await it>"
        return _text.cluster_line(self.row(), time.time())

    def _repr_html_(self) -> str:
        return _text.cluster_html(self.row(), listeners.open_command(self.name))


def _of_name(name: str) -> Cluster:
    """Return the handle that was pickled. Where there is no such cluster, it is a stopped one, and says so in use."""
    found = sessions.find(KIND, name, ClusterRecord)
    if found is None:
        why = sessions.elsewhere(KIND, name) or "this machine has none of that name"
        found = Found(name, sessions.files(KIND, name), "stopped", reason=why)
    return Cluster(Snapshot(found))


def _is_in_loop() -> bool:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


def _joined(lines: Any) -> str:
    return "\n".join(f"{level} - {text}" for level, text in lines)


class _Status(str):
    """A word that equals the member of Dask's `Status` with that value, which is no text."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return str(self) == getattr(other, "value", other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class _Nothing:
    """What `close` returns: nothing to wait for, but Dask awaits it."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield

    def _ipython_display_(self) -> None:
        """Show nothing where a cell ends with `cluster.close()`."""
