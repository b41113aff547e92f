"""Views of hosts → the lines of ``ports list --watch``: a section for each host. Pure.

A line is made of pieces, each with the name of a style; `cli.list` turns them into colours where the terminal has some.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ports.cli.tables import width, wrap
from ports.errors import harmless
from ports.probe import duration, size

Piece = tuple[str, str]  # text, and style
Line = list[Piece]

#: Style → what `click.style` takes.
STYLES: dict[str, dict[str, Any]] = {
    "": {},
    "bold": {"bold": True},
    "dim": {"dim": True},
    "good": {"fg": "green"},
    "busy": {"fg": "yellow"},
    "bad": {"fg": "red"},
    "link": {"fg": "cyan"},
    "me": {"fg": "blue"},
    "first": {"fg": "magenta"},
    "others": {"fg": "bright_black"},
}
#: State → its shape and style: neither colour nor shape alone says it.
STATES = {
    "running": ("●", "good"),
    "starting": ("◐", "busy"),
    "needs login": ("▲", "busy"),
    "connecting": ("◐", "busy"),
    "down": ("■", "bad"),
    "error": ("■", "bad"),
    "unknown": ("?", "busy"),
    "stopped": ("○", "dim"),
}
_BAR, _NARROWEST = 30, 8
_LITTLE = 0.01  # of the memory: who has less is one of the others
_ASCII = str.maketrans("█▒·×●◐▲■○", "#+.x*o!!-")


def lines(views: Sequence[Mapping[str, Any]], now: float, columns: int | None = None) -> list[Line]:
    """Return what to show of hosts.

    Parameters
    ----------
    now : float
        Seconds since the epoch.
    columns : int, optional
        Width of the terminal, to which lines are cut. Default: no limit.
    """
    table = {view["host"]: [_cells(row, now) for row in _shown(view["rows"])] for view in views}
    every = [cells for rows in table.values() for cells in rows]
    widths = [
        max((width(cells[place][0]) for cells in every), default=0) for place in range(len(every[0]) if every else 0)
    ]
    found: list[Line] = []
    for view in views:
        if found:
            found.append([])
        found += [_heading(view, now), *_machine(view, columns)]
        found += [_row(cells, widths) for cells in table[view["host"]]]
        found += _rest(view)
    found = [[(harmless(text, lines=False), style) for text, style in line] for line in found]
    return found if columns is None else [cut(line, columns) for line in found]


def cut(line: Line, columns: int) -> Line:
    """Return a line of at most `columns`, with … where something was cut off."""
    if sum(width(text) for text, _ in line) <= columns:
        return line
    left, kept = columns - 1, list[Piece]()
    for text, style in line:
        part = text[: max(0, left)]
        while width(part) > left:
            part = part[:-1]
        kept.append((part, style))
        left -= width(part)
        if part != text:
            break
    return [*kept, ("…", "dim")]


def in_ascii(line: Line) -> Line:
    """Return a line for a terminal that has no other letters."""
    return [
        (text.translate(_ASCII).replace("…", "..").encode("ascii", "replace").decode(), style) for text, style in line
    ]


def _heading(view: Mapping[str, Any], now: float) -> Line:
    machine, line = view["machine"], [(view["host"], "bold")]
    if view["condition"] != "connected":
        shape, style = STATES[view["condition"]]
        since = "" if view["condition"] == "connecting" else f" since {duration(now - view['since'])}"
        line += [("  ", ""), (f"{shape} {view['condition']}{since}", style)]
    if machine is None:
        return line
    n_busy, n_cores = machine["busy_cores"], machine["n_cores"]
    busy = "" if n_busy is None else f"{min(n_busy, n_cores):.1f} of {n_cores} cores busy, "
    free = f"{size(machine['available_bytes'])} of {size(machine['memory_bytes'])} free"
    return [*line, ("  ", ""), (busy + free, "dim")]


def _machine(view: Mapping[str, Any], columns: int | None) -> list[Line]:
    """Return why a host is not connected, and who uses the machine: bars of its memory and of its cores, and names."""
    told: list[Line] = []
    if view["reason"]:
        style = "busy" if view["condition"] == "needs login" else "bad"
        way_out = f": `{view['way_out']}`" if view["way_out"] else ""
        said = harmless(view["reason"] + way_out, lines=False)
        told += [[(f"  {line}", style)] for line in ([said] if columns is None else wrap(said, columns - 2, "  "))]
    machine = view["machine"]
    if machine is None:
        return told
    people = _people(machine)
    bar = _BAR if columns is None else max(_NARROWEST, min(_BAR, (columns - len("  memory   cores ")) // 2))
    memory = _bar([(used, promised) for _, _, used, promised, _ in people], machine["memory_bytes"], bar)
    cores = _bar([(busy, busy) for _, _, _, _, busy in people], machine["n_cores"], bar)
    styles = [style for _, style, _, _, _ in people]
    names: Line = [("  ", "")]
    for name, style, used, promised, _ in people:
        amount = f"{size(used)} of {size(promised)} promised" if promised > used else size(used)
        names += [(name, style), (f" {amount}", "dim"), ("  ", "")]
    bars: Line = [("  memory ", "dim"), *_painted(memory, styles), ("  cores ", "dim"), *_painted(cores, styles)]
    return [*told, bars, _without_end(names)]


def _people(machine: Mapping[str, Any]) -> list[tuple[str, str, float, float, float]]:
    """Return me, the users with most, and all others: name, style, bytes, promised bytes, cores."""
    me = [one for one in machine["users"] if one["is_me"]]
    rest = sorted((one for one in machine["users"] if not one["is_me"]), key=lambda one: -_held(one))
    large = [one for one in rest if one["is_person"] and _held(one) > _LITTLE * machine["memory_bytes"]][:3]
    found = [_person("you", "me", [one]) for one in me]
    found += [_person(one["user"], "first" if place % 2 == 0 else "others", [one]) for place, one in enumerate(large)]
    small = [one for one in rest if one not in large]
    others = _person("others", "others", small)
    unseen = max(0, machine["memory_bytes"] - machine["available_bytes"] - sum(one[2] for one in [*found, others]))
    return [*found, (others[0], "others", others[2] + unseen, others[3] + unseen, others[4])]


def _held(user: Mapping[str, Any]) -> float:
    return float(max(user["memory_bytes"], user["promised_bytes"]))


def _person(name: str, style: str, users: Sequence[Mapping[str, Any]]) -> tuple[str, str, float, float, float]:
    used = sum(one["memory_bytes"] for one in users)
    unfilled = sum(max(0, one["promised_bytes"] - (one["held_bytes"] or 0)) for one in users)
    return name, style, used, used + unfilled, sum(one["cores"] for one in users)


def _bar(parts: Sequence[tuple[float, float]], whole: float, columns: int) -> list[tuple[str, int]]:
    """Return a stacked bar as cells: the letter, and which part it belongs to (-1: none).

    Of a part, what is in use is full, and what is promised beyond that is hatched.
    """
    cells: list[tuple[str, int]] = []
    for number, (used, promised) in enumerate(parts):
        part, wide = (columns * min(1.0, one / whole) if whole >= 1 else 0.0 for one in (used, promised))
        full = round(part) or int(part > 0.1)
        cells += [("█", number)] * full + [("▒", number)] * max(0, round(wide) - full)
    return [*cells[:columns], *[("·", -1)] * (columns - len(cells))]


def _painted(cells: Iterable[tuple[str, int]], styles: Sequence[str]) -> Line:
    line: Line = []
    for letter, number in cells:
        style = "dim" if number < 0 else styles[number]
        if line and line[-1][1] == style:
            line[-1] = (line[-1][0] + letter, style)
        else:
            line.append((letter, style))
    return line


def _shown(rows: Iterable[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return rows in order: what runs first, sessions before other listeners."""
    return sorted(
        rows, key=lambda row: (row["state"] == "stopped", not row.get("managed"), str(row["kind"]), str(row["name"]))
    )


def _cells(row: Mapping[str, Any], now: float) -> list[Piece]:
    shape, style = STATES.get(row["state"], ("?", ""))
    cluster, since = row.get("cluster") or row, row.get("stopped_at") or row.get("started_at")
    return [
        (str(row["name"] or row.get("port") or ""), "bold" if row["state"] != "stopped" else ""),
        (str(row["kind"]), "dim"),
        (f"{shape} {row['state']}", style),
        (_size_of(row, cluster), ""),
        (_memory_of(cluster), ""),
        (duration(now - since) if since else "", "dim"),
        _link(row),
    ]


def _size_of(row: Mapping[str, Any], cluster: Mapping[str, Any]) -> str:
    """Return the workers of a cluster, or the port of a listener."""
    n_workers, n_threads = _number(cluster, "n_workers"), _number(cluster, "n_threads")
    if n_workers is None:
        return f"port {row['port']}" if row.get("port") and not row.get("managed") else ""
    each = (n_threads or 0) / n_workers if n_workers else 0
    return f"{n_workers:g} × {each:g} thread{'s' * (each != 1)}" if each else f"{n_workers:g} workers"


def _number(told: Mapping[str, Any], key: str) -> float | None:
    """Return a number that a cluster told; what it tells can be anything."""
    found = told.get(key)
    return found if isinstance(found, (int, float)) and math.isfinite(found) else None


def _memory_of(cluster: Mapping[str, Any]) -> str:
    used, limit = _number(cluster, "memory_bytes"), _number(cluster, "memory_limit_bytes")
    if used is None:
        return ""
    return f"{size(used)} of {size(limit)}" if limit else size(used)


def _link(row: Mapping[str, Any]) -> Piece:
    tunnel = row["tunnel"]
    if tunnel is None:
        return "", ""
    if tunnel["state"] == "open" and tunnel["local_url"]:
        return urlsplit(tunnel["local_url"]).netloc, "link"
    return str(tunnel["state"]), STATES.get(tunnel["state"], ("", "dim"))[1]


def _row(cells: Sequence[Piece], widths: Sequence[int]) -> Line:
    line: Line = [("   ", "")]
    for (text, style), columns in zip(cells, widths, strict=True):
        line.append((text, style))
        if columns:
            line.append((" " * (columns - width(text) + 2), ""))
    return _without_end(line)


def _without_end(line: Line) -> Line:
    while line and not line[-1][0].strip():
        line.pop()
    return line


def _rest(view: Mapping[str, Any]) -> list[Line]:
    """Return what is below the rows: jobs, warnings, and what to type where nothing runs."""
    told: list[Line] = []
    counts = (view["jobs"] or {}).get("counts")
    counts = {state: n for state, n in counts.items() if n} if isinstance(counts, dict) else {}
    if counts:
        told.append([("   jobs  ", "bold"), (", ".join(f"{n} {state}" for state, n in counts.items()), "dim")])
    if not view["rows"] and view["condition"] == "connected":
        option = "" if view["here"] else f" -H {view['host']}"
        told.append([(f"   nothing of yours runs there; ports cluster start{option}", "dim")])
    return told + [[("   " + warning, "busy")] for warning in view["warnings"]]
