"""``/ports/<name>``: the dashboard of my cluster <name>, behind the login of the Jupyter server that this runs in.

The name is looked up at each request, so clusters that start later are found. The route connects to the dashboard's
Unix socket only if this user listens there. A websocket passes through as bytes once Jupyter has let it in.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlencode

from jupyter_server.auth.decorator import authorized
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import url_path_join
from tornado import web
from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPHeaders,
    HTTPInputError,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
    parse_response_start_line,
)
from tornado.iostream import IOStream, StreamClosedError

from ports import clusters, hosts, sessions
from ports.clusters import ClusterRecord, ClusterRunning
from ports.errors import PortsError
from ports.listeners import socket_user
from ports.state import paths

# The dashboard gets these headers of the browser: no cookies and no tokens, which are Jupyter's.
_PASSED_ON = (
    "Accept",
    "Accept-Encoding",
    "Accept-Language",
    "If-Modified-Since",
    "If-None-Match",
    "Range",
    "User-Agent",
)
_PASSED_ON_BY_WEBSOCKETS: tuple[str, ...] = ("Upgrade", "Connection", "Sec-WebSocket-Key", "Sec-WebSocket-Version")
_PASSED_ON_BY_WEBSOCKETS += ("Sec-WebSocket-Protocol", "Sec-WebSocket-Extensions", "User-Agent")
_PASSED_BACK: tuple[str, ...] = (
    "Content-Type",
    "Content-Length",
    "Content-Encoding",
    "Content-Range",
    "Content-Disposition",
)
_PASSED_BACK += ("Accept-Ranges", "Cache-Control", "Etag", "Expires", "Last-Modified", "Vary")
_LONGEST_HEAD = 65_536
_PAGE = """<!DOCTYPE html>
<html><head><meta charset="utf-8"><title>{title}</title>{refresh}</head>
<body style="font-family: sans-serif; margin: 2em"><h1 style="font-size: 1.2em">{title}</h1>{body}</body></html>
"""


def handlers(base_url: str) -> list[tuple[str, type[JupyterHandler]]]:
    """Return the routes for a server at `base_url`."""
    name = f"({paths.NAME.pattern})"
    return [
        (url_path_join(base_url, f"/ports/{name}/?"), ClusterHandler),
        (url_path_join(base_url, f"/ports/{name}/(.*)"), DashboardHandler),
        (url_path_join(base_url, f"/proxy/ports/{name}/(.*)"), OfPaneHandler),
    ]


class ClusterHandler(JupyterHandler):
    """``/ports/main``: leads to the dashboard's first page."""

    auth_resource = "ports"

    @web.authenticated
    @authorized
    def get(self, name: str) -> None:
        """Redirect to the first page, so that its relative links work."""
        self.redirect(url_path_join(self.base_url, "ports", name, "status"))


class OfPaneHandler(JupyterHandler):
    """``/proxy/ports/main/…``: leads to the dashboard; dask-labextension takes links of this form as they are."""

    auth_resource = "ports"

    @web.authenticated
    @authorized
    def get(self, name: str, path: str) -> None:
        """Redirect to the same page of the dashboard."""
        query = f"?{self.request.query}" if self.request.query else ""
        self.redirect(url_path_join(self.base_url, "ports", name, path) + query)


class DashboardHandler(JupyterHandler):
    """``/ports/main/…``: answers of the dashboard. It is read only: GET and HEAD."""

    auth_resource = "ports"
    upstream: IOStream | None = None

    @web.authenticated
    @authorized
    async def get(self, name: str, _: str) -> None:
        """Pass a request on to the dashboard, or a websocket's bytes in both directions."""
        is_websocket = self.request.headers.get("Upgrade", "").lower() == "websocket"
        if is_websocket and not self.check_origin():  # another page in the same browser
            raise web.HTTPError(403)
        try:
            stream = await _connect(name)
        except (PortsError, OSError, StreamClosedError) as error:
            return self.tell(name, error)
        with contextlib.closing(stream):
            if is_websocket:
                await self.relay(stream, name)
            else:
                await self.ask(stream, name)

    head = get

    def tell(self, name: str, error: Exception) -> None:
        """Answer that the cluster cannot be reached, with a list of clusters; the page reloads by itself."""
        self.set_status(503 if isinstance(error, OSError) else 404)
        body = f"<p>{html.escape(str(error))}</p>"
        with contextlib.suppress(PortsError):
            body += self.links()
        refresh = '<meta http-equiv="refresh" content="3">'
        self.finish(_PAGE.format(title=f"Cluster {html.escape(name)}", body=body, refresh=refresh))

    def links(self) -> str:
        """Return links to the dashboards of my clusters as HTML."""
        found = [one for name in sessions.names("cluster") if (one := sessions.find("cluster", name, ClusterRecord))]
        at = url_path_join(self.base_url, "ports")
        items = [f'<li><a href="{at}/{one.name}/status">{one.name}</a> {html.escape(one.state)}</li>' for one in found]
        return (
            f"<ul>{''.join(items)}</ul>" if items else "<p>There are none; <code>ports.client()</code> starts one.</p>"
        )

    def prefix(self, name: str) -> str:
        """Return the path below which the dashboard is."""
        return str(url_path_join(self.base_url, "ports", name))

    def target(self, name: str) -> str:
        """Return the path to request from the dashboard, without Jupyter's token."""
        path = self.request.path[len(self.prefix(name)) :] or "/"
        query = urlencode(
            [pair for pair in parse_qsl(self.request.query, keep_blank_values=True) if pair[0] != "token"]
        )
        return f"{path}?{query}" if query else path

    async def ask(self, stream: IOStream, name: str) -> None:
        """Pass the request on, and the answer back as it comes."""
        headers = HTTPHeaders({"Host": "localhost", "Connection": "close"} | self.given(_PASSED_ON))
        request = RequestStartLine(self.request.method or "GET", self.target(name), "")
        connection, answer = HTTP1Connection(stream, True), _Answer(self, self.prefix(name))
        self.upstream = stream
        with contextlib.suppress(StreamClosedError):
            await connection.write_headers(request, headers)
            connection.finish()
            await connection.read_response(answer)
        if not answer.began:
            return self.tell(name, OSError("its scheduler closed the connection without an answer"))
        await self.finish()

    def on_connection_close(self) -> None:
        """End the request if the browser has given up: a scheduler may be busy for minutes."""
        if self.upstream is not None:
            self.upstream.close()

    async def relay(self, stream: IOStream, name: str) -> None:
        """Pass the request for a websocket on, and once the dashboard has agreed, all bytes in both directions.

        If it has not, the browser's connection stays Jupyter's: requests that a proxy sends on it later are for
        Jupyter, with its cookies.
        """
        lines = [f"GET {self.target(name)} HTTP/1.1", "Host: localhost"]
        lines += [f"{header}: {value}" for header, value in self.given(_PASSED_ON_BY_WEBSOCKETS).items()]
        await stream.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        try:
            head = await stream.read_until(b"\r\n\r\n", max_bytes=_LONGEST_HEAD)
            status = parse_response_start_line(head.partition(b"\r\n")[0].decode("latin-1")).code
        except (StreamClosedError, HTTPInputError):
            raise web.HTTPError(502, "the dashboard gave no valid answer") from None
        if status != 101:
            raise web.HTTPError(status if status >= 400 else 400, "the dashboard has no websocket there")
        browser = self.detach()
        await browser.write(head)
        await asyncio.gather(_pump(browser, stream), _pump(stream, browser))

    def given(self, names: tuple[str, ...]) -> dict[str, str]:
        """Return those of the headers `names` that the browser sent."""
        return {name: self.request.headers[name] for name in names if name in self.request.headers}


class _Answer(HTTPMessageDelegate):
    """Hands the answer of the dashboard to a handler, piece by piece."""

    def __init__(self, handler: DashboardHandler, prefix: str) -> None:
        self.handler, self.prefix, self.began = handler, prefix, False

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        assert isinstance(start_line, ResponseStartLine)
        self.began = True
        self.handler.set_status(start_line.code, start_line.reason)
        for name in _PASSED_BACK:
            if name in headers:
                self.handler.set_header(name, headers[name])
        if "Location" in headers:  # a path from the top is one below the dashboard
            location = headers["Location"]
            at_top = location.startswith("/") and not location.startswith("//")
            self.handler.set_header("Location", self.prefix + location if at_top else location)

    def data_received(self, chunk: bytes) -> Any:
        self.handler.write(chunk)
        return self.handler.flush()


async def _connect(name: str) -> IOStream:
    """Return a connection to the dashboard of the cluster `name`; raises PortsError or OSError."""
    found = sessions.find("cluster", name, ClusterRecord)
    if found is None:
        raise PortsError(f"no cluster {name!r}")
    if found.error is not None:
        raise found.error
    if not isinstance(found.running, ClusterRunning) or found.state != "running":
        raise PortsError(f"cluster {name!r} is {found.state}" + (f": {found.reason}" if found.reason else ""))
    hint = clusters.way_back(name)
    socket_user.check_socket(found.running.dashboard, hint)
    connection = await hosts.to_unix_socket(Path(found.running.dashboard))()
    stream = IOStream(connection)
    try:
        socket_user.check_connection(connection, found.running.dashboard, hint)
    except BaseException:
        stream.close()
        raise
    return stream


async def _pump(source: IOStream, sink: IOStream) -> None:
    """Pass bytes on until one side is closed, then close the other."""
    with contextlib.suppress(StreamClosedError):
        while True:
            await sink.write(await source.read_bytes(65536, partial=True))
    source.close()
    sink.close()
