"""SSH in this process, by paramiko: for machines without an ssh program that can share connections.

::

    login_options      what a login to a hop takes, from its options; pure
    ssh_config         the options from ~/.ssh/config, where no ssh program reads it
    known_hosts        known_hosts → verdict on a key; pure
    channels           channels to and from local sockets, moved by one thread of a connection
    transport          paramiko's transport, made to carry these channels
    auth               authentication
    errors             what goes wrong → errors with a reason and a hint
    shared_connection  commands, exec channels, dialled ports over a connection
    connect            a route → its connection, shared within this process
    connection         one use of it, as all transports do it
    terminal           a command at this terminal

A connection lives as long as its process. Kerberos, security keys and certificates are not supported.
"""

from __future__ import annotations

from ports.hosts.paramiko.auth import keys
from ports.hosts.paramiko.connect import connect, is_connected
from ports.hosts.paramiko.connection import ParamikoConnection
from ports.hosts.paramiko.ssh_config import read_config

__all__ = ["ParamikoConnection", "connect", "is_connected", "keys", "read_config"]
