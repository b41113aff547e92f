"""The words of jobs: states, ids, rows as ``list`` and ``show`` have them, and what is refused. No clock, no disk."""

import json
import re
import shlex

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
RECENT = 2000  # submissions in which is searched first
FOUND = "submissions_found"  # the index in which is searched
SUBMISSION_KEY = re.compile(r"[0-9a-f]{32}\Z", re.ASCII)
FILTERS = ("state", "name", "tag", "queue", "before", "search")
MOST_COMMAND, MOST_SEARCH = 1000, 200  # characters
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
    command = command_of(spec)
    if command is not None:
        shown["command"] = command
    if row.reason:
        shown["reason"] = row.reason
    return shown


def command_of(spec: "Json") -> "Optional[str]":
    """Return the command of a script as it is typed, or the lines that a shell runs; None of a function."""
    script = spec.get("script")
    argv = script.get("argv") if isinstance(script, dict) else None
    if not isinstance(argv, (list, tuple)) or not argv:
        return None
    words = [str(word) for word in argv]
    text = words[3] if words[1:3] == ["-e", "-c"] and len(words) == 4 else " ".join(map(shlex.quote, words))
    return text.encode("utf-8", "replace").decode()[:MOST_COMMAND]


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
            known = ", ".join(FILTERS)
            raise Refused("UsageError", "filters: %s is unknown; known are %s" % (short(name), known))
        is_several = name == "state" and isinstance(one, list) and one
        if one is not None and name != "before" and not (is_several or is_text(one)):
            raise Refused("UsageError", "filters.%s: %s is no text" % (name, short(one)))
    found = {name: one for name, one in value.items() if one is not None}
    for state in states_of(found) or ():
        if state not in STATES:
            raise Refused("UsageError", "filters.state: %s is none of %s" % (short(state), ", ".join(STATES)))
    if len(found.get("search", "")) > MOST_SEARCH:
        raise Refused("UsageError", "filters.search: it has more than %d characters" % MOST_SEARCH)
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


def states_of(filters: "Json") -> "Optional[Sequence[Any]]":
    """Return the states that a filter names, one or several; None if it names none."""
    found = filters.get("state")
    return found if found is None or isinstance(found, list) else [found]


def newest_queries(
    limit: int, filters: "Json", highest: int, has_commands: bool = True
) -> "List[Tuple[str, List[Any]]]":
    """Return statements for the newest submissions that match; the first that finds `limit` counts, or the last.

    What a search finds often is among the newest, and what is rare is looked for in the index.
    """
    top = min(highest, filters.get("before") or highest)
    some = [top - RECENT] if filters.get("search") and top > 2 * RECENT else []
    return [newest_query(limit, filters, has_commands, least) for least in [*some, None]]


def newest_query(
    limit: int, filters: "Json", has_commands: bool = True, least: "Optional[int]" = None
) -> "Tuple[str, List[Any]]":
    """Return the statement for the newest submissions that match, from the number `least` on, and its values.

    Numbers are found in an index first, and then the rows: a row has 700 bytes, and thousands of them may not match.
    """
    wheres, values = searched(filters, has_commands)
    states = states_of(filters)
    if states is not None:
        wheres.append("state IN (%s)" % ", ".join("?" * len(states)))
        values += states
    for column in ("name", "queue"):
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
    index = " INDEXED BY " + FOUND if has_commands and filters.get("search") and "queue" not in filters else ""
    if least is not None:
        wheres.append("number >= ?")
        values.append(least)
        index = ""
    found = "SELECT number FROM submissions%s WHERE %s" % (index, " AND ".join(wheres))
    order = "+number" if index else "number"
    statement = "FROM submissions WHERE number IN (%s ORDER BY %s DESC LIMIT ?) ORDER BY number DESC" % (found, order)
    return statement, [*values, limit]


def tally_query(filters: "Json", has_commands: bool = True) -> "Tuple[str, List[Any]]":
    """Return the statement that counts by their state the submissions that match, whatever their state, and values."""
    wheres, values = searched(filters, has_commands)
    index = " INDEXED BY " + FOUND if has_commands else ""
    return "FROM submissions%s WHERE %s GROUP BY state" % (index, " AND ".join(wheres)), values


def searched(filters: "Json", has_commands: bool) -> "Tuple[List[str], List[Any]]":
    """Return the conditions of a search: each of its words is in the name or the command, or is the id, or a tag."""
    wheres, values = ["1"], []  # type: List[str], List[Any]
    for word in filters.get("search", "").split():
        like = "%%%s%%" % re.sub(r"([\\%_])", r"\\\1", word)
        some = ["name LIKE ? ESCAPE '\\'"] + (["command LIKE ? ESCAPE '\\'"] if has_commands else [])
        values += [like] * len(some)
        if JOB_ID.match(word):
            some.append("number = ?")
            values.append(split_id(word)[0])
        if "=" in word:
            name, _, value = word.partition("=")
            some.append("number IN (SELECT number FROM tags WHERE name = ? AND value = ?)")
            values += [name, value]
        wheres.append("(%s)" % " OR ".join(some))
    return wheres, values


def is_found(text: str, row: "Json") -> bool:
    """Tell of a row what `searched` tells of the store's."""
    texts = [folded(row.get("name") or ""), folded(row.get("command") or "")]
    tags = row["tags"] if isinstance(row.get("tags"), dict) else {}
    number = str(row["id"]).partition(".")[0]
    return all(
        any(folded(word) in one for one in texts)
        or (JOB_ID.match(word) and word.partition(".")[0] == number)
        or ("=" in word and tags.get(word.partition("=")[0]) == word.partition("=")[2])
        for word in text.split()
    )


def folded(text: str) -> str:
    """Return a text in which letters of ASCII are small, as LIKE compares."""
    return text.encode("utf-8", "replace").lower().decode()
