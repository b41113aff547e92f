"""The warnings of a command in what ``--json`` prints, and what another host printed so. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

WARNING = "warning"
_PREFIX = "ports: "


def with_warnings(document: Any, warnings: Sequence[str]) -> Any:
    """Return the document of a command with its warnings.

    An object has them under ``warnings``, behind its own. A list ends with a row of the kind ``warning`` for each.
    """
    if not warnings:
        return document
    if isinstance(document, Mapping):
        own = document.get("warnings")
        return {**document, "warnings": [*(own if isinstance(own, list | tuple) else ()), *warnings]}
    row = {"host": None, "kind": WARNING, "name": None, "state": WARNING, "url": None}
    return [*document, *({**row, "warning": text} for text in warnings)] if isinstance(document, list) else document


def without_warnings(document: Any, printed: str) -> tuple[Any, list[str]]:
    """Return the document that a command printed without its warnings, and those.

    Parameters
    ----------
    printed : str
        What it wrote to stderr. There each warning is a line that begins with ``ports:``; an older `ports` has them
        only there.
    """
    lines = [line[len(_PREFIX) :] for line in printed.splitlines() if line.startswith(_PREFIX)]
    told: list[str] = []
    if isinstance(document, list):
        rows = [row for row in document if isinstance(row, dict) and row.get("kind") == WARNING]
        told = [str(row.get("warning")) for row in rows]
        document = [row for row in document if row not in rows]
    elif isinstance(document, dict) and isinstance(document.get("warnings"), list):
        told = [text for text in document["warnings"] if str(text).split("\n", 1)[0] in lines]
        document = {**document, "warnings": [text for text in document["warnings"] if text not in told]}
    known = {text.split("\n", 1)[0] for text in told}
    return document, [*told, *(line for line in dict.fromkeys(lines) if line not in known)]
