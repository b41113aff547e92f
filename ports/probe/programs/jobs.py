"""The way from home to the compute resource of this machine: bytes from its Unix socket to home, and back.

It connects, says so in one line, and copies until one side ends. Where no resource answers, it says that and ends.
"""

import os
import select
import socket

if __name__ != "__main__":  # piped, these names are there already
    from ..answer import send
    from ..files import is_private, usual_runtime_directory
    from ..identity import own_uid
    from ..own_host import host_directory, own_runtime_directory, read_record
    from ..socket_users import peer_uid

MYPY = False
if MYPY:
    from typing import Any, Dict, Optional

    Json = Dict[str, Any]

SOCKET = "resource.sock"
RECORD = ("resources", "jobs")  # below the machine's directory; it goes when somebody stops the resource
ROOM = 1 << 20  # bytes that wait for one side while the other is heard no further


def resource_socket() -> str:
    """Return the path of the compute resource's socket; raises ValueError where others can write to its directory."""
    base = usual_runtime_directory()
    kept = (read_record(os.path.join(host_directory(), "runtime.json")) or {}).get("path")
    if kept and is_private(kept):
        base = kept
    directory = own_runtime_directory(base)
    for one in dict.fromkeys((base, directory)):
        if os.path.lexists(one) and not is_private(one):
            raise ValueError("%s is not private; `ports prune` there chooses another directory" % one)
    return os.path.join(directory, SOCKET)


class Pipe:
    """One direction: what was read from `source`, until `target` has taken it."""

    def __init__(self, source: int, target: int, early: bytes = b"") -> None:
        self.source, self.target = source, target
        self.waiting = bytearray(early)
        self.is_over = False  # nothing more comes, and all has gone

    def read(self) -> None:
        """Take what is there."""
        try:
            data = os.read(self.source, ROOM)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        self.waiting += data
        self.is_over = not data

    def write(self) -> None:
        """Give what the target takes."""
        try:
            del self.waiting[: os.write(self.target, self.waiting)]
        except BlockingIOError:
            pass
        except OSError:  # nobody reads it
            self.waiting.clear()
            self.is_over = True


def copy(pipes: "Any") -> None:
    """Copy in both directions, neither of which waits for the other, until one has ended."""
    while not any(one.is_over and not one.waiting for one in pipes):
        poller = select.poll()
        wanted = {}  # type: Dict[int, int]
        for one in pipes:
            if len(one.waiting) < ROOM and not one.is_over:
                wanted[one.source] = wanted.get(one.source, 0) | select.POLLIN
            if one.waiting:
                wanted[one.target] = wanted.get(one.target, 0) | select.POLLOUT
        for number, events in wanted.items():
            poller.register(number, events)
        ready = dict(poller.poll())
        for one in pipes:
            if ready.get(one.source, 0) & ~select.POLLOUT and len(one.waiting) < ROOM and not one.is_over:
                one.read()
            if one.waiting and ready.get(one.target, 0) & ~select.POLLIN:
                one.write()


def jobs(request: "Json") -> "Optional[Json]":
    """Say whether a resource answers, and carry what home and it say to each other."""
    import sys

    path = resource_socket()
    resource = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        resource.connect(path)
        uid = peer_uid(resource)
    except OSError as error:
        record = os.path.join(host_directory(), *RECORD)
        reason = error.strerror or str(error)
        return {"is_running": False, "reason": reason, "path": path, "has_record": os.path.isdir(record)}
    if uid not in (None, own_uid()):
        return {"error": "foreign", "message": "uid %s answers at %s, not you" % (uid, path)}
    out = os.dup(1)
    send(request, {"is_running": True})
    os.dup2(2, 1)  # nothing else may be printed among the frames
    for number in (0, out, resource.fileno()):
        os.set_blocking(number, False)
    stdin = sys.stdin.buffer  # type: Any
    copy([Pipe(0, resource.fileno(), stdin.peek()), Pipe(resource.fileno(), out)])
    sys.stderr.flush()
    os._exit(0)
