"""A cluster that adapts: its bounds, and each step."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import ports
from ports.clusters import _options, _scheduler, _text
from ports.errors import OverpromisedError, UsageError
from ports.machine import fair_share
from tests.unit.test_owner import recorded

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))

from ports_owner.adapt_rules import Bounds, Memory, fitting, step

GIB = 1 << 30


@pytest.mark.parametrize(
    ("wanted", "n_workers", "n_low", "found"),
    [
        (3, 1, 0, (3, 0)),  # more at once
        (9, 1, 0, (4, 0)),  # no more than the maximum
        (0, 3, 0, (3, 1)),  # fewer only after three looks in a row
        (0, 3, 1, (3, 2)),
        (0, 3, 2, (1, 0)),
        (3, 3, 2, (3, 0)),
        (0, 1, 2, (1, 0)),
        (0, 9, 0, (4, 1)),  # more than the maximum are never kept
    ],
)
def test_more_workers_come_at_once_and_fewer_stay_later(
    wanted: int, n_workers: int, n_low: int, found: tuple[int, int]
) -> None:
    assert step(wanted, n_workers, Bounds(1, 4, 3), n_low) == found


@pytest.mark.parametrize(
    ("target", "n_workers", "memory", "found"),
    [
        (4, 0, Memory(GIB, 0, 9 * GIB, 9 * GIB), 4),
        (4, 0, Memory(GIB, 0, 2 * GIB, 9 * GIB), 2),  # no more than is free
        (4, 2, Memory(GIB, GIB, 2 * GIB, 2 * GIB), 3),  # the two that run will fill theirs
        (4, 3, Memory(GIB, GIB, 0, 0), 3),  # what runs stays
        (4, 0, Memory(GIB, 0, 0, 2 * GIB), 1),  # promised to others, and not used: one worker always comes
        (4, 0, Memory(GIB, 0, 0, GIB // 2), 0),
        (4, 0, Memory(0, 0, 0, 0), 4),  # without a limit nothing can be reckoned
        (1, 3, Memory(GIB, 0, 0, 0), 1),  # fewer need no memory
    ],
)
def test_a_cluster_that_adapts_grows_into_free_memory_only(
    target: int, n_workers: int, memory: Memory, found: int
) -> None:
    assert fitting(target, n_workers, memory) == found


def test_show_says_why_an_adapting_cluster_has_fewer_workers() -> None:
    short = {"wanted": 4, "fitting": 2, "limit_bytes": GIB, "free_bytes": 2 * GIB + 1}
    told = _text.cluster_note({"adapts": {"minimum": 0, "maximum": 4, "short": short}})  # type: ignore[typeddict-item]
    assert str(told).endswith("; 4 workers of 1.0 GiB are wanted, but only 2.0 GiB are free, so there are 2")


def test_a_cluster_that_adapts_between_0_and_0_keeps_no_worker() -> None:
    assert step(5, 0, Bounds(0, 0), 0) == (0, 0) and step(5, 2, Bounds(0, 0, 1), 0) == (0, 0)


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({}, (0, 3)),
        ({"maximum": math.inf}, (0, 3)),
        ({"minimum": 1, "maximum": 5}, (1, 5)),
        ({"minimum": 0, "maximum": 0}, (0, 0)),
        ({"minimum": 7}, (7, 7)),
        ({"minimum_cores": 3, "maximum_cores": 9}, (2, 4)),
        ({"minimum_memory": 1500, "maximum_memory": 4500}, (2, 4)),
    ],
)
def test_bounds_are_those_of_local_cluster(asked: dict[str, Any], found: tuple[int, int]) -> None:
    record = recorded(n_workers=3, threads_per_worker=2, memory_limit=1000)
    assert _options.adapt_bounds(record, asked) == found


@pytest.mark.parametrize("asked", [{"minimum": -1}, {"minimum": 3, "maximum": 2}, {"maximum": 1.5}])
def test_bounds_that_are_no_numbers_of_workers_are_refused(asked: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=r"minimum|maximum"):
        _options.adapt_bounds(recorded(n_workers=3), asked)


def test_show_says_between_which_numbers_a_cluster_adapts() -> None:
    told = _text.cluster_note({"adapts": {"minimum": 0, "maximum": 4}})
    assert told == "adapts between 0 and 4 workers, until it is scaled"


def test_a_cluster_that_divides_its_memory_adapts_to_no_more_than_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    record = recorded(n_workers=2, threads_per_worker=1, memory_limit=GIB, divided_bytes=2 * GIB, most_memory=GIB)
    running = SimpleNamespace(process=SimpleNamespace(pid=1))
    now: Any = SimpleNamespace(refresh=lambda: None, record=record, name="main", running=running, summary=None)
    room = fair_share.Room(cores=8, memory_bytes=32 * GIB, available_bytes=30 * GIB)
    monkeypatch.setattr(_scheduler.machine, "room", lambda **_: room)
    monkeypatch.setattr(_scheduler, "with_promises", lambda _: ())
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(_scheduler, "_call", lambda *_, **arguments: asked.append(arguments))
    with pytest.raises(OverpromisedError, match="1000 workers"):
        _scheduler.adapt(now, {"maximum": 1000}, 1.0, 5.0, 3)
    assert asked == []
