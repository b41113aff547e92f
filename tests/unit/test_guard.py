"""When own workers give way: what is left of the memory, and what follows from it."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ports

sys.path.append(str(Path(ports.__file__).parent / "in_cluster"))  # last, as in a cluster

import ports_guard as guard
import ports_memory

MiB, GiB = 2**20, 2**30


def at(time: float, available: float, total: float = 2 * GiB, pressure: float = 0.0) -> Any:
    return guard.Sample(time, (guard.Domain("/here", int(total), int(available)),), pressure)


def run(samples: list[Any], **options: Any) -> list[str]:
    """Return the name of the level after each sample."""
    state, levels = guard.State(), []
    for sample in samples:
        state = guard.step(state, sample, share=0.1, pressure=20.0, **options)
        levels.append(guard.LEVELS[state.level])
    return levels


def test_each_level_comes_at_its_part_of_the_mark() -> None:
    mark = guard.mark_of(2 * GiB, 0.1)
    found = [run([at(0, mark * part)])[0] for part in (1.1, 0.9, 0.6, 0.3)]
    assert found == ["calm", "spill", "pause", "restart"]


def test_memory_that_falls_fast_is_acted_on_a_second_before_it_is_gone() -> None:
    falling = [at(n * 0.2, 1200 * MiB - n * 0.2 * 200e6) for n in range(30)]
    levels = run(falling)
    first = {name: levels.index(name) for name in ("spill", "pause", "restart")}
    left = {name: falling[index].domains[0].available for name, index in first.items()}
    assert left["spill"] > left["pause"] > left["restart"] > 200e6  # a second of such growth
    steady = run([at(n * 0.2, 520 * MiB) for n in range(10)])
    assert set(steady) == {"calm"}


def test_workers_go_on_only_after_a_while_with_more_than_the_mark() -> None:
    short, just, plenty = (at(0, amount).domains for amount in (380 * MiB, 600 * MiB, 800 * MiB))
    times = [n * 0.5 for n in range(1, 12)]
    assert run([guard.Sample(0, short), *(guard.Sample(time, just) for time in times)])[-1] == "spill"
    levels = run([guard.Sample(0, short), *(guard.Sample(time, plenty) for time in times)])
    assert levels.index("calm") == 1 + 4  # two seconds


def test_after_a_restart_it_stays_paused_for_longer() -> None:
    state = guard.step(guard.State(), at(0, 10 * MiB), share=0.1, pressure=20.0)
    state = replace(state, restarted_at=0.1)
    for tenth in range(1, 149):
        state = guard.step(state, at(tenth / 10, GiB), share=0.1, pressure=20.0)
    assert guard.LEVELS[state.level] == "restart"
    for tenth in range(149, 160):
        state = guard.step(state, at(tenth / 10, GiB), share=0.1, pressure=20.0)
    assert guard.LEVELS[state.level] == "calm"


def test_the_user_says_how_far_it_may_go() -> None:
    nothing_left = [at(0, 0)]
    assert run(nothing_left, most=guard.MODES["pause"]) == ["pause"]
    assert run(nothing_left, most=guard.MODES["restart"]) == ["restart"]
    assert run(nothing_left, most=guard.MODES["off"]) == ["calm"]


def test_pressure_counts_where_memory_is_not_plenty() -> None:
    assert run([at(0, 1.5 * GiB, pressure=90)]) == ["calm"]  # others wait within limits of their own
    assert run([at(0, 0.8 * GiB, pressure=25)]) == ["spill"]
    assert run([at(0, 0.8 * GiB, pressure=50)]) == ["pause"]


def test_the_shortest_memory_decides() -> None:
    machine, mine = guard.Domain("machine", 64 * GiB, 30 * GiB), guard.Domain("/slurm/job", 4 * GiB, 100 * MiB)
    state = guard.step(guard.State(), guard.Sample(0, (machine, mine)), share=0.1, pressure=20.0)
    assert (state.where, guard.LEVELS[state.level]) == (mine, "restart")


def test_two_restarts_are_apart_so_that_the_first_can_help() -> None:
    state = guard.State(level=guard.RESTART, restarted_at=1.0)
    assert not guard.may_restart(state, 1.2)
    assert guard.may_restart(state, 1.5)
    assert not guard.may_restart(guard.State(level=guard.PAUSE), 99)


def test_a_fair_share_is_of_what_others_leave() -> None:
    users = {0: 20 * MiB, 1000: 1 * GiB, 1001: 700 * MiB, 1002: 5 * MiB, 104: GiB}
    assert guard.active(users, 1000, 2 * GiB) == 2
    assert guard.fair_share(200 * MiB, 1000 * MiB, 2) == 600 * MiB
    alone = guard.fair_share(0, GiB, guard.active({1000: GiB}, 1000, 2 * GiB))
    assert alone == GiB  # not above it: nobody else is there to give way to


def test_who_grew_most_is_named() -> None:
    assert guard.grower({1: 10, 2: 500}, {1: 400, 2: 510, 3: 20}) == (1, 390)
    assert guard.grower({1: 10}, {1: 5}) is None


def test_the_largest_workers_are_restarted_as_many_as_it_takes_and_none_below_the_share() -> None:
    workers = {"a": 100 * MiB, "b": 300 * MiB, "c": 200 * MiB, "d": 30 * MiB}

    def chosen(need: float, *, mine: int = 2000 * MiB, available: int = 0, n_users: int = 2) -> list[str]:
        return guard.to_restart(workers, need=need, mine=mine, available=available, n_users=n_users)

    assert chosen(-1) == ["b"]
    assert chosen(300 * MiB) == ["b"]
    assert chosen(301 * MiB) == ["b", "c"]
    assert chosen(GiB) == ["b", "c", "a"]  # the smallest is not worth it
    assert chosen(GiB, mine=400 * MiB, available=300 * MiB) == ["b"]  # then it has less than a fair share
    assert chosen(GiB, n_users=1) == []
    assert guard.to_restart({}, need=1, mine=GiB, available=0, n_users=2) == []


def test_what_is_missing_is_foreseen_and_more_where_looks_come_late() -> None:
    def missing(every: float) -> float:
        state = guard.State()
        for n in range(4):
            state = guard.step(state, at(n * every, 700 * MiB - n * every * 200 * MiB), share=0.1, pressure=20.0)
        return guard.missing(state, 0.1)

    assert missing(0.2) == pytest.approx(0.4 * 512 * MiB - (580 - 240) * MiB, abs=MiB)
    assert missing(0.8) == pytest.approx(0.4 * 512 * MiB - (220 - 360) * MiB, abs=MiB)


def test_little_memory_has_a_larger_mark_and_very_much_a_smaller_one() -> None:
    marks = [guard.mark_of(total, 0.1) for total in (GiB, 2 * GiB, 4 * GiB, 64 * GiB, 1024 * GiB)]
    assert marks == [GiB / 4, 512 * MiB, 512 * MiB, 6.4 * GiB, 8 * GiB]
    assert guard.mark_of(2 * GiB, 0.01) == pytest.approx(0.05 * GiB)


LEFT = st.lists(st.tuples(st.floats(0.05, 5), st.integers(0, 2 * GiB), st.floats(0, 100)), max_size=40)


@given(LEFT, st.sampled_from(["pause", "restart"]))
def test_whatever_happens_little_memory_is_never_calm(seen: list[tuple[float, int, float]], mode: str) -> None:
    state, time = guard.State(), 0.0
    for wait, available, pressure in seen:
        time += wait
        sample = at(time, available, pressure=pressure)
        state = guard.step(state, sample, share=0.1, pressure=20.0, most=guard.MODES[mode])
        assert state.level <= guard.MODES[mode]
        if available < guard.mark_of(2 * GiB, 0.1) * 0.69:
            assert state.level >= guard.PAUSE
        assert len(state.samples) < 30


# --- what is read ---

MOUNTS_V1 = "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory\n"
MOUNTS_V2 = "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw,nsdelegate\n"


def test_every_cgroup_above_is_found_in_both_versions() -> None:
    first = ports_memory.memory_cgroups("4:cpu,memory:/slurm/job 7/step\n1:name=systemd:/\n", MOUNTS_V1)
    assert [one.directory for one in first] == [
        f"/sys/fs/cgroup/memory{path}" for path in ("/slurm/job 7/step", "/slurm/job 7", "/slurm", "")
    ]
    assert first[1].named == ":cpu,memory:/slurm/job 7"
    second = ports_memory.memory_cgroups("0::/user.slice/user-1000.slice\n", MOUNTS_V2)
    assert [(one.version, one.named) for one in second] == [
        (2, "::/user.slice/user-1000.slice"),
        (2, "::/user.slice"),
        (2, "::/"),
    ]


def test_a_container_sees_its_own_part_of_the_hierarchy() -> None:
    inner = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    found = ports_memory.memory_cgroups("4:memory:/docker/abc/job\n", inner)
    assert [one.directory for one in found] == ["/sys/fs/cgroup/memory/job", "/sys/fs/cgroup/memory"]
    assert ports_memory.memory_cgroups("4:memory:/elsewhere\n", inner) == []
    assert ports_memory.memory_cgroups("", "") == []


def test_the_cache_of_a_cgroup_counts_as_available_unless_it_is_not_on_the_disk_yet(tmp_path: Path) -> None:
    stat = {"inactive_file": 100 * MiB, "active_file": 40 * MiB, "file_dirty": 20 * MiB, "file_writeback": 0}
    (tmp_path / "memory.max").write_text(f"{GiB}\n")
    (tmp_path / "memory.high").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{700 * MiB}\n")
    (tmp_path / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))
    assert ports_memory.limit_of(2, str(tmp_path)) == GiB
    assert ports_memory.left_of(2, str(tmp_path), GiB) == (1024 - 700 + 100) * MiB
    (tmp_path / "memory.high").write_text(f"{800 * MiB}\n")
    assert ports_memory.limit_of(2, str(tmp_path)) == 800 * MiB
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert ports_memory.limit_of(1, str(tmp_path)) is None


def test_processes_are_counted_in_the_cgroup_that_is_short() -> None:
    assert ports_memory.is_inside("4:memory:/job/step\n1:name=systemd:/\n", ":memory:/job")
    assert ports_memory.is_inside("4:memory:/job\n", ":memory:/job")
    assert ports_memory.is_inside("0::/job\n", "::/")
    assert not ports_memory.is_inside("4:memory:/job2\n", ":memory:/job")
    assert not ports_memory.is_inside("4:cpu:/job\n", ":memory:/job")


def test_a_look_is_cheap_and_sees_this_machine() -> None:
    meter = ports_memory.Meter()
    machine = meter.domains()[0]
    assert 0 < machine.available <= machine.total
    assert meter.by_user()
    assert 0 <= meter.pressure() <= 100


def test_pressure_is_read_from_the_own_cgroup_first(tmp_path: Path) -> None:
    (tmp_path / "pressure").mkdir()
    (tmp_path / "pressure" / "memory").write_text(
        "some avg10=9.00 avg60=0.00 avg300=0.00 total=1\nfull avg10=4.50 avg60=0.00 avg300=0.00 total=1\n"
    )
    assert ports_memory.Meter(str(tmp_path)).pressure() == 4.5
