"""``ports open`` of what runs on the machine where one sits: without ssh, at the port that the link has at home."""

from __future__ import annotations

import os
import urllib.request
from pathlib import Path

import pytest

from ports import clusters, tunnels
from ports.errors import NotFoundError
from ports.hosts import Target
from ports.tunnels import _group
from ports.tunnels._local_address import LocalAddress
from tests.integration.conftest import Home

pytestmark = [pytest.mark.xdist_group("machine"), pytest.mark.timeout(120)]


def page(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


def test_the_dashboard_of_a_cluster_here_opens_by_its_name(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{home.work}:{os.environ['PATH']}")
    ssh = home.work / "ssh"
    ssh.write_text('#!/bin/sh\necho "$@" >> ssh-ran\nexit 255\n')
    ssh.chmod(0o755)
    cluster = clusters.start("main", n_workers=1)
    (row,) = home.json("open", "main", "--background", "--share")
    assert (row["host"], row["kind"], row["state"]) == ("localhost", "cluster", "open")
    assert row["local_url"].split("?")[0] == cluster.dashboard_link
    assert "Dask" in page(row["local_url"])
    (again,) = home.json("open", "localhost:main", "--background", "--share")
    assert again["local_url"] == row["local_url"]
    assert not (home.work / "ssh-ran").exists()
    assert [one["state"] for one in home.json("tunnel", "close", "localhost:main")] == ["closed"]


def test_a_name_that_runs_nowhere_here_stays_a_host(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.work / ".ssh").mkdir()
    (home.work / ".ssh/config").write_text("Host lab\n    HostName 127.0.0.1\n")
    monkeypatch.setattr(Path, "home", lambda: home.work)
    for name in ("main", "lab"):
        (_group.paths.here().root / "clusters" / name).mkdir(parents=True)
    found = _group.check_targets(["main", "lab", "server1", "server1:main"], LocalAddress(), None)
    assert found == {
        "localhost": [Target("localhost", "main")],
        "lab": [Target("lab")],
        "server1": [Target("server1"), Target("server1", "main")],
    }
    for name in ("main", "lab"):
        (_group.paths.here().root / "clusters" / name).rmdir()


def test_a_port_here_that_nobody_serves_is_not_found(home: Home) -> None:
    with pytest.raises(NotFoundError):
        tunnels.open("localhost:1")
