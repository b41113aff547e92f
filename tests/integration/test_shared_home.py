"""One home on two servers, as with NFS: what is promised, shared and run on one of them is nothing to the other."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ports.deadlines import wait_until
from tests.lab.namespaces import NamespaceSite

pytestmark = pytest.mark.timeout(120)

SECOND = 1 / 3600  # in hours, as idle is told
START = "import json, ports, sys; ports.clusters.start('main', threads_per_worker=1, **json.loads(sys.argv[1]))"
JOB = "import ports; print(ports.client('main').submit(sum, [40, 2]).result(timeout=30))"


class Servers(NamespaceSite):
    """A site on whose servers, both of them, `ports` is installed."""

    installed = ("laptop", "server1", "server2")


@pytest.fixture(scope="module")
def servers(root_site: NamespaceSite) -> Iterator[NamespaceSite]:
    """Two servers with one home."""
    with Servers(shared_home=True) as site:
        yield site


def ports(site: NamespaceSite, host: str, *words: str, user: str = "alice", code: int = 0, **env: str) -> Any:
    """Run ``ports <words> --json`` on a server and return its document."""
    done = site.run(host, [sys.executable, "-m", "ports", *words, "--json"], user=user, env=env, timeout=60)
    assert done.returncode == code, done.stderr + done.stdout
    return json.loads(done.stdout)


def start(site: NamespaceSite, host: str, **options: Any) -> None:
    site.run(host, [sys.executable, "-c", START, json.dumps(options)], check=True, timeout=60)


def test_what_is_promised_on_one_server_does_not_count_on_the_other(servers: NamespaceSite) -> None:
    much = int(ports(servers, "server2", "who")["memory_bytes"] * 0.4)
    start(servers, "server1", n_workers=1, memory_limit=much)
    try:
        for user, is_alone in (("alice", True), ("bob", False)):
            there, here = (ports(servers, host, "who", user=user) for host in ("server1", "server2"))
            assert (there["host"], here["host"]) == ("server1", "server2")
            promised = {one["user"]: one["promised_bytes"] for one in there["users"]}
            assert promised["alice"] == there["promised_bytes"] == much
            assert here["promised_bytes"] == 0 and not any(one["promised_bytes"] for one in here["users"])
            assert "not promised" in there["share"]["explained"] and "promised" not in here["share"]["explained"]
            assert ("nobody else active" in there["share"]["explained"]) is is_alone
            assert "nobody else active" in here["share"]["explained"]
        start(servers, "server2", n_workers=1, memory_limit=int(much * 1.8))  # more than server1 has left
    finally:
        for host in ("server1", "server2"):
            ports(servers, host, "cluster", "stop", "main")


def test_an_idle_cluster_is_neither_woken_scaled_nor_ended_from_the_other_server(servers: NamespaceSite) -> None:
    start(servers, "server1", n_workers=2, memory_limit="500MB", idle=SECOND, security="tls")

    def asleep() -> dict[str, Any] | None:
        (row,) = ports(servers, "server1", "cluster", "list")
        assert row["state"] == "running", row
        return row if row.get("asleep") == 2 and not row["n_workers"] else None

    before = wait_until(asleep, timeout=30, what="sleep of the cluster", every=0.5)
    for words in (["scale", "main", "1"], ["stop", "main"], ["restart", "main"], ["show", "main"]):
        told = ports(servers, "server2", "cluster", *words, code=3)["error"]["message"]
        assert "one was started on server1, which has the same home: go there, or pass -H HOST" in told, words
    assert ports(servers, "server2", "cluster", "list") == ports(servers, "server2", "list") == []
    ports(servers, "server2", "prune")
    short = {"DASK_PORTS__CLUSTER__IDLE": str(SECOND), "DASK_PORTS__CLUSTER__EXPIRE": str(SECOND / 24)}
    start(servers, "server2", n_workers=1, memory_limit="500MB")  # of the same name
    done = servers.run("server2", [sys.executable, "-c", JOB], env=short, timeout=60)
    assert done.stdout == "42\n", done.stderr
    ports(servers, "server2", "cluster", "scale", "main", "0", **short)
    ports(servers, "server2", "cluster", "stop", "main", **short)
    after = asleep()
    assert after is not None and (after["pid"], after["started_at"]) == (before["pid"], before["started_at"])
    assert servers.run("server1", [sys.executable, "-c", JOB], timeout=60).stdout == "42\n"  # it wakes for its own
    ports(servers, "server1", "cluster", "stop", "main")
