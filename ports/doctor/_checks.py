"""What a check found, and its row."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypedDict

from ports.errors import PortsError

OK, WARNING, FAILED, SKIPPED = "ok", "warning", "failed", "skipped"


class CheckRow(TypedDict):
    """A check as ``ports doctor --json`` shows it. It has `found`, or `cause` and `way_out`."""

    host: str
    kind: str
    name: str
    hop: str | None
    state: str
    found: str | None
    cause: str | None
    way_out: str | None


@dataclass(frozen=True)
class Check:
    """One line of the checklist.

    Attributes
    ----------
    state : str
        ``ok``; ``warning``: something will be missed; ``failed``: the main job cannot be done; ``skipped``.
    found : str
        What was seen, where all is well.
    cause, hint : str
        Why not, and what to do.
    hop : str, optional
        The hop that it is about.
    """

    name: str
    state: str
    found: str = ""
    cause: str = ""
    hint: str = ""
    hop: str | None = None

    def at(self, hop: str) -> Check:
        """Return the same about a hop."""
        return replace(self, hop=hop)

    def row(self, host: str) -> CheckRow:
        """Return it as ``--json`` prints it."""
        return {
            "host": host,
            "kind": "check",
            "name": self.name,
            "hop": self.hop,
            "state": self.state,
            "found": self.found or None,
            "cause": self.cause or None,
            "way_out": self.hint or None,
        }


def ok(name: str, found: str) -> Check:
    """Return a check that found what should be."""
    return Check(name, OK, found)


def warning(name: str, cause: str, hint: str) -> Check:
    """Return a check that found what can be lived with."""
    return Check(name, WARNING, cause=cause, hint=hint)


def failed(name: str, cause: str, hint: str) -> Check:
    """Return a check that found what the main job cannot be done with."""
    return Check(name, FAILED, cause=cause, hint=hint)


def skipped(name: str, cause: str) -> Check:
    """Return a check that could not be made."""
    return Check(name, SKIPPED, cause=cause)


def from_error(name: str, error: PortsError, host: str, hint: str = "") -> Check:
    """Return the failed check that an error means; `hint` counts where the error names none."""
    cause, told = split(str(error).removeprefix(f"{host}: "))
    return failed(name, re.sub(r"^the jump host \S+: ", "", cause), told or hint)


def split(reason: str) -> tuple[str, str]:
    """Return cause and hint of an error: its sentence before and after the first semicolon or full stop.

    What is quoted, in backticks or in parentheses is no end of a sentence.
    """
    quoted = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\"|`[^`]*`|\([^()]*\)"
    for found in re.finditer(rf"(?<!\w)(?:{quoted})|(; |\. (?=[A-Z]))", reason):
        if found[1]:
            return reason[: found.start()], reason[found.end() :]
    return reason, ""
