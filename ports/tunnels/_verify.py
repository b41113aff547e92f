"""Whether a service answers behind a local port: a byte proves it, an accepted connection does not."""

from __future__ import annotations

import socket
from dataclasses import dataclass

from ports.tunnels._down_page import MARK

_REQUEST = (
    "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nUser-Agent: ports\r\nAccept: */*\r\nConnection: close\r\n\r\n"
)


@dataclass(frozen=True)
class Proof:
    """What came back.

    `state` is ``open`` (a byte came), ``silent`` (connected, but nothing came) or ``refused`` (closed at once).
    """

    state: str
    answer: bytes = b""


def prove(
    where: tuple[str, int] | str,
    *,
    ask: bool,
    patience: float = 0.0,
    scheme: str = "http",
    path: str = "/",
    timeout: float = 10.0,
) -> Proof:
    """Connect to `where`, an address and port or a Unix socket's path, and wait for a byte.

    Parameters
    ----------
    ask : bool
        Send an HTTP request. If not, wait half a second for the service to speak: some read a request as the length of
        a message.
    patience : float
        Seconds for which to wait for the service to speak first.
    timeout : float
        Seconds after which a service that got a request and says nothing counts as silent.
    """
    try:
        with _connect(where, timeout) as connection:
            if scheme == "https":
                return _shake_hands(connection)
            if not ask:
                return _listen(connection, 0.5)
            if patience:
                first = _listen(connection, patience)
                if first.state != "silent":
                    return first
            connection.sendall(_REQUEST.format(path=path, port=0 if isinstance(where, str) else where[1]).encode())
            return _listen(connection, timeout)
    except OSError:
        return Proof("refused")


def first_answer(where: tuple[str, int] | str, request: bytes, *, timeout: float) -> bytes:
    """Return what comes back first for `request`, sent to `where` as by `prove`; nothing where nothing comes."""
    try:
        with _connect(where, timeout) as connection:
            connection.sendall(request)
            return _listen(connection, timeout).answer
    except OSError:
        return b""


def _connect(where: tuple[str, int] | str, timeout: float) -> socket.socket:
    if not isinstance(where, str):
        return socket.create_connection(where, timeout)
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(timeout)
    try:
        connection.connect(where)
    except OSError:
        connection.close()
        raise
    return connection


def _listen(connection: socket.socket, limit: float) -> Proof:
    connection.settimeout(limit)
    try:
        answer = connection.recv(65536)  # a page that names its applications is read whole
    except TimeoutError:
        return Proof("silent")
    return Proof("open", answer) if answer and MARK not in answer else Proof("refused")


def _shake_hands(connection: socket.socket) -> Proof:
    """Take a TLS handshake as proof; the certificate, which is for another name, is not checked: SSH carries this."""
    import ssl  # 4 MB, which a keeper without such a link does not need

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with context.wrap_socket(connection) as wrapped:
            return Proof("open", (wrapped.version() or "").encode())
    except TimeoutError:
        return Proof("silent")
    except (ssl.SSLEOFError, ssl.SSLZeroReturnError):  # it was closed, and nothing was said
        return Proof("refused")
    except ssl.SSLError as error:
        return Proof("open", str(error).encode())  # something spoke, if not TLS
