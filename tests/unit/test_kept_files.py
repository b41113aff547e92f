"""What jobs take on the disk: homes have quotas."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from ports import jobs, machine, probe
from ports.cli import resource, who
from ports.probe import kept


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of jobs, with two copies of a file of 1 MB and output of 2 MB."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(kept, "KEPT_SECONDS", 60.0)
    found = Path(probe.host_directory()) / "jobs"
    for name in ("work/1/workspace", "objects"):
        (found / name).mkdir(parents=True)
    (found / "objects" / "abc").write_bytes(os.urandom(10**6))
    os.link(found / "objects" / "abc", found / "work" / "1" / "workspace" / "data")
    (found / "work" / "1" / "stdout").write_bytes(os.urandom(2 * 10**6))
    (found / "submissions").mkdir()
    (found / "submissions" / "small").write_bytes(os.urandom(10**6))  # it is no file of a job's output
    return found


def test_files_of_jobs_count_once_where_copies_share_them(root: Path) -> None:
    found = kept.kept_by_jobs()
    assert found is not None and found["is_all"] and found["directory"] == str(root)
    assert 3 * 10**6 <= found["bytes"] < 3.5 * 10**6 and found["free_bytes"] > 0


def test_the_directory_that_the_first_job_chose_is_counted(root: Path, tmp_path: Path) -> None:
    large = tmp_path / "scratch"
    (large / "results").mkdir(parents=True)
    (large / "results" / "1").write_bytes(os.urandom(5 * 10**6))
    (root / "directory").write_text(f"{large}\n")
    found = kept.kept_by_jobs()
    assert found is not None and found["directory"] == str(large) and 5 * 10**6 <= found["bytes"] < 5.5 * 10**6


@pytest.mark.parametrize("text", ["", "scratch\n", "/half a path", "/nowhere/at/all\n"])
def test_a_directory_that_is_not_there_has_no_size(root: Path, text: str) -> None:
    (root / "directory").write_text(text)
    assert kept.kept_by_jobs() is None


def test_without_jobs_there_is_no_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path))
    assert kept.kept_by_jobs() is None and machine.usage(jobs=True).row()["jobs"] is None


def test_counting_ends_in_time_and_says_that_there_is_more(root: Path) -> None:
    found = kept.kept_by_jobs(seconds=-1.0)
    assert found is not None and not found["is_all"] and found["bytes"] == 0
    assert resource.files_of(found).startswith(
        f"more than 0.0 B in {root}, where "
    ) or "more than" in resource.files_of(found)


def test_who_and_the_resource_say_what_jobs_take(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    used = machine.usage(jobs=True)
    assert used.jobs == used.row()["jobs"] and machine.usage().jobs is None
    assert who.jobs_lines(used) == []  # little
    monkeypatch.setattr(who, "_MUCH_OF_A_DISK", 10**6)
    [line] = who.jobs_lines(used)
    taken = f"{probe.size(used.row()['jobs']['bytes'])} in {root}, where "
    assert line.startswith(f"your jobs have {taken}") and "`ports job prune --older 30d`" in line
    [line] = who.jobs_lines(dataclasses.replace(used, host="server1"))
    assert "`ports job prune -H server1 --older 30d`" in line
    files = jobs.kept_files()
    assert files is not None and resource.files_of(files).startswith(taken)
    assert "files" in resource.readable({"files": files}) and "files" not in resource.readable({})


def test_users_have_what_is_promised_and_not_used_and_the_rest_is_unseen() -> None:
    row = machine.usage().row()
    assert all(one["unfilled_bytes"] >= 0 for one in row["users"])
    assert row["unseen_bytes"] >= 0 and row["unseen_cores"] >= 0
