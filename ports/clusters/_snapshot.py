"""What disk, process table and scheduler say of one cluster at one moment."""

from __future__ import annotations

import contextlib
import functools
from pathlib import Path
from typing import cast

from ports import sessions
from ports.clusters import _dask
from ports.clusters._documents import Summary
from ports.clusters._options import KIND, ClusterRecord, ClusterRunning
from ports.errors import ForeignListenerError, NotFoundError
from ports.sessions import Found

_WHY = "why"  # which `sessions.launch` reads, too
_ENDING = "ending"  # which the owner makes


def with_promises(own: str = "") -> tuple[str, ...]:
    """Return the names of my running clusters on this machine that are promised memory; not the one called `own`."""
    found = [sessions.find(KIND, name, ClusterRecord) for name in sessions.names(KIND) if name != own]
    running = [one for one in found if one is not None and one.record is not None and one.state == "running"]
    return tuple(one.name for one in running if one.record and one.record.n_workers and one.record.memory_limit)


class Snapshot:
    """A cluster as it was found; `refresh` looks again."""

    def __init__(self, found: Found[ClusterRecord]) -> None:
        self.found = found
        self._other_owner: str | None = None
        self._has_noted_end = False

    def refresh(self) -> None:
        """Look again."""
        now = sessions.find(KIND, self.name, ClusterRecord)
        reason = "it was stopped and removed" if self.found.record is not None else self.found.reason
        self.found = now or Found(self.name, self.found.files, "stopped", self.found.record, reason=reason)
        self.__dict__.pop("summary", None)

    @property
    def name(self) -> str:
        """The cluster's name."""
        return self.found.name

    @property
    def record(self) -> ClusterRecord:
        """What it was started with; raises RecordError where that cannot be read."""
        if self.found.record is None:
            raise self.found.error or NotFoundError(KIND, self.name, "`ports cluster list` shows what there is")
        return self.found.record

    @property
    def running(self) -> ClusterRunning:
        """What its owner announced; raises NotFoundError where it does not run, RecordError where unreadable."""
        if self.found.error is not None:
            raise self.found.error
        if self.found.running is None:
            reason = f"it is {self.found.state}" + (f" ({self.found.reason})" if self.found.reason else "")
            is_starting = self.found.state == "starting"
            reason += "; wait for it" if is_starting else f"; `{self.start_line}` starts it"
            raise NotFoundError("running cluster", self.name, reason)
        assert isinstance(self.found.running, ClusterRunning)
        return self.found.running

    @property
    def start_line(self) -> str:
        """The command that starts it again, with the options that it was started with."""
        record = self.found.record
        return sessions.start_line(KIND, self.name, record.asked if record is not None else ())

    @property
    def state(self) -> str:
        """``running``, ``starting``, ``stopped`` or ``unknown``."""
        return "unknown" if self._is_silent else self.found.state

    @property
    def reason(self) -> str | None:
        """Why it does not run, or why its state is unknown."""
        if self._is_silent and self.is_ending:
            return "it is ending"
        if self._is_silent:
            return f"its process is alive, but {self._other_owner or 'does not answer'}; log: {self.log}"
        return self.found.reason

    @property
    def is_ending(self) -> bool:
        """Whether its owner is ending: its processes live on for a few seconds, but no client can connect any more.

        Only the owner says so: a stop can fail, or be killed before it has sent a signal.
        """
        return self.found.state == "running" and (self.found.files.directory / _ENDING).exists()

    @property
    def is_noting_its_end(self) -> bool:
        """Whether its owner has ended and its launcher has not noted why yet."""
        is_over = self.found.state == "stopped" and self.found.ended_at is None
        return is_over and sessions.is_alive(self.found) is True

    def note_end(self, why: str) -> None:
        """Leave word for its owner, which tells its clients, and for its launcher, which notes it."""
        with contextlib.suppress(OSError):  # another process was quicker
            (self.found.files.directory / _WHY).write_text(why)
            self._has_noted_end = True

    def forget_end(self) -> None:
        """Take `note_end` back, because the cluster goes on: it would be the reason of any later end."""
        if self._has_noted_end and not (self.found.files.directory / _ENDING).exists():
            with contextlib.suppress(OSError):
                (self.found.files.directory / _WHY).unlink()

    @property
    def _is_silent(self) -> bool:
        return self.found.state == "running" and self.summary is None

    @property
    def log(self) -> Path:
        """Path of its log."""
        return self.found.files.log

    @functools.cached_property
    def summary(self) -> Summary | None:
        """What its scheduler answers; None where it does not."""
        if self.found.running is None or self.found.state != "running":
            return None  # once it has ended, another user may have taken the socket's name
        try:
            return cast("Summary | None", _dask.summary(self.running.dashboard, self.name))
        except ForeignListenerError as error:
            self._other_owner = f"{error.listener} belongs to {error.owner}"
            return None
