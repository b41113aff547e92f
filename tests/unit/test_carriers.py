"""The connection of paramiko as tunnels use it."""

from __future__ import annotations

import asyncio
import socket
import threading

import pytest

from ports import transports
from ports.errors import ConnectionLostError
from ports.tunnels.carriers import InProcess

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
    monkeypatch.setattr(transports, "connection", lambda alias, **_: Slow())
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
