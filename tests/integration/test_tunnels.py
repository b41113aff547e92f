"""Links at home to what runs on the servers: opened, used, listed, closed, and what stands in the way."""

from __future__ import annotations

import functools
import json
import signal
import socket
import subprocess
import textwrap
from collections.abc import Callable, Iterator
from typing import Any
from unittest.mock import ANY

import pytest

from ports.errors import TimedOutError
from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.laptop import PRELUDE as COMMON
from tests.lab.laptop import python as run_python
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running
from tests.lab.traffic import MUTE

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

PRELUDE = (
    COMMON
    + """
import http.client, urllib.request
from ports import tunnels
def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as answer:
        return answer.read().decode()
"""
)
python = functools.partial(run_python, prelude=PRELUDE)
# The page names the host that serves it, so that a test sees where a link leads.
PAGE = """
import http.server, os, socket, sys, socketserver
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = os.environ["PAGE"].encode()
        self.send_response(200); self.send_header("Content-Length", str(len(body))); self.end_headers()
        self.wfile.write(body)
    do_HEAD = do_GET
    def log_message(self, *arguments): pass
class Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True
    request_queue_size = 512
server = Server(("127.0.0.1", int(sys.argv[1])), Page)
print(server.server_port, flush=True)
server.serve_forever()
"""
TAKE_V6 = """
import socket, sys, time
held = socket.socket(socket.AF_INET6); held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
held.bind(("::1", int(sys.argv[1]))); held.listen(); print("held", flush=True); sys.stdin.read()
"""

ASK_SOCKET = """
import socket, sys
connection = socket.socket(socket.AF_UNIX); connection.connect(sys.argv[1])
connection.sendall(b"GET / HTTP/1.0\\r\\n\\r\\n")
text = b""
while chunk := connection.recv(4096): text += chunk
print(text.decode())
"""

ASK_PAGE = """
import sys, urllib.request, urllib.error
try: print(urllib.request.urlopen(sys.argv[1]).read().decode())
except urllib.error.HTTPError as error: print(error.code, error.read().decode())
"""

Serve = Callable[..., int]


@pytest.fixture
def serve(laptop: Site) -> Iterator[Serve]:
    """Return a function that starts a service on a host, and returns its port."""
    started: list[Running] = []

    def start(host: str, code: str = PAGE, *, text: str = "", user: str | None = None) -> int:
        page = text or f"page of {host}"
        running = laptop.popen(host, ["/usr/bin/python3", "-c", code, "0"], user=user, env={"PAGE": page})
        started.append(running)
        assert running.stdout is not None
        return int(running.stdout.readline())

    yield start
    for running in started:
        running.kill()
        running.communicate()


def ports(site: Site, *words: str, timeout: float = 60, env: dict[str, str] | None = None) -> Any:
    """Run ``ports … --json`` on the laptop, and return exit code and document."""
    done = site.run("laptop", [site.python, "-m", "ports", *words, "--json"], timeout=timeout, env=env or {})
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout)


def open_in_foreground(site: Site, *words: str) -> tuple[Running, list[dict[str, Any]]]:
    """Start ``ports open`` on the laptop and return it, with its rows, once all are up."""
    running = site.popen("laptop", [site.python, "-m", "ports", "open", *words, "--json"])
    assert running.stdout is not None
    return running, json.loads(running.stdout.readline())


def fetch(site: Site, url: str) -> str:
    """Return the page at `url`, as a program on the laptop gets it."""
    got: str = python(site, f"print(json.dumps(fetch({url!r})))")
    return got


def listening(site: Site, port: int) -> set[str]:
    """Return the addresses of the laptop that listen on `port`."""
    found = [one.where.rpartition(":") for one in site.host("laptop").listeners()]
    return {address for address, _, number in found if number == str(port)}


@pytest.mark.quick
def test_a_page_behind_the_jump_host_opens_under_the_same_link_each_time(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code = f"""
        links = []
        for _ in range(2):
            with tunnels.open("server1:{port}") as tunnel:
                links.append([tunnel.url, fetch(tunnel.url), tunnel.tunnels[0].state])
        print(json.dumps(links))
    """
    first, again = python(laptop, code)
    assert first == again
    assert first[1:] == ["page of server1", "open"]
    assert first[0].startswith("http://localhost:2") or first[0].startswith("http://localhost:3")


@pytest.mark.quick
def test_two_servers_open_in_parallel_and_a_failure_stays_with_one(laptop: Site, serve: Serve) -> None:
    one, other = serve("server1"), serve("server2")
    targets = [f"server1:{one}", f"server2-none:{one}", f"server2:{other}", "server1:nope"]
    code = f"""
        group = tunnels.open_many({targets})
        print(json.dumps([[row, fetch(row["local_url"]) if row["local_url"] else None] for row in group.rows()]))
        group.close()
    """
    found = python(laptop, code)
    pages = {row["host"]: page for row, page in found if row["state"] == "open"}
    errors = {(row["host"], row["exit_code"]) for row, _ in found if row["error"]}
    assert pages == {"server1": "page of server1", "server2": "page of server2"}
    assert errors == {("server2-none", 5), ("server1", 3)}


@pytest.mark.quick
def test_ctrl_c_frees_the_port_at_once_and_leaves_the_connection(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    running, rows = open_in_foreground(laptop, f"server1:{port}")
    assert listening(laptop, rows[0]["local_port"]) >= {"127.0.0.1"}
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    assert listening(laptop, rows[0]["local_port"]) == set()
    assert any(" -f -N -M " in " ".join(one.command) for one in laptop.host("laptop").processes())


def test_sigterm_leaves_nothing_either(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    running, rows = open_in_foreground(laptop, f"server1:{port}")
    running.terminate()
    running.communicate(timeout=10)
    assert listening(laptop, rows[0]["local_port"]) == set()


def test_a_listener_is_on_both_loopbacks_and_nowhere_else(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    running, rows = open_in_foreground(laptop, f"server1:{port}")
    found = {address.strip("[]") for address in listening(laptop, rows[0]["local_port"])}
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    assert found in ({"127.0.0.1", "::1"}, {"127.0.0.1"})


def test_a_half_taken_usual_port_is_replaced_until_it_is_free(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    with_usual = python(
        laptop, f"o = tunnels.open('server1:{port}'); print(json.dumps(o.tunnels[0].local_port)); o.close()"
    )
    holder = laptop.popen("laptop", ["/usr/bin/python3", "-c", TAKE_V6, str(with_usual)], stdin=subprocess.PIPE)
    assert holder.stdout is not None and holder.stdout.readline() == "held\n"
    code = f"""
        group = tunnels.open("server1:{port}")
        tunnel = group.tunnels[0]
        first = [tunnel.local_port, tunnel.row()["note"], fetch(tunnel.url)]
        print(json.dumps(first), flush=True)
        end = time.monotonic() + 20
        while tunnel.local_port != {with_usual} and time.monotonic() < end:
            time.sleep(0.05)
        print(json.dumps([tunnel.local_port, fetch(tunnel.url), fetch("http://localhost:%d/" % first[0])]), flush=True)
        group.close()
    """
    running = laptop.popen("laptop", [laptop.python, "-c", PRELUDE + textwrap.dedent(code)])
    assert running.stdout is not None
    substitute, note, page = json.loads(running.stdout.readline())
    assert substitute != with_usual and page == "page of server1"
    assert f"port {with_usual} is used by {laptop.users[0]}" in note
    holder.communicate("")
    assert json.loads(running.stdout.readline()) == [with_usual, "page of server1", "page of server1"]
    running.communicate(timeout=10)


def test_on_a_full_disk_tunnels_go_on_and_are_still_watched(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code = f"""
        import shutil
        from ports.tunnels import _records as tunnel_records
        from ports.tunnels import _event_loop as relay
        from ports import hosts
        with tunnels.open("server1:{port}") as group:
            usual = group.tunnels[0].local_port
        held = relay.bind(usual)
        group = tunnels.open("server1:{port}")
        tunnel = group.tunnels[0]
        place = tunnel_records.directory()
        shutil.rmtree(place)
        place.touch()  # no record can be written
        for half in held:
            half.close()
        def until(come):
            end = time.monotonic() + 15
            while not come() and time.monotonic() < end:
                time.sleep(0.05)
            return come()
        told = [until(lambda: tunnel.local_port == usual), fetch(tunnel.url), tunnel.note]
        hosts.logout("server1")
        print(json.dumps([*told, until(lambda: tunnel.state == "down")]))
        place.unlink()
        group.close()
    """
    back, page, note, is_lost = python(laptop, code)
    assert (back, page, is_lost) == (True, "page of server1", True)
    assert "`ports tunnel` does not show this" in note


def test_a_failed_forward_is_the_error_of_its_tunnel_alone(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code = f"""
        from pathlib import Path
        from ports.hosts.openssh import connection
        connection._new_socket = lambda: Path("/nowhere/t.sock")
        with tunnels.open_many(["server1:{port}"]) as group:
            print(json.dumps(group.rows()))
    """
    rows = python(laptop, code)
    assert [(row["kind"] == "host", row["state"], row.get("exit_code")) for row in rows] == [(False, "error", 5)]


@pytest.mark.quick
def test_a_requested_local_port_in_use_is_an_error_that_names_its_user(laptop: Site, serve: Serve) -> None:
    port, taken = serve("server1"), serve("laptop")
    code, rows = ports(laptop, "open", f"server1:{port}", "--local-port", str(taken))
    assert code == 4
    assert f"port {taken} is in use by {laptop.users[0]} (python3" in rows[0]["error"]


@pytest.mark.quick
def test_local_port_0_picks_a_free_one(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code = f"""
        with tunnels.open("server1:{port}", local_port=0) as tunnel:
            print(json.dumps(fetch(tunnel.url)))
    """
    assert python(laptop, code) == "page of server1"


@pytest.mark.quick
def test_another_users_listener_is_refused_unless_the_owner_is_named(
    root_site: NamespaceSite, laptop: Site, serve: Serve
) -> None:
    port = serve("server1", user="bob", text="page of bob")
    code, rows = ports(laptop, "open", f"server1:{port}")
    assert code == 4 and f"server1:{port} belongs to bob" in rows[0]["error"]
    code, rows = ports(laptop, "open", f"server1:{port}", "--owner", "carol")
    assert code == 4
    running, rows = open_in_foreground(laptop, f"server1:{port}", "--owner", "bob")
    page = fetch(laptop, rows[0]["local_url"])
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    assert page == "page of bob" and "belongs to bob" in rows[0]["note"]


def test_a_page_of_another_owner_is_served_to_who_opened_it_alone(
    root_site: NamespaceSite, laptop: Site, serve: Serve
) -> None:
    port = serve("server1", user="bob", text="page of bob")
    running, (row,) = open_in_foreground(laptop, f"server1:{port}", "--owner", "bob")
    assert fetch(laptop, row["local_url"]) == "page of bob"
    ask = ["/usr/bin/python3", "-c", ASK_PAGE, row["local_url"]]
    assert laptop.run("laptop", ask, user="bob").stdout.startswith("403 This link belongs to alice")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)


def test_a_server_with_a_password_of_jupyter_opens(laptop: Site) -> None:
    """`jupyter lab password` notes a hash; the record of the server has an empty token."""
    python, code = laptop.notebook_python, "from jupyter_server.auth import security; security.set_password('sesame')"
    laptop.run("server2", [python, "-c", code], check=True, timeout=60)
    command = [python, "-m", "jupyter_server", "--no-browser", "--ServerApp.root_dir=/var", "--ServerApp.port=0"]
    running = laptop.popen("server2", command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def opened() -> dict[str, Any] | None:
            code, rows = ports(laptop, "open", "server2:var", "--background")
            assert code in (0, 3), rows  # 3: it is not there yet
            return rows[0] if code == 0 else None

        row = wait_until(opened, timeout=60, what="the link", every=0.5)
        assert (row["kind"], row["state"], row["error"]) == ("notebook", "open", None)
        assert "<strong>Password:</strong>" in fetch(laptop, f"{row['local_url']}login")
        told = laptop.run("laptop", [laptop.python, "-m", "ports", "list", "server2"], check=True, timeout=60)
        assert "kill" not in told.stdout + told.stderr and "anyone on this machine" not in told.stdout + told.stderr
    finally:
        running.terminate()
        running.communicate()
        ports(laptop, "tunnel", "close", "--all")


def test_what_keeps_tunnels_by_ssh_opens_none_by_paramiko(laptop: Site, serve: Serve) -> None:
    one, other = serve("server1"), serve("server2")
    ports(laptop, "open", "--background", f"server1:{one}")
    code, told = ports(laptop, "open", "--background", f"server2:{other}", "--transport", "paramiko")
    assert (
        code == 4
        and "the background tunnels use ssh; close them (`ports tunnel close --all`)" in told["error"]["message"]
    )
    assert ports(laptop, "open", "--background", f"server2:{other}", "--transport", "ssh")[0] == 0
    ports(laptop, "tunnel", "close", "--all")
    code, (row,) = ports(laptop, "open", "--background", f"server2:{other}", "--transport", "paramiko")
    assert (code, fetch(laptop, row["local_url"])) == (0, "page of server2")
    ports(laptop, "tunnel", "close", "--all")


def test_a_logout_says_which_tunnels_will_connect_again(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    _, (row,) = ports(laptop, "open", "--background", f"server1:{port}")
    done = laptop.run("laptop", [laptop.python, "-m", "ports", "logout", "--all"], check=True, timeout=60)
    assert (
        "tunnels to server1 are still open and will reconnect; `ports tunnel close server1` closes them" in done.stderr
    )
    ask = [laptop.python, "-c", PRELUDE + f"print(fetch({row['local_url']!r}))"]
    wait_until(
        lambda: "page of server1" in laptop.run("laptop", ask).stdout or None, timeout=20, what="the link, made anew"
    )
    ports(laptop, "tunnel", "close", "--all")
    done = laptop.run("laptop", [laptop.python, "-m", "ports", "logout", "--all"], check=True, timeout=60)
    assert "tunnels" not in done.stderr


@pytest.mark.quick
def test_in_the_background_tunnels_are_listed_used_and_closed_one_by_one(laptop: Site, serve: Serve) -> None:
    one, other = serve("server1"), serve("server2")
    code, rows = ports(laptop, "open", "--background", f"server1:{one}", f"server2:{other}")
    assert (code, {row["state"] for row in rows}) == (0, {"open"})
    code, listed = ports(laptop, "tunnel", "list")
    assert {(row["host"], row["state"], row["kind"]) for row in listed} == {
        ("server1", "open", "tunnel"),
        ("server2", "open", "tunnel"),
    }
    links = {row["host"]: row["local_url"] for row in listed}
    assert fetch(laptop, links["server2"]) == "page of server2"
    # local ends are listed with --all only, as what they are; a request would reach the service at the other end
    local = {row["local_port"] for row in listed}
    assert not [row for row in ports(laptop, "list")[1] if row["port"] in local]
    assert {row["kind"] for row in ports(laptop, "list", "--all")[1] if row["port"] in local} == {"tunnel"}
    code, closed = ports(laptop, "tunnel", "close", f"server1:{one}")
    assert (code, [row["host"] for row in closed]) == (0, ["server1"])
    assert fetch(laptop, links["server2"]) == "page of server2"
    assert [row["host"] for row in ports(laptop, "tunnel", "list")[1]] == ["server2"]
    code, closed = ports(laptop, "tunnel", "close", "--all")
    assert (code, [row["state"] for row in closed]) == (0, ["closed"])
    assert ports(laptop, "tunnel", "list") == (0, [])
    assert ports(laptop, "tunnel", "close", "server2")[0] == 3


@pytest.mark.quick
def test_a_process_that_was_killed_is_told_and_the_same_link_opens_again(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    _, rows = ports(laptop, "open", "--background", f"server1:{port}")
    _, listed = ports(laptop, "tunnel", "list")
    laptop.run("laptop", ["kill", "-9", str(listed[0]["pid"])], check=True)
    wait_until(lambda: not listening(laptop, rows[0]["local_port"]) or None, timeout=5, what="end of the keeper")
    assert ports(laptop, "tunnel", "list")[1][0]["state"] == "stopped"
    code, again = ports(laptop, "open", "--background", f"server1:{port}")
    assert (code, again[0]["local_url"]) == (0, rows[0]["local_url"])
    assert fetch(laptop, again[0]["local_url"]) == "page of server1"
    assert ports(laptop, "tunnel", "close", "--all")[0] == 0


@pytest.mark.long
def test_a_service_that_says_nothing_is_not_called_open(laptop: Site, serve: Serve) -> None:
    port = serve("server1", MUTE)
    code = f"""
        from ports.tunnels import _verify as proof
        with tunnels.open("server1:{port}") as tunnel:
            print(json.dumps(tunnel.rows()))
    """
    assert python(laptop, code)[0]["state"] == "silent"


def test_a_silent_service_does_not_delay_others_and_can_be_closed(laptop: Site, serve: Serve) -> None:
    mute, page = serve("server1", MUTE), serve("server1")
    code = f"""
        told = []
        targets = ["server1:{mute}", "server1:{page}"]
        group = tunnels.open_many(targets, on_event=lambda row: told.append(row["state"]))
        time.sleep(1.5)  # three rounds of the watch
        waiting = [one for one in group.tunnels if one.state == "silent"]
        group.close_tunnels(waiting)
        group._hosts["server1"]._opener.open([], waiting)  # as a round of the watch does that began before
        states = [one.state for one in group.tunnels]
        group.close()
        print(json.dumps([told, len(waiting), states]))
    """
    told, mutes, states = python(laptop, code, env={"DASK_PORTS__OPEN__DEAD_AFTER": "4"})
    assert "down" not in told
    assert (mutes, states) == (1, ["open"])


def test_several_that_open_one_host_at_once_all_get_their_links(laptop: Site, serve: Serve) -> None:
    found = [serve("server1"), serve("server1"), serve("server1")]
    code = f"""
        import threading
        from ports.tunnels._group import TunnelGroup
        from ports.tunnels import _host_connection
        start = _host_connection.HostConnection._start_agent
        def start_late(*arguments):  # as on a busy host
            time.sleep(1)
            return start(*arguments)
        _host_connection.HostConnection._start_agent = start_late
        def gone(row):
            raise BrokenPipeError("the terminal that was told is gone")
        with TunnelGroup(on_event=gone) as group:
            wanted = [[f"server1:{{port}}"] for port in {found}]
            threads = [threading.Thread(target=group.open, args=(one,)) for one in wanted]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            print(json.dumps([[one.state, fetch(one.url)] for one in group.tunnels]))
    """
    assert python(laptop, code) == [["open", "page of server1"]] * 3


def test_a_service_that_ended_between_is_an_error_with_the_reason(laptop: Site) -> None:
    gone = socket.socket()
    gone.bind(("127.0.0.1", 0))
    port = gone.getsockname()[1]
    code = f"""
        from ports.tunnels import _services as services
        def choose(document, found, target, *, owner=None):
            return [services.Service("server1", "http-server", "gone", "port-{port}", "m", "u", "127.0.0.1:{port}")]
        services.choose = choose
        print(json.dumps(tell(tunnels.open, "server1:{port}")))
    """
    error = python(laptop, code)
    gone.close()
    assert f"nothing answers at 127.0.0.1:{port} there (connect failed: Connection refused)" in error["message"]


def test_a_session_replaces_prohibited_forwarding_and_is_remembered(
    laptop: Site, serve: Serve, nothing_left: LeakCheck
) -> None:
    nothing_left.allow("file */tunnels/forward-methods.json")
    port = serve("server2")
    laptop.host("server2").add_sshd_config("AllowTcpForwarding no\n")
    code = f"""
        from ports.tunnels import _records as records
        tries = []
        for _ in range(2):
            with tunnels.open("server2:{port}") as group:
                tries.append([records.forward_method("server2", False), fetch(group.url), group.tunnels[0].state])
        print(json.dumps(tries))
    """
    assert python(laptop, code) == 2 * [["agent", "page of server2", "open"]]


BROWSER = """#!/bin/sh
exec /usr/bin/python3 -c '
import sys, urllib.request
with urllib.request.urlopen(sys.argv[1]) as page, open("/tmp/browsed", "a") as file:
    file.write(page.url + " " + page.read().decode() + chr(10))
' "$1"
"""


def test_a_server_shows_its_page_in_the_browser_at_home(laptop: Site, serve: Serve) -> None:
    port, other = serve("server1"), serve("server1", text="another page")
    laptop.host("laptop").write("/tmp/browser", BROWSER, mode=0o755)

    def browse(what: str) -> tuple[int, str]:
        done = laptop.run("server1", [laptop.python, "-m", "ports", "browse", what])
        return done.returncode, done.stdout + done.stderr

    assert browse(f"http://localhost:{port}/") == (3, ANY)
    running = laptop.popen(
        "laptop",
        [laptop.python, "-m", "ports", "open", f"server1:{port}", "--json"],
        env={"BROWSER": "/tmp/browser %s"},
    )
    assert running.stdout is not None
    here = json.loads(running.stdout.readline())[0]["local_port"]
    assert browse(f"http://127.0.0.1:{port}/x?y=1#z") == (0, f"opened at home: http://localhost:{here}/\n")
    code, said = browse(f"http://localhost:{other}/")  # not open yet: it is opened first
    assert code == 0 and f":{here}/" not in said
    code, said = browse("http://localhost:9/")
    assert code == 5 and "no listener 'server1:9'" in said
    assert browse("file:///etc/passwd")[0] == 2
    told = laptop.host("laptop").path("/tmp/browsed")
    pages = told.read_text().splitlines()
    for file in (told, laptop.host("laptop").path("/tmp/browser")):
        file.unlink()
    assert pages[0] == f"http://localhost:{here}/x?y=1#z page of server1"
    assert pages[1].endswith(" another page")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)


def test_a_link_opens_for_its_owner_while_another_user_is_active(
    root_site: NamespaceSite, laptop: Site, serve: Serve
) -> None:
    port, bob = serve("server1"), laptop.popen("laptop", ["sleep", "100"], user="bob")
    running, rows = open_in_foreground(laptop, f"server1:{port}")
    assert [(row["state"], row["error"]) for row in rows] == [("open", None)]
    assert fetch(laptop, rows[0]["local_url"]) == "page of server1"
    ask = ["/usr/bin/python3", "-c", ASK_PAGE, rows[0]["local_url"]]
    assert laptop.run("laptop", ask, user="bob").stdout.startswith("403 This link belongs to alice")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    bob.kill()
    bob.communicate()


def test_beside_other_users_a_link_lets_its_owner_in_and_nobody_else(
    root_site: NamespaceSite, laptop: Site, serve: Serve
) -> None:
    port, path = serve("server1"), "/tmp/alice-link.sock"
    running, rows = open_in_foreground(laptop, f"server1:{port}")
    assert fetch(laptop, rows[0]["local_url"]) == "page of server1"
    ask = ["/usr/bin/python3", "-c", ASK_PAGE, rows[0]["local_url"]]
    assert laptop.run("laptop", ask, user="bob").stdout.startswith("403 This link belongs to alice")
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    running, rows = open_in_foreground(laptop, f"server1:{port}", "--share")
    assert fetch(laptop, rows[0]["local_url"]) == "page of server1"
    assert laptop.run("laptop", [*ask[:-1], rows[0]["local_url"]], user="bob").stdout == "page of server1\n"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    running, rows = open_in_foreground(laptop, f"server1:{port}", "--local-socket", path)
    assert (rows[0]["local_socket"], rows[0]["state"]) == (path, "open")
    ask = ["/usr/bin/python3", "-c", ASK_SOCKET, path]
    assert laptop.run("laptop", ask).stdout.endswith("page of server1\n")
    assert "PermissionError" in laptop.run("laptop", ask, user="bob").stderr
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    assert not laptop.host("laptop").path(path).exists()


def test_an_address_of_the_network_needs_to_be_meant(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code, told = ports(laptop, "open", f"server1:{port}", "--bind", "0.0.0.0")
    assert code == 2 and "--public" in told["error"]["message"]
    running, rows = open_in_foreground(laptop, f"server1:{port}", "--bind", "0.0.0.0", "--public")
    assert listening(laptop, rows[0]["local_port"]) == {"0.0.0.0"}
    assert rows[0]["note"].endswith(f"from the network it is port {rows[0]['local_port']} of laptop")
    assert fetch(laptop, rows[0]["local_url"]) == "page of server1"
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)


def test_without_a_shared_connection_paramiko_opens_the_same_link(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code = f"""
        with tunnels.open("server1:{port}") as group:
            print(json.dumps([group.url, fetch(group.url), group.tunnels[0].state]))
    """
    by_ssh = python(laptop, code)
    openssh = "from ports.hosts import openssh; openssh.close_all()"
    laptop.run("laptop", [laptop.python, "-c", openssh], check=True)
    assert python(laptop, code, env={"DASK_PORTS__SSH__TRANSPORT": "paramiko"}) == by_ssh
    assert not [one for one in laptop.host("laptop").processes() if "ssh" in one.command[0]]


def test_two_hundred_connections_at_once_all_pass(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code = f"""
        import selectors
        with tunnels.open("server1:{port}") as tunnel:
            local = tunnel.tunnels[0].local_port
            request = b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\nConnection: close\\r\\n\\r\\n"
            sockets = [socket.create_connection(("localhost", local)) for _ in range(200)]
            for one in sockets:
                one.sendall(request)
            answers = 0
            for one in sockets:
                one.settimeout(20)
                text = b""
                while chunk := one.recv(4096):
                    text += chunk
                answers += text.endswith(b"page of server1")
            print(json.dumps(answers))
    """
    assert python(laptop, code, timeout=90) == 200


@pytest.mark.long
def test_a_half_closed_connection_still_gets_its_answer(laptop: Site, serve: Serve) -> None:
    echo = """
        import socket, sys
        listener = socket.create_server(("127.0.0.1", 0)); print(listener.getsockname()[1], flush=True)
        while True:
            connection, _ = listener.accept()
            got = b""
            while chunk := connection.recv(65536): got += chunk
            connection.sendall(b"%d bytes" % len(got)); connection.close()
    """
    port = serve("server1", textwrap.dedent(echo))
    code = f"""
        with tunnels.open_many(["server1:{port}"]) as group:
            with socket.create_connection(("localhost", group.tunnels[0].local_port)) as connection:
                connection.sendall(b"x" * 3_000_000)
                connection.shutdown(socket.SHUT_WR)
                print(json.dumps(connection.recv(100).decode()))
    """
    # it answers a request only once that has ended: to the proof it is silent
    assert python(laptop, code) == "3000000 bytes"


def test_twenty_targets_on_one_host_need_one_connection(laptop: Site, serve: Serve) -> None:
    served = [serve("server1", text=f"page {number}") for number in range(20)]
    code = f"""
        group = tunnels.open_many([f"server1:{{port}}" for port in {served}])
        print(json.dumps([fetch(one.url) for one in group.tunnels]))
        group.close()
    """
    assert sorted(python(laptop, code)) == sorted(f"page {number}" for number in range(20))
    held = [one for one in laptop.host("laptop").processes() if " -f -N -M " in " ".join(one.command)]
    assert len(held) == 2


def test_a_host_with_nothing_to_open_says_so_and_a_bad_target_is_usage(laptop: Site) -> None:
    code, rows = ports(laptop, "open", "server2")
    assert (code, rows[0]["state"]) == (3, "nothing")
    assert ports(laptop, "open", "server2:")[0] == 2
    assert ports(laptop, "open", "server2:99999")[0] == 2


def test_a_connection_that_was_ended_is_made_again_and_that_is_told(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    running, rows = open_in_foreground(laptop, f"server1:{port}")
    closed = python(laptop, "from ports.hosts import logout; say(logout('server1')[0]['state'])")
    assert closed == "disconnected"

    def mended() -> dict[str, Any] | None:
        row: dict[str, Any] = ports(laptop, "tunnel", "list")[1][0]
        return row if row["state"] == "open" and row["reconnects"] else None

    row = wait_until(mended, timeout=20, what="the tunnel to be open again")
    assert "connection was lost" in row["last_error"] and row["local_url"] == rows[0]["local_url"]
    assert fetch(laptop, row["local_url"]) == "page of server1"
    running.send_signal(signal.SIGINT)
    assert "server1: open again, under the same links" in running.communicate(timeout=10)[1]


def test_a_terminal_that_was_stopped_does_not_hold_up_the_tunnels(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    code = f"""
        import threading, urllib.error
        from ports import hosts
        stopped = threading.Event()
        def show(row):
            if row["state"] != "open":
                stopped.wait(60)  # as a write does after Ctrl-S
        with tunnels.open_many(["server1:{port}"], on_event=show) as group:
            hosts.logout("server1")
            end, (tunnel,) = time.monotonic() + 20, group.tunnels
            while not (tunnel.reconnects and tunnel.state == "open") and time.monotonic() < end:
                time.sleep(0.1)
            print(json.dumps(fetch(group.url) if tunnel.state == "open" else tunnel.state), flush=True)
            stopped.set()
    """
    assert python(laptop, code) == "page of server1"


@pytest.mark.quick
def test_a_cluster_and_a_notebook_server_open_with_their_tokens(laptop: Site, nothing_left: LeakCheck) -> None:
    nothing_left.allow("file */host.json")
    code, cluster = ports(laptop, "cluster", "start", "main", "-H", "server1", "--n-workers", "1", timeout=90)
    assert code == 0, cluster
    lab = laptop.popen(
        "server2",
        [laptop.notebook_python, "-m", "jupyterlab", "--no-browser", "--ServerApp.port=0", "--allow-root"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def is_listed() -> bool | None:
        rows = ports(laptop, "list", "server2")[1]
        return True if any(row["kind"] == "notebook" for row in rows) else None

    try:
        wait_until(is_listed, timeout=40, what="the notebook server", every=0.5)
        running, rows = open_in_foreground(laptop, "server1", "server2")
        found = {row["kind"]: row for row in rows}
        assert {row["state"] for row in rows} == {"open"}, rows
        assert "Dask" in fetch(laptop, found["cluster"]["local_url"])
        assert "token=" in found["notebook"]["local_url"]
        assert "jupyter-config-data" in fetch(laptop, found["notebook"]["local_url"])
        running.send_signal(signal.SIGINT)
        running.communicate(timeout=10)
    finally:
        lab.terminate()
        lab.communicate()
        ports(laptop, "cluster", "stop", "main", "-H", "server1")


def test_a_session_carries_what_the_users_connection_may_not_forward(
    laptop: Site, serve: Serve, nothing_left: LeakCheck
) -> None:
    nothing_left.allow("file */tunnels/forward-methods.json")
    port = serve("server2")
    laptop.host("server2").add_sshd_config("AllowTcpForwarding no\n")
    config = laptop.host("laptop").path("~/.ssh/config")
    mine = "Host server2\n  ControlMaster auto\n  ControlPath ~/.ssh/mine\n"
    config.write_text(mine + config.read_text())
    start = ["sh", "-c", 'exec "$@" >/dev/null 2>&1', "", *laptop.ssh, "-f", "-N", "server2"]
    laptop.run("laptop", start, check=True)
    try:
        code = f"""
            with tunnels.open("server2:{port}") as group:
                print(json.dumps([fetch(group.url), group.tunnels[0].state]))
        """
        assert python(laptop, code) == ["page of server2", "open"]
    finally:
        laptop.run("laptop", [*laptop.ssh, "-O", "exit", "server2"], check=True)


# --- opened in the background, opened twice, and what is said of it ---


def test_what_was_reported_as_missing_is_not_opened_later(laptop: Site, serve: Serve) -> None:
    running, later = serve("server1"), 25555
    assert ports(laptop, "open", "--background", f"server1:{running}")[0] == 0
    assert ports(laptop, "open", "--background", f"server1:{later}")[0] == 3
    assert ports(laptop, "open", "--background", f"server2:{later}")[0] == 3
    for host in ("server1", "server2"):
        code = PAGE.replace("int(sys.argv[1])", str(later))
        assert serve(host, code) == later
    wait_until(
        lambda: any(row["port"] == later for row in ports(laptop, "list", "server1")[1]) or None,
        timeout=10,
        what="the service",
    )
    # what is asked for now is found, so the program on the host has reported the other one, too
    other = serve("server1")
    assert ports(laptop, "open", "--background", f"server1:{other}")[0] == 0
    with pytest.raises(TimedOutError):
        wait_until(
            lambda: len(ports(laptop, "tunnel", "list")[1]) > 2 or None,
            timeout=6,
            what="a tunnel that nobody wants",
        )
    assert ports(laptop, "open", "--background", f"server1:{later}")[0] == 0
    assert ports(laptop, "tunnel", "close", "--all")[0] == 0


@pytest.mark.quick
def test_a_target_that_is_open_already_gets_no_second_port(laptop: Site, serve: Serve) -> None:
    port = serve("server1")
    first, (row,) = open_in_foreground(laptop, f"server1:{port}")
    for words in ([f"server1:{port}"], ["--background", f"server1:{port}"]):
        code, (again,) = ports(laptop, "open", *words)
        assert (code, again["state"], again["local_url"]) == (0, "open", row["local_url"])
        assert again["note"].startswith("already open; `ports open` in process ")
    (shown,) = ports(laptop, "tunnel", "list")[1]
    assert shown["local_url"] == row["local_url"]
    assert row["local_port"] not in [one["port"] for one in ports(laptop, "list")[1]]
    ends = [one for one in ports(laptop, "list", "--all")[1] if one["port"] == row["local_port"]]
    assert [one["reason"] for one in ends] == [f"leads to server1:{row['name']}"]
    code, (another,) = ports(laptop, "open", "--background", "--local-port", "0", f"server1:{port}")
    assert code == 0 and another["local_port"] != row["local_port"]
    first.send_signal(signal.SIGINT)
    assert first.wait(10) == 0
    first.communicate()
    assert ports(laptop, "tunnel", "close", "--all")[0] == 0


def test_python_opens_no_second_port_for_what_is_open_already(laptop: Site, serve: Serve) -> None:
    port, other = serve("server1"), serve("server1")
    first, (row,) = open_in_foreground(laptop, f"server1:{other}")
    code = f"""
        import urllib.request
        from ports.state import wait_until
        with tunnels.open("server1:{port}") as one:
            with tunnels.open("server1:{port}") as two, tunnels.open("server1:{other}") as there:
                urls = [one.url, two.url, there.url]
                notes = [group.tunnels[0].row()["note"] for group in (one, two, there)]
                with tunnels.open("server1:{port}", local_port=0) as third:
                    urls.append(third.url)
            left = urllib.request.urlopen(one.url).status
        one = tunnels.open("server1:{port}")
        with tunnels.open("server1:{port}") as two:
            one.close()
            (link,) = two.tunnels
            is_here = lambda: True if link.ports and link.state == "open" else None
            wait_until(is_here, timeout=30, what="the link in the second group")
            urls.append(two.url)
        print(json.dumps([urls, notes, left]))
    """
    (one, two, there, third, later), notes, left = python(laptop, code)
    assert one == two == later != third and there == row["local_url"] and left == 200
    assert notes[0] is None and notes[1] == "already open; this process keeps it"
    assert str(notes[2]).startswith("already open; `ports open` in process ")
    first.send_signal(signal.SIGINT)
    assert first.wait(10) == 0
    first.communicate()


def test_what_another_process_kept_is_opened_here_once_it_closes_it(laptop: Site, serve: Serve) -> None:
    kept, own = serve("server1"), serve("server1")
    first, (row,) = open_in_foreground(laptop, f"server1:{kept}")
    second, rows = open_in_foreground(laptop, f"server1:{kept}", f"server1:{own}")
    try:
        (again,) = [one for one in rows if one["local_url"] == row["local_url"]]
        assert again["note"].startswith("already open; ") and len(rows) == 2
        first.send_signal(signal.SIGINT)
        assert first.wait(10) == 0

        def keeps() -> int | None:
            found = [one for one in ports(laptop, "tunnel", "list")[1] if one["local_url"] == row["local_url"]]
            return found[0]["pid"] if found and found[0]["state"] == "open" else None

        assert wait_until(keeps, timeout=30, what="the link", every=0.5)
        assert fetch(laptop, row["local_url"]) == "page of server1"
    finally:
        for running in (first, second):
            running.send_signal(signal.SIGINT)
            running.communicate(timeout=10)


def test_links_are_shown_in_the_order_of_the_targets(laptop: Site, serve: Serve) -> None:
    found = [serve(host) for host in ("server1", "server2", "server1")]
    wanted = [f"server2:{found[1]}", f"server1:{found[2]}", f"server1:{found[0]}"]
    for _ in range(3):
        words = [laptop.python, "-m", "ports", "open", "--background", *wanted]
        shown = laptop.run("laptop", words, check=True).stdout.splitlines()[1:]
        hosts = [line.split()[0] for line in shown]
        names = [line.split()[2] for line in shown[1:]]
        assert hosts == ["server2", "server1", "server1"] and names == sorted(names)
        assert ports(laptop, "tunnel", "close", "--all")[0] == 0


def test_a_host_without_ports_gets_no_hint_to_start_a_cluster(laptop: Site) -> None:
    (row,) = ports(laptop, "open", "server2")[1]
    assert "cluster start" not in row["note"] and "`ports list server2`" in row["note"]
    assert ports(laptop, "list", "server2")[0] == 0  # what the hint says works


def test_a_notebook_server_on_a_unix_socket_opens_by_its_name(laptop: Site) -> None:
    """Its record is in a directory that only its environment names, so the kernel's table of sockets leads there."""
    command = [
        laptop.notebook_python,
        "-m",
        "jupyter_server",
        "--no-browser",
        "--allow-root",
        "--sock=/tmp/alice-nb.sock",
    ]
    command += ["--ServerApp.root_dir=/tmp"]
    env = {"JUPYTER_RUNTIME_DIR": "/tmp/alice-nb-runtime"}
    running = laptop.popen("server2", command, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def opened() -> dict[str, Any] | None:
            code, rows = ports(laptop, "open", "server2:tmp", "--background")
            return rows[0] if code == 0 else None

        row = wait_until(opened, timeout=60, what="the link", every=0.5)
        assert (row["kind"], row["name"], row["state"]) == ("notebook", "tmp", "open")
        assert "token=" in row["local_url"]
        assert '"version"' in fetch(laptop, row["local_url"].replace("/?", "/api?"))
    finally:
        running.terminate()
        running.communicate()
        laptop.run("server2", ["rm", "-rf", "/tmp/alice-nb.sock", "/tmp/alice-nb-runtime"])  # Jupyter leaves its socket
        ports(laptop, "tunnel", "close", "--all")
