"""When own workers give way: what is left of the memory, and what follows from it."""

from __future__ import annotations

import asyncio
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from distributed import Client, Scheduler, Worker
from distributed.core import Status
from hypothesis import given
from hypothesis import strategies as st

import ports
from ports import probe
from ports.machine import fair_share
from ports.probe import accounts
from ports.probe import memory as limits

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import guard as ports_watch
from ports_owner import guard_rules as guard
from ports_owner import memory as ports_memory
from ports_owner.idle import IdlePolicy
from ports_owner.record import Record
from ports_owner.workers import PrivateWorker

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


def test_a_shortage_with_much_left_says_what_it_reckons_with() -> None:
    state = guard.State()
    for sample in (at(0.0, 1.9 * GiB), at(0.5, 1.2 * GiB)):
        state = guard.step(state, sample, share=0.1, pressure=20)
    assert state.level == guard.RESTART and state.where.available > 0.5 * state.where.total
    assert guard.why_worse(state, 0.1, 20) == ", falling fast: 0 B will be left in about a second"
    waits = guard.step(guard.State(), at(0.0, 0.9 * GiB, pressure=45.0), share=0.1, pressure=20)
    assert guard.why_worse(waits, 0.1, 20) == ", and processes wait for memory 45 % of the time"
    short = guard.step(guard.State(), at(0.0, 0.05 * GiB), share=0.1, pressure=20)
    assert guard.why_worse(short, 0.1, 20) == ""


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
    samples = (at(1.1, 0),)
    state = guard.State(level=guard.RESTART, where=samples[0].domains[0], restarted_at=1.0, samples=samples)
    assert not guard.may_restart(state, 1.2, 0.1)
    assert guard.may_restart(state, 1.5, 0.1)
    assert not guard.may_restart(replace(state, level=guard.PAUSE), 99, 0.1)


def test_once_memory_is_back_nothing_more_is_restarted() -> None:
    total, bob, workers = 512 * GiB, 210 * GiB, {f"w{n}": 10 * GiB for n in range(30)}
    state, restarted, levels = guard.State(), [], []
    for tick in range(60):
        now = 0.2 * tick
        mine = sum(workers.values())
        state = guard.step(state, at(now, total - bob - mine, total), share=0.1, pressure=20.0)
        levels.append(guard.LEVELS[state.level])
        if guard.may_restart(state, now, 0.1):
            need, available = guard.missing(state, 0.1), state.where.available
            names = guard.to_restart(workers, need=need, mine=mine, available=available, n_users=2)
            state = replace(state, restarted_at=now, samples=())
            restarted += names
            workers.update(dict.fromkeys(names, 0))
    assert (len(restarted), set(levels)) == (1, {"restart"})


def test_a_fair_share_is_of_what_others_leave() -> None:
    users = {0: GiB, 1000: 1 * GiB, 1001: 700 * MiB, 1002: 5 * MiB, 104: GiB, 61234: GiB, 65534: GiB}
    assert guard.active(ports_watch.people(users), 1000, 2 * GiB) == 2
    assert guard.fair_share(200 * MiB, 1000 * MiB, 2) == 600 * MiB
    alone = guard.fair_share(0, GiB, guard.active({1000: GiB}, 1000, 2 * GiB))
    assert alone == GiB  # not above it: nobody else is there to give way to


@pytest.mark.parametrize("uid", [0, 104, 1001, 61183, 61184, 65520, 65534, 250000])
def test_services_are_no_users_and_ports_who_agrees(uid: int) -> None:
    assert (uid in ports_watch.people({uid: GiB, guard.HIDDEN: 0})) is accounts.is_person(uid)


@given(st.integers(GiB, 1024 * GiB), st.booleans())
def test_a_full_default_cluster_beside_one_other_user_is_no_more_than_fair(left: int, has_other: bool) -> None:
    others = (fair_share.Other(user="bob", memory_bytes=100 * GiB),) if has_other else ()
    room = fair_share.Room(cores=8, memory_bytes=1024 * GiB, available_bytes=left, others=others)
    asked = {"n_workers": None, "threads_per_worker": None, "memory_limit": None}
    filled = fair_share.decide(room, asked).promised_bytes
    assert filled <= guard.fair_share(left - filled, filled, 1 + len(room.active))


def test_those_who_are_hidden_count_as_one_or_as_those_with_a_promise() -> None:
    def active(hidden: float, n_promised: int = 0) -> int:
        return guard.active({1000: GiB, guard.HIDDEN: int(hidden)}, 1000, 100 * GiB, n_promised)

    assert [active(0.9 * GiB), active(GiB), active(50 * GiB)] == [1, 2, 2]
    assert [active(50 * GiB, 3), active(2.5 * GiB, 3), active(0, 3)] == [4, 3, 1]  # a promise alone is no user


def test_who_grew_most_is_named() -> None:
    assert guard.grower({1: 10, 2: 500}, {1: 400, 2: 510, 3: 20}) == (1, 390)
    assert guard.grower({1: 10}, {1: 5}) is None


def test_the_largest_workers_are_restarted_down_to_the_fair_share() -> None:
    workers = {"a": 100 * MiB, "b": 300 * MiB, "c": 200 * MiB, "d": 30 * MiB}

    def chosen(need: float, *, mine: int = 2000 * MiB, available: int = 0, n_users: int = 2) -> list[str]:
        return guard.to_restart(workers, need=need, mine=mine, available=available, n_users=n_users)

    assert chosen(0) == chosen(-1) == []
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


def cgroups(top: Path, cgroup: str, mounts: str) -> list[Any]:
    """Return the memory cgroups that a meter finds in these texts; directories are without `top`."""
    (top / "proc" / "self").mkdir(parents=True, exist_ok=True)
    (top / "proc" / "self" / "cgroup").write_text(cgroup)
    (top / "proc" / "self" / "mountinfo").write_text(mounts)
    found = ports_memory.Meter(str(top)).cgroups
    return [(one.version, one.directory.removeprefix(str(top)), one.named) for one in found]


def test_every_cgroup_above_is_found_in_both_versions(tmp_path: Path) -> None:
    first = cgroups(tmp_path, "4:cpu,memory:/slurm/job 7/step\n1:name=systemd:/\n", MOUNTS_V1)
    assert [directory for _, directory, _ in first] == [
        f"/sys/fs/cgroup/memory{path}" for path in ("/slurm/job 7/step", "/slurm/job 7", "/slurm", "")
    ]
    assert first[1] == (1, "/sys/fs/cgroup/memory/slurm/job 7", ":cpu,memory:/slurm/job 7")
    second = cgroups(tmp_path, "0::/user.slice/user-1000.slice\n", MOUNTS_V2)
    assert [(version, named) for version, _, named in second] == [
        (2, "::/user.slice/user-1000.slice"),
        (2, "::/user.slice"),
        (2, "::/"),
    ]


def test_a_container_sees_its_own_part_of_the_hierarchy(tmp_path: Path) -> None:
    inner = "35 31 0:32 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n"
    found = cgroups(tmp_path, "4:memory:/docker/abc/job\n", inner)
    assert [directory for _, directory, _ in found] == ["/sys/fs/cgroup/memory/job", "/sys/fs/cgroup/memory"]
    assert [named for _, _, named in found] == [":memory:/docker/abc/job", ":memory:/docker/abc"]
    assert cgroups(tmp_path, "4:memory:/elsewhere\n", inner) == []
    assert cgroups(tmp_path, "", "") == []


def test_the_cache_of_a_cgroup_is_available_once_it_is_on_the_disk(tmp_path: Path) -> None:
    stat = {"inactive_file": 100 * MiB, "active_file": 40 * MiB, "file_dirty": 20 * MiB, "file_writeback": 0}
    (tmp_path / "memory.max").write_text(f"{GiB}\n")
    (tmp_path / "memory.high").write_text("max\n")
    (tmp_path / "memory.current").write_text(f"{700 * MiB}\n")
    (tmp_path / "memory.stat").write_text("".join(f"{name} {value}\n" for name, value in stat.items()))
    assert limits.bound_of(str(tmp_path), 2) == GiB
    assert limits.left_of(str(tmp_path), 2, GiB) == (1024 - 700 + 100) * MiB
    (tmp_path / "memory.high").write_text(f"{800 * MiB}\n")
    assert limits.bound_of(str(tmp_path), 2) == 800 * MiB
    (tmp_path / "memory.limit_in_bytes").write_text("9223372036854771712\n")
    assert limits.bound_of(str(tmp_path), 1) is None


@pytest.mark.parametrize(("dirty", "writeback", "left"), [(0, 0, 3.5), (1, 0, 2.5), (0.5, 0.5, 2.5), (4, 0, 1)])
def test_the_guard_and_ports_who_say_the_same_is_left_of_a_cgroup(
    tmp_path: Path, dirty: float, writeback: float, left: float
) -> None:
    """A page that is not on the disk yet cannot be taken back."""
    used = {"inactive_file": 2, "active_file": 1, "file_dirty": dirty, "file_writeback": writeback}
    proc, job = a_proc(tmp_path), tmp_path / "cgroup" / "job"
    (proc / "meminfo").write_text("MemTotal: 67108864 kB\nMemAvailable: 50331648 kB\nBuffers: 1 kB\n")
    (job / "memory.max").write_text(f"{8 * GiB}\n")
    (job / "memory.current").write_text(f"{7 * GiB}\n")
    (job / "memory.stat").write_text("".join(f"{name} {int(value * GiB)}\n" for name, value in used.items()))
    [_, seen_by_guard] = ports_memory.Meter(str(tmp_path)).domains()
    shown = limits.limits(str(tmp_path))
    assert (shown["limit_bytes"], shown["limit_available_bytes"]) == (8 * GiB, left * GiB)
    assert (seen_by_guard.total, seen_by_guard.available) == (8 * GiB, left * GiB)


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


def a_proc(top: Path) -> Path:
    """Make a /proc of a process in the cgroup ``/job`` of v2, whose hierarchy is at ``top/cgroup``."""
    proc, point = top / "proc", top / "cgroup"
    for directory in (proc / "self", proc / "pressure", point / "job"):
        directory.mkdir(parents=True)
    (proc / "self" / "cgroup").write_text("0::/job\n")
    (proc / "self" / "mountinfo").write_text(MOUNTS_V2.replace("/sys/fs/cgroup", "/cgroup"))
    return proc


@pytest.mark.parametrize(("own", "machines", "expected"), [(4.5, 2.0, 4.5), (2.0, 4.5, 4.5), (None, 3.0, 3.0)])
def test_pressure_is_the_own_cgroups_or_the_machines_whichever_is_more(
    tmp_path: Path, own: float | None, machines: float, expected: float
) -> None:
    proc = a_proc(tmp_path)
    for path, full in (
        (tmp_path / "cgroup" / "job" / "memory.pressure", own),
        (proc / "pressure" / "memory", machines),
    ):
        if full is not None:
            path.write_text(f"some avg10=9.00 avg60=0.00 total=1\nfull avg10={full:.2f} avg60=0.00 total=1\n")
    assert ports_memory.Meter(str(proc.parent)).pressure() == expected


def test_a_file_that_comes_in_pieces_is_read_to_its_end(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The kernel returns about a page of ``mountinfo`` at a time."""
    proc, read = a_proc(tmp_path), os.read
    mounts = proc / "self" / "mountinfo"
    mounts.write_text("".join(f"{n} 1 0:{n} / /mnt/{n} rw - tmpfs tmpfs rw\n" for n in range(120)) + mounts.read_text())
    monkeypatch.setattr(os, "read", lambda descriptor, n: read(descriptor, min(n, 4000)))
    assert next(one.directory for one in ports_memory.Meter(str(proc.parent)).cgroups) == str(
        tmp_path / "cgroup" / "job"
    )


def test_what_all_hold_is_known_where_their_processes_are_hidden(tmp_path: Path) -> None:
    proc = a_proc(tmp_path)
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 300 kB\n")
    meter = ports_memory.Meter(str(proc.parent))
    assert not meter.sees_everybody() and meter.used() == 700 * 1024
    (proc / "meminfo").write_text("MemTotal: 1000 kB\nMemAvailable: 300 kB\nBuffers: 1 kB\nAnonPages: 500 kB\n")
    job = tmp_path / "cgroup" / "job"
    (job / "memory.stat").write_text("anon 12345\nfile 99999\n")
    assert (meter.used(), meter.used(str(job))) == (500 * 1024, 12345)
    (proc / "1").mkdir()
    (proc / "1" / "stat").write_text("1 (init) S 0\n")
    assert meter.sees_everybody()


def test_a_process_1_that_may_not_be_looked_at_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """With ``hidepid=1`` the kernel refuses what lies below the directory of another's process."""

    def refuse(path: object, *args: object, **options: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    meter = ports_memory.Meter()
    for name in ("open", "stat"):
        monkeypatch.setattr(os, name, refuse)
    found = meter.sees_everybody()
    monkeypatch.undo()
    assert found is False


# --- what is told, and whose turn it is ---


class Seen:
    """A meter that saw what the test says; `used` is what all have, None where nobody is hidden."""

    def __init__(self, users: dict[int, int], held: int | None = None) -> None:
        self.users, self.all = users, held

    def by_user(self, domain: str) -> dict[int, int]:
        return dict(self.users)

    def used(self, domain: str) -> int:
        return self.all or 0

    def sees_everybody(self) -> bool:
        return self.all is None


def told(before: Seen, now: Seen) -> str:
    """Return the line that a guard shows when it gets worse."""
    watching = ports_watch.MemoryGuard.__new__(ports_watch.MemoryGuard)
    watching.marks = {"share": 0.1, "pressure": 20}
    watching.meter = before
    watching.before = watching.users()
    watching.meter = now
    watching.state = guard.State(level=guard.PAUSE, where=guard.Domain(guard.MACHINE, 100 * GiB, 5 * GiB))
    return str(watching.cause(True))


def test_the_line_names_the_user_that_grew_or_hidden_others() -> None:
    me, bob = os.getuid(), os.getuid() + 54321
    left = "5.0 GiB of 100.0 GiB of the machine are available"
    before, now = {me: 10 * GiB, bob: 20 * GiB}, {me: 11 * GiB, bob: 60 * GiB}
    assert told(Seen(before), Seen(now)) == f"{left}, uid {bob} grew most, by 40.0 GiB"
    assert told(Seen(before), Seen(before)) == left
    alone, more = {me: 10 * GiB}, {me: 50 * GiB}
    assert told(Seen(alone, 30 * GiB), Seen(alone, 70 * GiB)) == f"{left}, others (hidden here) grew most, by 40.0 GiB"
    grown = told(Seen(alone, 30 * GiB), Seen(more, 70 * GiB))
    assert grown == f"{left}, {probe.user_name(me)} grew most, by 40.0 GiB"


def test_one_cluster_of_mine_at_a_time_ends_workers_unless_it_hangs(tmp_path: Path) -> None:
    first, second = (ports_watch.Turn(tmp_path / "guard.lock") for _ in range(2))
    assert first.take(0.0) and first.take(0.1) and not second.take(0.2)
    first.leave()
    assert second.take(0.4) and not first.take(0.5)
    assert [first.take(time) for time in (1.5, 2.4, 2.6)] == [False, False, True]
    assert not first.take(60.0)  # another shortage
    second.leave()
    assert ports_watch.Turn(tmp_path / "nowhere" / "guard.lock").take(0.0)


def test_two_clusters_of_mine_end_one_worker_where_one_is_enough(tmp_path: Path) -> None:
    ended: list[float] = []

    def cluster() -> Any:
        watching = ports_watch.MemoryGuard.__new__(ports_watch.MemoryGuard)
        watching.turn = ports_watch.Turn(tmp_path / "guard.lock")
        watching.state, watching.marks = guard.State(), {"share": 0.1, "pressure": 20.0, "most": guard.RESTART}
        watching.next_try = float("-inf")

        def restart_largest(now: float) -> None:
            ended.append(now)
            watching.state = replace(watching.state, restarted_at=now, samples=())

        watching.restart_largest = restart_largest
        return watching

    clusters = (cluster(), cluster())
    for tick in range(20):
        for one in clusters:  # both have looked before either acts
            one.state = guard.step(one.state, at(tick * 0.2, GiB if tick else 0), **one.marks)
        for one in clusters:
            one.restart(tick * 0.2)
    assert ended == [0.0]
    for one in clusters:
        one.turn.leave()


def test_only_workers_of_this_owner_hear_of_its_memory(tmp_path: Path) -> None:
    """One that joined from another machine has other memory; a plain Dask worker would break at the message."""

    async def hear() -> list[str]:
        async with Scheduler(port=0, dashboard_address=None, protocol="tcp", host="127.0.0.1") as scheduler:
            cluster = SimpleNamespace(scheduler=scheduler, worker_spec={0: {}, 1: {}}, workers={})
            record = Record(name="main", started_by={}, guard="pause", dashboard=str(tmp_path / "s"))
            watching = ports_watch.MemoryGuard(cluster, record, ports_memory.Meter())
            make = partial(PrivateWorker, scheduler.address, nthreads=1, dashboard_address=None)
            async with make(name=0) as first, Worker(scheduler.address, name="elsewhere", nthreads=1) as other:
                IdlePolicy.send(SimpleNamespace(cluster=cluster, guard=watching), guard.SPILL)  # held results to disk
                watching.state = guard.State(level=guard.PAUSE)
                watching.tell()
                async with make(name=1) as late, Worker(scheduler.address, name="also", nthreads=1) as too:
                    workers = (first, other, late, too)
                    assert scheduler.workers[late.address].status != Status.running  # at once: no task is sent to it
                    while first.status != Status.paused or late.status != Status.paused:
                        await asyncio.sleep(0.01)
                    async with Client(scheduler.address, asynchronous=True) as client:
                        assert await client.submit(abs, -7, workers=[other.address]) == 7  # it still listens
                    return [one.status.name for one in workers]

    assert asyncio.run(asyncio.wait_for(hear(), 60)) == ["paused", "running", "paused", "running"]
