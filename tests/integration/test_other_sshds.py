"""Hosts whose SSH server is not OpenSSH, or permits little: what it refuses is done by the next method."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.integration.test_tunnels import PAGE, ports
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

CONFIG = "Host drop\n    HostName server2\n    Port 2222\n    ProxyJump login\n"
# A page at a Unix socket, as the dashboards of clusters are.
UNIX_PAGE = """
import http.server, os, socket, socketserver, sys
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "4"); self.end_headers(); self.wfile.write(b"unix")
    def address_string(self): return "unix"
    def log_message(self, *arguments): pass
class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer): pass
print("ready", flush=True)
Server(sys.argv[1], Page).serve_forever()
"""


@pytest.fixture
def dropbear(root_site: NamespaceSite, laptop: NamespaceSite, nothing_left: LeakCheck) -> Iterator[NamespaceSite]:
    """A dropbear on server2, under the alias ``drop``."""
    if shutil.which("dropbear") is None:
        pytest.skip("dropbear is not installed (`apt-get install dropbear-bin`)")
    nothing_left.allow("file */tunnels/forward-methods.json")
    laptop.host("login").add_sshd_config("PermitOpen server1:22 server2:22 server2:2222\n")
    made = ["dropbearkey", "-t", "ed25519", "-f", "/root/drop.key"]
    laptop.run("server2", made, user="root", check=True)
    shown = laptop.run("server2", ["dropbearkey", "-y", "-f", "/root/drop.key"], user="root", check=True).stdout
    public = next(line for line in shown.splitlines() if line.startswith("ssh-ed25519"))
    home = "~/.ssh"
    config, known = laptop.host("laptop").path(f"{home}/config"), laptop.host("laptop").path(f"{home}/known_hosts")
    config.write_text(CONFIG + config.read_text())
    known.write_text(known.read_text() + f"[server2]:2222 {' '.join(public.split()[:2])}\n")
    serves = ["dropbear", "-F", "-E", "-s", "-p", "2222", "-r", "/root/drop.key", "-P", "/root/drop.pid"]
    running = laptop.popen("server2", serves, user="root")
    wait_until(
        lambda: any(one.where.endswith(":2222") for one in laptop.host("server2").listeners()) or None,
        timeout=10,
        what="dropbear",
    )
    yield laptop
    running.end()
    running.communicate()


def started(site: NamespaceSite, host: str, code: str, *words: str) -> tuple[Running, str]:
    running = site.popen(host, ["/usr/bin/python3", "-c", code, *words], env={"PAGE": f"page of {host}"})
    assert running.stdout is not None
    return running, running.stdout.readline().strip()


def test_behind_dropbear_a_port_and_a_unix_socket_open(dropbear: NamespaceSite) -> None:
    page, port = started(dropbear, "server2", PAGE, "0")
    at_socket, _ = started(dropbear, "server2", UNIX_PAGE, "/home/alice/page.sock")
    code, (row,) = ports(dropbear, "open", "--background", f"drop:{port}")
    assert (code, row["state"], row["error"]) == (0, "open", None)
    assert open_unix_page(dropbear, "drop") == ["open", "unix"]
    checks = ports(dropbear, "doctor", "drop")[1]
    (socket_check,) = [one for one in rows_of(checks) if one["name"] == "forward-socket"]
    assert "AllowStreamLocalForwarding" not in json.dumps(socket_check), socket_check
    assert ports(dropbear, "tunnel", "close", "--all")[0] == 0
    for one in (page, at_socket):
        one.kill()
        one.communicate()
    dropbear.host("server2").path("/home/alice/page.sock").unlink()


def open_unix_page(site: NamespaceSite, host: str) -> list[str]:
    """Open the page at the socket in alice's home on a host, as a cluster's; return its state and its text."""
    code = f"""
import json
from ports import tunnels
from ports.tunnels import _services as services
def choose(document, found, target, *, owner=None):
    return [services.Service("{host}", "cluster", "main", "cluster-main", "m", "u", "/home/alice/page.sock")]
services.choose = choose
with tunnels.open("{host}:main") as group:
    import urllib.request
    print(json.dumps([group.tunnels[0].state, urllib.request.urlopen(group.url).read().decode()]))
"""
    done = site.run("laptop", [site.python, "-c", code], timeout=60)
    assert done.returncode == 0, done.stderr
    return list(json.loads(done.stdout))


def rows_of(document: Any) -> list[dict[str, Any]]:
    return document if isinstance(document, list) else list(document["checks"])


def test_with_one_session_links_open_and_doctor_s_way_out_helps(laptop: NamespaceSite) -> None:
    laptop.host("server1").add_sshd_config("MaxSessions 1\n")
    page, port = started(laptop, "server1", PAGE, "0")
    more, other = started(laptop, "server1", PAGE, "0")
    for wanted in (port, other, port):
        code, rows = ports(laptop, "open", "--background", f"server1:{wanted}")
        assert (code, [(row["port"], row["state"]) for row in tunnels_to(laptop, wanted)]) == (
            0,
            [(int(wanted), "open")],
        ), rows
    code, document = ports(laptop, "doctor", "server1")
    failed = [one for one in rows_of(document) if one["state"] == "failed"]
    assert code == 5 and "MaxSessions" in failed[0]["cause"] and "`ports tunnel list`" in failed[0]["way_out"]
    assert ports(laptop, "tunnel", "close", "server1")[0] == 0  # what doctor says
    assert ports(laptop, "doctor", "server1")[0] == 0
    for one in (page, more):
        one.kill()
        one.communicate()


def tunnels_to(site: NamespaceSite, port: int) -> list[dict[str, Any]]:
    """Return the recorded tunnels to a port, which only the record names."""
    shown = site.run("laptop", ["sh", "-c", "cat ~/.local/state/ports/hosts/*/tunnels/[0-9]*.json"], check=True).stdout
    return [row for row in json.loads(shown)["rows"] if str(row["port"]) == port]


@pytest.fixture(params=["refused", "unknown", "prohibited", "shortage"])
def other(
    request: pytest.FixtureRequest, root_site: NamespaceSite, laptop: NamespaceSite, nothing_left: LeakCheck
) -> Iterator[NamespaceSite]:
    """An SSH server on server1 that forwards nothing, under the alias ``other``; each has other words for that."""
    pytest.importorskip("asyncssh")
    nothing_left.allow("file */tunnels/forward-methods.json")
    laptop.host("login").add_sshd_config("PermitOpen server1:22 server2:22 server1:2222\n")
    made = "rm -f other.key*; ssh-keygen -q -t ed25519 -N '' -f other.key; cat other.key.pub"
    public = laptop.run("server1", ["sh", "-c", f"cd /root; {made}"], user="root", check=True).stdout
    config, known = (laptop.host("laptop").path(f"~/.ssh/{name}") for name in ("config", "known_hosts"))
    entry = "Host other\n    HostName server1\n    Port 2222\n    ProxyJump login\n"
    config.write_text(entry + config.read_text())
    known.write_text(known.read_text() + f"[server1]:2222 {' '.join(public.split()[:2])}\n")
    program = str(Path(__file__).resolve().parents[1] / "lab" / "asyncssh_host.py")
    running = laptop.popen(
        "server1", [laptop.python, program, "2222", "/root/other.key", "alice", request.param], user="root"
    )
    wait_until(
        lambda: any(one.where.endswith(":2222") for one in laptop.host("server1").listeners()) or None,
        timeout=30,
        what="the server",
    )
    yield laptop
    running.end()
    running.communicate()


@pytest.mark.long  # asyncssh itself drops a connection now and then
def test_whatever_a_server_says_that_forwards_nothing_links_open(other: NamespaceSite) -> None:
    page, port = started(other, "server1", PAGE, "0")
    at_socket, _ = started(other, "server1", UNIX_PAGE, "/home/alice/page.sock")
    code, (row,) = ports(other, "open", "--background", f"other:{port}")
    assert (code, row["state"], row["error"]) == (0, "open", None)
    assert open_unix_page(other, "other") == ["open", "unix"]
    assert [row["port"] for row in ports(other, "list", "other")[1] if row["port"]] == [int(port)]
    checks = {one["name"]: one for one in rows_of(ports(other, "doctor", "other")[1])}
    assert checks["forward-port"]["state"] == checks["forward-socket"]["state"] == "warning", checks
    assert "nothing answers" not in json.dumps(checks["forward-port"]), checks
    assert ports(other, "tunnel", "close", "--all")[0] == 0
    for one in (page, at_socket):
        one.kill()
        one.communicate()
    other.host("server1").path("/home/alice/page.sock").unlink()
