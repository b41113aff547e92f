"""What the page answers, as mixins: over tornado's handler alone (`_serve`), over Jupyter's in a notebook server."""

from __future__ import annotations

import asyncio
import functools
import hmac
import logging
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from ports import hosts, tunnels
from ports.errors import NotFoundError, PortsError
from ports.web import _acts, _jobs_handlers, _render, _verbs
from ports.web._acts import Thing
from ports.web._page import Page
from ports.web._screen import Question, Screen
from ports.web._screens import SCREENS, sheet

_LOG = logging.getLogger("ports.web")
_PATIENCE = 20.0  # seconds for which a browser waits for an act; what takes longer goes on
_STATIC = Path(__file__).with_name("static")
_TYPES = {".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".txt": "text/plain"}
_OWN_FIELDS = ("verb", "host", "kind", "name", "token")
_TAB = "the page has too many tabs; close one"


async def draw(page: Page, screen: Screen, question: Question, path: str, **more: Any) -> str:
    """Return the HTML of a screen; `more` goes before what the screen says: ``part``, ``notice``."""
    if screen.in_thread:
        values = await asyncio.to_thread(screen.values, page, question)
    else:
        values = screen.values(page, question)
    return _render.render(screen.template, **{**page.values(path), **values, **more})


async def draw_main(page: Page, address: str) -> str | None:
    """Return the main part of the screen at an address below the place of the page; None where nothing is to send."""
    parts = urlsplit(address)
    query = parse_qs(parts.query, keep_blank_values=True)
    try:
        if _jobs_handlers.is_of_jobs(parts.path):
            return await _jobs_handlers.main(page, parts.path, query)
        for screen in SCREENS:
            if (found := re.fullmatch(screen.path, parts.path)) is not None:
                question = Question(found.groups(), {name: values[-1] for name, values in query.items()})
                return await draw(page, screen, question, parts.path, part="main")
    except PortsError:  # what it shows is gone; the tab keeps what it has
        return None
    except Exception:  # noqa: BLE001 - a screen that fails must not end the others
        _LOG.exception("%s cannot be drawn", parts.path)
    return None


def seconds_of(address: str) -> float:
    """Return after how many seconds the screen at an address is drawn again where the board did not change."""
    path = urlsplit(address).path
    if _jobs_handlers.is_of_jobs(path):
        return _jobs_handlers.EVERY
    return next((screen.every for screen in SCREENS if re.fullmatch(screen.path, path)), 3600.0)


if TYPE_CHECKING:  # what stands behind a mixin: tornado's, alone and below Jupyter's
    from tornado.web import RequestHandler as _Handler
    from tornado.websocket import WebSocketHandler as _Socket
else:
    _Handler = _Socket = object


class Answers(_Handler):
    """A mixin of all handlers."""

    page: Page

    def initialize(self, page: Page) -> None:
        """Take what the route names."""
        self.page = page

    @property
    def below(self) -> str:
        """The path of the request below the place of the page."""
        return str(self.request.path)[len(self.page.where) :] or "/"

    @property
    def is_morph(self) -> bool:
        """The page's own script asks, and puts the answer into what is shown."""
        return bool(self.request.headers.get("X-Ports") == "morph")

    def question(self, groups: Sequence[str] = ()) -> Question:
        """Return what is asked."""
        query = {name: values[-1].decode("utf-8", "replace") for name, values in self.request.query_arguments.items()}
        return Question(tuple(groups), query)

    def tell(self, error: PortsError, status: int = 404) -> None:
        """Answer with an error, on a page that leads back."""
        self.set_status(status)
        part = "sheet" if self.is_morph else "page"
        told = {**self.page.values(self.below), "notice": str(error), "part": part}
        self.answer(_render.render("failed.html", **told))

    def answer(self, html: str) -> None:
        """Answer with a page."""
        self.set_header("Content-Type", "text/html; charset=utf-8")
        self.finish(html)


class Shown(Answers):
    """Answers GET with a screen. What is drawn of the board waits for no host."""

    screen: Screen

    def initialize(self, page: Page, screen: Screen | None = None) -> None:
        """Take what the route names."""
        assert screen is not None
        self.page, self.screen = page, screen

    async def get(self, *groups: str) -> None:
        """Draw it."""
        part = "sheet" if self.screen.is_sheet and self.is_morph else "page"
        try:
            self.answer(await draw(self.page, self.screen, self.question(groups), self.below, part=part))
        except PortsError as error:
            self.tell(error)
        self.page.live.touch()  # afterwards: what it imports would delay the first answer


class Does(Answers):
    """``/-/do``: an act, from a form."""

    async def post(self) -> None:
        """Do it; answer with where to go then, or with the sheet and what is wrong."""
        given = self.given()
        if given is None:
            return
        fields = {name: values[-1] for name, values in given.items()}
        if fields.get("kind") == "job":
            await self._do_to_jobs(given)
            return
        try:
            if (fields.get("kind"), fields.get("verb")) == ("host", "show"):
                self.page.add(given.get("host", []))
            else:
                await self._do(fields)
        except PortsError as error:
            self._refuse(fields, error)
        else:
            self._done()

    def given(self) -> dict[str, list[str]] | None:
        """Return the fields of the form; None, and an answer, where it is no form of this page."""
        found = {
            name: [one.decode("utf-8", "replace") for one in values]
            for name, values in self.request.body_arguments.items()
        }
        if not hmac.compare_digest("".join(found.get("token", ())).encode(), self.page.form_token.encode()):
            self.tell(PortsError("the form is from another start of the page; load it again"), 403)
            return None
        self.page.live.touch()
        return found

    async def _do_to_jobs(self, given: Mapping[str, Sequence[str]]) -> None:
        """Do something to jobs; answer with where to go then, or with the page and what is wrong."""
        acted = await _jobs_handlers.act(self.page, given)
        if acted.to is not None:
            self.redirect(self.page.base(self.below) + acted.to.lstrip("/"), status=303)
            return
        self.set_status(409)
        self.answer(acted.html or "")

    async def _do(self, fields: Mapping[str, str]) -> None:
        thing, verb = Thing(*(fields.get(name, "") for name in ("host", "kind", "name"))), fields.get("verb", "")
        if self.page.board.view(thing.host) is None:
            raise NotFoundError("host", thing.host, "the page shows the hosts that `ports page` was started with")
        own = {name: value for name, value in fields.items() if name not in _OWN_FIELDS}
        words = _verbs.words(verb, self.page.target(thing.host), thing.kind, thing.name or None, own)
        self.page.notice(None)
        act = _acts.in_daemon(lambda: self.page.acts.run(thing, verb, words))
        self.page.live.changed()
        act.add_done_callback(functools.partial(self._ended, thing))
        done, _ = await asyncio.wait({act}, timeout=_PATIENCE)
        if done:
            act.result()
        else:
            act.add_done_callback(self._ended_late)

    def _ended(self, thing: Thing, _: asyncio.Future[Any]) -> None:
        self.page.watch.refresh(thing.host)
        self.page.live.changed()

    def _ended_late(self, act: asyncio.Future[Any]) -> None:
        if (error := act.exception()) is not None:
            self.page.notice(str(error))
            self.page.live.changed()

    def _refuse(self, fields: Mapping[str, str], error: PortsError) -> None:
        if not self.is_morph:
            self.page.notice(str(error))
            self._done()
            return
        self.set_status(409)
        path = "/-/sheet"
        try:
            values = sheet(self.page, Question((), fields))
            template = "sheet.html"
        except PortsError:  # there is no sheet for what is asked
            values, template = {}, "failed.html"
        told = {**self.page.values(path), **values, "part": "sheet", "notice": str(error)}
        self.answer(_render.render(template, **told))

    def _done(self) -> None:
        if self.is_morph:
            self.set_status(204)
            self.finish()
        else:
            self.redirect(self.page.base(self.below), status=303)


class Goes(Answers):
    """``/-/go``: leads to a dashboard or a notebook at its link, whose tunnel is opened if it is not open.

    A link has a token: it is in this answer alone, and in no page.
    """

    async def get(self) -> None:
        """Lead there."""
        asked = self.question()
        try:
            named = asked.get("host"), asked.get("kind"), asked.get("name")
            link = await _acts.in_daemon(lambda: self._link(*named))
        except PortsError as error:
            self.tell(error, 503)
            return
        self.set_header("Referrer-Policy", "no-referrer")
        self.redirect(link)

    def _link(self, host: str, kind: str, name: str) -> str:
        if (row := self.page.board.row(host, kind, name)) is None:
            raise NotFoundError(kind, name, f"{host} does not have it; `ports list` shows what there is")
        if host == self.page.here and (own := self.page.link_here(kind, name)) is not None:
            return own
        if self.is_from_home:
            return self._at_home(host, kind, str(row.get("name") or name))
        target = Thing(self.page.target(host) or hosts.HERE, kind, name)
        return _acts.link_to(target, str(row.get("name") or name), tunnels.list())

    @property
    def is_from_home(self) -> bool:
        """The request came by the Unix socket, through a tunnel: a link to this machine is none where it is read."""
        door = self.settings.get("door")
        return door is not None and door.authority is None

    def _at_home(self, host: str, kind: str, name: str) -> str:
        """Let the browser at home open a thing of this machine, by the session of its `ports open`; lead back."""
        if host != self.page.here:
            hint = f"this page runs on {self.page.here}; at home, `ports open {host}:{name}` opens it"
            raise NotFoundError("link", f"{host}:{name}", hint)
        tunnels.browse(name)
        self.page.notice(f"{kind} {name!r} is open in another tab")
        return self.page.base(self.below)


class Static(Answers):
    """``/-/static/``: the files of the page, by a table of names."""

    def get(self, name: str) -> None:
        """Send one."""
        found = files().get(name)
        if found is None:
            self.tell(NotFoundError("file", name, "the page has no such file"))
            return
        self.set_header("Content-Type", f"{_TYPES[found.suffix]}; charset=utf-8")
        self.set_header("Cache-Control", "no-cache")
        self.finish(found.read_bytes())


@functools.cache
def files() -> dict[str, Path]:
    """Return the files that are sent, by name."""
    return {path.name: path for path in _STATIC.iterdir() if path.suffix in _TYPES}


class Looks(Answers, _Socket):
    """``/-/live``: a WebSocket that sends the main part of a screen, whenever it has changed."""

    address = "/"

    def open(self, *_: str) -> None:
        """Begin to look."""
        whole = self.question().get("page")
        self.address = whole[len(self.page.where) :] if whole.startswith(self.page.where) else "/"
        if not self.page.live.add(self):
            self.close(1013, _TAB)

    def show(self, html: str) -> None:
        """Send what to show; a tab that goes, or has gone, gets nothing."""
        if self.ws_connection is not None and not self.ws_connection.is_closing():
            self.write_message(html)

    def on_message(self, message: Any) -> None:
        """Ignore what a tab says; it asks by requests."""

    def on_close(self) -> None:
        """Look no more."""
        self.page.live.remove(self)


def routes(page: Page, handler: type[Any], websocket: type[Any]) -> list[tuple[str, type[Any], dict[str, Any]]]:
    """Return the routes of `page` for an application.

    Parameters
    ----------
    handler, websocket : type
        The classes that let a request in, or refuse it, in their `prepare`.
    """

    def over(mixin: type[Any], base: type[Any] = handler) -> type[Any]:
        return type(mixin.__name__, (mixin, base), {"__doc__": mixin.__doc__})

    page.live.draw_with(functools.partial(draw_main, page), seconds_of)
    shown, at = over(Shown), page.where
    found = [(f"{at}{screen.path}", shown, {"page": page, "screen": screen}) for screen in SCREENS]
    others: list[tuple[str, type[Any]]] = [("/-/do", over(Does)), ("/-/go", over(Goes))]
    others += [(r"/-/static/([a-z.A-Z-]+)", over(Static)), ("/-/live", over(Looks, websocket))]
    found += _jobs_handlers.routes(page, over, at)
    return [*found, *((f"{at}{path}", one, {"page": page}) for path, one in others)]
