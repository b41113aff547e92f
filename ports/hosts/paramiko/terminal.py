"""A command on a host at this terminal."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import sys

from ports.errors import SSHError
from ports.hosts.paramiko.channels import Channel
from ports.hosts.paramiko.shared_connection import SharedConnection


def interact(connection: SharedConnection, command: str | None, *, kind: str) -> int:
    """Run `command`, else the login shell, at this terminal, and return its exit status.

    Parameters
    ----------
    kind : str
        The terminal's, as in ``TERM``.

    Raises
    ------
    SSHError
        There is no terminal here that can be used, or nothing can be executed there.
    """
    if os.name == "nt" or not os.isatty(sys.stdin.fileno()):
        raise SSHError(connection.alias, "there is no terminal here that can be used; use the ssh program")
    import termios
    import tty

    stdin = sys.stdin.fileno()
    channel = connection.terminal(command, kind, *os.get_terminal_size(stdin))
    before = termios.tcgetattr(stdin)
    old = signal.signal(signal.SIGWINCH, lambda *_: channel.resize(*os.get_terminal_size(stdin)))
    try:
        tty.setraw(stdin)
        with channel.local as local:
            _relay(local, stdin)
            channel.status_event.wait(3)
    finally:
        termios.tcsetattr(stdin, termios.TCSADRAIN, before)
        signal.signal(signal.SIGWINCH, old)
    return _status(channel)


def _relay(local: socket.socket, stdin: int) -> None:
    """Send what is typed, and show what comes back, until the command ends."""
    with selectors.DefaultSelector() as selector, contextlib.suppress(OSError):
        selector.register(local, selectors.EVENT_READ)
        selector.register(stdin, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fileobj is local:
                    data = local.recv(1 << 16)
                    if not data:
                        return
                    while data:
                        data = data[os.write(sys.stdout.fileno(), data) :]
                elif typed := os.read(stdin, 1 << 12):
                    local.sendall(typed)
                else:
                    selector.unregister(stdin)
                    local.shutdown(socket.SHUT_WR)


def _status(channel: Channel) -> int:
    return 255 if channel.exit_status < 0 else channel.exit_status
