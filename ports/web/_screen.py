"""What a screen of the page is: a path, a template, and the values for it. Handlers draw it whole, and live."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ports.web._page import Page


@dataclass(frozen=True)
class Question:
    """What a screen is asked: the groups of its path, and what stands behind the ``?``, the last of each name."""

    groups: tuple[str, ...] = ()
    query: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str:
        """Return what the query says of `name`; empty where it says nothing."""
        return self.query.get(name, "")


@dataclass(frozen=True)
class Screen:
    """One screen.

    Parameters
    ----------
    path : str
        A regular expression below the place of the page: ``/-/jobs/([0-9]+)``.
    template : str
        The file of the template.
    values : callable
        Returns what the template gets besides `Page.values`. It raises PortsError for what is not there.
    in_thread : bool
        It reads files or asks hosts, so it is called in a thread.
    is_sheet : bool
        The page's script shows it in a dialog.
    every : float
        Seconds after which it is drawn again for those who look, also where the board has not changed.
    """

    path: str
    template: str
    values: Callable[[Page, Question], Mapping[str, Any]]
    in_thread: bool = False
    every: float = 30.0
    is_sheet: bool = False
