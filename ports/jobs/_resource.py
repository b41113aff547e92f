"""The compute resource of this user on this machine: find it, start it, ask it, end it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ports import clusters, listeners, machine, probe, sessions
from ports.errors import (
    ConflictError,
    NameInUseError,
    NewerRecordError,
    NotFoundError,
    PortsError,
    ResourceLostError,
    TimedOutError,
    warn,
)
from ports.jobs import _places
from ports.jobs._connection import Connection
from ports.probe import SAFE_PATH, rest
from ports.sessions import Found, Running, SessionRecord
from ports.state import paths, settings, wait_until

KIND, NAME = "resource", "jobs"
_PROGRAM = f"{SAFE_PATH}; from ports.jobs.resource import loop; loop.main({{!r}}, for_a_job={{}})"
_MOST_SHOWN = 5
_DYING_SECONDS = 5.0
_ANSWER_SECONDS = 60.0
_COUNT_SECONDS = 5.0


@dataclass(frozen=True, kw_only=True)
class ResourceRunning(Running):
    """``running.json`` of the resource: its socket and its version."""

    socket: str
    started_at: float
    version: str


@dataclass(frozen=True, kw_only=True)
class ResourceRecord(SessionRecord):
    """The resource as it was started."""

    answers: ClassVar[type[Running]] = ResourceRunning


@dataclass(frozen=True)
class Resource:
    """The compute resource of this user on this machine, as it was found at one moment."""

    found: Found[ResourceRecord]

    @property
    def name(self) -> str:
        """Always ``"jobs"``."""
        return self.found.name

    @property
    def state(self) -> str:
        """``"running"``, ``"starting"``, ``"stopped"`` or ``"unknown"``."""
        return self.found.state

    @property
    def reason(self) -> str | None:
        """Why it does not run, or why its state is unknown."""
        return self.found.reason

    @property
    def log(self) -> Path:
        """Path of its log, which stays when it stops."""
        return self.found.files.log

    def connect(self, *, timeout: float = 10.0) -> Connection:
        """Return a connection to it; raises ResourceLostError."""
        return Connection(_places.here().socket, timeout=timeout)

    def status(self) -> dict[str, Any]:
        """Return its counts of jobs, its slots, its capacity and its cluster; raises ResourceLostError."""
        with self.connect() as connection:
            header = connection.ask("status", timeout=30).header
        return {key: value for key, value in header.items() if key != "n"}

    def row(self) -> dict[str, Any]:
        """Return it as `ports resource list` shows it."""
        record, running = self.found.record, self.found.running
        row: dict[str, Any] = {
            "host": listeners.short_name(),
            "kind": KIND,
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            "pid": running.process.pid if running is not None else None,
            "started_at": record.created_at if record is not None else None,
            "stopped_at": self.found.ended_at,
            "log": str(self.log),
            "counts": {},
            "draining": None,
            "n_running": None,
            "n_pending": None,
            "n_slots": None,
        }
        if self.state == "running":
            try:
                row |= _shown(self.status())
            except PortsError as error:
                row |= {"state": "unknown", "reason": f"its process is alive, but {error}"}
        return row

    def drain(self) -> None:
        """Let what runs end, and begin nothing more, until `resume`."""
        with self.connect() as connection:
            connection.ask("drain", timeout=30)

    def resume(self) -> None:
        """Begin jobs again."""
        with self.connect() as connection:
            connection.ask("resume", timeout=30)

    def stop(self, *, wait: bool = False, now: bool = False, force: bool = False) -> None:
        """End the resource and its cluster. Jobs that wait stay in the queue; scripts that run go on.

        Parameters
        ----------
        wait : bool
            Begin nothing more, and wait until the functions that run have ended.
        now : bool
            End the functions that run; they begin again when a resource is started. It costs them no retry.
        force : bool
            Also forget a resource of which nothing can be known from here.

        Raises
        ------
        ConflictError
            Functions run, and neither `wait` nor `now` was given.
        """
        with contextlib.ExitStack() as stack:
            if self.state == "running":
                with contextlib.suppress(ResourceLostError):
                    self._let_end(stack.enter_context(self.connect()), wait=wait, now=now)
            sessions.stop(self.found, force=force)  # while the connection stands, nothing begins
        with contextlib.suppress(NotFoundError):
            clusters.stop(NAME)

    def _let_end(self, connection: Connection, *, wait: bool, now: bool) -> None:
        """Let nothing more begin; raises ConflictError if functions run that are not to end."""
        limit = None if wait else settings.get("jobs.grace") + _ANSWER_SECONDS
        running = connection.ask("stop", wait=wait, now=now, timeout=limit).header.get("running") or []
        if running:
            shown = ", ".join(map(str, running[:_MOST_SHOWN])) + (", …" if len(running) > _MOST_SHOWN else "")
            raise ConflictError(
                f"jobs run: {shown}; `ports resource stop --wait` lets them end first, `ports resource stop --now` "
                "ends them, and they begin again at the next `ports resource start`"
            )


def _shown(status: Mapping[str, Any]) -> dict[str, Any]:
    names = ("counts", "queues", "slots", "capacity", "draining", "notices", "cluster", "memory", "running", "version")
    failed = {"notice_failed": status["notice_failed"]} if status.get("notice_failed") else {}
    counts = status.get("counts") or {}
    numbers = {"n_running": counts.get("running"), "n_pending": counts.get("pending")}
    return {
        **{name: status.get(name) for name in names},
        **numbers,
        **failed,
        "n_slots": len(status.get("slots") or ()),
    }


def find_resource() -> Resource | None:
    """Return the resource of this machine, whatever its state; None if none was started."""
    found = sessions.find(KIND, NAME, ResourceRecord)
    return None if found is None else Resource(found)


def get_resource(name: str | None = None) -> Resource:
    """Return the resource of this machine, whatever its state.

    Raises
    ------
    NotFoundError
        None was started.
    """
    found = find_resource() if name in (None, NAME) else None
    if found is None:
        hint = sessions.elsewhere(KIND, NAME) or "`ports resource start` starts one"
        raise NotFoundError(KIND, name or NAME, hint)
    return found


def list_resources() -> list[Resource]:
    """Return the resource of this machine, if there is one."""
    found = find_resource()
    return [] if found is None else [found]


def start_resource(*, timeout: float | None = None, for_a_job: bool = False) -> Resource:
    """Start the resource, and return it once its socket answers.

    Parameters
    ----------
    for_a_job : bool
        A job comes at once that can begin: the cluster starts beside the queue. Default: it starts with the first job.

    Raises
    ------
    NameInUseError
        It runs or starts.
    StartError
        It ended, or did not answer, while it started.
    NewerRecordError
        A newer `ports` wrote the queue.
    """
    paths.check_serves("compute resources")
    _check_format(_places.here().store)
    mine, now = sessions.new_identity()
    record = ResourceRecord(
        kind=KIND,
        name=NAME,
        created_at=now,
        interpreter=sys.executable,
        directory=str(Path.home()),
        started_by=mine,
    )
    found = sessions.claim(record)
    with sessions.undone(found):
        argv = [sys.executable, "-c", _PROGRAM.format(str(found.files.directory), for_a_job)]
        limit = timeout or settings.get("jobs.start_timeout")
        environ = sessions.surroundings.of_a_session()
        found = sessions.start(
            found, argv, environ=environ, cwd=record.directory, timeout=limit, what="the compute resource"
        )
    if (warning := machine.logout_warning()) is not None:
        warn(warning)
    return Resource(found)


def _check_format(store: Path) -> None:
    """Raise NewerRecordError for a store of a newer `ports`, before anything starts that would only say so in its log.

    SQLite keeps the number at byte 60 of the file, which can be read while nobody has the store open.
    """
    with contextlib.suppress(OSError), store.open("rb") as file:
        found = int.from_bytes(file.read(64)[60:], "big")
        if found > rest.STORE_FORMAT:
            raise NewerRecordError(store, found, rest.STORE_FORMAT)


def find_or_start_resource(*, timeout: float | None = None, for_a_job: bool = False) -> Resource:
    """Return the resource once it answers; start it if none runs; raises as `start_resource`."""
    limit = timeout or settings.get("jobs.start_timeout")
    while True:
        found = find_resource()
        if found is not None and found.state == "starting":
            with contextlib.suppress(TimedOutError):
                wait_until(_settled, timeout=limit, what="the compute resource, which another process is starting")
            found = find_resource()
        if found is not None and found.state == "running":
            return found
        if found is not None and found.state == "unknown":
            raise found.found.error or NotFoundError(KIND, NAME, str(found.reason))
        try:
            return start_resource(timeout=timeout, for_a_job=for_a_job)
        except NameInUseError:
            continue  # another process was quicker


def _settled() -> bool | None:
    found = find_resource()
    return True if found is None or found.state != "starting" else None


def connect(*, start: bool = True, timeout: float | None = None, for_a_job: bool = False) -> Connection:
    """Return a connection to the resource of this machine.

    Parameters
    ----------
    start : bool
        Start the resource if none runs.
    for_a_job : bool
        As in `start_resource`.

    Raises
    ------
    NotFoundError
        None runs, and `start` is False.
    ResourceLostError
        It does not answer.
    """
    with contextlib.suppress(ResourceLostError):
        return Connection(_places.here().socket)  # the socket alone is asked where it answers
    if not start:
        found = find_resource()
        why = f"it is {found.state}" + (f" ({found.reason})" if found.reason else "") if found is not None else ""
        raise NotFoundError(KIND, NAME, f"{why + '; ' if why else ''}`ports resource start` starts one")
    end = time.monotonic() + _DYING_SECONDS
    while True:
        found = find_or_start_resource(timeout=timeout, for_a_job=for_a_job)
        try:
            return found.connect()
        except ResourceLostError:  # one that was killed is seen for a moment longer than it answers
            if time.monotonic() > end:
                raise
            time.sleep(0.05)


def kept_files() -> dict[str, Any] | None:
    """Return what the files of jobs take on the disk: ``directory``, ``bytes``, ``is_all``, ``free_bytes``.

    Files are counted for some seconds at most; `is_all` is False where there were more. None without jobs.
    """
    return probe.kept.kept_by_jobs(str(_places.here().root), _COUNT_SECONDS)


def prune_resources() -> list[str]:
    """Remove the records of a resource that has stopped; its queue and its log stay."""
    stopped = [one for one in list_resources() if one.state == "stopped"]
    for one in stopped:
        sessions.stop(one.found)
    return [one.name for one in stopped]


def resource_logs(name: str | None = None, lines: int = 0, *, warnings: bool = False) -> tuple[str, ...]:
    """Return the last `lines` lines of its log, even if it is gone; 0 for all."""
    del name
    return sessions.tail(sessions.files(KIND, NAME).log, lines, warnings=warnings)
