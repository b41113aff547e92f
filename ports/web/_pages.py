"""A thing and a machine on pages of their own: curves over time, facts, who uses it. Pure."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from ports.errors import NotFoundError
from ports.probe import duration
from ports.web import _facts, _machine_view, _plots, _things
from ports.web._facts import Said, count, mark, number, pair, part, said, short_size, text

_SPANS = (("An hour", 3600.0), ("A day", 86_400.0))
_LOG_LINES = 50


class Plot(NamedTuple):
    """Curves over a span of time: a title, what the top of the scale is, and the ends of the span in words."""

    title: str
    top: str
    begin: str
    curves: list[_plots.Curve]
    legend: list[tuple[str, str]]
    summary: str


class Fact(NamedTuple):
    """A fact with its name."""

    name: str
    words: list[Said]


def thing(
    view: Mapping[str, Any],
    kind: str,
    name: str,
    now: float,
    *,
    log: Sequence[str] | None = None,
    trouble: str = "",
) -> dict[str, Any]:
    """Return what the page of a thing shows.

    Parameters
    ----------
    log : sequence of str, optional
        The last lines of its log. Default: they are not known (yet).
    trouble : str
        Why they are not.

    Raises
    ------
    NotFoundError
        It is gone from the host.
    """
    row = _things.find(view, kind, name)
    if row is None:
        raise NotFoundError(kind, name, f"it is gone from {text(view, 'host')}")
    return {
        "host": text(view, "host"),
        "condition": None if view.get("condition") == "connected" else mark(text(view, "condition") or "unknown"),
        "thing": _things.thing(view, row, now, whole=True),
        "found": _facts_of(row, now),
        "here": bool(view.get("here")),
        "plots": _cluster_plots(view, name, now) if kind == "cluster" else [],
        "log": None if log is None else [_facts.plain(one) for one in log[-_LOG_LINES:] if isinstance(one, str)],
        "trouble": said(_facts.plain(trouble)),
        "has_log": kind in ("cluster", "notebook", "resource"),
    }


def _facts_of(row: Mapping[str, Any], now: float) -> list[Fact]:
    """Return what else is known of a thing."""
    counts = _things.figures(row)
    users = counts["n_clients"]
    found = [
        ("Started", _since(number(row, "started_at"), now)),
        ("Ended", _since(number(row, "stopped_at"), now)),
        ("Workers", _things.workers(counts)),
        ("Memory", _things.memory(counts)),
        ("Tasks", count(counts["n_tasks"])),
        ("Used by", "nobody" if users == 0 else count(users, "client")),
        ("Size", text(row, "explained")),
        ("Directory", _as_code(text(row, "root") or text(row, "directory"))),
        ("Environment", _as_code(text(row, "env") or text(row, "interpreter"))),
        ("Scratch", _as_code(text(row, "scratch"))),
        ("Log", _as_code(text(row, "log"))),
        ("Type at home", _as_code(text(row, "command"))),
        ("In tmux", _as_code(text(row, "tmux"))),
        ("Port", "" if number(row, "port") is None else f"{number(row, 'port'):.0f}"),
        ("Process", "" if number(row, "pid") is None else f"{number(row, 'pid'):.0f}"),
        ("Ends", _until(number(row, "ends_at") or number(part(row, "cluster"), "ends_at"), now)),
    ]
    return [Fact(name, said(words)) for name, words in found if words]


def _as_code(words: str) -> str:
    return f"`{words}`" if words and "`" not in words else words


def _since(then: float | None, now: float) -> str:
    if then is None or then <= 0:
        return ""
    day = time.strftime("%Y-%m-%d %H:%M", time.localtime(min(then, 4e9)))
    return f"{day}, {duration(now - then)} ago"


def _until(then: float | None, now: float) -> str:
    return "" if then is None else f"in {duration(then - now)}, if nobody uses it"


def _cluster_plots(view: Mapping[str, Any], name: str, now: float) -> list[Plot]:
    """Return the memory of a cluster's workers as a band, and its tasks per second."""
    history = part(part(view, "history"), "clusters")
    return [plot for title, seconds in _SPANS for plot in _cluster_span(history, name, (title, seconds), now)]


def _cluster_span(history: Mapping[str, Any], name: str, over: tuple[str, float], now: float) -> list[Plot]:
    title, seconds = over
    span = _plots.span(now, seconds)
    there = _facts.points(history, name, 7, since=span[0])
    if len(there) < _plots.LEAST or not _reaches(there, title, now):
        return []
    times = [one[0] or 0.0 for one in there]
    limits = [one[5] for one in there if one[5]]
    memory_top = max([*limits, *(one[4] or 0.0 for one in there), 1.0])
    rates = [one[6] for one in there]
    rate_top = _plots.round_top(max(one or 0.0 for one in rates))
    last = there[-1]
    memory = [
        _plots.band([(at, one[2], one[4]) for at, one in zip(times, there, strict=True)], span, memory_top, "band"),
        _plots.line([(at, one[3]) for at, one in zip(times, there, strict=True)], span, memory_top, "memory"),
        _plots.level(limits[-1] if limits else None, memory_top, "limit"),
    ]
    legend = [("c-memory", "middle worker"), ("c-band", "least to most")]
    legend += [("c-limit", f"limit, {short_size(limits[-1])}")] if limits else []
    tasks = [_plots.line(list(zip(times, rates, strict=True)), span, rate_top, "cores")]
    begin = f"{duration(seconds)} ago"
    summary = f"{title}: memory of a worker, now {short_size(last[2])} to {short_size(last[4])}"
    return [
        Plot(f"Memory of a worker, {title.lower()}", short_size(memory_top), begin, memory, legend, summary),
        Plot(f"Tasks per second, {title.lower()}", f"{rate_top:g}", begin, tasks, [], f"{title}: tasks per second"),
    ]


def machine(view: Mapping[str, Any], now: float) -> dict[str, Any]:
    """Return what the page of a machine shows."""
    usage = part(view, "machine")
    return {
        "host": text(view, "host"),
        "here": bool(view.get("here")),
        "condition": None if view.get("condition") == "connected" else mark(text(view, "condition") or "unknown"),
        "heading": _machine_view.heading(usage),
        "bars": _machine_view.bars(usage) if usage else [],
        "users": _machine_view.users(usage),
        "table": _users(usage),
        "columns": _columns(_users(usage)),
        "gpus": _machine_view.gpus(usage),
        "found": [Fact(name, said(words)) for name, words in _machine_facts(usage) if words],
        "plots": _machine_plots(view, usage, now),
        "command": "ports who" if view.get("here") else f"ports who {text(view, 'host')}",
    }


def _users(usage: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return a line for each user: memory, cores, what Dask has of it, and promises."""
    named = [one for one in _facts.rows(usage, "users") if one.get("is_person") or one.get("is_me")]
    rest = [one for one in _facts.rows(usage, "users") if one not in named]
    named.sort(key=lambda one: (not one.get("is_me"), -(number(one, "memory_bytes") or 0.0), text(one, "user")))
    lines = [(("you" if one.get("is_me") else text(one, "user") or "unnamed"), [one]) for one in named]
    lines += [("system", rest)] if rest else []
    return [_user_line(name, some) for name, some in lines]


def _columns(lines: Sequence[Mapping[str, str]]) -> list[tuple[str, str]]:
    """Return the headings and keys of the columns of which a line has something."""
    keys = ("memory", "cores", "dask", "promised", "lent", "processes")
    return [(key.capitalize(), key) for key in keys if any(one[key] for one in lines)]


def _user_line(name: str, some: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    def total(key: str) -> float:
        return sum(number(one, key) or 0.0 for one in some)

    threads, promised = total("promised_threads"), total("promised_bytes")
    words = [short_size(promised) if promised else "", count(threads, "thread") if threads else ""]
    return {
        "name": name,
        "memory": short_size(total("memory_bytes")),
        "cores": f"{total('cores'):.1f}",
        "dask": short_size(total("dask_bytes")) if total("dask_bytes") else "",
        "promised": ", ".join(filter(None, words)),
        "lent": short_size(total("lent_bytes")) if total("lent_bytes") else "",
        "processes": count(total("n_processes")),
    }


def _machine_facts(usage: Mapping[str, Any]) -> list[tuple[str, str]]:
    n_cores, usable = number(usage, "n_cores"), number(usage, "usable_cores")
    total, limit = number(usage, "memory_bytes"), number(usage, "limit_bytes")
    swap, free = number(usage, "swap_bytes"), number(usage, "swap_free_bytes")
    load = _facts.numbers(usage, "load")
    promised = number(usage, "promised_bytes")
    waits = ", ".join(_machine_view.pressure(usage))
    return [
        ("Cores", count(n_cores)),
        ("You may use", f"{usable:g} cores" if usable is not None and n_cores is not None and usable < n_cores else ""),
        ("Load", ", ".join(f"{one:.1f}" for one in load)),
        ("Memory", pair(number(usage, "available_bytes"), total) + " free" if total else ""),
        ("Your limit", short_size(limit) if limit and total and limit < total else ""),
        ("Promised to clusters", short_size(promised) if promised else ""),
        ("Swap", pair(swap - free, swap) if swap and free is not None and swap >= free else ""),
        ("Waiting for", waits),
        ("A cluster of yours would get", text(part(usage, "share"), "explained")),
        ("Files of jobs", short_size(number(usage, "jobs_bytes"))),
    ]


def _machine_plots(view: Mapping[str, Any], usage: Mapping[str, Any], now: float) -> list[Plot]:
    total, n_cores = number(usage, "memory_bytes"), number(usage, "n_cores")
    made = []
    for title, seconds in _SPANS:
        span = _plots.span(now, seconds)
        there = _facts.points(part(view, "history"), "machine", 3, since=span[0])
        if len(there) < _plots.LEAST or not total or not n_cores or not _reaches(there, title, now):
            continue
        for name, column, top, words, style in _machine_curves(total, n_cores):
            curve = _plots.line([(one[0] or 0.0, one[column]) for one in there], span, top, style)
            now_at = words(there[-1][column])
            summary = f"{title}: {name.lower()} in use, now {now_at}"
            made.append(Plot(f"{name}, {title.lower()}", words(top), f"{duration(seconds)} ago", [curve], [], summary))
    return made


def _machine_curves(total: float, n_cores: float) -> list[tuple[str, int, float, Callable[[float | None], str], str]]:
    return [("Memory", 1, total, short_size, "memory"), ("Cores", 2, n_cores, lambda n: f"{n or 0:.0f}", "cores")]


def _reaches(points: list[list[float | None]], title: str, now: float) -> bool:
    """Tell whether points fill a span: a day is drawn once they reach back further than an hour."""
    return title == _SPANS[0][0] or now - min(one[0] or now for one in points) > 1.5 * _SPANS[0][1]
