"""What a cluster without tasks lends of its promise, and what it takes back."""

from __future__ import annotations

import sys
from pathlib import Path

import ports
from ports.clusters import _text

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import lending_rules as rules

GiB, MiB = 1 << 30, 1 << 20
WHOLE = (4, 8, 8 * GiB)


def test_a_cluster_without_tasks_is_promised_what_it_holds() -> None:
    assert rules.kept(WHOLE, 700 * MiB) == (4, 0, 704 * MiB, 8 * GiB - 704 * MiB)
    assert rules.kept(WHOLE, 9 * GiB) == (4, 0, 8 * GiB, 0)  # never more than before
    assert rules.kept((0, 0, 0), 0) == (0, 0, 0, 0)


def test_a_full_cluster_has_nothing_to_lend() -> None:
    assert rules.is_worth(WHOLE, 2 * GiB)
    assert not rules.is_worth(WHOLE, 7 * GiB + 512 * MiB)
    assert not rules.is_worth((2, 2, 0), 100 * MiB)  # workers without a limit are promised no bytes


def test_what_others_are_promised_and_do_not_use_is_not_free() -> None:
    assert rules.free(10 * GiB, [3 * GiB, 0]) == 7 * GiB
    assert rules.free(8 * GiB, [1 << 60]) == GiB  # a false promise leaves an eighth


def test_tasks_bring_the_full_limit_back_where_it_is_free() -> None:
    assert rules.limit_of_each(4, 2 * GiB, GiB, 20 * GiB) == 2 * GiB
    assert rules.limit_of_each(4, 2 * GiB, GiB, 3 * GiB) == GiB
    assert rules.limit_of_each(4, 2 * GiB, 0, 0) == 256 * MiB


def test_lent_memory_and_smaller_limits_are_shown() -> None:
    assert _text.cluster_note({"lent_bytes": 3 * GiB}) == (
        "without tasks it lends 3.0 GiB of its memory to others until tasks come"
    )
    assert _text.cluster_note({"reduced": {"limit_bytes": GiB, "full_bytes": 2 * GiB}}) == (
        "not all of its memory is free, so its workers have 1.0 GiB instead of 2.0 GiB each"
    )
