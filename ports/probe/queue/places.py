"""Where the queue lies on the disk, and the lock that says who may open it."""

import errno
import json
import os
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..identity import FORMAT, boot_id, machine_id, node
    from .durable import create_durably
    from .kept import CHOSEN as CHOSEN
    from .kept import LARGE_PARTS as LARGE_PARTS
    from .kept import large_directory
    from .words import Busy, Refused

MYPY = False
if MYPY:
    from typing import Optional

KEPT = ("ids", "submissions", "workspaces", "environs")  # below the directory of the queue
QUEUE_LOCK = "resource.lock"
STARTS = "`ports resource start` starts one"
LOCK_SECONDS = 0.5  # for which the lock is waited for; a resource that starts keeps it, and answers soon


def data_of(root: str) -> str:
    """Return the directory of what is large; raises Refused."""
    path = os.path.join(root, CHOSEN)
    try:
        found = large_directory(root)
    except OSError as error:
        raise disk_refuses(path, error) from error
    if found is None:
        raise Refused("StoreError", "cannot use %s: it does not name the directory of the jobs" % path)
    return found


def disk_refuses(path: str, error: OSError) -> Refused:
    """Return the error for what the disk refused, with the way out."""
    way = ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        way = "; free space there, for example with `ports job prune --older 7d`"
    elif error.errno == errno.EROFS:
        way = "; that disk can only be read: mount it for writing, or set PORTS_HOME to a directory on another one"
    elif error.errno in (errno.EACCES, errno.EPERM):
        way = "; make it yours, or set PORTS_HOME to a directory of yours"
    return Refused("StoreError", "cannot use %s: %s%s" % (path, error.strerror or error, way))


def make_queue(root: str) -> None:
    """Make the directories of the queue, 0700, where they are missing; raises OSError."""
    machine = os.path.dirname(root)
    hosts = os.path.dirname(machine)
    for path in (os.path.dirname(hosts), hosts, machine, root):
        os.makedirs(path, 0o700, exist_ok=True)
    record = os.path.join(machine, "host.json")
    if not os.path.exists(record):  # another machine of the same id, which shares this home, takes another directory
        known = {"format": FORMAT, "id": machine_id(), "boot_id": boot_id(), "name": node(), "names": [node()]}
        create_durably(record, json.dumps(known).encode())
    for name in KEPT:
        os.makedirs(os.path.join(root, name), 0o700, exist_ok=True)


def lock_queue(runtime: str, seconds: float) -> int:
    """Return the descriptor of the lock of the queue, which is free when that is closed.

    Raises Refused where another process holds it for so long, and OSError.
    """
    import fcntl

    for directory in (os.path.dirname(runtime), runtime):
        if not os.path.isdir(directory):
            os.mkdir(directory, 0o700)
    path, end = os.path.join(runtime, QUEUE_LOCK), time.monotonic() + seconds
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        except (BlockingIOError, FileNotFoundError):  # held, or removed meanwhile
            pass
        except OSError:
            os.close(descriptor)
            raise
        os.close(descriptor)
        if time.monotonic() > end:
            told = "another process has the queue of jobs open, a compute resource that starts or ends"
            raise Busy("ConflictError", "%s; try again in a moment" % told)
        time.sleep(0.01)


def owner_conflict(owner: "Optional[dict]", name: str, boot: str, root: str) -> "Optional[str]":  # type: ignore[type-arg]
    """Return in words why the queue is another machine's, by what ``owner.json`` says; None if it is this one's."""
    if not owner or owner.get("name") == name or owner.get("boot_id") == boot:
        return None
    return (
        "the queue %s belongs to %s; use its jobs there, or remove %s if that machine is this one under another name"
        % (root, owner.get("name"), os.path.join(root, "owner.json"))
    )
