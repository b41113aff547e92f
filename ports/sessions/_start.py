"""A long-lived command: a tmux session (or a detached process), its log, and the record of it.

A session is claimed by its name, then launched (`ports.launch` hands it its environment and notes its end), and runs
once the command itself has written ``running.json``. The disk says what was started; the process table says what runs.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from ports import probe
from ports._version import VERSION
from ports.errors import (
    BrokenRecordError,
    NameInUseError,
    PortsError,
    RecordError,
    StartError,
    StoreError,
    TimedOutError,
    UsageError,
)
from ports.sessions import _tmux, processes
from ports.state import (
    Exit,
    ProcessId,
    Record,
    Running,
    SessionPaths,
    paths,
    record_this_interpreter,
    records,
    settings,
    wait_until,
)

S = TypeVar("S", bound="SessionRecord")

# Standard library only (-I -S): it stays beside what it runs for as long as that runs.
LAUNCHER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")))
_STOP_SECONDS = 10.0
_NAMES_OUTSIDE = ("ports-", "cluster-", "nb-")  # of all that is ever removed
_OWN_VARIABLES = ("TMUX", "TMUX_PANE", "STY", "WINDOW", "SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY")


@dataclass(frozen=True, kw_only=True)
class SessionRecord(Record):
    """What was asked for, by whom, and where it was launched."""

    kind: str
    name: str
    created_at: float
    interpreter: str
    directory: str
    started_by: ProcessId = field(metadata={"record": ProcessId})
    launcher: ProcessId | None = field(default=None, metadata={"record": ProcessId})
    tmux_socket: str | None = None

    answers: ClassVar[type[Running]] = Running  # what its ``running.json`` holds

    @property
    def tmux_session(self) -> str:
        """Name of the tmux session: ``cluster-main``."""
        return f"{self.kind}-{self.name}"

    @property
    def outside(self) -> tuple[str, ...]:
        """Paths of files and directories that belong to it alone and go with its records: scratch, sockets."""
        return ()


@dataclass(frozen=True)
class Found(Generic[S]):
    """What disk and process table say of one name.

    `state` is one of ``starting``, ``running``, ``stopped`` (`reason` says why) and ``unknown`` (another machine's, or
    a record that cannot be read: then `error` tells, and where that is the record itself, `record` is None).
    """

    name: str
    files: SessionPaths
    state: str
    record: S | None = None
    running: Running | None = None
    reason: str | None = None
    error: RecordError | None = None


def find(kind: str, name: str, cls: type[S]) -> Found[S] | None:
    """Return what is known of the `kind` called `name`; None where there is nothing."""
    files = paths.here().session(kind, name)
    record = None
    try:
        of = records.read(files.record, cls)
        if of is None:
            return None
        if (of.kind, of.name) != (kind, name):
            raise BrokenRecordError(files.record, f"it is of {of.kind} {of.name!r}")
        record = of
        running = records.read(files.running, cls.answers)
        ended = records.read(files.exit, Exit)
    except RecordError as error:
        return Found(name, files, "unknown", record, error=error, reason=str(error))
    state, reason = judge(record, running, ended)
    return Found(name, files, state, record, running, reason)


def judge(record: SessionRecord, running: Running | None, ended: Exit | None) -> tuple[str, str | None]:
    """Return the state of a session, and the reason where it does not run."""
    who = running.process if running else record.launcher or record.started_by
    alive = processes.is_alive(who) if ended is None else False
    mine = processes.identity() if alive is False and ended is None else None
    return records.verdict(
        ended,
        alive,
        running=running is not None,
        launched=record.launcher is not None,
        same_boot=mine is None or mine.boot_id == who.boot_id,
    )


def names(kind: str) -> list[str]:
    """Return the names of all `kind` on this machine, sorted."""
    try:
        return sorted(path.name for path in paths.here().kind(kind).iterdir() if paths.NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(paths.here().kind(kind), error.strerror or str(error)) from error


def elsewhere(kind: str, name: str) -> str:
    """Say on which other machines of this home `name` was started and has no end, as a way out; empty for none."""
    nodes = " and ".join(probe.nodes_of(f"{kind}:{name}"))
    return nodes and f"one was started on {nodes}, which has the same home: go there, or pass -H HOST"


def claim(record: S) -> Found[S]:
    """Take the record's name for a session that is about to start; a stopped one of that name is retired.

    Raises
    ------
    NameInUseError
        It runs, starts, or cannot be judged.
    """
    state = paths.make_state()
    paths.make_private(state.kind(record.kind))
    record_this_interpreter()
    with _names_locked(record.kind):
        found = find(record.kind, record.name, type(record))
        if found is not None:
            if found.error is not None:
                raise found.error
            if found.state != "stopped":
                raise NameInUseError(record.kind, record.name, f"`ports {record.kind} stop {record.name}` ends it")
            end(found)  # its launcher may still be ending what its command left
            _retire(found)
        files = state.session(record.kind, record.name)
        if not records.claim(files.directory, record):
            raise BrokenRecordError(files.directory, "it holds no record.json")
    return Found(record.name, files, "starting", record)


def start(
    found: Found[S],
    argv: Sequence[str],
    *,
    environ: Mapping[str, str],
    cwd: str,
    timeout: float,
    what: str,
    announce: Callable[[Found[S]], None] | None = None,
    meanwhile: Callable[[], None] | None = None,
) -> Found[S]:
    """Start `argv` for a claimed name and wait until it runs; on failure the name is free again.

    Parameters
    ----------
    announce : callable, optional
        Is called, again and again, while it starts, and writes ``running.json`` once the command answers: for a
        command that knows nothing of `ports`.
    meanwhile : callable, optional
        Is called once, as soon as the command is started: for what this process will need afterwards.

    Raises
    ------
    StartError
        The command ended or did not answer: with its log's last lines.
    """
    try:
        started = _start(found, argv, environ=environ, cwd=cwd)
    except BaseException:
        _undo_start(found)
        raise
    try:
        if meanwhile is not None:
            meanwhile()
        return wait_until(lambda: _is_up(started, what, announce), timeout=timeout, what=what)
    except BaseException as error:
        lines = tail(started.files.log, 20)  # before the end: how it is ended tells nobody why it had to be
        end(started)
        abandon(started)
        if isinstance(error, TimedOutError):
            raise StartError(what, f"it did not answer within {timeout:g} s", started.files.log, lines) from error
        if isinstance(error, PortsError) and not isinstance(error, StartError):
            raise StartError(what, str(error), started.files.log, lines) from error
        raise


def _is_up(started: Found[S], what: str, announce: Callable[[Found[S]], None] | None) -> Found[S] | None:
    assert started.record is not None
    if announce is not None:
        announce(started)
    found = find(started.record.kind, started.name, type(started.record))
    if found is None:
        raise StartError(what, "it was stopped while it started", started.files.log)
    if found.state in ("stopped", "unknown"):
        reason = found.reason or "its state cannot be known"
        raise StartError(what, reason, found.files.log, tail(found.files.log, 20))
    return found if found.state == "running" else None


def _start(found: Found[S], argv: Sequence[str], *, environ: Mapping[str, str], cwd: str) -> Found[S]:
    record = found.record
    assert record is not None
    runtime = paths.runtime_directory()
    task = {
        "format": records.FORMAT,
        "title": f"{record.kind} {record.name}, by ports {VERSION}",
        "argv": list(argv),
        "cwd": cwd,
        "environ": dict(environ),
        "log": str(found.files.log),
        "log_bytes": settings.get("log_bytes"),
        "exit": str(found.files.exit),
        "hold": [str(runtime), *record.outside],
        "core_files": settings.get("core_files"),
    }
    records.write_json(found.files.launch, task)
    command = [*LAUNCHER, str(found.files.launch)]
    if _tmux.is_installed():
        socket = runtime / "tmux.sock"
        with paths.locked("tmux"):
            pid = _tmux.start_session(socket, record.tmux_session, command, cwd="/", environ=os.environ)
        record = replace(record, tmux_socket=str(socket))
    else:
        pid = _detach(command)
    record = replace(record, launcher=processes.identity(pid))
    records.write(found.files.record, record)
    return replace(found, record=record)


def _undo_start(found: Found[S]) -> None:
    """End what an interrupted `_start` may have started."""
    found.files.launch.unlink(missing_ok=True)  # a launcher that comes up from now on ends at once
    end(found)
    abandon(found)


def _detach(command: Sequence[str]) -> int:
    """Start `command` in a session of its own, without a terminal; return its pid."""
    null = subprocess.DEVNULL
    return subprocess.Popen(command, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/").pid


def end(found: Found[S], *, timeout: float = _STOP_SECONDS) -> None:
    """End the session's processes, their children, and the tmux session.

    Raises
    ------
    StartError
        Something of it is still there.
    """
    record = found.record
    assert record is not None
    latest = find(record.kind, record.name, type(record)) or found
    # A starter that was killed may have started a launcher, and not have written its pid down.
    who = [record.launcher] if record.launcher else processes.with_argument(str(found.files.launch))
    replaced = _is_other_start(latest, record)
    if latest.running and not replaced:
        who.append(latest.running.process)
    from ports.sessions.launch import is_launcher  # it needs what Windows lacks, where no session runs

    if not processes.end(who, timeout=timeout, spare=is_launcher):
        raise StartError(f"the end of {record.kind} {record.name!r}", "a process of it does not end", found.files.log)
    if (record.tmux_socket or not record.launcher) and not replaced:
        socket = Path(record.tmux_socket or paths.runtime_directory() / "tmux.sock")
        with paths.locked("tmux"):
            _tmux.kill_session(socket, record.tmux_session)
            _tmux.remove_dead_socket(socket)


def stop(found: Found[Any]) -> None:
    """End a session, also what a stopped one left, and remove its records and what is outside them; the log stays.

    Raises
    ------
    NameInUseError
        It was stopped meanwhile, and another one of its name was started: that one goes on.
    UsageError
        It is another machine's, or cannot be judged.
    StartError
        A process of it does not end.
    """
    record = found.record
    if record is None:
        raise found.error or BrokenRecordError(found.files.record, "it is gone")
    record_this_interpreter()
    with _names_locked(record.kind):
        latest = find(record.kind, found.name, type(record))
        if latest is None:
            return  # somebody else was quicker
        if _is_other_start(latest, record):
            raise NameInUseError(
                record.kind, found.name, "it was started anew since; look it up again to stop that one"
            )
        if latest.state == "unknown" and (latest.error is None or is_alive(latest) is None):
            raise UsageError(f"{record.kind} {found.name!r} cannot be stopped from here: {latest.reason}")
        end(latest)  # also of a stopped one, whose launcher may still be ending what it left
        _retire(latest)


def abandon(found: Found[Any]) -> None:
    """Remove the records of a session that does not run, and what is outside them; a later start of its name stays."""
    record = found.record
    assert record is not None
    with _names_locked(record.kind):
        latest = find(record.kind, found.name, type(record))
        if latest is None or not _is_other_start(latest, record):
            _retire(found)


def _names_locked(kind: str) -> contextlib.AbstractContextManager[None]:
    """Hold all names of `kind`: nobody claims one while another one's records go."""
    return paths.locked(f"{kind}s", timeout=4 * _STOP_SECONDS)


def _retire(found: Found[Any]) -> None:
    """Remove the records, which are renamed first: nobody sees half of them. The names must be locked."""
    if found.record is not None:
        for place in map(Path, found.record.outside):
            if not (place.is_absolute() and place.name.startswith(_NAMES_OUTSIDE)):
                continue  # not started far enough to have one, or edited by hand
            with contextlib.suppress(OSError):
                if place.lstat().st_uid != os.getuid():
                    continue  # the machine was restarted, and another user has made one of that name since
            if place.is_dir() and not place.is_symlink():
                shutil.rmtree(place, ignore_errors=True)
            else:
                place.unlink(missing_ok=True)
    aside = found.files.directory.with_name(f".{found.name}.{secrets.token_hex(4)}")
    try:
        found.files.directory.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)  # on NFS a file that is open elsewhere stays a while
    except FileNotFoundError:
        pass  # another process was quicker
    except OSError as error:
        raise StoreError(found.files.directory, error.strerror or str(error)) from error


def _is_other_start(latest: Found[Any], record: SessionRecord) -> bool:
    """Say whether somebody has stopped that session meanwhile, and started another one of its name."""
    now = latest.record
    return now is not None and (now.created_at, now.started_by) != (record.created_at, record.started_by)


def is_broken(found: Found[Any]) -> bool:
    """Say whether a record of it cannot be read by any version of `ports`, and nothing of it is known to run."""
    return isinstance(found.error, BrokenRecordError) and (found.record is None or is_alive(found) is False)


def is_alive(found: Found[Any]) -> bool | None:
    """Say whether what started it, its launcher as soon as there is one, runs; None where that cannot be known."""
    record = found.record
    return processes.is_alive(record.launcher or record.started_by) if record is not None else None


def tail(log: Path, lines: int) -> tuple[str, ...]:
    """Return the last `lines` lines of a log since its last start, or of all there is when `lines` is 0."""
    try:
        text = log.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ()
    found = text.splitlines()
    return tuple(found[-lines:] if lines else found)


def starter_environ() -> dict[str, str]:
    """Return this process's environment variables, without those that name its own terminal or kernel."""
    return {
        name: value for name, value in os.environ.items() if name not in _OWN_VARIABLES and not name.startswith("JPY_")
    }


def new_identity() -> tuple[ProcessId, float]:
    """Return this process and the time, for a new record."""
    mine = processes.identity()
    assert mine is not None
    return mine, time.time()
