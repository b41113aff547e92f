"""What the page answers, as mixins: over tornado's handler alone (`_serve`), over Jupyter's in a notebook server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ports.web._page import Page
from ports.web._screen import Question, Screen


def overview(page: Page, _: Question) -> Mapping[str, Any]:
    """``/``: all hosts, and what is mine on them."""
    return {"views": page.board.views()}


SCREENS: tuple[Screen, ...] = (Screen("/", "overview.html", overview),)


def render(template: str, **values: Any) -> str:
    """Draw a screen, until there are templates."""
    from markupsafe import escape

    text = escape(json.dumps(values, indent=1, default=str))
    return f"<!DOCTYPE html><html lang=en><title>ports</title><main><pre>{text}</pre></main></html>"


async def draw(page: Page, screen: Screen, question: Question, path: str, part: str) -> str:
    """Return the HTML of a screen: the whole ``page``, or the ``main`` part of it."""
    if screen.in_thread:
        values = await asyncio.to_thread(screen.values, page, question)
    else:
        values = screen.values(page, question)
    return render(screen.template, **{**page.values(path), "part": part, **values})


class Answers:
    """A mixin of all handlers."""

    page: Page
    request: Any

    def initialize(self, page: Page, screen: Screen) -> None:
        """Take what the route names."""
        self.page, self.screen = page, screen

    @property
    def below(self) -> str:
        """The path of the request below the place of the page."""
        return str(self.request.path)[len(self.page.where) :] or "/"

    def question(self, groups: Sequence[str]) -> Question:
        """Return what is asked."""
        query = {name: values[-1].decode("utf-8", "replace") for name, values in self.request.query_arguments.items()}
        return Question(tuple(groups), query)

    def finish(self, chunk: Any = None) -> Any:
        """Answer; the class beside this one does."""
        return super().finish(chunk)  # type: ignore[misc]


class Shown(Answers):
    """Answers GET with a screen. What is drawn of the board waits for no host."""

    async def get(self, *groups: str) -> None:
        """Draw it."""
        self.finish(await draw(self.page, self.screen, self.question(groups), self.below, "page"))


def routes(page: Page, handler: type[Any]) -> list[tuple[str, type[Any], dict[str, Any]]]:
    """Return the routes of `page` for an application: `handler` is the class that lets a request in, or refuses it."""

    def over(mixin: type[Any]) -> type[Any]:
        return type(mixin.__name__, (mixin, handler), {"__doc__": mixin.__doc__})

    shown = over(Shown)
    return [(f"{page.where}{screen.path}", shown, {"page": page, "screen": screen}) for screen in SCREENS]
