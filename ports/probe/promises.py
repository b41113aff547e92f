"""What clusters of `ports` are promised on this machine, for all users: files of numbers that anybody can read.

``/tmp/ports-promise-<uid>-<random>`` has one line, ``1 WORKERS THREADS BYTES LENT PUBLISHED``: LENT are bytes that a
cluster lends to others while it has no tasks, PUBLISHED is when the file was made, in microseconds since 1970. The file
counts while a process of that user holds a write lock (fcntl) on it. Others can make such files too, of any kind and
number. So only a short regular file of the user in its name is opened, and at most `MOST` of one user are read.
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

DIRECTORY = "/tmp"
PROMISE = re.compile(r"ports-promise-(\d{1,10})-[0-9a-f]{16}$")
LINE = re.compile(rb"1 (\d{1,9}) (\d{1,9}) (\d{1,18})(?: (\d{1,18})(?: (\d{1,18}))?)?( \d{1,18}){0,6} *\n")
LEAST_WORKER = 256 << 20  # bytes: a worker that has imported numpy and pandas takes half of it
LEAST_PART = 1 / 8  # of the available memory: the least that a cluster gets, whatever others are promised
LARGEST = 4096  # bytes of a file
MOST = 16  # files of one user
MOST_NAMES = 20000  # looked at in the directory, which belongs to everybody
MOST_FILES = 2000  # looked at more closely
# the structure that fcntl takes, and the positions of type and pid in it
LINUX, BSD = ("hhqqi4x", (0, 4)), ("qqihh", (3, 2))


def promises(directory: str = DIRECTORY, known: "Optional[List[Any]]" = None) -> "List[Json]":
    """Return the live promises: ``path``, ``uid``, ``pid`` of the owner (0 if hidden), and the numbers of its line.

    `known` are the `candidates`, where they were looked for before.
    """
    counts = {}  # type: Dict[int, int]
    found = []
    for path, uid in candidates(directory) if known is None else known:
        counts[uid] = counts.get(uid, 0) + 1
        one = read_promise(path, uid) if counts[uid] <= MOST else None
        if one is not None:
            found.append(one)
    return found


def candidates(directory: str) -> "List[Any]":
    """Return path and uid of each file that can be a promise, without opening it."""
    found = []  # type: List[Any]
    looked = 0
    try:
        with os.scandir(directory) as entries:
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
    """Tell whether a file is a short regular one of that user, with one name, that nobody else can write."""
    regular = stat.S_ISREG(status.st_mode) and not status.st_mode & 0o022
    return bool(regular and status.st_uid == uid and status.st_nlink == 1 and status.st_size <= LARGEST)


def read_promise(path: str, uid: int) -> "Optional[Json]":
    """Return a promise; None if it is dead, or something else by now."""
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
    numbers = [int(text or 0) for text in match.groups()[:5]]
    keys = ("n_workers", "n_threads", "bytes", "lent_bytes", "published")
    return dict(zip(keys, numbers), path=path, uid=uid, pid=pid)


def is_void(path: str) -> bool:
    """Tell whether no process holds the lock of a file."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return lock_holder(fd) is None
    finally:
        os.close(fd)


def lock_holder(fd: int) -> "Optional[int]":
    """Return the pid of the process that holds a write lock on a file, 0 if it is hidden; None if there is none.

    The question is for a read lock: read locks, which any user can hold on a file that all can read, do not count.
    """
    import fcntl

    layout, (kind, pid) = LINUX if sys.platform == "linux" else BSD
    values = [0] * 5
    values[kind] = fcntl.F_RDLCK
    answer = struct.unpack(layout, fcntl.fcntl(fd, fcntl.F_GETLK, struct.pack(layout, *values)))
    return max(0, int(answer[pid])) if answer[kind] == fcntl.F_WRLCK else None
