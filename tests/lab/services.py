"""Services that notices are sent to: a web hook, a mail server, and a server that accepts and never answers."""

from __future__ import annotations

import contextlib
import http.server
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from typing import Any


class Service:
    """What came to a service on loopback, and the port that it listens on."""

    def __init__(self) -> None:
        self.got: list[Any] = []
        self.port = 0


@contextlib.contextmanager
def served(server: socketserver.TCPServer, service: Service) -> Iterator[Service]:
    service.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield service
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@contextlib.contextmanager
def web_hook(status: int = 200) -> Iterator[Service]:
    """Listen for what apprise posts to ``json://127.0.0.1:PORT``; answer with `status`."""
    service = Service()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            service.got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with served(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler), service) as found:
        yield found


@contextlib.contextmanager
def mail_server() -> Iterator[Service]:
    """Take mail by SMTP, without a login; what came is (recipient, text)."""
    service = Service()

    class Handler(socketserver.StreamRequestHandler):
        def say(self, line: str) -> None:
            self.wfile.write(line.encode() + b"\r\n")

        def handle(self) -> None:
            recipient = ""
            self.say("220 mail")
            while line := self.rfile.readline().decode().strip():
                word = line[:4].upper()
                if word == "RCPT":
                    recipient = line.partition("<")[2].partition(">")[0]
                if word == "DATA":
                    self.say("354 go on")
                    lines = list(iter(lambda: self.rfile.readline().decode(), ".\r\n"))
                    service.got.append((recipient, "".join(lines)))
                self.say("221 bye" if word == "QUIT" else "250 ok")

    with served(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Handler), service) as found:
        yield found


@contextlib.contextmanager
def silent_server() -> Iterator[int]:
    """Accept connections and never answer; gives the port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])
