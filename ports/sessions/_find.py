"""Find sessions again: the disk says what was started, and only the process table says what runs."""

from __future__ import annotations

from typing import Any

from ports import probe
from ports.errors import BrokenRecordError, RecordError, StoreError
from ports.sessions import _kinds, processes
from ports.sessions._records import Exit, Found, Running, S, SessionRecord, verdict
from ports.state import paths, records


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
    state, reason = _judge(record, running, ended)
    return Found(name, files, state, record, running, reason)


def _judge(record: SessionRecord, running: Running | None, ended: Exit | None) -> tuple[str, str | None]:
    """Return the state of a session of this machine, and the reason if it does not run."""
    who = running.process if running else record.launcher or record.started_by
    alive = processes.is_alive(who) if ended is None else False
    mine = processes.identity() if alive is False and ended is None else None
    return verdict(
        ended,
        alive,
        running=running is not None,
        launched=record.launcher is not None,
        same_boot=mine is None or mine.boot_id == who.boot_id,
    )


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
    nodes = " and ".join(probe.nodes_of(f"{kind}:{name}"))
    return nodes and f"one was started on {nodes}, which shares this home: log in there, or pass -H HOST"


def is_broken(found: Found[Any]) -> bool:
    """Say whether one of its records is unreadable for any version of `ports`, and nothing of it is known to run."""
    return isinstance(found.error, BrokenRecordError) and (found.record is None or is_alive(found) is False)


def is_alive(found: Found[Any]) -> bool | None:
    """Say whether its launcher runs, or its starter if there is no launcher yet; None if that cannot be known."""
    record = found.record
    return processes.is_alive(record.launcher or record.started_by) if record is not None else None
