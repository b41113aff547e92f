"""The claim of a name that something holds: what the message says is done, and leads on."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from ports import notebooks, sessions
from ports.doctor import _prune
from ports.errors import BrokenRecordError, NameInUseError, StartError
from ports.notebooks._notebook import NotebookRecord
from ports.sessions import processes
from ports.state import paths, runtime_directory


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[NotebookRecord]:
    """What this process would claim the name lab for, in a home of this test."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    mine, now = sessions.new_identity()
    said = {"interpreter": "/bin/true", "directory": "/", "root": "/", "server": "lab", "token_file": "/none"}
    yield NotebookRecord(
        kind="notebook", name="lab", created_at=now, started_by=mine, runtime=str(tmp_path / "nb-x"), **said
    )
    runtime = runtime_directory()
    for lock in runtime.glob("*.lock"):
        lock.unlink()
    runtime.rmdir()


@pytest.mark.parametrize("what", ["a directory without a record", "a file"])
def test_what_holds_a_name_without_a_record_is_moved_by_prune(record: NotebookRecord, what: str) -> None:
    place = sessions.files("notebook", "lab", paths.make_state()).directory
    place.parent.mkdir()
    if what == "a file":
        place.write_text("notes")
    else:
        place.mkdir()
        (place / "notes").write_text("notes")
    with pytest.raises(BrokenRecordError, match="`ports prune` moves it aside"):
        sessions.claim(record)
    [(name, done)] = _prune._move_broken_aside("notebook")
    assert name == "lab" and done.startswith(f"moved aside to {place}.broken-")
    assert sessions.claim(record).state == "starting"


def test_a_claim_that_is_being_made_is_ended_by_the_command_it_names(record: NotebookRecord) -> None:
    first = sessions.claim(record)
    with subprocess.Popen(["sleep", "60"]) as other:  # another process that starts it
        who = processes.identity(other.pid)
        assert who is not None
        with pytest.raises(NameInUseError, match="`ports notebook stop lab` stops it"):
            sessions.claim(replace(record, started_by=who))
        other.kill()
    notebooks.get("lab").stop()
    second = sessions.claim(replace(record, created_at=record.created_at + 1))
    for begun in (first, replace(first, record=replace(record, created_at=1.0))):  # its own start must notice
        with pytest.raises(StartError, match="notebook 'lab' did not start: it was stopped while it started"):
            sessions.start(begun, ["/bin/true"], environ={}, cwd="/", timeout=5, what="notebook 'lab'")
    found = sessions.find("notebook", "lab", NotebookRecord)
    assert found is not None and found.record == second.record and not found.files.launch.exists()
    sessions.stop(found)


def test_a_claim_of_a_process_that_died_stands_in_nobodys_way(record: NotebookRecord) -> None:
    with subprocess.Popen(["sleep", "60"]) as other:
        who = processes.identity(other.pid)
        other.kill()
    assert who is not None
    sessions.claim(replace(record, started_by=who))
    assert sessions.claim(record).record == record
