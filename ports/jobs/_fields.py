"""What a field of a request can contain: it is read or refused, in words that name the field. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from ports.errors import UsageError

LONGEST = 4096  # characters of a text


def short(value: object) -> str:
    """Return a value as an error names it."""
    text = ascii(value) if isinstance(value, str | int | float | bool | None) else type(value).__name__
    return text if len(text) < 60 else f"{text[:56]} …"


def many(number: float, noun: str) -> str:
    """Return a number with its noun: ``2 cpus``."""
    return f"{number:g} {noun}" + ("" if number == 1 else "s")


def object_of(data: object, what: str, allowed: tuple[str, ...]) -> dict[str, Any]:
    """Return an object whose fields are all `allowed`; raises UsageError, as all of these do."""
    if not isinstance(data, Mapping):
        raise UsageError(f"{what}: {short(data)} is no object")
    if unknown := [name for name in data if name not in allowed]:
        raise UsageError(f"{what}: {short(unknown[0])} is unknown; known are {', '.join(allowed)}")
    return dict(data)


def number_of(value: object, what: str, *, least: float, most: float) -> float:
    """Return a number that is not too small and not too large."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
        raise UsageError(f"{what}: {short(value)} is no number from {least:g} to {most:g}")
    return value if isinstance(value, int) or math.isfinite(value) else float(value)


def whole_of(value: object, what: str, *, least: int, most: int) -> int:
    """Return a whole number that is not too small and not too large."""
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"{what}: {short(value)} is no whole number from {least} to {most}")
    return value


def text_of(value: object, what: str, *, most: int = LONGEST) -> str:
    """Return a text that is not too long."""
    if not isinstance(value, str) or len(value) > most or "\0" in value or not is_text(value, "strict"):
        raise UsageError(f"{what}: {short(value)} is no text of up to {most} characters")
    return value


def path_of(value: object, what: str, *, most: int = LONGEST) -> str:
    """Return a text that can also be the name of a file that is not UTF-8."""
    if not isinstance(value, str) or len(value) > most or "\0" in value or not is_text(value):
        raise UsageError(f"{what}: {short(value)} is no text of up to {most} characters")
    return value


def is_text(value: str, errors: str = "surrogateescape") -> bool:
    """Say whether a text can be encoded; with ``"strict"``, whether it is no name of a file that is not UTF-8."""
    try:
        value.encode("utf-8", errors)
    except UnicodeEncodeError:
        return False
    return True


def words_of(value: object, what: str, *, most: int) -> tuple[str, ...]:
    """Return some texts."""
    if not isinstance(value, list | tuple) or len(value) > most:
        raise UsageError(f"{what}: {short(value)} is no list of up to {most} texts")
    return tuple(text_of(one, what, most=255) for one in value)


def json_object(value: object, what: str) -> dict[str, Any]:
    """Return an object that can be written as JSON."""
    if not isinstance(value, dict):
        raise UsageError(f"{what}: {short(value)} is no object")
    check_json(value, what, 0)
    return value


def check_json(value: object, what: str, depth: int) -> None:
    """Raise UsageError if `value` cannot be written as JSON and read again."""
    if depth > 20:
        raise UsageError(f"{what}: it is nested more than 20 deep")
    if isinstance(value, Mapping):
        for name, inner in value.items():
            path_of(name, what)
            check_json(inner, what, depth + 1)
    elif isinstance(value, list | tuple):
        for inner in value:
            check_json(inner, what, depth + 1)
    elif isinstance(value, str):
        if not is_text(value):
            raise UsageError(f"{what}: {short(value)} is no text")
    elif isinstance(value, float):
        if not math.isfinite(value):
            raise UsageError(f"{what}: {value} is no number")
    elif not isinstance(value, int | None) or (isinstance(value, int) and abs(value) >= 2**63):
        raise UsageError(f"{what}: {short(value)} is no JSON")


def flag_of(value: object, what: str) -> bool:
    """Return True or False."""
    if not isinstance(value, bool):
        raise UsageError(f"{what}: {short(value)} is neither true nor false")
    return value
