"""What a job says and asks while it runs, and the bar that shows it."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
import types
from pathlib import Path

import pytest

import ports
from ports.errors import UsageError
from ports.jobs import _inside, _progress


@pytest.fixture
def work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Be a job whose directory is returned."""
    monkeypatch.setenv("PORTS_JOB", "7")
    monkeypatch.setenv("PORTS_ATTEMPT", "2")
    monkeypatch.setenv("PORTS_JOB_DIRECTORY", str(tmp_path / "7" / "kept"))
    _inside.begin()
    return tmp_path / "7"


def test_progress_is_read_by_its_attempt_only(work: Path) -> None:
    ports.progress(3, 10)
    assert _inside.read(work, 2) == {"done": 3.0, "total": 10.0} and _inside.read(work, 1) is None
    assert _inside.end("7") == {"done": 3.0, "total": 10.0} and not work.exists()


def test_progress_that_comes_too_fast_is_not_written(work: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(_inside.time, "monotonic", lambda: now[0])
    ports.progress(1, 10)
    ports.progress(2, 10)
    assert _inside.read(work, 2) == {"done": 1.0, "total": 10.0}
    now[0] += 1
    ports.progress(3)
    assert _inside.read(work, 2) == {"done": 3.0, "total": None}
    ports.progress(10, 10)
    assert _inside.read(work, 2) == {"done": 10.0, "total": 10.0}


@pytest.mark.parametrize("bad", [-1, "x", None, float("nan"), float("inf"), [1]], ids=repr)
def test_a_progress_that_is_no_amount_is_refused_in_words(bad: object) -> None:
    with pytest.raises(UsageError, match=r"done=.* is no number of at least 0; say ports.progress\(done, total\)"):
        ports.progress(bad)  # type: ignore[arg-type]


def test_outside_of_a_job_nothing_is_said_and_nothing_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("PORTS_JOB", "PORTS_JOB_DIRECTORY"):
        monkeypatch.delenv(name, raising=False)
    _inside.begin()
    ports.progress(1, 2)
    assert not ports.should_stop()
    with pytest.raises(UsageError, match="no job runs in this process"):
        ports.jobs.directory()


def test_a_script_that_asks_is_told_of_its_end(work: Path) -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        assert not ports.should_stop()
        os.kill(os.getpid(), signal.SIGTERM)
        assert ports.should_stop()
    finally:
        signal.signal(signal.SIGTERM, before)
        _inside.begin()
    assert ports.jobs.directory() == work / "kept" and (work / "kept").is_dir()


@pytest.mark.parametrize("text", ["", "[]", "{", '{"done": 1}', '{"done": "x", "total": 1, "attempt": 2}', "null"])
def test_a_damaged_file_of_progress_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / _inside.FILE).write_text(text)
    assert _inside.read(tmp_path, 2) is None
    (tmp_path / _inside.FILE).write_text(json.dumps({"done": 1, "total": None, "attempt": 2}))
    assert _inside.read(tmp_path, 2) == {"done": 1, "total": None}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(terminal: io.StringIO) -> list[str]:
    return [line.rstrip() for line in terminal.getvalue().replace("\n", "\r").split("\r") if line.strip()]


def in_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Let a bar be shown at once, in a terminal; in the test itself, as pytest sets `stderr` after its fixtures."""
    made = Terminal()
    monkeypatch.setattr("sys.stderr", made)
    monkeypatch.setattr(_progress, "_DELAY", 0.0)
    return made


def test_the_bar_of_one_job_shows_its_own_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    bar = _progress.Bar(1, "fit", True)
    bar.say([{"done": 37, "total": 100}])
    bar.say([])
    bar.count(1)
    bar.close(is_done=True)
    assert shown(terminal)[0].startswith("fit:  37%") and "37/100" in shown(terminal)[0]
    assert "100/100" in shown(terminal)[-1] and terminal.getvalue().count("\n") == 1


def test_the_bar_of_some_jobs_adds_the_parts_that_are_done(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = in_terminal(monkeypatch)
    bar = _progress.Bar(4, "night-1", True)
    bar.count(1)
    bar.say([{"done": 1, "total": 2}, {"done": 7, "total": None}])
    bar.close(is_done=False)
    assert "1.5/4" in shown(terminal)[-1] and terminal.getvalue().count("\n") == 1


@pytest.mark.parametrize("imported", ["nothing", "ipykernel", "IPython"])
def test_where_there_is_no_terminal_nothing_is_printed(imported: str, monkeypatch: pytest.MonkeyPatch) -> None:
    quiet = io.StringIO()
    shell = types.SimpleNamespace(get_ipython=lambda: None)
    monkeypatch.setitem(sys.modules, imported, shell)
    monkeypatch.setattr("sys.stderr", quiet)
    monkeypatch.setattr(_progress, "_DELAY", 0.0)
    with _progress.bar(3, "night-1", None) as count:
        count(3)
    assert quiet.getvalue() == ""


@pytest.mark.parametrize("has_kernel", [True, False], ids=["notebook", "ipython"])
def test_a_notebook_is_a_process_with_a_kernel(has_kernel: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    shell = types.SimpleNamespace(kernel=object()) if has_kernel else types.SimpleNamespace()
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))
    assert _progress._in_notebook() is has_kernel
