"""Trees of files as objects: a snapshot of a directory, written so that a power cut does not undo it.

What was read before and has the same size, times and inode is not read again (`seen/`, one file for each directory
that was copied). `generation` changes when objects were removed: what was seen before then need not be there any more.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import os
import shutil
import stat
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ports.errors import StoreError, UsageError
from ports.jobs import _durable, _seen, _workspace
from ports.jobs._seen import Before, Row
from ports.jobs._workspace import Selection
from ports.jobs.resource import lay_out
from ports.jobs.resource.lay_out import Entry
from ports.probe import sent

_PIECE = 1 << 20
_SPARE = 64 << 20  # bytes that stay free
_RACY = 2 * 10**9  # ns: a file that changed so shortly before it was read can change again within the same time
_TRIES = 3
_UNLOCKED = 600.0  # seconds; who makes a directory of objects locks it much sooner
_FEW = 1_000  # objects that are looked for one by one
_FULL = "remove jobs with `ports job prune --older 7d`, or name what can stay behind in .portsignore"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tree:
    """A directory as objects: `sources` has the file for each, `directories` the content of those of directories.

    `selection` is what went along; private keys that were found while reading are not in it. If the tree `is_known`,
    nothing changed since the last snapshot, and all objects are there. If it `is_partial`, `sources` and `directories`
    have only what changed since then.
    """

    digest: str
    selection: Selection
    sources: Mapping[tuple[str, str], str] = dataclasses.field(default_factory=dict)  # (kind, digest) -> path
    directories: Mapping[str, bytes] = dataclasses.field(default_factory=dict)
    is_known: bool
    is_noted: bool
    is_partial: bool
    seen: Before = dataclasses.field(default_factory=Before)


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

    def read(self, found: Selection, *, is_here: bool = True, quick: bool = True) -> Tree:
        """Read what goes along, and return it as a tree; nothing is written.

        Parameters
        ----------
        is_here : bool
            Its objects are to be here. Else it is known without them: they are another machine's.
        quick : bool
            Where nothing changed, return the tree of before, without its parts.

        Raises
        ------
        UsageError
            A file cannot be read, or it changes again and again while it is read.
        """
        before = _seen.load(self.seen(found.root))
        is_current = bool(before.generation) and before.generation == self._generation()
        is_partial = quick and bool(before.tree) and (is_current or not is_here)
        changes = before.changes(found)
        if is_partial and changes.is_none:
            return Tree(digest=before.tree, selection=found, is_known=is_current, is_noted=True, is_partial=True)
        now, rows = time.time_ns(), dict(before.files)
        for path in rows.keys() - found.files.keys():
            del rows[path]
        fresh = {path: _row(found, path) for path in changes.changed}
        rows.update(fresh)
        keys = [path for path, row in rows.items() if not row[4]]
        found = found.without(keys) if keys else found
        made, digest, folders = _directories(found, rows, changes.directories if is_partial else None, before)
        sources = {
            (_kind(found.files[path]), rows[path][4]): path
            for path in (fresh if is_partial else found.files)
            if rows[path][4] not in ("", _seen.LINK)
        }
        racy = [path for path, row in fresh.items() if max(row[1], row[2]) >= now - _RACY]
        for path in racy:
            del rows[path]
        is_known = is_current and digest == before.tree
        return Tree(
            digest=digest,
            selection=found,
            sources=sources,
            directories=made,
            is_known=is_known,
            is_noted=is_known and len(racy) == len(fresh),
            is_partial=is_partial,
            seen=Before(rows, found.empty, digest, None, folders),
        )

    def _generation(self) -> str | None:
        try:
            return self.generation.read_text()
        except OSError:
            return None

    # --- writing ---

    def missing(self, tree: Tree) -> tuple[dict[tuple[str, str], str], dict[str, bytes]]:
        """Return what of a tree is not among the objects: files by kind and digest, and directories."""
        if tree.is_known:
            return {}, {}
        there = self._there([object_name(*key) for key in tree.sources], tree.directories)
        files = {key: path for key, path in tree.sources.items() if object_name(*key) not in there}
        directories = {digest: data for digest, data in tree.directories.items() if digest not in there}
        return files, directories

    def _there(self, *names: Collection[str]) -> set[str]:
        """Return those of some objects that are there; of many, all that are."""
        if sum(map(len, names)) <= _FEW:
            return {name for some in names for name in some if (self.root / name[:2] / name[2:]).exists()}
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
            self.note(tree)
        return n_bytes

    def _write(self, tree: Tree, files: Mapping[tuple[str, str], str], directories: Mapping[str, bytes]) -> None:
        with self._staging() as staging:
            made: dict[str, Path] = {}
            for (kind, digest), path in files.items():
                made[object_name(kind, digest)] = target = staging / object_name(kind, digest)
                if _copied(tree.selection.source(path), target) != digest:
                    raise ChangedError(path)
            for digest, data in directories.items():
                made[digest] = target = staging / digest
                target.write_bytes(data)
            self._move(made)

    def _move(self, made: Mapping[str, Path]) -> None:
        """Put whole objects in their places, so that they outlast a power cut."""
        sent.move_objects(str(self.root), {name: str(path) for name, path in made.items()})

    def put(self, data: bytes) -> str:
        """Write one object, and return its SHA-256; raises StoreError."""
        digest = hashlib.sha256(data).hexdigest()
        path = self.path(digest)
        if not path.exists():
            try:
                with self._staging() as staging:
                    (staging / digest).write_bytes(data)
                    self._move({digest: staging / digest})
            except OSError as error:
                raise StoreError(self.root, error.strerror or str(error), _FULL) from error
        return digest

    @contextlib.contextmanager
    def _staging(self) -> Iterator[Path]:
        """Make a directory for objects that are not whole yet; what a killed process left is removed first."""
        for old in self.root.glob(".staging-*"):
            with contextlib.suppress(OSError):
                if time.time() - old.stat().st_mtime > _UNLOCKED:
                    with _held(old):
                        shutil.rmtree(old, ignore_errors=True)
        staging = self.root / f".staging-{os.urandom(8).hex()}"
        staging.mkdir(mode=0o700)
        try:
            with _held(staging):
                yield staging
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def note(self, tree: Tree, *, is_here: bool = True) -> None:
        """Note what was read, for the next time; without it, everything is read again."""
        generation = self._generation() if is_here else ""
        if generation is None:
            generation = os.urandom(8).hex()
            _durable.write(self.generation, generation.encode(), is_synced=False)
        _seen.save(self.seen(tree.selection.root), dataclasses.replace(tree.seen, generation=generation))


class ChangedError(UsageError):
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
        except ChangedError:
            if not left:
                raise
    raise AssertionError


def with_entries(tree: Tree, entries: Mapping[str, Entry]) -> Tree:
    """Return a tree with files and links that are objects already, by their path; it needs all its `directories`.

    Raises
    ------
    UsageError
        A directory of the tree is where one of them goes.
    """
    if not entries:
        return tree
    made: dict[str, bytes] = {}
    parts = {tuple(path.split("/")): one for path, one in entries.items()}
    digest = _grafted(tree.digest, parts, tree.directories, made).digest
    return dataclasses.replace(tree, digest=digest, directories={**tree.directories, **made}, is_known=False)


def _grafted(
    digest: str, entries: Mapping[tuple[str, ...], Entry], directories: Mapping[str, bytes], made: dict[str, bytes]
) -> Entry:
    """Add a directory that also has `entries` to those that are `made`, and return it."""
    inside = {one.name: one for one in lay_out.load(directories[digest])} if digest else {}
    below: dict[str, dict[tuple[str, ...], Entry]] = {}
    for (name, *rest), one in entries.items():
        old = inside.get(os.fsencode(name))
        if old is not None and (old.kind == "d") != bool(rest):
            raise UsageError(f"reuse: {name} of another job does not fit: a file is where a directory goes")
        if rest:
            below.setdefault(name, {})[tuple(rest)] = one
        else:
            inside[os.fsencode(name)] = one
    for name, more in below.items():
        key = os.fsencode(name)
        inside[key] = _grafted(inside[key].digest if key in inside else "", more, directories, made)._replace(name=key)
    data = lay_out.dump(list(inside.values()))
    found = hashlib.sha256(data).hexdigest()
    made[found] = data
    return Entry("d", found, sum(one.size for one in inside.values()), b"")


def object_name(kind: str, digest: str) -> str:
    """Return the name of an object: its SHA-256, and whether it can be executed."""
    return f"{digest}.x" if kind == "x" else digest


def _kind(status: os.stat_result) -> str:
    return "x" if status.st_mode & 0o100 else "f"


def _row(found: Selection, path: str) -> Row:
    """Read one file; raises UsageError if that is not possible."""
    if stat.S_ISLNK(found.files[path].st_mode):
        return _seen.row(found.files[path], _seen.LINK)
    for _ in range(_TRIES):
        try:
            with opened(found, path) as file:
                before, hashed, first = os.fstat(file.fileno()), hashlib.sha256(), b""
                while data := file.read(_PIECE):
                    hashed.update(data)
                    first = first or data
                after = os.fstat(file.fileno())
        except OSError as error:
            raise UsageError(
                f"{path} cannot be read ({error.strerror}); name it in .portsignore if the script does not need it"
            ) from error
        if _seen.row(before, "") == _seen.row(after, ""):
            is_key = path not in found.meant and _workspace.can_be_key(after.st_size) and _workspace.is_key(first)
            return _seen.row(after, "" if is_key else hashed.hexdigest())
    raise ChangedError(path)


def opened(found: Selection, path: str) -> Any:
    """Open a file that goes along, which is no link."""
    return open(found.source(path), "rb", buffering=0, opener=_no_link)


def _no_link(path: str, flags: int) -> int:
    for name in ("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC"):  # Windows has none of them
        flags |= getattr(os, name, 0)
    return os.open(path, flags)


def _directories(
    found: Selection, rows: Mapping[str, Row], changed: set[str] | None, before: Before
) -> tuple[dict[str, bytes], str, dict[str, tuple[str, int]]]:
    """Return directories as objects, the SHA-256 of the whole tree, and digest and size of each directory.

    Parameters
    ----------
    changed : set of str or None
        Only these are made; the others are as before. None: all.
    """
    inside: dict[str, list[Entry]] = {"": []}
    for path in found.empty:
        if changed is None or path in changed:
            _folder(inside, path)
    for path, status in found.files.items():
        folder, _, name = path.rpartition("/")
        if changed is not None and folder not in changed:
            continue
        if stat.S_ISLNK(status.st_mode):
            target = os.fsencode(os.readlink(found.source(path)))
            entry = Entry("l", "", len(target), os.fsencode(name), target)
        else:
            entry = Entry(_kind(status), rows[path][4], rows[path][0], os.fsencode(name))
        _folder(inside, folder).append(entry)
    known = {} if changed is None else {path: one for path, one in before.directories.items() if path not in changed}
    for path, (digest, total) in known.items():
        parent, _, name = path.rpartition("/")
        if parent not in known:
            _folder(inside, parent).append(Entry("d", digest, total, os.fsencode(name)))
    made: dict[str, bytes] = {}
    for folder in sorted(inside, key=lambda one: one.count("/") + bool(one), reverse=True):
        data = lay_out.dump(inside[folder])
        digest, total = hashlib.sha256(data).hexdigest(), sum(entry.size for entry in inside[folder])
        made[digest], known[folder] = data, (digest, total)
        if not folder:
            return made, digest, known
        parent, _, name = folder.rpartition("/")
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
        raise ChangedError(source) from error
    with opened as here, target.open("xb", buffering=0) as there:
        while data := here.read(_PIECE):
            hashed.update(data)
            view = memoryview(data)
            while view:
                view = view[there.write(view) :]
    return hashed.hexdigest()


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
