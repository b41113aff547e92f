"""tmux, by libtmux: sessions on a server of our own.

The server has its own socket, because another user may have created ``/tmp/tmux-<uid>``. It also has its own
configuration. It starts with a clean environment, because it passes that on to every session.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket as socketlib
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ports.errors import TimedOutError, TmuxError, UnsafePathError
from ports.probe import peer
from ports.state import is_private, wait_until

if TYPE_CHECKING:
    from libtmux import Server

_CONFIGURATION = Path(__file__).with_name("tmux.conf")
_CLEAN = ("HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TMUX_TMPDIR")


def is_installed() -> bool:
    """Say whether tmux is installed."""
    return shutil.which("tmux") is not None


def start_session(socket: Path, session: str, argv: Sequence[str], *, cwd: str, environ: Mapping[str, str]) -> int:
    """Start `argv`, at least two words, as the only window of a new, detached session, without a shell.

    Parameters
    ----------
    environ : mapping
        The environment of this process. Only the variables that identify the user reach the tmux server.

    Returns
    -------
    int
        The pid of `argv`.

    Raises
    ------
    TmuxError
        tmux refused, or the command ended before tmux reported it.
    """
    from libtmux.exc import LibTmuxException

    if socket.exists() and not is_mine(socket):
        raise UnsafePathError(socket, "another user created it", "remove it, or ask its owner to")
    clean = {name: environ[name] for name in _CLEAN if name in environ}
    command = ["tmux", "-S", str(socket), "-f", str(_CONFIGURATION), "start-server"]
    started = subprocess.run(command, env=clean, capture_output=True, text=True, check=False)
    if started.returncode:
        raise TmuxError(f"tmux could not start a server on {socket}: {started.stderr.strip()}")
    server = _server(socket)
    try:
        size = ("-x", "200", "-y", "50")
        # tmux itself runs several arguments. A single one would go through the user's login shell, which may be any
        # program: fish, tcsh, /usr/sbin/nologin.
        created = server.cmd("new-session", "-d", "-P", "-F#{pane_pid}", "-s", session, "-c", cwd, *size, *argv)
        if created.returncode or not created.stdout:
            raise TmuxError(
                f"tmux could not start session {session!r}: {' '.join(created.stderr) or 'it gave no reason'}"
            )
        return int(created.stdout[0])
    except LibTmuxException as error:
        raise TmuxError(f"tmux could not start session {session!r}: {error}") from error
    finally:
        server.cmd("set-option", "-s", "exit-empty", "on")


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


def has_session(socket: Path, session: str) -> bool:
    """Say whether there is a server on `socket` that has `session`."""
    if not is_mine(socket) or not is_installed():
        return False
    return _server(socket).cmd("has-session", "-t", f"={session}").returncode == 0


def kill_session(socket: Path, session: str) -> None:
    """End `session` if it exists."""
    if has_session(socket, session):
        _server(socket).cmd("kill-session", "-t", f"={session}")


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
        return True if _server(socket).cmd("list-sessions").returncode == 0 else None

    with contextlib.suppress(TimedOutError):
        wait_until(is_settled, timeout=2, what="end of the tmux server")


def attach_command(socket: Path, session: str) -> list[str]:
    """Return the plain tmux command that attaches to `session`."""
    return ["tmux", "-S", str(socket), "attach-session", "-t", f"={session}"]


def _server(socket: Path) -> Server:
    from libtmux import Server

    return Server(socket_path=socket, config_file=str(_CONFIGURATION))
