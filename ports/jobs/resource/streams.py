"""stdout and stderr of the functions of one slot: files, moved to the directory of the job that printed, and bounded.

What writes to such a file is the job itself, so a file that grows too large is emptied under it: its end is kept as
``<file>.1``. That is as much as a script's output keeps (`ports.sessions.launch.Log`).
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import shutil
import sys
import time
from typing import Any

_MOST_READS = 16
_PATIENCE = 10.0  # seconds that a cut is awaited


class Streams:
    """stdout and stderr as files, each of which is moved to the directory of the job that wrote to it."""

    def __init__(self, files: list[str], work: str, limit: int) -> None:
        self.files, self.work, self.limit = files, work, limit
        self.dropped: dict[str, int] = {}  # bytes of the last job that were beyond the limit
        self.libc = ctypes.CDLL(None)
        self.kept = [-1, -1]
        self.places = [(-1, -1), (-1, -1)]  # inode and device of each, which is open for as long
        self.objects: list[Any] = []
        for number in (0, 1):
            self.open(number)
        self.objects = [sys.stdout, sys.stderr]

    def open(self, number: int) -> None:
        """Open a new file for stdout (0) or stderr (1)."""
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(self.files[number], flags, 0o600)
        os.dup2(descriptor, number + 1)
        if self.kept[number] != -1:
            os.close(self.kept[number])
        self.kept[number], found = descriptor, os.fstat(descriptor)
        self.places[number] = found.st_ino, found.st_dev

    def mend(self) -> None:
        """Put back what a job closed or replaced."""
        for number, name in enumerate(("stdout", "stderr")):
            try:
                found = os.fstat(number + 1)
                is_same = (found.st_ino, found.st_dev) == self.places[number]
            except OSError:
                is_same = False
            if not is_same:
                os.dup2(self.kept[number], number + 1)
            mine = self.objects[number]
            if mine.closed:
                mine = self.objects[number] = os.fdopen(number + 1, "w", 1, "utf-8", "backslashreplace", closefd=False)
            setattr(sys, name, mine)

    def collect(self, job: str, *, was_long: bool) -> bool:
        """Move what `job` printed to its directory; say whether there is anything."""
        for name in ("stdout", "stderr"):
            with contextlib.suppress(OSError, ValueError, AttributeError):
                getattr(sys, name).flush()
        self.libc.fflush(None)
        self.mend()
        found, self.dropped = False, {}
        for number, name in enumerate(("stdout", "stderr")):
            if os.fstat(self.kept[number]).st_size or (was_long and os.path.exists(self.files[number] + ".1")):
                found = True
                directory = os.path.join(self.work, job)
                os.makedirs(directory, mode=0o700, exist_ok=True)
                target = os.path.join(directory, name)
                lock(self.kept[number], patience=_PATIENCE)
                lost = move(self.files[number], target)
                fcntl.flock(self.kept[number], fcntl.LOCK_UN)
                if lost := lost + cut(target, self.limit):
                    self.dropped[name] = lost
                self.open(number)
        return found


def cut(path: str, limit: int) -> int:
    """Keep the end of a file above `limit` bytes as ``<path>.1`` and empty it; return how many bytes are gone.

    Whatever writes to it goes on, at its new beginning: so the output of a function is as bounded as a script's.
    """
    if size_of(path) <= limit:
        return 0
    with open(path, "r+b") as full:
        if not lock(full.fileno()) or not os.path.samestat(os.fstat(full.fileno()), os.stat(path)):
            return 0  # it is being moved: the job has ended
        return _cut(full, path, limit)


def _cut(full: Any, path: str, limit: int) -> int:
    lost, flags = size_of(path + ".1"), os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    size = full.seek(max(0, os.fstat(full.fileno()).st_size - limit))
    data = b""
    for _ in range(_MOST_READS):  # what comes while it is read is kept too
        more = full.read(limit)
        if not more:
            break
        data, size = (data + more)[-limit:], size + len(more)
    full.truncate(0)
    with os.fdopen(os.open(path + ".1", flags, 0o600), "wb") as kept:
        kept.write(data)
    return int(lost + size - len(data))


def lock(descriptor: int, *, patience: float = 0.0) -> bool:
    """Lock a file of output, so that it is not cut while it is moved; False if that is done for `patience` seconds."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if time.monotonic() >= until:
                return False
            time.sleep(0.005)
        else:
            return True


def size_of(path: str) -> int:
    """Return the bytes of a file; 0 where there is none."""
    try:
        return os.stat(path).st_size
    except OSError:
        return 0


def move(source: str, target: str) -> int:
    """Rename a file, or append it where a former attempt left one; return how many bytes of that one are gone."""
    lost = 0
    if os.path.exists(source + ".1"):
        lost = size_of(target) + size_of(target + ".1")
        os.replace(source + ".1", target + ".1")
        os.replace(source, target)
    elif not os.path.exists(target):
        os.rename(source, target)
    else:
        with open(source, "rb") as old, open(target, "ab") as new:
            shutil.copyfileobj(old, new)
        os.unlink(source)
    return lost
