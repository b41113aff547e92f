"""One cluster: what `ports.cluster()` returns. Dask takes it as a cluster object of its own kind."""

from __future__ import annotations

import asyncio
import functools
import math
import socket
import time
from collections.abc import Generator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from ports import listeners, machine, probe, sessions
from ports.clusters import _dask, _text
from ports.clusters._options import ClusterRecord, ClusterRunning
from ports.errors import ForeignListenerError, NotFoundError, UsageError, warn
from ports.machine import fair_share, gpus
from ports.sessions import Found
from ports.state import record_this_interpreter, records, settings, wait_until

if TYPE_CHECKING:
    from distributed import Client
    from distributed.security import Security

_CALL_SECONDS = 60.0


class Cluster:
    """A cluster of mine on this machine, as it was found at one moment.

    Leaving a ``with``, `close` and ``client.shutdown()`` only disconnect: other notebooks use it. `stop` ends it.
    """

    def __init__(self, found: Found[ClusterRecord], *, just_started: bool = False) -> None:
        self._found = found
        self._stranger: str | None = None
        self._started = time.monotonic() if just_started else None

    # --- what it is ---

    @property
    def name(self) -> str:
        """Its name, ``"main"``."""
        return self._found.name

    @property
    def record(self) -> ClusterRecord:
        """What it was started with.

        Raises
        ------
        RecordError
            The record cannot be read.
        """
        if self._found.record is None:
            raise self._found.error or NotFoundError("cluster", self.name, "`ports cluster list` shows what there is")
        return self._found.record

    @property
    def state(self) -> str:
        """``"running"``, ``"starting"``, ``"stopped"``; ``"unknown"``: it does not answer, or is another host's."""
        if self._found.state == "running" and self.summary is None:
            return "unknown"
        return self._found.state

    @property
    def reason(self) -> str | None:
        """Why it does not run, or is unknown."""
        if self._found.state == "running" and self.summary is None:
            return f"its process is alive, but {self._stranger or 'does not answer'}; log: {self.log}"
        return self._found.reason

    @property
    def explained(self) -> str:
        """How its size came about, in a line; empty where an older `ports` started it."""
        return self.record.explained

    @property
    def log(self) -> Path:
        """Path of its log, which stays when it stops."""
        return self._found.files.log

    @functools.cached_property
    def summary(self) -> dict[str, Any] | None:
        """Counts that its scheduler tells: workers, threads, memory (bytes), tasks, clients; None where silent."""
        if self._found.running is None or self._found.state != "running":
            return None  # of one that ended, anybody may have the socket's name since
        try:
            return _dask.summary(self._running.dashboard)
        except ForeignListenerError as error:
            self._stranger = f"{error.listener} belongs to {error.owner}"
            return None

    @property
    def _running(self) -> ClusterRunning:
        if self._found.error is not None:
            raise self._found.error
        if self._found.running is None:
            starting = self._found.state == "starting"
            reason = f"it is {self._found.state}" + (f" ({self._found.reason})" if self._found.reason else "")
            reason += "; wait for it" if starting else f"; `ports cluster start {self.name}` starts it"
            raise NotFoundError("running cluster", self.name, reason)
        assert isinstance(self._found.running, ClusterRunning)
        return self._found.running

    # --- what Dask asks of a cluster object ---

    @property
    def scheduler_address(self) -> str:
        """Address of the scheduler, ``unix:///tmp/…`` or ``tls://127.0.0.1:…``; a plain `Client` takes it as it is.

        Raises
        ------
        ForeignListenerError
            Another user listens there, since the cluster was found.
        DaskError
            The record names an address that `ports` writes for no cluster.
        """
        _dask.prepare()
        _dask.check_address(self._running.address)  # 0.1 ms; `Client(ports.cluster())` asks nothing else
        return self._running.address

    @property
    def security(self) -> Security:
        """Credentials that its scheduler asks for; none in them where it listens on a Unix socket."""
        return _dask.security(self.scheduler_address, self._found.files.credentials)

    @property
    def status(self) -> str:
        """Dask's word for the state: ``"running"`` or ``"closed"``."""
        return "running" if self._found.state == "running" else "closed"

    @property
    def dashboard_link(self) -> str:
        """Link of the dashboard at home, where ``ports open`` runs."""
        return listeners.cluster_link(self.name)

    def close(self, timeout: float | None = None) -> _Nothing:
        """Disconnect; the cluster goes on running. `stop` ends it."""
        try:
            asyncio.get_running_loop()  # `client.shutdown()` calls this from Dask's event loop
        except RuntimeError:
            return _Nothing()
        warn(
            f"only disconnected: cluster {self.name!r} goes on for its other clients; "
            f"`ports cluster stop {self.name}` or ports.clusters.get({self.name!r}).stop() ends it"
        )
        return _Nothing()

    def __enter__(self) -> Cluster:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    # --- what it does ---

    def get_client(self, *, timeout: float = 10.0) -> Client:
        """Return a connected `distributed.Client`; warns of modules that workers hold in an older version.

        Parameters
        ----------
        timeout : float
            Seconds until the scheduler has answered.

        Raises
        ------
        DaskError
            It did not.
        NotFoundError
            The cluster does not run.
        """
        self._refresh()
        record_this_interpreter()
        client = _dask.connect(self, timeout=timeout)
        # workers that are a second old hold nothing older than themselves
        is_new = self._started is not None and time.monotonic() - self._started < 1
        stale = {} if is_new else _dask.stale_modules(client, timeout=1.0)
        if stale:
            changed = ", ".join(sorted(stale))
            warn(
                f"workers of cluster {self.name!r} hold older versions of {changed}; "
                f"`ports cluster restart {self.name}` makes them import anew"
            )
        return client

    def warn_of_versions(self) -> None:
        """Warn where Python, Dask or distributed differ between this process and the cluster."""
        here, there = _dask.versions(), self._running.versions
        for package, version in here.items():
            if there.get(package) != version:
                warn(
                    f"{package} is {version} here and {there.get(package)} in cluster {self.name!r}; run this with "
                    f"{self.record.interpreter}, or start another cluster with name="
                )

    def warn_of_end(self) -> None:
        """Warn where the cluster ends soon because no task came for days."""
        if (self.summary or {}).get("ends_at"):
            warn(f"cluster {self.name!r}: {_text.cluster_note(self.summary or {})}")

    def wait_for_workers(self, n_workers: int, timeout: float | None = None) -> None:
        """Wait until `n_workers` are there; `Client.wait_for_workers` calls this. Those of a resting cluster come back.

        Parameters
        ----------
        timeout : float, optional
            Seconds; None: as long as it takes.

        Raises
        ------
        TimedOutError
            They were not there in time.
        """
        self._call("ports_wake")

        def there() -> bool | None:
            self._refresh()
            return True if (self.summary or {}).get("n_workers", 0) >= n_workers else None

        what = f"{n_workers} workers of cluster {self.name!r}"
        wait_until(there, timeout=math.inf if timeout is None else timeout, what=what, every=0.05)

    def scale(self, n_workers: int, *, force: bool | None = None) -> None:
        """Set the number of workers, from any process of mine.

        Parameters
        ----------
        force : bool, optional
            Also where workers may then take more memory than there is. Default: the setting ``cluster.force``.

        Raises
        ------
        UsageError
            `n_workers` is negative, or there are not as many GPUs as they need.
        OverpromisedError
            That many workers may take more memory than there is.
        DaskError
            The scheduler did not do it.
        """
        if isinstance(n_workers, bool) or not isinstance(n_workers, int) or n_workers < 0:
            raise UsageError(f"n_workers is {n_workers!r}; it must be a whole number of at least 0")
        self._refresh()
        record, limit = self.record, self.record.memory_limit
        threads = record.threads_per_worker or 1
        forced = settings.get("cluster.force") if force is None else force
        if isinstance(limit, int) and n_workers > (record.n_workers or 0) and not forced:
            fair_share.check(machine.room(without=self._running.process.pid), n_workers, limit)
        self._call("ports_scale", n_workers=n_workers, **self._gpus_for(n_workers, forced=forced))
        changed = {**record.to_json(), "n_workers": n_workers, "takes_all": False}
        if isinstance(limit, int):
            changed["explained"] = fair_share.describe(n_workers, threads, limit) + ", as scaled"
        records.write(self._found.files.record, ClusterRecord.from_json(changed))
        self._refresh()

    def _gpus_for(self, n_workers: int, *, forced: bool) -> dict[str, Any]:
        """Return the GPUs that new workers take, in this order; warns of those that somebody else has as well."""
        record = self.record
        if not record.gpus:
            return {}
        if not forced:
            gpus.check_number(record.gpu_ids, record.gpus, n_workers)
        held, own = held_gpus(but=self.name), (self.summary or {}).get("gpu_ids") or ()
        order = gpus.ordered(record.gpu_ids, own=own, held=held)
        if (said := gpus.shared([one for one in order[: n_workers * record.gpus] if one not in own], held)) is not None:
            warn(said)
        return {"gpu_ids": order}

    def restart(self) -> None:
        """Start all workers anew, so that they import modules anew; results they held are lost, links stay.

        Raises
        ------
        DaskError
            The scheduler did not do it.
        """
        self._refresh()
        before = self._running
        self._call("ports_restart")
        if not self.record.processes:  # the owner itself runs anew and then announces itself anew

            def anew() -> bool | None:
                self._refresh()
                return True if self._found.running != before else None

            wait_until(anew, timeout=_CALL_SECONDS, what=f"cluster {self.name!r}")
        self._refresh()

    def stop(self) -> None:
        """End the cluster: workers, what tasks started, and the tmux session; only its log stays.

        Raises
        ------
        NameInUseError
            It was stopped since, and another one of its name started, which goes on.
        UsageError
            It is another machine's, or does not say whose.
        StartError
            A process of it does not end.
        RecordError
            Its record cannot be read.
        """
        sessions.stop(self._found)

    def logs(self, lines: int = 0) -> tuple[str, ...]:
        """Return the last `lines` lines of its log; 0: all."""
        return sessions.tail(self.log, lines)

    def attach(self) -> None:
        """Replace this process by tmux, attached to the cluster's session; raises TmuxError where there is none."""
        sessions.attach(self.record)

    def _call(self, operation: str, **arguments: Any) -> None:
        record_this_interpreter()
        credentials = self._found.files.credentials
        _dask.call(self.scheduler_address, credentials, operation, timeout=_CALL_SECONDS, **arguments)

    def _refresh(self) -> None:
        found = sessions.find("cluster", self.name, ClusterRecord)
        gone = Found(self.name, self._found.files, "stopped", self._found.record, reason="it was stopped and removed")
        self._found = found or gone
        self.__dict__.pop("summary", None)

    # --- how it shows itself ---

    def row(self, *, with_token: bool = False) -> dict[str, Any]:
        """Return what ``ports cluster list --json`` shows, as it is now.

        `with_token` adds the token to the link of a dashboard on a TCP port, as ``ports cluster show`` does.
        """
        self._refresh()
        row: dict[str, Any] = {"host": socket.gethostname(), "kind": "cluster", "name": self.name, "state": self.state}
        row["reason"] = self.reason
        row["url"] = f"unix:{self._running.dashboard}" if self._found.running else None
        row["link"], row["command"] = self.dashboard_link, listeners.open_command(self.name)
        row["log"] = str(self.log)
        counts = self.summary or {}
        row |= {key: counts.get(key) for key in ("n_workers", "n_threads", "memory_bytes", "memory_limit_bytes")}
        row |= {key: counts.get(key) for key in ("n_tasks", "n_clients", "guard", "asleep", "ends_at")}
        row["note"] = _text.cluster_note(counts)
        if self._found.record is not None:
            row |= self._recorded(with_token)
        return row

    def _tcp_link(self, running: ClusterRunning | None, with_token: bool) -> str | None:
        """Return the link of a dashboard on a TCP port, as a program that forwards this port sees it."""
        if running is None or running.dashboard_port is None:
            return None
        token = probe.read_token(self.record.token_file) if with_token else None
        return f"http://127.0.0.1:{running.dashboard_port}/status" + (f"?token={token}" if token else "")

    def _recorded(self, with_token: bool) -> dict[str, Any]:
        record, running = self.record, self._running if self._found.running else None
        return {
            "pid": running.process.pid if running else None,
            "address": running.address if running else None,
            "security": record.security,
            "interface": record.interface,
            "tcp_link": self._tcp_link(running, with_token),
            "started_at": running.started_at if running else record.created_at,
            "directory": record.directory,
            "interpreter": record.interpreter,
            "scratch": record.scratch,
            "explained": record.explained or None,
            "tmux": sessions.attach_line(record),
            "versions": running.versions if running else None,
        }

    def __repr__(self) -> str:
        return _text.cluster_line(self.row(), time.time())

    def _repr_html_(self) -> str:
        return _text.cluster_html(self.row(), listeners.open_command(self.name))


def held_gpus(*, but: str) -> dict[str, str]:
    """Return the GPUs that workers of my clusters on this machine have, to the clusters' names; all `but` one's."""
    held: dict[str, str] = {}
    for name in sessions.names("cluster"):
        found = sessions.find("cluster", name, ClusterRecord) if name != but else None
        if found is None or found.record is None or not found.record.gpus or found.state == "stopped":
            continue
        record, told = found.record, Cluster(found).summary or {}
        as_started = record.gpu_ids[: record.gpus * (record.n_workers or 0)]  # while it starts, or is busy
        held.update(dict.fromkeys(told.get("gpu_ids", as_started), name))
    return held


class _Nothing:
    """What `close` returns: nothing to wait for, awaited by Dask all the same."""

    def __await__(self) -> Generator[None, None, None]:
        return
        yield
