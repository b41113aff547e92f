"""A history of bounded length, and cores that are reckoned from two looks: pure."""

from __future__ import annotations

import os
import sys
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.probe.agent import view
from ports.probe.programs.who import Process
from ports.probe.ring import Ring

POINTS = st.lists(st.tuples(st.floats(1, 1e9), st.one_of(st.none(), st.integers(0, 2**50))), max_size=30)


@given(points=POINTS, most=st.integers(1, 8), since=st.floats(0, 1e9))
def test_a_history_keeps_the_newest_points_in_their_order(
    points: list[tuple[float, int | None]], most: int, since: float
) -> None:
    ring = Ring(1, most)
    for at, value in points:
        ring.add(at, value)
    kept = ring.after(0)
    assert len(ring) == len(kept) <= most
    assert [one[0] for one in kept] == sorted({one[0] for one in kept})
    assert ring.after(since) == [one for one in kept if one[0] > since]
    if points:
        assert kept[-1] == [round(points[-1][0], 1), points[-1][1]]


def test_a_clock_that_is_set_back_takes_later_points_along() -> None:
    ring = Ring(1)
    for at in (10, 20, 30, 15):
        ring.add(at, at)
    assert ring.after() == [[10, 10], [15, 15]]


def test_what_home_calls_the_last_point_can_be_anything() -> None:
    ring = Ring(2)
    ring.add(10.04, 0.5, None)
    for since in (None, "yesterday", [], 0, -1.0):
        assert ring.after(since) == [[10, 0.5, None]]


def test_a_day_of_points_takes_a_bounded_number_of_bytes() -> None:
    ring = Ring(6)
    for at in range(20_000):
        ring.add(at, *range(6))
    assert len(ring) == 5760 and ring.numbers.itemsize * len(ring.numbers) < 400_000


def test_cores_are_reckoned_from_the_look_before_and_a_reused_pid_is_new() -> None:
    before = {1: Process(0, 0, b"old", 100, 5), 2: Process(0, 0, b"gone", 100, 5)}
    for one in before.values():
        one.at = 8.0  # it was not read in the look at 9.0
    found = {
        1: Process(0, 0, b"old", 300, 5),
        2: Process(0, 0, b"new", 50, 900),
        3: Process(0, 0, b"new", 100, 900),
    }
    for pid, one in found.items():
        view.measure_since(before.get(pid), one, 9.0, 10.0)
    assert [one.cores for one in found.values()] == [1.0, 0.5, 1.0]


class Table:
    """A process table that counts how often each process is read."""

    def __init__(self, n: int) -> None:
        self.ticks: dict[int, int] = dict.fromkeys(range(1, n + 1), 0)
        self.kernel = [100, 101]  # threads of it
        self.reads: Counter[int] = Counter()

    def process(self, pid: int) -> Process | None:
        """Read one."""
        self.reads[pid] += 1
        return Process(0, 0, b"sleep", self.ticks[pid], 1) if self.ticks.get(pid) is not None else None


@pytest.fixture
def table(monkeypatch: pytest.MonkeyPatch) -> Table:
    found = Table(80)
    monkeypatch.setattr(view, "pids", lambda: [*found.ticks, *found.kernel])
    monkeypatch.setattr(view, "process", found.process)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(view, "TICKS", 100.0)
    return found


def test_processes_that_rest_are_read_once_in_eight_looks(table: Table) -> None:
    sight = view.Sight()
    sight.at = 0.0
    table.ticks[7] += 20  # it computes
    sight.read(1.0, 0.2, True)
    sight.at = 1.0
    table.reads.clear()
    for at in range(2, 10):
        table.ticks[7] += 20
        sight.read(float(at), 0.3, False)
        sight.at = float(at)
    assert table.reads.pop(7) == 8
    assert set(table.reads.values()) == {1} and len(table.reads) == 79 + len(table.kernel)
    assert sight.found[7].cores == 0.2 and len(sight.found) == 80


def test_cores_that_nobody_explains_are_looked_for_at_once(table: Table) -> None:
    sight = view.Sight()
    sight.at = 0.0
    for at in range(1, 4):
        sight.read(float(at), 3.0, at == 1)  # the kernel's own threads, say: read again, they explain nothing
        sight.at = float(at)
    table.reads.clear()
    table.ticks[33] += 200
    sight.read(5.0, 5.0, False)
    assert 0.5 < sight.found[33].cores <= 1.0 and len(table.reads) >= 80


def test_cores_that_short_commands_keep_busy_cost_few_full_looks(table: Table) -> None:
    sight = view.Sight()
    sight.at = 0.0
    for at in range(1, 18):
        sight.read(float(at), 8.0 + at, at == 1)  # more and more of them
        sight.at = float(at)
    assert sum(table.reads.values()) < 80 * 7


def test_a_process_that_ended_is_gone_at_the_next_look(table: Table) -> None:
    sight = view.Sight()
    sight.at = 0.0
    sight.read(1.0, 0.0, True)
    del table.ticks[5]
    sight.read(2.0, 0.0, False)
    assert 5 not in sight.found and len(sight.found) == 79


def test_a_second_look_within_a_moment_says_the_same() -> None:
    sight = view.Sight()
    first = sight.look()
    assert sight.look() is first
    sight.at -= 1.0
    second = sight.look()
    mine = [one["n_processes"] for told in (first, second) for one in told["users"] if one["uid"] == os.getuid()]
    assert second is not first and len(mine) == 2 and all(mine)
    assert second["seconds"] >= 1.0
