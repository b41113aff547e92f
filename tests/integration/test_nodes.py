"""A name that leads to several nodes with one home, as login nodes do: what runs on any of them is found and opened."""

from __future__ import annotations

import contextlib
import json
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab.disk import address_of
from tests.lab.namespaces import NamespaceSite

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

FETCH = "import sys, urllib.request as u; print(u.urlopen(sys.argv[1], timeout=10).read().decode())"


@dataclass(frozen=True)
class Cluster:
    """Alice's laptop, for which ``servers`` is server1 or server2; her cluster ``main`` runs on server1."""

    site: NamespaceSite

    def lead_to(self, *hosts: str) -> None:
        """Let the name lead to `hosts`, as the jump host resolves it, for the next connection."""
        file = self.site.host("login").path("/etc/hosts")
        kept = [line for line in file.read_text().splitlines() if not line.endswith(" servers")]
        file.write_text("\n".join([*kept, *(f"{address_of(host)} servers" for host in hosts)]) + "\n")

    def ports(self, *words: str, code: int = 0, **env: str) -> Any:
        """Run ``ports <words> --json`` on the laptop, and return its document."""
        done = self.site.run("laptop", [self.site.python, "-m", "ports", *words, "--json"], env=env)
        assert done.returncode == code, done.stderr + done.stdout
        return json.loads(done.stdout)

    def hang_up(self) -> None:
        """End the connections that are kept."""
        self.ports("logout", "--all")

    def title(self, url: str) -> str:
        """Return the beginning of the page at `url`."""
        done = self.site.run("laptop", ["/usr/bin/python3", "-c", FETCH, url], check=True)
        return done.stdout[:2000]

    def masters(self) -> list[int]:
        """Return the pids of the connections."""
        return [
            one.pid for one in self.site.host("laptop").processes() if one.command[0] == "ssh" and "-M" in one.command
        ]


@pytest.fixture(scope="module")
def nodes() -> Iterator[NamespaceSite]:
    """Two servers with one home and one name, which only they and the jump host know."""
    from tests.lab.namespaces import why_not

    reason = why_not()
    if reason is not None:
        pytest.skip(reason)
    with NamespaceSite(shared_home=True) as site:
        laptop, login = site.host("laptop"), site.host("login")
        login.add_sshd_config("PermitOpen servers:22 server1:22 server2:22")
        config, known = laptop.path("~/.ssh/config"), laptop.path("~/.ssh/known_hosts")
        config.write_text("Host servers\n    ProxyJump login\n" + config.read_text())
        lines = known.read_text().splitlines()
        keys = [line.partition(" ")[2] for line in lines if line.startswith(("server1 ", "server2 "))]
        known.write_text("\n".join([*lines, *(f"servers {key}" for key in keys)]) + "\n")
        for name in ("server1", "server2"):
            file = site.host(name).path("/etc/hosts")
            file.write_text(
                file.read_text() + "".join(f"{address_of(one)} servers\n" for one in ("server1", "server2"))
            )
        yield site


@pytest.fixture
def cluster(nodes: NamespaceSite) -> Iterator[Cluster]:
    """The cluster was started when the name led to server1; no connection is left of that."""
    made = Cluster(nodes)
    made.lead_to("server1")
    made.ports("cluster", "start", "main", "-H", "servers", "--n-workers", "1")
    made.hang_up()
    yield made
    made.ports("tunnel", "close", "--all")
    made.ports("cluster", "stop", "main", "-H", "server1")
    made.hang_up()


def test_what_runs_on_another_node_is_listed_and_opened(cluster: Cluster) -> None:
    cluster.lead_to("server2")
    rows = [row for row in cluster.ports("list", "servers") if row["kind"] == "cluster"]
    assert [(row["host"], row["name"], row["state"]) for row in rows] == [("servers/server1", "main", "running")]
    for target in ("servers", "servers:main", "servers/server1:main"):
        (row,) = cluster.ports("open", target, "--background")
        assert (row["host"], row["name"], row["state"]) == ("servers/server1", "main", "open"), target
        assert "Dask" in cluster.title(row["local_url"])
        cluster.ports("tunnel", "close", "servers")
    (shown,) = cluster.ports("cluster", "list", "-H", "servers/server1")
    assert (shown["name"], shown["state"]) == ("main", "running")
    cluster.ports("open", "servers:other", code=3)


def test_a_link_stays_with_its_node_when_the_name_leads_elsewhere(cluster: Cluster) -> None:
    (row,) = cluster.ports("open", "servers", "--background")
    assert (row["host"], row["state"]) == ("servers", "open"), row
    cluster.lead_to("server2")
    for pid in cluster.masters():
        with contextlib.suppress(ProcessLookupError):  # it ended with the one that it goes through
            os.kill(pid, signal.SIGKILL)

    def reconnected() -> list[dict[str, Any]] | None:
        return [one for one in cluster.ports("tunnel", "list") if one["reconnects"] and one["state"] == "open"] or None

    (now,) = wait_until(reconnected, timeout=40, what="the new connection", every=0.3)
    assert (now["local_url"], now["host"]) == (row["local_url"], "servers")
    assert "Dask" in cluster.title(row["local_url"])


def test_a_view_has_what_runs_on_another_node(cluster: Cluster) -> None:
    cluster.lead_to("server2")
    code = """
import json, queue
from ports import tunnels
views = queue.SimpleQueue()
with tunnels.watch(["servers"], on_change=views.put):
    while True:
        view = views.get(timeout=60)
        found = [[row["host"], row["name"], row["state"]] for row in view["rows"] if row["kind"] == "cluster"]
        if found and view["condition"] == "connected":
            print(json.dumps(found))
            break
"""
    done = cluster.site.run("laptop", [cluster.site.python, "-c", code], timeout=90)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [["servers/server1", "main", "running"]]
