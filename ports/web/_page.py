"""The page of one process: what it knows, what it does, who looks. It stands alone, or in a Jupyter server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Sequence
from typing import Any

from ports import hosts as machines
from ports.errors import NotFoundError
from ports.hosts import aliases
from ports.state import paths
from ports.web._acts import Acts
from ports.web._board import Board, unseen
from ports.web._live import Live
from ports.web._logs import Logs
from ports.web._watch import Watch

_NOTICE_SECONDS = 60.0


class Page:
    """What all handlers of one page share.

    Attributes
    ----------
    board : Board
        The views of all hosts.
    acts : Acts
        What it does at this moment.
    form_token : str
        What each form of the page sends back.
    where : str
        The path below which the page is, without the slash at its end: empty alone, ``/user/alice/ports`` in Jupyter.
    """

    def __init__(self, hosts: Sequence[str], *, where: str = "", form_token: str | None = None) -> None:
        self.here = paths.host_name()
        self.hosts = tuple(dict.fromkeys(host for host in hosts if not machines.is_here(host)))
        self.where = where
        self.form_token = form_token or secrets.token_urlsafe(32)
        self.who = f"{paths.user_name()} at {self.here}"
        self.board = Board([unseen(self.here, here=True), *(unseen(host) for host in self.hosts)])
        self.watch = Watch(self.board, self.here, self.hosts)
        self.acts = Acts()
        self.live = Live(on_first=self.watch.begin, on_last=self.watch.end)
        self.board.on_change = self.live.changed
        self.logs = Logs(self.target, self.live.changed)
        #: Where a thing of this machine is reached without a tunnel: an address, or None.
        self.link_here: Callable[[str, str], str | None] = lambda kind, name: None
        #: Remembers the hosts of the page for its next start.
        self.keep: Callable[[Sequence[str]], None] = lambda hosts: None
        self._notice: tuple[str, float] | None = None

    def base(self, path: str) -> str:
        """Return what leads from `path`, below the place of the page, to the first page.

        It is a whole path, because a sheet is drawn at one path and put into the page at another.
        """
        return f"{self.where}/"

    def notice(self, text: str | None) -> None:
        """Keep what failed for the next paintings; None: it is of no more interest."""
        self._notice = None if text is None else (text, time.monotonic() + _NOTICE_SECONDS)

    def values(self, path: str) -> dict[str, Any]:
        """Return what every template gets."""
        if self._notice is not None and self._notice[1] < time.monotonic():
            self._notice = None
        told = None if self._notice is None else self._notice[0]
        return {
            "base": self.base(path),
            "token": self.form_token,
            "who": self.who,
            "notice": told,
            "part": "page",
            "doing": self.acts.doing(),
        }

    @property
    def is_first_run(self) -> bool:
        """Only this machine is shown, and there are hosts to choose from."""
        return not self.hosts and bool(aliases())

    def add(self, hosts: Sequence[str]) -> None:
        """Show more hosts, also at the next start; raises NotFoundError for what is no alias of ~/.ssh/config."""
        known = aliases()
        for host in hosts:
            if host not in known:
                raise NotFoundError("host", host, "the page adds aliases of ~/.ssh/config")
        new = [host for host in dict.fromkeys(hosts) if self.board.view(host) is None]
        for host in new:
            self.board.take(unseen(host))
        self.hosts = self.watch.hosts = (*self.hosts, *new)
        self.watch.again()
        self.keep(self.hosts)

    def target(self, host: str) -> str | None:
        """Return a host as commands name it; None for this machine."""
        return None if host == self.here else host
