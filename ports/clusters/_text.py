"""A cluster in words: in a terminal, in a notebook, and its note. Pure."""

from __future__ import annotations

import html
import time
from collections.abc import Iterable, Mapping
from typing import Any

from ports.clusters._documents import ClusterRow, MemoryDeaths, Summary
from ports.probe import as_typed, memory_used


def cluster_line(row: ClusterRow, now: float) -> str:
    """Return the line of a cluster in a terminal: state, workers, memory, and its link at home."""
    memory = memory_used(row.get("memory_bytes"), row.get("memory_limit_bytes"), row.get("memory_typed") or "")
    parts = [f"cluster {row['name']!r} {cluster_state(row)}", memory]
    if row["state"] == "running":
        parts += [str(row.get("note") or ""), str(row.get("link"))]
    return f"<{', '.join(part for part in parts if part)}>"


def cluster_state(row: Mapping[str, Any]) -> str:
    """Return the state of a cluster in words: ``runs: 2 workers with 1 thread each``."""
    if row["state"] != "running":
        return f"is {row['state']}" + (f": {row['reason']}" if row.get("reason") else "")
    n_workers, n_threads = row.get("n_workers") or 0, row.get("n_threads") or 0
    if not n_workers:
        return "rests" if row.get("asleep") else "runs without workers" + ("" if row.get("n_asked") == 0 else " yet")
    threads = f"{n_threads / n_workers:g} thread" + ("" if n_threads == n_workers else "s")
    return f"runs: {n_workers} worker{'s' if n_workers > 1 else ''} with {threads}{' each' if n_workers > 1 else ''}"


def cluster_note(counts: Summary, typed: str = "") -> str | None:
    """Return whether the memory guard acts, workers are missing or rest, or the end is near; None where none is so.

    `typed` is the memory limit as it was typed.
    """
    notes = []
    if (guard := counts.get("guard")) is not None:
        notes.append(f"memory guard: {guard['reason']}")
    if (n_asked := counts.get("n_asked", 0)) > (n_workers := counts.get("n_workers", 0)):
        failed = f"; the last start failed: {counts['failure']}" if counts.get("failure") else ""
        notes.append(f"{n_workers} of {n_asked} workers run; the others are starting{failed}")
    if waiting := counts.get("waiting"):
        notes.append(waiting)
    if (adapts := counts.get("adapts")) is not None:
        notes.append(f"adapts between {adapts['minimum']} and {adapts['maximum']} workers, until it is scaled")
        if short := adapts.get("short"):
            each, free = as_typed(typed, short["limit_bytes"]), as_typed(typed, short["free_bytes"])
            wanted = f"{short['wanted']} workers of {each} are wanted"
            notes.append(f"{wanted}, but only {free} are free, so there are {short['fitting']}")
    if (deaths := counts.get("memory_deaths")) is not None:
        notes.append(memory_note(deaths, typed, counts.get("n_asked")))
    if counts.get("asleep"):
        notes.append(f"nobody uses it: {counts['asleep']} workers come back at the next task")
    if lent := counts.get("lent_bytes"):
        notes.append(f"without tasks it lends {as_typed(typed, lent)} of its memory to others until tasks come")
    if (reduced := counts.get("reduced")) is not None:
        each, full = as_typed(typed, reduced["limit_bytes"]), as_typed(typed, reduced["full_bytes"])
        notes.append(f"not all of its memory is free, so its workers have {each} instead of {full} each")
    if (ends := counts.get("ends_at")) is not None:
        last = _day(counts["last_task"])
        notes.append(f"ends at {_day(ends)}, because no task has run since {last}; any task keeps it running")
    return "; ".join(notes) or None


def memory_note(deaths: MemoryDeaths, typed: str = "", n_asked: int | None = None) -> str:
    """Return that workers ended at their memory limit, when, with which task, and the way out.

    `n_asked` is how many workers the cluster should have: the only one can end several times.
    """
    n_ends, at = deaths["n_workers"], time.strftime("%H:%M", time.localtime(deaths["at"]))
    who, often = f"{n_ends} workers ended at their memory limit", ""
    if n_ends == 1:
        who = "1 worker ended at its memory limit"
    if n_asked == 1:
        who, often = "its worker ended at its memory limit", f" {n_ends} times" if n_ends > 1 else ""
    ran = f", last with task {deaths['task']}" if deaths["task"] else ""
    limit = as_typed(typed, deaths["limit_bytes"])
    if n_asked == 1:
        return f"{who} of {limit}{often} ({at}){ran}; for more memory, start it with a larger memory_limit"
    return f"{who} of {limit} ({at}){ran}; more memory each: start it with a larger memory_limit, or with fewer workers"


def cluster_html(row: ClusterRow, command: str) -> str:
    """Return the HTML of a cluster in a notebook: state, workers, memory, dashboard link, what to type at home."""
    typed = row.get("memory_typed") or ""
    memory = memory_used(row.get("memory_bytes"), row.get("memory_limit_bytes"), typed)
    facts: list[tuple[str, str]] = [("State", html.escape(str(row["state"])))]
    if row.get("n_workers") is not None:
        facts.append(("Workers", f"{row['n_workers']} with {row['n_threads']} threads"))
        facts.append(("Memory", memory.replace(" of ", " used of ") if row.get("memory_limit_bytes") else "no limit"))
    told = [(word, row.get(key)) for word, key in (("Size", "explained"), ("Reason", "reason"), ("Note", "note"))]
    facts += [(word, html.escape(str(text))) for word, text in told if text]
    if row["state"] == "running":
        link = html.escape(str(row["link"]), quote=True)
        facts.append(("At home, type", command_html(command, row.get("command_note"))))
        facts.append(("Dashboard there", f'<a href="{link}" target="_blank" rel="noopener">{link}</a>'))
    return html_table(f"Cluster {row['name']}", facts)


def command_html(command: str, note: str | None) -> str:
    """Return the HTML of what to type at home, with a note."""
    return f"<code>{html.escape(command)}</code>" + (f" ({html.escape(note)})" if note else "")


def html_table(title: str, facts: Iterable[tuple[str, str]]) -> str:
    """Return a table with a title. Each value must be HTML already."""
    cell = '<tr><th style="text-align: left">{}</th><td style="text-align: left">{}</td></tr>'
    lines = "".join(cell.format(html.escape(name), value) for name, value in facts)
    return f"<div><strong>{html.escape(title)}</strong><table>{lines}</table></div>"


def _day(moment: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))
