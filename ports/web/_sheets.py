"""What a sheet shows: what an act needs, what it ends, and the command that does the same. Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ports.errors import NotFoundError
from ports.web import _facts, _things, _verbs
from ports.web._facts import Said, count, number, part, said, short_size, text


@dataclass(frozen=True, kw_only=True)
class Input:
    """A value to type."""

    field: _verbs.Field
    value: str = ""
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Form:
    """One form of a sheet: hidden values, what is typed, the same command, and its button."""

    hidden: dict[str, str]
    command: list[_verbs.Piece]
    button: str
    inputs: list[Input] = field(default_factory=list)
    notes: list[list[Said]] = field(default_factory=list)
    is_danger: bool = False
    is_strong: bool = True


def sheet(
    views: Sequence[Mapping[str, Any]],
    verb: str,
    host: str,
    kind: str,
    name: str | None,
    *,
    now: float,
    typed: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return what a sheet shows.

    Parameters
    ----------
    typed : mapping, optional
        Values of fields that somebody has typed already, of an act that failed.

    Raises
    ------
    PortsError
        The page has no such host, or no table has such a verb.
    NotFoundError
        The thing is gone.
    """
    view = next((one for one in views if text(one, "host") == host), None)
    if view is None:
        raise NotFoundError("host", host, "the page does not show it")
    given = {**(typed or {}), "name": name or ""}
    if verb == "start":
        forms = [_start(view, one, given) for one in (_startable(view) if kind == "host" else [kind])]
        return {"title": f"Start on {host}", "forms": forms, "jobs": _things.address("jobs/new", host=host)}
    found = _verbs.find(verb, kind)
    row = _things.find(view, kind, name or "")
    if row is None and kind != "tunnel":
        raise NotFoundError(kind, name or "", f"it is gone from {host}")
    there = Form(
        hidden={"verb": verb, "host": host, "kind": kind, "name": name or ""},
        command=_verbs.shown(verb, _target(view), kind, name),
        button=_button(verb, kind, name),
        inputs=[Input(field=one, value=given.get(one.name) or _now(one, verb, row or {})) for one in found.fields],
        notes=[said(one) for one in _notes(view, verb, kind, row or {}, now) if one],
        is_danger=found.ends,
    )
    return {"title": _title(verb, kind, name, host), "forms": [there], "jobs": None}


def _target(view: Mapping[str, Any]) -> str | None:
    return None if view.get("here") else text(view, "host")


def _title(verb: str, kind: str, name: str | None, host: str) -> str:
    ends = _verbs.VERBS[kind, verb].ends
    what = (
        "what ended"
        if verb == "remove"
        else " ".join(filter(None, [_called(kind), name if kind != "resource" else ""]))
    )
    return f"{verb.capitalize()} {what} on {host}{'?' if ends else ''}"


def _called(kind: str) -> str:
    return {"resource": "the queue of jobs", "tunnel": "the link to"}.get(kind, kind)


def _button(verb: str, kind: str, name: str | None) -> str:
    if verb == "remove":
        return "Remove"
    return f"{verb.capitalize()} {name if name and kind != 'resource' else _called(kind)}"


def _now(field: _verbs.Field, verb: str, row: Mapping[str, Any]) -> str:
    """Return what the field of an act holds at this moment."""
    counts = _things.figures(row)
    now = counts["n_asked"] if counts["n_asked"] is not None else counts["n_workers"]
    return f"{int(now)}" if (verb, field.name) == ("scale", "n_workers") and now is not None else ""


def _startable(view: Mapping[str, Any]) -> list[str]:
    """Return the kinds of what can start on a host; there is one queue of jobs at most."""
    running = {text(one, "kind") for one in _facts.rows(view, "rows") if text(one, "state") != "stopped"}
    return ["cluster", "notebook", *(() if "resource" in running else ("resource",))]


_START = {"cluster": "Start cluster", "notebook": "Start JupyterLab", "resource": "Start the queue of jobs"}


def _start(view: Mapping[str, Any], kind: str, given: Mapping[str, str]) -> Form:
    """Return the form of what can start on a host."""
    found = _verbs.find("start", kind)
    share = text(part(part(view, "machine"), "share"), "explained") if kind == "cluster" else ""
    return Form(
        hidden={"verb": "start", "host": text(view, "host"), "kind": kind} | ({} if found.named else {"name": ""}),
        command=_verbs.shown("start", _target(view), kind, None),
        button=_START.get(kind, f"Start {kind}"),
        inputs=[Input(field=one, value=given.get(one.name, "")) for one in _typed(found, kind)],
        notes=[said(f"Empty: {share}.")] if share else [],
        is_strong=kind == "cluster",
    )


def _typed(verb: _verbs.Verb, kind: str) -> list[_verbs.Field]:
    return [_verbs.NAMES[kind], *verb.fields] if verb.named else [*verb.fields]


_Notes = Callable[[Mapping[str, Any], Mapping[str, Any], float], list[str]]


def _notes(view: Mapping[str, Any], verb: str, kind: str, row: Mapping[str, Any], now: float) -> list[str]:
    """Return what an act does, and what it ends."""
    found = _NOTES.get((kind, verb)) or _NOTES.get(("", verb))
    return found(view, row, now) if found else []


def _stop_cluster(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    counts = _things.figures(row)
    workers = count(counts["n_workers"], "worker") if counts["n_workers"] else "All workers"
    tasks = f", and {count(counts['n_tasks'], 'task')} with what they hold" if counts["n_tasks"] else ""
    n_users = int(counts["n_clients"] or 0)
    users = " One notebook or script uses it." if n_users == 1 else f" {n_users:,} notebooks or scripts use it."
    ends = "ends" if counts["n_workers"] == 1 else "end"
    return [f"{workers} {ends}{tasks}.{users if n_users else ''} Its log stays."]


def _restart_cluster(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    tasks = _things.figures(row)["n_tasks"]
    lost = f"{count(tasks, 'task')} and their results" if tasks else "Results in their memory"
    return [f"All workers restart, and import changed modules. {lost} are lost; links stay."]


def _scale_cluster(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    counts = _things.figures(row)
    limit, n_workers = counts["memory_limit_bytes"], counts["n_workers"]
    each = f"Each worker has up to {short_size(limit / n_workers)}. " if limit and n_workers else ""
    free = number(part(view, "machine"), "available_bytes")
    return [f"{each}{short_size(free)} of the machine are free." if free is not None else each]


def _stop_notebook(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    since = _facts.ago(number(row, "started_at"), now)
    ran = f" It has run for {since}." if since else ""
    return [f"Its kernels end, and all variables in them. Files that were saved stay.{ran}"]


def _stop_resource(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    running, waiting = number(row, "n_running"), number(row, "n_pending")
    ran = f" {count(running, 'job')} run{'s' if running == 1 else ''} now." if running else ""
    wait = f" {count(waiting, 'job')} wait{'s' if waiting == 1 else ''} for the next start." if waiting else ""
    return [
        f"No job begins until it starts again. Functions that run begin again then; scripts that run go on.{ran}{wait}"
    ]


def _drain(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    return ["Jobs that run end as usual, and no other begins until you resume."]


def _remove(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    ended = [one.title for one in _things.things(view, now) if one.state.word == "stopped"]
    named = ", ".join(ended[:8]) + (f" and {len(ended) - 8} more" if len(ended) > 8 else "")
    return [f"{named} leave{'s' if len(ended) == 1 else ''} the list. Logs and results that clusters held stay."]


def _close(view: Mapping[str, Any], row: Mapping[str, Any], now: float) -> list[str]:
    return ["The link stops working here; what it leads to runs on. Its address stays the same for the next time."]


_NOTES: dict[tuple[str, str], _Notes] = {
    ("cluster", "stop"): _stop_cluster,
    ("cluster", "restart"): _restart_cluster,
    ("cluster", "scale"): _scale_cluster,
    ("notebook", "stop"): _stop_notebook,
    ("resource", "stop"): _stop_resource,
    ("resource", "drain"): _drain,
    ("tunnel", "close"): _close,
    ("", "remove"): _remove,
}
