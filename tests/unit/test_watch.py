"""The watch of a connection: what must not hold it up, and what must not make it hurry."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ports import hosts
from ports.errors import BusyError, FarSideError, NetworkError, SlowError, SSHError
from ports.hosts import Hop, Route
from ports.state.waiting import wait_until
from ports.tunnels import _watch
from ports.tunnels._event_loop import Relay
from ports.tunnels._host_connection import HostConnection
from ports.tunnels._watch import Watch


class Program:
    """Stands for our program on a host."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.last_heard = 0.0

    def send(self, message: dict[str, Any]) -> None:
        self.sent.append(message)

    def close(self) -> None:
        """Nothing runs."""


class Waits:
    """Stands for the end of a connection: notes how long it is waited for."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def wait(self, timeout: float) -> bool:
        self.seconds.append(timeout)
        return False

    def is_set(self) -> bool:
        return False

    def set(self) -> None:
        """It is over."""

    def clear(self) -> None:
        """It goes on."""


class Taken:
    """What a connection told."""

    def __init__(self) -> None:
        self.let_browse = threading.Event()
        self.strangers: list[tuple[str, str]] = []
        self.received = 0

    def browse(self, message: dict[str, Any]) -> dict[str, Any]:
        self.let_browse.wait(20)
        return {"ok": True}

    def stranger(self, remote: str, user: str) -> None:
        self.strangers.append((remote, user))


@pytest.fixture
def taken() -> Taken:
    return Taken()


@pytest.fixture
def watch(taken: Taken) -> Iterator[Watch]:
    relay = Relay()
    made = Watch(
        HostConnection(relay),
        relay,
        on_condition=lambda condition: None,
        on_document=lambda document: None,
        received=lambda: taken.received,
        on_stranger=taken.stranger,
        on_browse=taken.browse,
        on_ends=lambda told: None,
    )
    yield made
    taken.let_browse.set()
    relay.close()


def run(watch: Watch) -> Program:
    """Let a program of ours run on the host."""
    program: Any = Program()
    watch._connection.agent = program
    return program  # type: ignore[no-any-return]


def test_who_takes_a_guarded_port_is_told(watch: Watch, taken: Taken) -> None:
    program = run(watch)
    watch._connection.watch_users(["127.0.0.1:2", "127.0.0.1:1", "127.0.0.1:2"])
    wait_until(lambda: program.sent or None, timeout=10, what="the message")
    for user, mine in ((None, False), ("alice", True), ("bob", False)):
        watch._take(watch._connection.agent, {"type": "users", "remote": "127.0.0.1:1", "user": user, "mine": mine})
    assert taken.strangers == [("127.0.0.1:1", "bob")]
    assert program.sent == [{"type": "users", "remotes": ["127.0.0.1:1", "127.0.0.1:2"]}]


def test_a_connection_that_ends_at_once_is_made_again_with_growing_pauses(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: Any = Waits()
    monkeypatch.setattr(watch._connection, "closing", waits)
    monkeypatch.setattr(watch._connection, "reconnect", lambda *_, **__: {})
    for _ in range(12):
        watch._mend(SSHError("server1", "the process that watches has ended"))
    assert waits.seconds[:5] == [0.0, 0.3, 0.6, 1.2, 2.4] and waits.seconds[-1] == 60.0
    watch._up_at -= 10  # it was up for a while
    watch._mend(SSHError("server1", "nothing came back for 10 s"))
    assert waits.seconds[-1] == 0.0


def test_a_slow_host_gets_more_time_and_a_silent_one_is_tried_often(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow, silent = SlowError("server1", "the login did not end in its time"), NetworkError("server1", "does not answer")
    shell = FarSideError("server1", "no answer of python3 there")
    answers: list[Any] = [silent, slow, shell, slow, slow, silent, {}]
    given: list[float] = []

    def connect(alias: str, *, timeout: float) -> dict[str, Any]:
        given.append(timeout)
        answer = answers.pop(0)
        if isinstance(answer, SSHError):
            raise answer
        return {}

    monkeypatch.setattr(watch._connection, "closing", Waits())
    monkeypatch.setattr(watch, "_again", Waits())
    monkeypatch.setattr(watch._connection, "reconnect", connect)
    watch._mend(SSHError("server1", "nothing came back for 10 s"))
    assert given == [3, 3, 6, 12, 24, 24, 3]


def test_that_somebody_else_connects_does_not_hide_why_it_is_down(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[str] = []
    answers: list[Any] = [NetworkError("server1", "does not answer"), BusyError("server1", "still connecting"), {}]

    def connect(*_: Any, **__: Any) -> dict[str, Any]:
        known.append(str(watch.condition.error))
        answer = answers.pop(0)
        if isinstance(answer, SSHError):
            raise answer
        return {}

    monkeypatch.setattr(watch._connection, "closing", Waits())
    monkeypatch.setattr(watch, "_again", Waits())
    monkeypatch.setattr(watch._connection, "reconnect", connect)
    watch._mend(SSHError("server1", "nothing came back for 10 s"))
    silent = "server1: does not answer"
    assert known == ["server1: nothing came back for 10 s", silent, silent]


def test_a_browser_that_takes_its_time_does_not_hold_up_the_watch(watch: Watch, taken: Taken) -> None:
    program = run(watch)
    began = time.monotonic()
    watch._take(watch._connection.agent, {"type": "browse", "id": 7, "name": "main"})
    assert time.monotonic() - began < 5 and not program.sent
    taken.let_browse.set()
    wait_until(lambda: program.sent or None, timeout=10, what="the answer")
    assert program.sent == [{"type": "browse", "id": 7, "ok": True}]


def test_without_unix_sockets_a_new_key_ends_the_wait_for_a_login(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = tmp_path / "key"
    options = (("identityfile", str(key)), ("identityagent", "none"))
    route = Route("server1", (Hop("server1", "10.0.0.1", "alice", 22, options=options),), "paramiko")
    with monkeypatch.context() as windows:
        windows.delattr(socket, "AF_UNIX")
        assert not hosts.is_connected(route)
        without = hosts.login_keys(route)
        key.write_text("a key")
        assert without is not None and hosts.login_keys(route) != without


def test_a_connection_that_carries_a_download_is_not_dead(watch: Watch, taken: Taken) -> None:
    program = run(watch)
    program.last_heard = time.monotonic() - 100

    def look(*, after: float) -> str | None:
        """Look once more when nothing was heard for some seconds."""
        watch._heartbeat.pinged_at = time.monotonic()
        watch._heartbeat.waits_since -= after
        return watch._heartbeat.silence(program)  # type: ignore[arg-type]

    watch._heartbeat.waits_since = time.monotonic()
    for _ in range(3):
        taken.received += 1 << 16
        assert look(after=20) is None
    assert look(after=5) is None
    assert "nothing came back" in str(look(after=5))


def test_a_refused_first_login_is_tried_again_only_when_somebody_asks(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers: list[Any] = [SSHError("server1", "permission denied (publickey)"), {}]
    tried: list[str] = []

    def connect(*_: Any, **__: Any) -> dict[str, Any]:
        tried.append(watch.condition.state)
        answer = answers.pop(0)
        if isinstance(answer, SSHError):
            raise answer
        return {}

    monkeypatch.setattr(watch._connection, "reconnect", connect)
    monkeypatch.setattr(hosts, "resolve", lambda alias: None)
    monkeypatch.setattr(hosts, "login_keys", lambda route: None)
    looked = threading.Event()
    monkeypatch.setattr(hosts, "is_connected", lambda route: looked.set())
    watch.condition = replace(watch.condition, state="connecting")
    mends = threading.Thread(target=watch._mend, args=(SSHError("server1", "the connection was lost"),))
    mends.start()
    assert looked.wait(20)
    assert tried == ["connecting"] and watch.condition.state == "down"
    watch.hurry()
    mends.join(20)
    assert tried == ["connecting", "down"] and watch.is_up


def test_a_network_that_is_down_is_awaited_before_a_login(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    address = silent.getsockname()
    silent.close()
    monkeypatch.setattr(watch._connection, "reconnect", lambda *_, **__: {})
    watch._first_addresses = [(socket.AF_INET, address)]  # it refuses, so the network is there
    watch._mend(SSHError("server1", "nothing came back for 8 s"), network_is_down=True)
    assert watch.is_up


def test_another_network_in_which_a_name_has_another_address_is_found(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_watch, "_LOOK_UP_SECONDS", 0.1)
    monkeypatch.setattr(watch._connection, "reconnect", lambda *_, **__: {})
    watch._first_addresses = [(socket.AF_INET, ("255.255.255.255", 9))]
    with socket.create_server(("127.0.0.1", 0)) as server:
        hop = Hop("server1", "127.0.0.1", "me", server.getsockname()[1])
        monkeypatch.setattr(hosts, "resolve", lambda alias: Route("server1", (hop,), "ssh"))
        watch._mend(SSHError("server1", "nothing came back for 8 s"), network_is_down=True)
    assert watch.is_up and watch._first_addresses == [(socket.AF_INET, server_of(hop))]


def server_of(hop: Hop) -> tuple[str, int]:
    return hop.hostname, hop.port


def test_a_taken_connection_says_that_the_network_is_there() -> None:
    over = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert hosts.await_answer([(socket.AF_INET, server.getsockname())], timeout=20, over=over)
        server.accept()[0].close()
    no_way = [(socket.AF_INET, ("255.255.255.255", 9))]
    assert not hosts.await_answer(no_way, timeout=0.6, over=over)
    assert not hosts.await_answer([], timeout=0.3, over=over)
    over.set()
    assert not hosts.await_answer(no_way, timeout=600, over=over)


def test_the_network_of_a_command_that_connects_is_not_known() -> None:
    hop = Hop("a", "127.0.0.1", "me", 22)
    assert hosts.first_addresses(Route("a", (hop,), "ssh")) == [(socket.AF_INET, ("127.0.0.1", 22))]
    assert hosts.first_addresses(Route("a", (replace(hop, proxy_command="nc x 22"),), "ssh")) == []
    assert hosts.first_addresses(Route("a", (hop,), "none")) == []
    assert hosts.first_addresses(Route("a", (replace(hop, hostname="no.such.host.invalid"),), "ssh")) == []
