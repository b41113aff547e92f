"""Notebook servers that outlive the terminal that started them: start, find, list, stop.

>>> from ports import notebooks
>>> notebooks.get("no-such-server")
Traceback (most recent call last):
    ...
ports.errors.NotFoundError: no notebook 'no-such-server'; `ports notebook start` starts one
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.notebooks._notebook import Notebook as Notebook
    from ports.notebooks._notebook import NotebookRecord as NotebookRecord
    from ports.notebooks._notebooks import get as get
    from ports.notebooks._notebooks import list as list
    from ports.notebooks._notebooks import logs as logs
    from ports.notebooks._notebooks import prune as prune
    from ports.notebooks._notebooks import start as start
    from ports.notebooks._notebooks import stop as stop
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_notebook": (
                "Notebook",
                "NotebookRecord",
            ),
            "_notebooks": (
                "get",
                "list",
                "logs",
                "prune",
                "start",
                "stop",
            ),
        },
    )
