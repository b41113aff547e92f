"""The way to other hosts without the ssh program: paramiko in the same process, as alice's laptop goes it."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import textwrap
import time
from collections.abc import Iterator
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.integration.test_remote import at_a_terminal
from tests.lab import Site
from tests.lab.laptop import PRELUDE as COMMON
from tests.lab.laptop import python as run_python
from tests.lab.leaks import LeakCheck
from tests.lab.namespaces import NamespaceSite
from tests.lab.traffic import ECHO

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

HOPS = ("login", "server1", "server2")
MAY_STAY = ("file */.ssh/*",)
TRANSPORT = {"DASK_PORTS__SSH__TRANSPORT": "paramiko"}
PRELUDE = (
    COMMON
    + """
import base64, hashlib
from ports import hosts
from ports.hosts import paramiko
def shared(alias, **options):
    return paramiko.connect(hosts.resolve(alias), **options)
def hostname(alias, **options):
    return shared(alias, **options).run("uname -n; echo there").output.split()[-1]
def read(local, n):
    local.settimeout(60)
    parts = []
    while n > 0 and (data := local.recv(1 << 18)):
        parts.append(data)
        n -= len(data)
    return b"".join(parts)
"""
)


def python(site: Site, code: str, *arguments: str, env: dict[str, str] | None = None, timeout: float = 90) -> Any:
    """Run `code` on the laptop, where every command goes by paramiko, and return what it says."""
    env = {**TRANSPORT, **(env or {})}
    return run_python(site, code, *arguments, prelude=PRELUDE, env=env, timeout=timeout, quiet=True)


@pytest.fixture
def echo(laptop: Site) -> Iterator[int]:
    """The port of a server on server1 that sends back what comes."""
    with laptop.popen("server1", ["python3", "-c", ECHO]) as running:
        try:
            assert running.stdout is not None
            yield int(running.stdout.readline())
        finally:
            running.kill()


@pytest.mark.parametrize("alias", ["login", "server1", "server2", "server1-old"])
def test_a_host_is_reached_through_its_jump_host_and_its_key_checked(laptop: Site, alias: str) -> None:
    assert python(laptop, f"say(tell(hostname, {alias!r}, batch=True))") == {"result": "there"}
    assert python(laptop, f"say(remote.probe({alias!r})['user'])") == laptop.users[0]


@pytest.mark.quick
def test_without_an_ssh_program_the_same_configuration_leads_there(laptop: Site) -> None:
    env = {"DASK_PORTS__SSH__PROGRAM": "no-such-ssh", "DASK_PORTS__SSH__TRANSPORT": "auto"}
    said = python(laptop, "say([hosts.choose_transport(), tell(hostname, 'server1', batch=True)])", env=env)
    assert said == ["paramiko", {"result": "there"}]


def test_connections_of_a_process_are_shared_and_end_with_the_last_user(laptop: Site) -> None:
    code = """
        found = []
        def connect(alias):
            found.append(shared(alias))
        started = [threading.Thread(target=connect, args=(alias,)) for alias in ["server1", "server2"] * 4]
        for one in started: one.start()
        for one in started: one.join()
        counts = [len(set(map(id, found)))]
        for one in set(found): one.run("true")
        names = lambda: sorted(one.name for one in threading.enumerate() if not one.name.startswith("warm"))
        before = names()
        for one in set(found): one.close()
        end = time.monotonic() + 10
        while len(names()) > 1 and time.monotonic() < end: time.sleep(0.02)
        say([counts, before, names()])
    """
    expected = sorted(["MainThread", *(f"{kind}{name}" for name in HOPS for kind in ("", "io-"))])
    assert python(laptop, code) == [[2], expected, ["MainThread"]]


def test_200_connections_at_once_and_100_megabytes_pass_unharmed(laptop: Site, echo: int) -> None:
    code = """
        over = shared("server1")
        answers = []
        def visit(number):
            with over.dial(f"127.0.0.1:{sys.argv[1]}") as local:
                text = f"{number:08}".encode() * 100
                local.sendall(text)
                answers.append(read(local, len(text)) == text)
        visitors = [threading.Thread(target=visit, args=(number,)) for number in range(200)]
        for one in visitors: one.start()
        for one in visitors: one.join()
        block = os.urandom(1 << 20)
        with over.dial(f"127.0.0.1:{sys.argv[1]}") as local:
            def send():
                for _ in range(100): local.sendall(block)
                local.shutdown(socket.SHUT_WR)
            threading.Thread(target=send).start()
            got = hashlib.sha256(read(local, 100 << 20)).hexdigest()
            rest = read(local, 1)
        threads = len([one for one in threading.enumerate() if not one.name.startswith("warm")])
        say([sum(answers), got == hashlib.sha256(block * 100).hexdigest(), rest.decode(), threads])
    """
    assert python(laptop, code, str(echo)) == [200, True, "", 5]  # two threads a connection, and this one


def test_one_that_does_not_read_does_not_keep_the_others_from_reading(laptop: Site, echo: int) -> None:
    code = """
        over, where = shared("server1"), f"127.0.0.1:{sys.argv[1]}"
        lazy, busy = over.dial(where), over.dial(where)
        def flood():
            try: lazy.sendall(bytes(64 << 20))
            except OSError: pass
        threading.Thread(target=flood, daemon=True).start()
        took = []
        for _ in range(20):
            start = time.monotonic()
            busy.sendall(b"x")
            read(busy, 1)
            took.append(time.monotonic() - start)
        say([max(took), over.is_alive(5)])
    """
    slowest, alive = python(laptop, code, str(echo))
    assert slowest < 5 and alive


def test_a_jump_host_that_permits_the_servers_only_leads_to_them(root_site: NamespaceSite, laptop: Site) -> None:
    code = "say([tell(hostname, 'server1'), tell(hostname, 'elsewhere')])"
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text(config.read_text() + "Host elsewhere\n  HostName server1\n  Port 2200\n  ProxyJump login\n")
    there, elsewhere = python(laptop, code)
    assert there == {"result": "there"}
    assert elsewhere["type"] == "ProhibitedError" and "PermitOpen" in elsewhere["message"]


def test_a_first_key_is_noted_where_the_configuration_says_so(laptop: Site) -> None:
    host = laptop.host("laptop")
    known, config = host.path("~/.ssh/known_hosts"), host.path("~/.ssh/config")
    before = set(known.read_text().split())
    known.write_text("# mine, without an end of line")
    config.write_text("StrictHostKeyChecking accept-new\n" + config.read_text())
    assert python(laptop, "say(tell(hostname, 'server1'))") == {"result": "there"}
    lines = known.read_text().splitlines()
    assert len(lines) == 3 and set(" ".join(lines[1:]).split()) <= before


def test_a_host_that_only_an_authority_vouches_for_is_refused_in_words(laptop: Site) -> None:
    known = laptop.host("laptop").path("~/.ssh/known_hosts")
    lines = known.read_text().splitlines()
    known.write_text("".join(f"@cert-authority * {line.split(' ', 1)[1]}\n" for line in lines))
    error = python(laptop, "say(tell(hostname, 'login'))")
    assert error["type"] == "HostKeyError" and "certificate" in error["message"] and "ssh program" in error["message"]


def test_hashed_known_hosts_are_found(laptop: Site) -> None:
    laptop.run("laptop", ["sh", "-c", "ssh-keygen -q -H -f ~/.ssh/known_hosts 2>/dev/null || "
                          "ssh-keygen -q -H -f $HOME/.ssh/known_hosts"])  # fmt: skip
    known = laptop.host("laptop").path("~/.ssh/known_hosts")
    if "|1|" not in known.read_text():
        subprocess.run(["ssh-keygen", "-q", "-H", "-f", known], check=True, capture_output=True)
    assert "server" not in known.read_text()
    assert python(laptop, "say(tell(hostname, 'server1'))") == {"result": "there"}


AGENT = """
set -e
eval "$(ssh-agent -a "$PWD/agent.sock")" >/dev/null
trap 'kill $SSH_AGENT_PID; rm -f agent.sock' EXIT
ssh-add -q .ssh/id_ed25519
mv .ssh/id_ed25519 .ssh/elsewhere
"$@"
"""


@pytest.mark.parametrize("named", ["by the environment", "by the configuration"])
def test_the_keys_of_an_agent_log_in(laptop: Site, named: str) -> None:
    code, before = PRELUDE + "say(tell(hostname, 'server1', batch=True))", []
    if named == "by the configuration":
        home = laptop.run("laptop", ["pwd"], check=True).stdout.strip()
        config = laptop.host("laptop").path("~/.ssh/config")
        config.write_text(f"IdentityAgent {home}/agent.sock\n" + config.read_text())
        before = ["env", "-u", "SSH_AUTH_SOCK"]
    command = ["sh", "-c", AGENT, "sh", *before, laptop.python, "-c", code]
    done = laptop.run("laptop", command, env=TRANSPORT)
    assert json.loads(done.stdout) == {"result": "there"}, done.stderr


def test_a_server_that_gives_no_further_session_says_so(laptop: Site) -> None:
    laptop.host("server1").add_sshd_config("MaxSessions 2")
    code = """
        over = shared("server1")
        over.run("true")
        end = time.monotonic() + 20
        while any(one.name == "warm-server1" for one in threading.enumerate()) and time.monotonic() < end:
            time.sleep(0.02)
        held = []
        while len(held) < 2 and time.monotonic() < end:  # sshd may not have heard yet that a session ended
            try:
                held.append(over.exec_channel("exec cat"))
            except PortsError:
                time.sleep(0.1)
        refused = tell(over.run, "true")
        for one in held: one.close()
        say([refused["type"], refused["message"], over.is_alive(5)])
    """
    kind, message, alive = python(laptop, code)
    assert kind == "SSHError" and "MaxSessions" in message and alive


def encrypt_key(site: Site) -> None:
    """Give the laptop's key the passphrase ``open sesame``."""
    key = site.host("laptop").path("~/.ssh/id_ed25519")
    owner = key.stat()
    subprocess.run(["ssh-keygen", "-q", "-p", "-P", "", "-N", "open sesame", "-f", key], check=True)
    os.chown(key, owner.st_uid, owner.st_gid)
    key.chmod(0o600)


def test_an_encrypted_key_is_an_error_where_nobody_can_be_asked(laptop: Site) -> None:
    encrypt_key(laptop)
    error = python(laptop, "say(tell(hostname, 'server1', batch=True))")
    assert error["type"] == "LoginNeededError"
    assert re.search(r"the jump host login: needs a login \(publickey\S*\); the key \S+ is encrypted", error["message"])
    assert "`ssh-add" in error["message"]


def test_a_passphrase_is_asked_for_at_a_terminal(root_site: NamespaceSite, laptop: Site) -> None:
    encrypt_key(laptop)
    asked = "Enter passphrase for key '/home/alice/.ssh/id_ed25519': "
    shown = at_a_terminal(laptop, "exec ports login login --transport paramiko", {asked: "open sesame\n"})
    assert "login to login (alice@login)" in shown and "connected to login as alice" in shown, shown


def test_a_password_is_asked_for_at_a_terminal_and_a_wrong_one_is_told(root_site: NamespaceSite, laptop: Site) -> None:
    server = laptop.host("login")
    server.path("~/.ssh/authorized_keys").unlink()
    server.add_sshd_config("PasswordAuthentication yes\nKbdInteractiveAuthentication no\n")
    laptop.run("login", ["chpasswd", "-c", "SHA512"], user="root", input="alice:correct horse\n", check=True)
    error = python(laptop, "say(tell(hostname, 'login'))")
    assert error["type"] == "LoginNeededError" and "publickey,password" in error["message"]
    line = "exec ports login login --transport paramiko"
    shown = at_a_terminal(laptop, line, {"password: ": "correct horse\n"})
    assert "connected to login as alice" in shown and "this one has ended" in shown, shown


def test_a_key_that_others_may_read_is_not_used(laptop: Site) -> None:
    laptop.host("laptop").path("~/.ssh/id_ed25519").chmod(0o644)
    error = python(laptop, "say(tell(hostname, 'login'))")
    assert error["type"] == "LoginNeededError" and "`chmod 600 " in error["message"]


@pytest.mark.long
def test_a_dead_connection_is_noticed_in_time_and_replaced(
    root_site: NamespaceSite, laptop: Site, nothing_left: LeakCheck
) -> None:
    nothing_left.allow("process * sshd: alice*")  # what is cut off has not heard of its end
    code = """
        over = shared("server1")
        say([over.is_alive(5)])
        sys.stdin.readline()
        start = time.monotonic()
        alive = over.is_alive(2)
        took = time.monotonic() - start
        start = time.monotonic()
        lost = tell(over.run, "true", timeout=60)
        say([alive, took, over.is_there(), lost["type"], time.monotonic() - start])
        sys.stdin.readline()
        start = time.monotonic()
        over.close()
        took = time.monotonic() - start
        say([took, hostname("server1")])
    """
    command = [laptop.python, "-c", PRELUDE + textwrap.dedent(code)]
    with laptop.popen("laptop", command, env=TRANSPORT, stdin=subprocess.PIPE) as running:
        try:
            assert running.stdin is not None and running.stdout is not None
            assert json.loads(running.stdout.readline()) == [True]
            laptop.host("login").cut()
            running.stdin.write("\n")
            running.stdin.flush()
            alive, took, there, lost, took_to_run = json.loads(running.stdout.readline())
            laptop.host("login").mend()
            assert (alive, there, lost) == (False, True, "ConnectionLostError")
            assert 2 <= took < 4 and took_to_run < 30
            running.stdin.write("\n")
            running.stdin.flush()
            took_to_close, said = json.loads(running.stdout.readline())
            assert took_to_close < 5 and said == "there"
        finally:
            laptop.host("login").mend()
            running.kill()


@pytest.mark.long
def test_a_host_that_is_down_is_told_within_its_time(root_site: NamespaceSite, laptop: Site) -> None:
    env = {"DASK_PORTS__SSH__CONNECT_TIMEOUT": "2"}
    laptop.host("server1").cut()
    start = time.monotonic()
    behind = python(laptop, "say(tell(hostname, 'server1'))", env=env)
    laptop.host("login").cut()
    before = python(laptop, "say(tell(hostname, 'server1'))", env=env)
    assert time.monotonic() - start < 40
    assert behind["type"] == before["type"] == "NetworkError"
    assert before["message"].startswith("server1: the jump host login: does not answer")


def test_what_runs_on_a_host_is_listed_by_paramiko(laptop: Site) -> None:
    command = [laptop.python, "-m", "ports", "list", "server1", "server2", "--transport", "paramiko", "--json"]
    done = laptop.run("laptop", command)
    assert (done.returncode, done.stderr) == (0, "")
    assert not [row for row in json.loads(done.stdout) if row.get("error")]
    masters = [one for one in laptop.host("laptop").processes() if " -N -M " in " ".join(one.command)]
    assert not masters


def test_a_session_at_the_terminal_takes_what_is_typed_and_its_status(root_site: NamespaceSite, laptop: Site) -> None:
    code = "from ports import hosts; "
    code += "hosts.connect(hosts.resolve('server1')).interactive('stty size; read x; echo got \\$x; exit 3')"
    line = f'DASK_PORTS__SSH__TRANSPORT=paramiko {laptop.python} -c "{code}"; echo status $?; exit'
    shown = at_a_terminal(laptop, line, {"24 80": "typed\n", "0 0": "typed\n"})
    assert "got typed" in shown and "status 3" in shown, shown


def test_links_by_paramiko_answer_again_after_a_cut(root_site: NamespaceSite, laptop: Site) -> None:
    get = (
        "import http.client as h, sys; c = h.HTTPConnection(sys.argv[1], timeout=3); "
        "c.request('GET', '/'); print(c.getresponse().status)"
    )

    def answers(link: str, status: int = 200) -> bool | None:
        where = link.split("/")[2]
        return laptop.run("laptop", ["python3", "-c", get, where]).stdout == f"{status}\n" or None

    serve = ["python3", "-u", "-m", "http.server", "--bind", "127.0.0.1", "0"]
    with laptop.popen("server1", serve, stderr=subprocess.DEVNULL) as serving:
        assert serving.stdout is not None
        found = re.search(r"port (\d+)", serving.stdout.readline())
        assert found is not None
        command = [laptop.python, "-m", "ports", "open", f"server1:{found.group(1)}", "--no-browser"]
        with laptop.popen("laptop", [*command, "--transport", "paramiko"]) as running:
            try:
                assert running.stdout is not None
                links = (re.search(r"http://\S+", line) for line in running.stdout)
                link = next(one.group() for one in links if one)
                assert answers(link)
                laptop.host("login").cut()
                wait_until(lambda: answers(link, 503), timeout=30, what="page that says what is down")
                laptop.host("login").mend()
                wait_until(lambda: answers(link), timeout=30, what="the same link")
                running.send_signal(signal.SIGINT)
                assert running.wait(20) in (0, 130)
            finally:
                laptop.host("login").mend()
                running.kill()
                serving.kill()
    wait_until(lambda: not laptop.host("server1").live_processes() or None, timeout=20, what="end of all there")
