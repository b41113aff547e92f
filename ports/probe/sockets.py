"""Which sockets listen, and which processes of this user have them."""

import os
import stat
import struct
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import load_psutil, own_uid, read_bytes
try:
    import _socket as sockets  # the module around it costs 4 ms
except ImportError:  # an interpreter that is not CPython
    import socket as sockets  # type: ignore[no-redef]

MYPY = False
if MYPY:
    from typing import Any, Dict, Iterator, List, Optional, Set, Tuple

    Json = Dict[str, Any]


def new_row(family: str, address: str, port: "Optional[int]", uid: int, inode: int) -> "Json":
    """Return the row of one listener, as far as its socket tells."""
    local = family == "unix" or address.startswith(("127.", "::ffff:127.")) or address == "::1"
    row = {"family": family, "address": address, "port": port, "uid": uid, "inode": inode}  # type: Json
    row.update(path=address if family == "unix" else None, open_to_network=not local, pid=None, kind="listener")
    return row


def open_socket(v6: bool) -> "Any":
    """Return a new TCP socket."""
    return sockets.socket(sockets.AF_INET6 if v6 else sockets.AF_INET, sockets.SOCK_STREAM)


def tcp_row(v6: bool, packed: bytes, port: int, uid: int, inode: int) -> "Json":
    """Return one TCP listener from its address in network order."""
    address = sockets.inet_ntop(sockets.AF_INET6, packed[:16]) if v6 else sockets.inet_ntop(sockets.AF_INET, packed[:4])
    return new_row("tcp6" if v6 else "tcp", address, port, uid, inode)


def parse_netlink(data: bytes, only: "Optional[int]" = None) -> "Tuple[List[Json], bool]":
    """Return the listeners of one sock_diag datagram, `only` those of one uid, and whether it was the last datagram.

    Raises OSError where the kernel answered with an error or with half a message.
    """
    rows = []  # type: List[Json]
    for offset in messages(data):
        if offset is None:
            return rows, True
        uid, inode = struct.unpack_from("=II", data, offset + 80)
        if only is None or uid == only:
            port, v6 = struct.unpack_from(">H", data, offset + 20)[0], data[offset + 16] == sockets.AF_INET6
            rows.append(tcp_row(v6, data[offset + 24 : offset + 40], port, uid, inode))
    return rows, False


def parse_kept_waiting(data: bytes) -> "Tuple[List[int], bool]":
    """Return the inodes of the listeners of a datagram with connections to accept, and the rest as `parse_netlink`."""
    inodes = []  # type: List[int]
    for offset in messages(data):
        if offset is None:
            return inodes, True
        backlog, _, _, inode = struct.unpack_from("=4I", data, offset + 72)
        if backlog:
            inodes.append(inode)
    return inodes, False


def messages(data: bytes) -> "Iterator[Optional[int]]":
    """Yield the offset of each socket in a sock_diag datagram, and None at the end of the last; raises OSError."""
    offset = 0
    while offset + 16 <= len(data):
        length, kind = struct.unpack_from("=IH", data, offset)
        if kind == 3:  # NLMSG_DONE
            yield None
            return
        if kind == 2 or length < 88 or offset + length > len(data):
            raise OSError("sock_diag gave no listeners")
        yield offset
        offset += (length + 3) & ~3


def parse_proc_net(text: str, v6: bool) -> "List[Json]":
    """Return the listeners in the text of /proc/net/tcp or tcp6."""
    rows = []
    for line in text.splitlines()[1:]:
        fields = line.split()
        if len(fields) > 9 and fields[3] == "0A":  # LISTEN
            words, _, port = fields[1].partition(":")  # words of 32 bits in the machine's byte order
            packed = b"".join(struct.pack("=I", int(words[i : i + 8], 16)) for i in range(0, len(words), 8))
            rows.append(tcp_row(v6, packed, int(port, 16), int(fields[7]), int(fields[9])))
    return rows


def netlink_listeners(only: "Optional[int]" = None) -> "List[Json]":
    """Return all TCP listeners of this network namespace, from sock_diag; raises OSError where there is none."""
    return ask_kernel(lambda data: parse_netlink(data, only))


def kept_waiting() -> "List[int]":
    """Return the inodes of the TCP listeners with connections that they have not accepted yet; raises OSError."""
    return ask_kernel(parse_kept_waiting)


def ask_kernel(parse: "Any") -> "List[Any]":
    """Return what `parse` finds in the datagrams of sock_diag about all TCP listeners; raises OSError."""
    found = []  # type: List[Any]
    for family in (sockets.AF_INET, sockets.AF_INET6):
        every = struct.pack("=BBBBI48x", family, 6, 0, 0, 1 << 10)  # TCP, state LISTEN only
        for data in sock_diag(every, 0x301):  # NLM_F_REQUEST, NLM_F_DUMP
            some, last = parse(data)
            found += some
            if last:
                break
    return found


def sock_diag(request: bytes, flags: int) -> "Iterator[bytes]":
    """Yield the datagrams in which the kernel answers a request about sockets; raises OSError."""
    connection = sockets.socket(16, sockets.SOCK_DGRAM, 4)  # AF_NETLINK, NETLINK_SOCK_DIAG
    try:
        connection.sendto(struct.pack("=IHHII", 16 + len(request), 20, flags, 1, 0) + request, (0, 0))
        while True:
            yield connection.recv(1 << 18 if flags & 0x300 else 1 << 12)  # a dump comes in large pieces
    finally:
        connection.close()


def tcp_listeners(warnings: "List[str]", only: "Optional[int]" = None) -> "List[Json]":
    """Return all TCP listeners: from netlink, else from /proc, which is 10 times slower.

    Where there is no /proc, psutil tells those of this user. To ask for `only` those of one uid is cheaper.
    """
    if sys.platform != "linux":
        return psutil_listeners(warnings)
    try:
        return netlink_listeners(only)
    except OSError as error:
        texts = [(read_bytes("/proc/net/tcp" + end).decode("ascii", "replace"), bool(end)) for end in ("", "6")]
        if not any(text for text, _ in texts):
            warnings.append("listening sockets cannot be seen here: %s" % error)
        rows = [row for text, v6 in texts for row in parse_proc_net(text, v6)]
        return [row for row in rows if only is None or row["uid"] == only]


def unix_listeners(wanted: "Set[str]", uid: int) -> "List[Json]":
    """Return this user's listening Unix sockets; those whose path is relative can be another's.

    Where the kernel shows no table, these are the ones whose path is `wanted`.
    """
    table = unix_table()
    if table is None:  # the file itself is there, and records tell whether its process lives
        table = [(path, 0) for path in sorted(wanted)]
    found = [(path, inode) for path, inode in table if path[0] != "/" or is_socket_of(path, uid)]
    return [new_row("unix", path, None, uid, inode) for path, inode in found]


def unix_table() -> "Optional[List[Tuple[str, int]]]":
    """Return path and inode of each listening Unix socket of this network namespace, whose user it does not tell.

    None where the kernel shows none, as in some containers, and on other systems than Linux.
    """
    text = read_bytes("/proc/net/unix")
    if not text:  # without a socket it has its first line
        return None
    lines = text.decode("utf-8", "surrogateescape").split("\n")
    fields = [line.split(None, 7) for line in lines if " 00010000 " in line]  # __SO_ACCEPTCON: it listens
    return [(one[7], int(one[6])) for one in fields if len(one) == 8]


def is_socket_of(path: str, uid: int) -> bool:
    """Tell whether a path is a user's Unix socket in a directory where nobody else can replace it."""
    try:
        found, around = os.lstat(path), os.stat(os.path.dirname(path))
    except OSError:
        return False
    safe = around.st_uid in (uid, 0) and (not around.st_mode & 0o002 or around.st_mode & stat.S_ISVTX)
    return stat.S_ISSOCK(found.st_mode) and found.st_uid == uid and bool(safe)


def psutil_listeners(warnings: "List[str]") -> "List[Json]":
    """Return this user's TCP listeners, with their pids, where there is no /proc (macOS; Windows, at home)."""
    try:
        psutil = load_psutil()
    except ImportError:
        warnings.append("without psutil for %s, listeners cannot be found on this system" % sys.executable)
        return []
    rows, uid = [], own_uid()
    me = None if hasattr(os, "getuid") else psutil.Process().username()
    for process in psutil.process_iter():
        try:
            if process.uids().real != uid if me is None else process.username() != me:
                continue
            newer = hasattr(process, "net_connections")
            for found in process.net_connections("tcp") if newer else process.connections("tcp"):
                if found.status == "LISTEN":
                    family = "tcp6" if found.family == sockets.AF_INET6 else "tcp"
                    row = new_row(family, found.laddr[0], found.laddr[1], uid, 0)
                    row.update(pid=process.pid, started_at=process.create_time(), argv=process.cmdline())
                    rows.append(dict(row, cwd=process.cwd()))
        except (psutil.Error, OSError):
            continue
    return rows


def owners_of(inodes: "Set[int]", uid: int) -> "Dict[int, int]":
    """Return the pid of this user that has each socket; the first one where children inherited it."""
    wanted = {"socket:[%d]" % inode: inode for inode in inodes}
    found = {}  # type: Dict[int, int]
    # Processes of others are closed to all but root, who would look through all of them.
    look_first = own_uid() != uid or uid == 0
    for pid in sorted(int(name) for name in os.listdir("/proc") if name.isdigit()) if wanted else ():
        try:
            if look_first and os.stat("/proc/%d" % pid).st_uid != uid:
                continue
            directory = "/proc/%d/fd/" % pid
            for fd in os.listdir(directory):
                if fd in ("1", "2"):  # a program that inetd gives a listener has it at 0 too
                    continue
                try:
                    inode = wanted.pop(os.readlink(directory + fd), None)
                except OSError:  # closed meanwhile
                    continue
                if inode is not None:
                    found[inode] = pid
        except OSError:  # gone, or closed to this user
            continue
        if not wanted:
            break
    return found
