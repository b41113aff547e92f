"""The numbers of a cluster over time: decisions without a cluster."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace as Some

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.clusters.owner.ports_owner.history import History, Pace, limit_of, memory_of, n_ended

COUNTS = st.lists(st.tuples(st.floats(0.01, 100), st.integers(0, 1000)), min_size=1, max_size=30)


def scheduler(*memory: int, ended: int = 0) -> Some:
    """Return what a history reads of a scheduler."""
    prefix = Some(state_counts=defaultdict(int, memory=ended, erred=1, processing=7))
    workers = [Some(metrics={"memory": one}, memory_limit=100 + one) for one in memory]
    return Some(workers=dict(enumerate(workers)), task_prefixes={"inc": prefix})


@given(steps=COUNTS)
def test_a_pace_lies_between_the_slowest_and_the_fastest(steps: list[tuple[float, int]]) -> None:
    pace, now, count = Pace(10.0), 0.0, 0
    rates = [0.0]
    for wait, more in steps:
        before, (now, count) = (now, count), (now + wait, count + more)
        rates.append((count - before[1]) / wait)
        assert 0 <= pace.see(now, count) <= max(rates) + 0.001
        assert len(pace.seen) <= 10.0 / 0.5 + 2


def test_a_pace_is_the_mean_of_the_last_seconds_and_ends_with_the_tasks() -> None:
    pace = Pace(10.0)
    assert pace.see(0.0, 0) == 0
    assert pace.see(0.1, 500) == 0  # too soon for a mean
    assert pace.see(2.0, 500) == 250
    assert pace.see(10.0, 500) == 50
    assert pace.see(30.0, 500) == 0


def test_a_count_that_falls_is_a_pace_of_nothing() -> None:
    pace = Pace(10.0)
    pace.see(0.0, 100)
    assert pace.see(5.0, 20) == 0


@pytest.mark.parametrize(
    ("memory", "expected"), [([], None), ([5], [5, 5, 5]), ([9, 1], [1, 9, 9]), ([3, 1, 2], [1, 2, 3])]
)
def test_memory_is_that_of_the_least_the_middle_and_the_most(memory: list[int], expected: list[int] | None) -> None:
    workers = scheduler(*memory).workers.values()
    assert memory_of(workers) == expected
    assert limit_of(workers) == (100 + min(memory) if memory else None)
    assert limit_of([Some(memory_limit=0)]) is None


def test_a_point_has_workers_memory_limit_and_pace(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    monkeypatch.setattr("time.time", lambda: 1e9 + now[0])
    one = scheduler(30, 10, 20)
    history = History(one)
    assert n_ended(one) == 1
    for ended in (29, 59):
        now[0] += 15
        one.task_prefixes["inc"].state_counts["memory"] = ended
        history.sample()
    one.workers.clear()
    now[0] += 15
    history.sample()
    assert history.ring.after(1e9 + 1015) == [
        [1e9 + 1030, 3, 10, 20, 30, 110, 2],
        [1e9 + 1045, 0, None, None, None, None, 0],
    ]
    assert history.summary([])["worker_memory_bytes"] is None
