"""The output of a script that had a copy of its directory: which files it is, on this machine and on another one.

What another machine says is hostile until it is looked at: a name that leads out of the directory into which it goes is
refused, and so is a link that does.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from ports.errors import FarSideError, NotFoundError, StoreError, UsageError
from ports.jobs import _durable
from ports.jobs._model import ENDED, JobId, parse_id
from ports.jobs._places import Places
from ports.jobs._workspace import FETCHED
from ports.jobs.resource import lay_out

_PIECE = 1 << 20
_FAR_PIECE = 4 << 20
_MOST_FILES = 1_000_000  # of another machine
_CACHES = ("__pycache__", ".ipynb_checkpoints")
_UNCHANGED = lay_out.STAMP * 10**9
PART = ".ports-part-"


class OutputFile(NamedTuple):
    """One file or symbolic link of the output; `path` is relative to the copy."""

    path: str
    source: str
    kind: str  # f, or l for a link
    size: int
    mtime_ns: int
    mode: int
    target: str = ""


class Output(Protocol):
    """The output of one job: its files, and their content."""

    #: Symbolic links that are left out, because they lead out of the directory.
    left_out: list[str]

    def find(self) -> list[OutputFile]:
        """Return the files at this moment, by their path; raises UsageError and NotFoundError."""

    def pieces(self, one: OutputFile, offset: int) -> Iterator[bytes]:
        """Yield the content of a file, from `offset` on; less of it where the file has changed."""

    def is_equal(self, one: OutputFile, path: Path) -> bool:
        """Say whether a file of the same size has the same content."""

    def note_fetched(self) -> None:
        """Note that all of it was fetched after the job's end."""


class Here:
    """The output of a job of this machine."""

    def __init__(self, places: Places, row: Mapping[str, Any]) -> None:
        self.places, self.row = places, row
        self.left_out: list[str] = []

    def find(self) -> list[OutputFile]:
        """Return the files at this moment; see `find`."""
        return find(self.places, self.row)

    def pieces(self, one: OutputFile, offset: int) -> Iterator[bytes]:
        """Yield the content of a file."""
        with open(one.source, "rb", buffering=0) as file:
            status = os.fstat(file.fileno())
            if _is_another(self.row, one, status.st_size, status.st_mtime_ns):
                return
            file.seek(offset)
            while data := file.read(_PIECE):
                yield data

    def is_equal(self, one: OutputFile, path: Path) -> bool:
        """Say whether a file has the same content."""
        return _digest(path) == _digest(one.source)

    def note_fetched(self) -> None:
        """Write the note: `prune` removes the output, then."""
        told = json.dumps({"format": 1, "at": time.time()}).encode()
        _durable.write(self.places.fetched(parse_id(self.row["id"])), told)


class There:
    """The output of a job of another machine, which is asked by `ask`."""

    def __init__(self, ask: Callable[..., Any], host: str, row: Mapping[str, Any]) -> None:
        self._ask, self._host, self.row = ask, host, row
        self._id = parse_id(str(row["id"]).rpartition(":")[2])
        self.left_out: list[str] = []

    def find(self) -> list[OutputFile]:
        """Return the files at this moment, without those that lead out of the directory into which they go."""
        workspace = _workspace_of(self.row, self._id)
        out = [os.path.normpath(str(one)) for one in workspace.get("out") or ()]
        listed = list(self._listed())
        if out:
            found = [one for one in listed if any(one.path == top or one.path.startswith(f"{top}/") or top == "."
                                                  for top in out)]  # fmt: skip
        else:
            given = _Given(self._read_object, str(workspace["tree"]))
            found = [one for one in listed if not (one.mtime_ns == _UNCHANGED and one.kind == "f")]
            found = [one for one in found if one.kind != "l" or given.target(one.path) != one.target]
        self.left_out = [one.path for one in found if one.kind == "l" and leads_out(one)]
        return sorted(one for one in found if one.path not in set(self.left_out) and not _is_cache(one.path))

    def _listed(self) -> Iterator[OutputFile]:
        after, n_files = "", 0
        while True:
            told = self._ask("disk.list", id=str(self._id), below="workspace", after=after).header
            rows = told.get("files")
            if told.get("missing"):
                text = f"it is {self.row['state']} and has not begun"
                raise NotFoundError("output of job", str(self.row["id"]), text)
            if not isinstance(rows, list):
                raise FarSideError(self._host, "it answers with no list of files")
            for row in rows:
                yield _checked(self._host, row, f"work/{self._id}/workspace")
            n_files += len(rows)
            if not told.get("is_cut") or not rows or n_files > _MOST_FILES:
                return
            after = str(rows[-1][0])

    def _read_object(self, digest: str) -> bytes:
        frame = self._ask("disk.read", path=f"objects/{digest[:2]}/{digest[2:]}", offset=0, most=_FAR_PIECE)
        data = b"".join(frame.blobs)
        return data if hashlib.sha256(data).hexdigest() == digest else b""

    def pieces(self, one: OutputFile, offset: int) -> Iterator[bytes]:
        """Yield the content of a file; it ends where the file is another one by now."""
        while offset < one.size:
            most = min(_FAR_PIECE, one.size - offset)
            frame = self._ask("disk.read", path=one.source, offset=offset, most=most)
            told, data = frame.header, b"".join(frame.blobs)[:most]
            if told.get("missing") or not data or _is_another(self.row, one, told.get("size"), told.get("mtime_ns")):
                return
            yield data
            offset += len(data)

    def is_equal(self, one: OutputFile, path: Path) -> bool:
        """Say whether a file has the same content: both are read, because a file of yours is never overwritten."""
        with path.open("rb") as file:
            return all(data == file.read(len(data)) for data in self.pieces(one, 0)) and not file.read(1)

    def note_fetched(self) -> None:
        """Note it there."""
        self._ask("disk.fetched", id=str(self._id))


def _is_another(row: Mapping[str, Any], one: OutputFile, n_bytes: Any, mtime_ns: Any) -> bool:
    """Say whether a file is another one by now. One that grows while its job runs is fetched as far as it was."""
    if row["state"] not in ENDED:
        return not isinstance(n_bytes, int) or n_bytes < one.size
    return (n_bytes, mtime_ns) != (one.size, one.mtime_ns)


class _Given:
    """The links of the tree that a job got, of which only the directories are read that have some in the output."""

    def __init__(self, read: Callable[[str], bytes], tree: str) -> None:
        self._read, self._known = read, {"": self._entries(read(tree))}

    def _entries(self, data: bytes) -> dict[str, lay_out.Entry]:
        try:
            return {os.fsdecode(one.name): one for one in lay_out.load(data)}
        except lay_out.LayOutError:
            return {}  # it was removed; then links that were given count as output

    def target(self, path: str) -> str | None:
        """Return where the link `path` led."""
        folder, _, name = path.rpartition("/")
        found = self._folder(folder).get(name)
        return os.fsdecode(found.target) if found is not None and found.kind == "l" else None

    def _folder(self, path: str) -> dict[str, lay_out.Entry]:
        if path not in self._known:
            above, _, name = path.rpartition("/")
            found = self._folder(above).get(name)
            is_directory = found is not None and found.kind == "d"
            self._known[path] = self._entries(self._read(found.digest)) if found and is_directory else {}
        return self._known[path]


def _checked(host: str, row: Any, base: str) -> OutputFile:
    """Return what another machine says of a file; raises FarSideError for a name that leads out of the directory."""
    try:
        path, kind, size, mtime_ns, mode, target = row
        n_bytes, mtime_ns, mode = int(size), int(mtime_ns), int(mode)
    except (TypeError, ValueError):
        raise FarSideError(host, "it describes a file in another way than this version of ports does") from None
    parts = path.split("/") if isinstance(path, str) else [""]
    if not all(parts) or {".", ".."} & set(parts) or "\0" in path or len(path) > 4096 or n_bytes < 0:
        raise FarSideError(
            host, f"it names a file {ascii(path)[:80]}, which is outside of the output; nothing was fetched"
        )
    if os.name == "nt" and any(one in path for one in ("\\", ":")):
        raise FarSideError(host, f"it names a file {ascii(path)[:80]}, which has no name on Windows")
    if parts[-1].startswith(PART) or parts[-1] == FETCHED:
        raise FarSideError(
            host, f"it names a file {ascii(path)[:80]}, which belongs to ports here; nothing was fetched"
        )
    link = kind == "l"
    leads = str(target or "") if link else ""
    return OutputFile(path, f"{base}/{path}", "l" if link else "f", 0 if link else n_bytes, mtime_ns, mode, leads)


def leads_out(one: OutputFile) -> bool:
    """Say whether a link leads out of the directory, or can do so: what is before a ``..`` can be a link itself.

    >>> [leads_out(OutputFile("a/b", "", "l", 0, 0, 0, target)) for target in ("../c", "../../c", "c/../d")]
    [False, True, True]
    """
    parts = [part for part in one.target.split("/") if part not in ("", ".")]
    n_up = parts.count("..")
    is_far = n_up > one.path.count("/") or parts[:n_up] != [".."] * n_up
    return is_far or not one.target or one.target.startswith("/") or "\0" in one.target


def _is_cache(path: str) -> bool:
    return any(part in _CACHES for part in path.split("/")[:-1])


def _workspace_of(row: Mapping[str, Any], id: JobId) -> Mapping[str, Any]:
    """Return what the submission of a job has of its copy; raises UsageError if it had none."""
    workspace = (dict(row.get("asked") or {}).get("script") or {}).get("workspace")
    if not isinstance(workspace, Mapping):
        place = (row.get("asked") or {}).get("directory")
        verb = "runs" if row.get("state") in ("pending", "running") else "ran"
        where = f"in {place}, its files are there" if place else "without a directory of its own"
        raise UsageError(
            f"job {row['id']} has no output to fetch: it {verb} {where}; `ports job submit --copy` makes a copy"
        )
    return workspace


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
    id = parse_id(row["id"])
    workspace = _workspace_of(row, id)
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
        return one.kind == "l" and os.fsencode(one.target) == entry.target
    return one.size == entry.size and one.mtime_ns == _UNCHANGED


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
        if stat.S_ISREG(status.st_mode):
            yield OutputFile(path, source, "f", status.st_size, status.st_mtime_ns, status.st_mode)
        elif stat.S_ISLNK(status.st_mode):
            yield OutputFile(path, source, "l", 0, status.st_mtime_ns, status.st_mode, os.readlink(source))


def _digest(path: Path | str) -> bytes:
    hashed = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while data := file.read(_PIECE):
            hashed.update(data)
    return hashed.digest()


def of_another(places: Places, row: Mapping[str, Any], path: str) -> dict[str, str]:
    """Return the files of a job's output at `path` and below it, for the copy of another job.

    Raises
    ------
    UsageError
        The job has not ended, or ran in place.
    NotFoundError
        Nothing of its output is there.
    """
    return {one.path: one.source for one in chosen(row, path, lambda: find(places, row))}


def chosen(row: Mapping[str, Any], path: str, files: Callable[[], Sequence[OutputFile]]) -> list[OutputFile]:
    """Return the files of a job's output at `path` and below it; raises as `of_another`."""
    if row["state"] not in ENDED:
        raise UsageError(f"job {row['id']} is {row['state']}; its output can be reused once it has ended")
    wanted = os.path.normpath(path)
    found = [one for one in files() if wanted == "." or one.path == wanted or one.path.startswith(f"{wanted}/")]
    if not found:
        raise NotFoundError("output", f"{row['id']}/{path}", f"`ports job fetch {row['id']}` shows what there is")
    return found
