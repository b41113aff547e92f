"""SSH in this process, by paramiko: for machines without an ssh program that can share connections.

::

    hops            a host with the options that a login takes; pure
    configuration   the options from ~/.ssh/config, where no ssh program reads it
    hostkeys        known_hosts → verdict on a key; pure
    prompts         the person at the terminal
    wires           channels to and from local sockets, moved by one thread of a connection
    links           paramiko's transport, made to carry wires
    logins          authentication
    refusals        what goes wrong → errors with a reason and a way out
    connections     commands, sessions, dialled ports over a connection
    connecting      hops → connections, shared within this process
    terminals       a session at this terminal

A connection lives as long as its process. Kerberos, security keys and certificates are not done.
"""

from __future__ import annotations

from ports.hosts.paramiko.auth import keys
from ports.hosts.paramiko.connect import close_all, connect, is_connected
from ports.hosts.paramiko.connection import Completed, Connection
from ports.hosts.paramiko.hop import Hop, hop_from_options
from ports.hosts.paramiko.ssh_config import resolve
from ports.hosts.paramiko.terminal import interact

__all__ = [
    "Completed",
    "Connection",
    "Hop",
    "close_all",
    "connect",
    "hop_from_options",
    "interact",
    "is_connected",
    "keys",
    "resolve",
]
