"""The machine of a job: this one, or a host of ``~/.ssh/config``, whose jobs are called ``server1:12`` here."""

from __future__ import annotations

from contextvars import ContextVar
from typing import NamedTuple

from ports import hosts
from ports.errors import UnsendableError, UsageError
from ports.jobs import _model
from ports.jobs._model import JobId
from ports.state import settings


class Where(NamedTuple):
    """A machine, None being this one, and whether what it sends may be unpickled, which lets it run code here."""

    host: str | None = None
    trust: bool = False


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
    return current.get().host, _model.parse_id(text)


def called(host: str | None, id: JobId) -> str:
    """Return what a job is called here."""
    return str(id) if host is None else f"{host}:{id}"


def as_argument(host: str | None, id: JobId) -> str:
    """Return what a job is called where the function runs that gets its result.

    Raises
    ------
    UnsendableError
        The job is of another machine.
    """
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
