"""A damaged store: it is kept aside, and what can be read of it begins a new one.

The new store is complete before the old one goes, so that a power cut at any moment leaves the one or the other. The
old store goes before its log does: SQLite would take a store without its log for an older one that is whole.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports.jobs import _durable
from ports.jobs._database import SUBMISSION, WRITES, SubmissionRow, migrate, translated
from ports.jobs._model import ENDED, LOST, STATES, state_of

_TABLES = ("objects", "submissions", "tags", "jobs", "transitions", "arguments", "ends")


def replace(path: Path) -> tuple[Path, int]:
    """Put a new store into the place of a damaged one; return where that is kept, and how many submissions were read.

    Raises
    ------
    StoreError
        The disk is full, or not writable. The damaged store is still there.
    """
    aside = _keep(path)
    part = path.with_name(f"{path.name}.part")
    with _durable.translated(path):
        part.unlink(missing_ok=True)
        os.close(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with translated(path), contextlib.closing(sqlite3.connect(part, isolation_level=None)) as fresh:
        fresh.execute("PRAGMA synchronous = FULL")
        migrate(fresh)
        n_read = _salvage(fresh, aside)
    with _durable.translated(path):
        part.rename(_new(path))
    _durable.sync_directory(path.parent)
    finish(path)
    return aside, n_read


def _new(path: Path) -> Path:
    return path.with_name(f"{path.name}.new")


def finish(path: Path) -> None:
    """Go on where a power cut came between the end of a new store and that of the damaged one."""
    if _new(path).exists():
        with _durable.translated(path):
            path.unlink(missing_ok=True)
            _durable.sync_directory(path.parent)
            path.with_name(f"{path.name}-wal").unlink(missing_ok=True)
            _new(path).rename(path)
        _durable.sync_directory(path.parent)


def _keep(path: Path) -> Path:
    """Give a damaged store and its log a second name, and return it."""
    aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%d-%H%M%S')}")
    while aside.exists():
        aside = aside.with_name(f"{aside.name}+")
    with _durable.translated(aside):
        for end in ("", "-wal"):
            source, target = (one.with_name(f"{one.name}{end}") for one in (path, aside))
            if source.exists():
                try:
                    os.link(source, target)
                except OSError:  # a disk without hard links
                    shutil.copy2(source, target)
    _durable.sync_directory(path.parent)
    return aside


def _salvage(fresh: sqlite3.Connection, aside: Path) -> int:
    """Copy what can be read of the store that was put aside; return the number of submissions."""
    fresh.execute("BEGIN IMMEDIATE")
    with contextlib.closing(sqlite3.connect(aside, isolation_level=None)) as damaged:
        with contextlib.suppress(sqlite3.Error):
            damaged.execute("PRAGMA locking_mode = EXCLUSIVE")
        for table in _TABLES:
            n_columns = len(fresh.execute(f"PRAGMA table_info({table})").fetchall())
            marks = ", ".join("?" * n_columns)
            for values in _readable(damaged, table):
                row = (*values, *[None] * n_columns)[:n_columns]  # an older format had fewer
                fresh.execute(f"INSERT OR IGNORE INTO {table} VALUES ({marks})", row)
    found = [SubmissionRow.of(one) for one in fresh.execute(f"SELECT {SUBMISSION} FROM submissions")]
    totals = dict.fromkeys(STATES, 0)
    for submission in found:
        counts = dict(zip(STATES, submission.counts, strict=True))
        counts[LOST] += sum(counts[name] for name in STATES if name not in ENDED)
        counts.update({name: 0 for name in STATES if name not in ENDED})
        fresh.execute(WRITES["states"], _lost(submission, counts))
        totals = {name: totals[name] + counts[name] for name in STATES}
    fresh.execute("UPDATE jobs SET slot = NULL, state = 'lost' WHERE state IN ('pending', 'running')")
    fresh.executemany(WRITES["counts"], list(totals.items()))
    fresh.execute("COMMIT")
    return len(found)


def _lost(row: SubmissionRow, counts: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the values of the statement ``states`` for a submission of a damaged store."""
    was_open = row.state not in ENDED
    reason = "the queue was damaged before it ended" if was_open else row.reason
    ended = time.time() if was_open else row.ended
    return (row.began, ended, state_of(counts), reason, *(counts[name] for name in STATES), row.number)


def _readable(damaged: sqlite3.Connection, table: str) -> list[tuple[Any, ...]]:
    """Return the rows of a damaged table: from its begin to the damage, and from its end to the damage."""
    found: dict[Any, tuple[Any, ...]] = {}
    for order in ("ASC", "DESC"):
        with contextlib.suppress(sqlite3.Error):
            keys = "job, serial" if table == "transitions" else "rowid" if table != "tags" else "number"
            ordered = ", ".join(f"{key} {order}" for key in keys.split(", "))
            for row in damaged.execute(f"SELECT * FROM {table} ORDER BY {ordered}"):
                if row in found:
                    break
                found[row] = row
    return list(found)
