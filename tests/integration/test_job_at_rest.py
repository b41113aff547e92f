"""The queue of a server on which no compute resource runs, from alice's laptop, through the jump host."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab import Site
from tests.lab.laptop import python

pytestmark = [pytest.mark.ci, pytest.mark.timeout(240)]

PRELUDE = """
import json, secrets, sys, time
import ports
from ports.errors import PortsError
from ports.jobs import _there
def say(document):
    print(json.dumps(document), flush=True)
def error(function, *arguments, **fields):
    try:
        return {"result": repr(function(*arguments, **fields))}
    except Exception as error:
        return {"type": type(error).__name__, "text": str(error)}
script = {"kind": "script", "name": "t", "needs": {"cpus": None}, "directory": "/", "script": {"argv": ["true"]}}
blob = {"argv": ["sh", "-c", "echo hello"], "directory": "/", "umask": 18, "environ": None, "log_bytes": 10**6}
def submit(connection, key=None):
    fields = {"key": key or secrets.token_hex(16), "submission": script, "count": None}
    return connection.ask("submit", [json.dumps(blob).encode()], **fields).header["id"]
"""


def at_home(site: Site, code: str) -> Any:
    return python(site, code, prelude=PRELUDE, timeout=120)


@pytest.fixture
def servers(laptop: Site) -> Iterator[Site]:
    """The laptop; what its jobs leave on server1 and server2 goes with the test."""
    yield laptop
    laptop.run("laptop", [laptop.python, "-m", "ports", "resource", "stop", "-H", "server1", "--now"], timeout=120)
    for host in ("server1", "server2"):
        laptop.run(host, ["sh", "-c", "rm -rf ~/.local/state/ports/hosts/*/jobs /tmp/ports-$(id -u)/leases"])


def test_a_host_with_python3_only_keeps_jobs_until_ports_is_there(servers: Site) -> None:
    code = """
    connection = _there.connect("server2", at_rest=True)
    found = [connection.is_at_rest, connection.why_not, connection.ask("list").header["rows"]]
    key = secrets.token_hex(16)
    first = [submit(connection, key), submit(connection), submit(connection)]
    connection.close()
    again = _there.connect("server2", start=False, at_rest=True)
    first.append(submit(again, key))
    cancelled = again.ask("cancel", ids=["2"]).header["cancelled"]
    rows = [[row["id"], row["state"], row.get("why")] for row in again.ask("list").header["rows"]]
    result = again.ask("result", id="2", wait=None).header["state"]
    wrong = error(again.ask, "show", id="9")
    status = again.ask("disk.status").header
    read = again.ask("disk.read", path="work/1/stdout").header["missing"]
    say([found, first, cancelled, rows, result, wrong, status["has_ports"], status["n_left"], read])
    """
    found, ids, cancelled, rows, result, wrong, has_ports, n_left, read = at_home(servers, code)
    assert found[0] is True and "ports is not inst" in found[1] and found[2] == []
    assert ids == ["1", "2", "3", "1"] and cancelled == ["2"] and result == "cancelled"
    waits = "no compute resource runs here; `ports resource start` goes on"
    assert rows == [["3", "pending", waits], ["2", "cancelled", None], ["1", "pending", waits]]
    assert wrong == {"type": "NotFoundError", "text": "no job '9'; `ports job list` shows what there is"}
    assert (has_ports, n_left, read) == (False, 4, True)


def test_a_session_goes_on_when_a_resource_starts_there(servers: Site) -> None:
    code = """
    import threading
    rest = _there.connect("server1", start=False, at_rest=True)
    ids = [submit(rest), submit(rest)]
    rest.ask("cancel", ids=[ids[1]])
    waited = []
    thread = threading.Thread(target=lambda: waited.append(rest.ask("result", id=ids[0], wait=None).header["state"]))
    thread.start()
    before = [row["state"] for row in rest.ask("list").header["rows"]]
    started = _there.connect("server1", at_rest=True)
    said = [started.is_at_rest, started.why_not, started.resource["protocol"]]
    thread.join(60)
    states = [rest.ask("show", id=one).header["row"]["state"] for one in ids]
    read = rest.ask("disk.read", path="work/" + ids[0] + "/stdout")
    files = rest.ask("disk.list", id=ids[0]).header["files"]
    tail = rest.ask("disk.read", path="work/" + ids[0] + "/stdout", offset=-6).blobs[0].decode()
    out = error(rest.ask, "disk.read", path="work/" + ids[0] + "/../../owner.json")["text"]
    say([before, said, waited, states, read.header["head"][:2], tail, sorted(one[0] for one in files), out])
    """
    before, said, waited, states, head, tail, files, out = at_home(servers, code)
    assert before == ["cancelled", "pending"] and said == [False, None, 1]
    assert waited == ["finished"] and states == ["finished", "cancelled"]
    assert head == "20" and tail == "hello\n" and {"exit.json", "stdout"} <= set(files)
    assert "is no path below the directory of jobs" in out


def test_commands_work_on_a_host_with_python3_only(servers: Site) -> None:
    def ports(*words: str) -> Any:
        return servers.run("laptop", [servers.python, "-m", "ports", *words], timeout=120)

    submitted = [ports("job", "submit", "-H", "server2", "--name", name, "--", "true") for name in ("one", "two")]
    assert [done.stdout for done in submitted] == ["server2:1\n", "server2:2\n"], submitted
    shown = ports("job", "why", "server2:1")
    assert "ports resource start" in " ".join((shown.stdout + shown.stderr).split())
    assert ports("job", "wait", "--within", "1", "server2:1").returncode == 6
    cancelled = ports("job", "cancel", "server2:1")
    assert cancelled.returncode == 0 and "server2:1: cancelled" in cancelled.stdout, cancelled
    assert ports("job", "wait", "server2:1").returncode == 8
    rows = json.loads(ports("job", "list", "server2", "--state", "cancelled", "--json").stdout)
    assert [(row["id"], row["name"]) for row in rows] == [("server2:1", "one")]
    again = ports("job", "rerun", "server2:1")
    assert again.stdout == "server2:3\n", again
    pruned = ports("job", "prune", "-H", "server2", "--older", "0")
    assert (pruned.returncode, pruned.stdout) == (0, "nothing to remove\n"), pruned
