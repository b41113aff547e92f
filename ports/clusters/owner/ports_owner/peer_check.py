"""Whose a connection to a cluster is, as the kernel says: what is not this user's is closed where it is accepted.

A credential keeps others from being served, not from connecting: idle connections fill the descriptors of a process,
and requests that are refused its memory. Their uid is looked at before a byte of them is read. On TCP, root's pass:
some sshds forward as root. Standard library and `distributed` only.
"""

from __future__ import annotations

import logging
import os
import socket
import struct
import sys
import time
from pathlib import Path

from distributed.comm.registry import backends
from distributed.comm.tcp import TLSBackend, TLSListener
from tornado.httpserver import HTTPServer

from .unix_sockets import peer

logger = logging.getLogger("distributed.comm.tls")

MESSAGE = struct.Struct("=IHHII")  # of netlink: length, kind, flags, sequence, pid
FAMILY = struct.Struct("=BBBBI")  # what is asked: family, protocol, no extras, all states
PLACES = struct.Struct(">HH16s16s")  # of a socket, in network order: ports and addresses, its own and its peer's
ANY_COOKIE = struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
ASK, ERROR, ESTABLISHED = 20, 2, 1  # SOCK_DIAG_BY_FAMILY, NLMSG_ERROR, TCP_ESTABLISHED
SILENT_SECONDS = 60.0
UNKNOWN, NOBODY = -1, -2


class Refusals:
    """What the log is told of connections that are closed: the first, then once in a minute how many."""

    def __init__(self):
        self.count, self.told = 0, -SILENT_SECONDS

    def add(self, uid, where):
        """Count a connection of `uid`, or NOBODY: who made it has closed it already."""
        self.count += uid != NOBODY
        if uid != NOBODY and time.monotonic() - self.told >= SILENT_SECONDS:
            logger.warning("refused uid %d at %s; connections refused since last told: %d", uid, where, self.count)
            self.count, self.told = 0, time.monotonic()


REFUSALS = Refusals()


def is_refused(connection):
    """Say whether an accepted connection is another user's; False where this system does not tell."""
    if connection.family == socket.AF_UNIX:
        uid = peer(connection)[0]
        if uid != os.geteuid():
            REFUSALS.add(uid, connection.getsockname())
        return uid != os.geteuid()
    try:
        here, there = connection.getsockname()[:2], connection.getpeername()[:2]
        uid = uid_of(there, here)
    except OSError:  # it is gone, and whoever takes it up finds out
        return False
    if uid in (os.geteuid(), 0, UNKNOWN):
        return False
    REFUSALS.add(uid, f"{here[0]}:{here[1]}")
    return True


def uid_of(own, other):
    """Return the uid of the socket of this machine at `own` that is connected to `other`, both IPv4.

    NOBODY where no process holds it any more, UNKNOWN where it cannot be known.
    """
    for ask in (ask_kernel, look_through) if sys.platform == "linux" else ():
        try:
            if (found := ask(own, other)) is not None:
                return found[0]
            if (this_end := ask(other, own)) is not None:
                # Still connected, to something outside of this network: under WSL that is a program of Windows.
                return UNKNOWN if this_end[1] == ESTABLISHED else NOBODY
        except OSError:
            continue
    return UNKNOWN


def ask_kernel(own, other):
    """Return uid, or NOBODY, and state of one socket as sock_diag has it; None where it finds none. Raises OSError."""
    addresses = [socket.inet_aton(place[0]) + bytes(12) for place in (own, other)]
    asked = PLACES.pack(own[1], other[1], *addresses)
    request = FAMILY.pack(socket.AF_INET, socket.IPPROTO_TCP, 0, 0, 0xFFFFFFFF) + asked + ANY_COOKIE
    with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as kernel:  # NETLINK_SOCK_DIAG
        kernel.sendto(MESSAGE.pack(MESSAGE.size + len(request), ASK, 1, 1, 0) + request, (0, 0))
        answer = kernel.recv(4096)
    if len(answer) < 88 or MESSAGE.unpack_from(answer)[1] == ERROR:
        return None
    if PLACES.unpack_from(answer, 20)[:2] != (own[1], other[1]):
        return None  # a listener at the same port
    uid, inode = struct.unpack_from("=II", answer, 80)
    return (uid if inode else NOBODY), answer[17]


def look_through(own, other):
    """Return the same from /proc, a hundred times slower and more."""
    wanted = [place_in_proc(own), place_in_proc(other)]
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            fields = line.split()
            # IPv4 in IPv6 ends as IPv4 does
            if all(found.endswith(place) for found, place in zip(fields[1:3], wanted, strict=True)):
                return (int(fields[7]) if int(fields[9]) else NOBODY), int(fields[3], 16)
    return None


def place_in_proc(place):
    """Return address and port as /proc/net/tcp writes them: the address in the machine's byte order."""
    return f"{struct.unpack('=I', socket.inet_aton(place[0]))[0]:08X}:{place[1]:04X}"


class OwnServer(HTTPServer):
    """A web server for this user alone, on a Unix socket or on 127.0.0.1."""

    def handle_stream(self, stream, address):
        """Close what is another user's before a byte of it is read."""
        if is_refused(stream.socket):
            stream.close()
        else:
            super().handle_stream(stream, address)


class OwnTLSListener(TLSListener):
    """What scheduler, workers and nannies listen with: other users do not get as far as the handshake."""

    async def _prepare_stream(self, stream, address):  # Dask's own name
        if is_refused(stream.socket):
            stream.close()
            return None
        return await super()._prepare_stream(stream, address)


class OwnTLSBackend(TLSBackend):
    """Dask's TLS with that listener."""

    _listener_class = OwnTLSListener


def register():
    """Let what listens in this process with TLS be for this user alone."""
    backends["tls"] = OwnTLSBackend()
