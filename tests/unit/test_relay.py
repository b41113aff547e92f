"""The relay between a local port and a Unix socket."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ports.errors import TimedOutError
from ports.hosts._connection import to_unix_socket
from ports.state.waiting import wait_until
from ports.tunnels._event_loop import Relay, bind
from ports.tunnels._local_forward import LocalForward

ROUNDS = 20


def answer_in_two_parts(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        while connection.recv(100):
            connection.sendall(b"head")
            time.sleep(0.001)  # as a server that computes the rest: the parts must not travel as one
            connection.sendall(b"body")


@contextlib.contextmanager
def forwarded(
    to: Path, serve: Callable[[socket.socket], None], *, http: bool = False, backlog: int = 128
) -> Iterator[tuple[int, LocalForward]]:
    """Let `serve` answer at the Unix socket `to`, and yield a local port that leads there, with its forward."""
    relay, forward = Relay(), LocalForward(http=http)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(to))
        listener.listen(backlog)
        threading.Thread(target=serve, args=(listener,), daemon=True).start()
        try:
            relay.call(forward.lead(to_unix_socket(to)))
            yield relay.listen(bind(0), forward), forward
        finally:
            relay.close()


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_an_answer_in_two_parts_does_not_wait_for_an_acknowledgement(tmp_path: Path, address: str) -> None:
    with forwarded(tmp_path / "far.sock", answer_in_two_parts) as (port, _):
        start = time.monotonic()
        with socket.create_connection((address, port), 10) as connection:
            for _ in range(ROUNDS):
                connection.sendall(b"request")
                got = b""
                while len(got) < 8:
                    got += connection.recv(8)
        took = time.monotonic() - start
    assert took < ROUNDS * 0.03  # without TCP_NODELAY 0.04 s a round


def serve_slowly(listener: socket.socket) -> None:
    time.sleep(0.3)  # the first connections fill the queue, and the others find it full
    with contextlib.suppress(OSError):  # the listener is closed
        while True:
            connection, _ = listener.accept()
            with connection:
                connection.sendall(connection.recv(100))


def test_more_connections_than_a_socket_has_room_for_all_get_through(tmp_path: Path) -> None:
    with (
        forwarded(tmp_path / "far.sock", serve_slowly, http=True, backlog=2) as (port, _),
        contextlib.ExitStack() as all_,
    ):
        callers = [all_.enter_context(socket.create_connection(("127.0.0.1", port), 10)) for _ in range(20)]
        for caller in callers:
            caller.sendall(b"request")
        answers = [caller.recv(100) for caller in callers]
    assert answers == [b"request"] * 20


def end_after_the_first_answer(listener: socket.socket) -> None:
    connection, _ = listener.accept()
    with connection:
        connection.recv(100)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        connection.recv(100)


def test_a_request_after_the_end_of_a_service_is_no_error_of_ours(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        forwarded(tmp_path / "far.sock", end_after_the_first_answer, http=True) as (port, forward),
        socket.create_connection(("127.0.0.1", port), 10) as connection,
    ):
        connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
        while connection.recv(100):
            pass

        def is_cut() -> bool | None:
            with contextlib.suppress(OSError):
                connection.sendall(b"GET /again HTTP/1.1\r\n\r\n")
            return not forward.connections or None

        wait_until(is_cut, timeout=10, what="the end of the connection")
    assert not caplog.records, caplog.text


def test_a_process_with_too_many_open_files_does_not_blame_another_user() -> None:
    code = """
        import resource
        from ports.tunnels import _event_loop as relay
        from ports.errors import PortInUseError, PortsError
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))
        try:
            relay.bind(0)
        except PortsError as error:
            print(isinstance(error, PortInUseError), error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=30)
    assert done.stdout == "False no local port can be opened: Too many open files\n", done.stderr


def test_a_request_that_is_not_understood_is_answered_at_once(tmp_path: Path) -> None:
    def handle(request: dict[str, Any], say: object) -> dict[str, Any]:
        return {"settled": request["of a newer version"]}

    relay = Relay()
    try:
        relay.answer(tmp_path / "control.sock", handle)
        with socket.socket(socket.AF_UNIX) as asking:
            asking.settimeout(5)
            asking.connect(str(tmp_path / "control.sock"))
            asking.sendall(b"{}\n")
            with asking.makefile("rb") as answer:
                assert json.loads(answer.readline()) == {"error": "'of a newer version'"}
                assert answer.readline() == b""
    finally:
        relay.close()


def test_a_wait_that_ends_in_the_relay_keeps_its_own_words() -> None:
    relay = Relay()

    async def wait() -> None:
        raise TimedOutError("heartbeat of server1", 3.0)

    with pytest.raises(TimedOutError, match="waiting for heartbeat of server1"):
        relay.call(wait())
    relay.close()
