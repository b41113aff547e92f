"""What clusters of `ports` are promised on this machine, by all users: files of numbers that anybody can read.

``/tmp/ports-promise-<uid>-<random>`` holds one line, ``1 WORKERS THREADS BYTES``, and counts while a process of that
user holds a write lock (fcntl) on it. Others may make such files too, of any kind and number: whatever is no short
regular file of the user in its name is passed over without being opened, and one user's beyond `MOST` are not read.
"""

import os
import re
import stat
import struct
import sys

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional

    Json = Dict[str, Any]

PLACE = "/tmp"
PROMISE = re.compile(r"ports-promise-(\d{1,10})-[0-9a-f]{16}$")
LINE = re.compile(rb"1 (\d{1,9}) (\d{1,9}) (\d{1,18})( \d{1,18}){0,8} *\n")
LARGEST = 4096  # bytes of a file
MOST = 16  # files of one user
MOST_NAMES = 20000  # looked at in the directory: it is everybody's
MOST_FILES = 2000  # looked at more closely
# what fcntl takes, and where in it type and pid are
LINUX, BSD = ("hhqqi4x", (0, 4)), ("qqihh", (3, 2))


def promises(place: str = PLACE) -> "List[Json]":
    """Return the live promises: ``uid``, ``pid`` of the owner (0 where it is not seen), workers, threads, bytes."""
    counts = {}  # type: Dict[int, int]
    found = []
    for path, uid in candidates(place):
        counts[uid] = counts.get(uid, 0) + 1
        one = read_promise(path, uid) if counts[uid] <= MOST else None
        if one is not None:
            found.append(one)
    return found


def candidates(place: str) -> "List[Any]":
    """Return path and uid of what may be a promise, judged without opening it."""
    found = []  # type: List[Any]
    looked = 0
    try:
        with os.scandir(place) as entries:
            for number, entry in enumerate(entries):
                if number >= MOST_NAMES or looked >= MOST_FILES:
                    break
                match = PROMISE.match(entry.name) if entry.name.startswith("ports-promise-") else None
                if match is None:
                    continue
                looked += 1
                try:
                    status = entry.stat(follow_symlinks=False)
                except OSError:
                    continue
                if is_promise(status, int(match.group(1))):
                    found.append((entry.path, status.st_uid))
    except OSError:
        pass
    return found


def is_promise(status: "Any", uid: int) -> bool:
    """Tell whether a file is a short regular one of that user, under one name, that nobody else may write."""
    regular = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022
    return bool(regular and status.st_uid == uid and status.st_nlink == 1 and status.st_size <= LARGEST)


def read_promise(path: str, uid: int) -> "Optional[Json]":
    """Return a promise; None where it is dead, or something else by now."""
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, flags)
    except OSError:
        return None
    try:
        if not is_promise(os.fstat(fd), uid):
            return None
        pid = lock_holder(fd)
        match = LINE.match(os.read(fd, LARGEST)) if pid is not None else None
    except OSError:
        return None
    finally:
        os.close(fd)
    if match is None:
        return None
    numbers = [int(text) for text in match.groups()[:3]]
    return {"uid": uid, "pid": pid, "n_workers": numbers[0], "n_threads": numbers[1], "bytes": numbers[2]}


def is_void(path: str) -> bool:
    """Tell whether nobody holds the lock of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return lock_holder(fd) is None
    finally:
        os.close(fd)


def lock_holder(fd: int) -> "Optional[int]":
    """Return the pid of the process that holds a write lock on a file, 0 where it is not seen; None without one.

    It is asked for a read lock: those that others may hold on a file that they may read do not count.
    """
    import fcntl

    layout, (kind, pid) = LINUX if sys.platform == "linux" else BSD
    values = [0] * 5
    values[kind] = fcntl.F_RDLCK
    answer = struct.unpack(layout, fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(layout, *values)))
    return max(0, int(answer[pid])) if answer[kind] == fcntl.F_WRLCK else None
