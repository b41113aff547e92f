"""Whose a listener is, before anything is said to it."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ports import peers
from ports.adapters import dask, jupyter
from ports.errors import DaskError, ForeignListenerError

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
    assert peers.check(place, "") is True and peers.check(f"tls://{place}", "") is True
    listener.close()
    assert peers.check(place, "") is False


def test_what_is_no_address_of_the_internet_is_not_judged() -> None:
    assert peers.check("unix:///tmp/s", "") is None and peers.check("tls://server1:80", "") is None
    assert peers.check("inproc://10.0.0.1/1/1", "") is None and peers.check("", "") is None


@linux
def test_a_client_says_nothing_to_another_user_s_scheduler(listener: socket.socket, another: None) -> None:
    class Recorded:
        scheduler_address = f"tcp://{address(listener)}"

    with pytest.raises(ForeignListenerError, match="not to you; `ports cluster stop` ends what is left"):
        dask.connect(Recorded(), timeout=1)
    with pytest.raises(ForeignListenerError):
        dask.call(Recorded.scheduler_address, Path("/nowhere"), "identity", timeout=1)
    with pytest.raises(BlockingIOError):
        listener.accept()


@linux
def test_a_client_does_not_wait_for_a_scheduler_that_is_gone(listener: socket.socket) -> None:
    place = f"tls://{address(listener)}"
    listener.close()
    with pytest.raises(DaskError, match=f"nothing listens at {place}"):
        dask.call(place, Path("/nowhere"), "identity", timeout=30)


@linux
def test_a_token_is_not_sent_to_another_user_s_server(listener: socket.socket, another: None) -> None:
    with pytest.raises(ForeignListenerError, match="`ports notebook stop`"):
        jupyter.answer(listener.getsockname()[1], "/api/status", token="secret")
    with pytest.raises(BlockingIOError):
        listener.accept()


@linux
def test_the_other_end_of_a_unix_socket_is_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    where = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as client:
        server.bind(where)
        server.listen()
        client.connect(where)
        peers.check_connection(client, where, "leave it")
        assert peers.uid_behind(client) == os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: 4242)
        with pytest.raises(ForeignListenerError, match=f"{where} belongs to .*, not to you; leave it"):
            peers.check_connection(client, where, "leave it")
