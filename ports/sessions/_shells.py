"""Shells: ipython or bash in a named tmux session that stays when the terminal is closed."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from ports.errors import TmuxError, ToolMissingError
from ports.probe import SAFE_PATH
from ports.sessions import _attach, _kinds, _tmux, environments, surroundings
from ports.sessions._end import names_locked
from ports.state import paths, runtime_directory

_KIND = "shell"


def open_shell(name: str = "main", *, bash: bool = False, env: str | None = None) -> None:
    """Replace this process by tmux, attached to the shell `name`, which is started if it does not run.

    Parameters
    ----------
    bash : bool
        Start bash instead of ipython. Ignored if the shell runs already.
    env : str, optional
        A conda environment's name or path, or a venv's path. Default: this interpreter's. Ignored if the shell runs
        already.

    Raises
    ------
    UsageError
        This is Windows.
    ToolMissingError
        tmux is not installed, or ipython is not in that environment.
    TmuxError
        tmux is installed, but does not run.
    NotFoundError
        There is no such environment.
    """
    paths.check_serves("shells in tmux")
    if not _tmux.is_installed():
        raise ToolMissingError("tmux", f"install it on {paths.host_name()}, or work in a plain ssh session")
    if (why := _tmux.why_not()) is not None:
        raise TmuxError(f"tmux does not run on {paths.host_name()}: {why}; repair it, or work in a plain ssh session")
    session = _kinds.tmux_session(_KIND, paths.check_name(name))
    socket = runtime_directory() / "tmux.sock"
    with names_locked(_KIND):
        if not _tmux.has_session(socket, session):
            _start_shell(socket, session, bash=bash, env=env)
    _attach.attach_to(socket, session)


def _start_shell(socket: Path, session: str, *, bash: bool, env: str | None) -> None:
    environ, python = surroundings.of_a_session(person=True), sys.executable
    if env is not None:
        found = environments.find(env, Path.cwd(), environ)
        environ, python = environments.activated(found, environ), str(found.python)
    login = (
        "-l" if env is None else "-i"
    )  # -l as `ssh HOST` does; with an environment -i, because login files could undo it
    argv = [shutil.which("bash") or "/bin/sh", login] if bash else _ipython(python, environ)
    _attach.start_terminal(socket, session, argv, environ=environ, cwd=str(Path.cwd()))


def _ipython(python: str, environ: Mapping[str, str]) -> list[str]:
    code = f"{SAFE_PATH}; import importlib.util as u; sys.exit(u.find_spec('IPython') is None)"
    null = subprocess.DEVNULL
    if subprocess.run([python, "-c", code], env=environ, stdin=null, capture_output=True, check=False).returncode:
        raise ToolMissingError(f"ipython in {python}", "`pip install ipython` there, or pass --bash")
    return [python, "-m", "IPython"]
