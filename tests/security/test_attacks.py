"""What bob gets of alice's cluster, dashboard, notebook server and kernels: nothing; of a default one, everything."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from ports.state.waiting import wait_until
from tests.lab.disk import address_of
from tests.security.conftest import CLUSTER, SECRET, TOKEN, AtWork, Scene, end, files, listening, tell, token_of

pytestmark = [pytest.mark.ci, pytest.mark.timeout(180)]

FETCH = """
import sys, urllib.request
from http.cookiejar import CookieJar
opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(CookieJar()))
print(opener.open(sys.argv[1], timeout=5).status)
"""
# Panes have the limits of their tmux server.
UNLIMITED_TMUX = """
import psutil
named = [one for one in psutil.process_iter() if one.name().startswith("tmux")]
servers = [one for one in named if "ports-" in " ".join(one.cmdline())]
for one in servers:
    one.rlimit(psutil.RLIMIT_CORE, (psutil.RLIM_INFINITY,) * 2)
print(len(servers))
"""


@pytest.mark.quick
def test_bob_runs_no_code_through_scheduler_worker_or_nanny(alice: AtWork, control: AtWork) -> None:
    uid = alice.site.account("alice").uid
    assert control.bob("code")["fell"] == [f"{role} as {uid}" for role in ("Nanny", "Scheduler", "Worker")]
    found = alice.bob("code")
    assert found["fell"] == [] and found["tried"] > 3
    assert found["ways"] == 3  # plainly, without a certificate, with bob's own


def test_bob_reads_no_page_and_gives_no_order(alice: AtWork, control: AtWork) -> None:
    routes = "\n".join(control.bob("routes")["fell"])
    fell = set(control.bob("pages", input=routes)["fell"])
    assert len(fell) > 25
    assert {"/status", "/info/main/workers.html", "/json/counts.json", "websocket"} <= fell
    assert "POST /api/v1/retire_workers" in fell
    found = alice.bob("pages", input=routes)
    assert found["fell"] == [] and found["ways"] == 3


def test_a_dashboard_on_a_port_asks_bob_for_the_token(alice: AtWork) -> None:
    if alice.mode == "sockets":
        pytest.skip("it has no dashboard on a port")
    before = listening(alice)
    alice.ports("cluster", "start", "gated", "--n-workers", "0", "--security", "tls", "--dashboard", "tcp")
    assert len(listening(alice) - before) == 2
    assert alice.bob("pages")["fell"] == []
    alice.ports("cluster", "stop", "gated")


@contextlib.contextmanager
def held_by_bob(scene: Scene, count: int, *ports: str) -> Iterator[dict[str, Any]]:
    """Let bob hold connections to ports; what he got is in the yielded dictionary in the end."""
    bob, found = scene.runs(*scene.attack("hold", str(count), *ports), user="bob"), dict[str, Any]()
    assert tell(bob) == ["holding"]
    try:
        yield found
    finally:
        out, errors = bob.communicate(timeout=30)
        assert bob.returncode == 0, errors
        found.update(json.loads(out.splitlines()[-1]))


ASK = """
import signal, sys, distributed
signal.alarm(8)  # Dask waits for an answer longer than for the time that it is given
distributed.Client(sys.argv[1], timeout=4)
print("served")
"""


def test_bob_s_connections_keep_alice_out_of_a_default_cluster(control: AtWork) -> None:
    few = shlex.join([control.python, "-c", CLUSTER, json.dumps({"scheduler_port": 23456, "dashboard_address": None})])
    cluster = control.runs("sh", "-c", f"ulimit -Sn 256; exec {few}")
    [address] = map(json.loads, tell(cluster))
    try:
        assert control.alice(control.python, "-c", ASK, address).stdout == "served\n"
        with held_by_bob(control, 300, "23456") as found:
            assert control.alice(control.python, "-c", ASK, address).stdout == ""
        assert found["fell"] == ["23456"]
    finally:
        end(cluster)


def test_bob_s_connections_are_closed_and_alice_s_served_through_ssh_too(alice: AtWork) -> None:
    if alice.mode == "sockets":
        pytest.skip("it has no port")
    before = listening(alice)
    alice.ports("cluster", "start", "gated", "--n-workers", "1", "--security", "tls", "--dashboard", "tcp")
    ports = sorted(listening(alice) - before)
    assert len(ports) == 4  # scheduler, nanny, worker, dashboard
    shown = alice.ports("cluster", "show", "gated")
    link, path = urlsplit(shown["tcp_link"]), shown["url"].removeprefix("unix:")
    ways = ["-L", f"9000:127.0.0.1:{link.port}", "-L", f"9001:{path}"]
    forward = alice.site.popen("laptop", ["ssh", "-N", *ways, "server1"])
    with held_by_bob(alice, 1100, *ports) as found:
        job = "import ports; print(ports.client('gated').submit(sum, [40, 2]).result(timeout=20))"
        assert alice.alice(alice.python, "-c", job).stdout == "42\n"
        for page in (f"http://127.0.0.1:9000/status?{link.query}", "http://127.0.0.1:9001/status"):
            get = partial(alice.site.run, "laptop", ["python3", "-c", FETCH, page])
            assert wait_until(lambda get=get: get().stdout or None, timeout=20, what="the forward") == "200\n"
    assert found["fell"] == [] and found["tried"] > 4000
    assert alice.path(alice.ports("cluster", "list")[0]["log"]).stat().st_size < 100_000
    forward.kill()
    forward.wait(10)
    alice.ports("cluster", "stop", "gated")


def test_no_tcp_port_is_open_where_the_cluster_is_on_sockets(alice: AtWork, control: AtWork) -> None:
    assert len(listening(control)) > 4
    [server] = alice.ports("notebook", "list")
    others = listening(alice) - {str(server["port"])}
    # one port of the kernel's, where ZeroMQ collects what forked processes print: it tells nothing, and the debugger's,
    # which would run code, is kept off; with certificates also those of scheduler, nanny, worker
    assert len(others) == (1 if alice.mode == "sockets" else 4)


def test_the_certificate_of_an_old_cluster_opens_nothing(alice: AtWork) -> None:
    if alice.mode == "sockets":
        pytest.skip("it has no certificate")
    [current] = files(alice, "clusters/main/credentials")
    alice.ports("cluster", "start", "old", "--n-workers", "0")
    [old] = files(alice, "clusters/old/credentials")
    stolen = alice.path("/tmp/stolen.pem")
    try:
        for which, reached in ((old, False), (current, True)):
            stolen.write_bytes(which.read_bytes())
            stolen.chmod(0o644)
            if which == old:
                alice.ports("cluster", "stop", "old")
            assert alice.bob("replay", "/tmp/stolen.pem")["fell"] == []
            # bob's connections are closed whatever he shows; hers are not, and here the certificate alone decides
            fell = [one for one in alice.bob("replay", "/tmp/stolen.pem", user="alice")["fell"] if " as " in one]
            assert any("Scheduler as " in one for one in fell) is reached and bool(fell) is reached, fell
    finally:
        stolen.unlink()


def heard(scene: AtWork) -> list[str]:
    """Return what bob heard while alice's kernel printed the secret."""
    listener = scene.runs(*scene.attack("eavesdrop", SECRET), user="bob")
    assert tell(listener) == ["listening"]
    for _ in range(5):
        assert tell(scene.kernel, "import os, time; print(os.environ['A_SECRET']); time.sleep(0.2)") == ["ready"]
    out, errors = listener.communicate(timeout=20)
    assert listener.returncode == 0, errors
    return list(json.loads(out.splitlines()[-1])["fell"])


def test_bob_hears_nothing_of_what_kernels_run_and_print(alice: AtWork, control: AtWork) -> None:
    assert heard(control) == [SECRET]
    assert heard(alice) == []


def test_bob_runs_no_code_through_the_debugger_that_alice_used(alice: AtWork, control: AtWork) -> None:
    """While she debugs he is turned away; what listens for debuggers stays when she has stopped."""
    if alice.mode == "tls":
        pytest.skip("of a notebook server, which has no such mode")
    uid = alice.site.account("alice").uid
    *_, stopped = debugged(control)
    try:
        assert stopped["success"]
        assert control.bob("debug")["fell"] == [f"code as {uid}"]
    finally:
        tell(control.kernel, "restart")
    info, *refused = debugged(alice)
    assert info["success"]
    found = alice.bob("debug")
    assert found["fell"] == [] and found["tried"] > 1
    for answer in refused:
        assert not answer["success"] and "--debugger` start a server with it" in answer["message"]


def debugged(scene: AtWork) -> list[dict[str, Any]]:
    """Switch the debugger of alice's kernel on and off, and return the answers."""
    answers, ready = tell(scene.kernel, "debug", count=2)
    assert ready == "ready"
    return list(json.loads(answers))


def test_bob_finds_no_secret_in_ps_proc_tmux_logs_or_files(alice: AtWork, control: AtWork) -> None:
    fell = control.bob("look", input=TOKEN)["fell"]
    assert {f"{TOKEN} in {where}" for where in ("ps", "/proc/*/cmdline")} <= set(fell)
    markers = [token_of(alice), SECRET]
    for path in files(alice, "clusters/main/credentials"):
        markers.append(path.read_text().splitlines()[1])  # of the key
    with gated(alice) as tokens:
        found = alice.bob("look", input="\n".join([*markers, *tokens]))
    assert found["fell"] == [] and found["tried"] > 20


@contextlib.contextmanager
def gated(scene: Scene) -> Iterator[list[str]]:
    """Yield the token of one more cluster of alice's, whose dashboard is on a port; none where there are no ports."""
    if scene.mode == "sockets":
        yield []
        return
    scene.ports("cluster", "start", "gated", "--n-workers", "0", "--dashboard", "tcp")
    try:
        [token] = files(scene, "tokens/cluster-gated")
        yield [token.read_text().strip()]
    finally:
        scene.ports("cluster", "stop", "gated")


def test_what_bob_looks_for_is_there_for_alice(alice: AtWork) -> None:
    """The same attack by her own account falls: it is the account that keeps bob out, not his search."""
    fell = alice.bob("look", input=f"{token_of(alice)} {SECRET}", user="alice")["fell"]
    assert any("in files" in one for one in fell) and f"{SECRET} in /proc/*/environ" in fell


@pytest.mark.skipif(Path("/proc/sys/kernel/core_pattern").read_text()[:1] in "|/", reason="the kernel's own place")
def test_a_worker_that_crashes_writes_no_core_file(alice: AtWork) -> None:
    """Memory holds certificates and data; a core file lies where the job lies, which others may read."""
    place = "/home/alice/crash"

    def unlimited(*argv: str) -> str:
        code = f"mkdir -p {place}; cd {place}; ulimit -c unlimited; exec {shlex.join(argv)}"
        return alice.alice("sh", "-c", code).stdout

    def cores() -> list[Path]:
        return [*alice.path(place).glob("core*")]

    try:
        unlimited(alice.python, "-c", "import os; os.abort()")
        [control] = cores()
        control.unlink()
        assert alice.alice(alice.python, "-c", UNLIMITED_TMUX, check=True).stdout == "1\n"
        unlimited(alice.python, "-m", "ports", "cluster", "start", "crash", "--n-workers", "1")
        ask = "import os, ports; print(*ports.client('crash').run(os.getpid).values())"
        pid = unlimited(alice.python, "-c", ask).strip()
        alice.alice("kill", "-ABRT", pid, check=True)
        wait_until(lambda: alice.alice("kill", "-0", pid).returncode or None, timeout=20, what="end of the worker")
        assert cores() == []
    finally:
        alice.ports("cluster", "stop", "crash")
        alice.alice("rm", "-r", place)


def test_bob_does_not_join_tmux(alice: AtWork) -> None:
    assert alice.bob("join", user="alice")["fell"] == ["list-sessions", "new-window"]
    found = alice.bob("join")
    assert found["fell"] == [] and found["tried"] == 1


def test_from_another_machine_nothing_answers(alice: AtWork, control: AtWork) -> None:
    def from_login(scene: Scene, attack: str) -> list[str]:
        command = ["python3", *scene.attack(attack, address_of(scene.host), *sorted(listening(scene)))[1:]]
        done = scene.site.run("login", command, user="bob", timeout=120)
        assert done.returncode == 0, done.stderr
        return list(json.loads(done.stdout.splitlines()[-1])["fell"])

    assert "/status" in from_login(control, "pages")  # the dashboard of a default cluster
    assert "8787" in from_login(control, "knock")
    with gated(alice) as tokens:
        assert len(tokens) == (alice.mode == "tls")
        assert from_login(alice, "pages") == [] and from_login(alice, "knock") == []


def test_a_worker_s_directory_cannot_be_exchanged(alice: AtWork) -> None:
    [cluster] = alice.ports("cluster", "list")
    scratch = Path(cluster["scratch"])
    moved = ["mv", str(scratch), f"{scratch}-old"]
    assert alice.site.run(alice.host, moved, user="bob").returncode != 0
    assert alice.site.run(alice.host, ["ls", str(scratch)], user="bob").returncode != 0
    assert alice.path(str(scratch)).stat().st_mode & 0o077 == 0


def test_alice_is_told_what_of_hers_is_open(alice: AtWork, control: AtWork) -> None:
    """From the laptop, where she sees both servers; nothing of `ports` is on server2."""
    debugged(control)
    of_dask = {("dask-scheduler", "dask"), ("dask-scheduler", "network")}
    wanted = {*of_dask, ("notebook", "kernel"), ("debugpy", "debugger")}

    def told() -> dict[tuple[str, str, str], str] | None:
        done = alice.site.run(
            "laptop", [alice.python, "-m", "ports", "list", "server1", "server2", "--json"], timeout=60
        )
        exposed = {
            (row["host"], row["kind"], one["reason"]): one["way_out"]
            for row in json.loads(done.stdout)
            for one in row.get("exposed") or ()
        }
        return exposed if wanted <= {key[1:] for key in exposed} else None

    exposed = wait_until(told, timeout=40, what="each way in")  # a busy scheduler says late that it is one
    assert not [key for key in exposed if key[0] == "server1"]
    assert {key[1:] for key in exposed} == wanted
    assert exposed["server2", "debugpy", "debugger"].startswith("restart the kernel")
    assert "close it where it was started" in exposed["server2", "dask-scheduler", "dask"] and "ports.client()" in str(
        exposed
    )
    shown = alice.site.run("laptop", [alice.python, "-m", "ports", "list", "server2"], timeout=60)
    assert "anyone on this machine can run code as you" in shown.stdout
    assert "ports: warning: dask-scheduler 'dask-scheduler' on server2: anyone on this machine" in shown.stderr
    close = [alice.python, "-c", "from ports.hosts import openssh; openssh.close_all()"]
    alice.site.run("laptop", close, check=True)
    tell(control.kernel, "restart")
