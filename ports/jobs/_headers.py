"""What the header of a request can contain: it is checked before anything is done, and refused in words."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports.errors import PortsError, UsageError
from ports.jobs._model import ENDED, MOST_JOBS, REASONS, STOPPED, JobId, Lease, is_text, parse_id, short
from ports.jobs._store import pack
from ports.probe import words

_NUMBERS = (int, float)


def error_of(n: object, error: PortsError) -> dict[str, Any]:
    """Return the header that answers request `n` by an error."""
    told: dict[str, Any] = {"kind": type(error).__name__, "text": str(error), "exit_code": error.exit_code}
    arguments = [str(one) if isinstance(one, Path) else one for one in error.args]
    if all(isinstance(one, str | int | float | None) for one in arguments):
        told["args"] = arguments
    return {"n": n, "error": told}


def count_of(value: object) -> int | None:
    """Return how many jobs a map has; None if it is one job."""
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value <= MOST_JOBS:
        raise UsageError(f"count: {short(value)} is no whole number from 1 to {MOST_JOBS}")
    return value


def seconds(value: object, what: str) -> float | None:
    """Return a number of seconds; None if there is none."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1e12:
        raise UsageError(f"{what}: {short(value)} is no number of seconds")
    return float(value)


def ids_of(header: Mapping[str, Any], name: str = "ids", *, least: int = 1) -> tuple[JobId, ...]:
    """Return the ids that a request names, at least `least`."""
    ids = header.get(name, [])
    if not isinstance(ids, list) or not least <= len(ids) <= MOST_JOBS:
        raise UsageError(f"{name}: {short(ids)} is no list of ids")
    return tuple(dict.fromkeys(parse_id(id) for id in ids))


def filters_of(value: object) -> dict[str, Any]:
    """Return by what ``list`` filters."""
    try:
        return words.filters_of(value)
    except words.Refused as refused:
        raise UsageError(refused.text) from refused


def text_of(header: Mapping[str, Any], name: str) -> str:
    """Return an optional text, empty where there is none."""
    value = header.get(name)
    if value is None:
        return ""
    if not isinstance(value, str) or len(value) > 1024 or not is_text(value, "strict"):
        raise UsageError(f"{name}: {short(value)} is no text")
    return value


def lease_of(header: Mapping[str, Any], slot: str) -> Lease:
    """Return where it is seen whether a slot lives."""
    path, process = header.get("lease"), header.get("process")
    if path is not None and (not isinstance(path, str) or "\0" in path or not is_text(path, "strict")):
        raise UsageError(f"lease: {short(path)} is no path")
    return Lease(slot, path or "", plain(process, "process"))


def plain(value: object, what: str) -> dict[str, Any] | None:
    """Return a small JSON object that can be kept as it is."""
    if value is None:
        return None
    if not isinstance(value, dict) or len(_dumped(value, what)) > 4096:
        raise UsageError(f"{what}: {short(value)} is no small object")
    return value


def holds_of(header: Mapping[str, Any]) -> dict[int, tuple[JobId, int | None]]:
    """Return the jobs that a slot says it holds, with their attempts as far as it names them."""
    holds = header.get("holds", header.get("ids", []))
    if not isinstance(holds, list) or len(holds) > MOST_JOBS:
        raise UsageError(f"holds: {short(holds)} is no list of ids and attempts")
    found: dict[int, tuple[JobId, int | None]] = {}
    for one in holds:
        if isinstance(one, list) and len(one) == 2 and type(one[1]) is int:
            id, attempt = parse_id(one[0]), one[1]
        else:
            id, attempt = parse_id(one), None
        found[pack(id.number, id.item or 0)] = id, attempt
    return found


def _dumped(value: object, what: str) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        raise UsageError(f"{what}: it is no JSON") from None
    return text


def attempt_of(result: Any) -> tuple[int, JobId, int]:
    """Return packed job, id and attempt of which a slot tells the result; raises UsageError."""
    if not isinstance(result, dict):
        raise UsageError(f"results: {short(result)} is no object")
    id, attempt = parse_id(result.get("id")), result.get("attempt")
    if not isinstance(attempt, int) or isinstance(attempt, bool):
        raise UsageError(f"attempt: {short(attempt)} is no number")
    return pack(id.number, id.item or 0), id, attempt


def result_of(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the fields of one result that a slot told; raises UsageError."""
    how = result.get("state")
    if how not in ENDED:
        raise UsageError(f"state: {short(how)} is none of {', '.join(ENDED)}")
    for name in ("began", "ended", "peak_memory", "cpu_time"):
        value = result.get(name)
        if value is not None and (value.__class__ not in _NUMBERS or not 0 <= value < 1e18):
            raise UsageError(f"{name}: {short(value)} is no number")
    if (error := result.get("error")) is not None:
        if not isinstance(error, dict):
            raise UsageError(f"error: {short(error)} is no object")
        _dumped(error, "error")
    if result.get("reason") is not None and result["reason"] not in (*REASONS, STOPPED):
        raise UsageError(f"reason: {short(result.get('reason'))} is none of {', '.join(REASONS)}")
    if result.get("note") != {}:
        plain(result.get("note"), "note")
    return result
