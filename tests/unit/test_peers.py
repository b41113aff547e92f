"""Whose a listener is, before anything is said to it."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ports.clusters import _dask, _scheduler
from ports.errors import DaskError, ForeignListenerError
from ports.listeners import socket_user
from ports.notebooks import _jupyter
from ports.probe.socket_users import holder_of
from ports.state.waiting import wait_until

linux = pytest.mark.skipif(sys.platform != "linux", reason="others' listeners are shown on Linux only")


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def another(monkeypatch: pytest.MonkeyPatch) -> None:
    """Be another user than the one who listens."""
    monkeypatch.setattr(os, "getuid", lambda: 4242)


def address(listener: socket.socket) -> str:
    return f"127.0.0.1:{listener.getsockname()[1]}"


@linux
def test_one_s_own_listener_passes_and_a_port_of_nobody_is_told(listener: socket.socket) -> None:
    place = address(listener)
    assert socket_user.check(place, "") is True and socket_user.check(f"tls://{place}", "") is True
    listener.close()
    assert socket_user.check(place, "") is False


def test_what_is_no_address_of_the_internet_is_not_judged() -> None:
    assert socket_user.check("unix:///tmp/s", "") is None and socket_user.check("tls://server1:80", "") is None
    assert socket_user.check("inproc://10.0.0.1/1/1", "") is None and socket_user.check("", "") is None


@linux
def test_a_client_says_nothing_to_another_user_s_scheduler(listener: socket.socket, another: None) -> None:
    class Recorded:
        name, scheduler_address = "atlas", f"tls://{address(listener)}"

    with pytest.raises(ForeignListenerError, match="not to you; `ports cluster stop atlas` ends what is left"):
        _dask.connect(Recorded(), timeout=1)
    with pytest.raises(ForeignListenerError):
        _dask.call(Recorded.scheduler_address, Path("/nowhere"), "identity", cluster="atlas", timeout=1)
    with pytest.raises(BlockingIOError):
        listener.accept()


@pytest.mark.parametrize(
    "address",
    [
        *("tls://server1:80", "tls://localhost:80", "tls://10.0.0.1:80", "tls://127.0.0.1", "tcp://server1:80"),
        *("server1:80", "unix://server1", "unix:///", "inproc://10.0.0.1/1/1", "ws://127.0.0.1:80", ""),
    ],
)
def test_nothing_is_sent_to_an_address_that_no_cluster_of_ports_has(address: str) -> None:
    with pytest.raises(DaskError, match="is not an address of a cluster of ports, so nothing is sent there"):
        _dask.call(address, Path("/nowhere"), "identity", cluster="atlas", timeout=1)


@linux
def test_a_client_does_not_wait_for_a_scheduler_that_is_gone(listener: socket.socket) -> None:
    place = f"tls://{address(listener)}"
    listener.close()
    with pytest.raises(DaskError, match=f"nothing listens at {place}; `ports cluster stop atlas` ends"):
        _dask.call(place, Path("/nowhere"), "identity", cluster="atlas", timeout=30)


@linux
@pytest.mark.parametrize("operation", ["ports_scale", "ports_restart", "ports_adapt", "ports_wake"])
def test_an_order_to_a_cluster_that_is_gone_names_that_cluster(listener: socket.socket, operation: str) -> None:
    place = f"tls://{address(listener)}"
    listener.close()
    found = SimpleNamespace(files=SimpleNamespace(credentials=Path("/nowhere")))
    now: Any = SimpleNamespace(name="rv", is_ending=False, running=SimpleNamespace(address=place), found=found)
    with pytest.raises(
        DaskError, match=r"; `ports cluster stop rv` ends what is left .* `ports cluster start rv` starts"
    ):
        _scheduler._call(now, operation)


@linux
def test_a_token_is_not_sent_to_another_user_s_server(listener: socket.socket, another: None) -> None:
    with pytest.raises(ForeignListenerError, match="`ports notebook stop`"):
        _jupyter.answer(listener.getsockname()[1], "/api/status", token="secret")
    with pytest.raises(BlockingIOError):
        listener.accept()


class Passing:
    """Another user's server that listens and is gone, again and again; `got` is what it was told."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.got: list[bytes] = []
        self.listener: socket.socket | None = None

    def listen(self) -> None:
        self.listener = socket.create_server(("127.0.0.1", self.port))
        self.listener.settimeout(0.002)

    def take(self) -> None:
        """Accept who has come, listen no longer, and only then hear."""
        assert self.listener is not None
        with contextlib.suppress(OSError), self.listener:
            connection, _ = self.listener.accept()
            self.listener.close()
            with connection:
                connection.settimeout(0.2)
                self.got.append(connection.recv(1000))

    def ask(self) -> int | None:
        with contextlib.suppress(ForeignListenerError):
            return _jupyter.answer(self.port, "/api/status", token="secret", timeout=0.3)
        return None


@linux
def test_a_token_is_not_sent_to_a_listener_between_two_looks(another: None, monkeypatch: pytest.MonkeyPatch) -> None:
    server, looked = Passing(), []

    def look(place: str) -> Any:
        if not looked:  # nobody there yet; then he comes
            looked.append(holder_of(place))
            server.listen()
            return looked[0]
        thread.start()
        wait_until(lambda: holder_of(place) is None or None, timeout=5, what="his going", every=0.001)
        return None

    thread = threading.Thread(target=server.take)
    monkeypatch.setattr(socket_user, "holder_of", look)
    assert server.ask() is None
    assert looked == [None]
    if server.listener is not None:
        server.listener.close()
    if thread.ident:
        thread.join()
    assert server.got == []


# Listens on a port, is gone when somebody has come, and listens again; prints what it was told.
COME_AND_GO = """
import socket, sys, time
end, got = time.monotonic() + 4, 0
while time.monotonic() < end:
    with socket.create_server(("127.0.0.1", int(sys.argv[1]))) as listener:
        listener.settimeout(0.0005)
        try:
            connection, _ = listener.accept()
        except OSError:
            continue
    with connection:
        connection.settimeout(0.05)
        try:
            got += b"secret" in connection.recv(1000)
        except OSError:
            pass
print(got)
"""


@linux
def test_a_token_is_not_sent_to_a_port_opened_and_closed_in_a_loop(another: None) -> None:
    server = Passing()
    bob = subprocess.Popen([sys.executable, "-c", COME_AND_GO, str(server.port)], stdout=subprocess.PIPE, text=True)
    while bob.poll() is None:
        server.ask()
    assert bob.communicate()[0] == "0\n"


@linux
def test_one_s_own_server_is_asked(listener: socket.socket) -> None:
    listener.setblocking(True)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection:
            asked.append(connection.recv(1000))
            connection.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

    asked: list[bytes] = []
    thread = threading.Thread(target=serve)
    thread.start()
    assert _jupyter.answer(listener.getsockname()[1], "/api/status", token="secret") == 204
    thread.join()
    assert b"Authorization: token secret" in asked[0]


@linux
def test_the_other_end_of_a_unix_socket_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(where)
        server.listen()
        client.connect(where)
        socket_user.check_connection(client, where, "leave it")
        assert socket_user.peer_uid(client) == os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: 4242)
        with pytest.raises(ForeignListenerError, match=f"{where} belongs to .*, not to you; leave it"):
            socket_user.check_connection(client, where, "leave it")
