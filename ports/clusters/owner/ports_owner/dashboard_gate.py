"""The dashboard on a TCP port of 127.0.0.1, by token, for programs at home that can forward ports but no Unix sockets.

A request without the token gets 403; so does a websocket. Connections of other users are closed before that, where
the kernel says whose they are.
"""

from __future__ import annotations

import hashlib
import hmac
from urllib.parse import urlencode, urlsplit

from tornado.httputil import parse_cookie
from tornado.netutil import bind_sockets
from tornado.routing import Router
from tornado.web import ErrorHandler, RequestHandler

from .peer_check import OwnServer

MOST_BODY = 2**16  # bytes; a body is received whole before it is refused


class Gate(Router):
    """Passes requests that show the token: first in the link, then as a cookie."""

    def __init__(self, application, token, name):
        self.application = application
        self.token = token
        self.cookie_name = f"ports-cluster-{name}"
        self.cookie = hmac.new(token.encode(), self.cookie_name.encode(), hashlib.sha256).hexdigest()

    def find_handler(self, request, **kwargs):
        """Return what answers: the page, the exchange of a token for a cookie, or a refusal."""
        given = request.query_arguments.get("token", [b""])[-1]
        if same(given, self.token):
            return self.application.get_handler_delegate(request, Enter, {"gate": self})
        morsels = parse_cookie(request.headers.get("Cookie", ""))
        if same(morsels.get(self.cookie_name, "").encode(), self.cookie) and comes_from_its_own_page(request):
            return self.application.find_handler(request, **kwargs)
        return self.application.get_handler_delegate(request, ErrorHandler, {"status_code": 403})


class Enter(RequestHandler):
    """Exchanges the token of a link for a cookie, which keeps it out of address bars and logs."""

    def initialize(self, gate):
        """Keep the gate."""
        self.gate = gate

    def get(self):
        """Set the cookie and go on to the same page without the token."""
        self.set_cookie(self.gate.cookie_name, self.gate.cookie, httponly=True, samesite="Lax", path="/")
        self.set_header("Referrer-Policy", "no-referrer")
        left = [(key, value) for key, values in self.request.query_arguments.items() for value in values]
        query = urlencode([pair for pair in left if pair[0] != "token"])
        path = "/" + self.request.path.lstrip("/")  # `//host` would lead elsewhere
        self.redirect(path + (f"?{query}" if query else ""))


def same(given, expected):
    """Compare in a time that does not depend on the values."""
    return hmac.compare_digest(given, expected.encode())


def comes_from_its_own_page(request):
    """Say whether the request is from the dashboard's own page; pages of other ports send the same cookies."""
    origin = request.headers.get("Origin")
    return origin is None or urlsplit(origin).netloc == request.host


def open_gate(application, token, name):
    """Serve `application` to who has the token; return the server and its port."""
    # Where the kernel does not tell, a stranger shall fill neither memory nor descriptors for long.
    limits = {"max_body_size": MOST_BODY, "body_timeout": 30, "idle_connection_timeout": 120}
    server = OwnServer(Gate(application, token, name), **limits)
    [listener] = bind_sockets(0, "127.0.0.1")
    server.add_sockets([listener])
    return server, listener.getsockname()[1]
