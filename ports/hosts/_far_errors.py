"""Errors of `ports` on another host: as JSON, and raised again at home with the same exit code. Pure."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ports import errors
from ports.errors import ConflictError, FarSideError, NotFoundError, PortsError, RecordError, TimedOutError, UsageError


def describe_error(error: PortsError) -> dict[str, Any]:
    """Return `error` as ``ports --json`` prints it, below the key ``error``; `revive` reads it at home."""
    arguments = [
        list(part) if isinstance(part, tuple) else str(part) if isinstance(part, Path) else part for part in error.args
    ]
    plain = all(isinstance(part, (str, int, float, list, type(None))) for part in arguments)
    return {
        "type": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code,
        "args": arguments if plain else None,
    }


def revive(alias: str, told: dict[str, Any]) -> PortsError:
    """Return the error that `ports` on `alias` printed: of its class where it can be, always with its exit code."""
    message, arguments = str(told.get("message") or "it failed"), told.get("args")
    kind = getattr(errors, str(told.get("type")), None)
    if isinstance(kind, type) and issubclass(kind, PortsError) and isinstance(arguments, list):
        with contextlib.suppress(TypeError, AttributeError):
            revived: PortsError = kind(*(tuple(part) if isinstance(part, list) else part for part in arguments))
            if str(revived) == message:  # else another version words it from other parts
                return revived
    return _BY_EXIT_CODE.get(told.get("exit_code"), FarSideError)(alias, message)


class _FromFarSide(PortsError):
    """What `ports` on a host printed, where its error cannot be rebuilt."""

    def __init__(self, host: str, reason: str) -> None:
        Exception.__init__(self, host, reason)
        self.host, self.reason = host, reason

    def __str__(self) -> str:
        return f"{self.host}: {self.reason}"


class FarUsageError(_FromFarSide, UsageError):
    """An invalid name, option or setting, on a host."""


class FarNotFoundError(_FromFarSide, NotFoundError):
    """Nothing of that name on a host."""


class FarConflictError(_FromFarSide, ConflictError):
    """Something on a host is in conflict with the request."""


class FarTimedOutError(_FromFarSide, TimedOutError):
    """Something on a host did not happen in time."""


class FarRecordError(_FromFarSide, RecordError):
    """A record on a host that the `ports` there cannot read because a newer one wrote it."""


_BY_EXIT_CODE: dict[Any, Callable[[str, str], PortsError]] = {
    2: FarUsageError,
    3: FarNotFoundError,
    4: FarConflictError,
    6: FarTimedOutError,
    7: FarRecordError,
}
