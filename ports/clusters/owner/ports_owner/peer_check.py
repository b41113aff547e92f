"""Connections to a cluster from other users: closed where they are accepted, by the uid that the kernel names.

A credential keeps others from being served, not from connecting. Idle connections fill the descriptors of a process,
and refused requests fill its memory. So the uid is checked before a byte is read. On TCP, root's connections pass:
some sshds forward as root. Standard library and `distributed` only.
"""

from __future__ import annotations

import logging
import os
import socket
import time

from distributed.comm.registry import backends
from distributed.comm.tcp import TLSBackend, TLSListener
from tornado.httpserver import HTTPServer

from .ground import probe

logger = logging.getLogger("distributed.comm.tls")

SILENT_SECONDS = 60.0
UNKNOWN, NO_PROCESS = probe.callers.UNKNOWN, probe.socket_users.NO_PROCESS


class Refusals:
    """What the log says about refused connections: the first one, then once a minute how many."""

    def __init__(self):
        self.count, self.told = 0, -SILENT_SECONDS

    def add(self, uid, where):
        """Count a connection of `uid`, or of NO_PROCESS: its maker has closed it already."""
        self.count += uid != NO_PROCESS
        if uid != NO_PROCESS and time.monotonic() - self.told >= SILENT_SECONDS:
            logger.warning("refused uid %d at %s; connections refused since last told: %d", uid, where, self.count)
            self.count, self.told = 0, time.monotonic()


REFUSALS = Refusals()


def is_refused(connection):
    """Say whether an accepted connection is another user's; False where this system does not tell."""
    if connection.family == socket.AF_UNIX:
        uid = probe.peer_uid(connection)
        if uid != os.geteuid():
            REFUSALS.add(uid, connection.getsockname())
        return uid != os.geteuid()
    uid = probe.callers.caller_of(connection)
    if uid in (os.geteuid(), 0, UNKNOWN):
        return False
    here = connection.getsockname()
    REFUSALS.add(uid, f"{here[0]}:{here[1]}")
    return True


class OwnServer(HTTPServer):
    """A web server for this user alone, on a Unix socket or on 127.0.0.1."""

    def handle_stream(self, stream, address):
        """Close another user's connection before a byte of it is read."""
        if is_refused(stream.socket):
            stream.close()
        else:
            super().handle_stream(stream, address)


class OwnTLSListener(TLSListener):
    """The listener of scheduler, workers and nannies: other users do not get as far as the handshake."""

    async def _prepare_stream(self, stream, address):  # Dask's own name
        if is_refused(stream.socket):
            stream.close()
            return None
        return await super()._prepare_stream(stream, address)


class OwnTLSBackend(TLSBackend):
    """Dask's TLS with that listener."""

    _listener_class = OwnTLSListener


def register():
    """Keep what listens in this process with TLS to this user alone."""
    backends["tls"] = OwnTLSBackend()
