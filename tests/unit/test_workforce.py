"""Which workers are made again: decided without a clock."""

from __future__ import annotations

import sys
from pathlib import Path

import ports

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import workforce
from ports_owner.workforce import Seen

RUNS, STARTS, ENDED = Seen(False, True, 10), Seen(False, False, 11), Seen(True, False, None)


def test_a_worker_whose_nanny_ended_is_made_again_at_once() -> None:
    seen = {0: RUNS, 1: ENDED}
    assert workforce.lost(seen, workforce.absent(seen, {}, 5.0), 5.0) == [1]


def test_a_worker_that_was_killed_twice_is_left_to_its_nanny() -> None:
    away: workforce.Absent = {}
    for now, pid in ((0.0, None), (0.5, 20), (14.8, None), (15.3, 21), (15.9, 21)):  # each start has its own clock
        seen = {0: Seen(False, False, pid)}
        away = workforce.absent(seen, away, now)
        assert workforce.lost(seen, away, now) == []
        assert away[0] == (pid, 15.3 if pid == 21 else now)


def test_a_process_that_stays_absent_is_replaced() -> None:
    seen = {0: STARTS}
    away = workforce.absent(seen, {}, 0.0)
    later = workforce.absent(seen, away, 59.0)
    assert (later, workforce.lost(seen, later, 59.0)) == (away, [])
    assert workforce.lost(seen, workforce.absent(seen, later, 61.0), 61.0) == [0]


def test_a_worker_that_came_back_is_forgotten_as_absent() -> None:
    assert workforce.absent({0: RUNS}, {0: (10, 1.0)}, 99.0) == {}
