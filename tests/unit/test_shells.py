"""What shells leave behind, and the name by which one is meant."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import sessions
from ports.errors import InvalidNameError, NotFoundError
from ports.state import runtime_directory


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The directory of the sockets of a home of this test."""
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    found = runtime_directory()
    yield found
    for file in found.iterdir():
        file.unlink()
    found.rmdir()


def test_prune_removes_what_the_interrupted_start_of_a_shell_left(runtime: Path) -> None:
    old, young = runtime / "shell-old.launch", runtime / "shell-young.launch"
    for file in (old, young):
        file.write_text("{}")  # it has the variables of its starter
    long_ago = time.time() - 3600
    os.utime(old, (long_ago, long_ago))
    assert sessions.prune_shells() == [old]
    assert not old.exists() and young.exists()


def test_prune_removes_the_socket_of_a_tmux_that_has_ended(runtime: Path) -> None:
    dead = runtime / "tmux.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(dead))
    assert stat.S_ISSOCK(dead.lstat().st_mode) and sessions.list_shells() == []
    assert sessions.prune_shells() == [dead] and not dead.exists()


def test_a_shell_that_does_not_run_is_named_with_what_starts_it(runtime: Path) -> None:
    with pytest.raises(NotFoundError, match="no shell 'data'; `ports shell --name data` starts one"):
        sessions.stop_shell("data")
    with pytest.raises(InvalidNameError):
        sessions.stop_shell("No Name")
