"""Files that are there after a power cut: the file is synced, renamed, and its directory is synced."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ports.errors import StoreError


@contextlib.contextmanager
def translated(path: Path) -> Iterator[None]:
    """Raise StoreError, which names `path`, for what the disk refuses."""
    try:
        yield
    except OSError as error:
        raise StoreError(path, error.strerror or str(error)) from error


def write(path: Path, *pieces: Any, is_synced: bool = True) -> None:
    """Replace the file `path` by `pieces` (bytes), mode 0600; when it returns, a power cut does not undo it.

    Without `is_synced`, a power cut can leave a file of the right size and the wrong content.

    Raises
    ------
    StoreError
        The disk is full, or `path` is not writable. The old file is still there.
    """
    with translated(path):
        temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                for data in pieces:
                    _write_all(descriptor, data)
                if is_synced:
                    os.fsync(descriptor)
            finally:
                os.close(descriptor)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    if is_synced:
        sync_directory(path.parent)


def _write_all(descriptor: int, data: Any) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(directory: Path) -> None:
    """Let the names in `directory` outlast a power cut; raises StoreError."""
    with translated(directory):
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def create(path: Path, data: bytes) -> bool:
    """Make the file `path` as `write` does; return False, and leave it as it is, if it exists."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    write(temporary, data)
    with translated(path):
        try:
            os.link(temporary, path)
        except FileExistsError:
            return False
        finally:
            temporary.unlink(missing_ok=True)
    sync_directory(path.parent)
    return True


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
        for number in itertools.count(above + 1):
            path = directory / str(number)
            with contextlib.suppress(FileExistsError):  # another process was faster
                if is_file:
                    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))
                else:
                    path.mkdir(mode=0o700)
                return number
    raise AssertionError("numbers do not end")


def numbers(directory: Path) -> list[int]:
    """Return the numbers after which directories and files are named in `directory`; none if it does not exist."""
    with translated(directory):
        try:
            return [int(name) for name in os.listdir(directory) if name.isascii() and name.isdigit()]  # noqa: PTH208
        except FileNotFoundError:
            return []
