"""The form of a new job: its fields, what they hold of a job that runs again, and where a refusal stands. Pure."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import Any

from ports.web import _facts

#: The fields of the form: name, label, an example.
FIELDS = (
    ("cpus", "Cores", "all"),
    ("memory", "Memory", "no limit"),
    ("gpus", "GPUs", "0"),
    ("timeout", "Time limit", "none"),
    ("retries", "Retries", "0"),
    ("name", "Name", "the script's"),
)
NAMES = ("host", "directory", "command", *(name for name, _, _ in FIELDS))
#: How a sentence that refuses a job begins, or what it has, and the field at which it stands.
_AT = (
    ("host", ("host:",)),
    ("directory", ("directory:",)),
    ("command", ("command:", "no program", "there is no program")),
    ("cpus", ("cpus:", " cpu, and this", " cpus, and this")),
    ("memory", ("memory:", " of memory, and this")),
    ("gpus", ("gpus:", " gpu, and this", " gpus, and this")),
    ("timeout", ("timeout:",)),
    ("retries", ("retries:",)),
    ("name", ("name:",)),
)


def field_of(sentence: str) -> str:
    """Return the field at which a refusal stands; empty where it is of none.

    >>> field_of("this job can never run here: it needs 99 cpus, and this resource has 2; ask for less")
    'cpus'
    """
    for name, marks in _AT:
        for one in marks:
            if sentence.startswith(one) if one.endswith(":") else one in sentence:
                return name
    return ""


def new_job(
    values: Mapping[str, str], hosts: Mapping[str, str], *, error: str = "", source: str = "", copied: bool = False
) -> dict[str, Any]:
    """Return what ``job_new.html`` shows.

    Parameters
    ----------
    values : mapping
        What the fields hold.
    error : str
        Why the job was refused.
    source : str
        The id of the job that is run again.
    copied : bool
        That job had a copy of its directory, which the new one gets again.
    """
    at = field_of(error) if error else ""
    return {
        "hosts": [{"name": name, "is_chosen": values.get("host") == name} for name in hosts],
        "values": {name: values.get(name, "") for name in NAMES},
        "fields": [{"name": name, "label": label, "example": example} for name, label, example in FIELDS],
        "error_at": at,
        "error": _facts.said(error),
        "source": source,
        "copied": copied,
    }


def filled(row: Mapping[str, Any], host: str) -> dict[str, str]:
    """Return the values of the form for a job as it was."""
    asked = _facts.part(row, "asked")
    script, needs = _facts.part(asked, "script"), _facts.part(asked, "needs")
    argv = [str(one) for one in _listed_all(script.get("argv"))]
    whole, cpus, gpus = script.get("whole"), _facts.number(needs, "cpus"), _facts.number(needs, "gpus")
    memory, limit = _facts.number(needs, "memory"), _facts.number(asked, "timeout")
    return {
        "host": host,
        "directory": _facts.text(asked, "directory"),
        "command": argv[3] if argv[1:3] == ["-e", "-c"] and len(argv) == 4 else shlex.join(argv),
        "cpus": "" if whole else f"{1 if cpus is None else cpus:g}",
        "memory": "" if memory is None else f"{int(memory)}",
        "gpus": f"{gpus:g}" if gpus else "",
        "timeout": f"{limit:g}" if limit else "",
        "retries": _retries(_facts.part(asked, "retries")),
        "name": _facts.text(row, "name"),
    }


def _listed_all(found: Any) -> list[Any]:
    return found if isinstance(found, list) else []


def _retries(found: Mapping[str, Any]) -> str:
    """Return retries as they are typed; those that everybody has are left out."""
    given = {name: int(n) for name in found if (n := _facts.number(found, name)) is not None}
    if given.get("lost") == 1:
        del given["lost"]
    both = given.pop("failure", 0)
    if both == given.get("time", 0):
        given.pop("time", None)
        parts = [str(both)] if both else []
    else:
        parts = [f"failure: {both}"] if both else []
    return ", ".join([*parts, *(f"{name}: {n}" for name, n in given.items() if n)])
