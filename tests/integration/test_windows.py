"""Home is Windows, played by `tests.lab.as_windows`, and a real sshd is what it reaches."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from ports.state.waiting import wait_until
from tests.lab import Site, as_windows
from tests.lab.leaks import LeakCheck
from tests.lab.loopback import LoopbackSite

pytestmark = pytest.mark.ci

MAIN = "import sys; from ports.__main__ import main; sys.exit(main())"
# these run on servers only
NOT_AT_HOME = (
    "ports.clusters.owner.ports_owner",
    "ports.sessions.launch",
    "ports.notebooks.jupyter_launch",
    *(
        f"ports.jobs.resource.{name}"
        for name in (
            "child",
            "crew",
            "lease",
            "loop",
            "oversee",
            "script",
            "set_up",
            "slot",
            "streams",
            "sweeper",
            "warm",
        )
    ),
)
PAGE = """
import http.server
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "5"); self.end_headers()
        self.wfile.write(b"there")
    do_HEAD = do_GET
    def log_message(self, *arguments): pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
print(server.server_port, flush=True)
server.serve_forever()
"""
NO_SSH = {"DASK_PORTS__SSH__PROGRAM": "no-such-ssh"}


@pytest.fixture(scope="module")
def windows() -> Iterator[Site]:
    """A site whose laptop has Windows, for what `python` starts there; at the end nothing may be left."""
    with LoopbackSite() as made:
        check = LeakCheck(made)
        yield made
        check.verify(timeout=30)


@pytest.fixture
def page(windows: Site) -> Iterator[int]:
    """The port of a page on server1."""
    with windows.popen("server1", ["/usr/bin/python3", "-c", PAGE]) as serving:
        assert serving.stdout is not None
        yield int(serving.stdout.readline())
        serving.kill()


def python(site: Site, code: str, *words: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run `code` on the laptop, as on Windows."""
    temporary = {"TMPDIR": str(site.host("laptop").temporary_directory)}
    command = [site.python, as_windows.__file__, textwrap.dedent(code), *words]
    return site.run("laptop", command, timeout=60, env={**temporary, **(env or {})})


def ports(site: Site, *words: str, env: dict[str, str] | None = None) -> Any:
    """Run ``ports … --json`` on the laptop, and return its document."""
    done = python(site, MAIN, *words, "--json", env=env)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def fetch(port: int) -> bytes:
    """Return the page that a local port leads to."""
    return ask(port, b"GET / HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")[2]


def ask(port: int, said: bytes) -> bytes:
    """Return all that comes at a local port after `said`."""
    with socket.create_connection(("127.0.0.1", port), 20) as connection:
        connection.sendall(said)
        return b"".join(iter(lambda: connection.recv(4096), b""))


def test_every_module_that_home_needs_can_be_imported(windows: Site) -> None:
    code = """
        import importlib, os, pkgutil, sys, ports
        names = [one.name for one in pkgutil.walk_packages(ports.__path__, "ports.")]
        names = [name for name in names if not name.startswith(tuple(sys.argv[1:]))]
        for name in names:
            importlib.import_module(name)
        print(os.name, len(names))
    """
    done = python(windows, code, *NOT_AT_HOME)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("nt ") and int(done.stdout.split()[1]) > 80


def test_the_command_line_tells_what_it_can_do_and_what_not(windows: Site) -> None:
    done = python(windows, MAIN, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: ports" in done.stdout
    done = python(windows, MAIN, "cluster", "start")
    assert (done.returncode, done.stdout) == (2, "")
    assert (
        done.stderr
        == "ports: clusters run on Linux and macOS only; name a host that runs it, with -H HOST or `ports shell HOST`\n"
    )


def test_the_doctor_and_browse_know_that_this_machine_is_for_home(windows: Site) -> None:
    checks = ports(windows, "doctor", env=NO_SSH)
    assert [row["name"] for row in checks] == ["ports", "state-directory", "settings", "ssh"]
    done = python(windows, MAIN, "browse", "http://localhost:1/")
    assert (done.returncode, done.stdout) == (3, "")
    assert "no `ports open` at home is connected to this machine" in done.stderr


def test_what_listens_at_home_is_listed_and_asked_what_it_is(windows: Site) -> None:
    code = """
        import json, sys
        from ports import probe
        print(json.dumps(probe.probe({"port": int(sys.argv[1]), "silence": 0.1, "patience": 40})["listeners"]))
    """
    with windows.popen("laptop", ["/usr/bin/python3", "-c", PAGE]) as serving:
        assert serving.stdout is not None
        port = int(serving.stdout.readline())
        listed = [row["pid"] for row in ports(windows, "list") if row["port"] == port]
        done = python(windows, code, str(port))
        serving.kill()
    assert listed == [serving.pid]
    assert done.returncode == 0, done.stderr
    assert [(row["pid"], row["http"]) for row in json.loads(done.stdout)] == [(serving.pid, True)]


def test_a_link_opens_and_closes_without_an_ssh_program(windows: Site, page: int) -> None:
    code = """
        import json, os, sys, urllib.request
        from ports import tunnels
        from ports.hosts import choose_transport
        with tunnels.open("server1:" + sys.argv[1]) as opening:
            text = urllib.request.urlopen(opening.url, timeout=20).read().decode()
            row = opening.rows()[0]
        print(json.dumps([choose_transport(), text, row["state"], row["local_port"]]))
    """
    done = python(windows, code, str(page), env=NO_SSH)
    assert done.returncode == 0, done.stderr
    *said, port = json.loads(done.stdout)
    assert said == ["paramiko", "there", "open"]
    with pytest.raises(ConnectionRefusedError):
        fetch(port)


def test_jobs_on_a_server_are_sent_and_looked_at(windows: Site) -> None:
    kept = [windows.host(name).home / ".local/state/ports/hosts" for name in ("laptop", "server1")]
    place = windows.host("laptop").temporary_directory / "project"
    place.mkdir()
    try:
        (place / "data.txt").write_text("7")
        code = "import os, sys; os.chdir(sys.argv.pop(1)); " + MAIN
        words = ["job", "submit", "-H", "server1", "--no-start", "--copy", "--json", "--", "cat", "data.txt"]
        done = python(windows, code, str(place), *words, env=NO_SSH)
        assert done.returncode == 0, done.stderr
        id = json.loads(done.stdout)["id"]
        assert [row["id"] for row in ports(windows, "job", "list", "-H", "server1", env=NO_SSH)] == [id]
        assert ports(windows, "job", "show", id, env=NO_SSH)["state"] == "pending"
        assert ports(windows, "job", "cancel", id, env=NO_SSH)["cancelled"] == [id]
        done = python(windows, MAIN, "job", "wait", id, "--json", env=NO_SSH)
        assert (done.returncode, [row["state"] for row in json.loads(done.stdout)]) == (8, ["cancelled"]), done.stderr
    finally:
        shutil.rmtree(place)
        for machines in kept:
            for jobs in machines.glob("*/jobs"):
                shutil.rmtree(jobs)


def test_a_link_in_the_background_answers_only_to_who_knows_its_token(windows: Site, page: int) -> None:
    (row,) = ports(windows, "open", f"server1:{page}", "--background")
    assert fetch(row["local_port"]) == b"there"
    (path,) = state(windows).glob("tunnels/*-0.json")
    record = json.loads(path.read_text())
    host, _, control = record["control"].partition(":")
    assert host == "127.0.0.1"
    wanted = ({"rows": True}, {"close": [record["rows"][0]["number"]]})
    for wrong in ({}, {"token": None}, {"token": record["token"][:-1]}, {"token": record["token"] + "ü"}):
        assert [ask(int(control), json.dumps({**one, **wrong}).encode() + b"\n") for one in wanted] == [b"", b""]
    (listed,) = ports(windows, "tunnel", "list")
    assert (listed["state"], listed["local_port"], listed["background"]) == ("open", row["local_port"], True)
    (closed,) = ports(windows, "tunnel", "close", f"server1:{page}")
    assert closed["state"] == "closed"
    wait_until(lambda: not path.exists() or None, timeout=30, what="end of the keeper")


def test_what_a_killed_process_left_is_pruned(windows: Site, page: int) -> None:
    (row,) = ports(windows, "open", f"server1:{page}", "--background", env=NO_SSH)
    (path,) = state(windows).glob("tunnels/*-0.json")
    keeper = psutil.Process(json.loads(path.read_text())["process"]["pid"])
    assert as_windows.__file__ in keeper.cmdline()
    keeper.kill()
    wait_until(lambda: not is_running(keeper) or None, timeout=30, what="end of the keeper")
    assert [(one["kind"], one["name"]) for one in ports(windows, "prune")] == [("tunnel", f"server1:{row['name']}")]
    assert not path.exists()


def is_running(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


def state(site: Site) -> Path:
    """Return the directory of the laptop's records."""
    (found,) = site.host("laptop").path("~/.local/state/ports/hosts").iterdir()
    return found
