"""The contract of a `Connection`, which the ssh program's and paramiko's transports both fulfil."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.laptop import PRELUDE as COMMON
from tests.lab.laptop import hang_up
from tests.lab.laptop import python as run_python
from tests.lab.namespaces import NamespaceSite
from tests.lab.traffic import ECHO

pytestmark = [pytest.mark.ci, pytest.mark.timeout(120)]

MAY_STAY = ("file */.ssh/*", "file */resolved/*")
PRELUDE = (
    COMMON
    + """
import asyncio
from ports import hosts
def connect(alias, **options):
    return hosts.connect(hosts.resolve(alias), **{"batch": True, **options})
def read(channel, n):
    channel.settimeout(30)
    parts = []
    while n > 0 and (data := channel.recv(n)):
        parts.append(data)
        n -= len(data)
    return b"".join(parts)
def why(connection, remote):
    "Return why nothing comes from `remote`: what is raised, or what the connection says of it."
    try:
        with connection.dial(remote, timeout=10) as channel:
            read(channel, 1)
    except PortsError as error:
        return type(error).__name__
    except OSError:
        pass
    end = time.monotonic() + 10
    while (found := connection.refusal(remote)) is None and time.monotonic() < end:
        time.sleep(0.01)
    return type(found).__name__
"""
)
SERVE_SOCKET = (
    # it ends with its input
    "exec python3 -c 'import os, socket, sys, threading; "
    "threading.Thread(target=lambda: sys.stdin.read() or os._exit(0)).start(); "
    's = socket.socket(socket.AF_UNIX); s.bind("{path}/s"); s.listen(); '
    "print(1, flush=True)\nfor _ in (1, 2):\n c = s.accept()[0]\n c.sendall(c.recv(9))\n c.close()'"
)


@pytest.fixture(params=["ssh", "paramiko"])
def transport(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def python(laptop: Site, transport: str) -> Any:
    """Return what runs code on the laptop, by one transport."""
    env = {"DASK_PORTS__SSH__TRANSPORT": transport}
    return functools.partial(run_python, laptop, prelude=PRELUDE, env=env, timeout=90)


@pytest.fixture
def echo(laptop: Site) -> Iterator[int]:
    """The port of a server on server1 that sends back what comes."""
    with laptop.popen("server1", ["python3", "-c", ECHO]) as running:
        try:
            assert running.stdout is not None
            yield int(running.stdout.readline())
        finally:
            running.kill()


def test_a_route_says_where_it_leads_and_by_what(python: Any, transport: str) -> None:
    code = """
        connection = connect("server1")
        route = connection.route
        say([route.alias, route.transport, [hop.alias for hop in route.hops], route.end.user, connection.is_there()])
    """
    alias, by, hops, _, is_there = python(code)
    assert (alias, by, hops, is_there) == ("server1", transport, ["login", "server1"], True)


def test_only_the_ssh_program_keeps_its_connections(python: Any, transport: str) -> None:
    code = """
        connection = connect("server1")
        connection.close()
        say([connection.is_kept, hosts.is_connected(connection.route), hosts.login_keys(connection.route) is None])
    """
    assert python(code) == [transport == "ssh", True, transport == "ssh"]


def test_a_command_gets_its_input_and_gives_output_stderr_and_status(python: Any) -> None:
    code = """
        connection = connect("server1")
        begun = []
        done = connection.run("wc -c; echo oops >&2; exit 7", input=b"x" * 3_000_000, on_start=lambda: begun.append(1))
        many = connection.run("head -c 5000000 /dev/zero").output
        say([done.status, done.output.strip(), done.stderr, len(many), connection.run("kill -9 $$").status, begun])
    """
    assert python(code) == [7, "3000000", "oops\n", 5000000, 255, [1]]


def test_a_command_that_does_not_answer_is_given_up(python: Any) -> None:
    code = """
        connection = connect("server1")
        told = tell(connection.run, "exec sleep 3", timeout=1)
        say([told["type"], told["message"], told["seconds"] < 20, connection.run("echo there").output])
    """
    kind, message, in_time, said = python(code)
    assert (kind, in_time, said) == ("SSHError", True, "there\n")
    assert message.startswith("server1: did not answer within")


def test_an_exec_channel_is_the_input_and_output_of_a_command(python: Any) -> None:
    code = """
        connection = connect("server1")
        channel = connection.exec_channel("exec cat")
        channel.sendall(b"there")
        said = read(channel, 5).decode()
        connection.close()
        say([said, read(channel, 1).decode()])
    """
    assert python(code) == ["there", ""]


def test_ports_and_sockets_there_are_reached_by_both_kinds_of_dial(python: Any, echo: int) -> None:
    code = f"""
        connection = connect("server1")
        path = connection.run("mktemp -d").output.strip()
        serve = connection.exec_channel({SERVE_SOCKET!r}.replace("{{path}}", path))
        read(serve, 1)
        remotes = ["127.0.0.1:" + sys.argv[1], path + "/s"]
        said = []
        for remote in remotes:
            with connection.dial(remote) as channel:
                channel.sendall(b"hello")
                said.append(read(channel, 5).decode())
        async def fetch(dial):
            loop, channel = asyncio.get_running_loop(), await dial()
            with channel:
                await loop.sock_sendall(channel, b"again")
                return (await loop.sock_recv(channel, 5)).decode()
        dials = connection.forward(remotes)
        said += [asyncio.run(fetch(dials[remote])) for remote in remotes]
        connection.cancel(remotes)
        serve.close()
        connection.close()
        connect("server1").run(f"rm -r {{path}}")
        say(said)
    """
    assert python(code, str(echo)) == ["hello", "hello", "again", "again"]


@pytest.mark.parametrize(
    ("configuration", "told"),
    [
        ("", ["RefusedError", "ProhibitedError"]),  # of a Unix socket sshd says the same in both cases
        ("AllowTcpForwarding no", ["ProhibitedError", "ProhibitedError"]),
        ("AllowStreamLocalForwarding no", ["RefusedError", "ProhibitedError"]),
        ("PermitOpen none", ["ProhibitedError", "ProhibitedError"]),
    ],
)
def test_a_refusal_tells_what_is_prohibited_from_what_does_not_listen(
    laptop: Site, python: Any, configuration: str, told: list[str]
) -> None:
    if configuration:
        laptop.host("server1").add_sshd_config(configuration)
    code = """
        connection = connect("server1")
        found = [why(connection, remote) for remote in ("127.0.0.1:9", "/tmp/no-such.sock")]
        with connection.exec_channel("exec cat") as channel:
            channel.sendall(b"by exec")
            found.append(read(channel, 7).decode())
        connection.close()
        say(found)
    """
    assert python(code) == [*told, "by exec"]


def test_one_connection_serves_several_uses_at_once(python: Any, echo: int) -> None:
    code = """
        first, second = connect("server1"), connect("server1")
        remote = "127.0.0.1:" + sys.argv[1]
        with first.dial(remote) as one, second.dial(remote) as other:
            first.close()
            other.sendall(b"still")
            said = read(other, 5).decode()
        second.close()
        say([said, connect("server1").run("echo there").output])
    """
    assert python(code, str(echo)) == ["still", "there\n"]


def test_what_is_given_up_is_made_again(python: Any) -> None:
    code = """
        connection = connect("server1")
        connection.give_up()
        say(connect("server1").run("echo there").output)
    """
    assert python(code) == "there\n"


@pytest.mark.parametrize("alias", ["login", "server1", "server1-old"])
def test_a_host_is_reached_through_its_jump_host(laptop: Site, python: Any, alias: str) -> None:
    assert python(f"say(hosts.probe({alias!r})['user'])") == laptop.users[0]


def test_an_unknown_key_is_refused_with_its_fingerprint_and_a_hint(laptop: Site, python: Any) -> None:
    known = laptop.host("laptop").path("~/.ssh/known_hosts")
    known.write_text("")
    error = python("say(tell(connect, 'server1'))")
    assert error["type"] == "HostKeyError"
    told = r"^server1: the jump host login: unknown host key \(\S+ SHA256:\S+\); compare it with the administrator's"
    assert re.search(told, error["message"]), error["message"]
    assert "then accept it by running `ssh login` once" in error["message"]
    assert known.read_text() == ""


def test_a_changed_key_is_refused_always(laptop: Site, python: Any) -> None:
    config = laptop.host("laptop").path("~/.ssh/config")
    config.write_text("StrictHostKeyChecking no\n" + config.read_text())
    laptop.host("server1").change_host_key()
    error = python("say(tell(connect, 'server1'))")
    assert error["type"] == "HostKeyError"
    told = r"^server1: its host key has CHANGED to SHA256:\S+ \(known: \S+known_hosts:\d+\)"
    assert re.search(told, error["message"]), error["message"]


def test_an_unknown_name_is_told_with_names_that_resemble_it(python: Any) -> None:
    error = python("say(tell(connect, 'servr1'))")
    assert error["type"] == "UnknownHostError" and error["network"] is True
    assert "did you mean server1" in error["message"]


def test_a_refused_login_is_not_the_network_s_fault(laptop: Site, python: Any) -> None:
    laptop.host("server2").path("~/.ssh/authorized_keys").unlink()
    error = python("say(tell(connect, 'server2', timeout=9))")
    assert (error["type"], error["network"]) == ("LoginNeededError", False)


@pytest.mark.parametrize("shell", [None, "/usr/bin/tcsh", "/usr/bin/fish"])
def test_a_jump_host_that_prohibits_forwarding_leads_on_by_a_command(
    laptop: Site, python: Any, shell: str | None
) -> None:
    login = laptop.host("login")
    login.add_sshd_config("AllowTcpForwarding no")
    if shell is not None:
        login.set_login_shell(laptop.users[0], shell)
    assert python("say(connect('server1').run('echo there').output)") == "there\n"
    hang_up(laptop)
    left = lambda: [str(one) for one in login.processes() if one.state != "Z" and "kill 0" in str(one)]  # noqa: E731
    wait_until(lambda: not left() or None, timeout=10, what="end of the relay on the jump host")


def test_a_host_that_is_cut_off_is_the_network_s_fault_in_time(
    root_site: NamespaceSite, laptop: Site, python: Any
) -> None:
    laptop.host("server1").cut()
    error = python("say(tell(connect, 'server1', timeout=3))")
    laptop.host("server1").mend()
    assert error["network"] is True and error["seconds"] < 20, error
