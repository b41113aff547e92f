"""Shells: ipython or bash in a named tmux session that stays when the terminal is closed.

A shell has no records: tmux alone knows of it.
"""

from __future__ import annotations

import builtins
import contextlib
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypedDict

from ports.errors import NotFoundError, StopError, TimedOutError, TmuxError, ToolMissingError
from ports.probe import SAFE_PATH
from ports.sessions import _attach, _kinds, _tmux, environments, processes, surroundings
from ports.sessions._end import names_locked
from ports.state import ProcessId, paths, runtime_directory, wait_until

_KIND = "shell"
_STOP_SECONDS = 5.0
_YOUNG_SECONDS = 60.0
_ENTERS = Path(__file__).with_name("shell.bash")


class ShellRow(TypedDict):
    """A shell as ``--json`` shows it. `terminals` counts those that are attached to it; 0: it waits for you."""

    host: str
    kind: str
    name: str
    state: str
    pid: int
    program: str
    started_at: float
    directory: str | None
    terminals: int
    tmux: str


def open_shell(name: str = "main", *, bash: bool = False, env: str | None = None) -> None:
    """Replace this process by tmux, attached to the shell `name`, which is started if it does not run.

    Parameters
    ----------
    bash : bool
        Start bash instead of ipython. Ignored if the shell runs already.
    env : str, optional
        A conda environment's name or path, or a venv's path, which is activated. Default: this interpreter's; a bash
        gets what a login gets. Ignored if the shell runs already.

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
    _open(name, lambda socket, session: _start_shell(socket, session, bash=bash, env=env))


def open_shell_in(directory: str, environ: Mapping[str, str], *, name: str, is_login: bool) -> None:
    """Replace this process by tmux, attached to a bash in `directory`, which is started if it does not run.

    Parameters
    ----------
    environ : mapping
        All its variables. Without `is_login`, it reads no start files, which could change them.

    Raises
    ------
    UsageError, ToolMissingError, TmuxError
        As `open_shell`.
    """

    def start(socket: Path, session: str) -> None:
        program = _bash()
        bare = [program, "--noprofile", "--norc", "-i"] if program != "/bin/sh" else [program, "-i"]
        argv = [program, "-l"] if is_login else bare
        _attach.start_terminal(socket, session, argv, environ=environ, cwd=directory)

    _open(name, start)


def _open(name: str, start: Callable[[Path, str], None]) -> None:
    """Replace this process by tmux, attached to the shell `name`; `start` starts one that does not run."""
    paths.check_serves("shells in tmux")
    if not _tmux.is_installed():
        raise ToolMissingError("tmux", f"install it on {paths.host_name()}, or work in a plain ssh session")
    if (why := _tmux.why_not()) is not None:
        raise TmuxError(f"tmux does not run on {paths.host_name()}: {why}; repair it, or work in a plain ssh session")
    session, socket = _kinds.tmux_session(_KIND, paths.check_name(name)), _socket()
    with names_locked(_KIND):
        if not _tmux.has_session(socket, session):
            start(socket, session)
    _attach.attach_to(socket, session)


def list_shells() -> builtins.list[ShellRow]:
    """Return the rows of my shells on this machine, by name."""
    return [_row(one) for one in _running()]


def stop_shell(name: str = "main") -> None:
    """End the shell `name` and what runs in it, as closing its terminal does. A command under ``nohup`` goes on.

    Raises
    ------
    NotFoundError
        No shell of that name runs here.
    StopError
        Its process does not end.
    """
    name, socket = paths.check_name(name), _socket()
    with names_locked(_KIND):
        there = _running()
        found = next((one for one in there if _name(one) == name), None)
        if found is None:
            running = ", ".join(map(_name, there))
            raise NotFoundError(
                _KIND, name, f"there is {running}" if running else f"`ports shell --name {name}` starts one"
            )
        inside = [processes.identity(pane.pid) for pane in _tmux.panes(socket) if pane.session == found.session]
        _tmux.kill_session(socket, found.session)  # which hangs up
        if left := [who for who in inside if who is not None and not _ends(who)]:
            raise StopError(f"{_KIND} {name!r}", f"process {left[0].pid} does not end", socket)
        _tmux.remove_dead_socket(socket)


def prune_shells() -> builtins.list[Path]:
    """Remove what shells left whose start was interrupted, and the socket of a tmux that has ended; return both."""
    socket = _socket()
    with names_locked(_KIND):
        old = [one for one in socket.parent.glob(f"{_KIND}-*.launch") if _is_old(one)]
        for file in old:  # it contains an environment
            file.unlink(missing_ok=True)
        had_socket = socket.exists()
        if _tmux.is_installed():
            _tmux.remove_dead_socket(socket)
        return old + ([socket] if had_socket and not socket.exists() else [])


def _socket() -> Path:
    return runtime_directory() / "tmux.sock"


def _running() -> builtins.list[_tmux.Pane]:
    """Return the first pane of each shell, by name."""
    found: dict[str, _tmux.Pane] = {}
    for pane in _tmux.panes(_socket()):
        if pane.session.startswith(_kinds.tmux_session(_KIND, "")):
            found.setdefault(pane.session, pane)
    return [found[session] for session in sorted(found)]


def _name(pane: _tmux.Pane) -> str:
    return pane.session.removeprefix(_kinds.tmux_session(_KIND, ""))


def _row(pane: _tmux.Pane) -> ShellRow:
    return {
        "host": paths.host_name(),
        "kind": _KIND,
        "name": _name(pane),
        "state": "running",
        "pid": pane.pid,
        "program": pane.program,
        "started_at": pane.created_at,
        "directory": processes.directory(pane.pid),
        "terminals": pane.n_attached,
        "tmux": _attach.line_of(_socket(), pane.session),
    }


def _ends(who: ProcessId) -> bool:
    """Say whether a process ends after it was hung up; one that ignores that is ended."""
    with contextlib.suppress(TimedOutError):
        wait_until(lambda: processes.is_alive(who) is False or None, timeout=_STOP_SECONDS, what="its end")
        return True
    return processes.end([who], timeout=_STOP_SECONDS)


def _is_old(file: Path) -> bool:
    with contextlib.suppress(OSError):
        return time.time() - file.lstat().st_mtime > _YOUNG_SECONDS
    return False


def _start_shell(socket: Path, session: str, *, bash: bool, env: str | None) -> None:
    environ = surroundings.of_a_session(person=True)
    if bash and env is None:
        argv = [_bash(), "-l"]  # as `ssh HOST` does
    else:
        found, environ = environments.of_a_start(env, environ)
        argv = _bash_in(found, environ) if bash else _ipython(found, environ)
    _attach.start_terminal(socket, session, argv, environ=environ, cwd=str(Path.cwd()))


def _bash() -> str:
    return shutil.which("bash") or "/bin/sh"


def _bash_in(found: environments.Environment, environ: dict[str, str]) -> builtins.list[str]:
    """Return the command of a bash that reads the files of a login, and then enters the environment `found`."""
    if (program := _bash()) == "/bin/sh":
        return [program, "-i"]  # it reads no file that could undo the activation
    environ["PORTS_SHELL_PREFIX"] = str(found.prefix)
    return [program, "--rcfile", str(_ENTERS), "-i"]


def _ipython(found: environments.Environment, environ: Mapping[str, str]) -> builtins.list[str]:
    code = f"{SAFE_PATH}; import importlib.util as u; sys.exit(u.find_spec('IPython') is None)"
    command, null = [str(found.python), "-c", code], subprocess.DEVNULL
    if subprocess.run(command, env=environ, stdin=null, capture_output=True, check=False).returncode:
        raise environments.missing("ipython", found, "ipython", "pass --bash")
    return [str(found.python), "-m", "IPython"]
