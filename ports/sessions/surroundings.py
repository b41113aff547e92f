"""What a process that we start gets of its starter: the one place that says so.

A child gets what it needs, and nothing else of the place where somebody happened to type a command:

- tmux and the launcher: `of_a_tool`, which is who the user is, the language and the PATH; the directory ``/``, no
  standard input and no terminal.
- a session's own command: `of_a_session`, which is all except what describes a terminal, a connection, or the starter's
  own process; the directory that was asked for, its output in the log, no terminal, and every signal as at a login.
- a person's shell: the same, and the display; a terminal of tmux's, and the person's own umask.
- what is asked something and ends at once: the environment of what it is asked about, and no standard input.

Descriptors are closed in all of them, as Python does by default. What leads a session of its own gets no signal of the
starter's terminal. The variables for an interpreter (``PYTHONPATH``, ``LD_LIBRARY_PATH``, ``LD_PRELOAD``) reach a
session's command, because it runs the user's code as a process of this environment would. They reach no tool.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

_IDENTITY = ("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMUX_TMPDIR")
_LIBRARIES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "DYLD_FALLBACK_LIBRARY_PATH")
#: The starter's terminal, with the program that draws it, and the multiplexer around it.
_TERMINAL = re.compile(
    r"TERM|TERM_.*|COLORTERM|COLORFGBG|COLUMNS|LINES|TERMCAP|TERMINFO|WINDOWID|WINDOW|SHLVL|OLDPWD|_|GPG_TTY|SSH_TTY"
    r"|TMUX|TMUX_PANE|STY|ZELLIJ.*|VTE_VERSION|KITTY_.*|WEZTERM_.*|ITERM_.*|LC_TERMINAL.*|ALACRITTY_.*|GHOSTTY_.*"
    r"|KONSOLE_.*|INSIDE_EMACS|VSCODE_.*|ELECTRON_RUN_AS_NODE"
)
#: The connection that it came by, and the login session, which end before the child does.
_CONNECTION = re.compile(r"SSH_CONNECTION|SSH_CLIENT|SSH_ORIGINAL_COMMAND|SSH_USER_AUTH|XDG_(SESSION_.*|SEAT.*|VTNR)")
#: The starter as a kernel of Jupyter, or as one process of a parallel run: a child that reads these joins that run.
_PROCESS = re.compile(
    r"JPY_.*|PORTS_JUPYTER_ROUTE|PMI_.*|PMIX_.*|OMPI_(COMM|MCA_ess|MCA_orte).*|MPI_LOCAL.*|HYDRA_.*|FLUX_TASK_.*"
    r"|SLURM_(PROCID|LOCALID|NODEID|GTIDS|TASK_PID|STEP.*|SRUN_.*|PTY_.*|LAUNCH_NODE_IPADDR)"
)
#: A person looks at these. What nobody looks at would fail on a display that is gone.
_DISPLAY = re.compile(r"DISPLAY|WAYLAND_DISPLAY|XAUTHORITY|SSH_ASKPASS.*|GIT_ASKPASS|BROWSER")


def of_a_session(*, person: bool = False, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the variables of this process that the command of a session gets.

    Parameters
    ----------
    person : bool
        The command is a shell that somebody sits at.
    environ : mapping, optional
        Default: the environment of this process.
    """
    drop = (_TERMINAL, _CONNECTION, _PROCESS, *(() if person else (_DISPLAY,)))
    given = os.environ if environ is None else environ
    kept = {name: value for name, value in given.items() if not any(pattern.fullmatch(name) for pattern in drop)}
    if kept.get("MPLBACKEND", "").startswith("module:"):  # set by a kernel for its own child processes
        del kept["MPLBACKEND"]
    return kept


def of_this_process() -> dict[str, str]:
    """Return all variables of this process."""
    return dict(os.environ)


def become(environ: Mapping[str, str]) -> None:
    """Give this process the variables `environ`, and no other."""
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)


def of_a_tool(*, libraries: bool = False) -> dict[str, str]:
    """Return the variables of this process that tmux and the launcher get.

    With `libraries`, also those that say where libraries are: a tmux of an environment module can need them. A tmux
    server passes them on to every session, so nothing secret is among them.
    """
    names = (*_IDENTITY, *_LIBRARIES) if libraries else _IDENTITY
    return {name: os.environ[name] for name in names if name in os.environ}


def for_this_interpreter(argv: list[str]) -> list[str]:
    """Return `argv`, whose program is this interpreter, so that it finds the libraries that this process has.

    The Python of an environment module can need ``LD_LIBRARY_PATH`` to start at all. The tmux server has none.
    """
    found = [f"{name}={os.environ[name]}" for name in _LIBRARIES if os.environ.get(name)]
    return ["/usr/bin/env", *found, *argv] if found else argv


def umask() -> int:
    """Return the umask of this process."""
    now = os.umask(0o077)
    os.umask(now)
    return now
