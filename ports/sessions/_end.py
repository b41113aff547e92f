"""End a session: its processes, their children, its tmux session, its records and what belongs to it elsewhere."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ports.errors import (
    BrokenRecordError,
    NameInUseError,
    PortsError,
    StopError,
    StoreError,
    TimedOutError,
    UsageError,
)
from ports.probe import launchers
from ports.sessions import _tmux, processes
from ports.sessions._find import find, is_alive, is_in_another_container
from ports.sessions._records import Found, S, SessionRecord
from ports.state import locked, record_this_interpreter, runtime_directory, wait_until

_STOP_SECONDS = 10.0
_NAMES_OUTSIDE = ("ports-", "cluster-", "nb-")  # nothing with another name is ever removed


def end(found: Found[S], *, timeout: float = _STOP_SECONDS) -> None:
    """End the session's processes, their children, and the tmux session.

    Raises
    ------
    StopError
        A process does not end.
    """
    record = found.record
    assert record is not None
    latest = find(record.kind, record.name, type(record)) or found
    # A starter that was killed may have started a launcher without recording its pid.
    who = [record.launcher] if record.launcher else processes.with_argument(str(found.files.launch))
    replaced = is_other_start(latest, record)
    if latest.running and not replaced:
        who.append(latest.running.process)
    from ports.sessions.launch import AFTER_SECONDS  # it needs what Windows lacks, where no session runs

    timeout += AFTER_SECONDS if record.after else 0
    if not processes.end(who, timeout=timeout, spare=launchers.is_launcher):
        raise StopError(f"{record.kind} {record.name!r}", "one of its processes does not end", found.files.log)
    if (record.tmux_socket or not record.launcher) and not replaced:
        socket = Path(record.tmux_socket or runtime_directory() / "tmux.sock")
        with locked("tmux"):
            _tmux.kill_session(socket, record.tmux_session)
            _tmux.remove_dead_socket(socket)


def stop(found: Found[Any], *, force: bool = False, before_the_end: Callable[[], None] = lambda: None) -> None:
    """End a session, and remove its records and what belongs to it elsewhere. The log stays.

    Of a session that has stopped by itself, whatever it left behind is ended and removed.

    Parameters
    ----------
    force : bool
        Also forget a session of which nothing can be known, because it was started on another machine or in another
        container. Only its records are removed.
    before_the_end : callable
        Called once nothing refuses the stop, before the first process ends.

    Raises
    ------
    NameInUseError
        The session was stopped meanwhile, and another one was started under its name. That one goes on.
    UsageError
        It belongs to another machine, or its state is unknown. With `force`: it is known to run in another container.
    StopError
        One of its processes does not end.
    """
    record = found.record
    if record is None:
        raise found.error or BrokenRecordError(found.files.record, "it is gone")
    record_this_interpreter()
    with names_locked(record.kind):
        latest = find(record.kind, found.name, type(record))
        if latest is None:
            before_the_end()
            return  # somebody else was quicker
        if is_other_start(latest, record):
            raise NameInUseError(
                record.kind, found.name, "it was started again meanwhile; look it up again to stop the new one"
            )
        if latest.state == "unknown" and (latest.error is None or is_alive(latest) is None):
            if not force:
                raise UsageError(f"{record.kind} {found.name!r} cannot be stopped from here: {latest.reason}")
            retire(latest, outside=False)
            return
        if is_in_another_container(latest):
            _end_in_its_container(latest, before_the_end)
        else:
            before_the_end()
            end(latest)  # even of one that has stopped: its launcher may still be ending what its command left
        retire(latest)


def _end_in_its_container(found: Found[Any], before_the_end: Callable[[], None]) -> None:
    """End a session whose processes have no pid here, by its tmux server; raises UsageError where none is in reach."""
    record = found.record
    assert record is not None
    socket = Path(record.tmux_socket or "")
    if record.tmux_socket and _tmux.has_session(socket, record.tmux_session):
        before_the_end()
        _tmux.kill_session(socket, record.tmux_session)
        with contextlib.suppress(TimedOutError):
            wait_until(lambda: not is_alive(found) or None, timeout=2 * _STOP_SECONDS, what="its end")
    if is_alive(found):
        where = "it runs in another container of this machine; stop it in there, or end that container"
        raise UsageError(f"{record.kind} {found.name!r} cannot be stopped from here: {where}")


def abandon(found: Found[Any]) -> None:
    """Remove the records of a session that does not run, and what belongs to it elsewhere.

    If another session was started under its name meanwhile, that one's records stay.
    """
    record = found.record
    assert record is not None
    with names_locked(record.kind):
        latest = find(record.kind, found.name, type(record))
        if latest is None or not is_other_start(latest, record):
            retire(found)


@contextlib.contextmanager
def undone(found: Found[Any]) -> Iterator[None]:
    """Stop the session that `found` has claimed a name for, if its start fails or is interrupted in this block.

    Ctrl-C also comes in the moment in which it has just become ready.
    """
    try:
        yield
    except BaseException:
        with contextlib.suppress(PortsError):  # the error that is raised says why
            stop(found)
        raise


def names_locked(kind: str) -> contextlib.AbstractContextManager[None]:
    """Lock all names of `kind`, so that no process claims one while another removes its records."""
    return locked(f"{kind}s", timeout=4 * _STOP_SECONDS)


def retire(found: Found[Any], *, outside: bool = True) -> None:
    """Remove the records, which are renamed first: no reader sees half of them. The names must be locked.

    Without `outside`, what belongs to it elsewhere stays: it may be in use.
    """
    for path in map(Path, found.record.outside if outside and found.record is not None else ()):
        remove_outside(path)
    aside = found.files.directory.with_name(f".{found.name}.{secrets.token_hex(4)}")
    try:
        found.files.directory.rename(aside)
        shutil.rmtree(aside, ignore_errors=True)  # on NFS a file that is open elsewhere stays a while
    except FileNotFoundError:
        pass  # another process was quicker
    except OSError as error:
        raise StoreError(found.files.directory, error.strerror or str(error)) from error


def remove_outside(path: Path) -> None:
    """Remove a file or directory that belonged to one session alone, if it is this user's and named like that."""
    if not (path.is_absolute() and path.name.startswith(_NAMES_OUTSIDE)):
        return  # the start did not get that far, or the record was edited by hand
    with contextlib.suppress(OSError):
        if path.lstat().st_uid != os.getuid():
            return  # the machine was restarted, and another user has taken the name since
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def is_other_start(latest: Found[Any], record: SessionRecord) -> bool:
    """Say whether that session was stopped meanwhile, and another one was started under its name."""
    now = latest.record
    return now is not None and (now.created_at, now.started_by) != (record.created_at, record.started_by)
