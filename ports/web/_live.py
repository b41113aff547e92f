"""Who looks at the page at this moment, and what each is sent: the main part of their screen, where it changed."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from typing import Protocol

MOST_VIEWERS = 20
_LEAST_SECONDS = 0.5  # between two drawings
_TURN = 1.0  # seconds, after which screens are drawn again that change by themselves
_PATIENCE = 10.0  # seconds for which hosts are watched after the last viewer: somebody may just load another page

#: Draws the main part of the screen at an address below the place of the page; None where there is nothing to send.
Draw = Callable[[str], Awaitable[str | None]]


async def _nothing(address: str) -> None:
    """Draw nothing."""


class Viewer(Protocol):
    """A tab that looks."""

    address: str

    def show(self, html: str) -> None:
        """Send it what to show."""


class Live:
    """The viewers of one page. All methods belong to the thread of the event loop, except `changed`.

    Parameters
    ----------
    on_first, on_last : callable
        Called when somebody begins to look, and some seconds after the last has left.
    """

    def __init__(
        self, *, on_first: Callable[[], None], on_last: Callable[[], None], patience: float = _PATIENCE
    ) -> None:
        self._on_first, self._on_last = on_first, on_last
        self._draw: Draw = _nothing
        self._every: Callable[[str], float] = lambda address: float("inf")
        self._patience = patience
        self._sent: dict[Viewer, str] = {}
        self._drawn_at: dict[str, float] = {}
        self._drawing: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.AbstractEventLoop | None = None
        self._change = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._leaving: asyncio.TimerHandle | None = None
        self.seen_at = time.monotonic()  # when somebody looked last

    def draw_with(self, draw: Draw, every: Callable[[str], float]) -> None:
        """Take what draws the screen at an address, and after how many seconds it does so where nothing changed."""
        self._draw, self._every = draw, every

    @property
    def n_viewers(self) -> int:
        """How many look."""
        return len(self._sent)

    @property
    def unseen_seconds(self) -> float:
        """For how long nobody has looked."""
        return 0.0 if self._sent else time.monotonic() - self.seen_at

    def touch(self) -> None:
        """Note that somebody looked just now; if nobody is connected, hosts are watched for some seconds."""
        self.seen_at = time.monotonic()
        if not self._sent:
            self._begin()
            self._leave_later()

    def add(self, viewer: Viewer) -> bool:
        """Add a viewer; False if there are too many."""
        if len(self._sent) >= MOST_VIEWERS:
            return False
        self.touch()
        self._stay()
        self._sent[viewer] = ""
        self._drawn_at.pop(viewer.address, None)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())
        self._change.set()
        return True

    def remove(self, viewer: Viewer) -> None:
        """Remove a viewer that has left."""
        if self._sent.pop(viewer, None) is not None and not self._sent:
            self.seen_at = time.monotonic()
            self._leave_later()

    def close(self) -> None:
        """Draw no more."""
        self._stay()
        for task in (self._task, *self._drawing.values()):
            if task is not None:
                task.cancel()

    def changed(self) -> None:
        """Draw again soon. Any thread can call this."""
        loop = self._loop
        if loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop is closed
                loop.call_soon_threadsafe(self._change_here)

    def _change_here(self) -> None:
        self._drawn_at.clear()
        self._change.set()

    def _begin(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._on_first()

    def _stay(self) -> None:
        if self._leaving is not None:
            self._leaving.cancel()
            self._leaving = None

    def _leave_later(self) -> None:
        self._stay()
        self._leaving = asyncio.get_running_loop().call_later(self._patience, self._leave)

    def _leave(self) -> None:
        if not self._sent:
            self._on_last()

    async def _run(self) -> None:
        """Draw what changed, for as long as somebody looks."""
        while self._sent:
            turn = asyncio.get_running_loop().call_later(_TURN, self._change.set)
            await self._change.wait()
            turn.cancel()
            self._change.clear()
            self._draw_all()
            await asyncio.sleep(_LEAST_SECONDS)

    def _draw_all(self) -> None:
        """Begin to draw what is due; a screen that is slow, because a host is, delays no other."""
        now = time.monotonic()
        for address in dict.fromkeys(viewer.address for viewer in self._sent):
            is_due = now - self._drawn_at.get(address, float("-inf")) >= self._every(address)
            if is_due and address not in self._drawing:
                self._drawn_at[address] = now
                self._drawing[address] = asyncio.create_task(self._draw_one(address))

    async def _draw_one(self, address: str) -> None:
        try:
            html = await self._draw(address)
        finally:
            del self._drawing[address]
        for viewer, before in list(self._sent.items()):
            if html is not None and viewer.address == address and before != html:
                self._sent[viewer] = html
                viewer.show(html)
