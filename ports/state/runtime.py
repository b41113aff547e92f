"""The runtime directory of this user: a short, local, private path for Unix sockets and locks."""

from __future__ import annotations

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path

from ports import probe
from ports.errors import StoreError, TimedOutError, UnsafePathError
from ports.state import records
from ports.state.paths import here, make_state
from ports.state.private import exchangeable, is_private, make_private
from ports.state.waiting import wait_until

_YOUNG_SECONDS = 3600.0


def runtime_directory() -> Path:
    """Create and return a directory of this user, mode 0700, whose path is short enough for Unix sockets.

    It is ``/tmp/ports-<uid>``. If another user took that name first, it gets a random name beside it. The state
    directory then records its path, so that all processes agree. With ``PORTS_HOME`` set, it is a directory in there.
    """
    if os.name == "nt":
        import tempfile

        return make_private(Path(tempfile.gettempdir()) / "ports")
    base = _first_private(Path(probe.files.usual_runtime_directory()))
    own = Path(probe.own_runtime_directory(str(base)))
    return own if own == base else make_private(own)


def _first_private(usual: Path) -> Path:
    kept = records.read_json(here().runtime)
    if kept is not None and is_private(Path(str(kept.get("path")))):
        return Path(str(kept["path"]))
    if (why := exchangeable(usual.parent)) is not None:
        raise UnsafePathError(usual, why, f"ask an administrator to fix that (`chmod 1777 {usual.parent}`)")
    try:
        with contextlib.suppress(FileExistsError):
            usual.mkdir(mode=0o700)
        if is_private(usual):
            return usual
        import tempfile

        path = Path(tempfile.mkdtemp(prefix=f"ports-{os.getuid()}-", dir="/tmp"))
    except OSError as error:
        raise StoreError(usual, error.strerror or str(error), "") from error
    records.write_json(make_state().runtime, {"format": 1, "path": str(path)})
    return path


@contextlib.contextmanager
def locked(name: str, *, timeout: float = 10.0) -> Iterator[None]:
    """Hold the lock `name` of this user on this machine.

    The lock is in the runtime directory, because that is local: a home on NFS may not support locks.

    Raises
    ------
    TimedOutError
        Another process held it for `timeout` seconds.
    StoreError
        The disk of the runtime directory has no locks.
    """

    def try_lock() -> int | None:
        path = runtime_directory() / f"{name}.lock"
        if os.name == "nt":
            return _lock_on_windows(path)
        import fcntl

        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            return None  # `ports prune` removes directories of locks that nobody holds
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.path.samestat(os.fstat(descriptor), path.lstat()):
                return descriptor
        except (BlockingIOError, FileNotFoundError):
            pass  # another process holds it, or removed it meanwhile
        except OSError as error:  # a disk without locks: nobody holds it, and no waiting helps
            os.close(descriptor)
            raise StoreError(path, f"it cannot be locked ({error.strerror or error})", "") from error
        os.close(descriptor)
        return None

    try:
        descriptor = wait_until(try_lock, timeout=timeout, what=f"lock {name!r}", every=0.005)
    except TimedOutError:
        raise TimedOutError(f"lock {name!r}, which another process of ports holds", timeout) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_on_windows(path: Path) -> int | None:
    import msvcrt

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # not inherited by child processes there
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:  # held
        os.close(descriptor)
        return None
    return descriptor


def prune_runtime() -> list[Path]:
    """Remove the runtime directories of other ``PORTS_HOME`` that contain nothing but free locks; return them.

    A directory that changed within the last hour stays, because a process may be about to use it.
    """
    if os.name == "nt":
        return []
    own = runtime_directory()
    base = own.parent if "PORTS_HOME" in os.environ else own
    found = [path for path in base.iterdir() if path != own and re.fullmatch("[0-9a-f]{8}", path.name)]
    return sorted(path for path in found if is_private(path) and _remove_locks(path))


def _remove_locks(directory: Path) -> bool:
    """Remove `directory` if it contains only locks, and no process holds one of them or the directory itself."""
    import fcntl

    with contextlib.ExitStack() as held:
        try:
            if time.time() - directory.lstat().st_mtime < _YOUNG_SECONDS:
                return False
            locks = list(directory.iterdir())
            if any(path.suffix != ".lock" for path in locks):
                return False
            for path in (directory, *locks):
                descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
                held.callback(os.close, descriptor)
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            for path in locks:
                path.unlink()
            directory.rmdir()  # fails if something was created in it meanwhile
        except OSError:
            return False
    return True
