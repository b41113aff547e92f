"""Attach this terminal to a session, or start a shell that has a terminal."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NoReturn

from ports.errors import TmuxError
from ports.sessions import _start, _tmux, surroundings
from ports.sessions._records import SessionRecord
from ports.state import locked, records


def attach(record: SessionRecord) -> NoReturn:
    """Replace this process by tmux, attached to the session.

    Raises
    ------
    TmuxError
        The session has no terminal, because tmux was not installed when it was started.
    """
    if record.tmux_socket is None:
        hint = f"`ports {record.kind} logs {record.name}` shows its output"
        raise TmuxError(f"{record.kind} {record.name!r} runs without tmux; {hint}")
    attach_to(Path(record.tmux_socket), record.tmux_session)


def start_terminal(socket: Path, session: str, argv: Sequence[str], *, environ: Mapping[str, str], cwd: str) -> None:
    """Start `argv` in a new tmux session with a terminal and without a log: a shell for a person."""
    launch_file = socket.with_name(f"{session}.launch")
    task = {"format": records.FORMAT, "argv": list(argv), "cwd": cwd, "environ": dict(environ), "terminal": True}
    task["umask"] = surroundings.umask()
    records.write_json(launch_file, task)
    try:
        with locked("tmux"):
            _tmux.start_session(socket, session, _start.launcher(launch_file), cwd="/")
    except BaseException:
        launch_file.unlink(missing_ok=True)  # it contains the environment
        raise


def attach_to(socket: Path, session: str) -> NoReturn:
    """Replace this process by tmux, attached to `session`; raises TmuxError if this user has no tmux server there."""
    if not _tmux.is_mine(socket):
        raise TmuxError(f"you have no tmux server on {socket}")
    environ = {name: value for name, value in os.environ.items() if name != "TMUX"}  # otherwise tmux refuses to nest
    environ["TERM"] = _tmux.usable_terminal(socket, environ.get("TERM", ""))
    os.execvpe("tmux", _tmux.attach_command(socket, session), environ)


def attach_line(record: SessionRecord) -> str | None:
    """Return the plain tmux command that attaches to the session; None if it has no terminal."""
    if record.tmux_socket is None:
        return None
    return line_of(Path(record.tmux_socket), record.tmux_session)


def line_of(socket: Path, session: str) -> str:
    """Return the plain tmux command that attaches to `session`."""
    return shlex.join(_tmux.attach_command(socket, session))
