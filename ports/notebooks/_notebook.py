"""One notebook server, as `ports.notebooks` starts or finds it."""

from __future__ import annotations

import html
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, TypedDict
from urllib.parse import quote

from ports import listeners, probe, sessions
from ports.errors import BrokenRecordError, UsageError
from ports.sessions import Found, Running, SessionRecord
from ports.state import telling

KIND = "notebook"


@dataclass(frozen=True, kw_only=True)
class NotebookRunning(Running):
    """``running.json``: where a notebook server answers. Other machines read the rest of it, too."""

    port: int
    base_url: str
    url_path: str
    root: str
    token_file: str
    server: str
    version: str


@dataclass(frozen=True, kw_only=True)
class NotebookRecord(SessionRecord):
    """``record.json``: what a notebook server was started with.

    `runtime` is the directory of Jupyter's own record and of the kernels' sockets.
    """

    root: str
    server: str
    runtime: str
    token_file: str
    env: str | None = None
    idle: int | float = 0
    expire: int | float = 0
    debugger: bool = False
    answers: ClassVar[type[Running]] = NotebookRunning

    @property
    def outside(self) -> tuple[str, ...]:
        """Its runtime directory."""
        return (self.runtime,)


class NotebookRow(TypedDict):
    """A notebook server as ``--json`` shows it. What was started by hand has no record: those values are None."""

    host: str
    kind: str
    name: str
    state: str
    reason: str | None
    url: str | None
    root: str | None
    port: int | None
    pid: int | None
    started_at: float | None
    stopped_at: float | None
    managed: bool
    log: str | None
    env: str | None
    interpreter: str | None
    server: str | None
    idle: float | None
    expire: float | None
    debugger: bool | None
    path: str | None
    open_to_network: bool
    warnings: list[str]
    command: str
    command_note: str | None
    tmux: str | None


@dataclass(frozen=True, kw_only=True)
class Notebook:
    """A notebook server of mine on this machine, as it was found at one moment.

    `managed` ones were started by `ports`, the others by hand. `state` is ``running``, ``starting``, ``stopped`` or
    ``unknown``, and `reason` says why it is one of the last two. `path` is that of its Unix socket, if it has one
    instead of a port.
    """

    name: str
    state: str
    reason: str | None = None
    root: str | None = None
    port: int | None = None
    url_path: str = ""
    pid: int | None = None
    started_at: float | None = None
    managed: bool = True
    path: str | None = None
    scheme: str = "http"
    open_to_network: bool = False
    hub: bool = False
    warnings: tuple[str, ...] = ()
    _found: Found[NotebookRecord] | None = field(default=None, repr=False, compare=False)
    _token: str | None = field(default=None, repr=False, compare=False)

    @property
    def token(self) -> str | None:
        """The secret that opens it; None if it needs none, or has none yet."""
        if self._found is None or self._found.record is None:
            return self._token
        return probe.read_token(self._found.record.token_file)

    @property
    def url(self) -> str | None:
        """The link on this machine, with the token, for your own terminal only; None if it does not run."""
        plain = self._plain_url()
        return f"{plain}?token={quote(self.token)}" if plain and self.token else plain

    @property
    def log(self) -> Path | None:
        """Path of its log, which stays when it stops; None if it was started by hand."""
        return self._found.files.log if self._found else None

    def stop(self, *, force: bool = False) -> None:
        """Stop the server, its kernels and what they started. Its log and its token stay.

        Parameters
        ----------
        force : bool
            Also forget a server of which nothing can be known from here; only its records are removed.

        Raises
        ------
        UsageError
            It was started by hand, or belongs to another machine.
        StopError
            One of its processes does not end.
        RecordError
            Its record cannot be read.
        """
        found = self._managed("stopped", "Shut Down in its page, or Ctrl-C where it was started, stops it")
        with telling(f"the end of notebook {self.name!r}"):
            sessions.stop(found, force=force)

    def logs(self, lines: int = 0, *, warnings: bool = False) -> tuple[str, ...]:
        """Return the last `lines` lines of its log, with `warnings` of warning level or worse only; 0 for all.

        Raises UsageError if it was started by hand.
        """
        hint = "its output is in the terminal where it was started"
        return sessions.tail(self._managed("asked for its log", hint).files.log, lines, warnings=warnings)

    def attach(self) -> None:
        """Replace this process by tmux, attached to the server's session.

        Raises
        ------
        UsageError
            It was started by hand.
        TmuxError
            It has no terminal, because tmux was not installed when it was started.
        """
        found = self._managed("attached to", "it runs in the terminal where it was started")
        if found.record is None:
            raise found.error or BrokenRecordError(found.files.record, "it is gone")
        sessions.attach(found.record)

    def row(self) -> NotebookRow:
        """Return what ``ports notebook list --json`` shows. `url` has no token."""
        record = self._found.record if self._found else None
        return {
            "host": socket.gethostname(),
            "kind": KIND,
            "name": self.name,
            "state": self.state,
            "reason": self.reason,
            "url": self._plain_url(),
            "root": self.root,
            "port": self.port,
            "pid": self.pid,
            "started_at": self.started_at,
            "stopped_at": self._found.ended_at if self._found else None,
            "managed": self.managed,
            "log": str(self.log) if self.log else None,
            "env": record.env if record else None,
            "interpreter": record.interpreter if record else None,
            "server": record.server if record else None,
            "idle": record.idle if record else None,
            "expire": record.expire if record else None,
            "debugger": record.debugger if record else None,
            "path": self.path,
            "open_to_network": self.open_to_network,
            "warnings": [*self.warnings],
            "command": listeners.open_command(self.name),
            "command_note": listeners.guess_note(),
            "tmux": sessions.attach_line(record) if record else None,
        }

    def _repr_html_(self) -> str:
        facts = {"State": self.state, "Reason": self.reason, "Directory": self.root}
        if self.state == "running":
            command = listeners.open_command(self.name)  # no token: outputs are saved with notebooks
            facts["At home, type"] = command + listeners.guess_in_brackets()
        lines = "".join(
            f"<tr><th>{label}</th><td>{html.escape(text)}</td></tr>" for label, text in facts.items() if text
        )
        return f"<div><strong>Notebook server {html.escape(self.name)}</strong><table>{lines}</table></div>"

    def _plain_url(self) -> str | None:
        if self.port is None or self.state == "stopped" or self.hub:
            return None
        return listeners.links.url(self.port, scheme=self.scheme, path=self.url_path)

    def _managed(self, doing: str, hint: str) -> Found[NotebookRecord]:
        if self._found is None:
            raise UsageError(f"notebook {self.name!r} was started by hand and cannot be {doing} here; {hint}")
        return self._found
