"""Find sessions again: the disk says what was started, and only the process table says what runs."""

from __future__ import annotations

from typing import Any

from ports import probe
from ports.errors import BrokenRecordError, RecordError, StoreError
from ports.sessions import _kinds, processes
from ports.sessions._kinds import SessionPaths
from ports.sessions._records import Exit, Found, Running, S, SessionRecord, verdict, way_out
from ports.state import ProcessId, paths, records


def find(kind: str, name: str, cls: type[S]) -> Found[S] | None:
    """Return what is known of the `kind` called `name`; None if there is nothing."""
    files = _kinds.files(kind, name)
    record = None
    try:
        of = records.read(files.record, cls)
        if of is None:
            return None
        if (of.kind, of.name) != (kind, name):
            raise BrokenRecordError(files.record, f"it is the record of {of.kind} {of.name!r}")
        record = of
        running = records.read(files.running, cls.answers)
        ended = records.read(files.exit, Exit)
    except RecordError as error:
        return Found(name, files, "unknown", record, error=error, reason=str(error))
    state, reason = _judge(files, record, running, ended)
    ended_at = ended.ended_at or None if ended is not None else None
    return Found(name, files, state, record, running, reason, ended_at=ended_at)


def _judge(
    files: SessionPaths, record: SessionRecord, running: Running | None, ended: Exit | None
) -> tuple[str, str | None]:
    """Return the state of a session of this machine, and the reason if it does not run."""
    who = running.process if running else record.launcher or record.started_by
    alive = _lives(files, who) if ended is None else False
    mine = processes.identity() if alive is False and ended is None else None
    state, reason = verdict(
        ended,
        alive,
        running=running is not None,
        launched=record.launcher is not None,
        same_boot=mine is None or mine.boot_id == who.boot_id,
        same_container=mine is None or mine.pid_namespace == who.pid_namespace,
    )
    return state, f"{reason}; {way_out(record.kind, record.name)}" if state == "unknown" else reason


def _lives(files: SessionPaths, who: ProcessId) -> bool | None:
    return probe.is_session_alive(who.to_json(), str(files.directory), probe.own_names)


def names(kind: str) -> list[str]:
    """Return the names of all `kind` on this machine, sorted."""
    directory = _kinds.folder(kind)
    try:
        return sorted(path.name for path in directory.iterdir() if paths.NAME.fullmatch(path.name))
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(directory, error.strerror or str(error)) from error


def elsewhere(kind: str, name: str) -> str:
    """Return a hint that names the other machines of this home on which `name` was started; empty if there are none."""
    found = probe.nodes_of(f"{kind}:{name}")
    nodes = " and ".join(found)
    hint = f"one was started on {nodes}, which shares this home: log in there, or pass -H HOST"
    return nodes and f"{hint}; if {nodes} is gone, or was this machine's name, run `ports prune --adopt {found[0]}`"


def is_broken(found: Found[Any]) -> bool:
    """Say whether one of its records is unreadable for any version of `ports`, and nothing of it is known to run."""
    return isinstance(found.error, BrokenRecordError) and (found.record is None or is_alive(found) is False)


def is_alive(found: Found[Any]) -> bool | None:
    """Say whether its launcher runs, or its starter if there is no launcher yet; None if that cannot be known."""
    record = found.record
    return _lives(found.files, record.launcher or record.started_by) if record is not None else None


def is_in_another_container(found: Found[Any]) -> bool:
    """Say whether its launcher lives where this process can neither see nor signal it."""
    launcher = found.record.launcher if found.record is not None else None
    return launcher is not None and processes.is_alive(launcher) is None and is_alive(found) is True
