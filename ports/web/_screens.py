"""The screens of the page, except those of jobs: each is made of the board."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from ports.errors import NotFoundError
from ports.hosts import aliases
from ports.web import _things, _view
from ports.web._board import View
from ports.web._page import Page
from ports.web._screen import Question, Screen


def overview(page: Page, _: Question) -> Mapping[str, Any]:
    """``/``: all hosts, and what is mine on them."""
    return {**_view.overview(page.board.views(), time.time()), "tab": "overview"}


def sheet(page: Page, question: Question) -> Mapping[str, Any]:
    """``/-/sheet``: what an act needs and what it ends, before it is done."""
    host, kind, name = question.get("host"), question.get("kind"), question.get("name") or None
    view_of(page, host)
    return _view.sheet(
        page.board.views(), question.get("verb"), host, kind, name, now=time.time(), typed=question.query
    )


def thing(page: Page, question: Question) -> Mapping[str, Any]:
    """``/-/thing``: one cluster, notebook or listener, with the end of its log."""
    view, kind, name = view_of(page, question.get("host")), question.get("kind"), question.get("name")
    is_there = _things.find(view, kind, name) is not None  # no log is read of what is not there
    log, trouble = page.logs.lines(view["host"], kind, name) if is_there else (None, "")
    return _view.thing(view, kind, name, time.time(), log=log, trouble=trouble)


def machine(page: Page, question: Question) -> Mapping[str, Any]:
    """``/-/machine``: who uses how much of a host."""
    return _view.machine(view_of(page, question.get("host")), time.time())


def hosts(page: Page, _: Question) -> Mapping[str, Any]:
    """``/-/hosts``: which hosts of ~/.ssh/config the page can show besides."""
    shown = {str(view["host"]) for view in page.board.views()}
    return _view.first_run([alias for alias in aliases() if alias not in shown])


def view_of(page: Page, host: str) -> View:
    """Return the view of a host of the page; raises NotFoundError for another."""
    view = page.board.view(host)
    if view is None:
        raise NotFoundError("host", host, "the page shows the hosts that `ports page` was started with")
    return view


SCREENS: tuple[Screen, ...] = (
    Screen("/", "overview.html", overview),
    Screen("/-/thing", "thing.html", thing, every=3.0),
    Screen("/-/machine", "machine.html", machine),
    Screen("/-/sheet", "sheet.html", sheet, is_sheet=True),
    Screen("/-/hosts", "first_run.html", hosts),
)
