"""The records of a session, and the state that follows from them. Nothing here looks at a process."""

from __future__ import annotations

import signal
from dataclasses import dataclass, field
from typing import ClassVar, Generic, TypeVar

from ports.errors import RecordError
from ports.sessions import _kinds
from ports.sessions._kinds import SessionPaths
from ports.state import ProcessId, Record

S = TypeVar("S", bound="SessionRecord")


@dataclass(frozen=True, kw_only=True)
class Running(Record):
    """``running.json``: what a session's command says about itself once it answers. Each kind adds fields."""

    process: ProcessId = field(metadata={"record": ProcessId})


@dataclass(frozen=True, kw_only=True)
class Exit(Record):
    """``exit.json``: how a session ended, as its launcher saw it. It has the exit `status` or the `signal`'s number."""

    status: int | None = None
    signal: int | None = None
    ended_at: float = 0.0
    reason: str | None = None

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        if self.signal == signal.SIGTERM:  # nothing went wrong
            return "ended by SIGTERM, which a stop sends"
        return f"killed by signal {self.signal}" if self.signal else f"exit status {self.status}"


@dataclass(frozen=True, kw_only=True)
class SessionRecord(Record):
    """``record.json``: what was asked for, by whom, and where it was launched. Each kind adds fields.

    `asked` are the words of the command line that ask for the same again.
    """

    kind: str
    name: str
    created_at: float
    interpreter: str
    directory: str
    started_by: ProcessId = field(metadata={"record": ProcessId})
    launcher: ProcessId | None = field(default=None, metadata={"record": ProcessId})
    tmux_socket: str | None = None
    asked: tuple[str, ...] = ()

    answers: ClassVar[type[Running]] = Running  # the class of its ``running.json``

    @property
    def tmux_session(self) -> str:
        """Name of the tmux session: ``cluster-main``."""
        return _kinds.tmux_session(self.kind, self.name)

    @property
    def outside(self) -> tuple[str, ...]:
        """Files and directories elsewhere that belong to this session alone and are removed with its records."""
        return ()

    @property
    def after(self) -> tuple[str, ...]:
        """A command that the launcher runs once the session's own has ended, for 20 s at most."""
        return ()


@dataclass(frozen=True)
class Found(Generic[S]):
    """What the disk and the process table say about one name.

    `state` is ``starting``, ``running``, ``stopped`` or ``unknown``, and `reason` says why it is one of the last two.
    A session is ``unknown`` if it belongs to another machine, or if one of its records cannot be read. In the second
    case `error` says why. If ``record.json`` itself cannot be read, `record` is None. `ended_at` (epoch) is known where
    its launcher has noted the end.
    """

    name: str
    files: SessionPaths
    state: str
    record: S | None = None
    running: Running | None = None
    reason: str | None = None
    error: RecordError | None = None
    ended_at: float | None = None


def verdict(
    ended: Exit | None,
    alive: bool | None,
    *,
    running: bool,
    launched: bool,
    same_boot: bool,
    same_container: bool = True,
) -> tuple[str, str | None]:
    """Return the state of a session, and the reason if it does not run.

    Parameters
    ----------
    alive : bool, optional
        Whether its process lives: that of ``running.json``, else its launcher, else its starter. None: unknown.
    running, launched : bool
        Whether it has answered, and whether its launcher had been started.
    same_boot : bool
        Whether the machine is still in the boot in which that process was started.
    same_container : bool
        Whether that process was started where this one can see it, in the same pid namespace.
    """
    if ended is not None:
        return "stopped", str(ended)
    if alive is None:
        return "unknown", "it belongs to another machine or container"
    if alive:
        return ("running" if running else "starting"), None
    if not running and not launched:
        return "stopped", "its start was interrupted"
    if not same_boot:
        return "stopped", "the machine was restarted"
    return "stopped", "it was killed" if same_container else "its container was restarted"


def way_out(kind: str, name: str) -> str:
    """Return what follows the reason why a session's state is unknown: there is always a command that leads on."""
    return f"if that is gone, `ports {kind} stop {name} --force` forgets it"
