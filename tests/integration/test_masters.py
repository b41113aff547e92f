"""The connections that all of `ports` shares: kept, found dead, replaced, led through closed doors."""

from __future__ import annotations

import json
import os
import signal
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from ports.deadlines import wait_until
from tests.lab import Site
from tests.lab.leaks import LeakCheck
from tests.lab.site import HostProcess

pytestmark = pytest.mark.timeout(120)

PRELUDE = """
import json, os, signal, socket, subprocess, sys, threading, time
from pathlib import Path
from ports import paths, remote
from ports.adapters import openssh
from ports.errors import PortsError
def tell(function, *arguments, **options):
    started = time.monotonic()
    try:
        return {"result": function(*arguments, **options)}
    except PortsError as error:
        row = {"type": type(error).__name__, "message": str(error), "network": getattr(error, "is_network", None)}
        return {**row, "seconds": time.monotonic() - started}
def say(what):
    print(json.dumps(what), flush=True)
def echo(alias, **options):
    return openssh.run(alias, "cat", input=b"there", **options).output
def end(alias):
    "End the master to `alias` as its time without use does: it takes leave of nobody here."
    control = openssh.places(alias)[-1].control
    subprocess.run(["ssh", "-F", "none", "-S", control, "-O", "exit", "x"], capture_output=True)
    while openssh.is_running(control):
        time.sleep(0.005)
def ask(path):
    "Return what the service behind a forwarded socket says first."
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(path))
        return connection.recv(100).decode()
number = iter(range(1000))
def local():
    return paths.runtime_directory() / f"test{os.getpid()}-{next(number)}.sock"
"""
SHORT = {"DASK_PORTS__SSH__PERSIST": "1"}


@pytest.fixture
def laptop(site: Site, fresh_home: Site, nothing_left: LeakCheck) -> Iterator[Site]:
    """Alice's laptop; the connections that ports keeps on purpose end with the test."""
    nothing_left.allow("file */ssh/*.log")
    nothing_left.allow("file */logins/*")
    nothing_left.allow("file */doors/*")
    yield site
    python(site, "say(openssh.close_all())")


def python(site: Site, code: str, *, timeout: float = 60, env: dict[str, str] | None = None) -> Any:
    """Run `code` on the laptop as alice, and return what it says."""
    done = site.run("laptop", [site.python, "-c", PRELUDE + textwrap.dedent(code)], timeout=timeout, env=env or {})
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def masters(site: Site, part: str = "") -> list[HostProcess]:
    """Return the connections that ports holds on the laptop, of those whose command line has `part`."""
    found = [(one, " ".join(one.command)) for one in site.host("laptop").processes() if one.state != "Z"]
    return [one for one, line in found if " -f -N -M " in line and part in line]


def sshd(site: Site) -> str:
    """Return where server1 finds its own sshd, which says its version to who connects."""
    lines = site.run("laptop", [*site.ssh, "-G", "server1"], check=True).stdout.splitlines()
    found = dict(line.split(" ", 1) for line in lines)
    return f"{found['hostname']}:{found['port']}"


# --- connections that end at any moment ---


def test_a_connection_in_hand_does_not_end_for_want_of_use(laptop: Site) -> None:
    code = """
        master = openssh.connect("server1")
        there = []
        for _ in range(4):
            time.sleep(1)
            there.append(master.is_there())
        control = master.control
        del master
        while openssh.is_running(control):
            time.sleep(0.01)
        say(there)
    """
    assert python(laptop, code, env=SHORT) == [True] * 4


@pytest.mark.parametrize("moment", ["before the next hop", "while the next hop starts"])
def test_a_way_is_made_although_the_jump_host_s_connection_ends_meanwhile(laptop: Site, moment: str) -> None:
    code = f"""
        from ports.adapters.openssh import logins
        openssh.connect("login")
        real, ended = logins.children.run_to_end, []
        def run(arguments, **options):
            if "-M" in arguments and not ended:
                ended.append(True)
                if {moment!r} == "before the next hop":
                    end("login")
                else:
                    threading.Timer(0.03, end, ("login",)).start()
            return real(arguments, **options)
        logins.children.run_to_end = run
        master = openssh.connect("server1")
        say([ended, echo("server1")])
    """
    assert python(laptop, code, env=SHORT) == [[True], "there"]


def test_connections_of_one_second_carry_forward_after_forward(laptop: Site) -> None:
    code = """
        said = []
        for pause in (0, 0.9, 1.0, 1.1, 0, 1.0, 1.05):
            time.sleep(pause)
            master = openssh.connect("server1", warm=False)
            path = local()
            openssh.forward(master, [(path, os.environ["SSHD"])])
            said.append(ask(path)[:4])
            openssh.cancel(master, [(path, os.environ["SSHD"])])
            del master
        say(said)
    """
    assert python(laptop, code, env={**SHORT, "SSHD": sshd(laptop)}) == ["SSH-"] * 7


def test_what_is_asked_of_a_connection_that_ended_is_told_as_lost(laptop: Site) -> None:
    code = """
        master = openssh.connect("server1")
        path, other = local(), local()
        openssh.forward(master, [(path, "127.0.0.1:9")])
        end("server1")
        lost = tell(openssh.forward, master, [(other, "127.0.0.1:9")])
        openssh.cancel(master, [(path, "127.0.0.1:9")])
        process = openssh.popen(master, "cat")
        status = process.wait(10)
        openssh.end(process)
        say([lost, path.exists(), status, master.is_there()])
    """
    lost, is_left, status, is_there = python(laptop, code)
    assert (lost["type"], lost["network"], is_left, status, is_there) == (
        "ConnectionLostError",
        True,
        False,
        255,
        False,
    )


def test_a_jump_host_s_connection_that_was_killed_is_made_anew(laptop: Site) -> None:
    python(laptop, "openssh.connect('login'); say(0)")
    (login,) = masters(laptop)
    os.kill(login.pid, signal.SIGKILL)
    wait_until(lambda: not masters(laptop) or None, timeout=10, what="end of the connection")
    assert python(laptop, "say(echo('server1'))") == "there"
    assert len(masters(laptop)) == 2


def test_an_ssh_that_ends_late_does_not_take_its_successor_s_socket_along(laptop: Site) -> None:
    code = """
        first = openssh.connect("login")
        pid = int(subprocess.run(["ssh", "-F", "none", "-S", first.control, "-O", "check", "x"],
                                 capture_output=True, text=True).stderr.split("=")[1].split(")")[0])
        os.kill(pid, signal.SIGSTOP)
        openssh.retire("login")
        second = openssh.connect("login")
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)
        while first.is_there():
            time.sleep(0.01)
        say([first.control != second.control, second.is_there(), openssh.running("login") is not None, echo("login")])
    """
    assert python(laptop, code) == [True, True, True, "there"]
