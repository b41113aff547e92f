"""Where jobs keep what is large, which the first job chooses, and what a full disk is answered."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports.errors import StoreError, UsageError
from ports.jobs import _asking, _cache, _durable, _places, _scripts

LARGE = ("objects", "work", "results", "streams", "cache", "environments")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.delitem(sys.modules, "dask.config", raising=False)  # it has read the variables already
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def disk(home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (home / "disk").mkdir()
    monkeypatch.setenv("DASK_PORTS__JOBS__DIRECTORY", str(home / "disk"))
    return home / "disk"


def large(places: _places.Places) -> set[Path]:
    return {getattr(places, name).parent for name in LARGE}


def test_what_is_large_lies_in_the_directory_of_the_setting(disk: Path) -> None:
    places = _places.make_places()
    (data,) = large(places)
    assert data.parent.parent == disk and data.stat().st_mode & 0o777 == 0o700
    assert data.name == places.root.parent.name  # of this machine: several can use one disk
    assert _places.here() == places and _cache.here().directory == data / "cache"
    assert {places.ids.parent, places.environs.parent, places.store.parent} == {places.root}
    assert str(data) in _asking.where() and "free" in _asking.where()


def test_the_scratch_setting_is_the_next_choice(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "scratch").mkdir()
    monkeypatch.setenv("DASK_PORTS__CLUSTER__LOCAL_DIRECTORY", str(home / "scratch"))
    assert _places.make_places().data.parent.parent == home / "scratch"


def test_without_a_setting_all_lies_in_the_state_directory() -> None:
    places = _places.make_places()
    assert large(places) == {places.root} and not (places.root / "directory").exists()
    assert "the setting jobs.directory names another disk" in _asking.where()


def test_the_first_choice_stays_and_another_one_is_said(
    disk: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = _places.make_places()
    (home / "other").mkdir()
    monkeypatch.setenv("DASK_PORTS__JOBS__DIRECTORY", str(home / "other"))
    with pytest.warns(UserWarning, match="as the first job chose, and not in"):
        assert _places.make_places() == first
    moved = home / "other" / "x" / "y"  # what the message says
    moved.parent.mkdir()
    first.data.rename(moved)
    (first.root / "directory").write_text(f"{moved}\n")
    assert _places.here().data == moved and _places.here().work.is_dir()


def test_a_queue_that_is_there_already_stays_where_it_is(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = _places.make_places()
    (before.work / "1").mkdir()
    (home / "disk").mkdir()
    monkeypatch.setenv("DASK_PORTS__JOBS__DIRECTORY", str(home / "disk"))
    with pytest.warns(UserWarning, match="not in"):
        assert _places.make_places() == before
    assert not list((home / "disk").iterdir())


@pytest.mark.parametrize(
    ("given", "why"), [("missing", "is missing or not writable"), ("open", "any user could replace what is in")]
)
def test_a_directory_that_is_not_good_is_refused(
    home: Path, monkeypatch: pytest.MonkeyPatch, given: str, why: str
) -> None:
    (home / "open").mkdir()
    (home / "open").chmod(0o777)
    monkeypatch.setenv("DASK_PORTS__JOBS__DIRECTORY", str(home / given))
    with pytest.raises(UsageError, match=f"jobs.directory: .*{why}.*; name a directory of yours on a disk"):
        _places.make_places()
    assert not list((home / "open").iterdir())
    monkeypatch.setenv("DASK_PORTS__JOBS__DIRECTORY", str(home))  # the way out
    assert _places.make_places().data.parent.parent == home


def test_a_disk_of_jobs_that_is_gone_is_not_made_again(disk: Path) -> None:
    places = _places.make_places()
    places.data.parent.rename(disk.parent / "taken away")
    disk.rmdir()
    with pytest.raises(StoreError, match="it is gone, and jobs are kept there; mount it again"):
        _places.make_places()
    assert not disk.exists()


def test_a_path_that_is_none_is_refused(disk: Path) -> None:
    places = _places.make_places()
    (places.root / "directory").write_text("")
    with pytest.raises(StoreError, match="it does not name the directory of the jobs"):
        _places.here()


def test_what_a_full_disk_refuses_has_sizes_and_a_way_out(tmp_path: Path) -> None:
    for number in (errno.ENOSPC, errno.EDQUOT):
        said = str(_durable.refused(tmp_path / "gone" / "x", OSError(number, os.strerror(number))))
        assert " are free); free space there, or `ports job prune --older 7d` removes old jobs" in said
    assert "prune" not in str(_durable.refused(tmp_path, OSError(errno.EACCES, "Permission denied")))


@pytest.fixture
def small(disk: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("a disk of its own needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=20m,mode=700", "tmpfs", str(disk)], check=True)
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def test_a_job_is_refused_before_a_nearly_full_disk_is(small: Path) -> None:
    places = _places.make_places()
    (small / "others").write_bytes(bytes(12 << 20))
    script = _scripts.describe(["true"])
    with pytest.raises(StoreError, match=r"no space for a job, 8\.0 MiB are free; free space there, or `ports job"):
        _asking.submit_script(script, start=False)
    assert not list(places.environs.iterdir()) and not list(places.ids.iterdir())
    (small / "others").unlink()
    assert str(_asking.submit_script(script, start=False)) == "1"
