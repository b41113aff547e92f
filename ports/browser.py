"""Open a link in the browser without showing its token: the browser's arguments are seen by all users."""

from __future__ import annotations

import http.server
import secrets
import threading
import webbrowser


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
    path, fetched = f"/{secrets.token_urlsafe(24)}", threading.Event()

    class Redirect(http.server.BaseHTTPRequestHandler):
        """Answers the one path, one time."""

        def do_GET(self) -> None:
            """Redirect, without a trace of this link in the browser's history of referrers."""
            known = self.path == path and not fetched.is_set()
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
        threading.Thread(target=server.serve_forever, daemon=True).start()
        opened = webbrowser.open(f"http://localhost:{server.server_port}{path}") and fetched.wait(timeout)
        server.shutdown()
    return opened
