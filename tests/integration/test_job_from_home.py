"""`ports job -H server1`, from alice's laptop, through the jump host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Site

pytestmark = [pytest.mark.ci, pytest.mark.timeout(240)]


def ports(site: Site, *words: str, host: str = "laptop") -> Any:
    return site.run(host, [site.python, "-m", "ports", *words], timeout=120)


@pytest.fixture
def server(laptop: Site) -> Iterator[Site]:
    """The laptop, from which a compute resource on server1 is reached that ends with the test."""
    yield laptop
    ports(laptop, "resource", "stop", "-H", "server1", "--now")
    home = ["sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs /tmp/ports-$(id -u)/leases"]
    laptop.run("server1", home)


def test_a_script_runs_on_a_server_and_its_output_comes_home(server: Site) -> None:
    words = ("--cpus", "1", "--environ", "GREETING=hello there", "--timeout", "5m", "--")
    code = 'echo "$GREETING from $PWD"; echo err >&2; exit 3'
    done = ports(server, "job", "submit", "-H", "server1", *words, "sh", "-c", code)
    assert done.returncode == 0, done.stderr
    id = done.stdout.strip()
    ended = ports(server, "job", "wait", "-H", "server1", id)
    assert ended.returncode == 8 and f"job {id} failed: exit status 3" in ended.stderr
    assert id == "server1:1" and f"`ports job logs {id}`" in ended.stderr
    shown = ports(server, "job", "logs", id)
    assert shown.stdout.startswith("hello there from /") and shown.stderr == "err\n"
    (row,) = json.loads(ports(server, "job", "list", "server1", "--json").stdout)
    assert (row["host"], row["id"], row["state"]) == ("server1", id, "error")
    followed = ports(
        server, "job", "submit", "-H", "server1", "--json", "--cpus", "1", "--follow", "--", "sh", "-c", "exit 4"
    )
    assert followed.returncode == 0 and json.loads(followed.stdout)["note"]["status"] == 4
