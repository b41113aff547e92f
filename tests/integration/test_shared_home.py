"""One home on two servers, as with NFS: what is promised, shared and run on one of them is nothing to the other."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab.namespaces import NamespaceSite

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

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


def test_an_idle_cluster_is_left_alone_from_the_other_server(servers: NamespaceSite) -> None:
    start(servers, "server1", n_workers=2, memory_limit="500MB", idle=SECOND, security="tls")

    def asleep() -> dict[str, Any] | None:
        (row,) = ports(servers, "server1", "cluster", "list")
        assert row["state"] == "running", row
        return row if row.get("asleep") == 2 and not row["n_workers"] else None

    before = wait_until(asleep, timeout=30, what="sleep of the cluster", every=0.5)
    for words in (["scale", "main", "1"], ["stop", "main"], ["restart", "main"], ["show", "main"]):
        told = ports(servers, "server2", "cluster", *words, code=3)["error"]["message"]
        assert "one was started on server1, which shares this home: log in there, or pass -H HOST" in told, words
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


@contextlib.contextmanager
def one_image(servers: NamespaceSite) -> Iterator[None]:
    """Both servers have the machine id of the image that they were made from."""
    file = servers.host("server2").path("/etc/machine-id")
    before = file.read_text()
    file.write_text(servers.host("server1").path("/etc/machine-id").read_text())
    try:
        yield
    finally:
        file.write_text(before)


def test_nodes_of_one_image_have_a_cluster_each(servers: NamespaceSite) -> None:
    with one_image(servers):
        start(servers, "server1", n_workers=1, memory_limit="500MB")
        told = ports(servers, "server2", "cluster", "show", "main", code=3)["error"]["message"]
        assert "one was started on server1" in told and "`ports prune --adopt server1`" in told
        refused = ports(servers, "server2", "prune", "--adopt", "server1", code=2)["error"]["message"]
        assert "cluster 'main' of server1 runs; stop it there first" in refused
        start(servers, "server2", n_workers=1, memory_limit="500MB")
        for host in ("server1", "server2"):
            assert servers.run(host, [sys.executable, "-c", JOB], timeout=60).stdout == "42\n"
            assert [row["state"] for row in ports(servers, host, "cluster", "list")] == ["running"]
            assert [row["name"] for row in ports(servers, host, "list")] == ["main"]
        for host in ("server1", "server2"):
            ports(servers, host, "cluster", "stop", "main")
            ports(servers, host, "prune")


def test_a_machine_keeps_its_records_whatever_it_is_called(servers: NamespaceSite) -> None:
    start(servers, "server2", n_workers=0)
    servers.run("server2", ["hostname", "renamed"], user="root", check=True)
    assert [row["state"] for row in ports(servers, "server2", "cluster", "list")] == ["running"]
    ports(servers, "server2", "cluster", "scale", "main", "0")  # from now on it is known by both names
    servers.host("server2").power_off()
    servers.host("server2").power_on()
    servers.run("server2", ["hostname", "renamed"], user="root", check=True)
    assert [row["reason"] for row in ports(servers, "server2", "cluster", "list")] == ["the machine was restarted"]
    ports(servers, "server2", "cluster", "stop", "main")
    # another boot and another name: that can be another machine, until somebody says that it is not
    start(servers, "server2", n_workers=0)
    servers.host("server2").power_off()
    servers.host("server2").power_on()
    assert ports(servers, "server2", "cluster", "list") == []
    listed = servers.run("server2", [sys.executable, "-m", "ports", "list"], check=True)
    assert "renamed, which has the same machine id, started cluster main; if renamed is gone" in listed.stderr
    told = ports(servers, "server2", "cluster", "stop", "main", code=3)["error"]["message"]
    assert "if renamed is gone, or was this machine's name, run `ports prune --adopt renamed`" in told
    rows = ports(servers, "server2", "prune", "--adopt", "renamed")
    assert [(row["kind"], row["name"]) for row in rows] == [("machine", "renamed"), ("cluster", "main")]
    start(servers, "server2", n_workers=0)
    ports(servers, "server2", "cluster", "stop", "main")
    assert "no machine 'nobody'" in ports(servers, "server2", "prune", "--adopt", "nobody", code=3)["error"]["message"]


# Of a stranger: without credentials, or with a certificate of one's own. One try for each process: what a refused
# client leaves to the garbage collector can hang the next client.
KNOCK = """
import sys
from pathlib import Path
from distributed import Client
from distributed.security import Security
from ports.clusters import _certificates as certificates
security = Security(require_encryption=False)
if sys.argv[2] == "certificate":
    own = Path("/tmp/knock.pem")
    own.unlink(missing_ok=True)
    certificates.write_self_signed(own)
    files = {"tls_ca_file": str(own), "tls_client_cert": str(own), "tls_client_key": str(own)}
    security = Security(require_encryption=True, **files)
try:
    with Client(sys.argv[1], security=security, timeout=2) as client:
        print("in:", client.submit(sum, [40, 2]).result(timeout=10))
except (OSError, TimeoutError, ValueError, RuntimeError, TypeError) as error:
    print("out:", type(error).__name__)
"""
OPEN = """
import sys
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=1, interface="eth0", dashboard_address=None)
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""
JOIN = """
import asyncio, sys
from distributed import Worker
from distributed.security import Security
from ports.clusters import credentials
async def join(address):
    pem = credentials.load({"address": address}).tls_ca_file
    security = Security(tls_ca_file=pem, tls_worker_cert=pem, tls_worker_key=pem, require_encryption=True)
    async with Worker(address, security=security, name="joined", dashboard=False):
        print("joined", flush=True)
        await asyncio.to_thread(sys.stdin.read)
asyncio.run(join(sys.argv[1]))
"""
TWO = """
import sys
from distributed import Client
with Client(sys.argv[1], timeout=20) as client:
    client.wait_for_workers(2, timeout=30)
    print(sorted(client.run(lambda: __import__("socket").gethostname()).values()))
"""


def knock(site: NamespaceSite, host: str, address: str) -> list[str]:
    """Try to get in at `address` in four ways as bob, and return how each try ended."""
    schemes = (address, address.replace("tls://", "tcp://"))
    ways = [(scheme, security) for security in ("none", "certificate") for scheme in schemes]
    return [
        site.run(host, [sys.executable, "-c", KNOCK, *way], user="bob", check=True, timeout=30).stdout.strip()
        for way in ways
    ]


def test_on_an_interface_only_machines_with_the_certificate_join(servers: NamespaceSite) -> None:
    default = servers.popen("server2", [sys.executable, "-c", OPEN], stdin=subprocess.PIPE)
    assert default.stdout is not None
    assert "in: 42" in knock(servers, "server1", default.stdout.readline().strip())  # the control
    default.communicate("")
    told = ports(servers, "server1", "cluster", "start", "net", "--interface", "eth7", code=2)["error"]["message"]
    assert "it must be one of this machine's with an IPv4 address: eth0 (" in told
    ports(servers, "server1", "cluster", "start", "net", "--n-workers", "1", "--interface", "eth0")
    try:
        (row,) = ports(servers, "server1", "cluster", "list")
        address = row["address"]
        assert (row["security"], row["interface"]) == ("tls", "eth0")
        assert address.startswith("tls://") and not address.startswith("tls://127.")
        (listed,) = ports(servers, "server1", "list")
        assert listed["open_to_network"] and listed["warnings"] == []
        for host in ("server1", "server2"):
            said = knock(servers, host, address)
            assert [word.split(":")[0] for word in said] == ["out"] * 4, said
        joined = servers.popen("server2", [sys.executable, "-c", JOIN, address], stdin=subprocess.PIPE)
        try:
            assert joined.stdout is not None and joined.stdout.readline() == "joined\n"
            done = servers.run("server2", [sys.executable, "-c", TWO, address], timeout=60)
            assert done.stdout == "['server1', 'server2']\n", done.stderr
        finally:
            joined.communicate("")
    finally:
        ports(servers, "server1", "cluster", "stop", "net")
