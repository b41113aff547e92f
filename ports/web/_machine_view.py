"""The usage of a machine → bars with a legend, curves and GPUs. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ports.web import _facts, _plots
from ports.web._facts import number, pair, part, rows, short_size, text

_LITTLE = 0.002  # of the memory: users with less who compute nothing are counted, not named
_COLOURS = 4  # tones of others; the fifth and later share the last
_HOUR = 3600.0


class Entry(NamedTuple):
    """A line of a legend: the class of its colour, a name and the rest."""

    style: str
    name: str
    words: str


class Bar(NamedTuple):
    """A stacked bar with its legend; `summary` says the same to somebody who does not see it."""

    title: str
    parts: list[_plots.Part]
    legend: list[Entry]
    summary: str


class Gpu(NamedTuple):
    """A GPU: its name, a bar, and who uses it."""

    name: str
    model: str
    parts: list[_plots.Part]
    words: str


class User(NamedTuple):
    """What one user, or several together, have of a machine."""

    style: str
    name: str
    memory: float
    cores: float
    promised: float
    unfilled: float


def users(usage: Mapping[str, Any]) -> list[User]:
    """Return those who use a machine: me first, people by memory, those with little together, then the system."""
    total = number(usage, "memory_bytes") or 0.0
    people = [one for one in rows(usage, "users") if one.get("is_person") or one.get("is_me")]
    system = [one for one in rows(usage, "users") if one not in people]
    people.sort(key=lambda one: (not one.get("is_me"), -(number(one, "memory_bytes") or 0.0), text(one, "user")))
    named = [one for one in people if one.get("is_me") or _is_much(one, total)]
    few = [one for one in people if one not in named]
    made = []
    for place, one in enumerate(named):
        style = "you" if one.get("is_me") else f"u{min(_COLOURS, place + (0 if named[0].get('is_me') else 1))}"
        made.append(_user(style, "you" if one.get("is_me") else text(one, "user") or "unnamed", [one]))
    if few:
        made.append(_user("few", f"{len(few)} with little", few))
    unseen = number(usage, "unseen_bytes") or 0.0
    unseen_cores = number(usage, "unseen_cores") or 0.0
    rest = _user("system", "system", system)
    rest = rest._replace(memory=rest.memory + unseen, cores=rest.cores + unseen_cores)
    if usage.get("hidden"):
        rest = rest._replace(name="others, hidden")
    return [*made, rest] if rest.memory or rest.cores else made


def _user(style: str, name: str, some: Sequence[Mapping[str, Any]]) -> User:
    def total(key: str) -> float:
        return sum(number(one, key) or 0.0 for one in some)

    return User(style, name, total("memory_bytes"), total("cores"), total("promised_bytes"), sum(map(_unfilled, some)))


def _unfilled(one: Mapping[str, Any]) -> float:
    """Return the bytes that a user's clusters are promised and do not use yet."""
    said = number(one, "unfilled_bytes")
    if said is not None:
        return said
    held = number(one, "held_bytes")
    return 0.0 if held is None else max(0.0, (number(one, "promised_bytes") or 0.0) - held)


def _is_much(one: Mapping[str, Any], total: float) -> bool:
    return bool(
        (number(one, "memory_bytes") or 0.0) >= _LITTLE * total
        or (number(one, "cores") or 0.0) >= 0.05
        or number(one, "promised_bytes")
    )


def bars(usage: Mapping[str, Any]) -> list[Bar]:
    """Return the bars of memory and cores, by user; what clusters are promised is hatched."""
    there = users(usage)
    memory = [(amount, style) for one in there for amount, style in _memory(one)]
    cores = [(one.cores, one.style) for one in there]
    memory_legend = [Entry(one.style, one.name, _memory_words(one)) for one in there if one.memory or one.promised]
    cores_legend = [Entry(one.style, one.name, f"{one.cores:.1f}") for one in there if one.cores >= 0.05]
    total, n_cores = number(usage, "memory_bytes"), number(usage, "n_cores")
    return [
        Bar("Memory", _plots.bar(memory, total), memory_legend, f"Memory of {short_size(total)}"),
        Bar("Cores", _plots.bar(cores, n_cores), cores_legend, f"{_facts.count(n_cores, 'core')}"),
    ]


def _memory(one: User) -> list[tuple[float, str]]:
    return [(one.memory, one.style), (one.unfilled, f"promised {one.style}")]


def _memory_words(one: User) -> str:
    if not one.promised:
        return short_size(one.memory)
    if one.memory > one.promised:
        return f"{short_size(one.memory)}, {short_size(one.promised)} promised"
    return f"{pair(one.memory, one.promised)} promised"


def heading(usage: Mapping[str, Any]) -> list[str]:
    """Return what is free in a few words: ``68.2 of 96 cores busy``, ``241 of 754 GiB free``."""
    n_cores, busy = number(usage, "n_cores"), number(usage, "busy_cores")
    made = [f"{min(busy, n_cores):.1f} of {n_cores:g} cores busy"] if busy is not None and n_cores else []
    free = pair(number(usage, "available_bytes"), number(usage, "memory_bytes"))
    return [*made, f"{free} free"] if free else made


def gpus(usage: Mapping[str, Any]) -> list[Gpu]:
    """Return the GPUs of a machine."""
    mine = {text(one, "user") for one in rows(usage, "users") if one.get("is_me")}
    return [_gpu(one, place, mine) for place, one in enumerate(rows(usage, "gpus"))]


def _gpu(one: Mapping[str, Any], place: int, mine: set[str]) -> Gpu:
    total, used, busy = number(one, "memory_bytes"), number(one, "used_bytes"), number(one, "busy")
    shares = part(one, "users")
    owners = sorted((name for name in shares if isinstance(name, str)), key=lambda name: -(number(shares, name) or 0.0))
    amounts = [(number(shares, name), "you" if name in mine else "u1") for name in owners]
    names = ", ".join("you" if name in mine else _facts.plain(name) for name in owners)
    words = [pair(used, total), "" if busy is None else f"{min(busy, 100.0):.0f} % busy", names]
    index = number(one, "index")
    is_used = bool(owners or busy)
    return Gpu(
        f"GPU {place if index is None else int(index)}",
        text(one, "name"),
        _plots.bar(amounts or [(used, "u1")] if is_used else [], total),
        ", ".join(filter(None, words)) if is_used else "free",
    )


def hour(usage: Mapping[str, Any], history: Mapping[str, Any], now: float) -> list[_plots.Curve]:
    """Return the curves of memory and cores over the last hour, each in its part of the whole; [] without history."""
    span = _plots.span(now, _HOUR)
    there = _facts.points(history, "machine", 3, since=span[0])
    total, n_cores = number(usage, "memory_bytes"), number(usage, "n_cores")
    if len(there) < _plots.LEAST or not total or not n_cores:
        return []
    return [
        _plots.line([(one[0] or 0.0, one[1]) for one in there], span, total, "memory"),
        _plots.line([(one[0] or 0.0, one[2]) for one in there], span, n_cores, "cores"),
    ]


def pressure(usage: Mapping[str, Any]) -> list[str]:
    """Return for which part of the last ten seconds tasks waited for something, in words; [] where that is unknown."""
    names = (
        ("cpu_some", "cores"),
        ("memory_some", "memory"),
        ("memory_full", "memory (all tasks)"),
        ("io_some", "disks"),
    )
    found = [(name, value) for key, name in names if (value := number(part(usage, "pressure"), key)) is not None]
    waited = [f"{name} {value:.1f} %" for name, value in found if value >= 0.05]
    return waited or (["nothing"] if found else [])
