"""Where the Unix sockets of this user are: private directories, names in them, and dead sockets to remove.

Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import re
import socket

from .ground import probe

LONGEST_PATH = 107  # bytes of a socket's address; where a path is longer, a descriptor names its directory
NAME = re.compile(r"([0-9a-f]+)\.([0-9]+)\.[0-9]+")  # pid namespace, pid, number

_numbers = itertools.count(1)


def usual():
    """Return the directory of sockets whose address names none."""
    return f"{probe.files.usual_runtime_directory()}/unix"


def place_of(loc):
    """Return directory and name of the socket that `loc` means; None as the name means a new one."""
    path, _, port = loc.rpartition(":") if re.search(r":\d+$", loc) else (loc, "", "0")
    name = None if port == "0" else port
    if not path.startswith("/"):
        return usual(), name
    path = os.path.normpath(path)
    if os.path.isdir(path):
        return path, name
    return os.path.dirname(path), os.path.basename(path)


def path_of(loc):
    """Return the path of the socket at `loc`, to connect to it."""
    if loc.startswith("/") and not re.search(r":\d+$", loc):
        return loc
    directory, name = place_of(loc)
    if name is None:
        raise ValueError(f"invalid address unix://{loc}: it names no socket")
    return os.path.join(directory, name)


@contextlib.contextmanager
def private(directory):
    """Yield a descriptor of `directory`, which must be this user's own and closed to others."""
    try:
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as error:
        raise OSError(error.errno, f"no directory for sockets: {error.strerror}", directory) from error
    try:
        if not probe.files.is_private_directory(os.fstat(descriptor)):
            raise PermissionError(
                errno.EPERM, "sockets need a directory of one's own with mode 0700; name another one", directory
            )
        yield descriptor
    finally:
        os.close(descriptor)


def bind(directory, name):
    """Return a socket bound in `directory`, and its name; None as `name` makes a new one.

    A dead socket of that name is replaced. Sockets of dead processes are removed.
    """
    if directory == usual():
        for path in (os.path.dirname(directory), directory):
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o700)
    with private(directory) as descriptor:
        sweep(descriptor)
        for _ in range(100):
            chosen = name or f"{pid_namespace():x}.{os.getpid()}.{next(_numbers)}"
            listener = socket.socket(socket.AF_UNIX)
            try:
                os.fchmod(listener.fileno(), 0o600)  # Linux gives the file this mode, less the umask
                path = os.path.join(directory, chosen)
                fits = len(os.fsencode(path)) <= LONGEST_PATH
                listener.bind(path if fits else f"/proc/self/fd/{descriptor}/{chosen}")
                os.stat(chosen, dir_fd=descriptor, follow_symlinks=False)  # it is in the directory that was checked
                listener.setblocking(False)
                return listener, chosen
            except OSError as error:
                listener.close()
                if error.errno != errno.EADDRINUSE or (name and not remove_dead(descriptor, directory, name)):
                    raise
    raise OSError(errno.EADDRINUSE, "no name is free", directory)


def remove_dead(descriptor, directory, name):
    """Remove the socket `name` if nobody listens on it; say whether it is gone."""
    with socket.socket(socket.AF_UNIX) as caller, reachable(os.path.join(directory, name)) as path:
        caller.setblocking(False)
        try:
            caller.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=descriptor)
            return True
        except OSError:
            pass
    return False


def sweep(descriptor):
    """Remove sockets in a directory whose process was killed; those of other pid namespaces cannot be judged."""
    for name in os.listdir(descriptor):
        found = NAME.fullmatch(name)
        if found and int(found[1], 16) == pid_namespace() and not is_alive(int(found[2])):
            with contextlib.suppress(OSError):
                os.unlink(name, dir_fd=descriptor)


def remove(directory, name, identity):
    """Remove the socket `name` if it is still the one of that device and inode."""
    with contextlib.suppress(OSError):
        path = os.path.join(directory, name)
        if identify(path) == identity:
            os.unlink(path)


def identify(path):
    """Return device and inode of a file."""
    found = os.lstat(path)
    return found.st_dev, found.st_ino


def is_alive(pid):
    """Say whether there is a process `pid`."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def pid_namespace():
    """Return a number of the pid namespace."""
    return os.stat("/proc/self/ns/pid").st_ino


@contextlib.contextmanager
def reachable(path):
    """Yield a name of `path` that is short enough for a socket's address."""
    if len(os.fsencode(path)) <= LONGEST_PATH:
        yield path
        return
    descriptor = os.open(os.path.dirname(path), os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{os.path.basename(path)}"
    finally:
        os.close(descriptor)
