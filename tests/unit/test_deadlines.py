"""Waiting with a limit."""

from __future__ import annotations

import time

import pytest

from ports.errors import TimedOutError
from ports.state.waiting import wait_until


def test_what_is_there_is_returned_at_once() -> None:
    started = time.monotonic()
    assert wait_until(lambda: 7, timeout=60, what="seven") == 7
    assert time.monotonic() - started < 0.5


@pytest.mark.parametrize("found", [0, "", False, []])
def test_all_but_none_is_something(found: object) -> None:
    assert wait_until(lambda: found, timeout=0, what="anything") is found


def test_it_polls_until_something_comes() -> None:
    answers = iter([None, None, "there"])
    assert wait_until(lambda: next(answers), timeout=5, what="it", every=0.001) == "there"


def test_a_timeout_of_zero_polls_once() -> None:
    polled = []
    with pytest.raises(TimedOutError):
        wait_until(lambda: polled.append(1), timeout=0, what="it")
    assert polled == [1]


def test_the_error_names_what_was_awaited_and_how_long() -> None:
    started = time.monotonic()
    with pytest.raises(
        TimedOutError, match=r"^timed out after 0\.1 s waiting for scheduler of cluster 'main'$"
    ) as caught:
        wait_until(lambda: None, timeout=0.1, what="scheduler of cluster 'main'", every=30)
    assert 0.1 <= time.monotonic() - started < 5  # the last pause is cut short
    assert caught.value.exit_code == 6


def test_the_last_poll_is_after_the_deadline() -> None:
    """What came during the last pause is not missed."""
    started = time.monotonic()
    assert wait_until(lambda: True if time.monotonic() - started >= 0.1 else None, timeout=0.1, what="it", every=30)


def test_an_error_of_the_poll_goes_through() -> None:
    with pytest.raises(ZeroDivisionError):
        wait_until(lambda: 1 // 0, timeout=5, what="it")
