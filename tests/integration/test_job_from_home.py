"""`ports job -H server1`, from alice's laptop, through the jump host."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Site
from tests.lab.namespaces import NamespaceSite

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
    laptop.run("server2", home)


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
    assert followed.returncode == 8 and json.loads(followed.stdout)["note"]["status"] == 4
    words = ("job", "submit", "-H", "server1", "--follow", "--exit-code", "--", "sh", "-c", "env >&2; exit 4")
    followed = ports(server, *words)
    assert followed.returncode == 4 and "\nSHELL=/bin/bash\n" in followed.stderr
    assert "__DASK_PARENT_PID" not in followed.stderr  # the environment is that of a login, not that of a worker
    refused = ports(server, "job", "submit", "-H", "server1", "--", "no-such-program")
    said = "there is no program 'no-such-program' on the PATH of your login shell on server1"
    assert refused.returncode == 2 and said in " ".join(refused.stderr.split())
    assert len(json.loads(ports(server, "job", "list", "server1", "--json").stdout)) == 3


def test_a_job_that_waits_there_begins_after_what_wait_says(server: Site) -> None:
    assert ports(server, "job", "submit", "-H", "server1", "--no-start", "--", "true").stdout == "server1:1\n"
    assert "`ports resource start -H server1` goes on" in ports(server, "job", "why", "server1:1").stdout
    waited = ports(server, "job", "wait", "--within", "0.5", "server1:1")
    assert waited.returncode == 6
    said = "no compute resource runs on server1, so nothing begins; `ports resource start -H server1` goes on"
    assert said in waited.stderr and "pending" in waited.stderr
    assert ports(server, "resource", "start", "-H", "server1").returncode == 0
    assert ports(server, "job", "wait", "server1:1").returncode == 0


def test_a_server_with_python3_alone_keeps_jobs_and_shows_them(server: Site) -> None:
    submitted = ports(server, "job", "submit", "-H", "server2", "--environ", "A=b", "--", "true")
    assert submitted.stdout == "server2:1\n" and "The job waits in the queue there" in submitted.stderr
    (row,) = json.loads(ports(server, "job", "list", "server2", "--json").stdout)
    assert (row["id"], row["state"]) == ("server2:1", "pending")
    assert ports(server, "job", "logs", "server2:1").returncode == 0
    assert ports(server, "job", "cancel", "server2:1").stdout == "server2:1: cancelled\n"
    assert ports(server, "job", "wait", "server2:1").returncode == 8


def test_of_several_servers_the_first_that_can_begin_gets_the_job(root_site: NamespaceSite, server: Site) -> None:
    words = ("--cpus", "1", "--", "true")
    first = ports(server, "job", "submit", "-H", "server2,server1", *words)
    assert first.stdout == "server1:1\n"
    assert "server1: no compute resource runs yet, so one is started; server2: left out: " in first.stderr
    code = "import ports\nwith ports.host(['server2', 'server1']): print(ports.submit(len, 'abc').result(60))"
    mapped = server.run("laptop", [server.python, "-c", code], timeout=120)
    assert mapped.stdout == "3\n", mapped.stderr
    assert ports(server, "job", "wait", "server1:1", "server1:2").returncode == 0
    root_site.host("server2").power_off()
    last = ports(server, "job", "submit", "-H", "server2,server1", *words)
    root_site.host("server2").power_on()
    assert last.stdout == "server1:3\n" and "server1: starts at once; server2: left out: " in last.stderr


def test_what_is_followed_through_cuts_comes_whole_and_once(root_site: NamespaceSite, server: Site) -> None:
    n_lines = 400
    loop = f"for i in $(seq {n_lines}); do echo line $i; echo err $i >&2; sleep 0.02; done"
    words = [server.python, "-m", "ports", "job", "submit", "-H", "server1", "--cpus", "1", "--follow", "--"]
    env = {"DASK_PORTS__SSH__KEEPALIVE": "1"}
    with server.popen("laptop", [*words, "sh", "-c", loop], env=env, stdout=subprocess.PIPE) as running:
        try:
            assert running.stdout is not None
            found = [running.stdout.readline() for _ in range(20)]
            for _ in range(2):
                sessions = [
                    one for one in root_site.host("laptop").processes() if "import sys;exec" in str(one.command)
                ]
                assert sessions
                for one in sessions:
                    os.kill(one.pid, signal.SIGTERM)
                found += [running.stdout.readline() for _ in range(20)]
            server.host("login").cut()
            time.sleep(6)  # three keepalives of a second are lost, and a connection cannot be made
            server.host("login").mend()
            assert running.stderr is not None
            out, err = running.stdout.read(), running.stderr.read()
            running.wait(60)
        finally:
            server.host("login").mend()
            running.kill()
    assert "".join(found) + out == "".join(f"line {i}\n" for i in range(1, n_lines + 1))
    assert [one for one in err.splitlines() if one.startswith("err")] == [f"err {i}" for i in range(1, n_lines + 1)]
    assert running.returncode == 0, err
