"""The program that owns a cluster: the copy of its code that each cluster has, and the command that starts it."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from ports.errors import StoreError, UnsafePathError
from ports.probe import SAFE_PATH
from ports.state import exchangeable

_PACKAGE = Path(__file__).parents[1]
# Name in the copy → what is copied. The owner finds both by name, as the folder of the copy is on its path.
_SOURCES = {"ports_owner": _PACKAGE / "clusters/owner/ports_owner", "_ports_probe": _PACKAGE / "probe"}


def copy_code(directory: Path) -> None:
    """Copy the owner's code to the new folder ``code`` of `directory`, for this user alone.

    Workers that start days later import what their owner was started with, also where `ports` was upgraded or removed
    since. Byte code comes along, with the times by which Python trusts it: without it each start takes 0.1 s longer.

    Raises
    ------
    StoreError
        A file cannot be read or written.
    UnsafePathError
        Another user could exchange `directory`, and so what workers import. Below the home nothing is checked: a user
        who could exchange that has simpler ways.
    """
    if not directory.resolve().is_relative_to(Path.home().resolve()) and (why := exchangeable(directory)) is not None:
        raise UnsafePathError(directory, why, "set PORTS_HOME to a directory that only you can change")
    try:
        _folder(directory).mkdir(mode=0o700)
        for name, source in _SOURCES.items():
            target = _folder(directory) / name
            target.mkdir(mode=0o700)
            (target / "__pycache__").mkdir(mode=0o700)
            for file in _files(source):
                _copy(file, target / file.relative_to(source))
    except OSError as error:
        raise StoreError(error.filename or directory, error.strerror or str(error)) from error


def command(directory: Path) -> list[str]:
    """Return the interpreter's arguments that own the cluster described in `directory`."""
    find = f"{SAFE_PATH}; sys.path.append({str(_folder(directory))!r})"
    return ["-c", f"{find}; from ports_owner import owner; owner.main({str(directory)!r})"]


def _folder(directory: Path) -> Path:
    return directory / "code"


def _files(source: Path) -> Iterator[Path]:
    """Yield the modules right in `source` and their byte code, if this Python's and not another user's.

    Python can do without byte code. Another Python, and one with ``-O``, makes its own in the copy. What another user
    made in a shared environment is neither trusted nor needed.
    """
    for module in source.glob("*.py"):
        yield module
        compiled = Path(importlib.util.cache_from_source(str(module), optimization=""))
        compiled = source / "__pycache__" / compiled.name  # also where PYTHONPYCACHEPREFIX names another place
        with contextlib.suppress(OSError):
            owners = (os.getuid(), module.stat().st_uid)
            if compiled.stat().st_uid in owners and os.access(compiled, os.R_OK):
                yield compiled


def _copy(source: Path, target: Path) -> None:
    found = source.stat()
    descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(source.read_bytes())
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns))
