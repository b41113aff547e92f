"""The format of the store: its tables, its statements, its rows, and how it is opened.

A job is one integer there, `pack`: its submission's number and its item.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ports.errors import BrokenRecordError, ConflictError, NewerRecordError, StoreError
from ports.jobs import _durable
from ports.jobs._model import PENDING
from ports.probe import rest, words

FORMAT = rest.STORE_FORMAT
pack, unpack = words.pack, words.unpack
_NOT_A_STORE = ("malformed", "not a database", "corrupt", "disk image")
# One list of statements for each step from a format to the next one.
MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        "CREATE TABLE facts (name TEXT PRIMARY KEY, value) WITHOUT ROWID",
        # `n_bytes` with no blob: the file objects/<digest>.
        "CREATE TABLE objects (digest TEXT PRIMARY KEY, n_bytes INTEGER NOT NULL, blob BLOB)",
        "CREATE TABLE submissions (number INTEGER PRIMARY KEY, key TEXT UNIQUE, kind TEXT NOT NULL, name TEXT NOT NULL,"
        " queue TEXT NOT NULL, priority INTEGER NOT NULL, count INTEGER, digest TEXT NOT NULL, spec TEXT NOT NULL,"
        " created REAL NOT NULL, began REAL, ended REAL, state TEXT NOT NULL, reason TEXT, n_pending INTEGER NOT NULL,"
        " n_running INTEGER NOT NULL, n_finished INTEGER NOT NULL, n_error INTEGER NOT NULL,"
        " n_cancelled INTEGER NOT NULL, n_lost INTEGER NOT NULL)",
        "CREATE INDEX submissions_state ON submissions (state, number)",
        "CREATE INDEX submissions_name ON submissions (name, number)",
        "CREATE INDEX submissions_digest ON submissions (digest)",
        "CREATE TABLE tags (name TEXT, value TEXT, number INTEGER, PRIMARY KEY (name, value, number)) WITHOUT ROWID",
        # A job that nothing happened to has no row: it is pending.
        "CREATE TABLE jobs (job INTEGER PRIMARY KEY, state TEXT NOT NULL, attempt INTEGER NOT NULL, slot TEXT,"
        " began REAL, ended REAL, ending TEXT, reason TEXT, used TEXT, place INTEGER, peak_memory INTEGER,"
        " cpu_time REAL, note TEXT)",
        "CREATE TABLE transitions (job INTEGER, serial INTEGER, attempt INTEGER NOT NULL, state TEXT NOT NULL,"
        " at REAL NOT NULL, host TEXT, reason TEXT, peak_memory INTEGER, cpu_time REAL,"
        " PRIMARY KEY (job, serial)) WITHOUT ROWID",
        "CREATE TABLE arguments (job INTEGER PRIMARY KEY, digest TEXT, blob BLOB)",
        # In the order in which the jobs of a submission ended; `end` packs number and place.
        "CREATE TABLE ends (end INTEGER PRIMARY KEY, item INTEGER NOT NULL, state TEXT NOT NULL, error TEXT,"
        " n_bytes INTEGER NOT NULL, blob BLOB)",
        "CREATE TABLE slots (slot TEXT PRIMARY KEY, worker TEXT, lease TEXT, process TEXT, gpus TEXT) WITHOUT ROWID",
        "CREATE TABLE counts (state TEXT PRIMARY KEY, n INTEGER NOT NULL) WITHOUT ROWID",
    ),
    (  # see `_clocks`: when a job began, and when one with a lifetime was submitted
        "ALTER TABLE jobs ADD COLUMN stamp TEXT",
        "ALTER TABLE submissions ADD COLUMN stamp TEXT",
    ),
)
SUBMISSION = (
    "number, key, kind, name, queue, priority, count, digest, spec, created, began, ended, state, reason, "
    "n_pending, n_running, n_finished, n_error, n_cancelled, n_lost, stamp, command"
)
WRITES = {
    "submissions": f"INSERT INTO submissions ({SUBMISSION}) VALUES ({', '.join('?' * 22)})",
    "objects": "INSERT OR IGNORE INTO objects VALUES (?, ?, ?)",
    "tags": "INSERT OR IGNORE INTO tags VALUES (?, ?, ?)",
    "arguments": "INSERT OR REPLACE INTO arguments VALUES (?, ?, ?)",
    "jobs": f"INSERT OR REPLACE INTO jobs VALUES ({', '.join('?' * 14)})",
    "transitions": f"INSERT INTO transitions VALUES ({', '.join('?' * 9)})",
    "ends": "INSERT OR REPLACE INTO ends VALUES (?, ?, ?, ?, ?, ?)",
    "slots": "INSERT OR REPLACE INTO slots VALUES (?, ?, ?, ?, ?)",
    "free_slots": "DELETE FROM slots WHERE slot = ?",
    "counts": "INSERT OR REPLACE INTO counts VALUES (?, ?)",
    "facts": "INSERT OR REPLACE INTO facts VALUES (?, ?)",
    "states": "UPDATE submissions SET began = ?, ended = ?, state = ?, reason = ?, n_pending = ?, n_running = ?,"
    " n_finished = ?, n_error = ?, n_cancelled = ?, n_lost = ? WHERE number = ?",
}


@dataclasses.dataclass(slots=True)
class SubmissionRow:
    """One submission as the store has it; `counts` is in the order of `STATES`."""

    number: int
    key: str | None
    kind: str
    name: str
    queue: str
    priority: int
    count: int | None
    digest: str
    spec: str
    created: float
    began: float | None
    ended: float | None
    state: str
    reason: str | None
    counts: list[int]
    stamp: str | None = None
    command: str | None = None

    @classmethod
    def of(cls, row: Sequence[Any]) -> SubmissionRow:
        """Return the row that SQLite gave."""
        return cls(*(*row[:14], list(row[14:20]), *row[20:]))


@dataclasses.dataclass(slots=True)
class JobRow:
    """One job to which something happened. `used` counts the retries by their reason."""

    job: int
    state: str = PENDING
    attempt: int = 0
    slot: str | None = None
    began: float | None = None
    ended: float | None = None
    ending: str | None = None
    reason: str | None = None
    used: str | None = None
    place: int | None = None
    peak_memory: int | None = None
    cpu_time: float | None = None
    note: str | None = None
    stamp: str | None = None


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise BrokenRecordError, ConflictError or StoreError for what SQLite says of the store `path`."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        text = str(error)
        if is_corrupt(error):
            raise BrokenRecordError(path, text) from error
        if "locked" in text or "busy" in text:
            raise ConflictError(
                f"the queue {path} is open in another process; try again when that has ended"
            ) from error
        raise StoreError(path, "No space left on device" if "full" in text else text) from error


def is_corrupt(error: sqlite3.DatabaseError) -> bool:
    """Say whether SQLite could not make sense of the file."""
    return any(word in str(error) for word in _NOT_A_STORE)


def connect(path: Path, timeout: float) -> tuple[sqlite3.Connection, bool]:
    """Open the store for this process alone, in today's format; say whether it is new; raises as `Store.open`."""
    with _durable.translated(path):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600))
    with translated(path):
        database = sqlite3.connect(path, timeout=timeout, isolation_level=None, check_same_thread=False)
        try:
            # Before the first access, so that no -shm is made: its locks do not work on every disk.
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            _check_format(database, path)
            database.execute("PRAGMA journal_mode = WAL")
            database.execute("PRAGMA synchronous = FULL")
            database.execute("PRAGMA wal_autocheckpoint = 4000")
            database.execute("PRAGMA journal_size_limit = 67108864")
            (checked,) = database.execute("PRAGMA quick_check(1)").fetchone()
            if checked != "ok":
                raise BrokenRecordError(path, checked)
            is_new = migrate(database)
        except BaseException:
            database.close()
            raise
    return database, is_new


def _check_format(database: sqlite3.Connection, path: Path) -> None:
    """Raise NewerRecordError for a store of a newer format, of which nothing is touched."""
    (found,) = database.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        raise NewerRecordError(path, found, FORMAT)


def migrate(database: sqlite3.Connection) -> bool:
    """Bring a store to today's format, and say whether it was empty."""
    (found,) = database.execute("PRAGMA user_version").fetchone()
    for number in range(found, FORMAT):
        database.execute("BEGIN IMMEDIATE")
        for statement in MIGRATIONS[number]:
            database.execute(statement)
        database.execute(f"PRAGMA user_version = {number + 1}")
        database.execute("COMMIT")
    _add_commands(database)
    return bool(found == 0)


def _add_commands(database: sqlite3.Connection) -> None:
    """Give a store the commands of its scripts apart, in an index in which is searched; older versions ignore both."""
    if any(row[1] == "command" for row in database.execute("PRAGMA table_info(submissions)")):
        return
    database.create_function("command_of", 1, lambda spec: words.command_of(json.loads(spec)), deterministic=True)
    database.execute("BEGIN IMMEDIATE")
    database.execute("ALTER TABLE submissions ADD COLUMN command TEXT")
    database.execute("UPDATE submissions SET command = command_of(spec) WHERE kind = 'script'")
    database.execute(f"CREATE INDEX {words.FOUND} ON submissions (state, name, command)")
    database.execute("COMMIT")
