"""The tunnels to one host, where its connection and its forwards fail."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ports import hosts, listeners
from ports.errors import NetworkError, ProhibitedError, SSHError
from ports.hosts import Hop, Route, Target
from ports.hosts.targets import parse
from ports.listeners import _from_probe
from ports.state import runtime_directory
from ports.tunnels import _bring_up, _records, _requests
from ports.tunnels._event_loop import Relay
from ports.tunnels._host_tunnels import HostTunnels
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._local_forward import Dial
from ports.tunnels._requests import OpenRequest
from ports.tunnels._services import Service
from ports.tunnels._tunnel import Tunnel
from ports.tunnels._visitors import Visitors
from ports.tunnels._watch import Condition
from tests.unit.test_services import document, row

SERVICE = Service("server1", "listener", "8888", "port-8888", "m", "alice", "127.0.0.1:8888", port=8888)
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"


def says(answer: bytes) -> Dial:
    """Return what connects to a service that takes a request, says this and closes."""

    async def serve(far: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with far:
            await loop.sock_recv(far, 4096)
            await loop.sock_sendall(far, answer)

    async def dial() -> socket.socket:
        near, far = socket.socketpair()
        near.setblocking(False)
        far.setblocking(False)
        tasks.append(asyncio.get_running_loop().create_task(serve(far)))
        return near

    tasks: list[asyncio.Task[None]] = []
    return dial


class StandIn:
    """A connection that is up, and over which sshd forwards nothing; or one that was lost."""

    def __init__(self) -> None:
        self.forwarded: Dial | SSHError = says(b"")
        self.agent = says(b"")
        self.cancelled: list[str] = []

    def forward(self, remotes: list[str]) -> dict[str, Dial]:
        if isinstance(self.forwarded, SSHError):
            raise self.forwarded
        return dict.fromkeys(remotes, self.forwarded)

    def forward_by_agent(self, remote: str, owner: str | None) -> Dial:
        return self.agent

    def refusal(self, remote: str) -> SSHError:
        return ProhibitedError("server1", f"its sshd prohibits forwarding to {remote}")

    def is_there(self) -> bool:
        return True

    def cancel(self, remotes: list[str]) -> None:
        self.cancelled += remotes

    def watch_users(self, remotes: Any) -> None:
        """Nobody else takes them."""


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HostTunnels]:
    monkeypatch.setenv("PORTS_HOME", str(tmp_path / "state"))
    _records.new_paths(os.getpid(), 0)
    relay, connection = Relay(), StandIn()
    made = HostTunnels(
        "server1",
        relay,
        on_change=lambda _: None,
        on_browse=lambda *_: {},
        on_node=lambda *_: None,
        on_ends=lambda *_: None,
    )
    for part in (made, made._opener):
        monkeypatch.setattr(part, "_connection", connection)
    made._watch.note_up()
    yield made
    relay.close()
    for lock in runtime_directory().glob("*.lock"):
        lock.unlink()
    with contextlib.suppress(OSError):
        runtime_directory().rmdir()


@pytest.fixture
def tunnel(host: HostTunnels, monkeypatch: pytest.MonkeyPatch) -> Tunnel:
    """Return the link of `SERVICE`, which is open."""
    made = Tunnel("server1", "listener", "8888", service=SERVICE, local=LocalAddress(share=True, port=0))
    host.tunnels.add([made])
    host._opener._listen(made)
    assert made.forward is not None
    host._opener._relay.call(made.forward.lead(says(ANSWER)))
    made.state = "open"
    return made


def test_what_another_user_takes_is_cut_before_news_of_the_host_come(host: HostTunnels, tunnel: Tunnel) -> None:
    tunnel.owner = "bob"
    host._cut(SERVICE.remote, "bob")
    assert tunnel.state == "open"
    host._cut("127.0.0.1:9999", "mallory")
    assert tunnel.state == "open"
    host._cut(SERVICE.remote, "mallory")
    assert tunnel.state == "ended" and "mallory" in str(tunnel.error)
    assert tunnel.forward is not None and tunnel.forward.dial is None
    assert host._connection.cancelled == [SERVICE.remote]  # type: ignore[attr-defined]
    assert not tunnel.is_due(time.time() + 3600)  # what is not theirs is not asked


def test_a_service_that_closes_silently_by_both_methods_is_silent(host: HostTunnels, tunnel: Tunnel) -> None:
    assert host._opener._prove(tunnel, 5.0) == "silent"
    assert "closes connections without an answer" in str(tunnel.note)


def test_what_sshd_does_not_forward_is_open_by_the_second_method(host: HostTunnels, tunnel: Tunnel) -> None:
    host._connection.agent = says(ANSWER)  # type: ignore[attr-defined]
    assert host._opener._prove(tunnel, 5.0) == "open"
    assert _records.forward_method("server1", is_unix=False) == "agent"


def test_an_open_link_stays_when_it_is_opened_again_during_a_cut(host: HostTunnels, tunnel: Tunnel) -> None:
    host._connection.forwarded = SSHError("server1", "the connection was lost")  # type: ignore[attr-defined]
    with contextlib.suppress(SSHError):
        host._opener.open([], [tunnel], is_first=True)
    assert tunnel.ports and tunnel.state in ("open", "ended")


def test_a_port_shut_while_its_service_was_found_open_leads_there_again(
    host: HostTunnels, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tunnel.forward is not None
    host._opener._relay.call(tunnel.forward.shut(tunnel.page("")))  # the connection went down just now
    host._connection.forwarded = says(ANSWER)  # type: ignore[attr-defined]
    monkeypatch.setattr(_from_probe, "from_probe", lambda document, host: [])
    monkeypatch.setattr(_requests, "choose", lambda *_: ({"port-8888": (SERVICE, OpenRequest(()))}, {}))
    host._take({}, [])
    assert (tunnel.state, tunnel.forward.dial is None) == ("open", False)


@pytest.mark.parametrize(("alias", "start"), [("localhost", "cluster start"), ("server1", "cluster start -H server1")])
def test_nothing_to_open_is_told_with_a_command_that_works(host: HostTunnels, alias: str, start: str) -> None:
    host.alias = alias
    host._add_nothing(can_start=True)
    assert f"`ports {start}` starts one" in str([one.note for one in host.tunnels][-1])


def test_a_link_that_is_open_becomes_shared_once_share_is_given(
    host: HostTunnels, tunnel: Tunnel, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert tunnel.forward is not None
    tunnel.local, tunnel.forward.visitors = LocalAddress(), Visitors("server1:8888")
    host._connection.forwarded = says(ANSWER)  # type: ignore[attr-defined]
    monkeypatch.setattr(_from_probe, "from_probe", lambda document, host: [])
    for share in (False, True, False):  # what is shared stays so
        request = OpenRequest((), local=LocalAddress(share=share))
        monkeypatch.setattr(_requests, "choose", lambda *_, one=request: ({"port-8888": (SERVICE, one)}, {}))
        host._take({}, [request], is_first=True)
        if not share and not tunnel.local.share:
            assert tunnel.forward.visitors is not None
    assert tunnel.forward.visitors is None and tunnel.local.share and len(list(host.tunnels)) == 1


def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Return a list that gets what a probe is asked; each fails."""
    seen: list[tuple[Any, ...]] = []

    def probe(*asked: Any, **_: Any) -> None:
        seen.append(asked)
        raise NetworkError("server1", "does not answer")

    monkeypatch.setattr(hosts, "probe", probe)
    return seen


def test_a_host_is_asked_by_its_name_before_it_was_ever_reached(
    host: HostTunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    def connect(*_: Any, **__: Any) -> None:
        raise NetworkError("server1", "does not answer")

    seen = asked(monkeypatch)
    monkeypatch.setattr(hosts, "resolve", lambda alias, **_: Route(alias, (), "ssh"))
    monkeypatch.setattr(hosts, "connect", connect)
    monkeypatch.setattr(host, "_connection", host._watch._connection)
    for _ in range(2):
        with pytest.raises(NetworkError, match="server1: does not answer"):
            host.open(OpenRequest((Target("server1", port=6006),)), batch=True)
    host.close()
    assert [alias for alias, _ in seen] == ["server1"]


def test_a_node_is_asked_for_the_other_nodes_of_its_name_too(
    host: HostTunnels, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen, connection = asked(monkeypatch), host._watch._connection
    names = {"called": "login.site", "nodes": ["login2.site"]}
    connection._route, connection._request = Route("login/login1", (Hop("login", "h", "u", 22),), "ssh"), {**names}
    with pytest.raises(NetworkError):
        connection.probe(everybody=True, batch=True)
    assert seen == [("login/login1", {**names, "all": True})]


def test_a_request_that_is_added_while_another_is_withdrawn_stays(host: HostTunnels) -> None:
    """Several processes ask one that keeps tunnels at the same moment."""
    other = OpenRequest((Target("server1", port=6666),))
    adds = threading.Thread(target=host._add_request, args=(other,))

    class Targets(tuple[Target, ...]):
        """Lets the other process ask while these are looked at."""

        def __iter__(self) -> Iterator[Target]:
            if not adds.is_alive() and other not in host._requests:
                adds.start()
                adds.join(0.2)
            return super().__iter__()

    host._requests = [OpenRequest(Targets((Target("server1", port=5555),)))]
    host.withdraw([Target("server1", port=5555)])
    adds.join(10)
    assert host._requests == [other]


@pytest.mark.parametrize("condition", ["up", "down", "needs login"])
def test_a_link_that_another_process_closed_is_no_longer_called_open(
    host: HostTunnels, monkeypatch: pytest.MonkeyPatch, condition: str
) -> None:
    tunnel = Tunnel("server1", "listener", "8888", "open", SERVICE, 1234, reuse=True, is_elsewhere=True)
    tunnel.local = LocalAddress(share=True)
    host.tunnels.add([tunnel])
    host._connection.forwarded = says(ANSWER)  # type: ignore[attr-defined]
    kept = [(object(), {"state": "open", "local_port": 1234})]
    monkeypatch.setattr(_records, "open_elsewhere", lambda *_, **__: kept[0] if kept else None)
    monkeypatch.setattr(_bring_up, "_is_shared_by", lambda *_: True)
    monkeypatch.setattr(_bring_up, "_keeps", lambda record: "process 1")
    host.retry()
    assert (tunnel.state, tunnel.local_port, tunnel.is_elsewhere) == ("open", 1234, True)
    kept.clear()
    host._watch.condition = Condition(condition, time.time(), None if condition == "up" else SSHError("server1", "no"))
    host.retry()
    is_up = condition == "up"
    assert (tunnel.state, bool(tunnel.ports)) == (("open", True) if is_up else (condition, False))
    assert not tunnel.is_elsewhere and tunnel.local_port != 1234 if is_up else tunnel.error is not None


def asks(*requests: tuple[str, LocalAddress]) -> LocalAddress:
    """Return where the service at port 8888 is served, of several requests for it, once it is there."""
    asked = [OpenRequest((parse(target),), local=local) for target, local in requests]
    there = document(row(8888, kind="notebook", http=True, root="/home/alice/lab", token="t", url_path="lab"))
    wanted, _ = _requests.choose(there, listeners.from_probe(there, "far"), asked)
    ((_, chosen),) = wanted.values()
    return chosen.local


PRIVATE, SHARED = LocalAddress(), LocalAddress(share=True)


@pytest.mark.parametrize(
    ("requests", "local"),
    [
        ([("far", PRIVATE), ("far", SHARED)], SHARED),
        ([("far", SHARED), ("far", PRIVATE)], SHARED),
        ([("far", PRIVATE), ("far:lab", SHARED)], SHARED),
        ([("far", PRIVATE), ("far:8888", LocalAddress(port=7000))], LocalAddress(port=7000)),
        ([("far:lab", LocalAddress(port=7000)), ("far", PRIVATE)], LocalAddress(port=7000)),
        ([("far:lab", LocalAddress(port=7000)), ("far", SHARED)], LocalAddress(port=7000, share=True)),
        ([("far:lab", LocalAddress(socket="/s")), ("far", SHARED)], LocalAddress(socket="/s")),
    ],
)
def test_what_starts_later_is_opened_with_the_options_of_its_request(
    requests: list[tuple[str, LocalAddress]], local: LocalAddress
) -> None:
    assert asks(*requests) == local


def test_an_ended_link_is_shared_when_it_is_back_if_that_was_asked_for(host: HostTunnels) -> None:
    """Another process asks for it with --share while its service is gone."""
    host._connection.forwarded = says(ANSWER)  # type: ignore[attr-defined]
    lab = row(8888, kind="notebook", http=True, root="/home/alice/lab", token="t", url_path="lab")
    host._add_request(OpenRequest((Target("server1", "lab"),)))
    host._take(document(lab), host._requests)
    host._take(document(), host._requests)
    (tunnel,) = host.tunnels
    assert (tunnel.state, tunnel.local.share) == ("ended", False)
    host._add_request(OpenRequest((Target("server1", "lab"),), local=SHARED))
    host._take(document(lab), host._requests)
    assert tunnel.forward is not None
    assert (tunnel.state, tunnel.local.share, tunnel.forward.visitors) == ("open", True, None)


def test_a_notebook_that_starts_later_is_shared_if_its_request_was(host: HostTunnels) -> None:
    """Two requests of other processes, and then the service comes up."""
    host._add_request(OpenRequest((Target("server1"),)))
    host._add_request(OpenRequest((Target("server1", "lab"),), local=SHARED, reuse=True))
    host._connection.forwarded = says(ANSWER)  # type: ignore[attr-defined]
    lab = row(8888, kind="notebook", http=True, root="/home/alice/lab", token="t", url_path="lab")
    host._take(document(lab), host._requests)
    (tunnel,) = host.tunnels
    assert tunnel.state == "open" and tunnel.forward is not None
    assert tunnel.forward.visitors is None and tunnel.local.share and tunnel.reuse
