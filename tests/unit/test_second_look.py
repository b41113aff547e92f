"""A cluster that has just started looks again: was another one first, of which its size did not know?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ports.clusters import _scheduler
from ports.errors import DaskError
from ports.machine import fair_share
from ports.probe import promises
from tests.unit.test_owner import recorded
from tests.unit.test_promises import Owner, name, owner

GIB = 1 << 30


@pytest.fixture
def two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Owner, Owner]]:
    """Two clusters that are promised memory; the second was published later."""
    monkeypatch.setattr(promises, "DIRECTORY", str(tmp_path))
    with owner(tmp_path / name(9)) as first, owner(tmp_path / name(1)) as second:
        yield first, second


def cluster(path: Path, **changes: Any) -> Any:
    """Return a cluster that has just started, with the promise at `path`."""
    size = {"n_workers": 1, "threads_per_worker": 1, "memory_limit": 8 * GIB, "divided_bytes": 8 * GIB}
    record = recorded(**size, promise=str(path), **changes)
    running = SimpleNamespace(process=SimpleNamespace(pid=1))
    return SimpleNamespace(refresh=lambda: None, record=record, name="main", running=running, found=SimpleNamespace())


def test_the_later_one_of_two_that_did_not_know_of_each_other_yields(tmp_path: Path, two: tuple[Owner, Owner]) -> None:
    early, late = (_scheduler._came_second(cluster(tmp_path / name(n)).record, ()) for n in (9, 1))
    assert (early, late) == (False, True)


def test_a_renewed_promise_is_not_taken_for_a_new_one(tmp_path: Path, two: tuple[Owner, Owner]) -> None:
    first, second = two
    second.do("8 16 4")  # it lends: this one is the last that changes
    first.do("8 16 5")
    record = cluster(tmp_path / name(9)).record
    assert not _scheduler._came_second(record, ())  # it was there first all the same
    record = cluster(tmp_path / name(1)).record
    assert not _scheduler._came_second(record, {str(tmp_path / name(9))})  # its size reckoned with the other


@pytest.mark.parametrize("error", [OSError(5, "Input/output error"), DaskError("scale failed"), KeyError("pid")])
def test_a_second_look_that_fails_ends_no_start(
    tmp_path: Path, two: tuple[Owner, Owner], monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fails(**_: Any) -> fair_share.Room:
        raise error

    monkeypatch.setattr(_scheduler.machine, "room", fails)
    now = cluster(tmp_path / name(1))
    found, said = _scheduler.look_again(now, None, ())
    assert found is now and said is not None and "cluster 'main' runs, but" in said and str(error) in said
