"""`ports job fetch`: output goes into a directory of yours, and nothing of yours is lost.

A file that you have already and that differs is never overwritten, unless `fetch` wrote it and you did not change it.
A file is complete or not there: half of one has a name of its own, with size and time of the whole, and the next
`fetch` goes on with it. No link is followed on the way to a file, and no directory of another person is written to.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports.errors import ConflictError, PortsError, StoreError, UsageError
from ports.jobs import _durable
from ports.jobs._model import ENDED
from ports.jobs._outputs import PART, Output, OutputFile
from ports.jobs._workspace import FETCHED
from ports.probe import sent, size

_SPARE = 16 << 20  # bytes that stay free
_MOST_NAMED = 10
_TO = "name another directory with --to"
_SILENT, _EVERY = 3.0, 5.0  # seconds without a word, and between two lines


class Fetched(NamedTuple):
    """What a fetch did. Files that changed while they were read are `n_changed`: they were left out."""

    directory: str
    n_files: int
    n_bytes: int
    n_same: int
    n_changed: int
    left_out: tuple[str, ...]

    def row(self, id: object) -> dict[str, Any]:
        """Return it as a document."""
        told = {"n_files": self.n_files, "n_bytes": self.n_bytes, "n_same": self.n_same, "n_changed": self.n_changed}
        return {"kind": "job", "id": str(id), "directory": self.directory, **told, "left_out": list(self.left_out)}


def fetch(
    output: Output,
    row: Mapping[str, Any],
    to: Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda n_bytes: None,
    say: Callable[[str], object] = lambda text: None,
) -> Fetched:
    """Copy the output of a job into a directory.

    Parameters
    ----------
    row : mapping
        What `show` says of the job.
    to : Path, optional
        Default: ``job-12`` in the current directory.
    force : bool
        Overwrite files that differ.
    progress : callable
        Gets the number of bytes with each piece.
    say : callable
        Gets a line now and then about how far it is, from 3 s on.

    Raises
    ------
    ConflictError
        Files are there that differ, or the directory is another person's; then nothing is copied.
    StoreError
        The disk is full, or not writable. What was copied stays.
    UsageError
        It is a map of functions.
    """
    if row.get("count") is not None:
        raise UsageError(f"{row['id']} is a map of functions, which have results; `ports.jobs.get(...)` has them")
    found = output.find()
    target = Path(f"job-{str(row['id']).replace(':', '-')}") if to is None else to
    if not found and not os.path.lexists(target):  # no directory is made for nothing
        if row["state"] in ENDED:
            with contextlib.suppress(PortsError, OSError):
                output.note_fetched()
        return Fetched(str(target), 0, 0, 0, 0, tuple(output.left_out))
    _make(target, row)
    wrote = _wrote(target)
    wanted = [one for one in found if not _is_same(output, one, target / one.path)]
    if not force and (differ := [one.path for one in wanted if _is_yours(target, one.path, wrote)]):
        named = ", ".join(differ[:_MOST_NAMED]) + (f" and {len(differ) - _MOST_NAMED} more" if differ[10:] else "")
        raise ConflictError(f"{target} has other files of the same name: {named}; --force overwrites them")
    n_bytes = sum(one.size for one in wanted)
    counted = _Progress(n_bytes, progress, say)
    changed = _copy_all(output, wanted, target, row, wrote=wrote, progress=counted)
    if row["state"] in ENDED and not changed:
        with contextlib.suppress(PortsError, OSError):  # `prune` keeps it, then
            sent.sync_files(_written(target, found))  # those of an earlier `fetch` that was interrupted, too
            output.note_fetched()
    n_bytes -= sum(one.size for one in changed)
    n_files, n_same = len(wanted) - len(changed), len(found) - len(wanted)
    return Fetched(str(target), n_files, n_bytes, n_same, len(changed), tuple(output.left_out))


def _copy_all(
    output: Output,
    wanted: Sequence[OutputFile],
    target: Path,
    row: Mapping[str, Any],
    *,
    wrote: dict[str, list[int]],
    progress: _Progress,
) -> list[OutputFile]:
    """Copy files, note what was written, and return those that changed meanwhile; raises StoreError."""
    changed: list[OutputFile] = []
    _check_owner(target)  # the comparison took a while
    with _translated(target, row):
        mask = _mask(target)
        if progress.total:
            _durable.check_room(target, progress.total, spare=_SPARE, hint=_TO)
        _note(target, row, wrote)
        try:
            for one in wanted:
                if not _copy(output, one, target, mask=mask, progress=progress.add):
                    changed.append(one)
                    continue
                status = (target / one.path).lstat()
                wrote[one.path] = [status.st_size, status.st_mtime_ns]
        finally:
            _note(target, row, wrote)
    return changed


@contextlib.contextmanager
def _translated(target: Path, row: Mapping[str, Any]) -> Iterator[None]:
    """Raise StoreError for what the disk refuses."""
    try:
        yield
    except OSError as error:
        path = error.filename or target
        raise StoreError(path, error.strerror or str(error), f"`ports job fetch {row['id']}` goes on then") from error


class _Progress:
    """How far a fetch is, with a line from time to time."""

    def __init__(self, total: int, progress: Callable[[int], None], say: Callable[[str], object]) -> None:
        self.total, self._progress, self._say = total, progress, say
        self._done, self._next = 0, time.monotonic() + _SILENT

    def add(self, n_bytes: int) -> None:
        """Note that so much more is there."""
        self._done += n_bytes
        self._progress(n_bytes)
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + _EVERY
            self._say(f"fetched {size(self._done)} of {size(self.total)}")


def _make(target: Path, row: Mapping[str, Any]) -> None:
    """Make a directory, before anything is compared with what is in it; raises ConflictError if it is another's."""
    with _translated(target, row):
        missing = [one for one in (target, *target.parents) if not os.path.lexists(one)]
        for place in reversed(missing):
            with contextlib.suppress(FileExistsError):  # somebody was faster: whose is it?
                place.mkdir()
            _check_owner(place)
        _check_owner(target)
        if not target.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(target))


def _mask(target: Path) -> int:
    """Return the bits of a mode that new files in a directory can have: the umask cannot be asked without being set."""
    path = target / f"{PART}{os.urandom(8).hex()}"
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o777)
    try:
        return stat.S_IMODE(os.fstat(descriptor).st_mode)
    finally:
        os.close(descriptor)
        path.unlink()


def _check_owner(target: Path) -> None:
    """Raise ConflictError if a directory that is there is another person's, or a link of another person leads there."""
    if not hasattr(os, "getuid"):
        return
    with contextlib.suppress(FileNotFoundError, NotADirectoryError):
        for status in (target.lstat(), target.stat()):
            if status.st_uid != os.getuid():
                raise ConflictError(f"{target} belongs to uid {status.st_uid}, not to you; {_TO}")


def _written(target: Path, found: Sequence[OutputFile]) -> list[str]:
    """Return the files of a fetch, and the directories that have their names."""
    files = [target / one.path for one in found if one.kind == "f"]
    names = {target, target.absolute().parent}
    for one in found:
        names |= {target / place for place in Path(one.path).parents}
    return [str(one) for one in (*files, *sorted(names))]


def _wrote(target: Path) -> dict[str, list[int]]:
    """Return size and time of what earlier fetches wrote there."""
    try:
        found = json.loads((target / FETCHED).read_text(encoding="utf-8"))["files"]
        return {str(path): list(row) for path, row in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _note(target: Path, row: Mapping[str, Any], wrote: Mapping[str, list[int]]) -> None:
    told = {"format": 1, "job": str(row["id"]), "files": wrote}
    _durable.write(target / FETCHED, json.dumps(told).encode(), is_synced=False)


def _is_same(output: Output, one: OutputFile, path: Path) -> bool:
    """Say whether this file is there already: the same size and time, or the same content."""
    try:
        status = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_ISLNK(status.st_mode):
        return one.kind == "l" and os.readlink(path) == one.target
    if one.kind == "l" or not stat.S_ISREG(status.st_mode) or status.st_size != one.size:
        return False
    return status.st_mtime_ns == one.mtime_ns or output.is_equal(one, path)


def _is_yours(target: Path, path: str, wrote: Mapping[str, list[int]]) -> bool:
    """Say whether something is there that `fetch` did not write, or that was changed since."""
    try:
        status = (target / path).lstat()
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True
    return wrote.get(path) != [status.st_size, status.st_mtime_ns]


def _copy(output: Output, one: OutputFile, target: Path, *, mask: int, progress: Callable[[int], None]) -> bool:
    """Put one file in its place; return False if it changed while it was read."""
    path = target / one.path
    _make_parents(target, one.path)
    if path.is_dir() and not path.is_symlink():
        raise ConflictError(f"{path} is a directory, and a file in the output; remove it, or name another with --to")
    if one.kind == "l":
        part = path.with_name(f"{PART}{os.urandom(8).hex()}")
        part.symlink_to(one.target)
        part.replace(path)
        return True
    named = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
    part = path.with_name(f"{PART}{named}-{one.size}-{one.mtime_ns}")
    for old in path.parent.glob(f"{PART}{named}-*"):
        if old != part:
            old.unlink()
    if not _pour(output, one, part, progress):
        part.unlink()
        return False
    part.chmod(one.mode & mask & 0o777)
    os.utime(part, ns=(one.mtime_ns, one.mtime_ns))
    part.replace(path)
    return True


def _make_parents(target: Path, path: str) -> None:
    """Make the directories on the way to a file; raises ConflictError where a link is on it."""
    place = target
    for part in Path(path).parent.parts:
        place /= part
        with contextlib.suppress(FileExistsError):
            place.mkdir()
        if place.is_symlink():
            raise ConflictError(
                f"{place} is a link, and a directory in the output; remove it, or name another directory with --to"
            )


def _pour(output: Output, one: OutputFile, part: Path, progress: Callable[[int], None]) -> bool:
    """Copy a file to `part`, from where an interrupted copy stopped; return False if it changed."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(part, flags, 0o600)
    try:
        done = os.fstat(descriptor).st_size
        if done > one.size:
            os.ftruncate(descriptor, done := 0)
        for data in output.pieces(one, done):
            view = memoryview(data)[: one.size - done]
            done += len(view)
            while view:
                view = view[os.write(descriptor, view) :]
            progress(len(data))
    finally:
        os.close(descriptor)
    return done == one.size
