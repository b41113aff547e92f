"""Which users of this machine get through the local end of a link."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ports import machine
from ports.hosts._connection import to_unix_socket
from ports.probe import callers
from ports.tunnels import _browser, _down_page, _local_address, _visitors
from ports.tunnels._event_loop import Relay, bind
from ports.tunnels._local_address import LocalAddress
from ports.tunnels._local_forward import LocalForward
from ports.tunnels._services import Service
from ports.tunnels._visitors import Visitors
from tests.unit.test_callers import STRANGER, linux, refuse_netlink, root

#: Asks for a page as another user, or as this one for the uid 0; prints what came back.
ASK = """
import os, socket, sys
uid, address, port = int(sys.argv[1]), sys.argv[2], int(sys.argv[3])
if uid:
    os.setgid(uid); os.setuid(uid)
with socket.create_connection((address, port), 10) as connection:
    try:
        connection.sendall(b"GET / HTTP/1.1\\r\\nHost: localhost\\r\\n\\r\\n")
        print(connection.recv(65536).decode())
    except ConnectionError:
        print("closed")
"""
Open = Callable[..., int]


def ask(port: int, *, uid: int = 0, address: str = "127.0.0.1") -> str:
    words = [sys.executable, "-c", ASK, str(uid), address, str(port)]
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=True).stdout


@pytest.fixture
def asked() -> list[bytes]:
    """What the service was asked."""
    return []


@pytest.fixture
def serve(tmp_path: Path, asked: list[bytes]) -> Iterator[Open]:
    """Return a function that opens a link to a service, and returns its local port."""
    relay = Relay()
    service = socket.socket(socket.AF_UNIX)
    service.bind(str(tmp_path / "far.sock"))
    service.listen()

    def answer() -> None:
        while True:
            try:
                connection, _ = service.accept()
            except OSError:
                return
            with connection:
                asked.append(connection.recv(1000))
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

    def opened(*, http: bool = True, visitors: Visitors | None) -> int:
        forward = LocalForward(http=http, visitors=visitors)
        relay.call(forward.lead(to_unix_socket(tmp_path / "far.sock")))
        return relay.listen(bind(0), forward)

    threading.Thread(target=answer, daemon=True).start()
    yield opened
    relay.close()
    service.shutdown(socket.SHUT_RDWR)
    service.close()


@linux
@root
@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_another_user_gets_a_page_that_says_whose_link_it_is(serve: Open, asked: list[bytes], address: str) -> None:
    port = serve(visitors=Visitors("s1:main"))
    told = ask(port, uid=STRANGER, address=address)
    assert told.startswith("HTTP/1.1 403 Forbidden") and "This link belongs to root" in told
    assert "`ports open --share s1:main`" in told
    assert not asked and "Retry-After" not in told
    assert "secret" in ask(port, address=address)
    assert "secret" in ask(serve(visitors=None), uid=STRANGER, address=address)  # shared, the attack succeeds


@linux
@root
def test_root_gets_through_a_link_of_another_user(
    serve: Open, asked: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = serve(visitors=Visitors("s1:main"))
    monkeypatch.setattr(os, "geteuid", lambda: STRANGER)  # whose link it is
    assert "secret" in ask(port, uid=0) and "secret" in ask(port, uid=STRANGER)
    assert "403 Forbidden" in ask(port, uid=STRANGER + 1) and len(asked) == 2


def test_the_page_for_a_program_is_one_line_without_full_stops() -> None:
    told = _down_page.answer(_visitors._own_page("s1:main"), b"GET / HTTP/1.1\r\n\r\n").decode()
    assert "; " in told and ".;" not in told and not told.endswith(".\n")


@linux
@root
def test_another_user_of_what_speaks_no_http_is_hung_up(serve: Open, asked: list[bytes]) -> None:
    told = ask(serve(http=False, visitors=Visitors("s1:main")), uid=STRANGER)
    assert told.strip() in ("", "closed") and not asked


@linux
def test_a_connection_that_was_reset_at_once_is_nobody_s() -> None:
    """Its bytes can still be read, and another process can have its port by now."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        client.sendall(b"GET / HTTP/1.1\r\n\r\n")
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        accepted, _ = listener.accept()
        client.close()
        with accepted:
            assert callers.caller_of(accepted) == callers.NO_PROCESS
            page = Visitors("s1:main").refusal(accepted)
    assert page is not None and page.passes and page.status.startswith("503")


@linux
def test_the_caller_over_ipv6_is_known_without_netlink_too(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("::1", 0), family=socket.AF_INET6) as listener,
        socket.create_connection(listener.getsockname()[:2]) as client,
        listener.accept()[0] as accepted,
    ):
        assert callers.caller_of(accepted) == os.getuid() and client
        monkeypatch.setattr(callers, "ask_kernel", refuse_netlink)
        assert callers.caller_of(accepted) == os.getuid()


def test_where_the_kernel_does_not_tell_others_are_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    here: list[str] = []
    now = [1000.0]
    monkeypatch.setattr(callers, "caller_of", lambda connection: callers.UNKNOWN)
    monkeypatch.setattr(machine, "other_users", lambda: tuple(here))
    monkeypatch.setattr(_visitors.time, "monotonic", lambda: now[0])
    visitors = Visitors("s1:main")
    assert visitors.refusal(None) is None
    here.append("bob")
    now[0] += 6
    page = visitors.refusal(None)
    assert page is not None and "bob could use this link" in page.reason and page.passes
    assert "`ports open --share s1:main`" in page.doing
    assert Visitors("s1:main", asks_for_password=True).refusal(None) is None
    here.clear()
    now[0] += 6
    assert visitors.refusal(None) is None


@pytest.mark.parametrize("speaks_http", [True, False])
def test_a_link_that_was_open_answers_with_a_page_once_somebody_logs_in(
    serve: Open, monkeypatch: pytest.MonkeyPatch, speaks_http: bool
) -> None:
    """Where the kernel does not tell, as on macOS: each new connection is judged by who is here by now."""
    here: list[str] = []
    monkeypatch.setattr(callers, "caller_of", lambda connection: callers.UNKNOWN)
    monkeypatch.setattr(machine, "other_users", lambda: tuple(here))
    monkeypatch.setattr(_visitors, "_OLD_SECONDS", 0.0)
    port = serve(http=speaks_http, visitors=Visitors("s1:main"))
    assert "secret" in ask(port)
    here.append("bob")
    refused = ask(port)
    assert "secret" not in refused and ("bob could use this link" in refused) is speaks_http
    here.clear()
    assert "secret" in ask(port)


def test_pages_of_other_users_and_notebooks_are_kept_to_their_opener_too() -> None:
    """The local end does not depend on how a service is reached, nor on whose it is."""
    theirs = Service("s1", "listener", "6006", "port-6006", "m", "alice", "127.0.0.1:6006", note="belongs to bob")
    lab = Service("s1", "notebook", "lab", "notebook-lab", "m", "alice", "127.0.0.1:8888", token="t")
    for service in (theirs, lab):
        assert _local_address.visitors(LocalAddress(), service) is not None


@linux
def test_the_link_for_the_browser_asks_the_kernel_as_links_do(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()),
        listener.accept()[0] as accepted,
    ):
        assert _browser._may_see(accepted)
        seen = [(os.getuid() + 1, False), (0, True), (callers.NO_PROCESS, False), (callers.UNKNOWN, True)]
        for uid, may in seen:
            monkeypatch.setattr(callers, "caller_of", lambda connection, uid=uid: uid)
            assert _browser._may_see(accepted) is may


def test_a_link_is_refused_only_where_the_kernel_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    service = Service("s1", "cluster", "main", "cluster-main", "m", "alice", "/x.sock")
    what = ("s1", "cluster", "main")
    monkeypatch.setattr(machine, "other_users", lambda: ("bob",))
    if sys.platform == "linux":
        _local_address.take(LocalAddress(port=0), service, what).close()
    monkeypatch.setattr(callers, "kernel_tells", lambda: False)
    with pytest.raises(_local_address.SharedMachineError, match="does not show which user"):
        _local_address.take(LocalAddress(port=0), service, what)
    _local_address.take(LocalAddress(port=0, share=True), service, what).close()


def test_sharing_and_a_unix_socket_need_no_check() -> None:
    service = Service("s1", "cluster", "main", "cluster-main", "m", "alice", "/x.sock")
    assert _local_address.visitors(LocalAddress(), service) is not None
    shared = (LocalAddress(share=True), LocalAddress(socket="/s"), LocalAddress(address="0.0.0.0", public=True))
    assert [_local_address.visitors(one, service) for one in shared] == [None, None, None]


@linux
def test_a_machine_without_netlink_and_proc_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    assert callers.kernel_tells()

    def refuse(*args: object) -> None:
        raise OSError(errno.EPROTONOSUPPORT, "no netlink here")

    monkeypatch.setattr(callers, "ask_kernel", refuse)
    assert callers.kernel_tells()
    monkeypatch.setattr(os, "access", lambda *args: False)
    assert not callers.kernel_tells()
