"""The program of ours on other hosts, through real sshds: whatever shells print, and where nothing may be forwarded."""

from __future__ import annotations

import json
import signal
import textwrap
from typing import Any

import pytest

from ports.state.waiting import wait_until
from tests.lab import Site
from tests.lab.namespaces import NamespaceSite

pytestmark = pytest.mark.timeout(120)

PRELUDE = """
import asyncio, json, os, sys
from ports import hosts
from ports.errors import PortsError
from ports.tunnels._agent_session import PYTHON, Agent

alias, answer, messages, lost = sys.argv[1], {}, [], []

async def answer_of(agent, where, owner=None):
    try:
        reader, writer = await asyncio.open_connection(sock=await agent.dial(where, owner))
    except PortsError as error:
        return str(error)
    writer.write(b"request\\n")
    said = await asyncio.wait_for(reader.readline(), 20)
    writer.close()
    return said.decode()

async def until(poll):
    for _ in range(1500):
        if poll():
            return
        await asyncio.sleep(0.02)

async def main():
    connection = hosts.connect(hosts.resolve(alias), batch=True, timeout=60)
    session = connection.exec_channel(PYTHON.format(python="python3"))
    agent = Agent(alias)
    try:
        answer["hello"] = await agent.start(session, REQUEST, on_message=messages.append, on_lost=lost.append)
        await body(agent, connection)
    except PortsError as error:
        answer["error"] = str(error)
    finally:
        agent.close()
        connection.close()
"""
# says what it heard; its first line says where it listens
ECHO = """
import socket, sys
listener = socket.create_server(("127.0.0.1", 0))
print(listener.getsockname()[1], flush=True)
while True:
    connection, _ = listener.accept()
    connection.sendall(connection.recv(100))
    connection.close()
"""


def run(site: Site, alias: str, body: str, request: str = "{}") -> dict[str, Any]:
    """Run `body`, with an `agent` on `alias`, on the laptop; return the `answer` that it fills."""
    code = PRELUDE.replace("REQUEST", request) + "async def body(agent, connection):\n" + textwrap.indent(body, "    ")
    code += "\nasyncio.run(main())\nprint(json.dumps(answer))"
    done = site.run("laptop", [site.python, "-c", code, alias], timeout=90)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def echo(site: Site, host: str, user: str | None = None) -> tuple[Any, int]:
    """Start what says what it heard on `host`; return it and its port."""
    python = "python3" if site.kind == "namespaces" else site.python
    started = site.popen(host, [python, "-c", ECHO], user=user)
    return started, int(started.stdout.readline())


@pytest.mark.parametrize("shell", ["/usr/bin/tcsh", "/usr/bin/fish", "/bin/bash"])
def test_any_login_shell_starts_it_and_output_of_start_files_is_ignored(laptop: Site, shell: str) -> None:
    server = laptop.host("server2")
    server.set_login_shell(laptop.users[0], shell)
    noise = 'echo "welcome {\\"user\\": 1}"; echo oops >&2\n'
    for file in ("~/.bashrc", "~/.tcshrc", "~/.config/fish/config.fish"):
        server.write(file, "echo welcome\necho '{'\n" if "tcsh" in file else noise)
    body = """
await until(lambda: messages)
answer["ping"] = await agent.ping(20)
answer["user"] = messages[0]["document"]["user"]
"""
    answer = run(laptop, "server2", body)
    assert answer["user"] == answer["hello"]["user"] == laptop.users[0]


def test_a_server_that_prohibits_all_forwarding_is_reached_through_it(laptop: Site) -> None:
    laptop.host("server2").add_sshd_config("AllowTcpForwarding no\nAllowStreamLocalForwarding no\n")
    started, port = echo(laptop, "server2")
    try:
        answer = run(laptop, "server2", f'answer["said"] = await answer_of(agent, "127.0.0.1:{port}")')
    finally:
        started.kill()
        started.wait(10)
    assert answer["said"] == "request\n"


def test_another_users_listener_is_named_and_connected_only_on_request(
    root_site: NamespaceSite, fresh_home: Site
) -> None:
    started, port = echo(root_site, "server2", "bob")
    body = f"""
answer["refused"] = await answer_of(agent, "127.0.0.1:{port}")
answer["said"] = await answer_of(agent, "127.0.0.1:{port}", "bob")
"""
    try:
        answer = run(root_site, "server2", body)
    finally:
        started.kill()
        started.wait(10)
    assert answer["refused"] == f"server2: 127.0.0.1:{port} belongs to bob, not to alice"
    assert answer["said"] == "request\n"


def test_a_session_that_is_cut_is_told_at_home_and_its_program_ends(laptop: Site) -> None:
    body = """
connection._process.kill()
await until(lambda: lost)
answer["lost"] = lost
try:
    await agent.ping(1)
except PortsError as error:
    answer["then"] = str(error)
"""
    answer = run(laptop, "server2", body)
    assert len(answer["lost"]) == 1
    assert answer["then"].startswith("server2: ")
    wait_until(lambda: not programs(laptop) or None, timeout=15, what="end of the program there")


def test_a_program_whose_home_fell_silent_ends_and_leaves_nothing(root_site: NamespaceSite, laptop: Site) -> None:
    body = """
print("up", flush=True)
await asyncio.sleep(60)
"""
    code = (
        PRELUDE.replace("REQUEST", '{"silence": 2}')
        + "async def body(agent, connection):"
        + textwrap.indent(body, "    ")
    )
    started = laptop.popen("laptop", [laptop.python, "-c", code + "\nasyncio.run(main())", "server2"])
    try:
        assert started.stdout is not None and started.stdout.readline() == "up\n"
        assert programs(laptop)
        laptop.host("server2").cut()
        wait_until(lambda: not programs(laptop) or None, timeout=30, what="end of the program there")
    finally:
        started.send_signal(signal.SIGKILL)
        started.wait(10)
        laptop.host("server2").mend()


def programs(site: Site) -> list[str]:
    """Return the programs of ours that run on server2."""
    found = [" ".join(one.command) for one in site.host("server2").processes() if one.state != "Z"]
    return [line for line in found if "-I -S -c import sys;exec" in line and not line.startswith("ssh")]
