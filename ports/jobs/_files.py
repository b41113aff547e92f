"""Files whose content travels: an argument of a job is a file where it runs, a file that it returns is one at home.

Content is known by its SHA-256. What has arrived lies in the directory ``files`` of the cache, as ``<SHA-256>-<name>``.
It is removed as entries are: those that were not used for longest go first.
"""

from __future__ import annotations

import contextlib
import hashlib
import mmap
import os
import pickle
import re
import shutil
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports.errors import ConflictError, RecordError, UnsendableError
from ports.jobs import _durable, _places
from ports.state import make_private, paths

FOLDER = "files"
_LONGEST_NAME = 150  # bytes, behind the digest
_USE_SECONDS = 60.0
_ALONE_BYTES = 64 * 1024  # less is no worth of a question


class File(os.PathLike[str]):
    """A file whose content travels with a job. Use it as you use a path.

    As an argument it is a file with that content where the job runs, to be read only. Returned by a job, it is one
    where the result is read; `save` copies it to where you want it. The cache knows it by its content.

    Parameters
    ----------
    path : path
        The file. It is read when the job is submitted, or has returned.

    Examples
    --------
    >>> job = fit.submit(ports.File("data.csv"))          # doctest: +SKIP
    >>> job.result().save("fit.png")                      # doctest: +SKIP
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path.cwd() / path
        self.name = self.path.name

    def __fspath__(self) -> str:
        return os.fspath(self.path)

    def __repr__(self) -> str:
        return f"File({os.fspath(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, File) and (other.path, other.name) == (self.path, self.name)

    def __hash__(self) -> int:
        return hash((self.path, self.name))

    def __ports_key__(self) -> str:
        """Return what the cache knows it by: its content."""
        return hashlib.sha256(self.read()).hexdigest()

    def __ports_file__(self, carried: Carried | None) -> tuple[Any, ...]:
        """Return how it is pickled in what a job takes or returns: content goes along, here or with the function."""
        if carried is None:
            return received, (self.name, pickle.PickleBuffer(self.read()))
        return brought, (self.name, carried.add(self))

    def read(self) -> bytes:
        """Return its content; raises UnsendableError where it cannot be read."""
        try:
            return self.path.read_bytes()
        except OSError as error:
            words = error.strerror or str(error)
            raise UnsendableError(
                f"the file {self.path} cannot be read: {words}; File() takes the path of one file"
            ) from None

    def save(self, path: str | os.PathLike[str] = ".", *, force: bool = False) -> Path:
        """Copy it to `path`, or into that directory under its own name, and return where it is.

        Raises
        ------
        ConflictError
            Another file is there, and `force` is not given.
        StoreError
            It cannot be written.
        """
        target = Path(path)
        target = target / self.name if target.is_dir() else target
        with _durable.translated(target):
            if target.exists() and not force and target.read_bytes() != self.read():
                raise ConflictError(f"{target} is another file; pass force=True to replace it")
            shutil.copyfile(self.path, target)
        return target


def received(name: str, content: Any) -> File:
    """Return the file of a content that has arrived; raises StoreError."""
    return known(name, hashlib.sha256(content).hexdigest(), content)


def known(name: str, digest: str, content: Any) -> File:
    """Do as `received`, where the SHA-256 of `content` is known."""
    name = cleaned(name)
    path = directory() / f"{digest}-{name}"
    try:
        status = path.stat()
        is_there = status.st_size == memoryview(content).nbytes
        if is_there and time.time() - status.st_mtime > _USE_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path)  # the order of use
    except OSError:
        is_there = False
    if not is_there:
        paths.make_state()
        for one in (path.parent.parent, path.parent):
            make_private(one)
        _durable.write(path, content)
        with contextlib.suppress(OSError):
            path.chmod(0o400)  # the same file serves others
    found = File(path)
    found.name = name
    return found


def cleaned(name: str) -> str:
    """Return a name as a file can have it, whatever a far side has sent."""
    name = re.sub(r"[^\w.+=@, -]", "_", name) or "file"
    return name.encode("utf-8", "replace")[-_LONGEST_NAME:].decode("utf-8", "ignore")


def directory() -> Path:
    """Return where what has arrived lies."""
    return _places.planned() / "cache" / FOLDER


class Carried:
    """The contents that go along with a function, once each, for all its calls.

    With `is_far`, those that are not small go by themselves, as objects: another machine has them for good, and the
    next submission sends none of them. They are in `kept`.
    """

    def __init__(self, *, is_far: bool = False) -> None:
        self.contents: dict[str, bytes] = {}
        self.kept: dict[str, bytes] = {}
        self._is_far = is_far
        self._digests: dict[Path, str] = {}

    def add(self, file: File) -> str:
        """Take the content of a file, once; return its SHA-256."""
        if file.path not in self._digests:
            content = file.read()
            digest = self._digests[file.path] = hashlib.sha256(content).hexdigest()
            goes_alone = self._is_far and len(content) >= _ALONE_BYTES
            (self.kept if goes_alone else self.contents)[digest] = content
        return self._digests[file.path]


# What the function that runs has brought along: SHA-256 -> content.
here: Mapping[str, Any] = {}


def brought(name: str, digest: str) -> File:
    """Return the file of a content that has come with the function, or as an object; raises RecordError."""
    if digest in here:
        return known(name, digest, here[digest])
    from ports.jobs._trees import Objects  # few functions have such files

    try:
        with (
            Objects(_places.here().objects).path(digest).open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
        ):
            return known(name, digest, content)
    except (OSError, ValueError):
        raise RecordError(f"the content of the file {name} did not come along; submit the job again") from None
