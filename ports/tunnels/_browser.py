"""Open a link in the browser without showing its token: all users can see the browser's arguments."""

from __future__ import annotations

import os
import socket
import threading

from ports.probe import callers


def open_once(url: str, *, timeout: float = 20.0) -> bool:
    """Open `url` through a link on 127.0.0.1 that redirects to it once.

    Parameters
    ----------
    timeout : float
        Seconds within which the browser must fetch the link.

    Returns
    -------
    bool
        False if there is no browser, or it did not fetch the link.
    """
    import http.server  # 3 MB, which a keeper that opens no browser does not need
    import secrets  # see `_event_loop`
    import webbrowser

    path, fetched = f"/{secrets.token_urlsafe(24)}", threading.Event()

    class Redirect(http.server.BaseHTTPRequestHandler):
        """Answers one path, once."""

        def do_GET(self) -> None:
            """Redirect, and let the browser send this link to no page as a referrer."""
            known = self.path == path and not fetched.is_set() and _may_see(self.connection)
            self.send_response(302 if known else 404)
            if known:
                fetched.set()
                self.send_header("Location", url)
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Write no log: it would hold the link."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # not "localhost": a browser asks ::1 first, where another user may listen
        opened = webbrowser.open(f"http://127.0.0.1:{port}{path}") and fetched.wait(timeout)
        server.shutdown()
    return opened


def _may_see(connection: socket.socket) -> bool:
    """Tell whether a connection is this user's or root's; True where this machine does not show which user it is from.

    On Linux other users can read the browser's arguments, so they know the path, and could be faster than the browser.
    macOS and Windows show nobody's arguments, and a browser of Windows beside WSL has no user here.
    """
    own = os.geteuid() if hasattr(os, "geteuid") else callers.UNKNOWN
    return callers.caller_of(connection) in (own, 0, callers.UNKNOWN)
