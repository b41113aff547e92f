"""Shells: ipython or bash in a tmux session of a name, to come back to."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from ports.errors import ToolMissingError
from ports.probe import SAFE_PATH
from ports.sessions import _start, _terminals, _tmux, environments
from ports.state import paths


def open_shell(name: str = "main", *, bash: bool = False, env: str | None = None) -> None:
    """Replace this process by tmux, attached to the shell `name`; it is started where there is none.

    Parameters
    ----------
    bash : bool
        bash instead of ipython, for a shell that is started.
    env : str, optional
        A conda environment's name or path, or a venv's path, for a shell that is started. Default: this interpreter's.

    Raises
    ------
    UsageError
        This is Windows.
    ToolMissingError
        There is no tmux, or no ipython in that environment.
    NotFoundError
        There is no such environment.
    """
    paths.check_serves("shells in tmux")
    if not _tmux.is_installed():
        raise ToolMissingError("tmux", f"install it on {paths.host_name()}, or work in a plain ssh session")
    session = f"shell-{paths.check_name(name)}"
    socket = paths.runtime_directory() / "tmux.sock"
    with paths.locked("shells"):
        if not _tmux.has_session(socket, session):
            _start_shell(socket, session, bash=bash, env=env)
    _terminals.attach_to(socket, session)


def _start_shell(socket: Path, session: str, *, bash: bool, env: str | None) -> None:
    environ, python = _start.starter_environ(), sys.executable
    if env is not None:
        found = environments.find(env, Path.cwd(), environ)
        environ, python = environments.activated(found, environ), str(found.python)
    login = "-l" if env is None else "-i"  # as `ssh` to the host gives; the start files could undo an environment
    argv = [shutil.which("bash") or "/bin/sh", login] if bash else _ipython(python)
    _terminals.start_terminal(socket, session, argv, environ=environ, cwd=str(Path.cwd()))


def _ipython(python: str) -> list[str]:
    code = f"{SAFE_PATH}; import importlib.util as u; sys.exit(u.find_spec('IPython') is None)"
    if subprocess.run([python, "-c", code], capture_output=True, check=False).returncode:
        raise ToolMissingError(f"ipython in {python}", "`pip install ipython` there, or pass --bash")
    return [python, "-m", "IPython"]
