"""What counts as an answer behind a local port."""

from __future__ import annotations

import socket
import threading

import pytest

from ports.tunnels._verify import prove


@pytest.mark.parametrize(
    ("said", "state"),
    [(b"", "refused"), (b"HTTP/1.1 400 Bad Request\r\n\r\n", "open")],
)
def test_an_https_service_is_open_only_when_it_has_said_something(said: bytes, state: str) -> None:
    def serve() -> None:
        connection, _ = server.accept()
        with connection:
            connection.recv(1 << 16)  # all of it: else the close would be a reset
            connection.sendall(said)

    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        found = prove(server.getsockname(), ask=True, scheme="https", timeout=5)
        thread.join(5)
    assert found.state == state
