"""Trees of files that a job gets: read from objects, and laid out in the job's own directory.

It is also a program: ``python -I -S lay_out.py OBJECTS TREE HOW TARGET COMMAND…`` lays a tree out, unless `TARGET`
exists, and becomes the command, in that directory. So time limit and cancellation of the job hold for it. Standard
library only.

An object is a file that is named after the SHA-256 of its content, ``ab/cdef…`` (``.x`` if it can be executed), and
read-only. A directory is an object too::

    ports-tree 1 <newline>
    KIND SHA-256 SIZE NAME <NUL>          KIND: f file, x executable file, d directory (SIZE: all that is below it)
    l - SIZE NAME <NUL> TARGET <NUL>      symbolic link

with its names sorted as bytes: the same tree has the same SHA-256 everywhere.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import sys
from collections.abc import Iterator
from typing import NamedTuple

HEAD = b"ports-tree 1\n"
#: When objects, and what is laid out of them, were modified: whatever has another time was changed since.
STAMP = 1_000_000_000
_SPARE = 16 << 20  # bytes that stay free: a full disk stops whatever else writes
_PIECE = 1 << 20
COPY, LINK = "copy", "link"


class Entry(NamedTuple):
    """One name in a directory; `target` is that of a symbolic link."""

    kind: str
    digest: str
    size: int
    name: bytes
    target: bytes = b""


class LayOutError(Exception):
    """A tree cannot be laid out: an object is missing or damaged, or the disk is full."""


def dump(entries: list[Entry]) -> bytes:
    """Return a directory as an object."""
    pieces = [HEAD]
    for one in sorted(entries, key=lambda entry: entry.name):
        pieces.append(b"%s %s %d %s\0" % (one.kind.encode(), one.digest.encode() or b"-", one.size, one.name))
        if one.kind == "l":
            pieces.append(one.target + b"\0")
    return b"".join(pieces)


def load(data: bytes) -> list[Entry]:
    """Return the entries of a directory; raises LayOutError if it is none, or names what is outside of it."""
    if not data.startswith(HEAD) or not (data == HEAD or data.endswith(b"\0")):
        raise LayOutError("a directory is damaged")
    parts = iter(data[len(HEAD) :].split(b"\0")[:-1])
    found = []
    try:
        for part in parts:
            kind, digest, size, name = part.split(b" ", 3)
            if kind not in (b"f", b"x", b"d", b"l") or name in (b"", b".", b"..") or b"/" in name:
                raise ValueError
            target = next(parts) if kind == b"l" else b""
            if kind != b"l" and (len(digest) != 64 or digest.strip(b"0123456789abcdef")):
                raise ValueError
            found.append(Entry(kind.decode(), digest.decode() if kind != b"l" else "", int(size), name, target))
    except (ValueError, StopIteration) as error:
        raise LayOutError("a directory is damaged") from error
    return found


def path_of(objects: str, digest: str, kind: str = "f") -> str:
    """Return the file of an object."""
    return os.path.join(objects, digest[:2], digest[2:] + (".x" if kind == "x" else ""))


def read(objects: str, digest: str) -> list[Entry]:
    """Return the entries of a directory that is among the objects; raises LayOutError."""
    try:
        with open(path_of(objects, digest), "rb") as file:
            data = file.read()
    except OSError as error:
        raise LayOutError(f"the directory {digest[:12]} is missing ({error.strerror})") from error
    if hashlib.sha256(data).hexdigest() != digest:
        raise LayOutError(f"the directory {digest[:12]} is damaged")
    return load(data)


def walk(objects: str, tree: str, below: bytes = b"") -> Iterator[tuple[bytes, Entry]]:
    """Yield the path and the entry of all that is in a tree, a directory before what is in it; raises LayOutError."""
    for entry in read(objects, tree):
        path = os.path.join(below, entry.name)
        yield path, entry
        if entry.kind == "d":
            yield from walk(objects, entry.digest, path)


def lay_out(objects: str, tree: str, target: str, how: str = COPY) -> None:
    """Make the directory `target` with all that is in a tree. It is there as a whole, or not at all.

    Parameters
    ----------
    how : str
        ``copy``: files of its own, which the job can change. ``link``: read-only hard links, without a copy.

    Raises
    ------
    LayOutError
        An object is missing or damaged, or the disk has too little space.
    """
    part = f"{target}.part"
    shutil.rmtree(part, ignore_errors=True)  # of a start that was killed
    os.makedirs(part, mode=0o700)
    try:
        found = list(walk(objects, tree))
        _check_space(part, sum(entry.size for _, entry in found if entry.kind in "fx") if how == COPY else 0)
        base = os.fsencode(part)
        for path, entry in found:
            _make(objects, os.path.join(base, path), entry, how)
        if how == COPY:
            sync(part)  # else a power cut can leave empty files, which the next attempt would run on
        os.rename(part, target)
    except BaseException as error:
        shutil.rmtree(part, ignore_errors=True)
        if isinstance(error, OSError):
            raise LayOutError(f"{error.filename or part}: {error.strerror}") from error
        raise


def sync(path: str) -> None:
    """Let all that was written to the file system of `path` outlast a power cut."""
    import ctypes  # which links do not need

    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        done = ctypes.CDLL(None, use_errno=True).syncfs(descriptor)
    except (AttributeError, OSError):  # not on Linux
        done = -1
    finally:
        os.close(descriptor)
    if done:
        os.sync()


def _check_space(directory: str, needed: int) -> None:
    disk = os.statvfs(directory)
    free = disk.f_bavail * disk.f_frsize
    if needed and needed + _SPARE > free:
        raise LayOutError(f"the files of the job take {needed:,} bytes, and {free:,} are free below {directory}")


def _make(objects: str, path: bytes, entry: Entry, how: str) -> None:
    if entry.kind == "d":
        os.mkdir(path)
    elif entry.kind == "l":
        os.symlink(entry.target, path)
    else:
        source = path_of(objects, entry.digest, entry.kind)
        _check(source, path, entry)
        if how == LINK:
            try:
                return os.link(source, path)
            except OSError as error:
                if error.errno not in (errno.EMLINK, errno.EXDEV, errno.EPERM):
                    raise
        copy(source, path)
        os.chmod(path, (0o777 if entry.kind == "x" else 0o666) & ~_umask)
        os.utime(path, (STAMP, STAMP))


def _check(source: str, path: bytes, entry: Entry) -> None:
    """Raise LayOutError if an object is not what was written: a job that links it can have changed it."""
    try:
        status = os.stat(source)
    except FileNotFoundError:
        raise LayOutError(f"the content of {os.fsdecode(path)} is missing") from None
    if status.st_size != entry.size or status.st_mtime_ns != STAMP * 10**9:
        raise LayOutError(f"the content of {os.fsdecode(path)} was changed at {source}")


def copy(source: str | bytes, target: str | bytes) -> None:
    """Copy the content of a file to a new one; where the disk can, both share their blocks."""
    with open(source, "rb", buffering=0) as here, open(target, "xb", buffering=0) as there:
        try:
            while os.copy_file_range(here.fileno(), there.fileno(), 1 << 30):
                pass
        except (AttributeError, OSError) as error:
            if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT):
                raise
            here.seek(0)
            there.seek(0)
            there.truncate()
            shutil.copyfileobj(here, there, _PIECE)


def _mask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


_umask = _mask() if __name__ == "__main__" else 0o077


def main(words: list[str]) -> int:
    """Lay the tree out, and become the command; return an exit code if that fails."""
    objects, tree, how, target, *command = words
    try:
        if not os.path.isdir(target):  # an attempt before left it: what it made there is kept
            lay_out(objects, tree, target, how)
        os.chdir(target)
        os.environ["PWD"] = target
        os.execvp(command[0], command)
    except LayOutError as error:
        with contextlib.suppress(OSError):  # the next snapshot looks at each object again
            os.unlink(os.path.join(objects, "generation"))
        print(f"ports: the files of the job cannot be laid out: {error}", file=sys.stderr)
    except OSError as error:
        print(f"ports: cannot run {command[0]}: {error.strerror}", file=sys.stderr)
    return 127


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
