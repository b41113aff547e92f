"""The output of a job with a copy: which files it is, and that a fetch takes nothing from you."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from ports.errors import ConflictError, NotFoundError, StoreError, UsageError
from ports.jobs import _fetch, _outputs, _trees
from ports.jobs._model import JobId
from ports.jobs._places import Places
from ports.jobs._trees import Objects
from ports.jobs._workspace import FETCHED, select
from ports.jobs.resource import lay_out, script

ID = JobId(12)


class Job:
    """A job whose copy has been laid out from a directory with two files."""

    def __init__(self, top: Path) -> None:
        self.places = Places(top / "jobs", top / "run")
        given = top / "given"
        given.mkdir()
        (given / "a").write_text("a")
        (given / "b").write_text("b")
        (given / "link").symlink_to("a")
        self.places.objects.mkdir(parents=True)
        tree, _ = _trees.snapshot(Objects(self.places.objects), lambda: select(given))
        self.copy = self.places.copy_of(ID)
        self.copy.parent.mkdir(parents=True)
        self.tree = tree.digest
        lay_out.lay_out(str(self.places.objects), tree.digest, str(self.copy))

    def row(self, *out: str, state: str = "finished") -> dict[str, Any]:
        workspace = {"tree": self.tree, "how": "copy", "out": list(out)}
        return {"id": "12", "state": state, "asked": {"script": {"workspace": workspace}}}

    def fetch(self, row: dict[str, Any], to: Path | None = None, **options: Any) -> _fetch.Fetched:
        return _fetch.fetch(_outputs.Here(self.places, row), row, to, **options)

    def found(self, *out: str) -> list[str]:
        return [one.path for one in _outputs.find(self.places, self.row(*out))]


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "home")
    return Job(tmp_path)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_what_was_made_or_changed_is_output(job: Job) -> None:
    assert job.found() == []
    write(job.copy / "b", "c")
    write(job.copy / "new/x", "1")
    write(job.copy / "new/__pycache__/x.pyc", "1")
    (job.copy / "link").unlink()
    (job.copy / "link").symlink_to("b")
    (job.copy / "new/dir").symlink_to("..")
    os.mkfifo(job.copy / "fifo")
    assert job.found() == ["b", "link", "new/dir", "new/x"]


def test_the_end_of_a_script_notes_whether_it_made_something(job: Job) -> None:
    (job.copy / "link").unlink()  # links have times of their own: with one, it counts as made
    assert (script.LAID_OUT, script.CACHES) == (lay_out.STAMP * 10**9, _outputs._CACHES)
    write(job.copy / "new/__pycache__/x.pyc", "1")
    assert not script.has_made(str(job.copy)) and job.found() == []
    (job.copy / "new/dir").symlink_to("..")
    assert script.has_made(str(job.copy)) and job.found() == ["new/dir"]
    (job.copy / "new/dir").unlink()
    write(job.copy / "b", "c")
    assert script.has_made(str(job.copy)) and job.found() == ["b"]


def test_a_fetch_without_output_makes_no_directory(job: Job) -> None:
    done = job.fetch(job.row())
    assert (done.n_files, done.directory) == (0, "job-12") and os.listdir(".") == []
    assert job.places.fetched(ID).exists()


def test_a_running_job_without_output_is_not_fetched(job: Job) -> None:
    assert job.fetch(job.row(state="running")).n_files == 0
    assert not job.places.fetched(ID).exists()


def test_all_below_the_named_paths_is_output_once(job: Job) -> None:
    write(job.copy / "r/x", "1")
    write(job.copy / "r/s/y", "1")
    write(job.copy / "other", "1")
    assert job.found("r", "r/s", "b", "missing") == ["b", "r/s/y", "r/x"]


def test_output_is_fetched_with_times_and_modes(job: Job) -> None:
    write(job.copy / "r/x", "1")
    (job.copy / "r/x").chmod(0o750)
    done = job.fetch(job.row("r"))
    status = Path("job-12/r/x").stat()
    assert (done.directory, done.n_files, done.n_bytes, done.n_same) == ("job-12", 1, 1, 0)
    assert status.st_mode & 0o777 == 0o750 and status.st_mtime_ns == (job.copy / "r/x").stat().st_mtime_ns
    assert job.places.fetched(ID).exists() and sorted(os.listdir("job-12")) == [FETCHED, "r"]
    assert job.fetch(job.row("r")).n_same == 1


def test_output_of_a_job_that_runs_does_not_count_as_fetched(job: Job) -> None:
    write(job.copy / "r/x", "1")
    job.fetch(job.row("r", state="running"))
    assert Path("job-12/r/x").exists() and not job.places.fetched(ID).exists()
    write(job.copy / "r/x", "1 and more")
    assert job.fetch(job.row("r")).n_files == 1  # what fetch wrote, it can overwrite
    assert Path("job-12/r/x").read_text() == "1 and more"


def test_your_files_that_differ_are_never_overwritten(job: Job) -> None:
    write(job.copy / "r/x", "1")
    write(job.copy / "r/y", "2")
    write(Path("to/r/x"), "mine")
    with pytest.raises(ConflictError, match="other files of the same name: r/x; --force overwrites them"):
        job.fetch(job.row("r"), Path("to"))
    assert Path("to/r/x").read_text() == "mine" and not Path("to/r/y").exists()
    job.fetch(job.row("r"), Path("to"), force=True)
    assert Path("to/r/x").read_text() == "1"
    write(Path("to/r/x"), "changed after the fetch")
    with pytest.raises(ConflictError):
        job.fetch(job.row("r"), Path("to"))


def test_a_file_of_yours_with_the_same_content_is_left_alone(job: Job) -> None:
    write(job.copy / "r/x", "1")
    write(Path("to/r/x"), "1")
    os.utime("to/r/x", (5, 5))
    assert job.fetch(job.row("r"), Path("to")).n_same == 1 and Path("to/r/x").stat().st_mtime == 5


@pytest.mark.parametrize("force", [False, True])
def test_a_file_where_a_directory_goes_is_a_conflict(job: Job, force: bool) -> None:
    write(job.copy / "r/x", "1")
    write(Path("to/r"), "mine")
    with pytest.raises((ConflictError, StoreError)):
        job.fetch(job.row("r"), Path("to"), force=force)
    assert Path("to/r").read_text() == "mine"


def test_nothing_is_written_through_a_link_that_leads_out(job: Job) -> None:
    write(job.copy / "r/x", "1")
    Path("elsewhere").mkdir()
    Path("to").mkdir()
    Path("to/r").symlink_to("../elsewhere")
    with pytest.raises(ConflictError, match="r is a link, and a directory in the output"):
        job.fetch(job.row("r"), Path("to"))
    assert os.listdir("elsewhere") == []


def test_an_interrupted_fetch_goes_on(job: Job) -> None:
    write(job.copy / "r/big", "0123456789" * 500_000)
    seen: list[int] = []

    def interrupted(n_bytes: int) -> None:
        seen.append(n_bytes)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.fetch(job.row("r"), progress=interrupted)
    assert not Path("job-12/r/big").exists() and not job.places.fetched(ID).exists()
    again: list[int] = []
    job.fetch(job.row("r"), progress=again.append)
    assert sum(again) == 5_000_000 - sum(seen) and os.listdir("job-12/r") == ["big"]
    assert Path("job-12/r/big").read_bytes() == (job.copy / "r/big").read_bytes()


def test_half_of_a_file_that_changed_since_is_thrown_away(job: Job) -> None:
    write(job.copy / "r/big", "0" * 3_000_000)

    def interrupted(n_bytes: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        job.fetch(job.row("r"), progress=interrupted)
    write(job.copy / "r/big", "1" * 3_000_001)
    job.fetch(job.row("r"))
    assert Path("job-12/r/big").read_text() == "1" * 3_000_001 and os.listdir("job-12/r") == ["big"]


@pytest.mark.skipif(os.geteuid() != 0, reason="a disk of its own needs root")
def test_a_fetch_to_a_full_disk_is_refused_before_it_begins(job: Job) -> None:
    write(job.copy / "r/big", "0" * 3_000_000)
    Path("to").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "to"], check=True)
    try:
        with pytest.raises(StoreError, match=r"no space for 2\.9 MiB"):
            job.fetch(job.row("r"), Path("to"))
        assert os.listdir("to") == []
    finally:
        subprocess.run(["umount", "-l", "to"], check=True)


def test_a_job_without_a_copy_or_a_beginning_has_no_output(job: Job) -> None:
    with pytest.raises(UsageError, match="it ran in /somewhere, its files are there"):
        _outputs.find(job.places, {"id": "12", "state": "finished", "asked": {"directory": "/somewhere"}})
    with pytest.raises(UsageError, match="it runs in /somewhere, its files are there"):
        _outputs.find(job.places, {"id": "12", "state": "pending", "asked": {"directory": "/somewhere"}})
    with pytest.raises(NotFoundError, match="it is pending and has not begun"):
        _outputs.find(job.places, {**job.row(state="pending"), "id": "13"})


def test_output_of_another_job_is_found_by_its_path(job: Job) -> None:
    write(job.copy / "r/x", "1")
    write(job.copy / "r/s/y", "1")
    assert list(_outputs.of_another(job.places, job.row("r"), "r/s/")) == ["r/s/y"]
    assert list(_outputs.of_another(job.places, job.row("r"), "./r/x")) == ["r/x"]
    assert len(_outputs.of_another(job.places, job.row("r"), ".")) == 2
    with pytest.raises(NotFoundError, match="no output '12/r/z'"):
        _outputs.of_another(job.places, job.row("r"), "r/z")
    with pytest.raises(UsageError, match="once it has ended"):
        _outputs.of_another(job.places, job.row("r", state="running"), "r")
