"""How much of the disk the jobs of this user have: their copies, output, results, and the cache."""

import os
import stat
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..own_host import host_directory

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Optional, Set, Tuple  # noqa: F401 - in comments

    Json = Dict[str, Any]

LARGE_PARTS = ("work", "objects", "results", "streams", "cache", "environments")  # below the directory of what is large
CHOSEN = "directory"  # the file that names that one, where it is another than the queue's
KEPT_SECONDS = 0.5  # for which files are counted
BLOCK = 512


def large_directory(root: str) -> "Optional[str]":
    """Return the directory of what is large; None where what names it names none. Raises OSError."""
    try:
        with open(os.path.join(root, CHOSEN), "rb") as file:
            text = os.fsdecode(file.read())
    except (FileNotFoundError, NotADirectoryError):
        return root
    return text[:-1] if text.startswith("/") and text.endswith("\n") else None


def kept_by_jobs(root: "Optional[str]" = None, seconds: "Optional[float]" = None) -> "Optional[Json]":
    """Return ``directory``, the ``bytes`` that are on the disk there, whether that ``is_all``, and the ``free_bytes``.

    None where there are no jobs, or where that disk cannot be read. A file that several copies share counts once. Files
    are counted for so many `seconds` at most.
    """
    end = time.monotonic() + (KEPT_SECONDS if seconds is None else seconds)
    try:
        data = large_directory(root or os.path.join(host_directory(), "jobs"))
        disk = os.statvfs(data) if data is not None else None
    except OSError:
        return None
    if data is None or disk is None:
        return None
    n_bytes, is_all = bytes_below([os.path.join(data, part) for part in LARGE_PARTS], end)
    free = disk.f_bavail * disk.f_frsize
    return {"directory": data, "bytes": n_bytes, "is_all": is_all, "free_bytes": free}


def bytes_below(directories: "List[str]", end: float) -> "Tuple[int, bool]":
    """Return what files below directories take on the disk, and whether all were counted before `end`."""
    total, linked = 0, set()  # type: int, Set[Tuple[int, int]]
    waiting = list(directories)
    while waiting:
        if time.monotonic() > end:
            return total, False
        try:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    found = entry.stat(follow_symlinks=False)
                    if stat.S_ISDIR(found.st_mode):
                        waiting.append(entry.path)
                    elif found.st_nlink > 1:
                        if (found.st_dev, found.st_ino) in linked:
                            continue
                        linked.add((found.st_dev, found.st_ino))
                    total += found.st_blocks * BLOCK
        except OSError:  # a job has just removed it
            continue
    return total, True
