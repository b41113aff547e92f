"""What carries connections, as tunnels use it."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from pathlib import Path

import pytest

from ports.errors import ConnectionLostError, ProhibitedError
from ports.hosts import _transport, openssh
from ports.hosts._connection import SSH, InProcess
from ports.hosts.openssh import Destination, Host, Master

AT_ONCE = 40


class Slow:
    """A connection whose far side answers when all have asked, as one far away does; a real one cannot be told to."""

    def __init__(self) -> None:
        self.all_asked = threading.Barrier(AT_ONCE)

    def dial(self, remote: str) -> socket.socket:
        self.all_asked.wait(20)
        return socket.socket()

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def carrier(monkeypatch: pytest.MonkeyPatch) -> InProcess:
    monkeypatch.setattr(_transport, "connection", lambda alias, **_: Slow())
    return InProcess("server1", batch=True, timeout=None)


def test_connections_of_a_slow_host_do_not_wait_for_each_other(carrier: InProcess) -> None:
    async def dial_all() -> list[socket.socket]:
        dial = carrier.lead(["127.0.0.1:8888"])["127.0.0.1:8888"]
        return await asyncio.gather(*(dial() for _ in range(AT_ONCE)))

    try:
        for made in asyncio.run(dial_all()):
            made.close()
    finally:
        carrier.close()


def test_a_connection_that_was_closed_says_so(carrier: InProcess) -> None:
    dial = carrier.lead(["127.0.0.1:8888"])["127.0.0.1:8888"]
    carrier.give_up()
    with pytest.raises(ConnectionLostError, match="server1: the connection was closed"):
        asyncio.run(dial())  # type: ignore[arg-type]


@pytest.fixture
def own_master(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> SSH:
    """Return a carrier by a connection that the user started; it tells nobody but her why it refuses."""
    host = Host(Destination("server1"), "10.0.0.1", "alice", 22)
    mine = Master("server1", tmp_path / "mine", Path(os.devnull), host, users=True)
    monkeypatch.setattr(openssh, "connect", lambda alias, **_: mine)
    return SSH("server1", batch=True, timeout=None)


def test_what_the_own_connection_of_the_user_refuses_is_tried_by_the_other_door(own_master: SSH) -> None:
    assert isinstance(own_master.refusal("127.0.0.1:8888"), ProhibitedError)


def test_a_forward_has_no_name_that_a_killed_process_of_the_same_number_may_have_left(own_master: SSH) -> None:
    left = {f"t{os.getpid()}-{number}.sock" for number in range(1000)}
    made = [own_master._new_socket().name for _ in range(10)]
    assert len(set(made)) == 10 and not left & set(made)
    assert all(name.startswith(f"t{os.getpid()}-") for name in made)  # by which it is removed, once the process is dead
