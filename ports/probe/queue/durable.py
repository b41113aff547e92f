"""Files that are there after a power cut: synced, renamed, in a directory that is synced. All raise OSError."""

import os

MYPY = False
if MYPY:
    from typing import Any, List


def write_durably(path: str, pieces: "Any", is_synced: bool = True) -> None:
    """Replace the file `path` by `pieces` (of bytes), mode 0600; when it returns, a power cut does not undo it.

    Without `is_synced`, a power cut can leave a file of the right size and the wrong content.
    """
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, ".%s.%s" % (name, os.urandom(8).hex()))
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0), 0o600)
        try:
            for data in pieces:
                write_all(descriptor, data)
            if is_synced:
                os.fsync(descriptor)
        finally:
            os.close(descriptor)
        os.replace(temporary, path)
    except BaseException:
        try:
            os.unlink(temporary)
        except OSError:  # it was never made, or has its name already: the first error counts
            pass
        raise
    if is_synced:
        sync_directory(directory)


def write_all(descriptor: int, data: "Any") -> None:
    """Write all of `data`."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def sync_directory(path: str) -> None:
    """Let the names in a directory outlast a power cut; on Windows a directory is no file that could be synced."""
    if os.name == "nt":
        return
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0) | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def create_durably(path: str, data: bytes) -> bool:
    """Make the file `path` as `write_durably` does; return False, and leave it as it is, if it exists."""
    directory, name = os.path.split(path)
    temporary = os.path.join(directory, ".%s.%s" % (name, os.urandom(8).hex()))
    write_durably(temporary, [data])
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        os.unlink(temporary)
    sync_directory(directory)
    return True


def reserve_number(directory: str, above: int, is_file: bool = False) -> int:
    """Make the directory of the next number after `above` that is free, and return the number.

    With `is_file` it is an empty file. Either one keeps the number for whoever made it. The caller calls
    `sync_directory` before it tells the number to anybody. A `directory` that somebody removed is made again.
    """
    number = above
    while True:
        number += 1
        path = os.path.join(directory, str(number))
        try:
            if is_file:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0)
                os.close(os.open(path, flags, 0o600))
            else:
                os.mkdir(path, 0o700)
        except FileExistsError:  # another process was faster
            continue
        except FileNotFoundError:
            make_again(directory)
            number -= 1
            continue
        return number


def make_again(directory: str) -> None:
    """Make a directory that was removed, 0700, so that its name outlasts a power cut; raises OSError."""
    try:
        os.mkdir(directory, 0o700)
    except FileExistsError:
        return
    sync_directory(os.path.dirname(directory))


def numbers_in(directory: str) -> "List[int]":
    """Return the numbers after which directories and files are named in `directory`; none if it does not exist."""
    try:
        names = os.listdir(directory)
    except FileNotFoundError:
        return []
    return [int(name) for name in names if name.isdigit() and ord(max(name)) < 128]
