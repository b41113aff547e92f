"""Trees of files as objects: a snapshot of a directory, written so that a power cut does not undo it.

What was read before and has the same size, times and inode is not read again (`seen/`, one file for each directory
that was copied). `generation` changes when objects were removed: what was seen before then need not be there any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports.errors import StoreError, UsageError
from ports.jobs import _durable, _workspace
from ports.jobs._workspace import Selection
from ports.jobs.resource import lay_out
from ports.jobs.resource.lay_out import STAMP, Entry

_FORMAT = 2
_LINK = "link"  # in the place of a digest
_PIECE = 1 << 20
_SPARE = 64 << 20  # bytes that stay free
_RACY = 2 * 10**9  # ns: a file that changed so shortly before it was read can change again within the same time
_TRIES = 3
_FULL = "remove jobs with `ports job prune --older 7d`, or name what can stay behind in .portsignore"


class _Seen(NamedTuple):
    """A file as it was when it was read. `digest` is empty for a private key."""

    size: int
    mtime: int
    ctime: int
    inode: int
    digest: str

    def is_of(self, status: os.stat_result) -> bool:
        return self[:4] == (status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino)


class _Before(NamedTuple):
    """What was read in a directory before: rows of `_Seen` by path, and the tree and the generation of objects then."""

    files: dict[str, list[Any]]
    empty: list[str]
    tree: str
    generation: str | None

    def of(self, path: str, status: os.stat_result) -> _Seen | None:
        """Return a file as it was read; None if it has changed since."""
        row = self.files.get(path)
        if row is None or len(row) != len(_Seen._fields):
            return None
        one = _Seen(*row)
        return one if one.is_of(status) else None

    def is_all_of(self, found: Selection) -> bool:
        """Say whether nothing changed, and no file was left out. It is quick: the whole tree is not built again."""
        if len(found.files) != len(self.files) or list(found.empty) != self.empty:
            return False
        try:
            for path, status in found.files.items():
                size_, mtime, ctime, inode, digest = self.files[path]
                if (
                    mtime != status.st_mtime_ns
                    or size_ != status.st_size
                    or ctime != status.st_ctime_ns
                    or inode != status.st_ino
                    or not digest
                ):
                    return False
        except (KeyError, ValueError, TypeError):
            return False
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A directory as objects: `sources` has the file for each, `directories` the content of those of directories.

    `selection` is what went along; private keys that were found while reading are not in it. If the tree `is_known`,
    nothing changed since the last snapshot, and all objects are there: `sources` and `directories` can be empty then.
    """

    digest: str
    selection: Selection
    sources: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)  # (kind, digest) -> path
    directories: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    is_known: bool
    is_noted: bool
    seen: Mapping[str, _Seen] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Objects:
    """The directory of objects."""

    root: Path

    @property
    def generation(self) -> Path:
        """File whose content changes when objects were removed."""
        return self.root / "generation"

    def path(self, digest: str, kind: str = "f") -> Path:
        """Return the file of an object."""
        return Path(lay_out.path_of(str(self.root), digest, kind))

    def seen(self, directory: str) -> Path:
        """Return the file that says what was read in a directory."""
        return self.root / "seen" / hashlib.sha256(os.fsencode(directory)).hexdigest()[:32]

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Keep objects from being removed, until a submission that needs them is noted."""
        with self._locked(is_shared=True):
            yield

    @contextlib.contextmanager
    def _locked(self, *, is_shared: bool) -> Iterator[None]:
        import fcntl  # not on Windows

        with _durable.translated(self.root):
            descriptor = os.open(self.root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH if is_shared else fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # --- reading a directory ---

    def read(self, found: Selection) -> Tree:
        """Read what goes along, and return it as a tree; nothing is written.

        Raises
        ------
        UsageError
            A file cannot be read, or it changes again and again while it is read.
        """
        before = self._before(found.root)
        is_current = before.generation is not None and before.generation == self._generation()
        if is_current and before.is_all_of(found):
            return Tree(digest=before.tree, selection=found, is_known=True, is_noted=True)
        now, seen, keys, read = time.time_ns(), {}, [], {}
        for path, status in found.files.items():
            one = before.of(path, status)
            if stat.S_ISLNK(status.st_mode):
                one = _Seen(*_times(status), _LINK)
            elif one is None or (not one.digest and path in found.meant):
                one = _read(found, path)
            if not one.digest:
                keys.append(path)
            if max(one.mtime, one.ctime) < now - _RACY:
                seen[path] = one
            read[path] = one
        found = found.without(keys) if keys else found
        directories, digest = _directories(found, read)
        sources = {
            (_kind(status), read[path].digest): path
            for path, status in found.files.items()
            if not stat.S_ISLNK(status.st_mode)
        }
        is_known = is_current and digest == before.tree
        return Tree(
            digest=digest,
            selection=found,
            sources=sources,
            directories=directories,
            is_known=is_known,
            is_noted=is_known and seen.keys() <= before.files.keys(),
            seen=seen,
        )

    def _generation(self) -> str | None:
        try:
            return self.generation.read_text()
        except OSError:
            return None

    def _before(self, root: str) -> _Before:
        """Return what was read in a directory before."""
        try:
            found = json.loads(self.seen(root).read_text(encoding="utf-8"))
            if found["format"] != _FORMAT:
                raise ValueError
            return _Before(dict(found["files"]), list(found["empty"]), str(found["tree"]), str(found["generation"]))
        except (OSError, ValueError, KeyError, TypeError):
            return _Before({}, [], "", None)  # never copied, or half written: everything is read

    # --- writing ---

    def missing(self, tree: Tree) -> tuple[dict[tuple[str, str], str], dict[str, bytes]]:
        """Return what of a tree is not among the objects: files by kind and digest, and directories."""
        if tree.is_known:
            return {}, {}
        there = self._there()
        files = {key: path for key, path in tree.sources.items() if _name(*key) not in there}
        directories = {digest: data for digest, data in tree.directories.items() if digest not in there}
        return files, directories

    def _there(self) -> set[str]:
        found = set()
        for number in range(256):
            with contextlib.suppress(OSError):
                found |= {f"{number:02x}{name}" for name in os.listdir(self.root / f"{number:02x}")}
        return found

    def write(self, tree: Tree) -> int:
        """Write the objects that are missing, and return their size; none of them is there half.

        Raises
        ------
        StoreError
            The disk is full, or not writable.
        UsageError
            A file changed since it was read.
        """
        files, directories = self.missing(tree)
        n_bytes = sum(tree.selection.files[path].st_size for path in files.values())
        n_bytes += sum(map(len, directories.values()))
        if files or directories:
            _durable.check_room(self.root, n_bytes, len(files) + len(directories), spare=_SPARE, hint=_FULL)
            try:
                self._write(tree, files, directories)
            except OSError as error:
                raise StoreError(self.root, error.strerror or str(error), _FULL) from error
        if not tree.is_noted:
            self._note(tree)
        return n_bytes

    def _write(self, tree: Tree, files: Mapping[tuple[str, str], str], directories: Mapping[str, bytes]) -> None:
        with self._staging() as staging:
            made: dict[str, Path] = {}
            for (kind, digest), path in files.items():
                made[_name(kind, digest)] = target = staging / _name(kind, digest)
                if _copied(tree.selection.source(path), target) != digest:
                    raise _Changed(path)
                _seal(target, kind)
            for digest, data in directories.items():
                made[digest] = target = staging / digest
                target.write_bytes(data)
                _seal(target, "f")
            self._move(made)

    def _move(self, made: Mapping[str, Path]) -> None:
        """Put whole objects in their places, so that they outlast a power cut."""
        _durable.sync(made.values())
        folders = {name[:2] for name in made}
        for folder in folders:
            (self.root / folder).mkdir(mode=0o700, exist_ok=True)
        for name, whole in made.items():
            whole.replace(self.root / name[:2] / name[2:])
        for folder in folders:
            _durable.sync_directory(self.root / folder)
        _durable.sync_directory(self.root)

    def put(self, data: bytes) -> str:
        """Write one object, and return its SHA-256; raises StoreError."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if not path.exists():
            try:
                with self._staging() as staging:
                    (staging / digest).write_bytes(data)
                    _seal(staging / digest, "f")
                    self._move({digest: staging / digest})
            except OSError as error:
                raise StoreError(self.root, error.strerror or str(error), _FULL) from error
        return digest

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """Make a directory for objects that are not whole yet; what a killed process left is removed first."""
        for old in self.root.glob(".staging-*"):
            with contextlib.suppress(OSError), _held(old):
                shutil.rmtree(old, ignore_errors=True)
        staging = self.root / f".staging-{os.urandom(8).hex()}"
        staging.mkdir(mode=0o700)
        try:
            with _held(staging):
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _note(self, tree: Tree) -> None:
        """Note what was read, for the next time; without it, everything is read again."""
        generation = self._generation()
        if generation is None:
            generation = os.urandom(8).hex()
            _durable.write(self.generation, generation.encode(), is_synced=False)
        told = {"format": _FORMAT, "tree": tree.digest, "generation": generation, "files": tree.seen}
        told["empty"] = tree.selection.empty
        path = self.seen(tree.selection.root)
        with contextlib.suppress(StoreError, OSError):
            path.parent.mkdir(mode=0o700, exist_ok=True)
            _durable.write(path, json.dumps(told, separators=(",", ":")).encode(), is_synced=False)

    # --- removing ---

    def sweep(self, needed: Callable[[], tuple[Sequence[str], Sequence[str]]]) -> int:
        """Remove all objects that are not `needed`, and return their size; it waits for what is being submitted.

        Parameters
        ----------
        needed : callable
            Returns the trees, and other objects; called once nothing is being submitted.
        """
        n_bytes = 0
        with self._locked(is_shared=False):
            trees, others = needed()
            kept = set(others)
            for tree in trees:
                self._mark(tree, kept)
            unused = self._there() - kept
            if unused:
                self.generation.unlink(missing_ok=True)
            for name in unused:
                path = self.root / name[:2] / name[2:]
                with contextlib.suppress(OSError):
                    n_bytes += path.stat().st_size
                    path.unlink()
        return n_bytes

    def _mark(self, digest: str, needed: set[str]) -> None:
        if digest in needed:
            return
        needed.add(digest)
        with contextlib.suppress(lay_out.LayOutError):  # a tree that is damaged cannot be laid out either
            for entry in lay_out.read(str(self.root), digest):
                if entry.kind == "d":
                    self._mark(entry.digest, needed)
                elif entry.kind != "l":
                    needed.add(_name(entry.kind, entry.digest))


class _Changed(UsageError):
    """A file changed after it was read."""

    def __init__(self, path: str) -> None:
        super().__init__(path)
        self.path = path

    def __str__(self) -> str:
        return f"{self.path} changes while it is read; submit again once it is whole, or name it in .portsignore"


def snapshot(objects: Objects, find: Any) -> tuple[Tree, int]:
    """Write the directory that `find` selects as objects; return the tree, and the bytes that were new.

    Parameters
    ----------
    find : callable
        Returns the selection; it is called again if a file changed meanwhile.

    Raises
    ------
    UsageError
        A file cannot be read, or changes again and again.
    StoreError
        The disk is full, or not writable.
    """
    for left in range(_TRIES - 1, -1, -1):
        try:
            tree = objects.read(find())
            return tree, objects.write(tree)
        except _Changed:
            if not left:
                raise
    raise AssertionError


def _name(kind: str, digest: str) -> str:
    return f"{digest}.x" if kind == "x" else digest


def _kind(status: os.stat_result) -> str:
    return "x" if status.st_mode & 0o100 else "f"


def _read(found: Selection, path: str) -> _Seen:
    """Read one file; raises UsageError if that is not possible."""
    for _ in range(_TRIES):
        try:
            with open(found.source(path), "rb", buffering=0, opener=_no_link) as file:
                before, hashed, first = os.fstat(file.fileno()), hashlib.sha256(), b""
                while data := file.read(_PIECE):
                    hashed.update(data)
                    first = first or data
                after = os.fstat(file.fileno())
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read ({error.strerror}); name it in .portsignore if the script does not need it"
            ) from error
        if _Seen(*_times(before), "").is_of(after):
            is_key = path not in found.meant and _workspace.can_be_key(after.st_size) and _workspace.is_key(first)
            return _Seen(*_times(after), "" if is_key else hashed.hexdigest())
    raise _Changed(path)


def _times(status: os.stat_result) -> tuple[int, int, int, int]:
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino


def _no_link(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)


def _directories(found: Selection, seen: Mapping[str, _Seen]) -> tuple[dict[str, bytes], str]:
    """Return all directories as objects, and the SHA-256 of the whole tree."""
    inside: dict[str, list[Entry]] = {"": []}
    for path in found.empty:
        _folder(inside, path)
    for path, status in found.files.items():
        folder, _, name = path.rpartition("/")
        if stat.S_ISLNK(status.st_mode):
            target = os.fsencode(os.readlink(found.source(path)))
            entry = Entry("l", "", len(target), os.fsencode(name), target)
        else:
            entry = Entry(_kind(status), seen[path].digest, seen[path].size, os.fsencode(name))
        _folder(inside, folder).append(entry)
    made: dict[str, bytes] = {}
    for folder in sorted(inside, key=lambda one: one.count("/") + bool(one), reverse=True):
        data = lay_out.dump(inside[folder])
        digest = hashlib.sha256(data).hexdigest()
        made[digest] = data
        if not folder:
            return made, digest
        parent, _, name = folder.rpartition("/")
        total = sum(entry.size for entry in inside[folder])
        inside[parent].append(Entry("d", digest, total, os.fsencode(name)))
    raise AssertionError("a tree has a root")


def _folder(inside: dict[str, list[Entry]], path: str) -> list[Entry]:
    if path not in inside:
        inside[path] = []
        _folder(inside, path.rpartition("/")[0])
    return inside[path]


def _copied(source: str, target: Path) -> str:
    """Copy a file, and return the SHA-256 of what was copied."""
    hashed = hashlib.sha256()
    try:
        opened = open(source, "rb", buffering=0, opener=_no_link)  # noqa: SIM115 - its errors are another's than the target's
    except OSError as error:
        raise _Changed(source) from error
    with opened as here, target.open("xb", buffering=0) as there:
        while data := here.read(_PIECE):
            hashed.update(data)
            view = memoryview(data)
            while view:
                view = view[there.write(view) :]
    return hashed.hexdigest()


def _seal(path: Path, kind: str) -> None:
    """Make an object read-only, with the time that shows that nobody changed it."""
    path.chmod(0o500 if kind == "x" else 0o400)
    os.utime(path, (STAMP, STAMP))


@contextlib.contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Hold the lock of a directory; raises BlockingIOError if another process does."""
    import fcntl

    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)
