"""tmux, by libtmux: sessions on a server of our own.

The server has its own socket, because another user may have created ``/tmp/tmux-<uid>``. It also has its own
configuration. It starts with a clean environment, because it passes that on to every session. Only `attach_command`
draws on a terminal: all other commands get none, because tmux refuses each command on a terminal that it does not know.
libtmux passes on this process's terminal and environment, so it gets ``tmux_quiet.sh`` as its tmux, and the server is
started without it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket as socketlib
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ports.errors import TimedOutError, TmuxError, UnsafePathError
from ports.probe import peer
from ports.sessions import surroundings
from ports.state import is_private, wait_until

if TYPE_CHECKING:
    from libtmux.common import tmux_cmd

_QUIET = Path(__file__).with_name("tmux_quiet.sh")
_CONFIGURATION = Path(__file__).with_name("tmux.conf")
_SECONDS = 20.0  # that a command of tmux may take
_NO_LIBRARY = 127  # of the dynamic loader
# In this order, what a terminal of an unknown kind most likely understands.
_TERMINALS = ("xterm-256color", "xterm", "screen-256color", "screen", "linux", "vt100")


def is_installed() -> bool:
    """Say whether there is a program tmux."""
    return shutil.which("tmux") is not None


def why_not() -> str | None:
    """Return why the program tmux does not run, in its own words; None if it does."""
    done = _run("-V")
    return _words_of(done) if done.returncode else None


def start_session(socket: Path, session: str, argv: Sequence[str], *, cwd: str) -> int:
    """Start `argv`, at least two words, as the only window of a new, detached session, without a shell.

    Returns
    -------
    int
        The pid of `argv`.

    Raises
    ------
    TmuxError
        tmux refused, or the command ended before tmux reported it.
    """
    if socket.exists() and not is_mine(socket):
        raise UnsafePathError(socket, "another user created it", "remove it, or ask its owner to")
    started = _run("-S", str(socket), "-f", str(_CONFIGURATION), "start-server")
    if started.returncode:
        raise TmuxError(f"tmux could not start a server on {socket}: {_words_of(started)}")
    try:
        size = ("-x", "200", "-y", "50")
        # tmux itself runs several arguments. A single one would go through the user's login shell, which may be any
        # program: fish, tcsh, /usr/sbin/nologin.
        created = _on(socket, "new-session", "-d", "-P", "-F#{pane_pid}", "-s", session, "-c", cwd, *size, *argv)
        if created.returncode or not created.stdout:
            why = " ".join(created.stderr) or f"it gave no reason (exit status {created.returncode})"
            raise TmuxError(f"tmux could not start session {session!r}: {why}")
        return int(created.stdout[0])
    finally:
        _on(socket, "set-option", "-s", "exit-empty", "on")  # a server without a session ends now


def is_mine(socket: Path) -> bool:
    """Say whether `socket` belongs to this user, in a directory of this user.

    After the machine was restarted, another user could create the path that a record names. A tmux client sends its
    environment to whoever listens there, and obeys them.
    """
    try:
        return is_private(socket.parent) and socket.lstat().st_uid == os.getuid()
    except OSError:
        return False


def tmux_server_pid(socket: Path) -> int | None:
    """Return the pid of the server on `socket`; None if there is none, or if the system does not report it."""
    if not is_mine(socket):
        return None
    with contextlib.closing(socketlib.socket(socketlib.AF_UNIX)) as connection, contextlib.suppress(OSError):
        connection.connect(str(socket))
        found = peer(connection)
        return found and found[0]
    return None


@dataclass(frozen=True)
class Pane:
    """One pane: its session, the pid of what was started in it, and the name of the program in the foreground."""

    session: str
    created_at: float
    n_attached: int
    pid: int
    program: str


def panes(socket: Path) -> list[Pane]:
    """Return the panes of all sessions of the server on `socket`; none if there is no server."""
    if not is_mine(socket) or not is_installed():
        return []
    asked = "#{session_name} #{session_created} #{session_attached} #{pane_pid} #{pane_current_command}"
    listed = _on(socket, "list-panes", "-a", "-F", asked).stdout
    found = [line.split(" ", 4) for line in listed]
    return [Pane(one[0], float(one[1]), int(one[2]), int(one[3]), one[4]) for one in found if len(one) == 5]


def has_session(socket: Path, session: str) -> bool:
    """Say whether there is a server on `socket` that has `session`."""
    if not is_mine(socket) or not is_installed():
        return False
    return _on(socket, "has-session", "-t", f"={session}").returncode == 0


def kill_session(socket: Path, session: str) -> None:
    """End `session` if it exists."""
    if has_session(socket, session):
        _on(socket, "kill-session", "-t", f"={session}")


def remove_dead_socket(socket: Path) -> None:
    """Remove the socket of a server that ended with its last session, which tmux leaves behind."""
    if not is_mine(socket):
        return

    def is_settled() -> bool | None:
        with contextlib.closing(socketlib.socket(socketlib.AF_UNIX)) as connection:
            try:
                connection.connect(str(socket))
            except ConnectionRefusedError:
                socket.unlink(missing_ok=True)
                return True
            except OSError:
                return True
        return True if _on(socket, "list-sessions").returncode == 0 else None

    with contextlib.suppress(TimedOutError):
        wait_until(is_settled, timeout=2, what="end of the tmux server")


def attach_command(socket: Path, session: str) -> list[str]:
    """Return the plain tmux command that attaches to `session`."""
    return ["tmux", "-S", str(socket), "attach-session", "-t", f"={session}"]


def usable_terminal(socket: Path, term: str) -> str:
    """Return `term` if tmux can draw on such a terminal, else the name of one like it that it knows.

    A terminal brings its name along, ``xterm-kitty``, and the server that one logs in to may not have its description.
    Tmux says so of any command that it gets at a terminal; before 3.2 it says so only when it attaches.
    """
    likely = [name for name in _TERMINALS if not term.startswith(("screen", "tmux")) or name.startswith("screen")]
    return next((name for name in (term, *likely, *_TERMINALS) if name and _knows(socket, name)), term)


def _knows(socket: Path, term: str) -> bool:
    environ, listing = {**surroundings.of_a_tool(), "TERM": term}, ["tmux", "-S", str(socket), "list-sessions"]
    try:  # at this process's own terminal
        done = subprocess.run(listing, env=environ, capture_output=True, timeout=_SECONDS, check=False)
        if b"terminal" in done.stderr:
            return False
        described = shutil.which("infocmp")
        return (
            described is None
            or not subprocess.run(
                [described, term],
                env=environ,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_SECONDS,
                check=False,
            ).returncode
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # tmux itself says what is wrong


def _on(socket: Path, *words: str) -> tmux_cmd:
    """Give a command to the server on `socket`."""
    from libtmux import Server
    from libtmux.exc import LibTmuxException

    try:
        return Server(socket_path=socket, tmux_bin=_QUIET).cmd(*words)
    except (LibTmuxException, OSError) as error:
        raise TmuxError(f"tmux could not run {words[0]}: {error}") from error


def _run(*words: str) -> subprocess.CompletedProcess[str]:
    """Run tmux without a terminal. If a library of it is missing, try again with the libraries of this process."""
    command = ["tmux", *words]
    for environ in (surroundings.of_a_tool(), surroundings.of_a_tool(libraries=True)):
        try:
            done = subprocess.run(
                command,
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="backslashreplace",
                timeout=_SECONDS,
                check=False,
            )
        except OSError as error:
            return subprocess.CompletedProcess(command, 127, "", error.strerror or str(error))
        except subprocess.TimeoutExpired:
            return subprocess.CompletedProcess(command, 124, "", f"it did not answer within {_SECONDS:g} s")
        if done.returncode != _NO_LIBRARY:
            break
    return done


def _words_of(done: subprocess.CompletedProcess[str]) -> str:
    return " ".join(done.stderr.split()) or f"it gave no reason (exit status {done.returncode})"
