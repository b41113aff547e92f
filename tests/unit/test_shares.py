"""The default size of a cluster is a fair share: decided from numbers alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports import probe
from ports.clusters import _options
from ports.errors import OverpromisedError
from ports.machine import fair_share
from ports.machine.fair_share import Other, Room, Size

GIB = 1 << 30
BYTES = st.integers(0, 2000 * GIB)
OTHERS = st.lists(
    st.builds(
        Other,
        user=st.sampled_from(["bob", "carol"]),
        memory_bytes=BYTES,
        cores=st.floats(0, 200),
        promised_bytes=BYTES,
        promised_threads=st.integers(0, 10**9),
        held_bytes=st.none() | BYTES,
    ),
    max_size=6,
).map(tuple)
ROOMS = st.builds(
    Room,
    cores=st.integers(1, 256),
    memory_bytes=st.integers(GIB, 2000 * GIB),
    available_bytes=st.integers(0, GIB),
    others=OTHERS,
    limit_bytes=st.none() | st.integers(GIB // 4, 3000 * GIB),
    limit_left_bytes=st.none() | st.integers(0, GIB // 4),
    usable_cores=st.none() | st.floats(0.1, 256),
    hidden=st.booleans(),
    unseen_bytes=BYTES,
    unseen_cores=st.floats(0, 256),
    promised_bytes=BYTES,
    unfilled_bytes=BYTES,
    inside_bytes=st.none() | BYTES,
)


def asked(**given: Any) -> dict[str, Any]:
    return {"n_workers": None, "threads_per_worker": None, "memory_limit": None, **given}


def other(user: str, **has: float) -> Other:
    sized = {key: int(value * GIB) if key.endswith("bytes") else value for key, value in has.items()}
    return Other(user=user, **sized)  # type: ignore[arg-type]


TWO = (other("bob", memory_bytes=32, cores=8.0), other("carol", memory_bytes=30, cores=8.0))
SHARED = Room(cores=24, memory_bytes=128 * GIB, available_bytes=64 * GIB, others=TWO)
ALONE = Room(cores=8, memory_bytes=32 * GIB, available_bytes=30 * GIB)


def same(size: Size) -> tuple[int, int, float]:
    return size.n_workers, size.threads_per_worker, round(size.memory_limit / GIB, 2)


def test_the_size_is_explained_in_a_line() -> None:
    size = fair_share.decide(SHARED, asked(threads_per_worker=1))
    assert size.explained == "8 workers × 1 thread, 4.0 GiB each: half of 64.0 GiB available, two others active"
    assert fair_share.decide(ALONE, asked()).explained == (
        "4 workers × 2 threads, 6.8 GiB each: nine tenths of 30.0 GiB available, nobody else active"
    )


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, (4, 2, 6.75)),
        ({"n_workers": 2}, (2, 4, 13.5)),
        ({"n_workers": 1, "threads_per_worker": 1}, (1, 1, 3.38)),  # an eighth: seven more would fit beside it
        ({"n_workers": 16}, (16, 1, 1.69)),
        ({"n_workers": 0}, (0, 2, 6.75)),  # those that are scaled to later
        ({"threads_per_worker": 3}, (2, 3, 13.5)),
        ({"memory_limit": 10 * GIB}, (2, 4, 10.0)),
        ({"memory_limit": 0}, (4, 2, 0.0)),
        ({"n_workers": 3, "threads_per_worker": 1, "memory_limit": GIB}, (3, 1, 1.0)),
        ({"n_workers": "all"}, (4, 2, 8.0)),
    ],
)
def test_what_is_not_asked_for_is_filled_in(given: dict[str, Any], expected: tuple[int, int, float]) -> None:
    assert same(fair_share.decide(ALONE, asked(**given))) == expected


def test_what_my_other_clusters_are_promised_makes_a_default_smaller() -> None:
    mine = replace(ALONE, promised_bytes=28 * GIB, promised_threads=6)
    size = fair_share.decide(mine, asked())
    assert same(size) == (2, 1, 2.0) and not size.warnings
    assert "the rest of 32.0 GiB, because 28.0 GiB are promised to your other clusters, nobody else" in size.explained
    full = fair_share.decide(replace(ALONE, promised_bytes=32 * GIB, promised_threads=8), asked())
    assert same(full) == (1, 1, 0.25) and "the minimum, because 32.0 GiB are promised" in full.explained
    assert "of the 32.0 GiB that you can use, your other clusters are promised 32.0 GiB" in full.warnings[0]


def test_an_eighth_of_the_cores_is_left_beside_my_other_clusters() -> None:
    room = replace(ALONE, cores=96, promised_threads=96)
    size = fair_share.decide(room, asked())
    assert size.n_workers * size.threads_per_worker == 12
    assert fair_share.decide(room, asked(n_workers="all", threads_per_worker=4)).n_workers == 24


def test_all_is_never_more_than_is_refused() -> None:
    room = replace(ALONE, available_bytes=20 * GIB, others=(other("bob", promised_bytes=8, held_bytes=4),))
    size = fair_share.decide(room, asked(n_workers="all"))
    assert size.promised_bytes == 28 * GIB and "except what clusters of others use" in size.explained
    fair_share.check(room, size.n_workers, size.memory_limit)


def test_clusters_outside_of_a_job_do_not_count_for_its_limit() -> None:
    job = replace(ALONE, limit_bytes=8 * GIB, limit_left_bytes=8 * GIB, promised_bytes=16 * GIB)
    assert fair_share.decide(replace(job, inside_bytes=0), asked()).promised_bytes == pytest.approx(7.2 * GIB, rel=0.01)
    fair_share.check(replace(job, inside_bytes=GIB), 1, 7 * GIB)
    with pytest.raises(OverpromisedError, match=r"8\.0 GiB that you can use here, of which 1\.0 GiB are promised"):
        fair_share.check(replace(job, inside_bytes=GIB), 1, 8 * GIB)


def test_all_with_gpus_is_all_memory_for_a_worker_per_gpu() -> None:
    assert same(fair_share.decide(ALONE, asked(n_workers=2), takes_all=True)) == (2, 4, 16.0)


@given(room=ROOMS)
def test_a_default_promises_at_most_what_there_is_or_one_least_worker(room: Room) -> None:
    size = fair_share.decide(room, asked())
    assert size.promised_bytes <= max(room.left_bytes, fair_share.LEAST_WORKER)


def test_threads_of_one_process_are_one_worker() -> None:
    assert same(fair_share.decide(ALONE, asked(), processes=False)) == (1, 8, 27.0)


@pytest.mark.parametrize(("n", "expected"), [(1, (1, 1)), (4, (4, 1)), (7, (7, 1)), (8, (4, 2)), (96, (12, 8))])
def test_threads_are_divided_as_dask_does(n: int, expected: tuple[int, int]) -> None:
    from distributed.deploy.utils import nprocesses_nthreads

    assert fair_share.split(n) == expected == nprocesses_nthreads(n)


def test_little_memory_makes_fewer_workers_and_not_small_ones() -> None:
    room = Room(cores=64, memory_bytes=256 * GIB, available_bytes=5 * GIB)
    assert same(fair_share.decide(room, asked())) == (4, 16, 1.12)


def test_who_uses_next_to_nothing_is_not_active() -> None:
    room = Room(cores=8, memory_bytes=32 * GIB, available_bytes=30 * GIB, others=(other("bob", memory_bytes=0.1),))
    assert fair_share.decide(room, asked()) == fair_share.decide(ALONE, asked())


def test_idle_users_leave_their_cores_to_those_who_compute() -> None:
    busy = Room(cores=12, memory_bytes=GIB * 64, available_bytes=GIB * 60, others=(other("bob", cores=40.0),))
    assert fair_share.decide(busy, asked(threads_per_worker=1)).n_workers == 6
    light = Room(cores=12, memory_bytes=GIB * 64, available_bytes=GIB * 60, others=(other("bob", cores=2.0),))
    assert fair_share.decide(light, asked(threads_per_worker=1)).n_workers == 10


def test_what_is_promised_and_filled_is_counted_once() -> None:
    def share(held: float) -> int:
        bob = other("bob", memory_bytes=held, promised_bytes=20, held_bytes=held)
        room = Room(cores=8, memory_bytes=64 * GIB, available_bytes=int((60 - held) * GIB), others=(bob,))
        return fair_share.decide(room, asked()).promised_bytes

    assert share(0) == share(20) == 20 * GIB


@pytest.mark.parametrize(("filled", "left"), [(0, 262), (100, 262), (250, 262), (300, 212)])
def test_what_hidden_clusters_fill_of_their_promises_is_counted_once(filled: int, left: int) -> None:
    alice = replace(other("alice", promised_bytes=250), held_bytes=None)
    available = (512 - filled) * GIB
    room = Room(cores=8, memory_bytes=512 * GIB, available_bytes=available, others=(alice,), hidden=True)
    assert fair_share.free(replace(room, unseen_bytes=filled * GIB)) == left * GIB


def test_memory_of_hidden_processes_counts_as_one_other_user() -> None:
    room = Room(cores=24, memory_bytes=512 * GIB, available_bytes=112 * GIB, unseen_bytes=400 * GIB, unseen_cores=20.0)
    assert "nobody else active" in fair_share.decide(room, asked()).explained  # the kernel's own
    hidden = replace(room, hidden=True)
    size = fair_share.decide(hidden, asked(threads_per_worker=1))
    assert same(size) == (12, 1, 4.67)
    assert ": half of 112.0 GiB available, one other active as far as can be seen" in size.explained
    little = replace(hidden, available_bytes=504 * GIB, unseen_bytes=8 * GIB, unseen_cores=0.4)
    assert "nobody else active" in fair_share.decide(little, asked()).explained
    alice = Other(user="alice", promised_bytes=392 * GIB, promised_threads=20, held_bytes=None)
    assert [one.user for one in replace(hidden, others=(alice,)).active] == ["alice"]  # and nothing beyond
    small = replace(alice, promised_bytes=100 * GIB)
    assert [one.user for one in replace(hidden, others=(small,)).active] == ["alice", "others"]


def test_a_false_promise_takes_an_equal_part_at_most() -> None:
    liar = other("mallory", promised_bytes=10**6, promised_threads=10**6)
    room = Room(cores=8, memory_bytes=64 * GIB, available_bytes=60 * GIB, others=(liar,))
    size = fair_share.decide(room, asked(threads_per_worker=1))
    assert same(size) == (4, 1, 3.5)
    assert size.explained.endswith(": half of 28.0 GiB available and not promised, one other active")


def test_a_limit_around_me_binds_me_and_others_use_outside_of_it_does_not() -> None:
    room = Room(
        cores=96,
        usable_cores=4,
        memory_bytes=500 * GIB,
        available_bytes=200 * GIB,
        limit_bytes=16 * GIB,
        limit_left_bytes=12 * GIB,
        others=(other("bob", memory_bytes=290, cores=40.0),),
    )
    assert same(fair_share.decide(room, asked())) == (4, 1, 1.5)
    with pytest.raises(OverpromisedError, match=r"than the 16\.0 GiB that you can use here; ask for at most 16\.0 GiB"):
        fair_share.check(room, 4, 5 * GIB)


def test_all_takes_the_machine_and_says_what_that_does_to_others() -> None:
    size = fair_share.decide(SHARED, asked(n_workers="all"))
    assert (size.n_workers * size.threads_per_worker, size.promised_bytes // GIB) == (24, 127)
    assert size.explained.endswith("all of this machine, two others active")
    [warning] = size.warnings
    assert "(active: bob, carol): once full, it takes 62.0 GiB that others use" in warning and "every core" in warning
    assert fair_share.decide(ALONE, asked(n_workers="all")).warnings == ()


def test_more_than_is_left_is_warned_of_where_it_is_asked_for() -> None:
    assert fair_share.decide(SHARED, asked(n_workers=4, memory_limit=10 * GIB)).warnings == ()
    [warning] = fair_share.decide(SHARED, asked(n_workers=4, memory_limit=20 * GIB)).warnings
    assert "takes 16.0 GiB that others use or were promised" in warning


def test_what_only_own_clusters_are_promised_is_not_called_others() -> None:
    mine = {"promised_bytes": SHARED.memory_bytes, "unfilled_bytes": SHARED.memory_bytes}
    room = replace(SHARED, others=(other("bob", memory_bytes=3),), **mine)
    warnings = fair_share.decide(room, asked(n_workers=2, memory_limit=20 * GIB)).warnings
    assert "once full, it takes 3.0 GiB that others use" in warnings[0]
    assert "your other clusters are promised" in warnings[-1]


def test_who_takes_all_and_leaves_enough_takes_nothing_from_others() -> None:
    room = replace(SHARED, available_bytes=127 * GIB, limit_bytes=64 * GIB, others=(other("bob", memory_bytes=3),))
    [warning] = fair_share.decide(room, asked(n_workers="all")).warnings
    assert "filled" not in warning and "every core" in warning


# --- what is refused ---


def test_more_than_the_machine_has_is_refused_with_numbers_and_a_hint() -> None:
    with pytest.raises(OverpromisedError) as caught:
        fair_share.check(ALONE, 8, 5 * GIB)
    assert str(caught.value) == (
        "8 workers of 5.0 GiB are 40.0 GiB, more than the 32.0 GiB that you can use here; ask for at most 32.0 GiB "
        "(fewer workers, a smaller memory_limit), or pass force=True (--force)"
    )
    assert caught.value.exit_code == 4
    fair_share.check(ALONE, 8, 4 * GIB)


def test_my_clusters_count_whole_and_those_of_others_as_far_as_filled() -> None:
    mine = Room(cores=8, memory_bytes=32 * GIB, available_bytes=30 * GIB, promised_bytes=8 * GIB)
    with pytest.raises(
        OverpromisedError, match=r"of which 8\.0 GiB are promised to your other clusters; ask for at most 24"
    ):
        fair_share.check(mine, 1, 25 * GIB)
    bob = other("bob", memory_bytes=12, promised_bytes=20, held_bytes=12)
    filled = Room(cores=8, memory_bytes=32 * GIB, available_bytes=18 * GIB, others=(bob,))
    with pytest.raises(
        OverpromisedError, match=r"of which 12\.0 GiB are used by clusters of others; ask for at most 20"
    ):
        fair_share.check(filled, 1, 21 * GIB)
    fair_share.check(filled, 1, 20 * GIB)


def test_of_two_starts_in_one_second_the_later_promise_yields() -> None:
    published = {"/tmp/alice": 100, "/tmp/bob": 101}
    assert [fair_share.came_second(own, published, ()) for own in published] == [False, True]
    same = dict.fromkeys(published, 100)
    assert [fair_share.came_second(own, same, ()) for own in same] == [False, True]
    assert not fair_share.came_second("/tmp/bob", {"/tmp/bob": 101}, ())
    assert not fair_share.came_second("/tmp/bob", {"/tmp/alice": 100}, ())  # its own could not be published


def test_a_promise_that_the_size_reckoned_with_was_not_made_at_once() -> None:
    published = {"/tmp/alice": 100, "/tmp/bob": 101}
    assert not fair_share.came_second("/tmp/bob", published, {"/tmp/alice"})


def test_whose_promises_leave_an_eighth_is_said_by_name() -> None:
    bob, carol = other("bob", promised_bytes=20, held_bytes=2), other("carol", promised_bytes=4, held_bytes=4)
    mine = {"promised_bytes": 16 * GIB, "unfilled_bytes": 16 * GIB, "own_clusters": ("main",)}
    told = fair_share.decide(replace(ALONE, others=(bob, carol), **mine), asked()).explained
    assert told.endswith(
        ": an eighth of 30.0 GiB available, because most of it is promised: 16.0 GiB to your cluster main "
        "(`ports cluster scale main 0` frees what it is promised) and 12.0 GiB to bob, two others active"
    )
    little = replace(ALONE, available_bytes=16 * GIB, others=(replace(bob, promised_bytes=40 * GIB),))
    told = fair_share.decide(little, asked()).explained
    assert told.endswith("most of it is promised: 14.0 GiB to bob, one other active")


HIDDEN = replace(other("bob", promised_bytes=28), held_bytes=None)


def test_no_number_is_said_of_promises_whose_use_is_hidden() -> None:
    mine = {"promised_bytes": 11 * GIB, "unfilled_bytes": 11 * GIB, "own_clusters": ("main",)}
    there = {"available_bytes": 12 * GIB, "hidden": True, "unseen_bytes": 20 * GIB}
    explained = fair_share.decide(replace(ALONE, others=(HIDDEN,), **mine, **there), asked()).explained
    assert "of 12.0 GiB available, because most of it is promised: 11.0 GiB to your cluster main (" in explained
    assert "bob" not in explained  # his fair part of it is full
    there["unseen_bytes"] = 10 * GIB
    explained = fair_share.decide(replace(ALONE, others=(HIDDEN,), **mine, **there), asked()).explained
    assert (
        "an eighth of 12.0 GiB available, because most of it is promised: 11.0 GiB to your cluster main "
        "(`ports cluster scale main 0` frees what it is promised) and an unknown part to bob, one other" in explained
    )
    carol = other("carol", promised_bytes=6, held_bytes=1)
    explained = fair_share.decide(replace(ALONE, others=(HIDDEN, carol), **mine, **there), asked()).explained
    named = "`ports cluster scale main 0` frees what it is promised), 5.0 GiB to carol and an unknown part to bob, "
    assert "because more than that is promised: 11.0 GiB to" in explained and named in explained


def test_the_unfilled_parts_of_promises_are_those_that_make_less_free() -> None:
    carol = other("carol", promised_bytes=6, held_bytes=1)
    room = replace(ALONE, others=(HIDDEN, carol, replace(HIDDEN, promised_bytes=7 * GIB)), unseen_bytes=5 * GIB)
    parts = fair_share.unfilled(replace(room, memory_bytes=100 * GIB, available_bytes=90 * GIB))
    assert [one / GIB for one in parts] == [24, 5, 6]
    assert fair_share.free(replace(room, memory_bytes=100 * GIB, available_bytes=90 * GIB)) == 55 * GIB
    assert fair_share.unfilled(replace(room, unseen_bytes=100 * GIB)) == [0, 5 * GIB, 0]


def test_others_do_not_leave_little_where_a_limit_leaves_less() -> None:
    mine = {"promised_bytes": 11 * GIB, "unfilled_bytes": 11 * GIB, "own_clusters": ("main",)}
    room = replace(ALONE, memory_bytes=200 * GIB, available_bytes=100 * GIB, limit_left_bytes=12 * GIB, **mine)
    explained = fair_share.decide(replace(room, others=(other("bob", promised_bytes=20),)), asked()).explained
    assert "an eighth of 12.0 GiB available" in explained and "is promised: 11.0 GiB to your" in explained
    assert "bob" not in explained


def test_where_nothing_is_left_no_size_is_offered() -> None:
    room = Room(cores=2, memory_bytes=int(23.5 * GIB), available_bytes=20 * GIB, promised_bytes=int(203.5 * GIB))
    with pytest.raises(OverpromisedError) as caught:
        fair_share.check(replace(room, own_clusters=("main",)), 2, 10**9, "1GB")
    assert str(caught.value) == (
        "2 workers of 1GB are 2GB, and nothing is left of the 25.2GB that you can use here: 218.5GB are promised "
        "to your cluster main; `ports cluster scale main 0` frees what it is promised; `ports who` shows who uses how "
        "much; force=True (--force) starts it all the same"
    )


def test_a_refusal_has_all_sizes_in_the_unit_that_was_typed() -> None:
    bob = other("bob", memory_bytes=12, promised_bytes=20, held_bytes=12)
    room = Room(cores=8, memory_bytes=32 * GIB, available_bytes=18 * GIB, promised_bytes=4 * GIB, others=(bob,))
    with pytest.raises(OverpromisedError) as caught:
        fair_share.check(room, 2, 20 * GIB, "20GiB")
    [warning, own] = fair_share.decide(room, asked(n_workers=2, memory_limit=20 * GIB, memory_typed="20GiB")).warnings
    for told in (str(caught.value), warning, own):
        assert "GiB" in told and " GiB" not in told


def test_own_promises_are_called_own_by_the_names_of_their_clusters() -> None:
    room = Room(cores=2, memory_bytes=32 * GIB, available_bytes=31 * GIB, promised_bytes=31 * GIB)
    named = [
        fair_share.decide(replace(room, own_clusters=names), asked()).explained for names in ((), ("a",), ("a", "b"))
    ]
    assert [
        "to your other clusters," in named[0],
        "to your cluster a (`ports cluster scale a 0` frees what it is promised)," in named[1],
        "your clusters a and b (`ports cluster scale a 0` frees what a is promised)," in named[2],
    ] == [True] * 3


@pytest.mark.parametrize(
    ("typed", "n_bytes", "shown"),
    [
        ("600MB", 600 * 10**6, "600MB"),
        ("600MB", 1000 * 600 * 10**6, "600GB"),
        ("600MB", 126_400_000, "126.4MB"),
        ("600MB", 0, "0B"),
        ("600 mb", 600 * 10**6, "600 mb"),
        ("600 mb", 2 * 600 * 10**6, "1.2 GB"),
        ("600M", 2 * 600 * 10**6, "1.2G"),
        ("0.5GB", 5 * 10**8, "0.5GB"),
        (".5GB", 4 * 5 * 10**8, "2GB"),
        ("1GB", 2 * 10**9, "2GB"),
        ("512MiB", 2**29, "512MiB"),
        ("512MiB", 2**30, "1GiB"),
        ("1Gi", 10 * 2**30, "10Gi"),
        ("2e9B", 4 * 10**9, "4GB"),
        ("1500MB", 15 * 10**8, "1500MB"),
        ("100kB", 2 * 10**5, "200kB"),
        ("64KiB", 2**17, "128KiB"),
        ("", 2**30, "1.0 GiB"),
    ],
)
def test_a_size_is_shown_in_the_unit_that_was_typed(typed: str, n_bytes: int, shown: str) -> None:
    assert probe.as_typed(typed, n_bytes) == shown


@pytest.mark.parametrize("typed", ["600MB", "600M", "2Gi", " 1.5 gb", ".5GB", "100B"])
def test_each_size_with_a_unit_counts_as_typed(typed: str) -> None:
    assert _options.typed(typed) == typed.strip()
    assert [_options.typed(other) for other in ("auto", "0.25", 600, 0.25, None)] == [""] * 5


def test_a_size_is_described_as_it_was_typed() -> None:
    chosen = fair_share.decide(ALONE, asked(n_workers=2, memory_limit=10**9, memory_typed="1GB"))
    assert "2 workers" in chosen.explained and "1GB each" in chosen.explained and chosen.divided_bytes == 0


def test_a_warning_shows_the_size_in_the_unit_that_was_typed() -> None:
    chosen = fair_share.decide(SHARED, asked(n_workers=400, memory_limit=4 * 10**8, memory_typed="400MB"))
    assert chosen.warnings[0].startswith("this cluster may use 160GB; ")


def test_workers_divide_what_a_default_cluster_has() -> None:
    whole, most = int(20.4 * GIB), int(20.4 * GIB)
    assert [fair_share.divide(n, whole, most) >> 20 for n in (1, 2, 10)] == [20889, 10444, 2088]
    assert fair_share.divide(1, whole, 2 * GIB) == 2 * GIB  # a few workers do not get all
    assert fair_share.divide(1000, whole, most) == fair_share.LEAST_WORKER
    assert (
        fair_share.describe_division(10, 2088 << 20, whole) == "10 workers × 2.0 GiB, of the 20.4 GiB of this cluster"
    )


@given(others=OTHERS, wants=st.integers(0, 64 * GIB))
def test_no_promise_refuses_what_the_kernel_says_is_not_in_use(others: tuple[Other, ...], wants: int) -> None:
    room = Room(cores=8, memory_bytes=64 * GIB, available_bytes=64 * GIB, others=others)
    fair_share.check(room, 1, wants)


# --- for all machines ---


@given(whole=st.floats(0.1, 1e12), demands=st.lists(st.floats(0, 1e12), max_size=9))
def test_a_division_leaves_an_equal_part_and_gives_no_more_than_there_is(whole: float, demands: list[float]) -> None:
    found = fair_share.level(whole, demands)
    assert whole / (len(demands) + 1) * (1 - 1e-9) <= found <= whole
    assert all(fair_share.level(whole, [*demands, more]) <= found * (1 + 1e-9) for more in (0.0, whole / 7, whole * 7))


@given(room=ROOMS)
def test_a_default_fits_into_what_is_left_and_is_never_nothing(room: Room) -> None:
    size = fair_share.decide(room, asked())
    assert size.n_workers >= 1 and size.threads_per_worker >= 1 and size.memory_limit >= fair_share.LEAST_WORKER
    assert size.n_workers * size.threads_per_worker <= max(1, room.my_cores)
    most = max(fair_share.free(room), room.can_have * 0.125, fair_share.LEAST_WORKER)
    assert size.promised_bytes <= most + 1


def test_one_more_user_without_a_promise_makes_nothing_free() -> None:
    room = replace(ALONE, others=(other("bob", promised_bytes=31),))
    more = replace(room, others=(*room.others, Other(user="carol", promised_threads=1)))
    assert fair_share.free(room) == fair_share.free(more) == 14 * GIB


@given(room=ROOMS, promised=BYTES, threads=st.integers(0, 10**9))
def test_a_promise_more_never_makes_a_default_larger_and_never_takes_all(
    room: Room, promised: int, threads: int
) -> None:
    liar = Other(user="mallory", promised_bytes=promised, promised_threads=threads)
    with_liar = Room(**{**vars(room), "others": (*room.others, liar)})
    before, after = fair_share._share(room)[0], fair_share._share(with_liar)[0]
    assert after <= max(before, room.can_have * 0.125 + 1)
    assert after >= int(min(room.can_have * 0.125, room.memory_bytes / (len(room.others) + 2)))


@given(
    room=ROOMS,
    n_workers=st.none() | st.just("all") | st.integers(0, 500),
    threads=st.none() | st.integers(1, 99),
    limit=st.none() | st.just(0) | st.integers(1, 999 * GIB),
)
def test_what_is_asked_for_is_kept(room: Room, n_workers: Any, threads: Any, limit: Any) -> None:
    size = fair_share.decide(room, asked(n_workers=n_workers, threads_per_worker=threads, memory_limit=limit))
    assert n_workers in (None, "all", size.n_workers)
    assert threads in (None, size.threads_per_worker) and limit in (None, size.memory_limit)
    assert size.explained and "\n" not in size.explained
