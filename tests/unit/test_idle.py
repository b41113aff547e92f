"""What a cluster that nobody uses does, and when: decided without a clock."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ports

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import idle as idle_policy
from ports_owner import idle_rules as idle

HOUR, DAY = 3600.0, 86400.0
USUAL = idle.Limits(12 * HOUR, 14 * DAY)


def seen(quiet: float, **more: Any) -> Any:
    return idle.Seen(**{"quiet": quiet, "taskless": quiet, "holds_results": False, "has_workers": True, **more})


@pytest.mark.parametrize(
    ("what", "due"),
    [
        (seen(11 * HOUR), None),
        (seen(12 * HOUR), "sleep"),
        (seen(12 * HOUR, has_workers=False), None),
        (seen(12 * HOUR, holds_results=True), "spill"),
        (seen(13 * HOUR, holds_results=True, is_spilled=True), None),
        (seen(11 * DAY, has_workers=False), "notice"),
        (seen(12 * DAY, has_workers=False, is_noticed=True), None),
        (seen(14 * DAY, holds_results=True, is_noticed=True), "expire"),
        (seen(0, taskless=14 * DAY), "expire"),  # somebody has connected, and that is no task
        (seen(0, taskless=11 * DAY), "notice"),
        (seen(13 * HOUR, taskless=12 * DAY, is_noticed=True), "sleep"),
    ],
)
def test_what_is_due_follows_from_the_time_without_tasks(what: Any, due: str | None) -> None:
    assert idle.due(what, USUAL) == due
    assert due is None or idle.may_be_due(what.quiet, what.taskless, USUAL)


def test_zero_is_never() -> None:
    assert idle.due(seen(1000 * DAY), idle.Limits(0, 0)) is None
    assert idle.due(seen(1000 * DAY), idle.Limits(HOUR, 0)) == "sleep"
    assert idle.due(seen(1000 * DAY), idle.Limits(0, DAY)) == "expire"


@given(st.floats(0, 1e7), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_results_that_are_held_keep_their_workers(
    quiet: float, workers: bool, spilled: bool, noticed: bool, expires: bool
) -> None:
    found = idle.due(idle.Seen(quiet, quiet, True, workers, spilled, noticed), idle.Limits(HOUR, DAY if expires else 0))
    assert found != "sleep"


def test_the_notice_comes_days_before_and_for_short_limits_a_quarter() -> None:
    assert USUAL.notice == 3 * DAY
    assert idle.Limits(0, 2 * DAY).notice == DAY / 2


def test_the_date_of_the_end_follows_the_clock_on_the_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    rest = object.__new__(idle_policy.IdlePolicy)
    rest.limits, rest.task_at, rest.last_task = idle.Limits(0, 14 * DAY), time.monotonic() - 13 * DAY, time.time() - DAY
    assert abs(rest.ends_at() - time.time() - DAY) < 10  # the machine was asleep, or its clock was set
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1000 * DAY)
    assert abs(rest.ends_at() - now - 1001 * DAY) < 10
    rest.limits = idle.Limits(0, 0)
    assert rest.ends_at() is None


def test_looks_are_as_seldom_as_the_limits_allow() -> None:
    assert USUAL.look_every == 20
    assert idle.Limits(10, 0).look_every == 0.5
    assert idle.Limits(0, 0).look_every == 20


def test_only_what_is_nowhere_on_a_worker_counts_as_nothing_held() -> None:
    assert not idle.holds_results(["erred", "released"])
    assert not idle.holds_results([])
    for state in ("memory", "processing", "waiting", "no-worker", "queued"):
        assert idle.holds_results(["erred", state])


@given(st.text(max_size=200), st.integers(0, 9999))
def test_a_held_result_has_a_file_name_of_its_own(key: str, number: int) -> None:
    name = idle.file_name(key, number)
    assert "/" not in name and "\0" not in name and not name.startswith(".")
    assert name.startswith(f"{number:04d}-") and len(name.encode()) < 256
