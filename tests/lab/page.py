"""Somebody who looks at the page of `ports page`: requests with any header, the cookie that the first link gives."""

from __future__ import annotations

import base64
import http.client
import os
import re
import socket
from dataclasses import dataclass, field
from urllib.parse import urlencode, urlsplit


@dataclass(frozen=True)
class Answer:
    """An answer of the page."""

    status: int
    headers: dict[str, str]
    text: str


@dataclass
class Visitor:
    """A browser at `link`; `sent` are the headers of each request, where one that is None is left out."""

    link: str
    path: str | None = None  # of a Unix socket, in place of the port
    sent: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.authority = urlsplit(self.link).netloc

    def enter(self) -> Answer:
        """Follow the first link; its cookie is sent from then on."""
        parts = urlsplit(self.link)
        answer = self.ask(f"{parts.path}?{parts.query}")
        if "Set-Cookie" in answer.headers:
            self.sent["Cookie"] = answer.headers["Set-Cookie"].partition(";")[0]
        return answer

    def ask(self, path: str = "/", method: str = "GET", body: str | None = None, **headers: str | None) -> Answer:
        """Send one request; the words of `headers` are joined by a hyphen where they have an underscore."""
        connection = http.client.HTTPConnection("127.0.0.1", urlsplit(self.link).port or 80, timeout=20)
        if self.path is not None:
            connection.sock = socket.socket(socket.AF_UNIX)
            connection.sock.settimeout(20)
            connection.sock.connect(self.path)
        given = {"Host": self.authority, **self.sent}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[dict-item]
        if body is not None:
            given.setdefault("Content-Type", "application/x-www-form-urlencoded")
        try:
            connection.request(method, path, body, {name: value for name, value in given.items() if value is not None})
            answer = connection.getresponse()
            text = answer.read().decode("utf-8", "replace")
            return Answer(answer.status, dict(answer.getheaders()), text)
        finally:
            connection.close()

    def form_token(self) -> str:
        """Return the token of the page's forms."""
        host = re.search(r'<h2 id="h.[^"]*-name">(?:<a [^>]*>)?([^<]+)<', self.ask("/").text)
        assert host is not None, "the page shows no host"
        text = self.ask(f"/-/sheet?{urlencode({'verb': 'start', 'host': host[1], 'kind': 'host'})}").text
        found = re.search(r'name="?token"? value="([^"]+)"', text)
        assert found is not None, "no form has a token"
        return found[1]

    def act(self, fields: dict[str, str], **headers: str | None) -> Answer:
        """Send a form as the browser does."""
        headers = {"Origin": f"http://{self.authority}", **headers}
        return self.ask("/-/do", "POST", urlencode(fields), **headers)


class Tab:
    """A WebSocket at ``/-/live`` of the page that a visitor sees; it waits for messages at most `timeout` seconds."""

    def __init__(self, visitor: Visitor, page: str = "/", *, timeout: float = 30.0, **headers: str | None) -> None:
        given = {"Host": visitor.authority, "Origin": f"http://{visitor.authority}", **visitor.sent}
        given |= {"Upgrade": "websocket", "Connection": "Upgrade", "Sec-WebSocket-Version": "13"}
        given |= {"Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode()}
        given |= {name.replace("_", "-"): value for name, value in headers.items()}  # type: ignore[dict-item]
        if visitor.path is None:
            self._socket = socket.create_connection(("127.0.0.1", urlsplit(visitor.link).port or 80), timeout)
        else:
            self._socket = socket.socket(socket.AF_UNIX)
            self._socket.settimeout(timeout)
            self._socket.connect(visitor.path)
        lines = [f"{name}: {value}" for name, value in given.items() if value is not None]
        asked = f"GET /-/live?{urlencode({'page': page})} HTTP/1.1"
        self._socket.sendall("\r\n".join([asked, *lines, "", ""]).encode())
        self._stream = self._socket.makefile("rb")
        self.status = int(self._stream.readline().split()[1])
        while self._stream.readline().strip():
            pass
        self.close_code: int | None = None

    def next(self) -> str | None:
        """Return the next message; None once the server has closed the connection, with `close_code`."""
        while True:
            head = self._stream.read(2)
            if len(head) < 2:
                return None
            kind, size = head[0] & 15, head[1] & 127
            if size > 125:
                size = int.from_bytes(self._stream.read(2 if size == 126 else 8), "big")
            data = self._stream.read(size)
            if kind == 8:
                self.close_code = int.from_bytes(data[:2], "big")
                return None
            if kind == 1:
                return data.decode()

    def close(self) -> None:
        """Leave."""
        self._stream.close()
        self._socket.close()
