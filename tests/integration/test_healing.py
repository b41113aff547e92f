"""Links heal: the way is cut, stopped, killed or closed by a login, and afterwards the same link leads there again.

What takes minutes is in tests/acceptance/test_faults.py.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import Running
from tests.lab.traffic import Journey, Traffic, at_once, soon, stale

pytestmark = [pytest.mark.ci, pytest.mark.timeout(150)]


TAKE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
held = socket.socket(family)
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
if family == socket.AF_INET6:
    held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
try:
    held.bind((sys.argv[1], int(sys.argv[2])))
    held.listen()
    print("held", flush=True)
except OSError as error:
    print(error.strerror, flush=True)
sys.stdin.read()
"""
# Sets the wall clock of one process ahead; its monotonic clock goes on, which stands still while a machine sleeps.
# Not libfaketime: under it, what waits for a monotonic time fails (0.9.10, clock_nanosleep with TIMER_ABSTIME).
WALL_CLOCK = """
import time
of_the_machine = time.time
def ahead():
    with open("{path}") as file:
        return float(file.read() or 0)
time.time = lambda: of_the_machine() + ahead()
"""


@pytest.fixture
def journey(site: Site, fresh_home: Site, nothing_left: LeakCheck) -> Iterator[Journey]:
    """Alice's laptop; what she opened is closed with the test."""
    for pattern in ("file */ssh/*.log", "file */logins/*", "file */tunnels/forward-methods.json"):
        nothing_left.allow(pattern)
    made = Journey(site)
    yield made
    made.end()


def until_answered(use: Traffic, since: float) -> float:
    """Wait until the service answers, and return how long after `since` that was."""
    after: float = wait_until(lambda: use.is_answered(since), timeout=40, what="an answer on the link")
    wait_until(lambda: use.is_shown("open"), timeout=stale(), what="the state 'open'")
    return after


def until_shown(use: Traffic, *wanted: str) -> float:
    """Wait until one of these states is what is shown, and return the moment."""
    return wait_until(lambda: use.is_shown(*wanted), timeout=stale() + 10, what=f"the state {' or '.join(wanted)}")


def send(number: int, pids: list[int]) -> None:
    """Send a signal to processes of the lab, to those that are still there."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def take(site: Site, address: str, port: int, *, user: str | None = None) -> tuple[Running, str]:
    """Try to listen on a port of the laptop; return what did, until its input ends, and what came of it."""
    argv = ["/usr/bin/python3", "-c", TAKE, address, str(port)]
    running = site.popen("laptop", argv, user=user, stdin=subprocess.PIPE)
    assert running.stdout is not None
    return running, running.stdout.readline().strip()


def test_a_cut_shows_a_page_and_the_same_link_recovers_after_it(root_site: NamespaceSite, journey: Journey) -> None:
    _, port = journey.serve("server1")
    use, login = journey.use(journey.open(f"server1:{port}")[0]["local_url"]), root_site.host("login")
    use.tell("start", "websocket")
    use.tell("start", "download", 12)
    assert use.tell("keep", "idle")[2] == 200
    before = journey.logins()
    wait_until(lambda: use.seen().messages[0]["echoed"] or None, timeout=10, what="an echo")

    login.cut()
    time.sleep(1)
    login.mend()
    mended = time.time()
    assert until_answered(use, mended) < soon()
    echo = f"an echo after the cut of 1 s, at {mended}"
    wait_until(lambda: (use.seen().messages[0]["last"] > mended) or None, timeout=20, what=echo)
    assert journey.logins() == before

    use.tell("start", "under_way", "never")
    cut = time.time()
    login.cut()
    down = until_shown(use, "down")
    idle, new = use.tell("ask", "idle"), use.tell("get")
    assert (idle[2], new[2]) == (503, 503)
    assert "The connection to server1 is down" in new[3]
    assert max(idle[1], new[1]) < at_once()
    begun, took, *answer = wait_until(lambda: [*use.seen().asked, None][0], timeout=10, what="what was under way")
    assert answer[0] == 503 and begun + took < down + at_once()
    assert use.tell("many", 200)[2:] == [["503"], 200]
    time.sleep(max(0.0, cut + 5 - time.time()))
    login.mend()
    mended = time.time()
    assert until_answered(use, mended) < soon()
    wait_until(lambda: use.seen().downloads[0].get("ended"), timeout=60, what="the end of the download")
    assert use.tell("many", 200)[2:] == [["200"], 200]
    seen = use.end()
    assert seen.downloads[0]["whole"], seen.downloads
    assert seen.slowest(down, mended) < at_once()
    assert seen.statuses(0, down) <= {200, 503}
    assert {name: count - before[name] for name, count in journey.logins().items()} == {
        **before,
        "login": 1,
        "server1": 1,
        "laptop": 0,
        "server2": 0,
    }


def test_when_the_far_sshd_hangs_a_new_connection_is_made_beside_it(journey: Journey) -> None:
    _, port = journey.serve("server1")
    use = journey.use(journey.open(f"server1:{port}")[0]["local_url"])
    until_shown(use, "open")
    stopped = journey.sessions("server1")
    assert stopped
    begun = time.time()
    try:
        send(signal.SIGSTOP, stopped)
        wait_until(lambda: journey.tunnels()[0]["reconnects"] or None, timeout=30, what="the new connection")
        until_shown(use, "open")
        answered = use.tell("get")
    finally:
        send(signal.SIGCONT, stopped)
    assert (answered[2], answered[3]) == (200, f"page of {journey.site.users[0]} on server1")
    assert answered[1] < at_once()
    seen = use.end()
    assert seen.shown_after(begun, "down", "open") < stale()


@pytest.mark.quick
def test_a_connection_that_was_killed_is_made_anew_the_jump_host_s_too(journey: Journey) -> None:
    _, port = journey.serve("server1")
    rows = journey.open(f"server1:{port}")
    use = journey.use(rows[0]["local_url"])
    until_shown(use, "open")
    for number, alias in enumerate(("server1", "login"), start=1):
        killed = [one.pid for one in journey.masters() if one.command[-1] == alias]
        assert killed, [one.command for one in journey.masters()]
        send(signal.SIGKILL, killed)
        made = lambda number=number: journey.tunnels()[0]["reconnects"] == number or None  # noqa: E731
        wait_until(made, timeout=soon() + 5, what="the new connection")
        assert until_answered(use, time.time()) < soon()
    assert journey.tunnels()[0]["local_url"] == rows[0]["local_url"]
    assert use.tell("get")[2] == 200


def test_a_local_port_stays_ours_in_a_cut_and_a_killed_keeper_is_reported(
    journey: Journey,
) -> None:
    _, port = journey.serve("server1")
    row = journey.open(f"server1:{port}")[0]
    other = journey.site.users[-1]
    stopped = journey.sessions("server1") + journey.sessions("login")
    use = journey.use(row["local_url"])
    try:
        send(signal.SIGSTOP, stopped)
        until_shown(use, "down")
        for address in ("127.0.0.1", "::1"):
            thief, came = take(journey.site, address, row["local_port"], user=other)
            thief.communicate("")
            assert came == "Address already in use", address
    finally:
        send(signal.SIGCONT, stopped)
    assert until_answered(use, time.time()) < soon()

    keeper = journey.tunnels()[0]["pid"]
    for address in ("::1", "127.0.0.1"):
        journey.site.run("laptop", ["kill", "-9", str(keeper)], check=True)
        wait_until(
            lambda: not any(str(row["local_port"]) in one.where for one in listeners(journey)) or None,
            timeout=5,
            what="end of the keeper",
        )
        shown = journey.tunnels()[0]
        assert (shown["state"], shown["local_port"]) == ("stopped", row["local_port"])
        thief, came = take(journey.site, address, row["local_port"], user=other)
        assert came == "held"
        again = journey.open(f"server1:{port}", "--share")[0]
        assert again["local_port"] != row["local_port"]
        assert f"port {row['local_port']} is used by {other}" in again["note"]
        assert journey.fetch(again["local_url"]).startswith("page of")
        thief.communicate("")
        wait_until(
            lambda: journey.tunnels()[-1]["local_port"] == row["local_port"] or None, timeout=15, what="the usual port"
        )
        assert journey.fetch(row["local_url"]).startswith("page of")
        (shown,) = journey.tunnels()
        keeper = shown["pid"]


def listeners(journey: Journey) -> list[Any]:
    return list(journey.site.host("laptop").listeners())


def test_another_user_on_the_freed_port_is_never_reached_through_the_link(
    root_site: NamespaceSite, journey: Journey
) -> None:
    service, port = journey.serve("server1")
    plain = journey.start("laptop", ["ssh", "-N", "-L", f"127.0.0.1:18999:127.0.0.1:{port}", "server1"])
    url = journey.open(f"server1:{port}")[0]["local_url"]
    use = journey.use(url)
    assert use.tell("keep", "idle")[3] == "page of alice on server1"
    wait_until(lambda: journey.fetch("http://127.0.0.1:18999/") or None, timeout=10, what="ssh -L")
    service.kill()
    service.communicate()
    until_shown(use, "ended")
    journey.serve("server1", port=port, user="bob")
    taken = time.time()
    wait_until(
        lambda: any("bob" in str(row["error"]) for row in journey.tunnels()) or None, timeout=stale(), what="the reason"
    )
    assert "page of bob" not in use.tell("ask", "idle")[3]
    assert journey.fetch("http://127.0.0.1:18999/") == "page of bob on server1"  # what plain ssh does
    plain.terminate()
    plain.communicate()
    send(signal.SIGKILL, [one.pid for one in journey.masters() if one.command[-1] == "server1"])
    wait_until(lambda: len(journey.masters()) == 2 or None, timeout=20, what="the new connection")
    time.sleep(2)
    seen = use.end()
    assert seen.statuses(taken, time.time()) == {503}
    assert not [text for *_, text in seen.polls if "page of bob" in text]


def test_a_port_that_another_user_took_during_a_cut_is_not_reached(root_site: NamespaceSite, journey: Journey) -> None:
    service, port = journey.serve("server1")
    use = journey.use(journey.open(f"server1:{port}")[0]["local_url"])
    assert use.tell("keep", "idle")[2] == 200
    root_site.host("login").cut()
    until_shown(use, "down")
    service.kill()
    service.communicate()
    journey.serve("server1", port=port, user="bob")
    root_site.host("login").mend()
    until_shown(use, "ended")
    assert "bob" in journey.tunnels()[0]["error"]
    assert "page of bob" not in use.tell("ask", "idle")[3]
    assert "belongs to bob" in use.tell("get")[3]
    assert not [text for *_, text in use.end().polls if "page of bob" in text]


ATTEMPT = "Connection closed by authenticating"  # what sshd logs of a client that has no key to show


def test_where_a_person_must_answer_nothing_is_tried_until_a_login(journey: Journey) -> None:
    site, login = journey.site, journey.site.host("login")
    home = site.run("laptop", ["sh", "-c", "echo $HOME"]).stdout.strip()
    agent = site.popen("laptop", ["ssh-agent", "-D", "-a", f"{home}/agent.sock"])
    try:
        env = {"SSH_AUTH_SOCK": f"{home}/agent.sock", "SSH_ASKPASS": f"{home}/say", "SSH_ASKPASS_REQUIRE": "force"}
        site.host("laptop").write("~/say", "#!/bin/sh\necho correct horse\n", mode=0o700)
        key = f"{home}/.ssh/id_ed25519"
        site.run("laptop", ["ssh-keygen", "-q", "-p", "-P", "", "-N", "correct horse", "-f", key], check=True)
        wait_until(
            lambda: site.run("laptop", ["ssh-add", key], env=env).returncode == 0 or None, timeout=10, what="the agent"
        )
        unattended = {"SSH_AUTH_SOCK": env["SSH_AUTH_SOCK"]}
        _, port = journey.serve("server1")
        use = journey.use(journey.open(f"server1:{port}", env=unattended)[0]["local_url"])
        until_shown(use, "open")
        site.run("laptop", ["ssh-add", "-D"], env=env, check=True)
        killed = time.time()
        send(signal.SIGKILL, [one.pid for one in journey.masters()])
        assert until_shown(use, "needs login") - killed < soon()
        attempts = login.log().count(ATTEMPT)
        assert 1 <= attempts <= 2  # two masters were killed, and both can notice it in the same moment
        time.sleep(4)  # the pause between two attempts is 3 s at most
        assert login.log().count(ATTEMPT) == attempts
        (row,) = journey.tunnels()
        assert row["state"] == "needs login" and "ports login" in row["error"]
        answer = use.tell("get")
        assert answer[2] == 503 and answer[1] < at_once() and "`ports login" in answer[3]
        shown = journey.at_a_terminal("ports login server1", "Enter passphrase", "correct horse")
        assert "connected to server1" in shown, shown
        assert until_answered(use, time.time()) < soon()
    finally:
        # ssh-agent runs with a group of its own, so that it does not end with what started it
        found = [one.pid for one in site.host("laptop").processes() if one.command[0] == "ssh-agent"]
        send(signal.SIGKILL, found)
        agent.communicate(timeout=10)
        (site.host("laptop").path("~/agent.sock")).unlink(missing_ok=True)


def test_a_new_service_on_an_open_host_is_forwarded_shown_and_followed(journey: Journey) -> None:
    site = journey.site
    site.host("laptop").write("~/browser", '#!/bin/sh\nexec curl -s -o "$HOME/seen" -L "$1"\n', mode=0o755)
    home = site.run("laptop", ["sh", "-c", "echo $HOME"]).stdout.strip()
    told = {
        setting: Told(
            site, ["server1", f"server1:{journey.serve('server1')[1]}"], {"cluster": setting}, f"{home}/browser"
        )
        for setting in ("notify", "open", "silent", "ignore")
    }
    for one in told.values():
        wait_until(lambda one=one: one.has("open; Ctrl-C"), timeout=30, what="links")  # type: ignore[misc]
    start = ["cluster", "start", "main", "-H", "server1", "--n-workers", "1"]
    assert journey.ports(*start)["name"] == "main"
    begun = time.time()
    for setting in ("notify", "open"):
        wait_until(lambda one=told[setting]: one.has("cluster main"), timeout=20, what=setting)  # type: ignore[misc]
        # 3 s where the machine has nothing else to do
        assert told[setting].when("cluster main") - begun < stale()
    link = told["notify"].link("cluster main")
    assert "Dask" in journey.fetch(link)
    wait_until(lambda: site.host("laptop").path("~/seen").exists() or None, timeout=10, what="the browser")
    rows = [row for row in journey.tunnels() if row["name"] == "main"]
    assert sorted(row["state"] for row in rows) == 3 * ["open"]  # but not where it is ignored
    assert not told["silent"].has("main") and not told["ignore"].has("main")
    journey.ports("cluster", "stop", "main", "-H", "server1")
    wait_until(lambda: told["notify"].has("server1:main: it has ended"), timeout=20, what="the end to be told")
    assert "is not there" in journey.fetch(link)
    journey.ports(*start)
    wait_until(lambda: told["notify"].has("server1:main: it is back"), timeout=20, what="the return to be told")
    assert "Dask" in journey.fetch(link)
    journey.ports("cluster", "stop", "main", "-H", "server1")
    for one in told.values():
        one.end()


def test_after_a_sleep_of_eight_hours_a_link_is_there_at_once(
    journey: Journey,
) -> None:
    site = journey.site
    laptop = site.host("laptop")
    home = site.run("laptop", ["sh", "-c", "echo $HOME"]).stdout.strip()
    laptop.write("~/clock/sitecustomize.py", WALL_CLOCK.format(path=f"{home}/clock/ahead"))
    laptop.write("~/clock/ahead", "0")
    _, port = journey.serve("server1")
    use = journey.use(
        journey.open(f"server1:{port}", dead_after=120, env={"PYTHONPATH": f"{home}/clock"})[0]["local_url"]
    )
    until_shown(use, "open")
    asleep = [one.pid for one in laptop.processes() if one.state != "Z"]
    # what was connected is gone, and nobody says so: neither a firewall that forgot it nor a host that is not there
    forgotten = journey.sessions("login") + journey.sessions("server1")
    try:
        send(signal.SIGSTOP, asleep + forgotten)
        laptop.write("~/clock/ahead", str(8 * 3600))
        send(signal.SIGCONT, asleep)
        after = until_answered(use, time.time())
    finally:
        send(signal.SIGCONT, asleep + forgotten)
    assert after < soon() + 2  # of which 2 s are for an answer over the old way
    (row,) = journey.tunnels()
    assert row["reconnects"] == 1 and "sleep" in row["last_error"]


class Told:
    """What a `ports open` in a terminal of its own says, each line with the moment at which it came."""

    def __init__(self, site: Site, targets: list[str], new: dict[str, str], browser: str) -> None:
        env = {"DASK_PORTS__OPEN__NEW": json.dumps(new), "BROWSER": browser}
        argv = [site.python, "-u", "-m", "ports", "open", *targets]
        self.running = site.popen("laptop", argv, env=env, stderr=subprocess.STDOUT)
        self.lines: list[tuple[float, str]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.lines.append((time.time(), " ".join(line.split())))

    def has(self, text: str) -> bool | None:
        return any(text in line for _, line in self.lines) or None

    def when(self, text: str) -> float:
        return next(moment for moment, line in self.lines if text in line)

    def link(self, text: str) -> str:
        line = next(line for _, line in self.lines if text in line and "http" in line)
        return next(word for word in line.split() if word.startswith("http"))

    def end(self) -> None:
        self.running.send_signal(signal.SIGINT)
        self.running.wait(20)


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_hanging_home_does_not_delay_cutting_off_another_user(root_site: NamespaceSite, journey: Journey) -> None:
    service, port = journey.serve("server1")
    use = journey.use(journey.open(f"server1:{port}")[0]["local_url"])
    assert use.tell("keep", "idle")[3] == "page of alice on server1"
    programs = [one.pid for one in root_site.host("server1").processes() if "sys.stdin.buffer" in " ".join(one.command)]
    (watcher,) = [pid for pid in programs if parent(pid) in programs]
    send(signal.SIGSTOP, [watcher])  # as where it waits for a file server
    try:
        service.kill()
        service.communicate()
        journey.serve("server1", port=port, user="bob")
        until_shown(use, "ended")
        assert "belongs to bob" in use.tell("get")[3]
        time.sleep(4)
        assert "page of bob" not in use.tell("ask", "idle")[3] and journey.tunnels()[0]["state"] == "ended"
    finally:
        send(signal.SIGCONT, [watcher])


@pytest.mark.long
def test_a_link_comes_back_where_start_files_outlast_an_attempt(journey: Journey) -> None:
    _, port = journey.serve("server1")
    use = journey.use(journey.open(f"server1:{port}")[0]["local_url"])
    until_shown(use, "open")
    start_file = journey.site.host("server1").path("~/.bashrc")
    journey.site.host("server1").write("~/.bashrc", "sleep 4\n")
    try:
        send(signal.SIGKILL, [one.pid for one in journey.masters()])
        assert until_answered(use, time.time()) < 30
        # the question that shows what start files do, after 5 s of silence, would connect again after `journey.end`
        wait_until(lambda: not questions(journey) or None, timeout=30, what="the end of a question")
    finally:
        start_file.unlink()


def questions(journey: Journey) -> list[list[str]]:
    """Return what runs on server1 to answer a question, or waits in a start file for that."""
    found = [one.command for one in journey.site.host("server1").processes()]
    return [words for words in found if words[0] == "sleep" or ("python3" in words[0] and words[-1] == "-")]


def test_a_removed_runtime_directory_is_made_again_with_all_in_it(journey: Journey) -> None:
    """Somebody tidies /tmp, or macOS prunes it, while links are open."""
    service, port = journey.serve("server1")
    _, other = journey.serve("server1")
    row = journey.open(f"server1:{port}")[0]
    for _ in range(2):
        before = {one.pid for one in journey.masters()}
        journey.site.run("laptop", ["sh", "-c", "rm -rf /tmp/ports-*"], check=True)
        begun = time.monotonic()
        # asked at once, it waits until the background process has its socket again
        assert [one["state"] for one in journey.open(f"server1:{other}")] == ["open"]
        fetched = lambda: answered(journey, row["local_url"])  # noqa: E731
        wait_until(fetched, timeout=10, what="an answer on the link")
        assert time.monotonic() - begun < 10
        assert {one.pid for one in journey.masters()} > before, "none is ended that may carry a download"
    assert service.poll() is None
    ports = [journey.site.python, "-m", "ports"]
    journey.site.run("laptop", [*ports, "tunnel", "close", "--all"], check=True)
    assert not journey.site.run("laptop", [*ports, "tunnel", "list", "--json"], check=True).stdout.strip("[]\n")
    journey.site.run("laptop", [*ports, "logout", "--all"], check=True)
    left = lambda: not [one for one in journey.site.host("laptop").processes() if "ssh" in one.command[0]]  # noqa: E731
    wait_until(lambda: left() or None, timeout=5, what="the end of every ssh")


def test_a_logout_finds_connections_whose_sockets_were_removed(journey: Journey) -> None:
    ports = [journey.site.python, "-m", "ports"]
    journey.site.run("laptop", [*ports, "login", "server1"], check=True)
    assert journey.masters()
    journey.site.run("laptop", ["sh", "-c", "rm -rf /tmp/ports-*"], check=True)
    journey.site.run("laptop", [*ports, "login", "server1"], check=True)
    assert len(journey.masters()) == 4  # the first two, which nothing reaches, and two new ones beside them
    journey.site.run("laptop", [*ports, "logout", "--all"], check=True)
    wait_until(lambda: not journey.masters() or None, timeout=5, what="the end of all masters")


def answered(journey: Journey, url: str) -> bool | None:
    """Tell whether the page comes; None where another one stands in for it."""
    with contextlib.suppress(subprocess.SubprocessError, AssertionError):
        return journey.fetch(url).startswith("page of") or None
    return None
