"""A damaged store: it is kept aside, and what can be read of it begins a new one.

The new store is complete before the old one goes, so that a power cut at any moment leaves the one or the other. The
old store goes before its log does: SQLite would take a store without its log for an older one that is whole.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import sqlite3
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports.jobs import _durable
from ports.jobs._database import SUBMISSION, WRITES, JobRow, SubmissionRow, migrate, pack, translated
from ports.jobs._model import ENDED, LOST, STATES, state_of

_REASON = "the queue was damaged before it ended, or with what was known of its end"
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
    found = [SubmissionRow.of(one) for one in fresh.execute(f"SELECT {SUBMISSION} FROM submissions").fetchall()]
    totals = dict.fromkeys(STATES, 0)
    for submission in found:
        counts = _settle(fresh, submission)
        fresh.execute(WRITES["states"], _values(submission, counts))
        totals = {name: totals[name] + counts[name] for name in STATES}
    fresh.executemany(WRITES["counts"], list(totals.items()))
    fresh.execute("COMMIT")
    return len(found)


def _settle(fresh: sqlite3.Connection, submission: SubmissionRow) -> dict[str, int]:
    """Let the jobs of a submission be lost of whose end nothing could be read; return how many are in each state."""
    first, last = pack(submission.number, 0), pack(submission.number + 1, 0) - 1
    rows = {
        row[0]: JobRow(*row) for row in fresh.execute("SELECT * FROM jobs WHERE job BETWEEN ? AND ?", (first, last))
    }
    ends = dict(fresh.execute("SELECT end - ?, item FROM ends WHERE end BETWEEN ? AND ?", (first, first, last)))
    (serial,) = fresh.execute("SELECT coalesce(max(serial), 0) FROM transitions").fetchone()
    counts, now, place = dict.fromkeys(STATES, 0), time.time(), max(ends, default=-1)
    for item in range(1 if submission.count is None else submission.count):
        row = rows.get(first + item) or JobRow(first + item)
        if row.state in ENDED and row.place is not None and ends.get(row.place) == item:
            counts[row.state] += 1
            continue
        place, serial = place + 1, serial + 1
        counts[LOST] += 1
        lost = dataclasses.replace(row, state=LOST, slot=None, ended=now, ending=None, reason=_REASON, place=place)
        fresh.execute(WRITES["jobs"], dataclasses.astuple(lost))
        fresh.execute(WRITES["ends"], (first + place, item, LOST, None, 0, None))
        fresh.execute(WRITES["transitions"], (row.job, serial, row.attempt, LOST, now, None, _REASON, None, None))
    return counts


def _values(submission: SubmissionRow, counts: Mapping[str, int]) -> tuple[Any, ...]:
    """Return the values of the statement ``states`` for a submission of a damaged store."""
    is_whole = dict(zip(STATES, submission.counts, strict=True)) == counts
    reason, ended = (submission.reason, submission.ended) if is_whole else (_REASON, time.time())
    return (submission.began, ended, state_of(counts), reason, *(counts[name] for name in STATES), submission.number)


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
