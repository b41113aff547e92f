"""What lies in the directory of a job: how its script ended, how far it is, what a notice of its end was answered."""

import json
import os

if __name__ != "__main__":  # piped, these names are there already
    from .words import CANCELLED, ERROR, FINISHED, LOST

MYPY = False
if MYPY:
    from typing import Any, Dict, Mapping, Optional, Tuple

    Json = Dict[str, Any]

LARGEST_NOTE = 2**16  # bytes


def verdict(noted: "Mapping[str, Any]") -> "Tuple[str, str]":
    """Return state and reason of a script that ended as ``exit.json`` says.

    >>> verdict({"status": 3, "signal": None, "ended": None})
    ('error', 'exit status 3')
    """
    ended, reason = noted.get("ended"), str(noted.get("reason") or "")
    status, number = noted.get("status"), noted.get("signal")
    if ended == "cancel":
        return CANCELLED, reason or "it was cancelled"
    if ended == "timeout":
        return ERROR, reason or "it ran out of its time"
    if ended == "memory":
        return ERROR, reason or "it used more memory than it asked for"
    if ended == "signal":
        return LOST, reason or "something else ended its launcher, a shutdown for example"
    if ended is not None or (status is None and number is None):
        return LOST, reason or "nobody saw its end"
    if status == 0:
        return FINISHED, reason
    text = "exit status %s" % status if number is None else "signal %s%s" % (number, signal_name(number))
    return ERROR, reason or text


def signal_name(number: object) -> str:
    """Return the name of a signal, in brackets; empty where it has none."""
    import signal

    try:
        return " (%s)" % signal.Signals(int(str(number))).name
    except ValueError:
        return ""


def read_note(path: str, attempt: "Optional[int]" = None) -> "Optional[Json]":
    """Return a small document, of that attempt; None where there is none, or half of one."""
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(LARGEST_NOTE).decode("utf-8"))
    except (OSError, ValueError):
        return None
    if not isinstance(found, dict) or (attempt is not None and found.get("attempt") != attempt):
        return None
    return found


def ended_script(work: str, attempt: int) -> "Optional[Json]":
    """Return what the row of a script gets that has ended while no resource saw it; None if it goes on."""
    noted = read_note(os.path.join(work, "exit.json"), attempt)
    if noted is None:
        return None
    state, reason = verdict(noted)
    if state not in (FINISHED, CANCELLED):  # it may be tried again, as only a resource decides
        told = "it has ended (%s); whether it is tried again decides the next resource, `ports resource start`"
        return {"why": told % reason}
    row = {"state": state, "ended_at": noted.get("ended_at"), "note": {}}  # type: Json
    row.update({name: noted[name] for name in ("peak_memory", "cpu_time") if noted.get(name) is not None})
    row["note"].update({name: noted[name] for name in ("status", "signal", "size") if noted.get(name) is not None})
    if reason:
        row["reason"] = reason
    return row
