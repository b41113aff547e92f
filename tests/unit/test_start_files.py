"""Start files that end the shell of a host, read its input or take long, as `ports open` meets them: a real bash here.

sshd lets bash read ``~/.bashrc`` before each command; here ``BASH_ENV`` does the same.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import hosts
from ports.errors import FarSideError
from ports.hosts import _this_machine
from ports.tunnels import _host_connection
from ports.tunnels._event_loop import Relay
from ports.tunnels._host_connection import HostConnection


@pytest.fixture
def start_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the start file of the shell of this machine."""
    file = tmp_path / "bashrc"
    monkeypatch.setattr(_host_connection, "_DOUBT_SECONDS", 0.4)

    def shell(command: str) -> list[str]:
        return ["/usr/bin/env", f"BASH_ENV={file}", "bash", "-c", command]

    monkeypatch.setattr(_this_machine, "_shell", shell)
    return file


@pytest.fixture
def connection() -> Iterator[HostConnection]:
    relay = Relay()
    one = HostConnection(relay)
    yield one
    one.close()
    relay.close()


@pytest.mark.parametrize(
    ("lines", "cause"),
    [
        ("exec cat", "ended the shell (exit or exec), with status 0"),
        ("exit 3", "ended the shell (exit or exec), with status 3"),
        ("exec fish", "ended the shell"),
        ("cat > /dev/null", "read the input"),
        ("read -r line", "read the input"),
        ("while read -r line; do :; done", "read the input"),
    ],
)
def test_open_says_soon_what_start_files_do_to_its_program(
    start_file: Path, connection: HostConnection, lines: str, cause: str
) -> None:
    if "fish" in lines and not shutil.which("fish"):
        pytest.skip("there is no fish here")
    start_file.write_text(f"{lines}\n")
    began = time.monotonic()
    with pytest.raises(FarSideError) as told:
        connection.start(_this_machine.LocalConnection(hosts.here()))
    assert f"your start files there {cause}" in str(told.value) and "`[ -t 0 ] || return`" in str(told.value)
    assert time.monotonic() - began < 15


def test_start_files_that_take_a_while_are_waited_for(start_file: Path, connection: HostConnection) -> None:
    start_file.write_text("unset BASH_ENV\nsleep 1.5\n")  # as of a shell that runs a command
    assert connection.start(_this_machine.LocalConnection(hosts.here()))["host"]
