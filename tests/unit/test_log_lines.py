"""The lines of a log: which of them are warnings, and those that come while one looks."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from ports import sessions
from ports.errors import StoreError

LOG = """\
2026-11-30 07:00:00,100 - distributed.scheduler - INFO - no ERROR so far
2026-11-30 07:00:01 cluster main: 2 workers
hello from a task: WARNING is only a word here
2026-11-30 07:00:02,100 - distributed.worker.memory - WARNING - Unmanaged memory use is high
another print
2026-11-30 07:00:03,100 - distributed.worker - ERROR - Compute Failed
Key:       f-1
State:     executing
Function:  f
args:      (1)
Exception: "ZeroDivisionError('division by zero')"
Traceback: '  File "x.py", line 1, in f'

print after the failure
2026-11-30 07:00:04 warning: worker 0 ended at its memory limit of 381.0 MiB with task hog
2026-11-30 07:00:05 guard: 1.0 GiB of 16.0 GiB of the machine are available: workers are paused
Traceback (most recent call last):
  File "y.py", line 2, in <module>
    raise ValueError("no")
mine.BadError: no
print after the traceback
/home/alice/z.py:7: UserWarning: careful
  warnings.warn("careful")
WARNING:root:by logging
[W 2026-11-30 07:00:06.001 ServerApp] 404 GET /x
[I 2026-11-30 07:00:07.001 ServerApp] all is well
2026-11-30 07:00:08 idle: a task came, 2 workers start
"""


def test_warnings_are_lines_of_warning_level_with_what_continues_them(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    found = [line for line in sessions.tail(tmp_path / "log", 0, warnings=True) if line]
    for quiet in ("INFO", "2 workers", "only a word", "print", "all is well", "a task came"):
        assert not [line for line in found if quiet in line], quiet
    assert len(found) == len([line for line in LOG.splitlines() if line]) - 8
    assert found[1:3] == [LOG.splitlines()[5], "Key:       f-1"] and "mine.BadError: no" in found


def test_the_last_lines_of_the_warnings_are_counted_after_the_choice(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(LOG)
    assert sessions.tail(tmp_path / "log", 1, warnings=True) == ("[W 2026-11-30 07:00:06.001 ServerApp] 404 GET /x",)


def test_a_log_is_followed_beyond_its_rotation_and_by_whole_lines(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with pytest.raises(StoreError):
        next(sessions.follow(log, 0))
    log.write_text("one\ntwo\nthr")
    lines = sessions.follow(log, 1, every=0.01)
    assert next(lines) == "two"
    with log.open("a") as file:
        file.write("ee\n")
    assert next(lines) == "three"
    log.rename(tmp_path / "log.1")
    log.write_text("four\nfive\n")
    assert list(itertools.islice(lines, 2)) == ["four", "five"]


def test_of_a_log_that_goes_on_only_the_last_start_is_told(tmp_path: Path) -> None:
    log = tmp_path / "cluster-main.log"
    begins = "--- 2026-01-0{} 10:00:00 +0000 cluster main, by ports 1"
    log.write_text("\n".join([begins.format(1), "old one", begins.format(2), "first", "--- a line of its own", "last"]))
    began = log.stat().st_mtime - 1
    assert sessions.tail_of_start(log, 20, began=began) == (begins.format(2), "first", "--- a line of its own", "last")
    assert sessions.tail_of_start(log, 2, began=began) == ("--- a line of its own", "last")
    assert sessions.tail_of_start(log, 20, began=began + 3600) == ()  # that start wrote nothing yet
    assert sessions.tail_of_start(tmp_path / "none", 20, began=began) == ()


def test_warnings_are_those_since_the_last_start(tmp_path: Path) -> None:
    log, begins = tmp_path / "log", "--- 2026-01-0{} 10:00:00 +0000 cluster main, by ports 1\n"
    log.write_text(f"{begins.format(1)}ERROR: of another cluster\n{begins.format(2)}all is well\n")
    assert sessions.tail(log, 50, warnings=True) == ()
    with log.open("a") as file:
        file.write("ERROR: of this one\n")
    assert sessions.tail(log, 50, warnings=True) == ("ERROR: of this one",)
    assert next(sessions.follow(log, 50, warnings=True)) == "ERROR: of this one"
