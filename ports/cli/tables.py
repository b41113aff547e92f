"""Rows → a table, or the lines of one row. Pure: no clock, no disk, no environment."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ports.errors import harmless
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
    "resource": (
        ("NAME", "name"),
        ("STATE", "state"),
        ("RUNNING", "n_running"),
        ("WAITING", "n_pending"),
        ("SLOTS", "n_slots"),
        ("SINCE", "since"),
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
    "shell": (
        ("NAME", "name"),
        ("STATE", "state"),
        ("RUNS", "program"),
        ("SINCE", "since"),
        ("TERMINALS", "terminals"),
        ("DIRECTORY", "directory"),
    ),
    "job": (
        ("ID", "id"),
        ("NAME", "name"),
        ("STATE", "state"),
        ("QUEUE", "queue"),
        ("AGE", "age"),
        ("RAN", "ran"),
        ("PEAK", "peak"),
        ("SIZE", "size"),
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
_PORT_HERE = re.compile(r"(?:127\.0\.0\.1|\[::1\])(:\d+)")
_LEFT_OUT = ("SIZE",)  # where there is no room for it; `show` has it
_BELOW = ("NOTE", "LINK AT HOME", "LINK", "DIRECTORY", "ROOT", "FROM")  # what goes on below its row, in this order
_WORD = re.compile(r"(?:`[^`]*`|\S)+")  # a command in backticks is one
# What `show` says in other words, or not at all.
_HIDDEN = {
    "where",
    "from",
    "here",
    "what",
    "received",
    "note",
    "other",
    "started_at",
    "stopped_at",
    "guard",
    "asleep",
    "ends_at",
    "command_note",
}
# How it calls what is not understood from its key.
_CALLED = {
    "command": "at home",
    "explained": "size",
    "link": "link at home",
    "managed": "started by ports",
    "n_asked": "workers asked for",
    "n_running": "tasks running",
    "open_to_network": "open to other machines",
}
_LIMITS = {"idle": "hours without work", "expire": "days without use"}
# a string that YAML reads as one without quotes, unless it is among these
_PLAIN = re.compile(r"([A-Za-z]|\.{0,2}/|~/)[\w/.+-]*", re.ASCII)
_NO_STRINGS = ("null", "true", "false", "yes", "no", "on", "off", "y", "n", "~", ".inf", ".nan")
_LEAST = 12  # columns that a shortened cell keeps
_FOLDED = {"NOTE": 28, "VALUE": 20}  # columns that a cell of sentences has at least, if it stays in its row


def cells(row: Mapping[str, Any], now: float) -> dict[str, str]:
    """Return the texts of `row` for a table, including those that combine several values."""
    is_over = row.get("state") == "stopped"  # since then, where that is known
    started = row.get("stopped_at") if is_over else row.get("started_at") or row.get("since")
    made = {
        "since": duration(now - started) if isinstance(started, int | float) else "",
        "memory": memory_used(row.get("memory_bytes"), row.get("memory_limit_bytes"), row.get("memory_typed") or ""),
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
    if row.get("kind") == "setting":
        made["value"] = as_yaml(row.get("value"))
    texts = {key: _text(value) for key, value in row.items()} | made
    return {key: harmless(text, lines=False) for key, text in texts.items()}


def table(rows: Sequence[Mapping[str, Any]], kind: str, now: float, *, with_host: bool = False) -> list[list[str]]:
    """Return the heading and the lines of a table, without empty columns; `with_host` names the host of each row."""
    columns = COLUMNS[kind] if not with_host else (("HOST", "host"), *COLUMNS[kind])
    texts = [cells(row, now) for row in rows]
    used = [(heading, key) for heading, key in columns if any(text.get(key) for text in texts)]
    return [[heading for heading, _ in used], *([text.get(key, "") for _, key in used] for text in texts)]


def fit(lines: Sequence[Sequence[str]], columns: int) -> list[list[str]]:
    """Return a table for a terminal of `columns`: places are shortened first, then sentences are folded in their row.

    What still has no room goes on below its row, in a line of one cell. Links and words stay whole, so a line can still
    be longer.
    """
    whole = [list(line) for line in lines]
    if not whole or _width(whole) <= columns:
        return whole
    kept = [index for index, heading in enumerate(whole[0]) if heading not in _LEFT_OUT]
    whole = [[line[index] for index in kept] for line in whole]
    if _width(whole) <= columns:
        return whole
    movable = [heading for heading in _BELOW if heading in whole[0]]
    movable += sorted((one for one in reversed(whole[0][2:]) if one not in movable), key="STATE".__eq__)
    for n in range(len(movable) + 1):
        beside = [index for index, heading in enumerate(whole[0]) if heading not in movable[:n]]
        made = _folded(_with_short_places([[line[index] for index in beside] for line in whole], columns), columns)
        if _width([line for row in made for line in row]) <= columns:
            break
    return [
        line
        for row, cells in zip(made, whole, strict=True)
        for line in [*row, *_below(cells, whole[0], beside, columns)]
    ]


def _with_short_places(lines: list[list[str]], columns: int) -> list[list[str]]:
    """Return lines whose places are as short as they must be, where a folded cell takes as little as it can."""
    for heading in _SHORTENED:
        least = [[_least(text, name) for text, name in zip(line, lines[0], strict=True)] for line in lines]
        if heading not in lines[0] or (excess := _width(least) - columns) <= 0:
            continue
        n = lines[0].index(heading)
        if heading == "WHERE":  # before a part of a port is lost
            lines = [[_PORT_HERE.sub(r"\1", text) if n == i else text for i, text in enumerate(line)] for line in lines]
            least = [[*some[:n], line[n], *some[n + 1 :]] for some, line in zip(least, lines, strict=True)]
            excess = _width(least) - columns
        widest = max(len(heading), _LEAST, max(width(line[n]) for line in lines) - excess)
        lines = [[_shortened(text, widest) if n == i else text for i, text in enumerate(line)] for line in lines]
    return lines


def _least(text: str, heading: str) -> str:
    """Return a text as wide as the cell `text` has to be at least: no word and no command in it is broken."""
    if heading not in _FOLDED:
        return text
    return "x" * min(width(text), max(_FOLDED[heading], longest_word(text)))


def _folded(lines: list[list[str]], columns: int) -> list[list[list[str]]]:
    """Return the lines of each row; where there is no room beside the others, sentences go on in lines below."""
    rows = [[line] for line in lines]
    for heading in _FOLDED:
        if heading not in lines[0] or (excess := _width(lines) - columns) <= 0:
            continue
        n = lines[0].index(heading)
        least = max(width(_least(line[n], heading)) for line in lines)
        room = max(least, max(width(line[n]) for line in lines) - excess)
        parts = [wrap(line[n], room) for line in lines]
        rows = [
            [
                [*line[:n], some[0], *line[n + 1 :]],
                *([*[""] * n, part, *[""] * (len(line) - n - 1)] for part in some[1:]),
            ]
            for line, some in zip(lines, parts, strict=True)
        ]
        lines = [row[0] for row in rows]
    return rows


def _below(cells: Sequence[str], headings: Sequence[str], beside: Sequence[int], columns: int) -> list[list[str]]:
    """Return what goes on below a row: a line of one cell for each text, or several."""
    if list(cells) == list(headings):
        return []
    moved = [(headings[index], text) for index, text in enumerate(cells) if text and index not in beside]
    short = [f"{heading.lower()} {text}" for heading, text in moved if heading not in (*_BELOW, *_SHORTENED)]
    places = [f"{heading.lower()} {text}" for heading, text in moved if heading in _SHORTENED]
    spoken = [text for heading, text in moved if heading in _BELOW and heading not in _SHORTENED]
    return [
        [f"    {line}"]
        for text in (", ".join(short), *places, *spoken)
        if text
        for line in wrap(text, max(_LEAST, columns - 4))
    ]


def _width(lines: Sequence[Sequence[str]]) -> int:
    return sum(max(map(width, column)) + 2 for column in zip(*lines, strict=True)) - 2


def width(text: str) -> int:
    """Return how many columns of a terminal `text` takes: a Chinese character takes two."""
    if text.isascii():
        return len(text)
    from unicodedata import combining, east_asian_width

    return sum(0 if combining(one) else 2 if east_asian_width(one) in "WF" else 1 for one in text)


def longest_word(text: str) -> int:
    """Return the columns of what `wrap` keeps whole in `text`."""
    return max(map(width, _WORD.findall(text)), default=0)


def wrap(text: str, columns: int, indent: str = "") -> list[str]:
    """Return `text` as lines of at most `columns`; no word is broken, and no command in backticks that fits a line."""
    if width(text) <= columns:
        return [text]
    lines = [re.match(" *", text)[0]]  # type: ignore[index]
    for word in _WORD.findall(text):
        for part in [word] if width(word) <= columns - len(indent) else word.split():
            if lines[-1].strip() and width(f"{lines[-1]} {part}") > columns:
                lines.append(indent + part)
            else:
                lines[-1] += f" {part}" if lines[-1].strip() else part
    return lines


def link_lines(cells: tuple[str, str, str], note: str, *, widths: tuple[int, int], columns: int | None) -> list[str]:
    """Return the lines of a link of `ports open`: host, what it is, the link, and its note.

    Parameters
    ----------
    widths : tuple of int
        Those of host and what, so that lines align.
    columns : int, optional
        Width of the terminal: what does not fit goes on below. Default: no limit.
    """
    cells = (harmless(cells[0], lines=False), harmless(cells[1], lines=False), harmless(cells[2], lines=False))
    note = harmless(note, lines=False)
    begin = "  ".join(text + " " * (room - width(text)) for text, room in zip(cells, widths, strict=False))
    line, said = f"{begin}  {cells[2]}", f"  ({note})" if note else ""
    if columns is None or width(line + said) <= columns:
        return [line + said]
    first = [line] if width(line) <= columns else [begin.rstrip(), f"    {cells[2]}"]
    return [*first, *(wrap(f"    ({note})", columns, "    ") if note else [])]


def _shortened(text: str, columns: int) -> str:
    """Return the two ends of `text`, the greater part of them the last one."""
    if width(text) <= columns:
        return text
    begin, end = text, text
    while width(begin) > (columns - 1) // 3:
        begin = begin[:-1]
    while width(end) > columns - 1 - width(begin):
        end = end[1:]
    return f"{begin}…{end}"


def plain(lines: Sequence[Sequence[str]]) -> str:
    """Return a table as text, its columns aligned, without colours; a line of one cell stays as it is."""
    if not lines:
        return ""
    rows = [line for line in lines if len(line) == len(lines[0])]
    widths = [max(map(width, column)) for column in zip(*rows, strict=True)]
    padded = (
        "  ".join(text + " " * (most - width(text)) for text, most in zip(line, widths, strict=False)) for line in lines
    )
    return "\n".join(line.rstrip() for line in padded)


def details(row: Mapping[str, Any], now: float, columns: int | None = None) -> str:
    """Return one row as lines of ``key: value``, without empty values; in a terminal of `columns`, folded behind it."""
    texts = cells(row, now) | {key: _in_words(key, value) for key, value in row.items()}
    told = {key: text for key, text in texts.items() if not key.endswith(("_bytes", "_typed"))}  # in the cell "memory"
    found = {key: text for key, text in told.items() if text and key not in _HIDDEN}
    if found.get("n_asked") == found.get("n_workers"):
        found.pop("n_asked", None)
    if row.get("command_note"):
        found["command"] += f"  ({row['command_note']})"
    shown = {_CALLED.get(key, key.removeprefix("n_").replace("_", " ")): text for key, text in found.items()}
    if row.get("note"):  # the reason has a line of its own
        shown["note"] = str(row["note"])
    shown = {harmless(key, lines=False): harmless(text, lines=False) for key, text in shown.items()}
    begins = max((len(key) for key in shown), default=0) + 2
    lines = []
    for key, text in shown.items():
        is_whole = columns is None or text.startswith("tmux ")  # a command that is copied
        parts = [text] if is_whole else wrap(text, max(_LEAST, (columns or 0) - begins))
        lines += [f"{key + ':':<{begins}}{parts[0]}", *(" " * begins + part for part in parts[1:])]
    return "\n".join(lines)


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


def _in_words(key: str, value: Any) -> str:
    """Return a value as ``show`` tells it to people; ``--json`` has it as it is."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if key in _LIMITS and isinstance(value, int | float):
        return f"after {value:g} {_LIMITS[key]}" if value else "never"
    if isinstance(value, list | tuple):
        return "; ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else _text(value)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_text(part)}" for key, part in value.items())
    return "" if value is None else str(value)


def as_yaml(value: Any) -> str:
    """Return a value of a setting as it is typed into a file of settings, in one line."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{as_yaml(str(key))}: {as_yaml(part)}" for key, part in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(as_yaml, value)) + "]"
    if isinstance(value, str) and _PLAIN.fullmatch(value) and value.lower() not in _NO_STRINGS:
        return value
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"')
        return (
            '"' + "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in escaped) + '"'
        )
    if isinstance(value, float):
        return _yaml_number(value)
    return json.dumps(value, default=str)


def _yaml_number(value: float) -> str:
    """Return a number as YAML 1.1 reads it: with a point, or by its own words for what is not finite."""
    if not math.isfinite(value):
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    digits, exponent, power = repr(value).partition("e")
    return f"{digits}{'' if '.' in digits or not exponent else '.0'}{exponent}{power}"


def _what(row: Mapping[str, Any]) -> str:
    kind, name = row.get("kind"), row.get("name")
    return str(name or "") if kind in (None, "tunnel") else f"{kind} {name or ''}".strip()


def _note(row: Mapping[str, Any]) -> str:
    notes = [row.get("error"), row.get("reason"), row.get("note")]
    notes += [warning.partition("; ")[0] for warning in row.get("warnings") or []]  # without how to close it
    # another column names the host
    return "; ".join(str(note).removeprefix(f"{row.get('host')}: ") for note in notes if note)
