"""What this cluster is promised, for all users of the machine to read: a file of numbers that its owner locks.

``ports.probe.promises`` reads it, for ``ports who`` and for the default size of others' clusters. It is in a sticky
directory that everybody can write, under a random name that nobody can have made before.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import re
import stat
import time
from pathlib import Path

from .ground import probe
from .log import warn

WIDTH = 120  # bytes of the line: it is written over in one piece
FRESH_SECONDS = 3600.0  # between two touches: systemd-tmpfiles removes what has been left alone for days
LOOK_SECONDS = 1.0
YOUNG_SECONDS = 10.0  # another owner can be about to lock what it has just made


def line(numbers, published):
    """Return the line with the numbers of workers, threads, bytes and bytes lent, and when it was `published`."""
    whole = (*(*numbers, 0)[:4], published)
    return ("1 " + " ".join(str(max(0, int(number))) for number in whole)).ljust(WIDTH - 1).encode() + b"\n"


def numbers_of(cluster):
    """Return the workers, threads and bytes that `cluster` should have; workers without a limit add no bytes."""
    workers = [spec["options"] for spec in cluster.worker_spec.values()]
    threads = sum(one.get("nthreads") or 1 for one in workers)
    return len(workers), threads, sum(bytes_of(one.get("memory_limit")) for one in workers)


def bytes_of(limit):
    """Return a limit of memory in bytes; 0 for none or for a word."""
    return int(limit) if isinstance(limit, (int, float)) else 0


def of(record):
    """Announce what a cluster will be promised, before it takes anything, and return the promise."""
    n_workers, threads = record.n_workers or 0, record.threads_per_worker or 1
    limit = bytes_of(record.memory_limit)
    return Promise(record.promise, (n_workers, n_workers * threads, n_workers * limit))


class Promise:
    """The promise of one cluster; if it cannot be written, nothing else fails."""

    def __init__(self, path, numbers):
        self.numbers, self.descriptor, self.touched, self.published = None, None, 0.0, 0
        if not path:  # of an older ports
            return
        self.path = Path(path)
        try:
            sweep(self.path)
            self.make()
            self.tell(numbers)
        except OSError as error:
            warn(f"other users do not see what this cluster is promised: {error}")

    def make(self):
        """Create the file and lock it before anybody else can open it: a lock of another user would be in the way."""
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        self.descriptor = os.open(self.path, flags, 0o600)
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self.published = time.time_ns() // 1000  # it stays: the times of the file change with each look after it

    def tell(self, numbers):
        """Write `numbers` if they changed, keep the file locked, and keep tmpfiles from removing it."""
        now = time.monotonic()
        if self.descriptor is None:
            return
        # a task in a thread of this process that read promises, and closed this file, gave up the lock
        fcntl.lockf(self.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if numbers == self.numbers and now - self.touched < FRESH_SECONDS:
            return
        os.pwrite(self.descriptor, line(numbers, self.published), 0)
        if self.numbers is None:
            os.fchmod(self.descriptor, 0o644)
        self.numbers, self.touched = numbers, now

    async def follow(self, numbers):
        """Keep the promise up to date while the cluster runs; `numbers` returns what it is promised at the moment."""
        while True:
            try:
                self.tell(await numbers())
            except Exception as error:  # noqa: BLE001 - whatever it is, the promise must be looked after again
                warn(f"other users do not see what this cluster is promised now: {error}")
            await asyncio.sleep(LOOK_SECONDS)

    def close(self):
        """Remove the file, if it is still the one that was made, and with it the lock."""
        if self.descriptor is None:
            return
        try:
            if os.path.samestat(os.fstat(self.descriptor), self.path.lstat()):
                self.path.unlink()
        except OSError:
            pass
        os.close(self.descriptor)
        self.descriptor = None


def others(directory=None):
    """Return how many other users have a live promise of memory.

    Own files are not opened: a process that closes its file gives up the lock.
    """
    reader = probe.promises
    theirs = [(path, uid) for path, uid in reader.candidates(str(directory or reader.DIRECTORY)) if uid != os.getuid()]
    uids = set()
    for path, uid in theirs:
        if uid not in uids and (reader.read_promise(path, uid) or {"bytes": 0})["bytes"]:
            uids.add(uid)
    return len(uids)


def of_others(own):
    """Return the live promises except the one at `own`, which is not opened: closing it would give up its lock."""
    reader = probe.promises
    found = [(path, uid) for path, uid in reader.candidates(reader.DIRECTORY) if path != own]
    read = [reader.read_promise(path, uid) for path, uid in found[: reader.MOST_FILES]]
    return [one for one in read if one is not None]


def sweep(path):
    """Remove what dead owners of this user's clusters left beside `path`; this process must have no promise yet."""
    pattern = re.compile(rf"ports-promise-{os.getuid()}-[0-9a-f]{{16}}$")
    with os.scandir(path.parent) as entries:
        names = [entry.name for entry in entries if pattern.match(entry.name)]
    for name in names:
        found = path.with_name(name)
        try:
            status = found.lstat()
            if status.st_uid != os.getuid() or not stat.S_ISREG(status.st_mode):
                continue
            if time.time() - status.st_mtime < YOUNG_SECONDS:
                continue
            descriptor = os.open(found, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            found.unlink()
        except OSError:  # its owner is alive
            pass
        finally:
            os.close(descriptor)
