"""The words of jobs: states, ids, rows as ``list`` and ``show`` have them, and what is refused. No clock, no disk."""

import json
import re

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Sequence, Tuple

    Json = Dict[str, Any]

PENDING, RUNNING, FINISHED, ERROR, CANCELLED, LOST = "pending", "running", "finished", "error", "cancelled", "lost"
STATES = (PENDING, RUNNING, FINISHED, ERROR, CANCELLED, LOST)
ENDED = (FINISHED, ERROR, CANCELLED, LOST)
# Of a map whose jobs have ended: its state is the first of these that one of its jobs has.
WORST_FIRST = (RUNNING, PENDING, LOST, ERROR, CANCELLED, FINISHED)
ITEM_BITS = 20  # of an item's number within its submission
MOST_JOBS = 99999  # of one submission: a frame holds 100,000 blobs
MOST_ROWS, USUAL_ROWS = 1000, 50
JOB_ID = re.compile(r"([1-9][0-9]{0,11})(?:\.(0|[1-9][0-9]{0,5}))?\Z", re.ASCII)
SUBMISSION_KEY = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)
FILTERS = ("state", "name", "tag", "queue", "before")
EXIT_CODES = {
    "PortsError": 5,
    "UsageError": 2,
    "NotFoundError": 3,
    "ConflictError": 4,
    "StoreError": 5,
    "UnsafePathError": 4,
}
EXIT_CODES.update({"BrokenRecordError": 7, "NewerRecordError": 7})


class Refused(Exception):
    """A request that is refused: `kind` is the name of an error of `ports`, `parts` is what makes it."""

    def __init__(self, kind: str, text: str, parts: "Sequence[Any]" = ()) -> None:
        Exception.__init__(self, text)
        self.kind, self.text, self.parts = kind, text, list(parts)

    def told(self) -> "Json":
        """Return it as the header of an answer has it."""
        told = {"kind": self.kind, "text": self.text, "exit_code": EXIT_CODES[self.kind]}  # type: Json
        if self.parts:
            told["args"] = self.parts
        return told


class Busy(Refused):
    """Another process has the queue open, for a moment: a compute resource starts or ends, or somebody else looks."""


def no_job(id: object) -> Refused:
    """Return the error about a job that does not exist."""
    hint = "`ports job list` shows what there is"
    return Refused("NotFoundError", "no job %r; %s" % (str(id), hint), ["job", str(id), hint])


def short(value: object) -> str:
    """Return a value as an error names it."""
    plain = isinstance(value, (str, int, float)) or value is None
    text = ascii(value) if plain else type(value).__name__
    return text if len(text) < 60 else text[:56] + " \u2026"


def split_id(text: object) -> "Tuple[int, Optional[int]]":
    """Return number and item of an id: ``12``, or ``12.7`` of a map; raises Refused."""
    known = isinstance(text, (str, int)) and not isinstance(text, bool)
    found = JOB_ID.match(str(text)) if known else None
    if found is None:
        told = "%s is not the id of a job; an id is 12, or 12.7 for a job of a map" % short(text)
        raise Refused("UsageError", told)
    number, item = found.groups()
    return int(number), None if item is None else int(item)


def id_text(number: int, item: "Optional[int]") -> str:
    """Return an id as it is typed."""
    return str(number) if item is None else "%d.%d" % (number, item)


def pack(number: int, item: int) -> int:
    """Return the integer that is job `item` of submission `number` in the store."""
    return number << ITEM_BITS | item


def unpack(job: int) -> "Tuple[int, int]":
    """Return number and item of a packed job."""
    return job >> ITEM_BITS, job & (1 << ITEM_BITS) - 1


def state_of(counts: "Json") -> str:
    """Return the state of a submission whose jobs are in these states."""
    return next((state for state in WORST_FIRST if counts.get(state)), PENDING)


def submission_row(row: "Any") -> "Json":
    """Return the row of a job, or of the whole map with the `counts` of its jobs; `row` is what the store has."""
    spec = json.loads(row.spec)
    shown = {
        "kind": "job",
        "id": str(row.number),
        "name": row.name,
        "state": row.state,
        "what": row.kind,
        "queue": row.queue,
        "priority": row.priority,
        "count": row.count,
        "counts": {state: n for state, n in zip(STATES, row.counts) if n},
        "created_at": row.created,
        "began_at": row.began,
        "ended_at": row.ended,
        "tags": spec.get("tags", {}),
    }  # type: Json
    if row.reason:
        shown["reason"] = row.reason
    return shown


def job_row(submission: "Any", item: "Optional[int]", job: "Any") -> "Json":
    """Return the row of one job; `job` is None if nothing happened to it."""
    shown = submission_row(submission)
    shown.update(id=id_text(submission.number, item), state=PENDING, attempt=0, began_at=None, ended_at=None)
    if item is not None:
        del shown["count"], shown["counts"]
    shown.pop("reason", None)
    if job is not None:
        shown.update(state=job.state, attempt=job.attempt, began_at=job.began, ended_at=job.ended)
        for name in ("reason", "slot", "ending", "peak_memory", "cpu_time"):
            if getattr(job, name) is not None:
                shown[name] = getattr(job, name)
        for name, text in (("note", job.note), ("retried", job.used)):
            if text:
                shown[name] = json.loads(text)
    return shown


def transition_rows(found: "Sequence[Sequence[Any]]", created: float) -> "List[Json]":
    """Return the transitions of one job, the first of which is its submission."""
    names = ("attempt", "state", "at", "host", "reason", "peak_memory", "cpu_time")
    first = {"attempt": 0, "state": PENDING, "at": created}  # type: Json
    return [first] + [{name: value for name, value in zip(names, row) if value is not None} for row in found]


def asked_of(spec: "Json") -> "Json":
    """Return what was asked for, without what can be large or private: variables and their values are not shown."""
    hidden = ("environ", "cache", "inputs", "tags", "name")
    return {name: value for name, value in spec.items() if name not in hidden}


def watched_row(shown: "Json") -> "Json":
    """Return what ``watch`` says of a row."""
    kept = ("id", "state", "counts", "count", "attempt", "reason", "began_at", "ended_at", "created_at")
    return {name: shown[name] for name in kept if name in shown}


def again_of(spec: "Json", item: "Optional[int]") -> "Json":
    """Return the submission that runs again what `spec` was: all of it, or one job of a map."""
    data = {name: value for name, value in spec.items() if name not in ("at", "lifetime", "after")}
    if item is not None:
        inputs = dict(data.pop("inputs", {})).get(str(item))
        if inputs:
            data["inputs"] = {"0": inputs}
        if data.get("cache"):
            keys = data["cache"].get("keys") or []
            data["cache"] = dict(data["cache"], keys=[keys[item] if item < len(keys) else None])
    return data


def is_number(value: object, least: int, most: int) -> bool:
    """Tell whether a value of a header is a whole number in these limits."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def newest_of(header: "Json") -> int:
    """Return how many rows ``list`` asks for; raises Refused."""
    newest = header.get("newest", USUAL_ROWS)
    if not is_number(newest, 1, MOST_ROWS):
        raise Refused("UsageError", "newest: %s is no whole number from 1 to %d" % (short(newest), MOST_ROWS))
    return int(newest)


def filters_of(value: object) -> "Json":
    """Return by what ``list`` filters; raises Refused."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise Refused("UsageError", "filters: %s is no object" % short(value))
    for name, one in value.items():
        if name not in FILTERS:
            known = "state, name, tag, queue, before"
            raise Refused("UsageError", "filters: %s is unknown; known are %s" % (short(name), known))
        if one is not None and name != "before" and not is_text(one):
            raise Refused("UsageError", "filters.%s: %s is no text" % (name, short(one)))
    found = {name: one for name, one in value.items() if one is not None}
    if "state" in found and found["state"] not in STATES:
        raise Refused("UsageError", "filters.state: %s is none of %s" % (short(found["state"]), ", ".join(STATES)))
    if "before" in found:
        found["before"] = split_id(found["before"])[0]
    return found


def is_text(value: object) -> bool:
    """Tell whether a value is a text that can be written as UTF-8."""
    if not isinstance(value, str):
        return False
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def newest_query(limit: int, filters: "Json") -> "Tuple[str, List[Any]]":
    """Return the statement for the newest submissions that match, and its values."""
    wheres, values = ["1"], []  # type: List[str], List[Any]
    for column in ("state", "name", "queue"):
        if filters.get(column) is not None:
            wheres.append(column + " = ?")
            values.append(filters[column])
    if filters.get("before") is not None:
        wheres.append("number < ?")
        values.append(filters["before"])
    if filters.get("tag") is not None:
        name, has_value, value = filters["tag"].partition("=")
        wheres.append("number IN (SELECT number FROM tags WHERE name = ?%s)" % (" AND value = ?" if has_value else ""))
        values += [name, value] if has_value else [name]
    statement = "FROM submissions WHERE %s ORDER BY number DESC LIMIT ?" % " AND ".join(wheres)
    return statement, [*values, limit]
