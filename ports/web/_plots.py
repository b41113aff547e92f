"""Points → what an inline SVG draws: widths of bars and paths, as text of numbers. Pure.

A bar is drawn with widths in percent, a curve in a box that its place stretches. No text of a host gets in here, only
numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple, TypeVar

#: The box of a curve: its place stretches it, and lines keep their width.
WIDTH, HEIGHT = 240.0, 60.0
_MOST_POINTS = 120
#: How many points there are at least before a curve is drawn: a minute.
LEAST = 4
_STEP = 15.0  # seconds between two points of a history
_Point = TypeVar("_Point", bound=tuple[Any, ...])


class Part(NamedTuple):
    """One part of a bar: where it begins and how long it is, in percent, and its class."""

    x: str
    width: str
    style: str


class Curve(NamedTuple):
    """One path of a plot and its class."""

    d: str
    style: str


def span(now: float, seconds: float) -> tuple[float, float]:
    """Return the last `seconds`, in steps of a point: a drawing stays the same until there is another point."""
    end = math.ceil(now / _STEP) * _STEP
    return end - seconds, end


def bar(amounts: Iterable[tuple[float | None, str]], total: float | None) -> list[Part]:
    """Return the parts of a bar, one behind the other; together they never exceed it.

    >>> bar([(1, "you"), (9, "other")], 4)
    [Part(x='0%', width='25%', style='you'), Part(x='25%', width='75%', style='other')]
    """
    if not total or not math.isfinite(total) or total <= 0:
        return []
    parts, at = [], 0.0
    for amount, style in amounts:
        if amount is None or not math.isfinite(amount) or amount <= 0:
            continue
        end = min(100.0, at + 100.0 * amount / total)
        if end - at >= 0.05:
            parts.append(Part(f"{_short(at)}%", f"{_short(end - at)}%", style))
        at = end
    return parts


def line(points: Sequence[tuple[float, float | None]], span: tuple[float, float], top: float, style: str) -> Curve:
    """Return a line through points of a time and a value; a gap where a value is missing."""
    pieces: list[str] = []
    drawing = False
    for when, value in thinned(points, span):
        if value is None or not math.isfinite(value):
            drawing = False
            continue
        pieces.append(f"{'L' if drawing else 'M'}{_x(when, span)} {_y(value, top)}")
        drawing = True
    return Curve("".join(pieces), style)


def band(
    points: Sequence[tuple[float, float | None, float | None]], span: tuple[float, float], top: float, style: str
) -> Curve:
    """Return the area between a lower and an upper value over time, in one piece for each stretch without a gap."""
    pieces: list[str] = []
    stretch: list[tuple[float, float, float]] = []
    ended: tuple[float, float | None, float | None] = (span[1], None, None)
    for when, low, high in [*thinned(points, span), ended]:
        if low is not None and high is not None and math.isfinite(low) and math.isfinite(high):
            stretch.append((when, low, high))
            continue
        if len(stretch) > 1:
            there = [f"{_x(at, span)} {_y(upper, top)}" for at, _, upper in stretch]
            back = [f"{_x(at, span)} {_y(lower, top)}" for at, lower, _ in reversed(stretch)]
            pieces.append(f"M{'L'.join([*there, *back])}Z")
        stretch = []
    return Curve("".join(pieces), style)


def level(value: float | None, top: float, style: str) -> Curve:
    """Return a line across the whole box, for a limit; empty where there is none."""
    if value is None or not math.isfinite(value):
        return Curve("", style)
    at = _y(value, top)
    return Curve(f"M0 {at}L{_short(WIDTH)} {at}", style)


def round_top(value: float) -> float:
    """Return the least of 1, 2, 5 × 10ⁿ that is not below `value`: the top of a scale.

    >>> [round_top(one) for one in (0, 0.3, 7, 120)]
    [1.0, 0.5, 10.0, 200.0]
    """
    if not math.isfinite(value) or value <= 0:
        return 1.0
    power = 10.0 ** math.floor(math.log10(value))
    return next((step * power for step in (1.0, 2.0, 5.0) if step * power >= value), 10.0 * power)


def thinned(points: Sequence[_Point], span: tuple[float, float]) -> list[_Point]:
    """Return the points within `span`, in order of time and at most `_MOST_POINTS`, the newest among them."""
    inside = sorted((one for one in points if span[0] <= one[0] <= span[1]), key=lambda one: one[0])
    if len(inside) <= _MOST_POINTS:
        return inside
    step = -(-len(inside) // _MOST_POINTS)
    return inside[(len(inside) - 1) % step :: step]


def _x(when: float, span: tuple[float, float]) -> str:
    return _short(WIDTH * (when - span[0]) / ((span[1] - span[0]) or 1.0))


def _y(value: float, top: float) -> str:
    return _short(HEIGHT * (1.0 - min(1.0, max(0.0, value / (top or 1.0)))))


def _short(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
