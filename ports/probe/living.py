"""Whether what a record of this machine names still runs: a process, or what holds a lock."""

import os
import struct
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import boot_id, is_same_process_alive, machine_id

MYPY = False
if MYPY:
    from typing import Any, Callable, Dict, List, Optional

    Json = Dict[str, Any]

LOCK = "session.lock"
FLOCK = "hhqqi4x"  # the structure that fcntl takes on Linux


def is_session_alive(who: "Json", directory: str, names: "Callable[[], List[str]]") -> "Optional[bool]":
    """Tell whether a process lives that a session in a directory of this machine names; None if that cannot be known.

    Parameters
    ----------
    directory : str
        That of the session. In another pid namespace, a container's, the lock answers that its launcher holds.
    names : callable
        Returns the names that this machine has had.
    """
    alive = is_same_process_alive(who)
    if alive is not None or who["machine"] != machine_id():
        return alive
    if who["boot_id"] != boot_id():
        return False if who.get("node") in names() else None
    return is_locked(os.path.join(directory, LOCK))


def is_locked(path: str) -> "Optional[bool]":
    """Tell whether any process holds a lock on the file; None if there is no such file, or no locks."""
    if not sys.platform.startswith("linux"):
        return None
    import fcntl

    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)
    except OSError:
        return None
    finally:
        os.close(fd)
