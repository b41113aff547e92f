"""Start a session: a long-lived command in tmux (or a detached process), with its log and its record.

A session first claims its name. Then the launcher starts the command, keeps its log and notes its end (`launch.py`).
The session counts as running once the command has written ``running.json``.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ports._version import VERSION
from ports.errors import BrokenRecordError, NameInUseError, PortsError, StartError, StoreError, TimedOutError, warn
from ports.sessions import _kinds, _tmux, processes, surroundings
from ports.sessions._end import abandon, end, is_other_start, names_locked, retire
from ports.sessions._find import find
from ports.sessions._log_lines import size, tail
from ports.sessions._records import Found, S, SessionRecord
from ports.state import (
    ProcessId,
    locked,
    make_private,
    paths,
    record_this_interpreter,
    records,
    runtime_directory,
    settings,
    wait_until,
)

# Standard library only (-I -S), as it stays beside the command for as long as that runs.
LAUNCHER = (sys.executable, "-I", "-S", str(Path(__file__).with_name("launch.py")))


def claim(record: S) -> Found[S]:
    """Claim the record's name for a session that is about to start; the records of a stopped one are removed.

    Raises
    ------
    NameInUseError
        A session of that name runs, starts, or is in an unknown state.
    """
    state = paths.make_state()
    make_private(_kinds.folder(record.kind, state))
    record_this_interpreter()
    with names_locked(record.kind):
        found = find(record.kind, record.name, type(record))
        if found is not None:
            if found.error is not None:
                raise found.error
            if found.state != "stopped":
                stops = f"`ports {record.kind} stop {record.name}` stops it"
                stops = f"it is starting; {stops}" if found.state == "starting" else stops
                hint = f"its state is unknown: {found.reason}" if found.state == "unknown" else stops
                raise NameInUseError(record.kind, record.name, f"{hint}; or choose another name")
            end(found)  # its launcher may still be ending what its command left
            retire(found)
        files = _kinds.files(record.kind, record.name, state)
        if not records.claim(files.directory, record):
            raise BrokenRecordError(files.directory, "it contains no record.json")
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
    """Start `argv` under a claimed name and wait until it runs. If that fails, the name is free again.

    Parameters
    ----------
    announce : callable, optional
        Writes ``running.json`` once the command answers, if the command itself knows nothing of `ports`. It is called
        repeatedly during the start.
    meanwhile : callable, optional
        Called once, right after the command is started: for work that this process needs afterwards.

    Raises
    ------
    StartError
        The command ended or did not answer. The error has the last lines of its log.
    """
    if not _is_still_claimed(found):
        raise StartError(what, "it was stopped while it started", found.files.log)
    before = size(found.files.log)  # a log goes on over several starts
    try:
        started = _start(found, argv, environ=environ, cwd=cwd)
    except BaseException:
        _undo_start(found)
        raise
    try:
        if meanwhile is not None:
            meanwhile()
        return wait_until(lambda: _is_up(started, what, announce, before), timeout=timeout, what=what)
    except BaseException as error:
        lines = _last_lines(started, before)  # before it is ended, which adds lines that explain nothing
        end(started)
        abandon(started)
        if isinstance(error, TimedOutError):
            raise StartError(what, f"it did not answer within {timeout:g} s", started.files.log, lines) from error
        if isinstance(error, PortsError) and not isinstance(error, StartError):
            raise StartError(what, str(error), started.files.log, lines) from error
        raise


def _is_still_claimed(found: Found[S]) -> bool:
    """Say whether the name is still that of this start: the claim can be stopped, and the name claimed again."""
    assert found.record is not None
    latest = find(found.record.kind, found.name, type(found.record))
    return latest is not None and not is_other_start(latest, found.record)


def _is_up(started: Found[S], what: str, announce: Callable[[Found[S]], None] | None, before: int) -> Found[S] | None:
    assert started.record is not None
    if announce is not None:
        announce(started)
    found = find(started.record.kind, started.name, type(started.record))
    if found is None:
        raise StartError(what, "it was stopped while it started", started.files.log)
    if found.state in ("stopped", "unknown"):
        reason = found.reason or "its state is unknown"
        raise StartError(what, reason, found.files.log, _last_lines(found, before))
    return found if found.state == "running" else None


def _last_lines(found: Found[S], before: int) -> tuple[str, ...]:
    try:
        return tail(found.files.log, 20, since=before)
    except StoreError as error:
        return (str(error),)


def _start(found: Found[S], argv: Sequence[str], *, environ: Mapping[str, str], cwd: str) -> Found[S]:
    record = found.record
    assert record is not None
    runtime = runtime_directory()
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
        "after": list(record.after),
    }
    records.write_json(found.files.launch, task)
    command = launcher(found.files.launch)
    if _has_tmux(record):
        socket = runtime / "tmux.sock"
        with locked("tmux"):
            pid = _tmux.start_session(socket, record.tmux_session, command, cwd="/")
        record = replace(record, tmux_socket=str(socket))
    else:
        pid = _detach(command)
    record = replace(record, launcher=processes.identity(pid))
    records.write(found.files.record, record)
    return replace(found, record=record)


def _undo_start(found: Found[S]) -> None:
    """End what an interrupted `_start` may have started."""
    found.files.launch.unlink(missing_ok=True)  # a launcher that starts after this ends at once
    end(found)
    abandon(found)


def launcher(file: Path) -> list[str]:
    """Return the command that runs what the launch file `file` describes."""
    return surroundings.for_this_interpreter([*LAUNCHER, str(file)])


def _has_tmux(record: SessionRecord) -> bool:
    """Say whether the session gets a terminal of tmux's. A tmux that does not run is worth a warning."""
    if not _tmux.is_installed():
        return False
    if (why := _tmux.why_not()) is not None:
        verbs = f"`ports {record.kind} logs {record.name}` shows its output, but `attach` cannot work"
        warn(f"tmux does not run here ({why}), so {record.kind} {record.name!r} starts without it: {verbs}")
    return why is None


def _detach(command: Sequence[str]) -> int:
    """Start `command` in a session of its own, without a terminal; return its pid."""
    null, environ = subprocess.DEVNULL, surroundings.of_a_tool()
    return subprocess.Popen(
        command, env=environ, stdin=null, stdout=null, stderr=null, start_new_session=True, cwd="/"
    ).pid


def new_identity() -> tuple[ProcessId, float]:
    """Return this process and the time, for a new record."""
    mine = processes.identity()
    assert mine is not None
    return mine, time.time()
