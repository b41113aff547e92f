"""Which user a socket belongs to; one address is asked for thirty times as fast as all are listed."""

import os
import re
import socket
import stat
import struct
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .sockets import ask_kernel, messages, parse_netlink, sock_diag, tcp_listeners

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Set, Tuple

    Json = Dict[str, Any]
    #: family, address and port
    Address = Tuple[int, str, int]
    #: uid and inode
    Holder = Tuple[int, int]

NO_PROCESS = -2  # in the place of a uid: the socket of a process that has closed it
ANYWHERE = {"tcp": ("0.0.0.0",), "tcp6": ("::",)}


def address_of(remote: str) -> "Address":
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
    """Return uid and inode of the listener that a connection to `remote` would reach; None where nothing listens.

    Raises ValueError where `remote` is no address, OSError where a path is closed to this user, or where no socket can
    be seen.
    """
    if remote.startswith("/"):
        try:
            found = os.stat(remote)
        except FileNotFoundError:
            return None
        return (found.st_uid, found.st_ino) if stat.S_ISSOCK(found.st_mode) else None
    family, address, port = address_of(remote)
    if sys.platform == "linux":
        try:
            return listener_at(family, address, port)
        except OSError:  # the kernel knows none, or answers no such questions: look through all
            pass
    name = "tcp6" if family == socket.AF_INET6 else "tcp"
    unseen = []  # type: List[str]
    rows = [row for row in tcp_listeners(unseen) if row["port"] == port]
    if unseen:
        raise OSError(unseen[0])
    for wanted in ((name, (address,)), (name, ANYWHERE[name]), ("tcp6", ANYWHERE["tcp6"])):
        for row in rows:
            if row["family"] == wanted[0] and row["address"] in wanted[1]:
                return row["uid"], row["inode"]
    return None


def listener_at(family: int, address: str, port: int) -> "Holder":
    """Return uid and inode of the listener that the kernel would choose for a connection; raises OSError."""
    data = one_socket(family, (address, port))
    rows = parse_netlink(data)[0] if data else []
    if not rows or rows[0]["port"] != port:
        raise OSError("no listener")
    return rows[0]["uid"], rows[0]["inode"]


def socket_between(own: "Tuple[str, int]", other: "Tuple[str, int]") -> "Optional[Tuple[int, int]]":
    """Return uid and state of the socket of this machine at `own` that is connected to `other`.

    The uid is `NO_PROCESS` where no process has the socket any more. None where there is none; raises OSError.
    """
    data = one_socket(socket.AF_INET6 if ":" in own[0] else socket.AF_INET, own, other)
    if data is None or struct.unpack_from(">HH", data, 20) != (own[1], other[1]):  # a listener at the same port
        return None
    uid, inode = struct.unpack_from("=II", data, 80)
    return (uid if inode else NO_PROCESS), data[17]


def one_socket(family: int, own: "Tuple[str, int]", other: "Optional[Tuple[str, int]]" = None) -> "Optional[bytes]":
    """Return the kernel's message about the socket at `own` that is connected to `other`, or about a listener.

    None where there is none; raises OSError where the kernel cannot be asked.
    """
    request = struct.pack("=BBBBI", family, 6, 0, 0, 0xFFFFFFFF) + struct.pack(">HH", own[1], other[1] if other else 0)
    for address in (own, other):
        request += (socket.inet_pton(family, address[0]) if address else b"").ljust(16, b"\0")
    data = next(sock_diag(request + struct.pack("=III", 0, 0xFFFFFFFF, 0xFFFFFFFF), 1))  # NLM_F_REQUEST
    return None if len(data) < 88 or struct.unpack_from("=H", data, 4)[0] == 2 else data  # NLMSG_ERROR


def listening(uid: int, everybody: bool) -> "Set[Any]":
    """Return an item for each listener of this user, or of everybody, that stays the same for as long as it does."""
    mine = struct.pack("=I", uid)

    def keys(data: bytes) -> "Tuple[List[bytes], bool]":
        """Take address, port, uid and inode as netlink writes them, which is quicker than to make rows."""
        found = []  # type: List[bytes]
        for at in messages(data):
            if at is None:
                return found, True
            if everybody or data[at + 80 : at + 84] == mine:
                found.append(data[at + 16 : at + 17] + data[at + 20 : at + 40] + data[at + 80 : at + 88])
        return found, False

    if sys.platform == "linux":
        try:
            return set(ask_kernel(keys))
        except OSError:
            pass
    rows = tcp_listeners([])
    return {(row["address"], row["port"], row["uid"], row["inode"]) for row in rows if everybody or row["uid"] == uid}


def allowed(owner: "Optional[str]") -> "Set[int]":
    """Return the uids whose listeners may be connected to, this user's and that of `owner`; raises KeyError."""
    import pwd

    return {os.getuid()} if owner is None else {os.getuid(), pwd.getpwnam(owner).pw_uid}


def peer(connection: "Any") -> "Optional[Tuple[int, int]]":
    """Return pid and uid at the other end of a Unix socket; None where the system does not tell."""
    if not hasattr(socket, "SO_PEERCRED"):
        return None
    pid, uid, _ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    return int(pid), int(uid)


def peer_uid(connection: "Any") -> "Optional[int]":
    """Return the uid at the other end of a Unix socket, as the kernel has it; None where the system does not tell."""
    if sys.platform == "darwin":
        local, credentials = 0, 1  # SOL_LOCAL, LOCAL_PEERCRED
        return int(struct.unpack_from("2I", connection.getsockopt(local, credentials, 76))[1])
    found = peer(connection)
    return found and found[1]
