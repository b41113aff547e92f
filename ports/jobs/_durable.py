"""Files that are there after a power cut, as `ports.probe.durable` writes them, with errors that say what to do."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ports.errors import StoreError
from ports.probe import durable, size

#: What makes room for jobs.
FULL = "`ports job prune --older 7d` removes old jobs"
#: What helps where somebody removed a directory under a resource that runs.
REMOVED = "`ports resource stop`, then `ports resource start` makes the directories of jobs again"
_KEEP_SIZE = 1  # FALLOC_FL_KEEP_SIZE


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise StoreError, which names `path`, for what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise refused(path, error) from error


def refused(path: Path, error: OSError) -> StoreError:
    """Return the error for what the disk refused; where it is full, with what is free, and what makes room."""
    reason = error.strerror or str(error)
    if error.errno == errno.ENOENT:
        return StoreError(path, reason, REMOVED)
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return StoreError(path, reason)
    with contextlib.suppress(OSError):
        place = next(one for one in (path, *path.parents) if one.exists())
        reason += f" ({size(shutil.disk_usage(place).free)} are free)"
    return StoreError(path, reason, FULL)


def write(path: Path, *pieces: Any, is_synced: bool = True) -> None:
    """Replace the file `path` by `pieces` (bytes), mode 0600; when it returns, a power cut does not undo it.

    Without `is_synced`, a power cut can leave a file of the right size and the wrong content.

    Raises
    ------
    StoreError
        The disk is full, or `path` is not writable. The old file is still there.
    """
    with translated(path):
        durable.write_durably(str(path), pieces, is_synced)


def sync_directory(directory: Path) -> None:
    """Let the names in `directory` outlast a power cut; raises StoreError."""
    with translated(directory):
        durable.sync_directory(str(directory))


def check_room(directory: Path, n_bytes: int, n_files: int = 1, *, spare: int, hint: str = FULL) -> None:
    """Raise StoreError if the disk, or your quota, has no room for files, before the first one is written.

    Parameters
    ----------
    spare : int
        Bytes that must stay free.
    """
    with translated(directory):
        if not hasattr(os, "statvfs"):  # Windows, where the writing itself says that the disk is full
            return
        disk = os.statvfs(directory)
        free = disk.f_bavail * disk.f_frsize
        if n_bytes + n_files * disk.f_bsize + spare > free or (disk.f_files and n_files > disk.f_favail):
            files = f" in {n_files:,} files" if n_files > 1 else ""
            raise StoreError(directory, f"no space for {size(n_bytes)}{files}, {size(free)} are free", hint)
    if n_bytes > spare and not _is_granted(directory, n_bytes):
        raise StoreError(directory, f"your quota has no space for {size(n_bytes)}", hint)


def _is_granted(directory: Path, n_bytes: int) -> bool:
    """Say whether a quota, which shows in no number of the disk, lets a file of this size be reserved."""
    import ctypes  # 2 ms, for large files only

    path = directory / f".room-{os.urandom(8).hex()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        done = libc.fallocate(descriptor, _KEEP_SIZE, ctypes.c_longlong(0), ctypes.c_longlong(n_bytes))
        return not (done != 0 and ctypes.get_errno() in (errno.ENOSPC, errno.EDQUOT))
    except AttributeError:
        return True  # not Linux
    finally:
        os.close(descriptor)
        path.unlink(missing_ok=True)


def create(path: Path, data: bytes) -> bool:
    """Make the file `path` as `write` does; return False, and leave it as it is, if it exists."""
    with translated(path):
        return durable.create_durably(str(path), data)


def write_together(files: Mapping[Path, bytes]) -> None:
    """Replace several files, as `write` does: all are written before the first is synced, so that it is quick.

    Raises
    ------
    StoreError
        As in `write`; some of the files can be there.
    """
    with contextlib.ExitStack() as left:
        made = {}
        for path, data in files.items():
            with translated(path):
                temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
                made[path] = file = open(temporary, "xb", opener=_private)  # noqa: SIM115
                left.callback(temporary.unlink, missing_ok=True)
                left.enter_context(file)
                file.write(data)
        for path, file in made.items():
            with translated(path), file:
                file.flush()
                os.fsync(file.fileno())
        for path, file in made.items():
            with translated(path):
                os.replace(file.name, path)  # noqa: PTH105
    for directory in dict.fromkeys(path.parent for path in files):
        sync_directory(directory)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def reserve(directory: Path, above: int, *, is_file: bool = False) -> int:
    """Make the directory of the next number after `above` that is free, and return the number.

    With `is_file` it is an empty file. Either one keeps the number for whoever made it. The caller calls
    `sync_directory` before it tells the number to anybody.

    Raises
    ------
    StoreError
        The disk is full, or `directory` is not writable.
    """
    with translated(directory):
        return durable.reserve_number(str(directory), above, is_file)


def names(directory: Path) -> list[str]:
    """Return the names in `directory`; none if it does not exist."""
    with translated(directory):
        try:
            return os.listdir(directory)  # noqa: PTH208
        except FileNotFoundError:
            return []


def numbers(directory: Path) -> list[int]:
    """Return the numbers after which directories and files are named in `directory`; none if it does not exist."""
    with translated(directory):
        return durable.numbers_in(str(directory))


_PART = re.compile(r"\..+\.[0-9a-f]{16}")
_OLD_SECONDS = 3600.0  # nobody writes a file for so long


def remove_parts(directory: Path, older: float = _OLD_SECONDS) -> None:
    """Remove what writers that were killed left in `directory`."""
    before = time.time() - older
    for name in names(directory):
        if _PART.fullmatch(name):
            with contextlib.suppress(OSError):
                if (directory / name).stat().st_mtime < before:
                    (directory / name).unlink()
