"""The views of hosts → what the templates show. Pure: no clock, no disk, no network.

A view is what `ports.tunnels.watch` gives for a host. What a host says is text from elsewhere: it is read as
`ports.web._facts` does, and the templates escape it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ports.web import _facts, _machine_view, _plots, _things
from ports.web._facts import Mark, Said, mark, number, part, said, text
from ports.web._pages import machine as machine
from ports.web._pages import thing as thing
from ports.web._sheets import sheet as sheet


@dataclass(frozen=True, kw_only=True)
class Host:
    """The section of a host in the overview."""

    id: str
    name: str
    here: bool
    href: str
    start: str | None
    can_open_all: bool
    condition: Mark | None
    reason: list[Said]
    way_out: str
    seen: str
    is_dim: bool
    is_new: bool
    heading: list[str]
    jobs: list[str]
    bars: list[_machine_view.Bar] = field(default_factory=list)
    curves: list[_plots.Curve] = field(default_factory=list)
    gpus: list[_machine_view.Gpu] = field(default_factory=list)
    things: list[_things.Thing] = field(default_factory=list)
    warnings: list[list[Said]] = field(default_factory=list)


def overview(views: Sequence[Mapping[str, Any]], now: float) -> dict[str, Any]:
    """Return what the overview shows: a section for each host, in the order of `views`."""
    found = [host(view, now) for view in views if isinstance(view, Mapping)]
    names = " ".join(one.name for one in found if not one.here)
    commands = [f"ports list {names}".strip(), "ports who", "ports tunnel list"]
    return {"hosts": found, "commands": commands, "is_alone": not names}


def host(view: Mapping[str, Any], now: float) -> Host:
    """Return the section of one host."""
    name, usage = text(view, "host"), part(view, "machine")
    condition, seen_at = text(view, "condition") or "unknown", number(view, "seen_at")
    is_connected, things = condition == "connected", _things.things(view, now)
    return Host(
        id=_things.ident("h", name),
        name=name,
        here=bool(view.get("here")),
        href=_things.address("machine", host=name),
        start=_things.address("sheet", verb="start", host=name, kind="host") if is_connected else None,
        can_open_all=any(one.can_open and one.kind in ("cluster", "notebook") for one in things),
        condition=None if is_connected else mark(condition),
        reason=[] if is_connected else said(text(view, "reason")),
        way_out="" if is_connected else text(view, "way_out").strip("`"),
        seen=_seen(condition, seen_at, now),
        is_dim=not is_connected,
        is_new=seen_at is None and not things and not usage,
        heading=_machine_view.heading(usage),
        jobs=_jobs(view),
        bars=_machine_view.bars(usage) if usage else [],
        curves=_machine_view.hour(usage, part(view, "history"), now),
        gpus=_machine_view.gpus(usage),
        things=things,
        warnings=_facts.sentences(view, "warnings"),
    )


def _seen(condition: str, seen_at: float | None, now: float) -> str:
    if condition == "connected" or seen_at is None:
        return ""
    return f"Seen {_facts.ago(seen_at, now)} ago."


def _jobs(view: Mapping[str, Any]) -> list[str]:
    """Return how many jobs run, wait and failed, in words."""
    counts = part(part(view, "jobs"), "counts")
    return [
        f"{_facts.count(value)} {state}"
        for state in ("running", "pending", "error", "lost")
        if (value := number(counts, state))
    ]


def first_run(aliases: Sequence[str]) -> dict[str, Any]:
    """Return what the first page asks: which of the hosts of ``~/.ssh/config`` somebody uses."""
    return {"aliases": [_facts.plain(one) for one in aliases]}
