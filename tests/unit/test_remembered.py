"""What `ssh -G` said is remembered until a file changes, and never where more than files counts."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports.hosts.openssh import ssh_config, ssh_config_cache
from ports.state import runtime_directory

pytestmark = pytest.mark.skipif(shutil.which("ssh") != "/usr/bin/ssh", reason="needs the system's ssh")


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a configuration of one's own, whose files count as old at once."""
    file = tmp_path / "config"
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    monkeypatch.setattr(ssh_config, "config_arguments", lambda: ["-F", str(file)])
    monkeypatch.setattr("ports.hosts.openssh.ssh_config_cache._JUST_NOW_NS", 0)
    yield file
    shutil.rmtree(runtime_directory())


def ask(file: Path) -> str:
    return ssh_config.ask(["ssh", "-F", str(file), "-G", "--", "server1"])


def known(file: Path, alias: str = "server1") -> str | None:
    return ssh_config_cache.recall(["ssh", "-F", str(file), "-G", "--", alias])


def test_an_answer_is_remembered_until_a_file_changes(configuration: Path, tmp_path: Path) -> None:
    included = tmp_path / "more.conf"
    configuration.write_text(f"Include {tmp_path}/*.conf\nMatch host server1 user *\n  Hostname 10.0.0.1\n")
    assert known(configuration) is None
    assert "hostname 10.0.0.1" in ask(configuration)
    assert "hostname 10.0.0.1" in str(known(configuration))
    assert ask(configuration) == ask(configuration) and known(configuration, "server2") is None
    for text, hostname in (("Host server1\n  Hostname 10.0.0.2\n", "10.0.0.2"), ("Host other\n", "10.0.0.1")):
        included.write_text(text)  # at first a file that was not there
        assert known(configuration) is None
        assert f"hostname {hostname}\n" in ask(configuration) and known(configuration) is not None
    included.unlink()
    assert known(configuration) is None


@pytest.mark.parametrize(
    "line",
    [
        'Match exec "true"',
        "Match host server1 exec true",
        "match !final all",
        "Match final",
        "Match localnetwork 10.0.0.0/8",
        "CanonicalizeHostname yes",
        "Include ${HOME}/more",
    ],
)
def test_nothing_is_remembered_where_more_than_files_counts(configuration: Path, line: str) -> None:
    configuration.write_text(f"Host server1\n  Hostname 10.0.0.1\nHost *\n{line}\n")
    assert ssh_config_cache.stamp("ssh", configuration) is None
    configuration.write_text("Host server1\n  Hostname 10.0.0.1\n")
    assert ssh_config_cache.stamp("ssh", configuration) is not None


def test_a_change_of_this_moment_is_not_trusted(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    configuration.write_text("Host server1\n")
    monkeypatch.setattr("ports.hosts.openssh.ssh_config_cache._JUST_NOW_NS", 2_000_000_000)
    assert ssh_config_cache.stamp("ssh", configuration) is None
    os.utime(configuration, (1, 1))
    assert ssh_config_cache.stamp("ssh", configuration) is None  # its time of change cannot be set
