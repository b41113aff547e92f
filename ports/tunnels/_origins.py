"""Whether the websockets of a page work at a local port: some servers compare the Origin with a port of their own.

bokeh, and panel on it, allow ``localhost:<its port>`` only, with Tornado before 6.6. The page then loads at every port,
and stays empty. So a websocket is tried as the browser will open it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from urllib.parse import urljoin, urlsplit

from ports.tunnels._services import Service

#: Sends a request to the service, and returns the first bytes of the answer.
Ask = Callable[[bytes], bytes]

_MOST_PAGES = 3  # applications of one server; all of them have the same origins
_STATUS = re.compile(rb"HTTP/1\.[01] (\d{3})")
_LOCATION = re.compile(rb"(?im)^location: *([^\r\n]+)")
_TORNADO = re.compile(rb"(?im)^server: *tornado")
_LINK = re.compile(rb"""<a[^>]*\shref=["']([^"'#?]+)""")
#: The request names no known version of the protocol. Tornado looks at the Origin first, and then opens nothing.
_ACCEPTED = (426, 101)
_HANDSHAKE = (
    "GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 0\r\nSec-WebSocket-Key: cG9ydHMgcHJvdmVzIGl0IQ==\r\n{origin}\r\n"
)


@dataclass(frozen=True)
class Origins:
    """Asks a service which local ports its websockets can be opened from.

    Parameters
    ----------
    host : str
        The name of this machine in links.
    pages : sequence of str
        Paths of its pages; the websocket of a page is ``<page>/ws``.
    """

    ask: Ask
    host: str
    pages: Sequence[str]

    def accepts(self, port: int) -> bool | None:
        """Tell whether a page at the local `port` can open its websocket; None where that cannot be known."""
        for page in self.pages:
            path, host = f"{page.rstrip('/')}/ws", f"{self.host}:{port}"
            status = self._status(path, host, f"Origin: http://{host}\r\n")
            if status in _ACCEPTED:
                return True
            if not status:  # it says nothing, and would say nothing for the other pages either
                return None
            # refused for another reason, it is refused without an Origin, too
            if status == 403 and self._status(path, host, "") in _ACCEPTED:
                return False
        return None

    def _status(self, path: str, host: str, origin: str) -> int:
        return _status(self.ask(_HANDSHAKE.format(path=path, host=host, origin=origin).encode()))


def of(service: Service, answer: bytes, ask: Ask, host: str) -> Origins | None:
    """Return what asks `service` for its origins, None where it is none of those that compare them.

    Parameters
    ----------
    answer : bytes
        What it answered to a request for its page.
    """
    is_known = service.compares_origin
    if service.scheme != "http" or not (is_known or (service.kind == "listener" and _TORNADO.search(answer))):
        return None
    return Origins(ask, host, pages(f"/{service.path}", answer))


def pages(path: str, answer: bytes) -> list[str]:
    """Return the paths of pages that `answer`, to a request for `path`, leads to; first where it redirects to."""
    head, _, body = answer.partition(b"\r\n\r\n")
    links = [found[1] for found in _LOCATION.finditer(head)] if 300 <= _status(answer) < 400 else []
    links += [found[1] for found in _LINK.finditer(body)]
    there = [urlsplit(urljoin(f"http://localhost{path}", link.decode("utf-8", "replace"))) for link in links]
    found = [path, *(one.path for one in there if one.hostname == "localhost")]
    safe = [one for one in dict.fromkeys(found) if re.fullmatch(r"[!-~]+", one)]
    return sorted(safe, key=lambda one: one == path and bool(links))[: _MOST_PAGES + 1]


def note(service: Service, port: int, better: int | None) -> str:
    """Return what to do where the page of `service` stays empty at the local `port`; `better` is a port that works."""
    allow = f"localhost:{port}"
    start = (
        f"start it with --allow-websocket-origin={allow}"
        if service.compares_origin
        else f"let its server accept websockets from {allow} (bokeh: BOKEH_ALLOW_WS_ORIGIN={allow})"
    )
    if better is None:
        return f"its page stays empty, because it refuses websockets from {allow}; {start}"
    return (
        f"its page stays empty, because it accepts websockets from localhost:{better} only; "
        f"free port {better} on this machine, or {start}"
    )


def doubt(port: int) -> str:
    """Return what to do where it cannot be known whether a page works at the local `port`."""
    return f"if its page stays empty, start it with --allow-websocket-origin=localhost:{port}"


def _status(answer: bytes) -> int:
    found = _STATUS.match(answer)
    return int(found[1]) if found else 0
