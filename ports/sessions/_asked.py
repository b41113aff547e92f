"""What a start was asked for, as words of the command line: hints that start it again repeat them. Pure."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from ports.state import settings

_FLAGS = ("force",)  # without a --no-… of their own


def words(kind: str, asked: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the words behind ``ports KIND start NAME`` that ask for the same.

    Of a variable only the name is in them: its value can be a secret, and each user sees command lines. What only
    Python can say is left out.
    """
    nodes, found = settings.section(kind), []
    for name, value in asked.items():
        flag = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if name == "environ":
            found += [f"--environ={one}" for one in value]
        elif name not in nodes:
            found += _keyword(name, value)
        elif isinstance(value, bool) and nodes.get(name, {}).get("type") == "boolean":
            found += [flag] if value else [] if name in _FLAGS else [f"--no-{flag[2:]}"]
        elif isinstance(value, bool):
            found.append(f"{flag}={str(value).lower()}")
        elif isinstance(value, str | int | float | PurePath):
            found.append(f"{flag}={value}")
    return tuple(found)


def start_line(kind: str, name: str | None, asked: Sequence[str] = ()) -> str:
    """Return the command that starts a session with what was asked for: ``ports notebook start lab --root=/data``."""
    return shlex.join(["ports", kind, "start", *([name] if name else []), *asked])


def _keyword(name: str, value: Any) -> list[str]:
    try:
        return [f"--option={name}={json.dumps(value)}"]
    except (TypeError, ValueError):
        return []
