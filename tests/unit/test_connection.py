"""The use of a connection by each transport."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import threading
from pathlib import Path

import pytest

from ports.errors import ConnectionLostError, ProhibitedError
from ports.hosts import Hop, Route, _connect
from ports.hosts._connection import NothingRanError
from ports.hosts.openssh import Master, SSHConnection
from ports.hosts.openssh.connection import _new_socket
from ports.hosts.paramiko import ParamikoConnection

AT_ONCE = 40
HOP = Hop("server1", "10.0.0.1", "alice", 22)


class Slow:
    """A connection whose far side answers when all have asked, as one far away does; a real one cannot be told to."""

    def __init__(self) -> None:
        self.all_asked = threading.Barrier(AT_ONCE)

    def dial(self, remote: str, *, timeout: float = 15.0) -> socket.socket:
        self.all_asked.wait(20)
        return socket.socket()

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def in_process() -> ParamikoConnection:
    return ParamikoConnection(Route("server1", (HOP,), "paramiko"), Slow())  # type: ignore[arg-type]


def test_connections_of_a_slow_host_do_not_wait_for_each_other(in_process: ParamikoConnection) -> None:
    async def dial_all() -> list[socket.socket]:
        dial = in_process.forward(["127.0.0.1:8888"])["127.0.0.1:8888"]
        return await asyncio.gather(*(dial() for _ in range(AT_ONCE)))

    try:
        for made in asyncio.run(dial_all()):
            made.close()
    finally:
        in_process.close()


def test_a_connection_that_was_closed_says_so(in_process: ParamikoConnection) -> None:
    dial = in_process.forward(["127.0.0.1:8888"])["127.0.0.1:8888"]
    in_process.give_up()
    with pytest.raises(ConnectionLostError, match="server1: the connection was closed"):
        asyncio.run(dial())  # type: ignore[arg-type]


@pytest.fixture
def own_master(tmp_path: Path) -> SSHConnection:
    """Return the use of a connection that the user started; it tells nobody but her why it refuses."""
    mine = Master("server1", tmp_path / "mine", Path(os.devnull), HOP, users=True)
    return SSHConnection(Route("server1", (HOP,), "ssh"), mine)


def test_a_refusal_by_the_users_connection_is_tried_by_another_method(own_master: SSHConnection) -> None:
    assert isinstance(own_master.refusal("127.0.0.1:8888"), ProhibitedError)


def test_a_forward_never_has_the_name_of_one_that_a_killed_process_left() -> None:
    left = {f"t{os.getpid()}-{number}.sock" for number in range(1000)}
    made = [_new_socket().name for _ in range(10)]
    assert len(set(made)) == 10 and not left & set(made)
    assert all(name.startswith(f"t{os.getpid()}-") for name in made)  # by which it is removed, once the process is dead


def test_a_command_that_never_ran_runs_once_more_and_then_it_is_lost(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class EndsAtOnce:
        is_fresh = True

        def run(self, command: str, **_: object) -> None:
            ran.append(command)
            raise NothingRanError("server1", "the connection ended at once, twice")

        def give_up(self) -> None:
            """Nothing is left."""

    ran: list[str] = []
    monkeypatch.setattr(_connect, "connect", lambda *_, **__: EndsAtOnce())
    with pytest.raises(ConnectionLostError, match="ended at once, twice") as raised:
        _connect.run(Route("server1", (HOP,), "ssh"), "true")
    # its name stands in the JSON of a failure, and `ports` at home knows those of `ports.errors`
    assert (type(raised.value), ran) == (ConnectionLostError, ["true", "true"])


@pytest.mark.parametrize(("words", "answer"), [("sleep 0.15; echo done", b"done\n"), ("sleep 9", None)])
def test_an_answer_that_comes_at_the_moment_of_ctrl_c_is_taken(
    own_master: SSHConnection, words: str, answer: bytes | None
) -> None:
    process = subprocess.Popen(["sh", "-c", words], stdin=-1, stdout=-1, stderr=-1, start_new_session=True)
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        found = own_master._communicate(process, b"", 20)[0]
    except KeyboardInterrupt:
        found = None
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert found == answer
