"""What dead processes left behind: records and scratch of stopped sessions, tunnels of ended processes, locks."""

from __future__ import annotations

import builtins
import contextlib
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TypedDict

from ports import clusters, jobs, machine, notebooks, sessions, tunnels
from ports.errors import BrokenRecordError, NewerRecordError, StoreError
from ports.hosts import openssh
from ports.probe import size
from ports.state import paths, prune_runtime, records

_FOLDERS = ("", "tunnels/", "logins/", "jump-methods/", "held/")  # of records, below the directory of this machine


class PrunedRow(TypedDict):
    """The row of one thing that was removed, or of why it was not. `state` says what became of it."""

    kind: str
    name: str
    state: str
    host: str


def prune(*, results: bool = False, adopt: str | None = None) -> builtins.list[PrunedRow]:
    """Remove it, and return a row for each; what runs, and what cannot be known, stays, and so do logs.

    A record that cannot be read is moved aside, to ``<name>.broken-<time>`` beside it. If its session runs, the row
    names the command that stops it.

    Parameters
    ----------
    results : bool
        Also remove the files of results that clusters held when they expired. Else their rows say where they are.
    adopt : str, optional
        A machine that shares this home and is gone, or was this one under another name and boot: first, take over its
        records. Its sessions count as ended.

    Raises
    ------
    NotFoundError
        No machine of that name, `adopt`, has records here.
    UsageError
        One of its sessions runs.
    """
    # the first, because all else reads these records
    rows = [_row("record", path.name, f"moved aside to {aside}") for path, aside in _move_broken_files_aside()]
    if adopt:
        rows += [_row("machine", adopt, f"adopted; sessions: {', '.join(sessions.adopt(adopt)) or 'none'}")]
    rows += [_row(kind, name, "removed") for kind, names in _stopped().items() for name in names]
    rows += [_row("tunnel", name, "removed") for name in _prune_tunnels()]
    for kind in sessions.FOLDERS:
        rows += [_row(kind, name, "removed") for name in _remove_halves(kind)]
        rows += [_row(kind, name, what) for name, what in _move_broken_aside(kind)]
    rows += [_row(kind, name, "removed") for kind, name in _prune_shells()]
    rows += [_row("connection", path.name, "removed") for path in openssh.sweep_all()]
    rows += [_row("promise", name, "removed") for name in machine.prune()]
    rows += [_row("results", one.cluster, _kept(one, remove=results)) for one in clusters.list_kept()]
    return rows + [_row("sockets", path.name, "removed") for path in prune_runtime()]


def _kept(one: clusters.KeptResults, *, remove: bool) -> str:
    """Return what becomes of results that a cluster held at its end."""
    if remove and clusters.remove_kept(one):
        return "removed"
    return f"{one.n_files} held, {size(one.n_bytes)}, in {one.path}; `ports prune --held` removes them"


def _prune_tunnels() -> builtins.list[str]:
    """Remove what dead processes left of their tunnels; return these as they were named, HOST:NAME."""
    dead = [record for _, record, alive in tunnels.read_all_records() if alive is False]
    left = tunnels.prune()
    named = [":".join(filter(None, (row["host"], row["name"]))) for record in dead for row in record.rows]
    return named or [path.stem for path in left if path.suffix == ".json"]


def _prune_shells() -> builtins.list[tuple[str, str]]:
    """Remove what shells left whose start was interrupted, and the socket of a tmux that has ended."""
    left = sessions.prune_shells() if paths.can_serve() else []
    return [("shell" if path.suffix == ".launch" else "sockets", path.name) for path in left]


def _remove_halves(kind: str) -> builtins.list[str]:
    """Remove directories that a crash left between their making and their name; they may hold an environment."""
    with sessions.names_locked(kind):  # all that make them hold this lock: none is in the making
        halves = [path for path in sessions.folder(kind).glob(".*.*") if path.is_dir()]
        for path in halves:
            shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in halves]


def _stopped() -> dict[str, builtins.list[str]]:
    return {"cluster": clusters.prune(), "notebook": notebooks.prune(), "resource": jobs.prune_resources()}


def _move_broken_files_aside() -> Iterator[tuple[Path, Path]]:
    """Rename the records that are of no session and that no version of `ports` can read."""
    root = paths.here().root
    for path in sorted(path for folder in _FOLDERS for path in root.glob(f"{folder}*.json")):
        with contextlib.suppress(NewerRecordError):
            try:
                records.read_json(path)
            except BrokenRecordError:
                yield path, _move_aside(path)


def _move_aside(path: Path) -> Path:
    aside = path.with_name(f"{path.name}.broken-{int(time.time())}")
    try:
        return path.rename(aside)
    except OSError as error:
        raise StoreError(path, error.strerror or str(error)) from error


def _move_broken_aside(kind: str) -> Iterator[tuple[str, str]]:
    """Rename the directories whose record no version of `ports` can read; a newer format is left alone."""
    for name in sessions.names(kind):
        found = sessions.find(kind, name, sessions.KINDS[kind].record_class())
        if found is None and (moved := _freed(kind, name)) is not None:
            yield name, f"moved aside to {moved}"
        if found is None or not isinstance(found.error, BrokenRecordError):
            continue
        if sessions.is_broken(found):
            yield name, f"moved aside to {_move_aside(found.files.directory)}"
        else:
            force = "" if sessions.is_alive(found) else " --force"
            yield name, f"not moved, because it can run: `ports {kind} stop {name}{force}` ends it"


def _freed(kind: str, name: str) -> Path | None:
    """Move aside what holds a name and is no session: a claim is renamed to its name with its record already in it."""
    files = sessions.files(kind, name)
    with sessions.names_locked(kind):
        if os.path.lexists(files.directory) and not os.path.lexists(files.record):
            return _move_aside(files.directory)
    return None


def _row(kind: str, name: str, what: str) -> PrunedRow:
    return {"kind": kind, "name": name, "state": what, "host": paths.host_name()}
