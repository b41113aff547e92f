"""The machine of a job: this one, or a host of ``~/.ssh/config``, whose jobs are called ``server1:12`` here."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any, NamedTuple

from ports import hosts
from ports.errors import FarSideError, UnsendableError, UsageError
from ports.jobs import _model
from ports.jobs._model import JobId
from ports.state import settings


class Where(NamedTuple):
    """A machine, None being this one, and whether what it sends may be unpickled, which lets it run code here.

    `among` has the machines of which one is chosen at each submission.
    """

    host: str | None = None
    trust: bool = False
    among: tuple[str, ...] = ()


_HERE = Where()
#: What `ports.host` names.
current: ContextVar[Where] = ContextVar("host", default=_HERE)


def alias(name: object) -> str | None:
    """Return the alias of a host; None if it is this machine. Raises UsageError."""
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise UsageError(f"{name!r} is no name of a host; pass its alias, or None for this machine")
    return None if hosts.is_here(name) else name


def aliases(names: object) -> tuple[str, ...]:
    """Return the aliases of several hosts, of a list or of ``"gpu1,gpu2"``; empty if it is one. Raises UsageError."""
    if isinstance(names, str) and "," in names:
        names = names.split(",")
    if not isinstance(names, list | tuple):
        return ()
    found = [alias(one) for one in names]
    if None in found:
        raise UsageError("this machine cannot be one of several hosts; name others, or it alone")
    return tuple(dict.fromkeys(str(one) for one in found))


def split(id: object) -> tuple[str | None, JobId]:
    """Return the host and the number of an id: ``server1:12``; of ``12``, the host is that of `ports.host`.

    Raises
    ------
    UsageError
        It is no id.
    """
    text = str(id) if isinstance(id, int | JobId) and not isinstance(id, bool) else id
    if isinstance(text, str) and ":" in text:
        name, _, number = text.rpartition(":")
        found = _model.parse_id(number)
        return alias(name), found
    here = current.get()
    if here.among:
        raise UsageError(f"job {text} can be of {' or '.join(here.among)}; write {here.among[0]}:{text}")
    return here.host, _model.parse_id(text)


def called(host: str | None, id: JobId) -> str:
    """Return what a job is called here."""
    return str(id) if host is None else f"{host}:{id}"


def bare(id: object) -> str:
    """Return the number of an id, as its machine knows it: ``12`` of ``server1:12``; raises UsageError."""
    text = str(id).rpartition(":")[2] if isinstance(id, str) else id
    return str(text if isinstance(text, JobId) else _model.parse_id(text))


_ID = r"\d+(?:\.\d+)?"
#: What our own reasons say, around the ids that they name; reasons of users are texts of theirs.
_REASONS = (
    rf"dependency (?P<ids>{_ID}) (?:failed|was \w+)",
    rf"waits for (?P<ids>{_ID}(?:, {_ID})*)(?: and \d+ more)?(?:;.*)?",
    rf"waits for an equal job: (?P<ids>{_ID})(?:;.*)?",
    rf"waits for a slot, or for (?P<ids>{_ID}), which needs more(?:;.*)?",
    rf"refused: (?:it is job|after: job|no job) '?(?P<ids>{_ID})\b.*",
)


def reason_at_home(host: str, text: str) -> str:
    """Return why a job of `host` waits or ended, with the jobs that it names as they are called here."""
    for pattern in _REASONS:
        if found := re.fullmatch(pattern, text, re.DOTALL):
            begin, end = found.span("ids")
            return text[:begin] + re.sub(_ID, lambda one: f"{host}:{one[0]}", found["ids"]) + text[end:]
    return text


_IDS = ("cancelled", "ending", "ended_already", "removed", "unfetched", "after", "failed")  # keys of lists of ids
_HINTS = ("reason", "why", "error")
_OWN = ("reason", "why")  # in which our own words can name jobs


def at_home(host: str, document: Any) -> Any:
    """Return what was said of jobs on `host` as it is said here: with ``server1:12`` for 12, and hints to type here."""
    if isinstance(document, list):
        return [at_home(host, one) for one in document]
    if not isinstance(document, dict):
        return document
    told = {**document, "host": host} if "id" in document and "state" in document else dict(document)
    if told.get("id") is not None:
        told["id"] = f"{host}:{_checked(host, told['id'])}"
    if isinstance(told.get("asked"), dict):
        told["asked"] = at_home(host, told["asked"])
    for name in _IDS:
        if isinstance(told.get(name), list):
            told[name] = [f"{host}:{_checked(host, one)}" for one in told[name]]
    for name in _HINTS:
        if isinstance(told.get(name), str):
            text = told[name].replace("runs here;", "runs there;")
            told[name] = hosts.targets.hints_at(host, reason_at_home(host, text) if name in _OWN else text)
    if isinstance(told.get("transitions"), list):
        told["transitions"] = at_home(host, told["transitions"])
    return told


def _checked(host: str, id: object) -> JobId:
    """Return what another machine says is an id: paths and commands are made of it; raises FarSideError."""
    try:
        return _model.parse_id(id)
    except UsageError:
        raise FarSideError(host, f"it names a job {ascii(id)[:80]}, which is no id") from None


def asked_for(host: str, id: str, row: Any) -> dict[str, Any]:
    """Return the row of the job `id` as it is said here; raises FarSideError for that of another job."""
    if not isinstance(row, dict) or not isinstance(row.get("state"), str) or str(row.get("id")) != id:
        raise FarSideError(host, f"it was asked for job {id}, and answers with something else")
    told: dict[str, Any] = at_home(host, row)
    return told


_noted: ContextVar[set[str | None] | None] = ContextVar("noted", default=None)


@contextlib.contextmanager
def noted() -> Iterator[set[str | None]]:
    """Let `as_argument` note the machines of the jobs that are among arguments, and refuse none."""
    found: set[str | None] = set()
    token = _noted.set(found)
    try:
        yield found
    finally:
        _noted.reset(token)


def as_argument(host: str | None, id: JobId) -> str:
    """Return what a job is called where the function runs that gets its result.

    Raises
    ------
    UnsendableError
        The job is of another machine.
    """
    if (found := _noted.get()) is not None:
        found.add(host)
        return str(id)
    target = current.get().host
    if host != target:
        raise UnsendableError(
            f"job {called(host, id)} is of {_machine(host)}, and the function runs on {_machine(target)}: "
            "its result does not go from one to the other; pass its result()"
        )
    return str(id)


def _machine(host: str | None) -> str:
    return "this machine" if host is None else host


def is_trusted(host: str | None) -> bool:
    """Say whether what a machine sends may be unpickled: by `ports.host`, or by the settings."""
    here = current.get()
    return host is None or (here.host == host and here.trust) or bool(settings.host(host).get("trust"))
