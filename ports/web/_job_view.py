"""One job → what its page shows: why it is so, its attempts, its output, its files. Pure, as `_jobs_view`."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple
from urllib.parse import urlencode

from ports.errors import PortsError
from ports.probe import duration
from ports.web import _facts, _jobs_view
from ports.web._jobs_view import Id

_MOST_FILES, _MOST_ATTEMPTS, _MOST_ITEMS = 500, 50, 20


class Shown(NamedTuple):
    """What is known of one job: its row, why it is so, the last lines of its output, and its files."""

    row: Mapping[str, Any]
    why: str = ""
    lines: Sequence[Any] = ()
    streams: Mapping[str, int] = {}
    files: Sequence[Any] | None = None
    no_files: str = ""
    trouble: str = ""


def job(id: Id, shown: Shown, called: Mapping[str, str], now: float) -> dict[str, Any]:
    """Return what ``job.html`` shows."""
    row, state = shown.row, _jobs_view.state_of(shown.row)
    is_script = row.get("what") == "script"
    is_map = row.get("count") is not None
    return {
        "id": str(id),
        "href": id.href,
        "what": _jobs_view.what(row),
        "name": _jobs_view.other_name(row),
        "state": _facts.mark(state),
        "host": called.get(id.host, id.host),
        "list": f"{_jobs_view.JOBS}?{urlencode({'host': called.get(id.host, id.host)})}",
        "why": _facts.said(shown.why or _jobs_view.reason(row)),
        "trouble": _facts.said(shown.trouble),
        "facts": _job_facts(row, now),
        "attempts": _attempts(row),
        "items": _items(id, row) if is_map else [],
        "has_output": not is_map,
        "lines": [_line(one) for one in shown.lines],
        "streams": [
            {"name": name, "href": f"{id.href}/file?{urlencode({'stream': name})}", "size": _facts.short_size(n)}
            for name, n in shown.streams.items()
        ],
        "files": [_file(id, one) for one in (shown.files or ())[:_MOST_FILES]],
        "n_more_files": max(0, len(shown.files or ()) - _MOST_FILES),
        "no_files": _facts.said(shown.no_files),
        "fetch": f"ports job fetch {id.typed}" if shown.files else "",
        "rerun": f"ports job rerun {id.typed}",
        "can_cancel": state in ("running", "pending"),
        "cancel": _jobs_view.selected_href("cancel", [id]),
        "again": f"{_jobs_view.JOBS}/new?{urlencode({'from': str(id)})}" if is_script else None,
        "commands": [f"ports job show {id.typed}"],
    }


def _job_facts(row: Mapping[str, Any], now: float) -> list[tuple[str, str]]:
    asked, note = _facts.part(row, "asked"), _facts.part(row, "note")
    script = _facts.part(asked, "script")
    status, signal = _facts.number(note, "status"), _facts.number(note, "signal")
    told = [
        ("Took", _jobs_view.took(row, now)),
        ("Submitted", _moment(row, "created_at")),
        ("Began", _moment(row, "began_at")),
        ("Ended", _moment(row, "ended_at")),
        ("Ended by", f"signal {signal:g}" if signal else "" if status is None else f"exit code {status:g}"),
        ("Progress", _jobs_view.progress(row)),
        ("Directory", _facts.text(asked, "directory")),
        ("Needs", _needs(_facts.part(asked, "needs"), bool(script.get("whole")))),
        ("Time limit", duration(limit) if (limit := _facts.number(asked, "timeout")) else ""),
        ("Peak memory", _facts.short_size(_facts.number(row, "peak_memory"))),
        ("Processor time", f"{cpu:.1f} s" if (cpu := _facts.number(row, "cpu_time")) is not None else ""),
        ("Queue", queue if (queue := _facts.text(row, "queue")) != "default" else ""),
        ("Tags", ", ".join(f"{one}={value}" for one, value in _texts(_facts.part(row, "tags")).items())),
        ("After", ", ".join(_facts.plain(str(one)) for one in _listed(asked.get("after")))),
        ("Commit", _commit(script)),
        ("Python", _facts.text(script, "python")),
    ]
    return [(name, value) for name, value in told if value]


def _texts(found: Mapping[str, Any]) -> dict[str, str]:
    return {_facts.plain(str(name)): _facts.plain(str(value)) for name, value in list(found.items())[:100]}


def _listed(found: Any) -> list[Any]:
    return found[:100] if isinstance(found, list) else []


def _moment(row: Mapping[str, Any], name: str) -> str:
    at = _facts.number(row, name)
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at)) if at else ""
    except (OverflowError, ValueError, OSError):  # no calendar has it
        return ""


def _needs(needs: Mapping[str, Any], whole: bool) -> str:
    cpus, gpus = _facts.number(needs, "cpus"), _facts.number(needs, "gpus")
    cpus = 1 if cpus is None else cpus  # needs that everybody has are left out
    parts = ["all cpus of the resource" if whole else f"{cpus:g} {_many('cpu', cpus)}"]
    parts += [_facts.short_size(_facts.number(needs, "memory")), f"{gpus:g} {_many('gpu', gpus)}" if gpus else ""]
    return ", ".join(part for part in parts if part)


def _many(noun: str, number: float | None) -> str:
    return noun if number == 1 else f"{noun}s"


def _commit(script: Mapping[str, Any]) -> str:
    source = _facts.part(script, "workspace") or script
    commit = _facts.text(source, "commit")[:12]
    return f"{commit}, and changes that were not committed" if commit and source.get("dirty") else commit


def _attempts(row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each attempt: when it began, how long it took, how it ended and why."""
    found: dict[int, dict[str, Any]] = {}
    for one in _facts.rows(row, "transitions"):
        number, at = int(_facts.number(one, "attempt") or 0), _facts.number(one, "at")
        if not number:
            continue
        attempt = found.setdefault(number, {"n": number, "began": None, "ended": None, "last": {}})
        attempt["began"] = at if _jobs_view.state_of(one) == "running" else attempt["began"]
        attempt["ended"] = at if _jobs_view.state_of(one) != "running" else None
        attempt["last"] = one
    return [_attempt(one) for one in list(found.values())[-_MOST_ATTEMPTS:]]


def _attempt(found: Mapping[str, Any]) -> dict[str, Any]:
    began, ended, last = found["began"], found["ended"], found["last"]
    return {
        "n": found["n"],
        "began": _moment({"at": began}, "at"),
        "took": duration(ended - began) if began and ended and ended >= began else "",
        "state": _facts.mark("failed" if _jobs_view.state_of(last) == "pending" else _jobs_view.state_of(last)),
        "reason": _facts.said(_facts.text(last, "reason")),
        "peak": _facts.short_size(_facts.number(last, "peak_memory")),
    }


def _items(id: Id, row: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the jobs of a map that failed, with their pages."""
    found = []
    for one in _listed(row.get("failed"))[:_MOST_ITEMS]:
        try:
            item = _jobs_view.parse_id(one)
        except PortsError:
            continue
        found.append({"id": str(Id(id.host, item.number)), "href": Id(id.host, item.number).href})
    return found


def _line(line: Any) -> dict[str, Any]:
    """Return a line of output: what a progress bar wrote last, without control characters."""
    text = line.text.decode("utf-8", "replace").rstrip("\r\n")
    return {"text": printable(text.rpartition("\r")[2]), "is_error": line.stream == "stderr", "time": line.stamp[11:19]}


def printable(text: str) -> str:
    """Return a text of which no character moves or hides anything; tabs stay."""
    return "".join(one if one == "\t" or one.isprintable() else "�" for one in text)


def _file(id: Id, one: Any) -> dict[str, Any]:
    is_link = one.kind == "l"
    return {
        "path": _facts.plain(one.path),
        "href": None if is_link else f"{id.href}/file?{urlencode({'path': one.path}, errors='surrogateescape')}",
        "size": "link" if is_link else _facts.short_size(one.size),
    }
