"""A host's clusters, notebooks and other listeners → the lines of its table. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, urlencode

from ports.web import _facts, _plots, _verbs
from ports.web._facts import Mark, Said, count, mark, number, pair, part, said, short_size, text

#: Kinds of rows that have a name of their own; others are found by their port.
NAMED = ("cluster", "notebook", "resource", "page")
_NO_THINGS = ("host", "machine", "tunnel", "job", "warning")
_ORDER = {"cluster": 0, "resource": 1, "notebook": 2}
_LIVE = ("running", "starting", "unknown")
_SPARK_SECONDS = 3600.0


@dataclass(frozen=True, kw_only=True)
class Link:
    """Where the row leads: an address below the page, which redirects; `text` says which port that is here."""

    href: str
    text: str


@dataclass(frozen=True, kw_only=True)
class Act:
    """What somebody can do with a thing: a sheet to open."""

    label: str
    href: str


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One line of a host's table."""

    id: str
    name: str
    title: str
    kind: str
    href: str
    state: Mark
    workers: str = ""
    memory: str = ""
    where: str = ""
    curve: list[_plots.Curve] = field(default_factory=list)
    tasks: str = ""
    since: str = ""
    link: Link | None = None
    link_state: Mark | None = None
    can_open: bool = False
    acts: list[Act] = field(default_factory=list)
    notes: list[list[Said]] = field(default_factory=list)
    warnings: list[list[Said]] = field(default_factory=list)


def things(view: Mapping[str, Any], now: float) -> list[Thing]:
    """Return the lines of a host's table: clusters first, those that ended last."""
    hidden = (*_NO_THINGS, "page") if view.get("here") else _NO_THINGS
    found = [one for one in _facts.rows(view, "rows") if identity(one)[1] and text(one, "kind") not in hidden]
    found.sort(key=lambda one: (text(one, "state") == "stopped", _ORDER.get(text(one, "kind"), 3)))
    made: dict[str, Thing] = {}
    for one in found:
        line = thing(view, one, now)
        made.setdefault(line.id, line)  # one line for each, however often a host lists it
    return [*made.values()]


def identity(row: Mapping[str, Any]) -> tuple[str, str]:
    """Return the kind of a row and what names it: its name, or a port for other listeners."""
    kind, port = text(row, "kind"), number(row, "port")
    if kind in NAMED or port is None:
        return kind, text(row, "name")
    return kind, str(int(port))


def find(view: Mapping[str, Any], kind: str, name: str) -> Mapping[str, Any] | None:
    """Return the row of a thing; None if it is gone."""
    return next((one for one in _facts.rows(view, "rows") if identity(one) == (kind, name)), None)


def address(to: str, **values: str | None) -> str:
    """Return an address of the page, below its base: ``-/thing?host=atlas&kind=cluster&name=main``."""
    return f"-/{quote(to)}?{urlencode({key: value for key, value in values.items() if value})}"


def ident(*parts: str) -> str:
    """Return the id of an element, which no white space divides."""
    return ".".join(quote(one, safe="") for one in parts)


def thing(view: Mapping[str, Any], row: Mapping[str, Any], now: float, *, whole: bool = False) -> Thing:
    """Return the line of one row; `whole`: with all acts, for a page of its own."""
    kind, name = identity(row)
    host = text(view, "host")
    at = {"host": host, "kind": kind, "name": name}
    counts = figures(row)
    state = state_of(row, counts)
    is_fresh = view.get("condition") == "connected"
    link, link_state, can_open = _link(view, row, at)
    since = number(row, "stopped_at" if state.word == "stopped" else "started_at")
    return Thing(
        id=ident("t", host, kind, name),
        name=name,
        title=text(row, "name") or (f"port {name}" if name.isdecimal() else name),
        kind=kind,
        href=address("thing", **at),
        state=state,
        workers=workers(counts),
        memory=memory(counts),
        where=_where(row, counts),
        curve=spark(view, name, now) if kind == "cluster" else [],
        tasks=count(counts["n_tasks"]),
        since=_facts.ago(since, now),
        link=link,
        link_state=link_state,
        can_open=can_open,
        acts=acts(row, at, whole=whole) if is_fresh else [],
        notes=notes(row, state),
        warnings=_facts.sentences(row, "warnings"),
    )


def figures(row: Mapping[str, Any]) -> dict[str, float | None]:
    """Return the numbers of a cluster: of the row, else of what the cluster itself said last."""
    told = part(row, "cluster")
    keys = ("n_workers", "n_asked", "n_threads", "n_tasks", "n_clients", "memory_bytes", "memory_limit_bytes", "asleep")
    return {key: _first(number(row, key), number(told, key)) for key in keys}


def _first(*values: float | None) -> float | None:
    return next((one for one in values if one is not None), None)


def state_of(row: Mapping[str, Any], counts: Mapping[str, float | None]) -> Mark:
    """Return the state of a thing; a cluster that has not all its workers yet is scaling."""
    word = text(row, "state")
    if word == "running" and text(row, "kind") == "cluster":
        if counts["asleep"]:
            return mark("resting")
        if (counts["n_asked"] or 0) > (counts["n_workers"] or 0):
            return mark("scaling")
    return mark(word)


def workers(counts: Mapping[str, float | None]) -> str:
    """Return the size of a cluster: ``24 × 1 thread``."""
    n_workers, n_threads = counts["n_workers"], counts["n_threads"]
    if n_workers is None:
        return ""
    if not n_workers or n_threads is None:
        return count(n_workers, "worker")
    each = n_threads / n_workers
    return (
        f"{int(n_workers):,} × {each:g} thread" + ("" if each == 1 else "s")
        if each == int(each)
        else (f"{int(n_workers):,}, {count(n_threads, 'thread')}")
    )


def memory(counts: Mapping[str, float | None]) -> str:
    """Return the memory of a cluster: ``201 of 288 GiB``."""
    if counts["memory_bytes"] is not None:
        return pair(counts["memory_bytes"], counts["memory_limit_bytes"])
    return short_size(counts["memory_limit_bytes"])


def _where(row: Mapping[str, Any], counts: Mapping[str, float | None]) -> str:
    """Return what a row says where clusters show their memory."""
    if text(row, "kind") == "resource":
        parts = [(number(row, "n_running"), "running"), (number(row, "n_pending"), "waiting")]
        return ", ".join(f"{count(value)} {word}" for value, word in parts if value is not None)
    if counts["n_workers"] is not None:
        return ""
    directory = text(row, "root") or text(row, "directory")
    return f"in {directory}" if directory and text(row, "kind") != "cluster" else ""


def spark(view: Mapping[str, Any], name: str, now: float) -> list[_plots.Curve]:
    """Return the middle memory of a cluster's workers over the last hour, of their limit; [] without history."""
    span = _plots.span(now, _SPARK_SECONDS)
    there = _facts.points(part(part(view, "history"), "clusters"), name, 6, since=span[0])
    tops = [one[5] for one in there if one[5]]
    if len(there) < _plots.LEAST or not tops:
        return []
    return [_plots.line([(one[0] or 0.0, one[3]) for one in there], span, max(tops), "memory")]


def _link(
    view: Mapping[str, Any], row: Mapping[str, Any], at: Mapping[str, str]
) -> tuple[Link | None, Mark | None, bool]:
    """Return the link of a row, or the state of its tunnel, and whether one can be opened.

    *Open* leads there at once: ``/-/go`` opens the tunnel.
    """
    is_live = text(row, "state") in _LIVE
    tunnel = part(row, "tunnel")
    go = address("go", **at)
    if view.get("here"):
        can = is_live and (at["kind"] in ("cluster", "notebook") or bool(row.get("http")))
        return (Link(href=go, text="dashboard" if at["kind"] == "cluster" else "open") if can else None), None, False
    if text(tunnel, "state") == "open" and text(tunnel, "local_url"):
        return Link(href=go, text=local_place(text(tunnel, "local_url"))), None, False
    if tunnel and text(tunnel, "state") not in ("closed", "ended", ""):
        return None, mark(text(tunnel, "state")), False
    can = is_live and view.get("condition") == "connected" and at["kind"] != "resource"
    can = can and (at["kind"] in NAMED or at["name"].isdecimal())
    is_page = at["kind"] in ("cluster", "notebook") or bool(row.get("http"))
    return (Link(href=go, text="Open") if can and is_page else None), None, can


def local_place(url: str) -> str:
    """Return the host and port of a local URL, as a link says them: ``localhost:29516``."""
    return url.partition("://")[2].partition("/")[0].rpartition("@")[2].partition("?")[0] or "open"


def acts(row: Mapping[str, Any], at: Mapping[str, str], *, whole: bool) -> list[Act]:
    """Return the sheets that a thing has."""
    kind, state = at["kind"], text(row, "state")
    verbs = ["remove"] if state == "stopped" else ["stop"]
    if kind == "resource" and state != "stopped":
        verbs = ["resume" if state == "draining" else "drain", "stop"]
    elif kind == "cluster" and state in ("running", "unknown"):
        verbs = ["scale", "restart", "stop"] if whole else ["scale", "stop"]
    elif kind == "notebook" and row.get("managed") is False:
        verbs = []  # started by hand: it is for its terminal to end
    made = [_act(kind, verb, at) for verb in verbs if (kind, verb) in _verbs.VERBS]
    if whole and text(part(row, "tunnel"), "state") == "open":
        made.insert(max(0, len(made) - 1), _act("tunnel", "close", {**at, "kind": "tunnel"}))
    return made


def _act(kind: str, verb: str, at: Mapping[str, str]) -> Act:
    return Act(label=_verbs.VERBS[kind, verb].label, href=address("sheet", verb=verb, **at))


def notes(row: Mapping[str, Any], state: Mark) -> list[list[Said]]:
    """Return what else is to say about a thing, as sentences."""
    told = part(row, "cluster")
    found = [text(row, "note"), text(row, "reason") if state.word != "running" else ""]
    if not found[0]:
        reason = text(part(told, "guard"), "reason")
        found += [f"memory guard: {reason}" if reason else "", text(told, "waiting")]
    found.append(text(part(row, "tunnel"), "reason") or text(row, "error"))
    return [said(one) for one in dict.fromkeys(found) if one]
