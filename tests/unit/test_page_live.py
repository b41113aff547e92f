"""Who looks at the page, and what they are sent."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import pytest

from ports.web import _live
from ports.web._handlers import Looks
from ports.web._live import MOST_VIEWERS, Live


class Tab:
    """A viewer that keeps what it is sent."""

    def __init__(self, address: str = "/") -> None:
        self.address = address
        self.shown: list[str] = []

    def show(self, html: str) -> None:
        self.shown.append(html)


class Scene:
    """A page whose main part is what `drawn` says."""

    def __init__(self, every: float = 1000.0) -> None:
        self.drawn: dict[str, str | None] = {"/": "first"}
        self.calls: list[str] = []
        self.watching: list[bool] = []
        self.live = Live(
            on_first=lambda: self.watching.append(True), on_last=lambda: self.watching.append(False), patience=0.01
        )
        self.live.draw_with(self.draw, lambda address: every)

    async def draw(self, address: str) -> str | None:
        self.calls.append(address)
        return self.drawn.get(address)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_live, "_LEAST_SECONDS", 0.01)
    monkeypatch.setattr(_live, "_TURN", 0.05)


def run(scene: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(scene(), 20))  # type: ignore[arg-type]


async def until(is_so: Callable[[], Any]) -> None:
    while not is_so():
        await asyncio.sleep(0.005)


def test_a_tab_is_sent_the_main_part_when_it_changed_and_only_then() -> None:
    async def scene() -> None:
        page, tab = Scene(), Tab()
        assert page.live.add(tab)
        await until(lambda: tab.shown)
        page.live.changed()
        await until(lambda: len(page.calls) > 1)
        page.drawn["/"] = "second"
        page.live.changed()
        await until(lambda: len(tab.shown) > 1)
        assert tab.shown == ["first", "second"]

    run(scene)


def test_tabs_of_one_address_are_drawn_once_for_all() -> None:
    async def scene() -> None:
        page, tabs = Scene(), [Tab() for _ in range(MOST_VIEWERS)]
        assert all(page.live.add(tab) for tab in tabs)
        await until(lambda: all(tab.shown for tab in tabs))
        assert page.calls == ["/"]

    run(scene)


def test_the_twenty_first_tab_is_not_taken_until_one_has_left() -> None:
    async def scene() -> None:
        page, tabs = Scene(), [Tab() for _ in range(MOST_VIEWERS)]
        assert all(page.live.add(tab) for tab in tabs)
        assert not page.live.add(Tab())
        page.live.remove(tabs[0])
        assert page.live.add(Tab())

    run(scene)


def test_hosts_are_watched_while_somebody_looks_and_not_after() -> None:
    async def scene() -> None:
        page, tab = Scene(), Tab()
        page.live.touch()
        assert page.watching == [True]
        await until(lambda: page.watching[-1] is False)
        page.live.add(tab)
        assert page.watching[-1] is True
        await until(lambda: tab.shown)
        page.live.remove(tab)
        await until(lambda: page.watching[-1] is False)
        assert page.live.unseen_seconds < 20

    run(scene)


def test_a_screen_that_is_slow_delays_no_other() -> None:
    async def scene() -> None:
        page, quick, slow, hangs = Scene(), Tab("/"), Tab("/slow"), asyncio.Event()

        async def draw(address: str) -> str:
            if address == "/slow":
                await hangs.wait()
            return address

        page.live.draw_with(draw, lambda address: 1000.0)
        page.live.add(slow)
        page.live.add(quick)
        await until(lambda: quick.shown)
        assert not slow.shown
        hangs.set()
        await until(lambda: slow.shown)

    run(scene)


def test_a_screen_that_changes_by_itself_is_drawn_again() -> None:
    async def scene() -> None:
        page, tab = Scene(every=0.05), Tab()
        page.live.add(tab)
        await until(lambda: len(page.calls) > 2)
        assert tab.shown == ["first"]

    run(scene)


def test_a_screen_that_shows_nothing_any_more_stays_as_it_was() -> None:
    async def scene() -> None:
        page, tab = Scene(), Tab()
        page.live.add(tab)
        await until(lambda: tab.shown)
        page.drawn["/"] = None
        page.live.changed()
        await until(lambda: len(page.calls) > 1)
        assert tab.shown == ["first"]

    run(scene)


def test_a_tab_that_goes_just_now_is_sent_nothing() -> None:
    sent: list[str] = []
    looks = Looks()
    looks.ws_connection = SimpleNamespace(is_closing=lambda: True)  # type: ignore[assignment]
    looks.write_message = sent.append  # type: ignore[assignment,method-assign]
    looks.show("more")
    assert sent == []
