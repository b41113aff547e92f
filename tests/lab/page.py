"""Somebody who looks at the page of `ports page`: requests with any header, the cookie that the first link gives."""

from __future__ import annotations

import http.client
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
        """Return the token of the forms of the first page."""
        found = re.search(r'name="?token"? value="([^"]+)"', self.ask("/").text)
        assert found is not None, "no form has a token"
        return found[1]

    def act(self, fields: dict[str, str], **headers: str | None) -> Answer:
        """Send a form as the browser does."""
        headers = {"Origin": f"http://{self.authority}", **headers}
        return self.ask("/-/do", "POST", urlencode(fields), **headers)
