"""The queue where no resource runs: what the store has and what was left, as a resource would show it.

It takes the resource's lock, opens the store, and lets go of both after one question. It never changes the store, and
never refuses a submission: the next resource knows what the machine has. What changes the queue is left for that one.
"""

import json
import os
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..identity import boot_id, node
    from ..own_host import read_record
    from .ended import ended_script, read_note
    from .left import check_key, leave_request, leave_submission, read_left
    from .places import LOCK_SECONDS, STARTS, data_of, disk_refuses, lock_queue, make_queue, owner_conflict
    from .words import (
        CANCELLED,
        ENDED,
        ERROR,
        LOST,
        PENDING,
        RUNNING,
        STATES,
        Busy,
        Refused,
        again_of,
        asked_of,
        filters_of,
        id_text,
        is_found,
        is_number,
        is_text,
        job_row,
        newest_of,
        newest_queries,
        no_job,
        pack,
        short,
        split_id,
        state_of,
        states_of,
        submission_row,
        tally_query,
        transition_rows,
        unpack,
        watched_row,
    )

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterable, List, Optional, Sequence, Tuple

    Json = Dict[str, Any]
    Answer = Tuple[Json, Sequence[bytes]]

STORE_FORMAT = 2  # what this file can read
NOT_A_STORE = ("malformed", "not a database", "corrupt", "disk image")
NO_RESOURCE = "no compute resource runs here; `ports resource start` goes on"
MOST_RESULT_BYTES, MOST_RESULTS = 8 * 2**20, 1000  # of one answer
REASON = "cancelled"


class StoredRow:
    """One row of the store, or what stands for one: its columns are attributes; what it lacks is None."""

    def __init__(self, **columns: "Any") -> None:
        self.__dict__.update(columns)

    def __getattr__(self, name: str) -> "Any":
        return None

    @property
    def counts(self) -> "List[int]":
        """How many jobs of a submission are in each state, in the order of `STATES`."""
        return [self.__dict__["n_" + state] for state in STATES]


class QueueAtRest:
    """The queue of this machine for one question; see `look`.

    Parameters
    ----------
    root : str
        The directory of jobs.
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self.notices = []  # type: List[str]
        self._database = None  # type: Any
        self._left = {}  # type: Dict[int, Any]  # submissions, by their number
        self._last_left = 0  # the highest of these numbers, of a store that cannot be read too
        self._ended = {}  # type: Dict[int, Json]  # scripts of which the store says that they run
        self._cancelled = {}  # type: Dict[int, Dict[Optional[int], Tuple[float, str]]]  # by request, None: all items

    # --- open and close ---

    def open(self) -> None:
        """Read what was left, and open the store if there is one; raises Refused."""
        try:
            found = read_left(self.root, has_blobs=False)
        except OSError as error:
            raise disk_refuses(os.path.join(self.root, "submissions"), error) from error
        self._last_left = max([0] + [left.number for left in found])
        path = os.path.join(self.root, "store.sqlite")
        try:
            if os.path.getsize(path):
                self._open_store(path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise disk_refuses(path, error) from error
        for left in found:
            self._take(left)
        self._look_at_scripts()

    def _look_at_scripts(self) -> None:
        """Find the scripts that went on without a resource, and have ended."""
        found = self._rows(
            "SELECT submissions.number, jobs.attempt FROM submissions JOIN jobs ON jobs.job = submissions.number << 20"
            " WHERE submissions.state = 'running' AND submissions.kind = 'script' AND jobs.state = 'running'"
        )
        for row in found:
            told = ended_script(self._work(row.number), row.attempt)
            if told is not None:
                self._ended[row.number] = told

    def _work(self, number: int) -> str:
        return os.path.join(data_of(self.root), "work", str(number))

    def _open_store(self, path: str) -> None:
        """Open the store alone: a reader beside others would leave a -shm, with which no resource starts."""
        try:
            import sqlite3
        except ImportError as error:
            told = "python3 there has no module sqlite3, without which the queue %s cannot be read" % path
            raise Refused("StoreError", "%s; install it, or name an interpreter that has it" % told) from error
        is_fixed = not os.access(os.path.dirname(path), os.W_OK)
        if is_fixed and os.path.exists(path + "-wal") and os.path.getsize(path + "-wal"):
            told = "cannot use %s: its disk can only be read, and what was written last is beside it" % path
            raise Refused("StoreError", "%s; mount it for writing" % told)
        with translated_store(path):
            name = "file:%s?%s" % (quoted(path), "immutable=1" if is_fixed else "mode=rw")
            self._database = database = sqlite3.connect(name, timeout=1.0, isolation_level=None, uri=True)
            database.execute("PRAGMA locking_mode = EXCLUSIVE")
            database.execute("PRAGMA query_only = ON")
            (found,) = database.execute("PRAGMA user_version").fetchone()
        if found > STORE_FORMAT:
            told = "record %s has format %d, but this version of ports reads formats up to %d; " % (
                path,
                found,
                STORE_FORMAT,
            )
            parts = [path, found, STORE_FORMAT]
            raise Refused("NewerRecordError", told + "upgrade ports with `pip install --upgrade ports`", parts)
        if not found:  # a resource was killed while it made it
            self._database = self._database.close()

    def close(self) -> None:
        """Let go of the store."""
        if self._database is not None:
            self._database.close()
            self._database = None

    def _take(self, left: "Any") -> None:
        """Take into account one file that was left, unless the store has it."""
        if left.broken is not None:
            told = "a submission cannot be read: %s; the next resource puts %s aside"
            self.notices.append(told % (left.broken, left.path))
        elif left.number and self._stored(left.number) is None:
            self._left[left.number] = left_row(left)
        elif not left.number:
            for id in left.header["ids"]:
                try:
                    number, item = split_id(id)
                except Refused:
                    continue
                reason = left.header.get("reason")
                why = reason if isinstance(reason, str) and reason else REASON
                self._cancelled.setdefault(number, {}).setdefault(item, (float(left.header["at"]), why))

    def _rows(self, statement: str, values: "Iterable[Any]" = ()) -> "List[Any]":
        """Return rows of the store, whose columns are known by their names: other versions have more of them."""
        if self._database is None:
            return []
        with translated_store(os.path.join(self.root, "store.sqlite")):
            found = self._database.execute(statement, list(values))
            names = [column[0] for column in found.description]
            return [StoredRow(**dict(zip(names, row))) for row in found]

    def _stored(self, number: int) -> "Any":
        return next(iter(self._rows("SELECT * FROM submissions WHERE number = ?", [number])), None)

    # --- what clients ask ---

    def list(self, header: "Json") -> "Json":
        """Return the newest rows, and how many jobs are in each state."""
        newest, filters = newest_of(header), filters_of(header.get("filters"))
        changed = set(self._cancelled) | set(self._ended)
        limit, found = newest + len(changed), {}  # type: int, Dict[int, Any]
        for where, values in newest_queries(limit, filters, self.highest(), self._has_commands()):
            found = {row.number: row for row in self._rows("SELECT * " + where, values)}
            if len(found) == limit:
                break
        for number in changed:  # whose state is another one than in the store
            row = self._stored(number)
            if row is not None:
                found[number] = row
        found.update(self._left)
        rows = [(number, self._shown(found[number])) for number in sorted(found, reverse=True)]
        shown = [row for number, row in rows if matches(number, row, filters)]
        told = {"rows": shown[:newest], "counts": self.counts(), "notices": self.notices, "at_rest": True}
        return dict(told, tally=self._tally(filters, changed)) if header.get("tally") else told

    def _has_commands(self) -> bool:
        """Tell whether the store has the commands of scripts apart: one that no newer resource opened has not."""
        return any(row.name == "command" for row in self._rows("PRAGMA table_info(submissions)"))

    def _tally(self, filters: "Json", changed: "Iterable[int]") -> "Json":
        """Return how many submissions that match are in each state."""
        has_commands = self._has_commands()
        where, values = tally_query(filters, has_commands)
        tally = dict.fromkeys(STATES, 0)
        tally.update({row.state: row.n for row in self._rows("SELECT state, count(*) AS n " + where, values)})
        text = filters.get("search", "")
        for number in changed:
            row = self._stored(number)
            if row is None or number in self._left:
                continue
            known = submission_row(row)
            if not has_commands:
                known.pop("command", None)
            if is_found(text, known):
                tally[row.state] -= 1
                tally[self._shown(row)["state"]] += 1
        for row in self._left.values():
            shown = self._shown(row)
            tally[shown["state"]] += is_found(text, shown)
        return tally

    def counts(self) -> "Json":
        """Return how many jobs are in each state."""
        counts = dict.fromkeys(STATES, 0)
        counts.update({row.state: row.n for row in self._rows("SELECT state, n FROM counts")})
        for row in self._left.values():
            counts[PENDING] += row.n_pending
        for number in self._cancelled:
            row = self._left.get(number) or self._stored(number)
            if row is not None:
                n = self._n_withdrawn(row)
                counts[PENDING] -= n
                counts[CANCELLED] += n
        for told in self._ended.values():
            if "state" in told:
                counts[RUNNING] -= 1
                counts[told["state"]] += 1
        return counts

    def show(self, header: "Json") -> "Json":
        """Return everything that is known of a job or a map."""
        number, item = split_id(header.get("id"))
        row = self._row(number, item)
        if item is None and row.count is not None:
            shown = self._shown(row)
            found = self._rows(
                "SELECT job FROM jobs WHERE job BETWEEN ? AND ? AND state IN (?, ?, ?) LIMIT 20",
                [pack(number, 0), pack(number + 1, 0) - 1, ERROR, CANCELLED, LOST],
            )
            shown["failed"] = [id_text(*unpack(one.job)) for one in found]
        else:
            shown = self._job_row(row, item)
            job = pack(number, item or 0)
            found = self._rows("SELECT * FROM transitions WHERE job = ? ORDER BY serial", [job])
            names = ("attempt", "state", "at", "host", "reason", "peak_memory", "cpu_time")
            steps = [[getattr(one, name) for name in names] for one in found]
            if shown["state"] == CANCELLED and self._cancel_of(row, item) is not None:
                steps.append([shown["attempt"], CANCELLED, shown["ended_at"], None, shown["reason"], None, None])
            shown["transitions"] = transition_rows(steps, row.created)
            end = self._end_of(number, self._job(row, item))
            if end is not None:
                shown["result_bytes"] = end.n_bytes
                if end.error is not None:
                    shown["error"] = json.loads(end.error)
        shown["asked"] = asked_of(json.loads(row.spec))
        notice = read_note(os.path.join(self.root, "notices", str(number))) if shown["asked"].get("notify") else None
        if notice is not None:
            shown["notice"] = notice
        return {"row": shown}

    def status(self) -> "Json":
        """Return what the queue has."""
        facts = {row.name: row.value for row in self._rows("SELECT name, value FROM facts")}
        running = self._rows("SELECT job FROM jobs WHERE state = 'running' LIMIT 20")
        told = {"counts": self.counts(), "draining": bool(facts.get("draining")), "notices": self.notices}  # type: Json
        told.update(queues=[], slots=[], running=[], wanted_slots=0, at_rest=True, n_left=len(self._left))
        told["has_store"] = self._database is not None
        ended = {str(number) for number, one in self._ended.items() if "state" in one}
        told["running_scripts"] = [id for id in (self._id_of(one.job) for one in running) if id not in ended]
        return told

    def result(self, header: "Json") -> "Tuple[Json, List[bytes], bool]":
        """Return what is known of a result: header, blobs, and whether nothing more will come of it."""
        number, item = split_id(header.get("id"))
        row = self._row(number, item)
        if item is None and row.count is not None:
            return self._results(row, header.get("from", 0))
        shown, job = self._job_row(row, item), self._job(row, item)
        told = {"state": shown["state"], "attempt": shown["attempt"]}  # type: Json
        told.update({name: shown[name] for name in ("reason", "note") if name in shown})
        end = self._end_of(number, job)
        if end is None:
            is_over = shown["state"] in ENDED
            return (told if is_over else {"state": shown["state"]}), [b""] if is_over else [], is_over
        if end.error is not None:
            told["error"] = json.loads(end.error)
        return told, [self._blob(number, item, end)], True

    def _results(self, row: "Any", start: object) -> "Tuple[Json, List[bytes], bool]":
        """Return the results of a map from a place on: those that ended, then those whose jobs were cancelled here."""
        if not is_number(start, 0, 2**20):
            raise Refused("UsageError", "from: %s is no whole number" % short(start))
        assert isinstance(start, int)
        first = pack(row.number, 0)
        ends = self._rows(
            "SELECT * FROM ends WHERE end BETWEEN ? AND ? ORDER BY end LIMIT ?",
            [first + start, first + pack(1, 0) - 1, MOST_RESULTS],
        )
        told = {"indices": [], "states": [], "errors": [], "next": start}  # type: Json
        blobs, n_bytes = [], 0  # type: List[bytes], int
        for end in ends:
            if blobs and n_bytes + end.n_bytes > MOST_RESULT_BYTES:
                break
            blobs.append(self._blob(row.number, end.item, end))
            n_bytes += end.n_bytes
            told["indices"].append(end.item)
            told["states"].append(end.state)
            told["errors"].append(json.loads(end.error) if end.error is not None else None)
        n_ended = sum(n for state, n in zip(STATES, row.counts) if state in ENDED)
        if start + len(blobs) >= n_ended:
            items = self._withdrawn(row)[max(0, start - n_ended) :][:MOST_RESULTS]
            told["indices"] += items
            told["states"] += [CANCELLED] * len(items)
            told["errors"] += [None] * len(items)
            blobs += [b""] * len(items)
        told["next"] = start + len(blobs)
        is_over = told["next"] >= (row.count or 1)
        return dict(told, has_ended=is_over), blobs, is_over

    def watch(self, header: "Json") -> "Json":
        """Return what can change of some jobs; `more` where one has not ended."""
        ids = header.get("ids")
        if not isinstance(ids, list) or not ids:
            raise Refused("UsageError", "ids: %s is no list of ids" % short(ids))
        rows = [watched_row(self.show({"id": id})["row"]) for id in ids]
        return {"rows": rows} if all(row["state"] in ENDED for row in rows) else {"rows": rows, "more": True}

    # --- what clients change ---

    def cancel(self, header: "Json") -> "Json":
        """Leave it to the next resource to cancel jobs, and return which are cancelled from now on."""
        ids = header.get("ids")
        if not isinstance(ids, list) or not ids or len(ids) > 10**5:
            raise Refused("UsageError", "ids: %s is no list of ids" % short(ids))
        reason = header.get("reason")
        if reason is not None and not (is_text(reason) and len(reason) <= 1000 and reason.isprintable()):
            raise Refused("UsageError", "reason: %s is no text of up to 1000 characters" % short(reason))
        told = {"cancelled": [], "ending": [], "ended_already": [], "n_cancelled": 0}  # type: Json
        wanted = []
        for number, item in dict.fromkeys(split_id(id) for id in ids):
            row = self._row(number, item)
            n = len(self._pending(row)) if item is None and row.count is not None else 0
            running = self._running(row, item)
            if item is not None or row.count is None:
                n = int(self._job_row(row, item)["state"] == PENDING)
            id = id_text(number, item)
            told["ending"] += running
            told["n_cancelled"] += n
            if n:
                told["cancelled"].append(id)
            elif not running:
                told["ended_already"].append(id)
            if n or running:
                wanted.append(id)
        if wanted:
            told["left"] = {"op": "cancel", "ids": wanted, "reason": reason or REASON}
        return told

    def known(self, key: str) -> "Optional[Tuple[int, Optional[int]]]":
        """Return id and count of the submission that the store has under a client's key."""
        try:
            found = self._rows("SELECT number, count FROM submissions WHERE key = ?", [key])
        except Refused:  # a damaged store keeps nobody from submitting
            return None
        return (found[0].number, found[0].count) if found else None

    def highest(self) -> int:
        """Return the highest id that was given, as far as the store and what was left know; 0 where there is none."""
        try:
            found = self._rows("SELECT max(number) AS value FROM submissions")
            found += self._rows("SELECT value FROM facts WHERE name = 'last'")
        except Refused:  # a damaged store keeps nobody from submitting
            found = []
        return max([0, self._last_left] + [row.value for row in found if isinstance(row.value, int)])

    def again(self, header: "Json") -> "Tuple[Json, Optional[int], List[bytes]]":
        """Return submission, count and blobs that run again what a job or a map was."""
        number, item = split_id(header.get("id"))
        row = self._row(number, item)
        spec = again_of(json.loads(row.spec), item)
        count = row.count if item is None else None
        if number in self._left:
            left = next(one for one in read_left(self.root) if one.number == number)
            blobs = list(left.blobs)
            return spec, count, blobs if item is None else [blobs[0], blobs[1 + item]]
        blobs = [self._object(row.digest)]
        for one in range(row.count or 1) if item is None else [item]:
            kept = self._rows("SELECT digest, blob FROM arguments WHERE job = ?", [pack(number, one)])
            if kept:
                blobs.append(bytes(kept[0].blob) if kept[0].blob is not None else self._object(kept[0].digest))
            elif row.kind != "script":
                blobs.append(b"")
        return spec, count, blobs

    def keep_needs(self, header: "Json", key: str) -> None:
        """Let the files that a job needs stay for what runs it again, a submission `key`, until both are removed."""
        row = self._row(*split_id(header.get("id")))
        folder = os.path.join(self.root, "workspaces")
        try:
            os.link(os.path.join(folder, row.key), os.path.join(folder, key))
        except (OSError, TypeError):  # it needs none
            pass

    # --- rows ---

    def _row(self, number: int, item: "Optional[int]") -> "Any":
        """Return the submission of an id; raises Refused."""
        row = self._left.get(number) or self._stored(number)
        if row is None or (item is not None and (row.count is None or item >= row.count)):
            raise no_job(id_text(number, item))
        return row

    def _job(self, row: "Any", item: "Optional[int]") -> "Any":
        return next(iter(self._rows("SELECT * FROM jobs WHERE job = ?", [pack(row.number, item or 0)])), None)

    def _id_of(self, job: int) -> str:
        number, item = unpack(job)
        row = self._stored(number)
        return id_text(number, item if row is not None and row.count is not None else None)

    def _shown(self, row: "Any") -> "Json":
        """Return the row of a submission, as it is once the next resource has done what was left for it."""
        if row.count is None:
            return self._job_row(row, None)
        shown = submission_row(row)
        n = self._n_withdrawn(row)
        if n:
            counts = dict(shown["counts"])
            counts[PENDING] -= n
            counts[CANCELLED] = counts.get(CANCELLED, 0) + n
            shown["counts"] = {state: n for state, n in counts.items() if n}
            shown["state"] = state_of(counts)
            if shown["state"] in ENDED:
                shown["ended_at"], shown["reason"] = self._cancelled[row.number].get(None) or (time.time(), REASON)
        elif shown["state"] == PENDING:
            shown["why"] = NO_RESOURCE
        return shown

    def _job_row(self, row: "Any", item: "Optional[int]") -> "Json":
        shown = job_row(row, item, self._job(row, item))
        asked = self._cancel_of(row, item)
        if shown["state"] == PENDING:
            if asked is None:
                shown["why"] = NO_RESOURCE
            else:
                shown.update(state=CANCELLED, ended_at=asked[0], reason=asked[1])
                shown.pop("slot", None)
        elif shown["state"] == RUNNING:
            if asked is not None:
                shown["ending"] = "cancel"
            if row.number in self._ended:
                shown.update(self._ended[row.number])
            elif row.count is None:
                said = read_note(os.path.join(self._work(row.number), "progress.json"), shown["attempt"])
                if said is not None and "done" in said:
                    shown["progress"] = {"done": said["done"], "total": said.get("total")}
        if row.count is None and item is None:
            shown["counts"] = {shown["state"]: 1}
        return shown

    def _cancel_of(self, row: "Any", item: "Optional[int]") -> "Optional[Tuple[float, str]]":
        asked = self._cancelled.get(row.number)
        return (asked.get(item) or asked.get(None)) if asked else None

    def _pending(self, row: "Any") -> "List[int]":
        """Return the items of a submission that wait, and were not cancelled."""
        bounds = [pack(row.number, 0), pack(row.number + 1, 0) - 1]
        others = self._rows("SELECT job FROM jobs WHERE job BETWEEN ? AND ? AND state != 'pending'", bounds)
        begun = {unpack(one.job)[1] for one in others}
        asked = self._cancelled.get(row.number) or {}
        if None in asked:
            return []
        return [item for item in range(row.count or 1) if item not in begun and item not in asked]

    def _withdrawn(self, row: "Any") -> "List[int]":
        """Return the items that wait in the store, and were cancelled since."""
        asked = self._cancelled.get(row.number)
        if not asked or not row.n_pending:
            return []
        bounds = [pack(row.number, 0), pack(row.number + 1, 0) - 1]
        others = self._rows("SELECT job FROM jobs WHERE job BETWEEN ? AND ? AND state != 'pending'", bounds)
        begun = {unpack(one.job)[1] for one in others}
        every = range(row.count or 1) if None in asked else sorted(item for item in asked if item is not None)
        return [item for item in every if item not in begun and item < (row.count or 1)]

    def _n_withdrawn(self, row: "Any") -> int:
        asked = self._cancelled.get(row.number)
        return row.n_pending if asked and None in asked else len(self._withdrawn(row))

    def _running(self, row: "Any", item: "Optional[int]") -> "List[str]":
        """Return the ids of the jobs of a submission that ran when the last resource ended."""
        if item is not None or row.count is None:
            shown = self._job_row(row, item)
            return [shown["id"]] if shown["state"] == RUNNING else []
        bounds = [pack(row.number, 0), pack(row.number + 1, 0) - 1]
        found = self._rows("SELECT job FROM jobs WHERE job BETWEEN ? AND ? AND state = 'running'", bounds)
        return [id_text(*unpack(one.job)) for one in found]

    # --- blobs ---

    def _end_of(self, number: int, job: "Any") -> "Any":
        if job is None or job.place is None or job.state not in ENDED:
            return None
        found = self._rows("SELECT * FROM ends WHERE end = ?", [pack(number, job.place)])
        return found[0] if found else None

    def _blob(self, number: int, item: "Optional[int]", end: "Any") -> bytes:
        if end.blob is not None or not end.n_bytes:
            return bytes(end.blob or b"")
        path = os.path.join(data_of(self.root), "results", id_text(number, item))
        return read_kept(path, end.n_bytes)

    def _object(self, digest: str) -> bytes:
        found = self._rows("SELECT n_bytes, blob FROM objects WHERE digest = ?", [digest])
        if found and found[0].blob is not None:
            return bytes(found[0].blob)
        return read_kept(os.path.join(data_of(self.root), "objects", digest), found[0].n_bytes if found else None)


def quoted(path: str) -> str:
    """Return a path as the URI of SQLite has it."""
    return "".join("%%%02x" % byte if byte in b"%?#" else chr(byte) for byte in os.fsencode(path))


class translated_store:
    """Raise Refused for what SQLite raises."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __enter__(self) -> None:
        """Begin."""

    def __exit__(self, kind: "Any", error: "Any", trace: "Any") -> None:
        """Translate."""
        if error is None or type(error).__module__ != "sqlite3":
            return
        text = str(error)
        if any(word in text for word in NOT_A_STORE):
            way = "`ports resource start` keeps it aside, and goes on with what can be read of it"
            raise Refused("BrokenRecordError", "the queue %s is damaged: %s; %s" % (self.path, text, way)) from error
        if "locked" in text or "busy" in text:
            told = "the queue %s is open in another process; try again when that has ended" % self.path
            raise Busy("ConflictError", told) from error
        raise Refused("StoreError", "cannot use %s: %s; look at that disk" % (self.path, text)) from error


def read_kept(path: str, n_bytes: "Optional[int]") -> bytes:
    """Return a file of which the store says how large it is; raises Refused."""
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise Refused("BrokenRecordError", "cannot read %s: %s" % (path, error.strerror or error)) from error
    if n_bytes is not None and len(data) != n_bytes:
        raise Refused("BrokenRecordError", "%s has %d bytes, and had %d" % (path, len(data), n_bytes))
    return data


def left_row(left: "Any") -> "Any":
    """Return a submission that was left as the row that the store will have; what is wrong with it is not judged."""
    header = left.header
    spec = header.get("submission") if isinstance(header.get("submission"), dict) else {}
    count = header.get("count") if is_number(header.get("count"), 1, 2**20 - 1) else None
    at = header.get("at")
    known = {"number": left.number, "key": header.get("key"), "count": count, "state": PENDING}
    row = StoredRow(spec=json.dumps(spec), **known)  # type: Any
    for name, usual in (("kind", "function"), ("name", ""), ("queue", "default"), ("priority", 0)):
        value = spec.get(name, usual)
        setattr(row, name, value if isinstance(value, type(usual)) else usual)
    row.created = float(at) if isinstance(at, (int, float)) else time.time()
    for state in STATES:
        setattr(row, "n_" + state, 0)
    row.n_pending = count or 1
    return row


def matches(number: int, row: "Json", filters: "Json") -> bool:
    """Tell whether a row is one that ``list`` asks for."""
    states = states_of(filters)
    if states is not None and row.get("state") not in states:
        return False
    for name in ("name", "queue"):
        if filters.get(name) is not None and row.get(name) != filters[name]:
            return False
    if not is_found(filters.get("search", ""), row):
        return False
    if filters.get("before") is not None and number >= filters["before"]:
        return False
    if filters.get("tag") is not None:
        name, has_value, value = filters["tag"].partition("=")
        tags = row["tags"] if isinstance(row["tags"], dict) else {}
        return name in tags and (not has_value or tags[name] == value)
    return True


def look(root: str, runtime: str, question: "Any", is_lenient: bool = False) -> "Any":
    """Return what `question` says of the queue, which it gets as a `QueueAtRest`.

    Parameters
    ----------
    root, runtime : str
        The directory of jobs, and that of the lock.
    is_lenient : bool
        A store that cannot be read is taken for an empty one.

    Raises Refused: the queue is another machine's, cannot be read, or (Busy) is open in another process.
    """
    try:
        owner = read_record(os.path.join(root, "owner.json"))
    except ValueError:  # half a record of a disk that was full
        owner = None
    conflict = owner_conflict(owner, node(), boot_id(), root)
    if conflict is not None:
        raise Refused("ConflictError", conflict)
    queue = QueueAtRest(root)
    if not (is_lenient or os.path.isdir(root)):
        return question(queue)  # nothing was ever submitted here, and who looks makes no files
    try:
        lock = lock_queue(runtime, LOCK_SECONDS)
    except OSError as error:
        raise disk_refuses(runtime, error) from error
    try:
        try:
            queue.open()
        except Refused as refused:
            if not is_lenient or isinstance(refused, Busy):
                raise
            queue.close()
        return question(queue)
    finally:
        queue.close()
        os.close(lock)


def answered(header: "Json", blobs: "Sequence[bytes]", looked: "Any") -> "Tuple[Json, Sequence[bytes], bool]":
    """Answer a request as a resource does: header, blobs, and whether that is all; raises Refused.

    `looked` is `look` of a queue: it takes a question, and whether a store that cannot be read is an empty one.
    """
    op = header.get("op")
    if op == "result":
        told, results, is_over = looked(lambda queue: queue.result(header), False)
        return told, results, is_over
    questions = {
        "list": lambda queue: queue.list(header),
        "show": lambda queue: queue.show(header),
        "status": lambda queue: queue.status(),
        "watch": lambda queue: queue.watch(header),
        "cancel": lambda queue: cancelled(queue, header),
        "rerun": lambda queue: submitted(queue, header, blobs),
        "submit": lambda queue: submitted(queue, header, blobs),
    }  # type: Dict[str, Any]
    question = questions.get(op) if isinstance(op, str) else None
    if question is None:
        hint = "%s needs one; %s" % (short(op), STARTS)
        raise Refused("NotFoundError", "no resource 'jobs'; %s" % hint, ["resource", "jobs", hint])
    told = looked(question, op == "submit")
    return told, (), not told.get("more")


def cancelled(queue: QueueAtRest, header: "Json") -> "Json":
    """Leave a request to cancel jobs; raises Refused."""
    told = queue.cancel(header)
    left = told.pop("left", None)
    if left is not None:
        try:
            make_queue(queue.root)
            leave_request(queue.root, new_key(), left)
        except OSError as error:
            raise disk_refuses(os.path.join(queue.root, "submissions"), error) from error
    return dict(told, at_rest=True)


def submitted(queue: QueueAtRest, header: "Json", blobs: "Sequence[bytes]") -> "Json":
    """Leave a submission, new or of what another one was, and return its id; raises Refused."""
    is_again = header["op"] == "rerun"
    key = new_key() if is_again and header.get("key") is None else check_key(header.get("key"))
    known = queue.known(key)
    if known is not None:
        return {"id": str(known[0]), "count": known[1], "known": True, "at_rest": True}
    if is_again:
        spec, count, blobs = queue.again(header)
    else:
        spec, count = header.get("submission") or {}, header.get("count")
        if not isinstance(spec, dict) or not blobs:
            raise Refused("UsageError", "submission: %s is no object with blobs" % short(spec))
    try:
        make_queue(queue.root)
        if is_again:
            queue.keep_needs(header, key)
        number = leave_submission(queue.root, key, spec, blobs, count, above=queue.highest())
    except OSError as error:
        raise disk_refuses(os.path.join(queue.root, "submissions"), error) from error
    return {"id": str(number), "count": count, "known": False, "at_rest": True}


def new_key() -> str:
    """Return a key that nobody has."""
    return os.urandom(16).hex()
