"""Every path that `ports` writes, and the making of its private directories.

::

    <state>/hosts/<machine>/             $PORTS_HOME, $XDG_STATE_HOME/ports or ~/.local/state/ports; 0700
        host.json                        name, interpreter and version of `ports` that last ran here
        runtime.json                     where the runtime directory is, when /tmp/ports-<uid> was taken
        clusters/<name>/ notebooks/<name>/   record.json running.json exit.json launch.json …
        logs/<kind>-<name>.log           survives `stop`
        tokens/<kind>-<name>             survives `stop`: the link of tomorrow is that of today
        held/<scratch>-held.json         survives `stop`: where results are that a cluster held at its end
        tunnels/ keeper/                 what `ports open` holds
    /tmp/ports-<uid>/                    Unix sockets, 0700, locked against tmpfiles while something runs
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import socket
import stat
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ports import probe
from ports.errors import InvalidNameError, StoreError, TimedOutError, UnsafePathError, UsageError
from ports.probe import accounts
from ports.state import records
from ports.state.waiting import wait_until

_YOUNG_SECONDS = 3600.0
NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def check_name(name: str) -> str:
    """Return `name`, or raise InvalidNameError."""
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise InvalidNameError(str(name))
    return name


@dataclass(frozen=True)
class HostPaths:
    """The files of one machine below the state directory."""

    root: Path

    @property
    def host(self) -> Path:
        """Record of the machine: name, interpreter, version."""
        return self.root / "host.json"

    @property
    def runtime(self) -> Path:
        """Record that says where the runtime directory is."""
        return self.root / "runtime.json"

    @property
    def logs(self) -> Path:
        """Directory of logs."""
        return self.root / "logs"

    @property
    def tunnels(self) -> Path:
        """Directory of tunnel records."""
        return self.root / "tunnels"

    @property
    def held(self) -> Path:
        """Directory of notes of where results are that clusters held when they expired; they survive `stop`."""
        return self.root / "held"

    def token(self, kind: str, name: str) -> Path:
        """Token of the `kind` called `name`: it survives `stop`, so that links stay the same."""
        return self.root / "tokens" / f"{kind}-{check_name(name)}"


def state_directory() -> Path:
    """Return the directory of all records; it need not exist."""
    return Path(probe.state_directory())


def configuration_directories() -> list[Path]:
    """Return where Dask looks for YAML files, the last one winning."""
    found = [Path(os.environ.get("DASK_ROOT_CONFIG", "/etc/dask")), Path(sys.prefix) / "etc" / "dask"]
    found.append(Path.home() / ".config" / "dask")
    if "DASK_CONFIG" in os.environ:
        found.append(Path(os.environ["DASK_CONFIG"]))
    return found


@functools.cache
def machine() -> str:
    """Return the id of this machine, stable over changes of its name."""
    return probe.machine_id()


def host_name() -> str:
    """Return what this machine calls itself."""
    return socket.gethostname()


def user_name() -> str:
    """Return the name of this user by its uid, as the probe does; ``$LOGNAME`` may be another's after ``su``."""
    return probe.user_name(probe.own_uid())


def here() -> HostPaths:
    """Return this machine's paths; nothing is created.

    Raises
    ------
    UnsafePathError
        The state directory is somebody else's: what its records say is not to be trusted.
    """
    state = state_directory()
    with contextlib.suppress(OSError):
        if os.name != "nt" and state.lstat().st_uid not in (os.getuid(), 0):
            raise _not_mine(state)
    return HostPaths(state / "hosts" / machine())


def other_machines() -> list[HostPaths]:
    """Return the paths of the other machines that this home has been used on; raises as `here`."""
    own = here().root
    with contextlib.suppress(OSError):
        return [HostPaths(path) for path in sorted(own.parent.iterdir()) if path != own and path.is_dir()]
    return []


def make_private(path: Path) -> Path:
    """Create the directory `path` with its parents, 0700, and check that it is one's own.

    Raises
    ------
    StoreError
        It cannot be created.
    UnsafePathError
        Somebody else owns it, or it is a symbolic link.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        if os.name == "nt":  # no uids, and a profile is private by its ACL
            return path
        found = path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
            raise _not_mine(path)
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        raise StoreError(path, error.strerror or str(error)) from error
    try:
        if not os.path.samestat(found, os.fstat(descriptor)):
            raise _not_mine(path)  # exchanged meanwhile
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)
    return path


def _not_mine(path: Path) -> UnsafePathError:
    return UnsafePathError(path, "it is a link or somebody else's", "remove it, or set PORTS_HOME elsewhere")


def make_state() -> HostPaths:
    """Create this machine's directories, each of them 0700, and return the paths."""
    root = make_private(state_directory())
    paths = HostPaths(make_private(make_private(root / "hosts") / machine()))
    make_private(paths.logs)
    return paths


def runtime_directory() -> Path:
    """Return a 0700 directory of one's own with a short path, for Unix sockets; it is created.

    ``/tmp/ports-<uid>``, or a random one beside it where somebody else made that name first; its path is then kept in
    the state directory, so that all processes agree. Another ``PORTS_HOME`` has a directory of its own in there.
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
        raise UnsafePathError(usual, why, f"ask an administrator to mend that (`chmod 1777 {usual.parent}`)")
    try:
        with contextlib.suppress(FileExistsError):
            usual.mkdir(mode=0o700)
        if is_private(usual):
            return usual
        import tempfile

        path = Path(tempfile.mkdtemp(prefix=f"ports-{os.getuid()}-", dir="/tmp"))
    except OSError as error:
        raise StoreError(usual, error.strerror or str(error)) from error
    records.write_json(make_state().runtime, {"format": 1, "path": str(path)})
    return path


def is_private(path: Path) -> bool:
    """Say whether `path` is a directory of one's own that nobody else may enter, and no link."""
    return probe.files.is_private(str(path))


def exchangeable(directory: Path) -> str | None:
    """Return why another user could exchange what lies in `directory`; None where nobody can, or it is not there.

    Directories on the way to it count, and on the way to where it leads; of several links in a row only these two ends:
    whoever goes on to use it resolves it first. Trusted are root and accounts of the system, which need no tricks.
    """
    if os.name == "nt":
        return None
    given = directory.absolute()
    real = given.resolve()
    for place in dict.fromkeys((given, *given.parents, real, *real.parents)):
        try:
            found = place.lstat()
        except OSError:
            continue
        if found.st_uid != os.getuid() and accounts.first_person() <= found.st_uid != accounts.NOBODY:
            return f"{place} belongs to uid {found.st_uid}, who could exchange what lies in it"
        if stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_IWOTH and not found.st_mode & stat.S_ISVTX:
            return f"everybody could exchange what lies in {place}, which has no sticky bit"
    return None


def can_serve() -> bool:
    """Tell whether clusters and notebook servers can run on this machine; Windows is for home only."""
    return os.name != "nt"


def check_serves(what: str) -> None:
    """Raise UsageError where this machine cannot run `what`, in the plural."""
    if not can_serve():
        raise UsageError(f"{what} run on Linux and macOS only; name a host of yours to have it there")


@contextlib.contextmanager
def locked(name: str, *, timeout: float = 10.0) -> Iterator[None]:
    """Hold the lock `name` of this user on this machine.

    The lock lies in the runtime directory, which is local: a home on NFS may not lock at all.

    Raises
    ------
    TimedOutError
        Another process holds it for longer than `timeout` seconds.
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
        except OSError:
            pass  # held, or removed meanwhile
        os.close(descriptor)
        return None

    try:
        descriptor = wait_until(try_lock, timeout=timeout, what=f"lock {name!r}", every=0.005)
    except TimedOutError:
        raise TimedOutError(f"lock {name!r}, held by another ports process,", timeout) from None
    try:
        yield
    finally:
        os.close(descriptor)


def _lock_on_windows(path: Path) -> int | None:
    import msvcrt

    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)  # a process that is started inherits none there
    try:
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    except OSError:  # held
        os.close(descriptor)
        return None
    return descriptor


def prune_runtime() -> list[Path]:
    """Remove the runtime directories of other ``PORTS_HOME`` that hold at most locks, held by nobody; return them.

    One that changed within the last hour stays: whoever made it may be about to use it.
    """
    if os.name == "nt":
        return []
    own = runtime_directory()
    base = own.parent if "PORTS_HOME" in os.environ else own
    found = [path for path in base.iterdir() if path != own and re.fullmatch("[0-9a-f]{8}", path.name)]
    return sorted(path for path in found if is_private(path) and _remove_locks(path))


def _remove_locks(directory: Path) -> bool:
    """Remove `directory` if all it holds are locks, and nobody holds one of them or the directory itself."""
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
            directory.rmdir()  # not where something was made in it meanwhile
        except OSError:
            return False
    return True
