"""The page of one process: what it knows, what it draws, who looks. It stands alone, or in a Jupyter server."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from typing import Any

from ports.state import paths
from ports.web._board import Board, unseen
from ports.web._watch import Watch

MOST_VIEWERS = 20


class Page:
    """What all handlers of one page share.

    Attributes
    ----------
    board : Board
        The views of all hosts.
    form_token : str
        What each form of the page sends back.
    where : str
        The path below which the page is, without the slash at its end: empty alone, ``/user/alice/ports`` in Jupyter.
    """

    def __init__(self, hosts: Sequence[str], *, where: str = "", form_token: str | None = None) -> None:
        self.here = paths.host_name()
        self.hosts = tuple(hosts)
        self.where = where
        self.form_token = form_token or secrets.token_urlsafe(32)
        self.who = f"{paths.user_name()} at {self.here}"
        self.board = Board([unseen(self.here, here=True), *(unseen(host) for host in self.hosts)])
        self.watch = Watch(self.board, self.here, self.hosts)
        self.seen_at = time.monotonic()

    def base(self, path: str) -> str:
        """Return what leads from `path`, below the place of the page, to the first page: ``./`` or ``../``."""
        return "../" * path.lstrip("/").count("/") or "./"

    def values(self, path: str) -> dict[str, Any]:
        """Return what every template gets."""
        return {"base": self.base(path), "token": self.form_token, "who": self.who, "notice": None, "part": "page"}
