"""The main job: a cluster and notebooks on shared servers, open at home through a jump host that forbids all else."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports.state.waiting import wait_until
from tests.acceptance.conftest import AtWork, without_token
from tests.lab.laptop import without_waits
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running

pytestmark = pytest.mark.timeout(120)

SHOWN = {("server1", "cluster", "main"), ("server1", "notebook", "lab"), ("server2", "notebook", "analysis")}
PAGE = ["/usr/bin/python3", "-m", "http.server", "--bind", "127.0.0.1"]


@pytest.fixture
def server_of_pages(at_work: AtWork) -> Iterator[None]:
    """A page of alice's on port 6006 of server1, and one of bob's on port 6007."""
    started: list[Running] = []
    for user, port in (("alice", 6006), ("bob", 6007)):
        at_work.site.host("server1").write("~/pages/index.html", f"page of {user}", user=user)
        started.append(at_work.site.popen("server1", [*PAGE, str(port)], user=user, cwd=f"/home/{user}/pages"))
    wait_until(lambda: len(listening(at_work, "server1", {"6006", "6007"})) == 2 or None, timeout=10, what="the pages")
    yield
    for one in started:
        one.kill()
        one.communicate()


def listening(work: AtWork, host: str, ports: set[str]) -> set[str]:
    """Return which addresses of `host` listen on one of `ports`."""
    return {one.where for one in work.site.host(host).listeners() if one.where.rpartition(":")[2] in ports}


def test_a_listing_covers_two_servers_of_which_one_has_no_ports(at_work: AtWork) -> None:
    rows = at_work.json("list", "server1", "server2")
    assert {(row["host"], row["kind"], row["name"]) for row in rows} == SHOWN
    assert {row["state"] for row in rows} == {"running"}
    assert not any("token" in key for row in rows for key in row)
    table = at_work.type("list", "server1", "server2").stdout
    assert "main" in table
    assert "analysis" in table
    assert "127.0.0.1:8888" in table


def test_links_open_through_the_jump_host_and_ctrl_c_frees_their_ports(at_work: AtWork) -> None:
    own = at_work.site.popen("laptop", ["ssh", "-N", "server1"])  # a connection of her own, which nobody may touch
    running, rows = at_work.open("server1", "server2")
    try:
        assert {(row["host"], row["kind"], row["name"]) for row in rows} == SHOWN
        assert {row["state"] for row in rows} == {"open"}
        links = {row["kind"]: row["local_url"] for row in rows if row["host"] == "server1"}
        by_hand = next(row["local_url"] for row in rows if row["host"] == "server2")
        (status, page), *notebooks = at_work.fetch(links["cluster"], links["notebook"], by_hand)
        assert (status, "Bokeh" in page) == (200, True)
        assert [(code, "JupyterLab" in text) for code, text in notebooks] == [(200, True)] * 2
        contents = [without_token(link).replace("/lab", "/api/contents") for link in (links["notebook"], by_hand)]
        tokens = [link.partition("?")[2] for link in (links["notebook"], by_hand)]
        assert [code for code, _ in at_work.fetch(*contents)] == [403, 403]
        asked = [f"{url}?{token}" for url, token in zip(contents, tokens, strict=True)]
        (code, _), (other, files) = at_work.fetch(*asked)
        assert (code, other, "data.csv" in files) == (200, 200, True)
        ports = {row["local_port"] for row in rows}
        assert len(at_work.listening(ports)) == 6  # 127.0.0.1 and ::1
    finally:
        running.send_signal(signal.SIGINT)
    wait_until(lambda: not at_work.listening(ports) or None, timeout=1, what="the freeing of the ports", every=0.02)
    _, stderr = running.communicate(timeout=10)
    assert running.returncode == 0
    assert "Traceback" not in stderr
    assert own.poll() is None, own.communicate()
    own.terminate()
    own.communicate()


def test_background_tunnels_keep_their_links_and_are_listed_and_closed(at_work: AtWork) -> None:
    first = at_work.json("open", "server1", "server2", "--background")
    listed = at_work.json("tunnel", "list")
    links = {row["local_url"] for row in first}
    assert (len(links), {row["local_url"] for row in listed}) == (3, links)
    assert {row["state"] for row in listed} == {"open"}
    twice = at_work.json("open", "server1", "server2", "--background")
    assert {row["local_url"]: row["note"] for row in twice} == dict.fromkeys(links, "already open")
    assert len(at_work.json("tunnel", "list")) == 3
    closed = at_work.json("tunnel", "close", "server1:main")
    assert [(row["name"], row["state"]) for row in closed] == [("main", "closed")]
    assert {row["name"] for row in at_work.json("tunnel", "list")} == {"lab", "analysis"}
    assert len(at_work.json("tunnel", "close", "--all")) == 2
    assert at_work.json("tunnel", "list") == []
    again = at_work.json("open", "server1-old", "server2", "--background")  # the older form: ProxyCommand ssh -W
    assert {row["local_url"] for row in again} == links
    assert [code for code, _ in at_work.fetch(*sorted(links))] == [200, 200, 200]
    at_work.json("tunnel", "close", "--all")


def test_tunnels_of_a_killed_process_are_pruned_by_their_names(at_work: AtWork) -> None:
    at_work.json("open", "server1", "--background")
    keeper = at_work.json("tunnel", "list")[0]["pid"]
    at_work.site.run("laptop", ["kill", "-9", str(keeper)], check=True)
    killed = {"stopped", "unknown"}
    wait_until(
        lambda: {row["state"] for row in at_work.json("tunnel", "list")} <= killed or None, timeout=15, what="its end"
    )
    pruned = [(row["kind"], row["name"], row["state"]) for row in at_work.json("prune") if row["kind"] == "tunnel"]
    assert sorted(pruned) == [("tunnel", "server1:lab", "removed"), ("tunnel", "server1:main", "removed")]
    assert at_work.json("tunnel", "list") == []


def test_a_host_on_which_nothing_runs_is_named_in_a_listing_of_several(at_work: AtWork) -> None:
    shown = at_work.type("list", "login", "server1")
    assert (shown.returncode, without_waits(shown.stderr)) == (0, "nothing of yours listens on login\n")
    assert "login" not in shown.stdout and "main" in shown.stdout
    row = at_work.json("list", "login", "server1")[0]
    assert row == {"host": "login", "kind": "host", "name": None, "state": "nothing", "url": None}
    alone = at_work.type("list", "login")
    assert (alone.returncode, alone.stdout) == (0, "")
    assert without_waits(alone.stderr) == "nothing of yours listens on login\n"


def test_a_host_that_is_down_costs_the_good_one_nothing(at_work: AtWork) -> None:
    limit = {"DASK_PORTS__SSH__CONNECT_TIMEOUT": "3"}
    site = at_work.site
    at_work.hang_up()
    config = site.host("laptop").path("~/.ssh/config")
    before = config.read_text()
    config.write_text(before + "Host away\n    HostName 10.77.1.99\n")
    try:
        begun = time.monotonic()
        rows = at_work.json("list", "away", "server1", code=5, env=limit)
        assert time.monotonic() - begun < 3 + 2.5
        assert [row["host"] for row in rows] == ["away", "server1", "server1"]
        assert "does not answer" in rows[0]["error"]
        running = site.popen("laptop", at_work.command("list", "away", "server1"), env=limit)
        assert running.stdout is not None
        lines = [running.stdout.readline() for _ in range(3)]
        assert running.poll() is None, "the good host's rows come before the other is given up"
        assert ["main" in line for line in lines] == [False, True, False]
        rest, stderr = running.communicate(timeout=10)
        waiting, failed = stderr.splitlines()
        assert (running.returncode, rest, waiting) == (5, "", "waiting for away")
        assert failed.startswith("ports: away: ") and "does not answer" in failed
        rows = at_work.json("open", "away", "server1", "--background", code=5, env=limit)
        assert sorted(row["state"] for row in rows) == ["error", "open", "open"]
    finally:
        config.write_text(before)
    at_work.json("tunnel", "close", "--all")


@pytest.mark.usefixtures("server_of_pages")
def test_a_target_is_a_name_or_port_and_another_users_needs_owner(at_work: AtWork) -> None:
    assert [row["name"] for row in at_work.json("open", "server1:lab", "--background")] == ["lab"]
    mine = at_work.json("open", "server1:6006", "--background")[0]
    refused = at_work.type("open", "server1:6007")
    assert refused.returncode == 4
    assert "belongs to bob, not to you; pass --owner bob if you trust them" in refused.stderr
    assert refused.stdout == "", "a target that fails is no result"
    theirs = at_work.json("open", "server1:6007", "--owner", "bob", "--background")[0]
    assert "belongs to bob" in theirs["note"]
    assert at_work.fetch(mine["local_url"], theirs["local_url"]) == [(200, "page of alice"), (200, "page of bob")]
    assert len(at_work.json("tunnel", "close", "--all")) == 3


def test_a_cluster_survives_kernel_terminal_and_connection(at_work: AtWork) -> None:
    code = """
import os, signal, sys
from jupyter_client.manager import start_new_kernel
manager, kernel = start_new_kernel()
reply = kernel.execute_interactive("import ports; client = ports.client('kept', n_workers=1)", timeout=60)
assert reply["content"]["status"] == "ok", reply
manager.provisioner.process.send_signal(signal.SIGKILL)
kernel.stop_channels()
manager.cleanup_resources()
"""
    at_work.python("server1", code)
    begun = at_work.json("cluster", "show", "kept", "-H", "server1")
    hold = "import ports, time; c = ports.client('kept'); print('connected', flush=True); time.sleep(600)"
    words = f'{at_work.site.python} -c "{hold}"'
    connection = at_work.site.popen("laptop", ["ssh", "-tt", "server1", words])
    assert connection.stdout is not None
    assert connection.stdout.readline().strip() == "connected"
    connection.kill()
    connection.communicate()
    gone = lambda: not any("time.sleep(600)" in str(one) for one in at_work.site.host("server1").processes()) or None  # noqa: E731
    wait_until(gone, timeout=15, what="the end of what the terminal ran")
    found = at_work.json("cluster", "show", "kept", "-H", "server1")
    assert (found["state"], found["pid"], found["n_workers"]) == ("running", begun["pid"], 1)
    at_work.json("cluster", "stop", "kept", "-H", "server1")


def test_two_scripts_share_a_cluster_and_print_what_to_type_at_home(at_work: AtWork) -> None:
    code = """
import json, ports
from ports.server_helpers import print_commands
client = ports.client(reuse="any")
print(json.dumps([client.scheduler.address, client.submit(sum, [1, 2]).result()]))
ports.show(client)
print_commands(client.cluster, local_port=8880)
"""
    answers = [at_work.python("server1", code).splitlines() for _ in range(2)]
    first, again = (json.loads(answer[0]) for answer in answers)
    assert first == again
    assert first[1] == 3
    shown = "\n".join(answers[0][1:])
    assert "ports open server1:main\n" in shown
    assert "ports open server1:main --local-port 8880\n" in shown
    assert "http://localhost:8880/status" in shown
    link = next(word for word in shown.split() if word.startswith("http://localhost:2") or "localhost:3" in word)
    rows = at_work.json("open", "server1:main", "--background")
    assert rows[0]["local_url"] == link
    at_work.json("tunnel", "close", "--all")
    assert at_work.json("open", "server1:main", "--local-port", "8880", "--background")[0]["local_port"] == 8880
    assert at_work.fetch("http://localhost:8880/status")[0][0] == 200
    at_work.json("tunnel", "close", "--all")


def test_the_command_of_the_older_package_opens_the_hosts_of_the_settings(at_work: AtWork) -> None:
    at_work.site.host("laptop").write(
        "~/.config/dask/ports.yaml", "ports:\n  hosts:\n    server1: {}\n    server2: {}\n"
    )
    command = str(Path(at_work.site.python).with_name("jupyter_forwarding"))
    running = at_work.site.popen("laptop", [command, "--json"])
    assert running.stdout is not None
    rows = json.loads(running.stdout.readline())
    assert {(row["host"], row["kind"], row["name"]) for row in rows} == SHOWN
    running.send_signal(signal.SIGINT)
    running.communicate(timeout=10)
    at_work.site.host("laptop").path("~/.config/dask/ports.yaml").unlink()


def test_another_user_sees_ports_and_names_only_and_no_token(at_work: AtWork, root_site: NamespaceSite) -> None:
    alice = {row["name"]: row for row in at_work.json("list", "server1")}
    opened = at_work.json("open", "server1", "--background")
    token = next(row["local_url"].partition("token=")[2] for row in opened if row["kind"] == "notebook")
    assert at_work.json("list", "server1", user="bob") == []
    seen = at_work.json("list", "server1", "--all", user="bob")
    assert {row["owner"] for row in seen} == {"alice", "root"}
    assert alice["lab"]["port"] in {row["port"] for row in seen}
    assert not any(row[key] for row in seen for key in ("name", "pid", "path", "directory", "url", "started_at"))
    assert "alice" in at_work.type("list", "server1", "--all", user="bob").stdout
    for host in ("server1", "laptop"):
        for argv in (["ps", "-eww", "-o", "args"], ["sh", "-c", "cat /proc/*/cmdline /proc/*/environ 2>/dev/null"]):
            done = root_site.run(host, argv, user="bob")
            assert done.stdout
            assert token not in done.stdout
        places = f"/tmp/ports-{root_site.account().uid}", "/home/alice/.local/state/ports"
        for place in places:
            done = root_site.run(host, ["ls", place], user="bob")
            assert (done.stdout, "Permission denied" in done.stderr) == ("", True)
    socket = alice["main"]["path"]
    connect = f"import socket; socket.socket(socket.AF_UNIX).connect({socket!r})"
    tried = root_site.run("server1", [root_site.python, "-c", connect], user="bob")
    assert "PermissionError" in tried.stderr
    at_work.json("tunnel", "close", "--all")
    at_work.hang_up()  # a link of alice's is refused while bob is on the laptop


def test_a_stopped_cluster_is_not_opened_and_what_runs_is_named(at_work: AtWork) -> None:
    started = at_work.json("cluster", "start", "brief", "--n-workers", "0", "-H", "server1")
    assert started["state"] == "running"
    at_work.json("open", "server1:brief", "--background")
    at_work.json("cluster", "stop", "brief", "-H", "server1")
    states = lambda: [row["state"] for row in at_work.json("tunnel", "list")] == ["ended"] or None  # noqa: E731
    wait_until(states, timeout=15, what="the state 'ended'")
    again = at_work.type("open", "server1:brief")
    assert again.returncode == 3
    said = without_waits(again.stderr)
    assert said.startswith("ports: ") and said.count("\n") == 1, again.stderr
    assert ("there are lab, main" in again.stderr, again.stdout) == (True, "")
    at_work.json("tunnel", "close", "--all")
