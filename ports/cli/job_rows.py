"""Rows of jobs → what people read: a row of the list, the lines of one job, a sentence. Pure: no clock, no disk."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from ports.errors import harmless
from ports.probe import duration, size

#: The columns of ``ports job list --csv``, which are keys of its rows in ``--json``.
CSV = (
    "id", "name", "state", "what", "queue", "priority", "count", "counts", "tags", "created_at", "began_at", "ended_at",
    "attempt", "peak_memory", "cpu_time", "reason", "why", "host", "size_bytes", "exit_code",
)  # fmt: skip
_MOST_NAMED = 10
_ENDED = ("finished", "error", "cancelled", "lost")
_ORDER = ("running", "pending", "finished", "error", "cancelled", "lost")


def row(found: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return the row of a job in the list."""
    return {
        "id": found["id"],
        "name": found.get("name"),
        "state": found["state"],
        "queue": "" if found.get("queue") == "default" else found.get("queue"),
        "age": duration(now - found["created_at"]) if found.get("created_at") else "",
        "ran": _ran(found, now),
        "peak": size(found.get("peak_memory")),
        "size": size(size_of(found)),
        "reason": "; ".join(filter(None, [_of_map(found), progress(found), _reason(found)])),
    }


def size_of(found: Mapping[str, Any]) -> int | None:
    """Return the bytes on the disk of what a job keeps: its output and its files; None if that is not known."""
    kept = (found.get("note") or {}).get("size")
    return kept if isinstance(kept, int) else None


def _ran(found: Mapping[str, Any], now: float) -> str:
    began, ended = found.get("began_at"), found.get("ended_at")
    if began is None:
        return ""
    return duration((ended if ended is not None and found["state"] in _ENDED else now) - began)


def progress(found: Mapping[str, Any]) -> str:
    """Return how far a job says it is, or was when it failed: ``37 of 100``; empty where it says nothing."""
    said = found.get("progress") or (found.get("note") or {}).get("progress")
    if not said:
        return ""
    return f"{said['done']:g}" + (f" of {said['total']:g}" if said.get("total") is not None else "")


def _of_map(found: Mapping[str, Any]) -> str:
    return f"{found['count']} jobs: {counts(found.get('counts') or {})}" if found.get("count") is not None else ""


def counts(found: Mapping[str, int]) -> str:
    """Return how many jobs are in each state: ``3 running, 12 pending, 985 finished``."""
    return ", ".join(f"{found[state]} {state}" for state in _ORDER if found.get(state)) or "none"


def details(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return what `show` says of a job, without its transitions; values that are not known are left out."""
    asked, note = found.get("asked") or {}, found.get("note") or {}
    script = asked.get("script") or {}
    workspace = found.get("workspace") or script.get("workspace") or {}
    told: dict[str, Any] = {
        "job": found.get("id") or "not submitted",
        "name": found.get("name"),
        "state": found["state"],
        "reason": _reason(found) or None,
        "jobs": counts(found["counts"]) if found.get("count") is not None else None,
        "runs": shlex.join(script["argv"]) if script.get("argv") else found.get("what"),
        "directory": asked.get("directory"),
        "environment": "of the login shell there" if script.get("login") else None,
        "copy": copied(workspace) if workspace else None,
        "largest": _largest(workspace.get("largest") or ()),
        "behind": "; ".join(left_behind(workspace)).removeprefix("stays behind: ") if workspace else None,
        "output": ", ".join(workspace.get("out") or ()),
        **_recorded(script, workspace),
        "needs": _needs(asked.get("needs"), bool(script.get("whole"))),
        "queue": found.get("queue") if found.get("queue") != "default" else None,
        "priority": found.get("priority") or None,
        "time limit": duration(asked["timeout"]) if asked.get("timeout") else None,
        "after": ", ".join(map(str, asked.get("after") or ())),
        "tags": ", ".join(f"{name}={value}" for name, value in (found.get("tags") or {}).items()),
        "submitted": _moment(found.get("created_at")),
        "not before": _moment(asked.get("at")),
        "began": _moment(found.get("began_at")),
        "ended": _moment(found.get("ended_at")),
        "attempt": found.get("attempt") or None,
        "progress": progress(found),
        "ended by": _ending(note),
        "peak memory": size(found.get("peak_memory")),
        "cpu time": f"{found['cpu_time']:.1f} s" if found.get("cpu_time") is not None else None,
        "size": size(size_of(found)),
        "output lost": _lost(note.get("dropped") or {}),
        **_beside(asked, found),
        **(found.get("files") or {}),
    }
    return {name: value for name, value in told.items() if value not in (None, "")}


def copied(workspace: Mapping[str, Any]) -> str:
    """Return how much a copy has, and how much of it is new."""
    n_files = workspace["n_files"]
    n_new = workspace.get("n_new_bytes")  # of what was sent, with the names of files: can be more than all files have
    new = "" if n_new is None else f", {size(min(n_new, workspace['n_bytes']))} of it new"
    return f"{n_files:,} {'file' if n_files == 1 else 'files'}, {size(workspace['n_bytes'])}{new}"


def left_behind(workspace: Mapping[str, Any]) -> list[str]:
    """Return in sentences what a copy does not have."""
    left, links = workspace.get("left") or (), workspace.get("links_outside") or ()
    more = max(int(workspace.get("n_left") or 0), len(left)) - _MOST_NAMED
    named = [
        f"{one['path']} ({'' if one['is_all'] else 'more than '}{size(one['n_bytes'])}, {one['why']})"
        for one in left[:_MOST_NAMED]
    ]
    lines = [f"stays behind: {', '.join(named)}" + (f" and {more} more" if more > 0 else "")] if named else []
    return [*lines, *([f"leads nowhere in the copy: {', '.join(links[:_MOST_NAMED])}"] if links else [])]


def _largest(found: Sequence[Mapping[str, Any]]) -> str:
    return ", ".join(f"{one['path']} ({size(one['n_bytes'])})" for one in found)


def _commit(workspace: Mapping[str, Any]) -> str | None:
    if not workspace.get("commit"):
        return None
    return f"{workspace['commit']}{', and changes that were not committed' if workspace.get('dirty') else ''}"


def _recorded(script: Mapping[str, Any], workspace: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a submission records of its source and its Python."""
    return {
        "commit": _commit(workspace or script),
        "python": script.get("python") or workspace.get("python"),
        "packages": _packages(script.get("packages") or {}),
        "setup": (script.get("setup") or {}).get("command"),
    }


def _packages(found: Mapping[str, str | None]) -> str:
    return ", ".join(f"{name} {'missing' if version is None else version}".strip() for name, version in found.items())


def fetched(found: Mapping[str, Any]) -> str:
    """Return in a sentence what was fetched, to which directory of this machine."""
    n_files, n_same = found["n_files"], found["n_same"]
    known = f"; {n_same:,} {'was' if n_same == 1 else 'were'} there already" if n_same else ""
    n_changed, left_out = found.get("n_changed") or 0, found.get("left_out") or ()
    if n_changed:
        known += f"; {n_changed:,} changed meanwhile and {'was' if n_changed == 1 else 'were'} left out: fetch again"
    if left_out:
        known += f"; left out, because they lead out of the directory: {', '.join(left_out[:_MOST_NAMED])}"
    if not (n_files or n_same or n_changed or left_out):
        return f"job {found['id']} has no output"
    files = f"{n_files:,} {'file' if n_files == 1 else 'files'} ({size(found['n_bytes'])})"
    return f"{files} in {found['directory']}{known}"


def history(found: Mapping[str, Any]) -> list[str]:
    """Return a line for each transition of a job: when, to which state, in which attempt, and why."""
    lines = []
    for one in found.get("transitions") or ():
        parts = [_moment(one.get("at")) or "", f"{one['state']:9}"]
        parts += [f"attempt {one['attempt']}"] if one.get("attempt") else []
        parts += [f"on {one['host']}"] if one.get("host") else []
        parts += [str(one["reason"])] if one.get("reason") else []
        lines.append(harmless("  ".join(parts).rstrip(), lines=False))
    return ["", *lines] if lines else []


def _reason(found: Mapping[str, Any]) -> str:
    """Return what a job waits for now, if it waits and that is known; else how its last attempt ended."""
    first, second = ("why", "reason") if found["state"] == "pending" else ("reason", "why")
    return str(found.get(first) or found.get(second) or "")


def sentence(found: Mapping[str, Any]) -> str:
    """Return in a sentence why a job is in its state, and what can be done."""
    id, state, reason = found["id"], found["state"], _reason(found)
    of_map = f" ({counts(found.get('counts') or {})})" if found.get("count") is not None else ""
    begin = f"job {id} is {state}{of_map}" if state != "error" else f"job {id} failed{of_map}"
    if reason:
        begin += f": {harmless(str(reason), lines=False)}"
    elif state == "pending":
        begin += ": it waits for its turn"
    if state in ("error", "lost"):
        verb = "logs" if found.get("count") is None else "show"
        return f"{begin}; `ports job {verb} {id}` shows more, `ports job rerun {id}` runs it again"
    return begin


def exit_code(found: Mapping[str, Any]) -> int | None:
    """Return the exit code of a script as a shell says it; None if it has none."""
    note = found.get("note") or {}
    if isinstance(note.get("signal"), int):
        return 128 + int(note["signal"])
    return int(note["status"]) if isinstance(note.get("status"), int) else None


def document(found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a job for programs."""
    return {**found, "size_bytes": size_of(found), "exit_code": exit_code(found)}


def cell(value: Any) -> Any:
    """Return a value for a line of comma-separated values."""
    if isinstance(value, Mapping):
        value = " ".join(f"{name}={one}" for name, one in value.items())
    if isinstance(value, Sequence) and not isinstance(value, str):
        value = " ".join(map(str, value))
    if isinstance(value, str):
        return harmless(value, lines=False)
    return "" if value is None else value


def _needs(needs: Mapping[str, Any] | None, whole: bool) -> str:
    from ports.jobs import as_asked

    found = needs or {}
    parts = ["all cpus of the resource" if whole else _many(found.get("cpus", 1), "cpu")]
    parts += [as_asked(int(found["memory"]))] if found.get("memory") else []
    parts += [_many(found["gpus"], "gpu")] if found.get("gpus") else []
    return ", ".join([*parts, *found.get("tags", ())])


def _many(number: float, noun: str) -> str:
    return f"{number:g} {noun}{'' if number == 1 else 's'}"


def _ending(note: Mapping[str, Any]) -> str | None:
    if note.get("signal") is not None:
        return f"signal {note['signal']}"
    return f"exit code {note['status']}" if note.get("status") is not None else None


def _lost(dropped: Mapping[str, Any]) -> str | None:
    return ", ".join(f"{size(n)} of {name}" for name, n in dropped.items() if n) or None


def _beside(asked: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, str | None]:
    """Return what happens around a job: the notice at its end, and what it listens on."""
    listens = "; ".join(_listens(one, found["id"]) for one in found.get("ports") or ())
    return {"notice": _notice(asked, found), "listens on": listens}


def _listens(one: Mapping[str, Any], id: str) -> str:
    """Return a port of a job with its link here, or how it is opened."""
    host = id.rpartition(":")[0]
    if one.get("local_url"):
        return f"port {one['port']}: {one['local_url']}"
    return f"port {one['port']} (`ports open {host}:{one['port']}` opens it)" if host else f"port {one['port']}"


def _notice(asked: Mapping[str, Any], found: Mapping[str, Any]) -> str | None:
    """Return what became of the notice at the end; None of a job without one."""
    if not asked.get("notify"):
        return None
    told = found.get("notice")
    if not told:
        return "at its end" if found["state"] not in _ENDED else "not sent yet"
    if told.get("failed"):
        return f"failed: {told['failed']}"
    return f"sent {_moment(told.get('at'))}"


def _moment(at: float | None) -> str | None:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else None
