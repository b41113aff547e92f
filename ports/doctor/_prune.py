"""What dead processes left behind: records and scratch of stopped sessions, tunnels of ended processes, locks."""

from __future__ import annotations

import builtins
import shutil
import time
from pathlib import Path
from typing import TypedDict

from ports import clusters, machine, notebooks, sessions, tunnels
from ports.errors import StoreError
from ports.hosts import openssh
from ports.probe import size
from ports.state import paths, prune_runtime


class PrunedRow(TypedDict):
    """The row of one thing that was removed, or of why it was not. `state` says what became of it."""

    kind: str
    name: str
    state: str
    host: str


def prune(*, results: bool = False, adopt: str | None = None) -> builtins.list[PrunedRow]:
    """Remove it, and return a row for each; what runs, and what cannot be known, stays, and so do logs.

    A record that cannot be read is moved aside, to ``<name>.broken-<time>`` beside it.

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
    rows = [_row("machine", adopt, f"adopted; sessions: {', '.join(sessions.adopt(adopt)) or 'none'}")] if adopt else []
    rows += [_row(kind, name, "removed") for kind, names in _stopped().items() for name in names]
    rows += [_row("tunnel", name, "removed") for name in _prune_tunnels()]
    for kind in sessions.FOLDERS:
        rows += [_row(kind, name, "removed") for name in _remove_halves(kind)]
        rows += [_row(kind, name, f"moved aside to {aside}") for name, aside in _move_broken_aside(kind)]
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


def _remove_halves(kind: str) -> builtins.list[str]:
    """Remove directories that a crash left between their making and their name; they may hold an environment."""
    with sessions.names_locked(kind):  # all that make them hold this lock: none is in the making
        halves = [path for path in sessions.folder(kind).glob(".*.*") if path.is_dir()]
        for path in halves:
            shutil.rmtree(path, ignore_errors=True)
    return [path.name for path in halves]


def _stopped() -> dict[str, builtins.list[str]]:
    return {"cluster": clusters.prune(), "notebook": notebooks.prune()}


def _move_broken_aside(kind: str) -> builtins.list[tuple[str, Path]]:
    """Rename the directories whose record no version of `ports` can read; a newer format is left alone."""
    moved = []
    for name in sessions.names(kind):
        found = sessions.find(kind, name, sessions.KINDS[kind].record_class())
        if found is not None and sessions.is_broken(found):
            aside = found.files.directory.with_name(f"{name}.broken-{int(time.time())}")
            try:
                found.files.directory.rename(aside)
            except OSError as error:
                raise StoreError(found.files.directory, error.strerror or str(error)) from error
            moved.append((name, aside))
    return moved


def _row(kind: str, name: str, what: str) -> PrunedRow:
    return {"kind": kind, "name": name, "state": what, "host": paths.host_name()}
