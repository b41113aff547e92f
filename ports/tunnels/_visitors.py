"""Which users of this machine can use a link: the kernel is asked for each connection, when it comes."""

from __future__ import annotations

import os
import time
from typing import Any

from ports import machine
from ports.probe import callers, user_name
from ports.tunnels._down_page import Page

_OLD_SECONDS = 5.0

_GONE = Page("The program that asked for this page has closed its connection already", doing="Ask again.")


class Visitors:
    """Lets in connections of this user and of root.

    Where this machine does not show which user a connection comes from, all are let in while nobody else is here.

    Parameters
    ----------
    target : str
        What the link leads to, as `ports open` names it.
    asks_for_password : bool
        The service itself asks for a credential, so an unknown connection can pass.
    """

    def __init__(self, target: str, *, asks_for_password: bool = False) -> None:
        self._target = target
        self._asks_for_password = asks_for_password
        self._others: tuple[str, ...] = ()
        self._looked_at = float("-inf")

    def refusal(self, connection: Any) -> Page | None:
        """Return the page for an accepted TCP connection that is not let in, None for one that is."""
        uid = callers.caller_of(connection)
        if uid in (os.geteuid() if hasattr(os, "geteuid") else callers.UNKNOWN, 0):
            return None
        if uid == callers.UNKNOWN:
            others = () if self._asks_for_password else self._others_here()
            return _others_page(self._target, others) if others else None
        return _GONE if uid == callers.NO_PROCESS else _own_page(self._target)

    def _others_here(self) -> tuple[str, ...]:
        """Return who else uses this machine, as of a few seconds ago at most."""
        if time.monotonic() - self._looked_at > _OLD_SECONDS:
            self._others, self._looked_at = machine.other_users(), time.monotonic()
        return self._others


def _own_page(target: str) -> Page:
    owner = user_name(os.geteuid())
    return Page(
        f"This link belongs to {owner}",
        f"`ports open` of {owner} serves it on this machine, and lets no other user in.",
        f"{owner} can open it for all users of this machine with `ports open --share {target}`.",
        status="403 Forbidden",
        passes=False,
    )


def _others_page(target: str, others: tuple[str, ...]) -> Page:
    return Page(
        "Other users are on this machine",
        f"This system does not show which user a connection comes from, and {', '.join(others)} could use this link.",
        f"`ports open --share {target}` opens it for all users of this machine.",
        status="403 Forbidden",
    )
