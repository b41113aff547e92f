"""The output of a script that had a copy of its directory: which files it is, and how you get them.

A file that you have already and that differs is never overwritten, unless `fetch` wrote it and you did not change it.
A file is complete or not there: half of one has a name of its own, and the next `fetch` goes on with it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports.errors import ConflictError, NotFoundError, PortsError, StoreError, UsageError
from ports.jobs import _durable
from ports.jobs._model import ENDED, JobId, parse_id
from ports.jobs._places import Places
from ports.jobs._workspace import FETCHED
from ports.jobs.resource import lay_out

_PIECE = 1 << 20
_SPARE = 16 << 20  # bytes that stay free
_PART = ".ports-part-"
_MOST_NAMED = 10
_CACHES = ("__pycache__", ".ipynb_checkpoints")


class OutputFile(NamedTuple):
    """One file of the output; `path` is relative to the copy."""

    path: str
    source: str
    status: os.stat_result


class Fetched(NamedTuple):
    """What a fetch did."""

    directory: str
    n_files: int
    n_bytes: int
    n_same: int

    def row(self, id: JobId) -> dict[str, Any]:
        """Return it as a document."""
        told = {"n_files": self.n_files, "n_bytes": self.n_bytes, "n_same": self.n_same}
        return {"kind": "job", "id": str(id), "directory": self.directory, **told}


def find(places: Places, row: Mapping[str, Any]) -> list[OutputFile]:
    """Return the files that are the output of a job at this moment, by their path.

    Parameters
    ----------
    row : mapping
        What `show` says of it.

    Raises
    ------
    UsageError
        It ran in place, or it is no script.
    NotFoundError
        It has not begun.
    """
    workspace = (dict(row.get("asked") or {}).get("script") or {}).get("workspace")
    id = parse_id(row["id"])
    if not isinstance(workspace, Mapping):
        place = (row.get("asked") or {}).get("directory")
        where = f"in {place}, its files are there" if place else "without a directory of its own"
        raise UsageError(f"job {id} has no output to fetch: it ran {where}; `ports job submit --copy` makes a copy")
    base = str(places.copy_of(id))
    if not os.path.isdir(base):
        raise NotFoundError("output of job", str(id), f"it is {row['state']} and has not begun")
    out = [str(one) for one in workspace.get("out") or ()]
    found = _below(base, out) if out else _changed(base, str(places.objects), str(workspace["tree"]))
    return sorted(found)


def _below(base: str, out: Sequence[str]) -> Iterator[OutputFile]:
    seen = set()
    for one in out:
        for path in _files(base, one):
            if path not in seen:
                seen.add(path)
                yield from _file(base, path)


def _changed(base: str, objects: str, tree: str) -> Iterator[OutputFile]:
    """Yield what was made or changed since the tree was laid out."""
    try:
        given = {os.fsdecode(path): entry for path, entry in lay_out.walk(objects, tree) if entry.kind != "d"}
    except lay_out.LayOutError as error:
        raise StoreError(objects, str(error), "") from error
    for path in _files(base, "."):
        for one in _file(base, path):
            entry = given.get(path)
            if entry is None or not _is_as_given(one, entry):
                yield one


def _is_as_given(one: OutputFile, entry: lay_out.Entry) -> bool:
    if entry.kind == "l":
        return stat.S_ISLNK(one.status.st_mode) and os.fsencode(os.readlink(one.source)) == entry.target
    return one.status.st_size == entry.size and one.status.st_mtime_ns == lay_out.STAMP * 10**9


def _files(base: str, below: str) -> Iterator[str]:
    """Yield the paths of all that is no directory below a path, which can itself be a file, or not be there."""
    top = os.path.join(base, below)
    if not os.path.isdir(top) or os.path.islink(top):
        if os.path.lexists(top):
            yield os.path.normpath(below)
        return
    for place, folders, names in os.walk(top):
        links = [name for name in folders if os.path.islink(os.path.join(place, name))]
        folders[:] = [name for name in folders if name not in _CACHES]
        for name in [*names, *links]:
            yield os.path.relpath(os.path.join(place, name), base)


def _file(base: str, path: str) -> Iterator[OutputFile]:
    source = os.path.join(base, path)
    with contextlib.suppress(FileNotFoundError):  # the job runs, and removed it
        status = os.lstat(source)
        if stat.S_ISREG(status.st_mode) or stat.S_ISLNK(status.st_mode):
            yield OutputFile(path, source, status)


def fetch(
    places: Places,
    row: Mapping[str, Any],
    to: Path | None = None,
    *,
    force: bool = False,
    progress: Callable[[int], None] = lambda n_bytes: None,
) -> Fetched:
    """Copy the output of a job into a directory.

    Parameters
    ----------
    to : Path, optional
        Default: ``job-12`` in the current directory.
    force : bool
        Overwrite files that differ.
    progress : callable
        Gets the number of bytes with each piece.

    Raises
    ------
    ConflictError
        Files are there that differ; then nothing is copied.
    StoreError
        The disk is full, or not writable. What was copied stays.
    """
    id, has_ended = parse_id(row["id"]), row["state"] in ENDED
    found = find(places, row)
    target = Path(f"job-{id}") if to is None else to
    wrote = _wrote(target)
    wanted = [one for one in found if not _is_same(one, target / one.path)]
    if not force and (differ := [one.path for one in wanted if _is_yours(target, one.path, wrote)]):
        named = ", ".join(differ[:_MOST_NAMED]) + (f" and {len(differ) - _MOST_NAMED} more" if differ[10:] else "")
        raise ConflictError(f"{target} has other files of the same name: {named}; --force overwrites them")
    try:
        target.mkdir(parents=True, exist_ok=True)
        if n_bytes := sum(one.status.st_size for one in wanted):
            _durable.check_room(target, n_bytes, spare=_SPARE, hint="name another directory with --to")
        _note(target, id, wrote)
        try:
            for one in wanted:
                _copy(one, target, progress)
                status = os.lstat(target / one.path)
                wrote[one.path] = [status.st_size, status.st_mtime_ns]
        finally:
            _note(target, id, wrote)
    except OSError as error:
        path = error.filename or target
        raise StoreError(path, error.strerror or str(error), f"`ports job fetch {id}` goes on then") from error
    if has_ended:
        with contextlib.suppress(PortsError, OSError):  # `prune` keeps it, then
            _durable.sync(_written(target, found))  # those of an earlier `fetch` that was interrupted, too
            _durable.write(places.fetched(id), json.dumps({"format": 1, "at": time.time()}).encode())
    return Fetched(str(target), len(wanted), sum(one.status.st_size for one in wanted), len(found) - len(wanted))


def _written(target: Path, found: Sequence[OutputFile]) -> list[Path]:
    """Return the files of a fetch, and the directories that have their names."""
    files = [target / one.path for one in found if stat.S_ISREG(one.status.st_mode)]
    names = {target, target.absolute().parent}
    for one in found:
        names |= {target / place for place in Path(one.path).parents}
    return [*files, *sorted(names)]


def _wrote(target: Path) -> dict[str, list[int]]:
    """Return size and time of what earlier fetches wrote there."""
    try:
        found = json.loads((target / FETCHED).read_text(encoding="utf-8"))["files"]
        return {str(path): list(row) for path, row in found.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}


def _note(target: Path, id: JobId, wrote: Mapping[str, list[int]]) -> None:
    told = {"format": 1, "job": str(id), "files": wrote}
    _durable.write(target / FETCHED, json.dumps(told).encode(), is_synced=False)


def _is_same(one: OutputFile, path: Path) -> bool:
    """Say whether this file is there already: the same size and time, or the same content."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    if stat.S_IFMT(status.st_mode) != stat.S_IFMT(one.status.st_mode):
        return False
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path) == os.readlink(one.source)
    if status.st_size != one.status.st_size:
        return False
    return status.st_mtime_ns == one.status.st_mtime_ns or _digest(path) == _digest(one.source)


def _digest(path: Path | str) -> bytes:
    hashed = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_PIECE):
            hashed.update(data)
    return hashed.digest()


def _is_yours(target: Path, path: str, wrote: Mapping[str, list[int]]) -> bool:
    """Say whether something is there that `fetch` did not write, or that was changed since."""
    try:
        status = os.lstat(target / path)
    except FileNotFoundError:
        return False
    except NotADirectoryError:
        return True
    return wrote.get(path) != [status.st_size, status.st_mtime_ns]


def _copy(one: OutputFile, target: Path, progress: Callable[[int], None]) -> None:
    path = target / one.path
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.parent.resolve().is_relative_to(target.resolve()):
        raise ConflictError(
            f"{path.parent} leads out of {target}; remove that link, or name another directory with --to"
        )
    if path.is_dir() and not path.is_symlink():
        raise ConflictError(f"{path} is a directory, and a file in the output; remove it, or name another with --to")
    if stat.S_ISLNK(one.status.st_mode):
        part = path.with_name(f"{_PART}{os.urandom(8).hex()}")
        part.symlink_to(os.readlink(one.source))
        part.replace(path)
        return
    with open(one.source, "rb", buffering=0) as here:
        status = os.fstat(here.fileno())
        named = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]
        part = path.with_name(f"{_PART}{named}-{status.st_size}-{status.st_mtime_ns}")
        for old in path.parent.glob(f"{_PART}{named}-*"):
            if old != part:
                old.unlink()
        _pour(here, part, status.st_size, progress)
    shutil.copymode(one.source, part)
    os.utime(part, ns=(status.st_atime_ns, status.st_mtime_ns))
    part.replace(path)


def _pour(here: Any, part: Path, n_bytes: int, progress: Callable[[int], None]) -> None:
    """Copy a file to `part`, from where an interrupted copy stopped."""
    with part.open("ab", buffering=0) as there:
        done = os.fstat(there.fileno()).st_size
        if done > n_bytes:
            there.truncate(done := 0)
        here.seek(done)
        while done < n_bytes and (data := here.read(min(_PIECE, n_bytes - done))):
            view = memoryview(data)
            while view:
                view = view[there.write(view) :]
            done += len(data)
            progress(len(data))


def of_another(places: Places, row: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return the files of a job's output at `path` and below it, for the copy of another job.

    Raises
    ------
    UsageError
        The job has not ended, or ran in place.
    NotFoundError
        Nothing of its output is there.
    """
    if row["state"] not in ENDED:
        raise UsageError(f"job {row['id']} is {row['state']}; its output can be reused once it has ended")
    wanted = os.path.normpath(path)
    found = {
        one.path: one.source
        for one in find(places, row)
        if wanted == "." or one.path == wanted or one.path.startswith(f"{wanted}/")
    }
    if not found:
        raise NotFoundError("output", f"{row['id']}/{path}", f"`ports job fetch {row['id']}` shows what there is")
    return found
