"""What a process may use of the machine: control groups of both versions, pressure, and ``hidepid``, from fixtures."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ports.machine import _usage as machines
from ports.machine.fair_share import Room
from ports.probe import memory as limits

GIB = 1 << 30
MEMINFO = "MemTotal: 67108864 kB\nMemFree: 1 kB\nMemAvailable: 50331648 kB\nSwapTotal: 2048 kB\nSwapFree: 1024 kB\n"
V2 = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
V1 = (
    "33 24 0:29 / /sys/fs/cgroup/memory rw,relatime shared:12 - cgroup cgroup rw,memory\n"
    "34 24 0:30 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:13 - cgroup cgroup rw,cpu,cpuacct\n"
    "35 24 0:31 / /sys/fs/cgroup/systemd rw,relatime shared:14 - cgroup cgroup rw,xattr,name=systemd\n"
)
SLICE = "/sys/fs/cgroup/user.slice"


def machine(top: Path, *, mounts: str, group: str, **files: str) -> str:
    """Write what the kernel would show, and return the directory."""
    shown = {"/proc/meminfo": MEMINFO, "/proc/self/mountinfo": mounts, "/proc/self/cgroup": group, **files}
    for name, text in shown.items():
        path = top / name.lstrip("/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(top)


def bounded(found: dict[str, object]) -> tuple[object, object]:
    return found["limit_bytes"], found["limit_available_bytes"]


def test_without_control_groups_all_of_the_machine_may_be_used(tmp_path: Path) -> None:
    found = limits.limits(machine(tmp_path, mounts="", group=""))
    assert bounded(found) == (64 * GIB, 48 * GIB)
    assert (found["total_bytes"], found["swap_bytes"], found["swap_free_bytes"]) == (64 * GIB, 1 << 21, 1 << 20)
    assert found["pressure"] is None


@pytest.mark.parametrize("holder", ["", "/user-1000.slice", "/user-1000.slice/session-2.scope"])
def test_the_limit_of_every_ancestor_binds_in_version_2(tmp_path: Path, holder: str) -> None:
    place = SLICE + holder
    files = {
        f"{place}/memory.max": f"{8 * GIB}\n",
        f"{place}/memory.current": f"{7 * GIB}\n",
        f"{place}/memory.stat": f"anon 5\ninactive_file {GIB}\nactive_file {2 * GIB}\n",
        f"{place}/cpu.max": "50000 100000\n",
    }
    top = machine(tmp_path, mounts=V2, group="0::/user.slice/user-1000.slice/session-2.scope\n", **files)
    found = limits.limits(top)
    assert bounded(found) == (8 * GIB, 3 * GIB)  # all of the inactive cache, and half of the active, comes back
    assert found["usable_cores"] == 0.5


def test_the_tightest_counts_and_max_is_no_limit(tmp_path: Path) -> None:
    files = {
        f"{SLICE}/memory.max": f"{16 * GIB}\n",
        f"{SLICE}/memory.current": f"{15 * GIB}\n",
        f"{SLICE}/a/memory.max": "max\n",
        f"{SLICE}/a/memory.high": f"{12 * GIB}\n",  # above it processes are slowed down
        f"{SLICE}/a/memory.current": f"{2 * GIB}\n",
        f"{SLICE}/a/cpu.max": "max 100000\n",
        f"{SLICE}/a/b/memory.max": "max\n",
        f"{SLICE}/a/b/memory.current": f"{GIB}\n",
    }
    found = limits.limits(machine(tmp_path, mounts=V2, group="0::/user.slice/a/b\n", **files))
    assert bounded(found) == (12 * GIB, 1 * GIB)  # the limit of one, what is left of the other
    assert found["usable_cores"] == int(found["usable_cores"])


def test_version_1_has_a_tree_for_each_controller(tmp_path: Path) -> None:
    memory, cpu = "/sys/fs/cgroup/memory/slurm", "/sys/fs/cgroup/cpu,cpuacct/slurm"
    files = {
        f"{memory}/memory.limit_in_bytes": f"{4 * GIB}\n",
        f"{memory}/memory.usage_in_bytes": f"{3 * GIB}\n",
        f"{memory}/memory.stat": f"inactive_file 1\ntotal_inactive_file {GIB // 2}\n",
        f"{memory}/job_7/memory.limit_in_bytes": "9223372036854771712\n",
        f"{memory}/job_7/memory.usage_in_bytes": "5\n",
        f"{cpu}/job_7/cpu.cfs_quota_us": "150000\n",
        f"{cpu}/job_7/cpu.cfs_period_us": "100000\n",
        f"{cpu}/cpu.cfs_quota_us": "-1\n",
        f"{cpu}/cpu.cfs_period_us": "100000\n",
    }
    group = "7:memory:/slurm/job_7\n4:cpu,cpuacct:/slurm/job_7\n1:name=systemd:/slurm/job_7\n0::/slurm/job_7\n"
    found = limits.limits(machine(tmp_path, mounts=V1, group=group, **files))
    assert bounded(found) == (4 * GIB, GIB + GIB // 2)
    assert found["usable_cores"] <= 1.5


def test_a_container_sees_its_own_part_of_the_tree(tmp_path: Path) -> None:
    mounts = "29 23 0:26 /docker/4f2a /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    files = {"/sys/fs/cgroup/memory.max": f"{2 * GIB}\n", "/sys/fs/cgroup/memory.current": f"{GIB}\n"}
    for group in ("0::/docker/4f2a\n", "0::/\n", "0::/../../elsewhere\n"):
        assert bounded(limits.limits(machine(tmp_path, mounts=mounts, group=group, **files))) == (2 * GIB, GIB)


def test_what_is_below_a_container_is_found_below_its_mount(tmp_path: Path) -> None:
    mounts = "29 23 0:26 /docker/4f2a /sys/fs/cgroup ro - cgroup2 cgroup rw\n"
    files = {"/sys/fs/cgroup/job/memory.max": f"{2 * GIB}\n", "/sys/fs/cgroup/job/memory.current": f"{GIB}\n"}
    top = machine(tmp_path, mounts=mounts, group="0::/docker/4f2a/job\n", **files)
    assert bounded(limits.limits(top)) == (2 * GIB, GIB)


@given(limit=st.text(max_size=12), used=st.text(max_size=12), stat=st.text(max_size=30), quota=st.text(max_size=12))
def test_whatever_stands_there_gives_numbers(
    tmp_path_factory: pytest.TempPathFactory, limit: str, used: str, stat: str, quota: str
) -> None:
    top = tmp_path_factory.mktemp("machine")
    files = {f"{SLICE}/{name}": text for name, text in [("memory.max", limit), ("memory.current", used)]}
    files |= {f"{SLICE}/memory.stat": stat, f"{SLICE}/cpu.max": quota, "/proc/pressure/cpu": stat}
    found = limits.limits(machine(top, mounts=V2, group="0::/user.slice\n", **files))
    assert found["limit_available_bytes"] >= 0 and 0 <= found["limit_bytes"] <= 64 * GIB and found["usable_cores"] > 0


def test_pressure_is_that_of_the_last_ten_seconds(tmp_path: Path) -> None:
    line = "{} avg10={} avg60=9.99 avg300=9.99 total=1\n"
    files = {
        "/proc/pressure/memory": line.format("some", "12.50") + line.format("full", "3.25"),
        "/proc/pressure/cpu": line.format("some", "71.00"),
        "/proc/pressure/io": "nonsense\n",
    }
    assert limits.pressure(machine(tmp_path, mounts="", group="", **files)) == {
        "memory_some": 12.5,
        "memory_full": 3.25,
        "cpu_some": 71.0,
    }


def test_this_machine_can_be_looked_at() -> None:
    found = limits.limits()
    assert 0 < found["available_bytes"] <= found["total_bytes"] and 0 < found["usable_cores"] <= found["n_cores"]


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ("0::/system.slice/slurmstepd.scope/job_7/step_0/user/task_0\n", "Slurm job 7"),
        ("7:memory:/slurm/uid_1000/job_7/step_batch\n1:name=systemd:/system.slice/slurmd.service\n", "Slurm job 7"),
        ("0::/system.slice/jupyter-alice.service\n", "jupyter-alice.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/lab.service\n", "lab.service"),
        ("0::/user.slice/user-1000.slice/user@1000.service/app.slice/run-7.scope\n", None),
        ("0::/user.slice/user-1000.slice/session-3.scope\n", None),
        ("0::/system.slice/ssh.service\n0::/system.slice/cron.service\n", None),
        ("0::/pbspro.slice/pbspro-3.slice/pbs_jobs.service/jobid/3.head\n", "PBS job 3.head"),
        ("3:memory:/lsf/site/job.42.1.99\n", "LSF job 42"),
        ("", None),
    ],
)
def test_what_a_process_ends_with_is_told_by_its_control_groups(
    tmp_path: Path, group: str, expected: str | None
) -> None:
    assert limits.ends_with(machine(tmp_path, mounts="", group="", **{"/proc/77/cgroup": group}), "77") == expected


JOB = "/system.slice/slurmstepd.scope/job_7"
HERE = Room(cores=96, memory_bytes=64 * GIB, available_bytes=48 * GIB, usable_cores=96, limit_bytes=64 * GIB)


def job_of(top: Path, **groups: str) -> str:
    """Write a machine with a job of 16 GiB and a core and a half, of which 2 GiB are used."""
    files = {f"/sys/fs/cgroup{JOB}/memory.max": f"{16 * GIB}\n", f"/sys/fs/cgroup{JOB}/cpu.max": "150000 100000\n"}
    files |= {f"/sys/fs/cgroup{JOB}/memory.current": f"{2 * GIB}\n"}
    shown = {f"/proc/{pid.strip('_')}/cgroup": f"0::{group}\n" for pid, group in groups.items()}
    return machine(top, mounts=V2, group=groups.get("self", "/"), **{**files, **shown})


def test_limits_of_a_tmux_server_in_a_job_hold_for_what_starts_in_it(tmp_path: Path) -> None:
    top = job_of(tmp_path, self="/user.slice", _77=JOB)
    found = machines.within_server(HERE, 77, root=top)
    assert (found.may_have, found.can_have) == (16 * GIB, 14 * GIB) and found.my_cores <= 1.5
    assert found.within == "the limits of your tmux server, in Slurm job 7"
    assert "your tmux server was started in Slurm job 7, so this cluster ends with it" in found.notes[0]


def test_a_tmux_server_outside_of_ones_job_is_told(tmp_path: Path) -> None:
    found = machines.within_server(HERE, 77, root=job_of(tmp_path, self=JOB, _77="/user.slice"))
    assert found.may_have == HERE.may_have
    assert "your tmux server is outside of Slurm job 7" in found.notes[0]


def test_a_tmux_server_in_the_same_place_changes_nothing(tmp_path: Path) -> None:
    for group in (JOB, "/user.slice/user-0.slice/session-3.scope"):
        top = job_of(tmp_path, self=group, _77=group)
        bounds = limits.limits(top)
        here = Room(
            cores=96,
            memory_bytes=64 * GIB,
            available_bytes=48 * GIB,
            usable_cores=bounds["usable_cores"],
            limit_bytes=bounds["limit_bytes"],
            limit_left_bytes=bounds["limit_available_bytes"],
        )
        assert machines.within_server(here, 77, root=top) == here
    assert machines.within_server(HERE, None) is HERE
