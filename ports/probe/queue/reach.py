"""The way to the compute resource of this machine: its socket, and what changes on the disk with its queue."""

import os
import socket

if __name__ != "__main__":  # piped, these names are there already
    from ..files import is_private, usual_runtime_directory
    from ..identity import own_uid
    from ..own_host import host_directory, own_runtime_directory, read_record
    from ..socket_users import peer_uid

MYPY = False
if MYPY:
    from typing import Any, List

SOCKET = "resource.sock"


def runtime_of_jobs() -> str:
    """Return the directory of the compute resource's socket; raises ValueError where others can write to it."""
    base = usual_runtime_directory()
    kept = (read_record(os.path.join(host_directory(), "runtime.json")) or {}).get("path")
    if kept and is_private(kept):
        base = kept
    directory = own_runtime_directory(base)
    for one in dict.fromkeys((base, directory)):
        if os.path.lexists(one) and not is_private(one):
            raise ValueError("%s is not private; `ports prune` there chooses another directory" % one)
    return directory


def connected(path: str) -> "Any":
    """Return a connection to the resource; raises OSError, and ValueError where another user answers."""
    resource = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        resource.connect(path)
        uid = peer_uid(resource)
    except OSError:
        resource.close()
        raise
    if uid not in (None, own_uid()):
        resource.close()
        raise ValueError("uid %s answers at %s, not you" % (uid, path))
    return resource


def queue_stamp(root: str) -> "List[Any]":
    """Return what changes with the queue in `root`."""
    found = []  # type: List[Any]
    for name in ("store.sqlite", "store.sqlite-wal", "submissions"):
        try:
            status = os.stat(os.path.join(root, name))
            found.append((status.st_mtime_ns, status.st_size))
        except OSError:
            found.append(None)
    return found
