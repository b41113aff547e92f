"""Private directories: owned by this user, mode 0700, and in a place where nobody else can replace them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from ports import probe
from ports.errors import StoreError, UnsafePathError
from ports.probe import accounts


def make_private(path: Path) -> Path:
    """Create the directory `path` and its parents with mode 0700, and check that this user owns it.

    Raises
    ------
    StoreError
        It cannot be created.
    UnsafePathError
        Another user owns it, or it is a symbolic link.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "nt":  # no uids there, and the ACL of a profile keeps it private
            return path
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise not_mine(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(path, error.strerror or str(error)) from error
    try:
        if not os.path.samestat(found, os.fstat(descriptor)):
            raise not_mine(path)  # replaced meanwhile
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return path


def not_mine(path: Path) -> UnsafePathError:
    """Return the error for a directory that this user does not own."""
    return UnsafePathError(path, "it is a link, or another user owns it", "remove it, or set PORTS_HOME elsewhere")


def is_private(path: Path) -> bool:
    """Say whether `path` is a directory of this user, not a link, that nobody else can enter."""
    return probe.files.is_private(str(path))


def exchangeable(directory: Path) -> str | None:
    """Return why another user could replace what is in `directory`; None if nobody can, or if it does not exist.

    The parents of the path count, and so do those of the path that it resolves to. In a chain of links only these two
    ends are checked, because callers resolve the path before they use it. Root and system accounts are trusted: they
    need no such tricks.
    """
    if os.name == "nt":
        return None
    given = directory.absolute()
    real = given.resolve()
    for part in dict.fromkeys((given, *given.parents, real, *real.parents)):
        try:
            found = part.lstat()
        except OSError:
            continue
        if found.st_uid != os.getuid() and accounts.first_person() <= found.st_uid != accounts.NOBODY:
            return f"{part} belongs to uid {found.st_uid}, who could replace what is in it"
        if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"any user could replace what is in {part}, which has no sticky bit"
    return None
