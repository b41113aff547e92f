"""What is said of workers that ended at their memory limit."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import ports
from ports.clusters import _text
from ports.clusters._documents import MemoryDeaths

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import memory_deaths
from ports_owner.memory_deaths import Death

LIMIT = 381 << 20


def test_four_ends_at_the_limit_are_one_sentence() -> None:
    at = time.mktime((2026, 11, 30, 21, 5, 0, 0, 0, -1))
    found = memory_deaths.summary([Death(at - 9, LIMIT, None)] * 3 + [Death(at, LIMIT, "hog")], at + 60)
    assert found is not None
    told: MemoryDeaths = {"n_workers": 4, "limit_bytes": LIMIT, "at": at, "task": "hog"}
    assert found == told
    assert _text.cluster_note({"memory_deaths": told}) == (
        "4 workers ended at their memory limit of 381.0 MiB (21:05), last with task hog; more memory each: start it "
        "with a larger memory_limit, or with fewer workers"
    )
    exact: MemoryDeaths = {**told, "limit_bytes": 400_000_000}
    assert _text.memory_note(exact, "400MB").startswith("4 workers ended at their memory limit of 400MB (21:05)")


def test_the_end_of_the_only_worker_advises_no_fewer_workers() -> None:
    at = time.mktime((2026, 11, 30, 21, 5, 0, 0, 0, -1))
    told: MemoryDeaths = {"n_workers": 4, "limit_bytes": LIMIT, "at": at, "task": "hog"}
    assert _text.cluster_note({"memory_deaths": told, "n_workers": 1, "n_asked": 1}) == (
        "its worker ended at its memory limit of 381.0 MiB 4 times (21:05), last with task hog; for more memory, start "
        "it with a larger memory_limit"
    )
    assert _text.memory_note({**told, "n_workers": 1}, n_asked=1).startswith(
        "its worker ended at its memory limit of 381.0 MiB (21:05)"
    )


def test_an_end_of_yesterday_is_no_longer_told() -> None:
    assert memory_deaths.summary([], 0.0) is None
    assert memory_deaths.summary([Death(0.0, LIMIT, "hog")], 86401.0) is None


def test_missing_workers_are_told_until_they_are_there() -> None:
    assert _text.cluster_note({"n_workers": 1, "n_asked": 2}) == "1 of 2 workers run; the others are starting"
    assert _text.cluster_note({"n_workers": 2, "n_asked": 2}) is None
