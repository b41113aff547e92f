"""The queue on the disk: SQLite, one transaction a turn.

One process has the store open, behind the lock of the resource. What is put is collected, and `commit` writes all of it
at once: one fsync serves all that arrived in a turn of the loop.
"""

from __future__ import annotations

import collections
import contextlib
import hashlib
import json
import re
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ports import probe, state
from ports.errors import BrokenRecordError, ConflictError, NewerRecordError, PortsError, RecordError, TimedOutError
from ports.jobs import _damage, _durable, _submissions
from ports.jobs._database import FORMAT as FORMAT
from ports.jobs._database import SUBMISSION, WRITES, connect, translated
from ports.jobs._database import JobRow as JobRow
from ports.jobs._database import SubmissionRow as SubmissionRow
from ports.jobs._database import pack as pack
from ports.jobs._database import unpack as unpack
from ports.jobs._model import LARGE, STATES, JobId
from ports.jobs._places import LOCK, Places
from ports.probe import places as at_rest
from ports.probe import words

_SPARE = 32  # ids that are reserved ahead
_DIGEST = re.compile("[0-9a-f]{64}", re.ASCII)


class Store:
    """The store of one resource; see `open`.

    `notices` has in words what was found at the start that the user must know: a store that could not be read.
    """

    def __init__(self, places: Places, database: sqlite3.Connection, held: contextlib.ExitStack) -> None:
        self.places, self._database, self._held = places, database, held
        self.notices: list[str] = []
        self._rows: dict[str, list[tuple[Any, ...]]] = {name: [] for name in WRITES}
        self._last = 0  # the highest number that was reserved
        self._spare: collections.deque[int] = collections.deque()  # reserved numbers that nobody has yet
        self._taken: list[int] = []  # of those, in this turn
        self._n_reserved = 0
        self._has_new_ids = False
        self._is_open = False  # a transaction
        self._unneeded: set[str] = set()  # objects that this turn removes
        #: SQLite refused something in this turn: nothing of the turn counts.
        self.has_failed = False

    @classmethod
    def open(cls, places: Places, *, timeout: float = 5.0) -> Store:
        """Take the lock of the resource, and open the store or make it.

        A store that SQLite finds damaged is put aside as ``store.sqlite.corrupt-TIME``, and a new one begins with what
        can still be read; `notices` says so.

        Raises
        ------
        ConflictError
            The queue belongs to another machine, or another process has it open for `timeout` seconds.
        NewerRecordError
            A newer `ports` wrote the store.
        StoreError
            The disk is full, or not writable.
        """
        with contextlib.ExitStack() as held:
            try:
                held.enter_context(state.locked(LOCK, timeout=timeout))
            except TimedOutError:
                raise ConflictError(
                    "another process has the queue of jobs open: a compute resource runs here"
                ) from None
            own_queue(places)
            _damage.finish(places.store)
            aside, reason, n_read = None, "", 0
            try:
                database, is_new = connect(places.store, timeout)
            except BrokenRecordError as error:
                reason = error.reason
                aside, n_read = _damage.replace(places.store)
                database, is_new = connect(places.store, timeout)
            held.callback(database.close)
            store = cls(places, database, held.pop_all())
        store._find_spare(is_new or aside is not None)
        if is_new and (n_ids := store._ids_before()):
            store.notices.append(
                f"the queue {places.store} was removed or emptied; {n_ids} ids were given before, and nothing is known "
                "of their jobs"
            )
        if aside is not None:
            store.notices.append(
                f"the queue {places.store} was damaged ({reason}); it is kept as {aside}, and {n_read} submissions of "
                "it could be read: those that had not ended count as lost"
            )
        store._remove_remnants()
        return store

    def close(self) -> None:
        """Let go of the store and of its lock; what was put and not committed is dropped."""
        self.roll_back()
        for number in self._spare:
            with contextlib.suppress(OSError):
                (self.places.ids / str(number)).unlink()
        self._spare.clear()
        self._held.close()

    @property
    def path(self) -> Path:
        """The SQLite file."""
        return self.places.store

    # --- writing ---

    def put(self, table: str, row: tuple[Any, ...]) -> None:
        """Add a row to what `commit` writes."""
        self._rows[table].append(row)

    def put_all(self, table: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Add rows to what `commit` writes."""
        self._rows[table].extend(rows)

    def reserve(self) -> int:
        """Return a number that no submission ever had; it is durable with the next `commit`; raises StoreError."""
        if not self._spare:
            self._last = _durable.reserve(self.places.ids, self._last, is_file=True)
            self._has_new_ids = True
            return self._last
        self._taken.append(self._spare.popleft())
        return self._taken[-1]

    def reserve_ahead(self) -> bool:
        """Reserve numbers for what will be submitted, so that a submission syncs one file only; raises StoreError.

        Return True if it is time to `_submissions.tidy`.
        """
        if len(self._spare) > _SPARE // 2:
            return False
        while len(self._spare) < _SPARE:
            self._last = _durable.reserve(self.places.ids, self._last, is_file=True)
            self._spare.append(self._last)
        _durable.sync_directory(self.places.ids)
        self._n_reserved += 1
        return self._n_reserved % 16 == 0

    def _find_spare(self, is_new: bool) -> None:
        """Find the highest number that was given away. Only a resource makes files: those above are free.

        What was left and is not in the store yet has a number too, whatever became of the directory of ids.
        """
        (found,) = self._all("SELECT max(coalesce(max(number), 0), ?) FROM submissions", (self.fact("last") or 0,))
        numbers = _durable.numbers(self.places.ids)
        left = {one.number for one in _submissions.read(self.places, has_blobs=False)}
        self._last = max([found[0], *numbers, *left])
        if not is_new:
            above = sorted(number for number in numbers if number > found[0] and number not in left)
            self._spare.extend(number for number in above if (self.places.ids / str(number)).is_file())

    def flush(self) -> None:
        """Let reads see what was put; it is not durable yet."""
        with self._noted():
            for table, rows in self._rows.items():
                if rows:
                    self._begin()
                    self._database.executemany(WRITES[table], rows)
                    rows.clear()

    def _begin(self) -> None:
        if not self._is_open:
            self._database.execute("BEGIN IMMEDIATE")
            self._is_open = True

    @contextlib.contextmanager
    def _noted(self) -> Iterator[None]:
        """Translate the errors of SQLite, and note that there was one."""
        try:
            with translated(self.path):
                yield
        except PortsError:
            self.has_failed = True
            raise

    def commit(self) -> None:
        """Make all that was put durable.

        Raises
        ------
        StoreError
            The disk is full or failed. Nothing of it is in the store then, and what was put is dropped.
        """
        try:
            self.flush()
            if self._has_new_ids:
                _durable.sync_directory(self.places.ids)
                self._has_new_ids = False
            if self._is_open:
                with self._noted():
                    self._database.execute("COMMIT")
                self._is_open = False
            self._taken.clear()
        except BaseException:
            self.roll_back()
            raise
        for digest in self._unneeded:
            with contextlib.suppress(OSError):
                (self.places.objects / digest).unlink()
        self._unneeded.clear()

    def roll_back(self) -> None:
        """Drop what was put since the last `commit`."""
        self.has_failed = False
        self._spare.extendleft(reversed(self._taken))
        self._taken.clear()
        self._unneeded.clear()
        for rows in self._rows.values():
            rows.clear()
        if self._is_open:
            with contextlib.suppress(sqlite3.Error):  # SQLite has done it itself where the disk is full
                self._database.execute("ROLLBACK")
            self._is_open = False

    def put_object(self, blob: bytes) -> str:
        """Store a function, a script or large arguments, and return the SHA-256; raises StoreError."""
        digest = hashlib.sha256(blob).hexdigest()
        self._unneeded.discard(digest)
        if len(blob) <= LARGE:
            self.put("objects", (digest, len(blob), blob))
            return digest
        path = self.places.objects / digest
        if not path.exists():
            _durable.write(path, blob)
        self.put("objects", (digest, len(blob), None))
        return digest

    def put_arguments(self, number: int, blobs: Sequence[bytes]) -> None:
        """Store the arguments of all jobs of a submission; raises StoreError."""
        first = pack(number, 0)
        self.put_all(
            "arguments",
            [
                (first + item, None, blob) if len(blob) <= LARGE else (first + item, self.put_object(blob), None)
                for item, blob in enumerate(blobs)
            ],
        )

    def keep_result(self, job: JobId, blob: bytes) -> None:
        """Write a large result to its file; raises StoreError."""
        _durable.write(self.places.result_of(job), blob)

    # --- reading ---

    def _all(self, statement: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        self.flush()
        with self._noted():
            return self._database.execute(statement, values).fetchall()

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state, as it was kept."""
        found = dict(self._all("SELECT state, n FROM counts"))
        return {state: found.get(state, 0) for state in STATES}

    def fact(self, name: str) -> Any:
        """Return what was put under a name in ``facts``; None if nothing was."""
        found = self._all("SELECT value FROM facts WHERE name = ?", (name,))
        return found[0][0] if found else None

    def number_of_key(self, key: str) -> int | None:
        """Return the submission that has the client's `key`; one that was put in this turn is not seen."""
        with self._noted():
            found = self._database.execute("SELECT number FROM submissions WHERE key = ?", (key,)).fetchone()
        return found[0] if found else None

    def submission(self, number: int) -> SubmissionRow | None:
        """Return one submission."""
        found = self._all(f"SELECT {SUBMISSION} FROM submissions WHERE number = ?", (number,))
        return SubmissionRow.of(found[0]) if found else None

    def unended(self) -> Iterator[SubmissionRow]:
        """Yield the submissions that have jobs which did not end, in the order of their numbers."""
        self.flush()
        with self._noted():
            for row in self._database.execute(
                f"SELECT {SUBMISSION} FROM submissions WHERE state IN ('pending', 'running') ORDER BY number"
            ):
                yield SubmissionRow.of(row)

    def ended_with_notice(self, since: float) -> list[int]:
        """Return the submissions that asked for a notice at their end, and ended after `since`."""
        statement = "SELECT number FROM submissions WHERE ended > ? AND spec LIKE '%\"notify\": true%' ORDER BY ended"
        return [int(number) for (number,) in self._all(statement, (since,))]

    def newest(self, limit: int, filters: Mapping[str, Any]) -> list[SubmissionRow]:
        """Return the newest submissions that match.

        `filters` are ``state`` (one, or a list), ``name``, ``queue``, ``tag`` (``NAME`` or ``NAME=VALUE``), ``before``,
        a number, and ``search``: see `words.searched`.
        """
        ((highest,),) = self._all("SELECT coalesce(max(number), 0) FROM submissions")
        for where, values in words.newest_queries(limit, dict(filters), highest):
            found = self._all(f"SELECT {SUBMISSION} {where}", values)
            if len(found) == limit:
                break
        return [SubmissionRow.of(row) for row in found]

    def tally(self, filters: Mapping[str, Any]) -> dict[str, int]:
        """Return how many submissions are in each state, of those that match the ``search`` of `filters`."""
        where, values = words.tally_query(dict(filters))
        return {**dict.fromkeys(STATES, 0), **dict(self._all(f"SELECT state, count(*) {where}", values))}

    def unended_jobs(self) -> list[JobRow]:
        """Return the jobs of all `unended` submissions to which something happened."""
        found = self._all(
            "SELECT jobs.* FROM submissions JOIN jobs ON jobs.job BETWEEN submissions.number << 20 AND"
            " (submissions.number << 20) + 1048575 WHERE submissions.state IN ('pending', 'running')"
        )
        return [JobRow(*row) for row in found]

    def jobs(self, number: int) -> list[JobRow]:
        """Return the jobs of a submission to which something happened."""
        found = self._all("SELECT * FROM jobs WHERE job BETWEEN ? AND ?", (pack(number, 0), pack(number + 1, 0) - 1))
        return [JobRow(*row) for row in found]

    def job(self, job: int) -> JobRow | None:
        """Return one job; None if nothing happened to it."""
        found = self._all("SELECT * FROM jobs WHERE job = ?", (job,))
        return JobRow(*found[0]) if found else None

    def transitions(self, job: int) -> list[tuple[Any, ...]]:
        """Return attempt, state, time, host, reason, peak memory and cpu time of each transition, the oldest first."""
        return self._all(
            "SELECT attempt, state, at, host, reason, peak_memory, cpu_time FROM transitions WHERE job = ?"
            " ORDER BY serial",
            (job,),
        )

    def slots(self) -> list[tuple[Any, ...]]:
        """Return slot, worker, lease, process and GPUs of the slots and scripts that may live."""
        return self._all("SELECT slot, worker, lease, process, gpus FROM slots")

    def object(self, digest: str) -> bytes:
        """Return a function, a script or arguments; raises BrokenRecordError."""
        found = self._all("SELECT n_bytes, blob FROM objects WHERE digest = ?", (digest,))
        if found and found[0][1] is not None:
            return bytes(found[0][1])
        return _read(self.places.objects / digest, found[0][0] if found else None)

    def arguments(self, jobs: Sequence[int]) -> dict[int, bytes | str]:
        """Return the arguments of packed jobs; of large ones the digest, by which `object` reads them."""
        if not jobs:
            return {}
        marks = ", ".join("?" * len(jobs))
        found = self._all(f"SELECT job, digest, blob FROM arguments WHERE job IN ({marks})", jobs)
        return {job: digest if blob is None else blob for job, digest, blob in found}

    def ends(self, number: int, start: int, limit: int) -> list[tuple[Any, ...]]:
        """Return place, item, state, error, size and blob of results, from the place `start` on, at most `limit`."""
        first = pack(number, 0)
        return self._all(
            "SELECT end - ?, item, state, error, n_bytes, blob FROM ends WHERE end BETWEEN ? AND ?"
            " ORDER BY end LIMIT ?",
            (first, first + start, pack(number + 1, 0) - 1, limit),
        )

    def result(self, job: JobId, n_bytes: int, blob: bytes | None) -> bytes:
        """Return a result whose row `ends` gave; raises BrokenRecordError."""
        if blob is not None or not n_bytes:
            return blob or b""
        return _read(self.places.result_of(job), n_bytes)

    # --- removing ---

    def prunable(self, before: float, states: Sequence[str]) -> list[SubmissionRow]:
        """Return the submissions that ended before that time in one of these states."""
        marks = ", ".join("?" * len(states))
        found = self._all(
            f"SELECT {SUBMISSION} FROM submissions WHERE state IN ({marks}) AND ended < ? ORDER BY number",
            [*states, before],
        )
        return [SubmissionRow.of(row) for row in found]

    def remove(self, numbers: Sequence[int]) -> None:
        """Remove submissions with all that was kept of them; their numbers are never used again."""
        self.flush()
        with self._noted():
            self._begin()
            ranges = [(pack(number, 0), pack(number + 1, 0) - 1) for number in numbers]
            for table, column in (("jobs", "job"), ("transitions", "job"), ("arguments", "job"), ("ends", "end")):
                self._database.executemany(f"DELETE FROM {table} WHERE {column} BETWEEN ? AND ?", ranges)
            ones = [(number,) for number in numbers]
            (last,) = self._database.execute("SELECT max(number) FROM submissions").fetchone()
            self._database.execute(WRITES["facts"], ("last", max(last or 0, self.fact("last") or 0)))
            self._database.executemany("DELETE FROM tags WHERE number = ?", ones)
            self._database.executemany("DELETE FROM submissions WHERE number = ?", ones)

    def remove_unused_objects(self) -> None:
        """Remove the objects that no submission needs any more; their files go after the commit."""
        found = self._all(
            "SELECT digest FROM objects WHERE digest NOT IN (SELECT digest FROM submissions)"
            " AND digest NOT IN (SELECT digest FROM arguments WHERE digest IS NOT NULL)"
        )
        with self._noted():
            self._begin()
            self._database.executemany("DELETE FROM objects WHERE digest = ?", found)
        self._unneeded.update(digest for (digest,) in found)

    def _remove_remnants(self) -> None:
        """Remove the files of turns that a kill of the resource cut short: nothing in the store speaks of them."""
        known = {digest for (digest,) in self._all("SELECT digest FROM objects WHERE blob IS NULL")}
        for name in _durable.names(self.places.objects):
            if _DIGEST.fullmatch(name) and name not in known:
                with contextlib.suppress(OSError):
                    (self.places.objects / name).unlink()
        places = self.places
        for directory in (places.root, places.objects, places.results, places.submissions, places.environs):
            _durable.remove_parts(directory)

    def _ids_before(self) -> int:
        """Return how many ids were given in a store that is new all the same; submission files do not count."""
        directories = [self.places.ids / str(number) for number in _durable.numbers(self.places.ids)]
        return sum(1 for path in directories if (path / "taken").exists() or not (path / "key").exists())


def _read(path: Path, n_bytes: int | None) -> bytes:
    """Return a file of which the store says how large it is; raises BrokenRecordError."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise BrokenRecordError(path, error.strerror or str(error)) from error
    if n_bytes is not None and len(data) != n_bytes:
        raise BrokenRecordError(path, f"it has {len(data)} bytes, and had {n_bytes}")
    return data


def own_queue(places: Places) -> None:
    """Note that this machine owns the queue.

    Raises
    ------
    ConflictError
        Another machine owns it: this home is used by both, and both have the same machine id.
    """
    name, boot = state.paths.host_name(), probe.boot_id()
    try:
        found = state.records.read_json(places.owner)
    except NewerRecordError:
        raise
    except RecordError:
        found = None  # half a record of a disk that was full: whoever holds the lock here writes it again
    if (conflict := at_rest.owner_conflict(found, name, boot, str(places.root))) is not None:
        raise ConflictError(conflict)
    if found is None or (found.get("name"), found.get("boot_id")) != (name, boot):
        document = {"format": state.records.FORMAT, "name": name, "boot_id": boot}
        _durable.write(places.owner, json.dumps(document).encode())
