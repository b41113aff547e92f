"""Connections of other users to a cluster end where they are accepted."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from distributed.comm import connect, listen
from distributed.comm.registry import backends
from distributed.security import Security
from tornado.netutil import bind_unix_socket
from tornado.web import Application, RequestHandler

import ports
from ports.clusters._certificates import write_self_signed

sys.path.append(str(Path(ports.__file__).parent / "clusters/owner"))  # last, as in a cluster

from ports_owner import dashboard_gate as gate
from ports_owner import peer_check
from ports_owner.ground import probe as ground

callers = ground.callers

linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel tells on Linux only")
root = pytest.mark.skipif(os.getuid() != 0, reason="only root can act as another user")

STRANGER = 54_321
# Connects to each of the places and says nothing; prints for each whether it was closed within two seconds.
CALL = f"""
import os, socket, sys
os.setgid({STRANGER}); os.setuid({STRANGER})
for place in sys.argv[1:]:
    connection = socket.socket(socket.AF_UNIX if "/" in place else socket.AF_INET)
    connection.settimeout(2)
    try:
        connection.connect(place if "/" in place else ("127.0.0.1", int(place)))
        print(connection.recv(12).decode(errors="replace") or "closed")
    except TimeoutError:
        print("held")
    except ConnectionError:
        print("closed")
"""


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


async def called(*places: object) -> list[str]:
    """Return what another user gets at Unix sockets and ports, a word for each."""
    command = [sys.executable, "-c", CALL, *map(str, places)]
    done = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    return (await done.communicate())[0].decode().splitlines()


def refuse_netlink(*args: object) -> None:
    raise OSError(errno.EPROTONOSUPPORT, "no netlink here")


@linux
@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_the_kernel_tells_whose_the_other_end_is(listener: socket.socket, family: socket.AddressFamily) -> None:
    here = listener.getsockname()
    with socket.socket(family) as client:
        client.connect(("::ffff:127.0.0.1" if family == socket.AF_INET6 else "127.0.0.1", here[1]))
        accepted, there = listener.accept()
        with accepted:
            for ask in (callers.ask_kernel, callers.look_through):
                assert ask(there, here) == (os.getuid(), callers.ESTABLISHED)
            assert callers.uid_of(there, here) == os.getuid()
            assert not peer_check.is_refused(accepted)


@linux
def test_an_end_that_is_gone_is_nobody_s_not_root_s(listener: socket.socket) -> None:
    """The kernel gives uid 0 for a socket that no process has: a stranger can close before the check."""
    client = socket.create_connection(listener.getsockname())
    accepted, there = listener.accept()
    client.close()
    with accepted:
        for ask in (callers.ask_kernel, callers.look_through):
            uid, state = ask(there, listener.getsockname())
            assert uid == callers.NO_PROCESS and state != callers.ESTABLISHED
        assert peer_check.is_refused(accepted)


@linux
def test_without_netlink_proc_is_looked_through(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(callers, "ask_kernel", refuse_netlink)
    with socket.create_connection(listener.getsockname()) as client:
        accepted, there = listener.accept()
        with accepted:
            assert callers.uid_of(there, listener.getsockname()) == os.getuid()
            monkeypatch.setattr(callers, "look_through", lambda *places: None)  # another machine's /proc
            assert callers.uid_of(there, listener.getsockname()) == callers.UNKNOWN
            assert not peer_check.is_refused(accepted) and client


@linux
@pytest.mark.parametrize(
    ("state", "refused"), [(callers.ESTABLISHED, False), (8, True)], ids=["connected", "closed by the peer"]
)
def test_a_peer_outside_of_this_network_passes_while_it_is_connected(
    listener: socket.socket, monkeypatch: pytest.MonkeyPatch, state: int, refused: bool
) -> None:
    """The kernel knows only one end, this one."""
    here = listener.getsockname()
    monkeypatch.setattr(callers, "ask_kernel", lambda own, other: (os.getuid(), state) if own == here else None)
    with socket.create_connection(here) as client:
        accepted, _ = listener.accept()
        with accepted:
            assert peer_check.is_refused(accepted) is refused and client


class Page(RequestHandler):
    def post(self) -> None:
        self.write("a page")


async def at_web_servers(tmp_path: Path, call: Callable[..., Awaitable[Any]]) -> Any:
    """Return what `call` gets at a dashboard on a Unix socket that all can reach, and at its gate."""
    application = Application([("/", Page)])
    server = peer_check.OwnServer(application)
    where = tmp_path / "s"
    server.add_socket(bind_unix_socket(str(where), mode=0o777))
    gated, port = gate.open_gate(application, "token", "main")
    try:
        return await call(where, port)
    finally:
        server.stop()
        gated.stop()


@linux
@root
def test_another_user_gets_no_word_from_a_dashboard_whatever_the_modes_say() -> None:
    import tempfile

    with tempfile.TemporaryDirectory(dir="/tmp") as made:
        Path(made).chmod(0o777)
        assert asyncio.run(at_web_servers(Path(made), called)) == ["closed", "closed"]


@linux
def test_one_s_own_requests_are_answered_and_no_large_body_is_waited_for(tmp_path: Path) -> None:
    async def ask(where: Path, port: int) -> list[bytes]:
        unix, tcp = await asyncio.open_unix_connection(str(where)), await asyncio.open_connection("127.0.0.1", port)
        said = []
        for (reader, writer), length in ((unix, 0), (tcp, 10**6)):
            writer.write(f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n\r\n".encode())
            said.append(await asyncio.wait_for(reader.read(12), 5))
            writer.close()
        return said

    assert asyncio.run(at_web_servers(tmp_path, ask)) == [b"HTTP/1.1 200", b"HTTP/1.1 400"]


@linux
@root
def test_another_user_gets_no_handshake_of_a_scheduler_or_worker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(backends, "tls", backends["tls"])
    peer_check.register()
    file = tmp_path / "credentials"
    write_self_signed(file)
    files = {f"tls_{role}_{part}": str(file) for role in ("client", "scheduler") for part in ("cert", "key")}
    security = Security(tls_ca_file=str(file), require_encryption=True, **files)

    async def echo(comm: Any) -> None:
        await comm.write(await comm.read())

    async def both() -> tuple[list[str], object]:
        async with listen("tls://127.0.0.1:0", echo, **security.get_listen_args("scheduler")) as found:
            strangers = await called(found.contact_address.rpartition(":")[2])
            comm = await connect(found.contact_address, timeout=5, **security.get_connection_args("client"))
            await comm.write("hello")
            answer = await comm.read()
            await comm.close()
            return strangers, answer

    assert asyncio.run(both()) == (["closed"], "hello")


def test_the_log_is_told_once_a_minute_of_what_is_refused(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(peer_check.time, "monotonic", lambda: now[0])
    refusals = peer_check.Refusals()
    for _ in range(5):
        refusals.add(STRANGER, "127.0.0.1:8786")
    refusals.add(callers.NO_PROCESS, "127.0.0.1:8786")
    now[0] += 61
    refusals.add(STRANGER, "127.0.0.1:8786")
    told = [record.getMessage() for record in caplog.records]
    assert [text.rpartition(" ")[2] for text in told] == ["1", "5"] and f"uid {STRANGER}" in told[0]
