"""Open a link in the browser without showing its token: the browser's arguments are seen by all users."""

from __future__ import annotations

import contextlib
import os
import sys
import threading


def open_once(url: str, *, timeout: float = 20.0) -> bool:
    """Open `url` through a link on 127.0.0.1 that redirects to it once.

    Parameters
    ----------
    timeout : float
        Seconds that the browser has to fetch the link.

    Returns
    -------
    bool
        False where there is no browser, or it did not come.
    """
    import http.server  # 3 MB, which a keeper that opens no browser need not hold
    import secrets  # see relay
    import webbrowser

    path, fetched = f"/{secrets.token_urlsafe(24)}", threading.Event()

    class Redirect(http.server.BaseHTTPRequestHandler):
        """Answers the one path, one time."""

        def do_GET(self) -> None:
            """Redirect, without a trace of this link in the browser's history of referrers."""
            known = self.path == path and not fetched.is_set() and _may_see(self.client_address[1], port)
            self.send_response(302 if known else 404)
            if known:
                fetched.set()
                self.send_header("Location", url)
            self.send_header("Referrer-Policy", "no-referrer")
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing: a log would hold the link."""

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Redirect) as server:
        port = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        # not "localhost": a browser asks ::1 first, where another user may listen
        opened = webbrowser.open(f"http://127.0.0.1:{port}{path}") and fetched.wait(timeout)
        server.shutdown()
    return opened


def _may_see(port: int, server_port: int) -> bool:
    """Tell whether the client at the local `port` is this user's, or root's; everybody's, where Linux cannot be asked.

    Whoever reads the browser's arguments knows the path, and may be here first.
    """
    asked = False
    # a browser may reach 127.0.0.1 from a socket of IPv6
    for table in ("/proc/net/tcp", "/proc/net/tcp6") if sys.platform == "linux" else ():
        with contextlib.suppress(OSError), open(table, encoding="ascii") as file:
            asked = True
            for fields in map(str.split, file):
                if fields[1].endswith(f":{port:04X}") and fields[2].endswith(f":{server_port:04X}"):
                    return int(fields[7]) in (os.getuid(), 0)
    return not asked
