"""Whose a listener is: asked for one address, thirty times as fast as by listing all."""

import os
import re
import socket
import stat
import struct
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .sockets import parse_netlink, tcp_listeners

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterator, Optional, Set, Tuple

    Json = Dict[str, Any]
    #: family, address and port
    Place = Tuple[int, str, int]
    #: uid and inode
    Holder = Tuple[int, int]

ANYWHERE = {"tcp": ("0.0.0.0",), "tcp6": ("::",)}


def place_of(remote: str) -> "Place":
    """Return family, address and port of ``127.0.0.1:8888`` or ``[::1]:8888``; raises ValueError."""
    found = re.match(r"(?:\[([0-9a-fA-F:.]+)\]|([0-9.]+|localhost)):([0-9]{1,5})$", remote)
    if not found or not 0 < int(found.group(3)) < 65536:
        raise ValueError("%r is no address with a port, and no path" % remote)
    v6, v4, port = found.groups()
    family = socket.AF_INET6 if v6 else socket.AF_INET
    address = v6 or ("127.0.0.1" if v4 == "localhost" else v4)
    try:
        return family, socket.inet_ntop(family, socket.inet_pton(family, address)), int(port)
    except OSError:
        raise ValueError("%r is no address" % address)


def holder_of(remote: str) -> "Optional[Holder]":
    """Return who holds the listener that a connection to `remote` would reach; None where nothing listens.

    Raises ValueError where `remote` is no address, OSError where a path may not be looked at.
    """
    if remote.startswith("/"):
        try:
            found = os.stat(remote)
        except FileNotFoundError:
            return None
        return (found.st_uid, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None
    place = place_of(remote)
    if sys.platform == "linux":
        try:
            return ask_for(place)
        except OSError:  # the kernel knows none, or answers no such questions: look through all
            pass
    family = "tcp6" if place[0] == socket.AF_INET6 else "tcp"
    rows = [row for row in tcp_listeners([]) if row["port"] == place[2]]
    for wanted in ((family, (place[1],)), (family, ANYWHERE[family]), ("tcp6", ANYWHERE["tcp6"])):
        for row in rows:
            if row["family"] == wanted[0] and row["address"] in wanted[1]:
                return row["uid"], row["inode"]
    return None


def ask_for(place: "Place") -> "Holder":
    """Return the holder of the one listener at `place` as the kernel itself would choose it; OSError where none is."""
    family, address, port = place
    packed = socket.inet_pton(family, address).ljust(16, b"\0")
    request = struct.pack("=BBBBI", family, 6, 0, 0, 0xFFFFFFFF) + struct.pack(">HH", port, 0)
    request += packed + bytes(16) + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF)
    connection = socket.socket(16, socket.SOCK_DGRAM, 4)  # AF_NETLINK, NETLINK_SOCK_DIAG
    try:
        connection.sendto(struct.pack("=IHHII", 72, 20, 1, 1, 0) + request, (0, 0))
        rows, _ = parse_netlink(connection.recv(1 << 16))
    finally:
        connection.close()
    if not rows or rows[0]["port"] != port:
        raise OSError("no listener")
    return rows[0]["uid"], rows[0]["inode"]


def listening(uid: int, everybody: bool) -> "Set[Any]":
    """Return something for each listener of this user, or of everybody, that is the same as long as it is the same."""
    if sys.platform == "linux":
        try:
            return set(keys_of(struct.pack("=I", uid), everybody))
        except OSError:
            pass
    rows = tcp_listeners([])
    return {(row["address"], row["port"], row["uid"], row["inode"]) for row in rows if everybody or row["uid"] == uid}


def keys_of(uid: bytes, everybody: bool) -> "Iterator[bytes]":
    """Yield address, port, uid and inode of each listener, as netlink writes them: no rows are made."""
    connection = socket.socket(16, socket.SOCK_DGRAM, 4)
    try:
        for family in (socket.AF_INET, socket.AF_INET6):
            request = struct.pack("=BBBBI48x", family, 6, 0, 0, 1 << 10)  # TCP, state LISTEN only
            connection.sendto(struct.pack("=IHHII", 72, 20, 0x301, 1, 0) + request, (0, 0))
            last = False
            while not last:
                data, at = connection.recv(1 << 18), 0
                while at + 16 <= len(data) and not last:
                    length, kind = struct.unpack_from("=IH", data, at)
                    last = kind == 3
                    if not last and (kind == 2 or length < 88):
                        raise OSError("sock_diag gave no listeners")
                    if not last and (everybody or data[at + 80 : at + 84] == uid):
                        yield data[at + 16 : at + 17] + data[at + 20 : at + 40] + data[at + 80 : at + 88]
                    at += (length + 3) & ~3
    finally:
        connection.close()


def allowed(owner: "Optional[str]") -> "Set[int]":
    """Return whose listeners may be connected to: this user's, and those of `owner`; KeyError for one unknown."""
    import pwd

    return {os.getuid()} if owner is None else {os.getuid(), pwd.getpwnam(owner).pw_uid}


def peer(connection: "Any") -> "Optional[Tuple[int, int]]":
    """Return pid and uid of the other end of a Unix socket; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid), int(uid)


def peer_uid(connection: "Any") -> "Optional[int]":
    """Return who listens at the other end of a Unix socket; None where the system does not tell."""
    found = peer(connection)
    return found and found[1]
