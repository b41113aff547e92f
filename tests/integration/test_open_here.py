"""``ports open`` of what runs on the machine where one sits: without ssh, at the port that the link has at home."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import clusters, tunnels
from ports.errors import NotFoundError
from ports.hosts import Target
from ports.state import paths
from ports.tunnels import _group
from ports.tunnels._local_address import LocalAddress
from tests.integration.conftest import Home

pytestmark = [pytest.mark.xdist_group("machine"), pytest.mark.timeout(120)]


def page(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    with opener.open(url, timeout=10) as answer:
        return str(answer.read().decode())


@pytest.fixture
def no_ssh(home: Home, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An ssh program that fails; it is not called."""
    monkeypatch.setenv("PATH", f"{home.work}:{os.environ['PATH']}")
    ssh = home.work / "ssh"
    ssh.write_text(f'#!/bin/sh\necho "$@" >> {home.work}/ssh-ran\nexit 255\n')
    ssh.chmod(0o755)
    yield
    assert not (home.work / "ssh-ran").exists()


def test_the_dashboard_of_a_cluster_here_opens_by_its_name(home: Home, no_ssh: None) -> None:
    cluster = clusters.start("main", n_workers=1)
    (row,) = home.json("open", "main", "--background", "--share")
    assert (row["host"], row["kind"], row["state"]) == ("localhost", "cluster", "open")
    assert row["local_url"].split("?")[0] == cluster.dashboard_link
    assert "Dask" in page(row["local_url"])
    (again,) = home.json("open", "localhost:main", "--background", "--share")
    assert again["local_url"] == row["local_url"]
    assert [one["state"] for one in home.json("tunnel", "close", "localhost:main")] == ["closed"]


@pytest.mark.long
def test_a_notebook_server_and_a_port_of_this_machine_open(home: Home, no_ssh: None) -> None:
    home.json("notebook", "start", "lab")
    serves = [sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with subprocess.Popen(serves, cwd=home.work, stdout=subprocess.PIPE, text=True) as serving:
        assert serving.stdout is not None
        port = serving.stdout.readline().split("port ")[1].split()[0]
        try:
            rows = home.json("open", "lab", f"localhost:{port}", "--background", "--share")
            assert [(row["host"], row["state"]) for row in rows] == [("localhost", "open")] * 2, rows
            pages = {row["kind"]: page(row["local_url"]) for row in rows}
            assert "JupyterLab" in pages.pop("notebook") and "Directory listing" in "".join(pages.values())
        finally:
            home.ports("tunnel", "close", "--all")
            serving.terminate()
    home.json("notebook", "stop", "lab")


def test_a_name_that_runs_nowhere_here_stays_a_host(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    (home.work / ".ssh").mkdir()
    (home.work / ".ssh/config").write_text("Host lab\n    HostName 127.0.0.1\n")
    monkeypatch.setattr(Path, "home", lambda: home.work)
    for name in ("main", "lab"):
        (paths.here().root / "clusters" / name).mkdir(parents=True)
    found = _group.check_targets(["main", "lab", "server1", "server1:main"], LocalAddress(), None)
    assert found == {
        "localhost": [Target("localhost", "main")],
        "lab": [Target("lab")],
        "server1": [Target("server1"), Target("server1", "main")],
    }
    for name in ("main", "lab"):
        (paths.here().root / "clusters" / name).rmdir()


def test_a_port_here_that_nobody_serves_is_not_found(home: Home) -> None:
    with pytest.raises(NotFoundError):
        tunnels.open("localhost:1")
