"""ssh_config.example means what its comments say, by ssh's own reading."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).resolve().parents[2] / "ssh_config.example"

pytestmark = pytest.mark.skipif(shutil.which("ssh") is None, reason="there is no ssh program")


def resolved(host: str) -> dict[str, str]:
    """Return what `ssh -G` makes of `host`."""
    done = subprocess.run(["ssh", "-T", "-G", "-F", str(EXAMPLE), host], text=True, capture_output=True, check=True)
    assert done.stderr == ""
    return dict(line.split(" ", 1) for line in done.stdout.splitlines() if " " in line)


@pytest.mark.parametrize("server", ["server1", "server2"])
def test_the_servers_are_reached_through_the_login_node(server: str) -> None:
    found = resolved(server)
    assert (found["hostname"], found["proxyjump"]) == (f"{server}.cluster.example.org", "login")
    assert (found["user"], found["identitiesonly"]) == ("alice", "yes")


def test_the_older_form_leads_to_the_same_host() -> None:
    found = resolved("server1-old")
    assert (found["hostname"], found["proxycommand"]) == ("server1.cluster.example.org", "ssh -q -W %h:%p login")
    assert "proxyjump" not in found


def test_the_login_node_is_reached_directly() -> None:
    found = resolved("login")
    assert found["hostname"] == "login.example.org"
    assert "proxyjump" not in found and "proxycommand" not in found


@pytest.mark.parametrize("host", ["login", "server1", "server1-old"])
def test_host_keys_are_checked_everywhere(host: str) -> None:
    assert resolved(host)["stricthostkeychecking"] == "ask"


def test_every_line_is_explained() -> None:
    """Each option has a comment above it, in its own block or in the one that explained it first."""
    explained: set[str] = set()
    comment = False
    for line in EXAMPLE.read_text().splitlines():
        words = line.split()
        if not words:
            comment = False
        elif words[0].startswith("#"):
            comment = True
        else:
            assert comment or words[0] in explained, f"nothing explains {line.strip()!r}"
            explained.add(words[0])
