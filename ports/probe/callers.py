"""Which user connected to a port of this process: the kernel knows both ends of what stays on this machine."""

import os
import socket
import struct
import sys

from .identity import read_bytes
from .socket_users import NO_PROCESS as NO_PROCESS
from .socket_users import socket_between

MYPY = False
if MYPY:
    from typing import Any, Optional, Tuple

    Place = Tuple[str, int]

ESTABLISHED = 1  # TCP_ESTABLISHED
UNKNOWN = -1  # in the place of a uid: this machine cannot know
ask_kernel = socket_between


def caller_of(connection: "Any") -> int:
    """Return the uid that an accepted TCP connection comes from, NO_PROCESS where that end is gone, else UNKNOWN."""
    try:
        here, there = connection.getsockname()[:2], connection.getpeername()[:2]
        uid = uid_of(there, here)
        # After a reset another process can have the same port, while bytes of the first one wait here to be read.
        connection.getpeername()
    except OSError:
        return NO_PROCESS
    return uid


def uid_of(own: "Place", other: "Place") -> int:
    """Return the uid of the socket of this machine at `own` that is connected to `other`, both IPv4 or both IPv6.

    NO_PROCESS where no process has it any more, UNKNOWN where this machine cannot know.
    """
    for ask in (ask_kernel, look_through) if sys.platform == "linux" else ():
        try:
            found = ask(own, other)
            if found is not None:
                return found[0]
            this_end = ask(other, own)
            if this_end is not None:
                # Still connected to something outside of this network: under WSL, a program of Windows.
                return UNKNOWN if this_end[1] == ESTABLISHED else NO_PROCESS
        except OSError:
            continue
    return UNKNOWN


def look_through(own: "Place", other: "Place") -> "Optional[Tuple[int, int]]":
    """Return the same as `ask_kernel` from /proc, more than a hundred times slower."""
    wanted = [in_proc(own), in_proc(other)]
    for name in ("tcp", "tcp6"):
        for line in read_bytes("/proc/net/" + name).decode("ascii", "replace").splitlines()[1:]:
            fields = line.split()
            # IPv4 in IPv6 ends as IPv4 does
            if fields[1].endswith(wanted[0]) and fields[2].endswith(wanted[1]):
                return (int(fields[7]) if int(fields[9]) else NO_PROCESS), int(fields[3], 16)
    return None


def in_proc(address: "Place") -> str:
    """Return address and port as /proc/net/tcp writes them: the address in words of the machine's byte order."""
    v6 = ":" in address[0]
    packed = socket.inet_pton(socket.AF_INET6 if v6 else socket.AF_INET, address[0])
    words = struct.unpack("=%dI" % (len(packed) // 4), packed)
    return "%s:%04X" % ("".join("%08X" % word for word in words), address[1])


def kernel_tells() -> bool:
    """Tell whether this machine shows which user a connection comes from."""
    if sys.platform != "linux":
        return False
    try:
        ask_kernel(("127.0.0.1", 9), ("127.0.0.1", 9))
    except OSError:
        return os.access("/proc/net/tcp", os.R_OK)
    return True
