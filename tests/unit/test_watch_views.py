"""A history of bounded length, and cores that are reckoned from two looks: pure."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ports.probe.agent.view import compare
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
    found = {
        1: Process(0, 0, b"old", 300, 5),
        2: Process(0, 0, b"new", 50, 900),
        3: Process(0, 0, b"new", 100, 900),
    }
    compare(before, found, 2.0)
    assert [one.cores for one in found.values()] == [1.0, 0.25, 0.5]
