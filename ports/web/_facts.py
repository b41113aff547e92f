"""Values of a host's documents → words and numbers for the page. Pure.

A host says what it wants: another version, another user's names, nothing at all. So a value of another type than
expected counts as unknown, and text is without control characters. An unknown value is None and shows as nothing.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ports.errors import harmless
from ports.probe import duration

_UNITS = ("B", "KiB", "MiB", "GiB", "TiB")
_CODE = re.compile(r"`([^`]{1,400})`")
_LONGEST = 400  # characters of a text that the page shows
_MOST = 1e300


class Said(NamedTuple):
    """A piece of a sentence; code is what somebody can type."""

    text: str
    is_code: bool


class Mark(NamedTuple):
    """A state: its word, and the class that gives colour and shape."""

    word: str
    style: str


_STYLES = {
    "ok": ("running", "open", "connected", "finished", "resting"),
    "busy": ("starting", "scaling", "connecting", "stopping", "draining"),
    "off": ("stopped", "ended", "closed", "nothing", "pending", "cancelled"),
    "warn": ("needs login", "silent", "lost"),
    "bad": ("down", "error", "failed"),
}
_STYLE_OF = {word: style for style, words in _STYLES.items() for word in words}


def finite(value: Any) -> float | None:
    """Return a number that is finite and not negative, else None."""
    return float(value) if type(value) in (int, float) and 0 <= value < _MOST else None


def number(document: Any, key: str) -> float | None:
    """Return a finite number of a document that is not negative, else None."""
    return finite(document.get(key)) if isinstance(document, Mapping) else None


def text(document: Any, key: str) -> str:
    """Return a text in one line without control characters; empty where there is none."""
    value = document.get(key) if isinstance(document, Mapping) else None
    return plain(value) if isinstance(value, str) else ""


def plain(value: str) -> str:
    """Return a text as the page shows it: one line, without control characters, of a bounded length."""
    made = harmless(value, lines=False).encode("utf-8", "replace").decode()
    return made if len(made) <= _LONGEST else made[: _LONGEST - 1] + "…"


def rows(document: Any, key: str) -> list[Mapping[str, Any]]:
    """Return the rows that a document lists."""
    value = document.get(key) if isinstance(document, Mapping) else None
    found = value if isinstance(value, Sequence) and not isinstance(value, str | bytes) else ()
    return [one for one in found if isinstance(one, Mapping)]


def part(document: Any, key: str) -> Mapping[str, Any]:
    """Return a document within a document; empty where there is none."""
    value = document.get(key) if isinstance(document, Mapping) else None
    return value if isinstance(value, Mapping) else {}


def sentences(document: Any, key: str) -> list[list[Said]]:
    """Return the sentences that a document lists, in pieces."""
    value = document.get(key) if isinstance(document, Mapping) else None
    found = value if isinstance(value, list | tuple) else ()
    return [said(plain(one)) for one in found if isinstance(one, str)]


def numbers(document: Any, key: str) -> list[float]:
    """Return the numbers that a document lists."""
    value = document.get(key) if isinstance(document, Mapping) else None
    found = [finite(one) for one in value] if isinstance(value, list | tuple) else []
    return [one for one in found if one is not None]


def points(document: Any, key: str, columns: int, *, since: float, most: int = 120) -> list[list[float | None]]:
    """Return the points of a history since a time, each a time and then numbers or None; of many, at most `most`.

    A history of a day has 5,760 points, in the order of their times: those that are not drawn are not read.
    """
    value = document.get(key) if isinstance(document, Mapping) else None
    if not isinstance(value, list | tuple):
        return []
    first = len(value)
    while first and (_time(value[first - 1]) or math.inf) >= since:
        first -= 1
    n = len(value) - first
    step = max(1, -(-n // most))
    chosen = value[first + (n - 1) % step :: step] if n else ()
    return [[finite(item) for item in one[:columns]] for one in chosen if _time(one) and len(one) >= columns]


def _time(point: Any) -> float | None:
    return finite(point[0]) if isinstance(point, list | tuple) and point else None


def ago(then: float | None, now: float) -> str:
    """Return for how long something has been so: ``3 d``; empty where that is unknown."""
    return "" if then is None or then <= 0 else duration(now - then)


def count(value: float | None, noun: str = "") -> str:
    """Return a number with its noun: ``18,432 tasks``, ``1 task``; empty for None."""
    if value is None:
        return ""
    made = f"{int(value):,}"
    return made if not noun else f"{made} {noun}" + ("" if int(value) == 1 else "s")


def pair(value: float | None, whole: float | None) -> str:
    """Return a size of a larger one, in one unit where both have the same: ``212 of 288 GiB``."""
    if value is None:
        return ""
    if not whole:
        return short_size(value)
    unit = _unit(whole)
    if value and _unit(value) < unit and value * 100 < whole:
        return f"{short_size(value)} of {short_size(whole)}"
    return f"{_in(value, unit)} of {_in(whole, unit)} {_UNITS[unit]}"


def short_size(n_bytes: float | None) -> str:
    """Return bytes in three digits: ``212 GiB``, ``9.5 GiB``; empty for None."""
    if n_bytes is None:
        return ""
    unit = _unit(n_bytes)
    return f"{_in(n_bytes, unit)} {_UNITS[unit]}"


def _unit(n_bytes: float) -> int:
    unit = 0
    while unit < len(_UNITS) - 1 and n_bytes >= 1000 * 1024**unit:
        unit += 1
    return unit


def _in(n_bytes: float, unit: int) -> str:
    made = n_bytes / 1024**unit
    return f"{made:,.0f}" if unit == 0 or made >= 99.95 or made == 0 else f"{made:.1f}"


def said(sentence: str) -> list[Said]:
    """Return the pieces of a sentence; between backticks is code.

    >>> [piece.text for piece in said("start it with `ports notebook start`")]
    ['start it with ', 'ports notebook start']
    """
    pieces = _CODE.split(sentence)
    return [Said(piece, n % 2 == 1) for n, piece in enumerate(pieces) if piece]


def mark(word: str) -> Mark:
    """Return how a state is shown: as word, colour and shape. A state that no table has is shown as it is."""
    return Mark(word or "unknown", _STYLE_OF.get(word, "unknown"))
