"""The connections that all of `ports` shares: kept, found dead, replaced, led on where forwarding is prohibited."""

from __future__ import annotations

import json
import os
import re
import signal
import textwrap
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab import laptop as laptops
from tests.lab.namespaces import NamespaceSite
from tests.lab.site import HostProcess

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

PRELUDE = (
    laptops.PRELUDE
    + """
from pathlib import Path
from ports import hosts
from ports.hosts import _connect, openssh
from ports.hosts.openssh import ends
from ports.state import paths, runtime_directory
def start(alias, **options):
    return openssh.start(hosts.resolve(alias), **options)
def connect(alias, **options):
    return hosts.connect(hosts.resolve(alias), **options)
def masters_of(alias):
    return openssh.masters_of(hosts.resolve(alias))
def running(alias):
    return openssh.running(hosts.resolve(alias).end)
def retire(alias):
    ends.retire(hosts.resolve(alias))
def echo(alias, **options):
    return _connect.run(hosts.resolve(alias), "cat", input=b"there", **options).output
def end(alias):
    "End the master to `alias` as it ends when it is unused: it takes leave of nobody here."
    control = masters_of(alias)[-1].control
    subprocess.run(["ssh", "-F", "none", "-S", control, "-O", "exit", "x"], capture_output=True)
    while openssh.is_running(control):
        time.sleep(0.005)
def ask(connection, remote):
    "Return what a service behind a forward says first."
    with connection.dial(remote, timeout=20) as channel:
        return channel.recv(100).decode()
def sockets():
    return [path.name for path in runtime_directory().glob(f"t{os.getpid()}-*.sock")]
"""
)
SHORT = {"DASK_PORTS__SSH__PERSIST": "1"}
MAY_STAY = ("file */resolved/*", "process *: sshd: *")  # the second: of a host that was cut off, it knows no better


def python(site: Site, code: str, *, timeout: float = 60, env: dict[str, str] | None = None) -> Any:
    """Run `code` on the laptop as alice, and return what it says."""
    return laptops.python(site, code, prelude=PRELUDE, timeout=timeout, env=env)


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
        master = start("server1")
        time.sleep(2)  # a look would count as use
        there = [master.is_there(), openssh.is_running(master.control)]
        control = master.control
        del master
        while openssh.is_running(control):
            time.sleep(1.5)
        say(there)
    """
    assert python(laptop, code, env=SHORT) == [True, True]


@pytest.mark.parametrize("moment", ["before the next hop", "while the next hop starts"])
def test_a_way_is_made_although_the_jump_host_s_connection_ends_meanwhile(laptop: Site, moment: str) -> None:
    code = f"""
        from ports.hosts.openssh import processes
        start("login")
        real, ended = processes.run_to_end, []
        def run(arguments, **options):
            if "-M" in arguments and not ended:
                ended.append(True)
                if {moment!r} == "before the next hop":
                    end("login")
                else:
                    threading.Timer(0.03, end, ("login",)).start()
            return real(arguments, **options)
        processes.run_to_end = run
        master = start("server1")
        say([ended, echo("server1")])
    """
    assert python(laptop, code, env=SHORT) == [[True], "there"]


@pytest.mark.long
def test_connections_of_one_second_carry_forward_after_forward(laptop: Site) -> None:
    code = """
        said = []
        for pause in (0, 0.9, 1.0, 1.1, 0, 1.0, 1.05):
            time.sleep(pause)
            connection = connect("server1")
            said.append(ask(connection, os.environ["SSHD"])[:4])
            connection.close()
            del connection
        say(said)
    """
    assert python(laptop, code, env={**SHORT, "SSHD": sshd(laptop)}) == ["SSH-"] * 7


def test_what_is_asked_of_a_connection_that_ended_is_told_as_lost(laptop: Site) -> None:
    code = """
        connection = connect("server1")
        connection.forward(["127.0.0.1:9"])
        before = sockets()
        end("server1")
        lost = tell(connection.forward, ["127.0.0.1:10"])
        connection.close()
        with connection.exec_channel("cat") as channel:
            channel.settimeout(10)
            said = channel.recv(10).decode()
        say([lost, len(before), sockets(), said, connection.is_there()])
    """
    lost, *others = python(laptop, code)
    assert (lost["type"], lost["network"], *others) == ("ConnectionLostError", True, 1, [], "", False)


def test_a_jump_host_s_connection_that_was_killed_is_made_anew(laptop: Site) -> None:
    python(laptop, "start('login'); say(0)")
    (login,) = masters(laptop)
    os.kill(login.pid, signal.SIGKILL)
    wait_until(lambda: not masters(laptop) or None, timeout=10, what="end of the connection")
    assert python(laptop, "say(echo('server1'))") == "there"
    assert len(masters(laptop)) == 2


def test_prune_removes_what_a_killed_connection_left(laptop: Site) -> None:
    python(laptop, "start('login'); say(0)")
    for one in masters(laptop):
        os.kill(one.pid, signal.SIGKILL)
    wait_until(lambda: not masters(laptop) or None, timeout=10, what="end of the connection")
    code = """
        control = masters_of("login")[-1].control
        def prune():
            command = [sys.executable, "-m", "ports", "prune", "--json"]
            return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)
        say([[(row["kind"], row["name"] == control.name) for row in prune()], control.exists(), prune()])
    """
    assert python(laptop, code) == [[["connection", True]], False, []]


def test_an_ssh_that_ends_late_does_not_take_its_successor_s_socket_along(laptop: Site) -> None:
    code = """
        first = start("login")
        pid = int(subprocess.run(["ssh", "-F", "none", "-S", first.control, "-O", "check", "x"],
                                 capture_output=True, text=True).stderr.split("=")[1].split(")")[0])
        os.kill(pid, signal.SIGSTOP)
        retire("login")
        second = start("login")
        os.kill(pid, signal.SIGCONT)
        os.kill(pid, signal.SIGTERM)
        while first.is_there():
            time.sleep(0.01)
        say([first.control != second.control, second.is_there(), running("login") is not None, echo("login")])
    """
    assert python(laptop, code) == [True, True, True, "there"]


# --- connections that fell silent ---


def test_a_silent_connection_is_left_aside_and_carries_again_later(root_site: NamespaceSite, laptop: Site) -> None:
    code = """
        connection = connect("server1")
        old, channel = connection.master, connection.exec_channel("cat")
        print("there", flush=True)
        sys.stdin.readline()
        started = time.monotonic()
        retire("server1")
        took = time.monotonic() - started
        print("retired", flush=True)
        sys.stdin.readline()
        new = start("server1", timeout=20)
        channel.sendall(b"still")
        say([took < 8, old.control != new.control, echo("server1"), channel.recv(5).decode(), old.is_there()])
        connection.close()
    """
    env = {"DASK_PORTS__SSH__KEEPALIVE": "10"}
    running = laptop.popen("laptop", [laptop.python, "-c", PRELUDE + textwrap.dedent(code)], stdin=-1, env=env)
    assert running.stdin is not None and running.stdout is not None
    assert running.stdout.readline() == "there\n", running.communicate()[1]
    laptop.host("login").cut()
    running.stdin.write("\n"), running.stdin.flush()
    assert running.stdout.readline() == "retired\n"
    laptop.host("login").mend()
    output, errors = running.communicate("\n", timeout=60)
    assert json.loads(output) == [True, True, "there", "still", True], errors
    assert len(masters(laptop)) == 4  # login and server1, twice
    assert (
        python(
            laptop, "openssh.end_master(masters_of('server1')[-1]); openssh.end_master(masters_of('login')[-1]); say(0)"
        )
        == 0
    )
    wait_until(lambda: not masters(laptop) or None, timeout=10, what="end of all four connections")


def test_what_was_left_aside_and_stays_silent_ends_by_itself(root_site: NamespaceSite, laptop: Site) -> None:
    python(laptop, "start('server1'); say(0)", env={"DASK_PORTS__SSH__KEEPALIVE": "1"})
    laptop.host("login").cut()
    assert python(laptop, "retire('server1'); say(running('server1') is None)") is True

    def ssh() -> bool | None:
        return not [one for one in laptop.host("laptop").processes() if one.command[0] == "ssh" and one.state != "Z"]

    wait_until(lambda: ssh() or None, timeout=30, what="end of the connections and of what leads through them")


def test_what_answers_is_not_left_aside(root_site: NamespaceSite, laptop: Site) -> None:
    python(laptop, "start('server1'); start('server2'); say(0)")
    laptop.host("server1").cut()
    code = """
        retire("server1")
        say([running(alias) is not None for alias in ("login", "server1", "server2")])
    """
    assert python(laptop, code) == [True, False, True]


def test_a_way_through_a_silent_jump_host_is_made_beside_it(root_site: NamespaceSite, laptop: Site) -> None:
    python(laptop, "start('login'); say(0)")
    stopped = [one.pid for one in laptop.host("login").processes() if one.command[0].startswith("sshd: alice")]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        code = "started = time.monotonic(); say([echo('server1'), time.monotonic() - started])"
        said, seconds = python(laptop, code)
        assert said == "there" and seconds < 10  # the keepalives would find it after 15
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert len(masters(laptop)) == 3


# --- connecting with little time ---


def test_who_comes_again_and_again_gets_no_connection_that_fell_silent(root_site: NamespaceSite, laptop: Site) -> None:
    code = """
        old = start("server1")
        print("ready", flush=True)
        sys.stdin.readline()
        told = [tell(lambda: start("server1", timeout=8).control != old.control), echo("server1")]
        say([*told, old.is_there()])
    """
    running = laptop.popen("laptop", [laptop.python, "-c", PRELUDE + textwrap.dedent(code)], stdin=-1)
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    stopped = [one.pid for one in laptop.host("server1").processes() if one.command[0].startswith("sshd: alice")]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        output, errors = running.communicate("\n", timeout=60)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
    assert json.loads(output) == [{"result": True}, "there", True], errors


TIMED = """
    for alias in {standing!r}:
        start(alias)
    print("ready", flush=True)
    sys.stdin.readline()
    say([tell(lambda: bool(start("server1", batch=True, timeout=3))) for _ in range(2)])
"""


@pytest.mark.parametrize(
    ("cut", "standing"),
    [
        ("login", []),
        ("server1", []),
        ("login", ["login"]),
        ("server1", ["login"]),
        ("login's sshd", ["login"]),
        ("server1's sshd", ["login"]),
    ],
)
def test_connecting_takes_no_longer_than_it_may(
    root_site: NamespaceSite, laptop: Site, cut: str, standing: list[str]
) -> None:
    code = PRELUDE + textwrap.dedent(TIMED.format(standing=standing))
    running = laptop.popen("laptop", [laptop.python, "-c", code], stdin=-1)
    assert running.stdout is not None and running.stdout.readline() == "ready\n"
    name, _, halted = cut.partition("'s ")
    host = root_site.hosts[name]
    # of a host in namespaces, sshd is the first process; sessions that stand have one of their own
    stopped = [host.pid, *(one.pid for one in host.processes())] if halted else []
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        if not halted:
            host.cut()
        output, errors = running.communicate("\n", timeout=60)
    finally:
        for pid in stopped:
            os.kill(pid, signal.SIGCONT)
        host.mend()
    told = json.loads(output)
    assert [one["network"] for one in told] == [True, True], (told, errors)
    assert all(one["seconds"] < 8 for one in told), told  # 3 s, and what a busy machine adds


def test_a_server_that_refuses_is_told_from_a_network_that_does(laptop: Site) -> None:
    laptop.host("server2").path("~/.ssh/authorized_keys").unlink()
    code = "say([tell(start, 'server2', batch=True, timeout=9), tell(start, 'login9', timeout=9)])"
    refused, unknown = python(laptop, code)
    assert (refused["type"], refused["network"]) == ("LoginNeededError", False)
    assert (unknown["type"], unknown["network"]) == ("UnknownHostError", True)


# --- jump hosts that prohibit forwarding ---

NO_FORWARDING = "AllowTcpForwarding no"
HOPS = """
    said, where = echo("server1"), paths.here().root / "jump-methods"
    say([said, [json.loads(path.read_text())["method"] for path in where.glob("*.json")]])
"""


def programs(site: Site, *names: str) -> str:
    """Make a directory on the login node that has these programs only; return what `~/.profile` and the like say."""
    makes = [f"ln -s $(command -v {name}) ~/only/{name}" for name in ("sh", "cat", *names)]
    site.run("login", ["sh", "-c", " && ".join(["mkdir ~/only", *makes])], check=True)
    return f"{site.account().home}/only"


@pytest.mark.parametrize(
    ("program", "shell"),
    [
        ("nc", "/bin/bash"),
        ("nc", "/bin/rbash"),
        ("python3", "/usr/bin/tcsh"),
        ("python3", "/usr/bin/fish"),
        ("bash", "/bin/bash"),
        ("bash", "/usr/bin/tcsh"),
    ],
)
def test_a_jump_host_that_prohibits_forwarding_leads_on_by_a_command(
    root_site: NamespaceSite, laptop: Site, program: str, shell: str
) -> None:
    login = laptop.host("login")
    login.add_sshd_config(NO_FORWARDING)
    login.set_login_shell("alice", shell)
    only = programs(laptop, program)
    login.write("~/.bashrc", f"PATH={only}\n")
    login.write("~/.tcshrc", f"setenv PATH {only}\n")
    login.write("~/.config/fish/config.fish", f"set -gx PATH {only}\n")
    assert python(laptop, HOPS) == ["there", ["command"]]
    ran = [" ".join(one.command) for one in login.processes() if one.state != "Z" and one.uid != 0]
    assert any(line.startswith(program) for line in ran if re.search("server1.22", line)), ran
    # once known, it is the first that is tried; and nothing stays on the jump host
    code = "openssh.end_master(masters_of('server1')[-1]); start('server1'); say(masters_of('login')[-1].said())"
    assert python(laptop, code).count("prohibited") == 2  # as it was found out: asked, and asked why
    python(laptop, "openssh.end_master(masters_of('server1')[-1]); say(0)")

    def relays() -> list[str]:
        ran = [" ".join(one.command) for one in login.processes() if one.state != "Z"]
        return [line for line in ran if re.search("server1.22", line)]

    wait_until(lambda: not relays() or None, timeout=10, what=f"end of {program} on the jump host")


def test_two_jump_hosts_that_prohibit_forwarding_lead_on(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("login").add_sshd_config(NO_FORWARDING)
    laptop.host("server2").add_sshd_config(NO_FORWARDING)
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text(
        "Host inner\n  HostName server1\n  HostKeyAlias server1\n  ProxyJump login,server2\n" + config.read_text()
    )
    assert python(laptop, "say([echo('inner'), connect('inner').run('hostname').output])") == ["there", "server1\n"]
    assert len(masters(laptop)) == 3


def test_a_door_that_no_longer_leads_on_is_tried_after_the_others(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("login").add_sshd_config("ForceCommand /bin/false")
    code = """
        from ports.hosts.openssh import jumps
        jumps.remember(hosts.resolve("login").end.key, "login", "command")
    """
    assert python(laptop, textwrap.dedent(code) + textwrap.dedent(HOPS)) == ["there", []]


def test_a_jump_host_with_every_door_shut_is_told_with_both_reasons(root_site: NamespaceSite, laptop: Site) -> None:
    login = laptop.host("login")
    login.add_sshd_config(NO_FORWARDING)
    login.set_login_shell("alice", "/bin/bash")
    login.write("~/.bashrc", f"PATH={programs(laptop)}\n")
    told = python(laptop, "say(tell(start, 'server1'))")
    assert (told["type"], told["network"]) == ("ProhibitedError", False)
    assert "AllowTcpForwarding" in told["message"] and "no nc, python3 or bash there" in told["message"]


def test_a_server_that_is_down_behind_a_command_is_the_network_s_fault(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("login").add_sshd_config(NO_FORWARDING)
    laptop.host("server1").power_off()
    code = "say([tell(start, 'server1', timeout=3) for _ in range(3)])"  # with packets dropped, nc goes on
    assert [one["network"] for one in python(laptop, code)] == [True] * 3
    laptop.host("server1").power_on()
    assert python(laptop, "say(echo('server1'))") == "there"
    relays = [one for one in laptop.host("login").processes() if one.command[0] == "nc"]
    assert len(relays) == 1


def test_a_port_that_refuses_behind_a_command_is_the_network_s_fault(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("login").add_sshd_config(NO_FORWARDING)
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text("Host closed\n  HostName server1\n  Port 9\n  ProxyJump login\n" + config.read_text())
    told = python(laptop, "say(tell(start, 'closed'))")
    assert told["network"] is True and "by nc to server1 port 9" in told["message"], told


# --- the user's own connections ---


class OwnMaster:
    """A master that alice started herself, by a configuration that shares connections."""

    def __init__(self, site: Site, alias: str) -> None:
        self.site, self.alias = site, alias
        config = site.host("laptop").path("~/.ssh/config")
        added = f"Host {alias}\n  ControlMaster auto\n  ControlPath {self.control}\n"
        config.write_text(added + config.read_text())
        self.start()

    def start(self) -> None:
        """Start it; what it starts on its way holds its output open."""
        self.site.run("laptop", ["sh", "-c", 'exec "$@" >/dev/null 2>&1', "", *self.site.ssh, "-f", "-N", self.alias])

    @property
    def control(self) -> str:
        """The control socket as the laptop sees it."""
        home = self.site.account().home if self.site.kind == "namespaces" else self.site.host("laptop").path("~/")
        return f"{str(home).rstrip('/')}/.ssh/mine-{self.alias}"

    def pid(self) -> int | None:
        """Return its process as its own ssh tells it, None where it does not run."""
        done = self.site.run("laptop", [*self.site.ssh, "-O", "check", self.alias])
        found = re.search(r"pid=(\d+)", done.stderr)
        return int(found.group(1)) if found else None

    def end(self) -> None:
        """End it."""
        self.site.run("laptop", [*self.site.ssh, "-O", "exit", self.alias])


USE = """
    connection = connect("server1")
    banner = ask(connection, os.environ["SSHD"])[:4]
    connection.close()
    mine = [connection.master.users, banner, echo("server1"), sockets()]
    for master in masters_of("server1"):
        openssh.end_master(master)
    openssh.close_all()
    openssh.end_master(connection.master)
    say(mine)
"""


def test_a_user_s_own_connection_is_used_and_left_as_it_was(laptop: Site) -> None:
    own = OwnMaster(laptop, "server1")
    before = own.pid()
    try:
        assert python(laptop, USE, env={"SSHD": sshd(laptop)}) == [True, "SSH-", "there", []]
        assert masters(laptop) == []  # not even one to the jump host
        assert own.pid() == before is not None
        listening = [one.where for one in laptop.host("laptop").listeners()]
        assert not [where for where in listening if re.match(r"t\d+-", where.rpartition("/")[2])], listening
    finally:
        own.end()
    assert python(laptop, "say([start('server1').users, echo('server1')])") == [False, "there"]


def test_a_user_s_own_connection_to_the_jump_host_leads_on(laptop: Site) -> None:
    own = OwnMaster(laptop, "login")
    before = own.pid()
    try:
        assert python(laptop, USE, env={"SSHD": sshd(laptop)}) == [False, "SSH-", "there", []]
        assert own.pid() == before is not None
        python(laptop, "start('server1'); say(0)")
        assert len(masters(laptop)) == 1  # none to the jump host
    finally:
        own.end()


def test_a_user_s_own_jump_host_without_forwarding_uses_a_command(root_site: NamespaceSite, laptop: Site) -> None:
    laptop.host("login").add_sshd_config(NO_FORWARDING)
    own = OwnMaster(laptop, "login")
    try:
        assert python(laptop, HOPS) == ["there", ["command"]]
    finally:
        own.end()


@pytest.mark.parametrize("alias", ["server1", "login"])
def test_beside_a_user_s_own_connection_that_fell_silent_ours_is_made(
    root_site: NamespaceSite, laptop: Site, alias: str
) -> None:
    own = OwnMaster(laptop, alias)
    halted = [one.pid for one in laptop.host(alias).processes() if one.command[0].startswith("sshd: alice")]
    try:
        for pid in halted:
            os.kill(pid, signal.SIGSTOP)
        code = "say([tell(echo, 'server1'), start('server1').users])"
        assert python(laptop, code) == [{"result": "there"}, False]
        assert own.pid() is not None  # -O check goes on saying "running"
        assert python(laptop, "started = time.monotonic(); echo('server1'); say(time.monotonic() - started)") < 2.4
    finally:
        for pid in halted:
            os.kill(pid, signal.SIGCONT)
    assert own.pid() is not None
    own.end()
    own.start()  # the next one is another one
    try:
        python(laptop, "say(openssh.close_all())")
        assert python(laptop, f"say(start({alias!r}).users)") is True
    finally:
        own.end()


def test_a_dead_control_path_or_another_user_s_is_passed_over(root_site: NamespaceSite, laptop: Site) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text("Host login\n  ControlPath /tmp/not-mine\n" + config.read_text())
    code = "import socket; one = socket.socket(socket.AF_UNIX); one.bind('/tmp/not-mine'); one.listen(); import os; "
    code += "os.chmod('/tmp/not-mine', 0o777); print('there', flush=True); one.accept(); print('used', flush=True)"
    bobs = laptop.popen("laptop", ["python3", "-c", code], user="bob")
    try:
        assert bobs.stdout is not None and bobs.stdout.readline() == "there\n"
        assert python(laptop, "say([start('login').users, echo('server1')])") == [False, "there"]
        assert bobs.poll() is None
    finally:
        bobs.kill()
        bobs.communicate()
        laptop.run("laptop", ["rm", "/tmp/not-mine"], user="root")
