"""Rows → a line, a table, HTML. Pure: no clock, no disk, no environment."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

# Columns of the tables of the command line, by kind: (heading, key of the row).
COLUMNS: dict[str, tuple[tuple[str, str], ...]] = {
    "cluster": (
        ("NAME", "name"),
        ("STATE", "state"),
        ("WORKERS", "n_workers"),
        ("THREADS", "n_threads"),
        ("MEMORY", "memory"),
        ("SINCE", "since"),
        ("LINK AT HOME", "link"),
        ("NOTE", "note"),
    ),
    "notebook": (
        ("NAME", "name"),
        ("STATE", "state"),
        ("PORT", "port"),
        ("SINCE", "since"),
        ("ROOT", "root"),
        ("NOTE", "note"),
    ),
    "listener": (
        ("HOST", "host"),
        ("KIND", "kind"),
        ("NAME", "name"),
        ("OWNER", "other"),
        ("STATE", "state"),
        ("WHERE", "where"),
        ("PID", "pid"),
        ("SINCE", "since"),
        ("DIRECTORY", "directory"),
        ("NOTE", "note"),
    ),
    "pruned": (("KIND", "kind"), ("NAME", "name"), ("DONE", "state")),
    "tunnel": (
        ("HOST", "host"),
        ("WHAT", "what"),
        ("STATE", "state"),
        ("SINCE", "since"),
        ("LINK", "here"),
        ("RECEIVED", "received"),
        ("RECONNECTS", "reconnects"),
        ("NOTE", "note"),
    ),
}


def duration(seconds: float) -> str:
    """Return a length of time as people say it: ``42 s``, ``7 min``, ``3 h 20 min``, ``5 d``."""
    whole = max(0, int(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min"
    if whole < 86400:
        hours, minutes = whole // 3600, whole % 3600 // 60
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{whole // 86400} d"


def size(n_bytes: float | None) -> str:
    """Return bytes in binary units: ``1.5 GiB``; empty for None."""
    if n_bytes is None:
        return ""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(n_bytes) < 1024:
            return f"{n_bytes:.0f} {unit}" if unit in ("B", "KiB") else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1024
    return f"{n_bytes:.1f} TiB"


def cells(row: Mapping[str, Any], now: float) -> dict[str, str]:
    """Return the texts that a table shows for `row`, those that are put together included."""
    started = row.get("started_at") or row.get("since")
    limit = row.get("memory_limit_bytes")
    made = {
        "since": duration(now - started) if isinstance(started, int | float) else "",
        "memory": f"{size(row.get('memory_bytes'))} of {size(limit)}" if limit else size(row.get("memory_bytes")),
        "where": _where(row),
        "here": link_here(row) or "",
        "what": _what(row),
        "received": size(row.get("received_bytes")),
        "note": _note(row),
        "other": "" if row.get("name") else str(row.get("owner") or ""),  # of others' listeners nothing else is known
    }
    return {key: _text(value) for key, value in row.items()} | made


def table(rows: Sequence[Mapping[str, Any]], kind: str, now: float) -> list[list[str]]:
    """Return heading and lines of a table; columns that hold nothing are left out."""
    columns = COLUMNS[kind]
    texts = [cells(row, now) for row in rows]
    used = [(heading, key) for heading, key in columns if any(text.get(key) for text in texts)]
    return [[heading for heading, _ in used], *([text.get(key, "") for _, key in used] for text in texts)]


def plain(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as text, its columns aligned, without colours."""
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def details(row: Mapping[str, Any], now: float) -> str:
    """Return one row as lines of ``key: value``; what is empty is left out."""
    texts = cells(row, now)
    hidden = ("where", "here", "what", "received", "note", "other", "started_at", "guard", "asleep", "ends_at")
    shown = {key: text for key, text in texts.items() if text and key not in hidden and not key.endswith("_bytes")}
    if row.get("note"):  # without the reason, which has a line of its own
        shown["note"] = str(row["note"])
    width = max((len(key) for key in shown), default=0) + 1
    return "\n".join(f"{key + ':':<{width}} {text}" for key, text in shown.items())


def cluster_line(row: Mapping[str, Any], now: float) -> str:
    """Return a cluster in a terminal: state, workers, memory, and its link at home."""
    parts = [f"cluster {row['name']!r} {cluster_state(row)}", cells(row, now)["memory"]]
    if row["state"] == "running":
        parts += [str(row.get("note") or ""), str(row.get("link"))]
    return f"<{', '.join(part for part in parts if part)}>"


def cluster_state(row: Mapping[str, Any]) -> str:
    """Return what a cluster does, in words: ``runs: 2 workers with 1 thread each``."""
    if row["state"] != "running":
        return f"is {row['state']}" + (f": {row['reason']}" if row.get("reason") else "")
    n_workers, n_threads = row.get("n_workers") or 0, row.get("n_threads") or 0
    if not n_workers:
        return "rests" if row.get("asleep") else "runs without workers yet"
    threads = f"{n_threads / n_workers:g} thread" + ("" if n_threads == n_workers else "s")
    return f"runs: {n_workers} worker{'s' if n_workers > 1 else ''} with {threads}{' each' if n_workers > 1 else ''}"


def cluster_note(counts: Mapping[str, Any]) -> str | None:
    """Return what a running cluster says of itself beyond its counts: that it gives way, rests, or ends soon."""
    notes = []
    if (guard := counts.get("guard")) is not None:
        notes.append(f"memory guard: {guard['reason']}")
    if counts.get("asleep"):
        notes.append(f"nobody uses it: {counts['asleep']} workers come back at the first task")
    if counts.get("ends_at"):
        ends, last = (_day(counts[key]) for key in ("ends_at", "last_task"))
        notes.append(f"ends {ends}, as no task came since {last}; any task keeps it")
    return "; ".join(notes) or None


def cluster_html(row: Mapping[str, Any], command: str) -> str:
    """Return a cluster as a notebook shows it: state, workers, memory, dashboard link, what to type at home."""
    memory = size(row.get("memory_limit_bytes"))
    facts: list[tuple[str, str]] = [("State", html.escape(str(row["state"])))]
    if row.get("n_workers") is not None:
        facts.append(("Workers", f"{row['n_workers']} with {row['n_threads']} threads"))
        facts.append(("Memory", f"{size(row.get('memory_bytes'))} used of {memory}" if memory else "no limit"))
    told = [(word, row.get(key)) for word, key in (("Size", "explained"), ("Reason", "reason"), ("Note", "note"))]
    facts += [(word, html.escape(str(text))) for word, text in told if text]
    if row["state"] == "running":
        link = html.escape(str(row["link"]), quote=True)
        facts.append(("At home, type", f"<code>{html.escape(command)}</code>"))
        facts.append(("Dashboard there", f'<a href="{link}" target="_blank" rel="noopener">{link}</a>'))
    return _html_table(f"Cluster {row['name']}", facts)


class Shown:
    """What `ports.show` displays: text in a terminal, HTML in a notebook."""

    def __init__(self, shown: Mapping[str, Any]) -> None:
        self._shown = shown

    def __repr__(self) -> str:
        return shown_text(self._shown)

    def _repr_html_(self) -> str:
        link = html.escape(str(self._shown["link"]), quote=True)
        facts = [
            ("At home, type", f"<code>{html.escape(self._shown['command'])}</code>"),
            ("then open", f'<a href="{link}" target="_blank" rel="noopener">{link}</a>'),
            ("without ports there", f"<code>{html.escape(self._shown['by_hand'])}</code>"),
        ]
        if "forward" in self._shown:
            facts.append(("or forward", html.escape(self._shown["forward"])))
        return _html_table("Dashboard", facts)


def shown_text(shown: Mapping[str, Any]) -> str:
    """Return what `ports.show` prints."""
    return (
        f"at home, type:        {shown['command']}\n"
        f"then open:            {shown['link']}\n"
        f"without ports there:  {shown['by_hand']}"
        + (f"\nor forward:           {shown['forward']}" if "forward" in shown else "")
    )


def _html_table(title: str, facts: Iterable[tuple[str, str]]) -> str:
    cell = '<tr><th style="text-align: left">{}</th><td style="text-align: left">{}</td></tr>'
    lines = "".join(cell.format(html.escape(name), value) for name, value in facts)
    return f"<div><strong>{html.escape(title)}</strong><table>{lines}</table></div>"


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def link_here(row: Mapping[str, Any]) -> str | None:
    """Return by what a tunnel's row is reached on this machine, a link or ``unix:PATH``; None where nothing leads."""
    socket = row.get("local_socket")
    return str(row["local_url"]) if row.get("local_url") else f"unix:{socket}" if socket else None


def _where(row: Mapping[str, Any]) -> str:
    if row.get("path"):
        return f"unix:{row['path']}"
    if row.get("port"):
        address = str(row.get("address") or "")
        return f"[{address}]:{row['port']}" if ":" in address else f"{address}:{row['port']}"
    return ""


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return "" if value is None else str(value)


def _what(row: Mapping[str, Any]) -> str:
    kind, name = row.get("kind"), row.get("name")
    return str(name or "") if kind in (None, "tunnel") else f"{kind} {name or ''}".strip()


def _note(row: Mapping[str, Any]) -> str:
    notes = [row.get("error"), row.get("reason"), row.get("note")]
    notes += [warning.partition("; ")[0] for warning in row.get("warnings") or []]  # the rest is how to close it
    # the column beside it names the host already
    return "; ".join(str(note).removeprefix(f"{row.get('host')}: ") for note in notes if note)
