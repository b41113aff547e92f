"""Rows → a table, or the lines of one row. Pure: no clock, no disk, no environment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ports.probe import duration, memory_used, size

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
    "setting": (("SETTING", "name"), ("VALUE", "value"), ("FROM", "from")),
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


_SHORTENED = ("WHERE", "DIRECTORY", "ROOT", "FROM")  # a path is known by its end
_LEAST = 12  # columns that a shortened cell keeps


def cells(row: Mapping[str, Any], now: float) -> dict[str, str]:
    """Return the texts of `row` for a table, including those that combine several values."""
    started = row.get("started_at") or row.get("since")
    made = {
        "since": duration(now - started) if isinstance(started, int | float) else "",
        "memory": memory_used(row.get("memory_bytes"), row.get("memory_limit_bytes")),
        "where": _where(row),
        "here": link_here(row) or "",
        "what": _what(row),
        "received": size(row.get("received_bytes")),
        "note": _note(row),
        "from": str(row.get("source") or row.get("state") or ""),
        "other": ""
        if row.get("name")
        else str(row.get("owner") or ""),  # nothing else is known of another user's listener
    }
    return {key: _text(value) for key, value in row.items()} | made


def table(rows: Sequence[Mapping[str, Any]], kind: str, now: float, *, with_host: bool = False) -> list[list[str]]:
    """Return the heading and the lines of a table, without empty columns; `with_host` names the host of each row."""
    columns = COLUMNS[kind] if not with_host else (("HOST", "host"), *COLUMNS[kind])
    texts = [cells(row, now) for row in rows]
    used = [(heading, key) for heading, key in columns if any(text.get(key) for text in texts)]
    return [[heading for heading, _ in used], *([text.get(key, "") for _, key in used] for text in texts)]


def fit(lines: Sequence[Sequence[str]], columns: int) -> list[list[str]]:
    """Return a table for a terminal of `columns`: places are shortened first, then the last column goes on below.

    Links and words stay whole, so a line can still be longer.
    """
    made = [list(line) for line in lines]
    for heading in _SHORTENED:
        if not made or heading not in made[0] or (excess := _width(made) - columns) <= 0:
            continue
        n = made[0].index(heading)
        widest = max(len(heading), _LEAST, max(len(line[n]) for line in made) - excess)
        for line in made:
            line[n] = _shortened(line[n], widest)
    if made and made[0] and made[0][-1] == "NOTE" and _width(made) > columns:
        made = _folded(made, max(_LEAST, columns - _width([line[:-1] for line in made]) - 2))
    return made


def _width(lines: Sequence[Sequence[str]]) -> int:
    return sum(max(map(len, column)) + 2 for column in zip(*lines, strict=True)) - 2


def _shortened(text: str, width: int) -> str:
    """Return the two ends of `text`, the greater part of them the last one."""
    if len(text) <= width:
        return text
    begin = (width - 1) // 3
    return f"{text[:begin]}…{text[len(text) - (width - 1 - begin) :]}"


def _folded(lines: Sequence[Sequence[str]], width: int) -> list[list[str]]:
    """Return lines whose last cell goes on, between words, in lines below."""
    import textwrap

    made = []
    for *first, note in lines:
        parts = textwrap.wrap(note, width, break_long_words=False, break_on_hyphens=False) or [""]
        made += [[*first, parts[0]], *([*("" for _ in first), part] for part in parts[1:])]
    return made


def plain(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as text, its columns aligned, without colours."""
    if not lines:
        return ""
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    padded = ("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def details(row: Mapping[str, Any], now: float) -> str:
    """Return one row as lines of ``key: value``, without empty values."""
    texts = cells(row, now)
    hidden = ("where", "from", "here", "what", "received", "note", "other", "started_at", "guard", "asleep", "ends_at")
    shown = {key: text for key, text in texts.items() if text and key not in hidden and not key.endswith("_bytes")}
    if row.get("note"):  # the reason has a line of its own
        shown["note"] = str(row["note"])
    width = max((len(key) for key in shown), default=0) + 1
    return "\n".join(f"{key + ':':<{width}} {text}" for key, text in shown.items())


def link_here(row: Mapping[str, Any]) -> str | None:
    """Return where a tunnel's row is reached on this machine, a link or ``unix:PATH``; None where nowhere."""
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
    notes += [warning.partition("; ")[0] for warning in row.get("warnings") or []]  # without how to close it
    # another column names the host
    return "; ".join(str(note).removeprefix(f"{row.get('host')}: ") for note in notes if note)
