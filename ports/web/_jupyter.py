"""The page in a Jupyter server, at ``/ports/``: behind its login, with the handlers that the page has alone.

Jupyter decides who gets in: its check of the Host, its identity provider, its authorizer. Besides, what changes
something needs the token of the page's own forms, and no other site can ask for it. That stands in place of Jupyter's
XSRF cookie, whose value the forms would have to repeat.
"""

from __future__ import annotations

import logging
import os
from typing import Any

from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.utils import ensure_async, url_path_join
from tornado.web import HTTPError, authenticated
from tornado.websocket import WebSocketHandler

from ports import listeners
from ports.errors import PortsError
from ports.state import settings
from ports.web import _guard, _handlers
from ports.web._page import Page

_LOG = logging.getLogger("ports.web")
_ACTIONS = {"GET": "read", "HEAD": "read"}  # Jupyter's words; all else is "write"
_OWN_SITE = (None, "same-origin", "none")  # none: typed into the address bar


class InJupyter(JupyterHandler):
    """Lets in whom Jupyter lets in; sets the headers of each answer."""

    auth_resource = "ports"

    async def prepare(self) -> None:  # type: ignore[override]
        """Ask Jupyter who this is and what they may do."""
        await super().prepare()
        if not self._finished:
            await ensure_async(self._let_in())

    @authenticated
    async def _let_in(self) -> None:
        action = _ACTIONS.get(self.request.method or "", "write")
        if not await ensure_async(self.authorizer.is_authorized(self, self.current_user, action, self.auth_resource)):
            raise HTTPError(403)

    def get_login_url(self) -> str:
        """Return where to log in; what no page asks for is refused instead."""
        if "Upgrade" in self.request.headers or self.request.headers.get("X-Ports"):
            raise HTTPError(403)
        return str(super().get_login_url())

    def check_xsrf_cookie(self) -> None:
        """Refuse what another site asks for. The handler of acts checks the token of its form."""
        if not hasattr(self, "_jupyter_current_user"):
            return  # tornado asks before `prepare`, which asks again
        site = self.request.headers.get("Sec-Fetch-Site")
        if self.request.method not in _ACTIONS and (site not in _OWN_SITE or not self.check_origin()):
            raise HTTPError(403)

    def set_default_headers(self) -> None:
        """Set the headers of each answer, also of errors."""
        super().set_default_headers()
        for name, value in _guard.headers("'self'").items():
            self.set_header(name, value)

    def write_error(self, status_code: int, **_: Any) -> None:
        """Answer without a traceback, and without a page that loads more."""
        self.set_header("Content-Type", "text/plain; charset=utf-8")
        self.finish(f"{status_code}\n")


class SocketInJupyter(WebSocketHandler, InJupyter):
    """The same for a WebSocket; a page of another origin gets none."""

    def check_origin(self, origin_to_satisfy_tornado: str = "") -> bool:
        """Ask Jupyter, whose administrator can allow origins."""
        return bool(JupyterHandler.check_origin(self, origin_to_satisfy_tornado))


class Top(InJupyter):
    """``/ports``: leads to the page, so that its relative links work."""

    def get(self) -> None:
        """Redirect to it."""
        self.redirect(url_path_join(self.base_url, "ports/"))


class Goes(_handlers.Goes):
    """``/-/go``: leads to what this server shows itself, else to a link on this machine's localhost.

    Such a link is of use to a browser on this machine only. One that came through a tunnel or a hub has another port in
    its address than this server listens on; it gets the command for its own machine.
    """

    base_url: Any
    settings: Any
    serverapp: Any

    async def get(self) -> None:
        """Lead there, unless another site asks: a tunnel can be opened for it."""
        if self.request.headers.get("Sec-Fetch-Site") not in _OWN_SITE:
            raise HTTPError(403)
        await super().get()

    def _link(self, host: str, kind: str, name: str) -> str:
        row = self.page.board.row(host, kind, name)
        is_here = row is not None and host == self.page.here
        if is_here and kind == "cluster":
            return str(url_path_join(self.base_url, "ports", name, "status"))
        if is_here and row is not None and row.get("pid") == os.getpid():
            return str(self.settings.get("default_url") or self.base_url)
        if row is not None and not self._is_browser_here():
            command = listeners.open_command(name) if is_here else f"ports open {host}:{name}"
            raise PortsError(f"your browser is not on {self.page.here}; on its machine, `{command}` opens {name!r}")
        return super()._link(host, kind, name)

    def _is_browser_here(self) -> bool:
        server = self.serverapp
        return server is not None and self.request.host.rpartition(":")[2] == str(server.port)


def handlers(base_url: str) -> list[Any]:
    """Return the routes of the page for a server at `base_url`; its hosts are those of the setting ``ports.hosts``."""
    where = str(url_path_join(base_url, "ports"))
    page = Page(_hosts(), where=where)
    own = [(where, Top, {}), (f"{where}/-/go", type("Goes", (Goes, InJupyter), {}), {"page": page})]
    return [*own, *_handlers.routes(page, InJupyter, SocketInJupyter)]


def _hosts() -> tuple[str, ...]:
    try:
        return tuple(settings.get("hosts") or ())
    except PortsError as error:  # Jupyter starts all the same
        _LOG.warning("the page shows this machine only: %s", error)
        return ()
