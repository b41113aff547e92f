"""Functions as jobs on server1, from alice's laptop, through the jump host."""

from __future__ import annotations

import json
import subprocess
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Site
from tests.lab.laptop import python
from tests.lab.namespaces import NamespaceSite

pytestmark = [pytest.mark.ci, pytest.mark.timeout(300)]

PRELUDE = """
import json, sys, time
import ports
from ports.errors import PortsError
from ports.jobs import _client
def say(document):
    print(json.dumps(document), flush=True)
def error(function, *arguments):
    try:
        return {"result": repr(function(*arguments))}
    except Exception as error:
        return {"type": type(error).__name__, "text": str(error)}
def add(x, y=1):
    return x + y
"""


def at_home(site: Site, code: str, **options: Any) -> Any:
    """Run `code` on the laptop, and return what it says."""
    return python(site, code, prelude=PRELUDE, timeout=120, **options)


@pytest.fixture
def server(laptop: Site) -> Iterator[Site]:
    """The laptop, from which a compute resource on server1 is reached that ends with the test."""
    yield laptop
    laptop.run("laptop", [laptop.python, "-m", "ports", "resource", "stop", "-H", "server1", "--now"], timeout=120)
    home = ["sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs /tmp/ports-$(id -u)/leases"]
    laptop.run("server1", home)


def test_functions_run_on_a_server_and_their_results_come_home(server: Site) -> None:
    code = """
    import numpy
    with ports.host("server1"):
        job = ports.submit(add, 41)
    first = [job.id, job.result(60), job.state, job.status["id"], job.status["host"]]
    with ports.host("server1"):
        many = ports.map(add, range(50), name="night-1")
        total = ports.submit(add, job, many[3])
        array = ports.submit(add, numpy.arange(4.0))
        failed, talk = ports.submit(lambda: 1 / 0), ports.submit(print, "hello")
        path = ports.submit(lambda: __import__("pathlib").Path("x"))
        slow = ports.submit(time.sleep, 600)
    rest = [ports.gather(many, timeout=60) == list(range(1, 51)), total.result(60), array.result(60).tolist()]
    rest += [error(failed.result, 60), talk.result(60), talk.logs(), error(path.result, 60)["type"]]
    with ports.host("server1", trust=True):
        last = [repr(ports.jobs.get("7").result(60)), [one.id for one in ports.jobs.list(2)]]
    last += [slow.cancel(), error(slow.result, 60)["type"]]
    import os
    with open("data.bin", "wb") as file:
        file.write(os.urandom(300_000))
    for _ in range(2):  # the second time, its content is there
        with ports.host("server1"):
            sized = ports.submit(lambda file: len(file.read()), ports.File("data.bin"))
        last.append(sized.result(60))
    say([first, rest, last])
    """
    first, rest, last = found = at_home(server, code)
    assert first == ["server1:1", 42, "finished", "server1:1", "server1"], found
    failed = {"type": "ZeroDivisionError", "text": "division by zero"}
    assert rest == [True, 46, [1, 2, 3, 4], failed, None, "hello\n", "UntrustedError"]
    assert last == ["PosixPath('x')", ["server1:8", "server1:7"], True, "JobCancelledError", 300_000, 300_000]
    tomorrow = at_home(server, "say([ports.jobs.get('server1:1').result(), error(ports.jobs.get, 'server1:99')])")
    assert tomorrow[0] == 42 and tomorrow[1]["type"] == "NotFoundError"


@pytest.mark.parametrize("transport", ["ssh", pytest.param("paramiko", marks=pytest.mark.long)])
def test_a_result_that_is_waited_for_comes_after_a_cut(root_site: NamespaceSite, server: Site, transport: str) -> None:
    code = """
    import pathlib
    def wait(file):
        import pathlib, time
        while not pathlib.Path(file).exists():
            time.sleep(0.05)
        return pathlib.Path.cwd() == pathlib.Path.home()
    with ports.host("server1"):
        job, many = ports.submit(wait, "/home/alice/go"), ports.map(add, range(3))
        assert ports.gather(many, timeout=60) == [1, 2, 3]
        slow = ports.map(lambda x: time.sleep(1) or x, range(10))
    pid = _client.connection("server1").resource["pid"]
    stream = slow.as_completed(100)
    found = [next(stream).result()]
    say(job.id)
    sys.stdin.readline()
    found += [one.result() for one in stream]
    say([job.result(100), sorted(found) == list(range(10)), pid == _client.connection("server1").resource["pid"]])
    """
    env = {"DASK_PORTS__SSH__TRANSPORT": transport, "DASK_PORTS__SSH__KEEPALIVE": "1"}
    command = [server.python, "-c", PRELUDE + textwrap.dedent(code)]
    with server.popen("laptop", command, env=env, stdin=subprocess.PIPE) as running:
        try:
            assert running.stdin is not None and running.stdout is not None
            assert json.loads(running.stdout.readline()) == "server1:1"
            server.host("login").cut()
            running.stdin.write("\n")
            running.stdin.flush()
            time.sleep(6)  # three keepalives of a second are lost, and a connection cannot be made
            server.host("login").mend()
            server.host("server1").write("~/go", "")
            assert json.loads(running.stdout.readline()) == [True, True, True]
        finally:
            server.host("login").mend()
            running.kill()


def test_a_submission_whose_answer_was_lost_stays_one_job(server: Site) -> None:
    code = """
    import os, signal
    with ports.host("server1"):
        first = ports.submit(add, 1)
        connection = _client.connection('server1')
        real = type(connection)._wait_for
        lost = []
        def wait_for(self, number, op, timeout):
            if op == "submit" and not lost:
                real(self, number, op, timeout)  # it has arrived, and the answer is lost
                lost.append(op)
                self._lose("cut by the test")
                raise self._lost
            return real(self, number, op, timeout)
        type(connection)._wait_for = wait_for
        second = ports.submit(add, 2)
        third = ports.submit(add, 3)
        say([lost, first.id, second.id, third.id, second.result(60), len(ports.jobs.list())])
    """
    assert at_home(server, code) == [["submit"], "server1:1", "server1:2", "server1:3", 3, 3]


def test_a_host_without_ports_says_so_and_nothing_is_submitted(root_site: NamespaceSite, laptop: Site) -> None:
    code = """
    with ports.host("server2"):
        say(error(ports.submit, add, 1))
    """
    told = at_home(laptop, code)
    assert told["type"] == "FarSideError"
    assert told["text"].startswith(
        "server2: no compute resource runs there, and none can be started: ports is not inst"
    )


def test_what_a_hostile_server_pickles_is_not_loaded_at_home(server: Site) -> None:
    code = """
    import pathlib
    mark = pathlib.Path.home() / "run-by-the-server"
    def bomb():
        class Bomb:
            def __reduce__(self):
                return pathlib.Path.touch, (mark,)
        return Bomb()
    def fail():
        class Error(Exception):
            def __reduce__(self):
                return pathlib.Path.touch, (mark,)
        raise Error("boom")
    with ports.host("server1"):
        jobs = [ports.submit(bomb), ports.submit(fail)]
        found = [error(job.result, 60) for job in jobs] + [mark.exists()]
        for job in ports.jobs.list():
            found.append(error(job.result, 60)["type"])
        found.append(mark.exists())
    with ports.host("server1", trust=True):
        found += [error(ports.jobs.get("1").result, 60), mark.exists()]
    say(found)
    """
    result, failed, at_first, error_type, result_type, still, _, trusted = at_home(server, code)
    assert result["type"] == result_type == "UntrustedError" and "trust=True" in result["text"]
    assert failed["type"] == error_type == "JobError" and "Error: boom" in failed["text"]
    assert (at_first, still, trusted) == (False, False, True)
