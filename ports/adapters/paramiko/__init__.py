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

from ports.adapters.paramiko.configuration import resolve
from ports.adapters.paramiko.connecting import close_all, connect, is_connected
from ports.adapters.paramiko.connections import Completed, Connection
from ports.adapters.paramiko.hops import Hop, hop_from_options
from ports.adapters.paramiko.logins import keys
from ports.adapters.paramiko.terminals import interact

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
