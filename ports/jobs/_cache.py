"""Results that are kept: found again by function and arguments, of jobs and of plain calls alike.

An entry is one file, ``cache/<function>/<key>-<minor>``: a blob (`_blobs`) whose header says what it is the result of.
It is mapped privately, so a large result costs no copy until it is changed. Sizes are checked at each hit. The checksum
is checked at each hit of a small entry, and once per boot of a large one. A damaged entry is a miss, and is removed.

Caches of others are read after one's own, and never written. An entry there is unpickled only if it is of this user, of
root, or of a user who is trusted: unpickling can run any code.
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import stat
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import probe
from ports.errors import NotFoundError, RecordError, StoreError, UsageError, warn
from ports.jobs import _blobs, _durable, _function_key, _modules, _places, _travel
from ports.jobs._digest import NoDigestError, digest
from ports.jobs._function_key import FunctionKey
from ports.state import make_private, settings

POLICIES = ("use", "refresh", "off", "only")

_MAPPED = 64 * 1024  # a smaller file is read: that is faster, and its checksum costs nothing
_PREFIX = 8
_MOST_COMPARED = 500
_USE_SECONDS = 60.0  # the time of use is noted that exactly
_BETWEEN_LOOKS = 0.05  # of the limit is stored by one process until it looks at the size of all again

_said: set[tuple[str, str]] = set()


def check_policy(policy: object) -> str:
    """Return `policy`; raises UsageError."""
    if policy not in POLICIES:
        raise UsageError(f"cache={policy!r} is none of {', '.join(map(repr, POLICIES))}")
    return str(policy)


@dataclass
class Hit:
    """A result that was found: its blob as bytes or a private map, and what its header says."""

    data: Any
    parts: _blobs.Blob
    directory: str = ""  # the cache of others that has it

    def value(self, what: str) -> Any:
        """Return the result; raises RecordError, and what unpickling raises."""
        return _travel.load_result(self.parts, what)


class Cache:
    """The entries below one directory, which at most `limit` bytes may have."""

    def __init__(
        self, directory: Path, limit: Callable[[], float], also: Callable[[], Sequence[str]] = lambda: ()
    ) -> None:
        self.directory = directory
        self._limit, self._also = limit, also
        self._folders: dict[str, Path] = {}
        self._checked: dict[Path, tuple[int, int]] = {}
        self._stored, self._room = 0.0, -1.0  # bytes since the size of all was last looked at, and until it is again

    def _path(self, name: str, key: str) -> Path:
        return self._folder(name) / f"{key}-{_blobs.MINOR}"

    def _folder(self, name: str) -> Path:
        if (found := self._folders.get(name)) is None:
            found = self._folders[name] = self.directory / digest(name)[:16]
        return found

    # --- finding ---

    def find(self, function: FunctionKey, key: str) -> Hit | None:
        """Return the entry of `key`, here or in a cache of others; None if there is none.

        A damaged one is removed, with a warning.
        """
        path = self._path(function.name, key)
        try:
            data, status = _read(path)
        except FileNotFoundError:
            return self._find_elsewhere(function, key)
        except OSError as error:
            _say_once(function.name, f"cannot read {path}: {error.strerror}; the call runs as without a cache")
            return None
        what = f"the cached result of {short(function.name)}()"
        try:
            parts = _blobs.take_apart(data, what)
            if parts.header.get("key") != key:
                raise RecordError(f"{what} is damaged: it belongs to another call")
            self._check(path, status, parts, what)
        except RecordError as error:
            self.remove(path, str(error))
            return None
        if time.time() - status.st_mtime > _USE_SECONDS:
            with contextlib.suppress(OSError):
                os.utime(path)  # the order of use
        self._say_if_older(function, parts.header)
        return Hit(data, parts)

    def _find_elsewhere(self, function: FunctionKey, key: str) -> Hit | None:
        """Return the entry of `key` in a cache of others, if it is of a user who is trusted to run code here."""
        what = f"the cached result of {short(function.name)}()"
        for directory in self._also():
            path = Path(directory).expanduser() / self._path(function.name, key).relative_to(self.directory)
            try:
                data, status = _read(path, of_others=True)
                if why := _distrust(status):
                    _say_once(function.name, f"{what} in {directory} is not used: {why}")
                    continue
                parts = _blobs.take_apart(data, what)
                if parts.header.get("key") != key:
                    raise RecordError(f"{what} is damaged: it belongs to another call")
                mark = (status.st_ino, status.st_size)
                if self._checked.get(path) != mark:
                    if checksum([parts.head, *parts.buffers]) != parts.header.get("crc"):
                        raise RecordError(f"{what} is damaged: its checksum differs")
                    self._checked[path] = mark
            except FileNotFoundError:
                continue
            except (OSError, RecordError) as error:
                _say_once(function.name, f"{error} ({directory}); it is not used")
                continue
            self._say_if_older(function, parts.header)
            return Hit(data, parts, directory)
        return None

    def _check(self, path: Path, status: os.stat_result, parts: _blobs.Blob, what: str) -> None:
        """Raise RecordError if the checksum differs; a large file that was checked in this boot is not read."""
        is_large = status.st_size >= _MAPPED
        mark = (status.st_ino, status.st_size)
        if is_large and (self._checked.get(path) == mark or _read_mark(path) == _mark(*mark)):
            self._checked[path] = mark
            return
        if checksum([parts.head, *parts.buffers]) != parts.header.get("crc"):
            raise RecordError(f"{what} is damaged: its checksum differs")
        if is_large:
            self._checked[path] = mark
            self._write_mark(path, mark)

    def _write_mark(self, path: Path, mark: tuple[int, int]) -> None:
        with contextlib.suppress(StoreError):
            _durable.write(path.with_name(f"{path.name}.ok"), _mark(*mark), is_synced=False)

    def _say_if_older(self, function: FunctionKey, header: Mapping[str, Any]) -> None:
        before = header.get("code")
        if function.version is not None and function.code and before and before != function.code:
            _say_once(
                function.name,
                f"{short(function.name)}() has changed since its result of version {function.version!r} was kept, "
                "which is used all the same; change version=, or pass cache='refresh' once",
            )

    def remove(self, path: Path, reason: str = "") -> None:
        """Remove an entry; with a `reason`, a warning says it."""
        self._checked.pop(path, None)
        for one in (path, path.with_name(f"{path.name}.ok")):
            with contextlib.suppress(OSError):
                one.unlink()
        if reason:
            warn(f"{reason}; it was removed, and the call runs again")

    # --- keeping ---

    def keep(self, function: FunctionKey, key: str, found: Mapping[str, str], result: Result) -> None:
        """Keep a result.

        Raises
        ------
        StoreError
            The disk is full, or the directory is not writable.
        """
        path = self._path(function.name, key)
        header = {
            **function.to_json(),
            "key": key,
            "arguments": {name: one[:_PREFIX] for name, one in found.items()},
            "created": round(time.time(), 6),  # two calls can come within a millisecond
            "crc": checksum([result.made.head, *result.buffers]),
            "modules": _modules.as_header(result.sources),
        }
        pieces = _blobs.pieces(result.made.head, result.buffers, **header)
        size = sum(memoryview(one).nbytes for one in pieces)
        if not path.parent.is_dir():
            _places.make_data()  # a directory that is made on the way to another one would not be private
            for directory in (self.directory.parent, self.directory, path.parent):
                make_private(directory)
        # A small entry is not synced: its checksum is looked at each time. A large one's, after each boot only.
        _durable.write(path, *pieces, is_synced=size >= _MAPPED)
        if size >= _MAPPED:
            status = path.stat()
            self._write_mark(path, (status.st_ino, status.st_size))
        self._stored += size
        if self._stored > self._room:
            self._stored, self._room = 0, self._limit() * _BETWEEN_LOOKS
            self.prune()

    def prune(self, limit: float | None = None) -> int:
        """Remove the entries that were not used for longest until the rest has `limit` bytes; return the bytes freed.

        Default: the setting ``ports.jobs.cache_limit``.
        """
        most = self._limit() if limit is None else limit
        entries = sorted(self._entries(), key=lambda one: one[1].st_mtime)
        total = sum(status.st_size for _, status in entries)
        freed = 0
        for path, status in entries:
            if total - freed <= most:
                break
            self.remove(path)
            freed += status.st_size
        return freed

    def _entries(self) -> Iterator[tuple[Path, os.stat_result]]:
        with contextlib.suppress(OSError):
            for folder in list(self.directory.iterdir()):
                for path in _files(folder):
                    with contextlib.suppress(OSError):
                        yield path, path.stat()

    @property
    def size(self) -> int:
        """Bytes of all entries."""
        return sum(status.st_size for _, status in self._entries())

    # --- why ---

    def why(self, function: FunctionKey, key: str, found: Mapping[str, str]) -> str:
        """Return in a sentence why the call with this key is a hit or a miss."""
        name = short(function.name)
        path = self._path(function.name, key)
        if path.exists():
            return f"{name}() with these arguments is in the cache"
        headers = [header for one in _newest(path.parent) if (header := _header(one)) is not None]
        return _nearest(function, found, headers) or f"nothing of {name}() is in the cache"

    def why_kept(self, name: str, key: str) -> str:
        """Return in a sentence what differs between an entry and the nearest one that is older."""
        path = self._path(name, key)
        header = _header(path)
        if header is None:
            return f"the entry of {short(name)}() is no longer in the cache"
        others = [one for other in _newest(path.parent) if other != path and (one := _header(other)) is not None]
        older = [one for one in others if one.get("created", 0) < header.get("created", 0)]
        said = _nearest(FunctionKey.from_json(header), header.get("arguments", {}), older)
        return said or f"nothing of {short(name)}() was in the cache"


def _nearest(function: FunctionKey, found: Mapping[str, str], headers: Sequence[Mapping[str, Any]]) -> str:
    """Return in a sentence what differs from the nearest entry; nothing if there is none."""
    if not headers:
        return ""
    name = short(function.name)
    nearest, differences = min(
        ((header, _differences(function, found, header)) for header in headers), key=lambda one: len(one[1])
    )
    if not differences:
        return f"{name}() with these arguments is in the cache for Python {nearest.get('minor')}, not {_blobs.MINOR}"
    at = time.strftime("%Y-%m-%d %H:%M", time.localtime(nearest.get("created", 0)))
    verb = "differ" if len(differences) > 1 else "differs"
    return f"{' and '.join(differences)} of {name}() {verb} from the entry of {at}"


def _differences(function: FunctionKey, found: Mapping[str, str], header: Mapping[str, Any]) -> list[str]:
    before = header.get("arguments", {})
    names = [name for name in {**found, **before} if found.get(name, "")[:_PREFIX] != str(before.get(name))[:_PREFIX]]
    differences = [f"argument {name!r}" for name in names]
    if function.version != header.get("version"):
        return [f"version {function.version!r} (before: {header.get('version')!r})", *differences]
    if function.version is None and function.code != header.get("code"):
        return ["the source", *differences]
    return differences


def _distrust(status: os.stat_result) -> str:
    """Return why an entry of others is not read; empty where it is."""
    import pwd  # not on Windows

    if not stat.S_ISREG(status.st_mode):
        return "it is no file"
    if status.st_mode & 0o022:
        return "others can write to that file"
    if status.st_uid in (0, probe.own_uid()):
        return ""
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    if owner in settings.get("jobs.cache_trust"):
        return ""
    return f"it is of {owner}, and unpickling it lets {owner} run code as you; the setting jobs.cache_trust allows that"


def _read(path: Path, *, of_others: bool = False) -> tuple[Any, os.stat_result]:
    """Return the content of a file, a large one mapped; both can be changed without changing the file."""
    flags = os.O_NONBLOCK | os.O_NOFOLLOW if of_others else 0  # a pipe would never end
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | flags)
    try:
        status = os.fstat(descriptor)
        if of_others and _distrust(status):
            return b"", status
        if status.st_size >= _MAPPED:
            return mmap.mmap(descriptor, 0, access=mmap.ACCESS_COPY), status
        return bytearray(os.read(descriptor, _MAPPED)), status
    finally:
        os.close(descriptor)


def _files(folder: Path) -> list[Path]:
    try:
        return [path for path in folder.iterdir() if not path.name.startswith(".") and path.suffix != ".ok"]
    except OSError:
        return []


def _newest(folder: Path) -> list[Path]:
    timed = []
    for path in _files(folder):
        with contextlib.suppress(OSError):
            timed.append((path.stat().st_mtime, path))
    return [path for _, path in sorted(timed, reverse=True)[:_MOST_COMPARED]]


def _header(path: Path) -> Mapping[str, Any] | None:
    try:
        with path.open("rb") as file:
            start = file.read(8)
            if len(start) < 8 or start[:4] != _blobs.MAGIC:
                return None
            header = json.loads(file.read(min(int.from_bytes(start[4:], "little"), 2**24)))
    except (OSError, ValueError):
        return None
    return header if isinstance(header, dict) else None


def _mark(inode: int, size: int) -> bytes:
    return f"{probe.boot_id()} {inode} {size}\n".encode()


def _read_mark(path: Path) -> bytes:
    try:
        return path.with_name(f"{path.name}.ok").read_bytes()
    except OSError:
        return b""


def checksum(parts: Sequence[Any]) -> int:
    """Return the CRC-32 of all parts."""
    found = 0
    for one in parts:
        found = zlib.crc32(one, found)
    return found


@dataclass(frozen=True)
class Result:
    """A result as it is kept: pickled, with the local modules that it needs."""

    made: _blobs.Dumped
    sources: Sequence[_modules.Source]

    @property
    def buffers(self) -> list[Any]:
        """All buffers of its blob."""
        return [*self.made.buffers, *(one.text for one in self.sources)]


def short(name: str) -> str:
    """Return ``fit`` of ``module.fit``."""
    return name.rpartition(".")[2]


def _say_once(name: str, text: str) -> None:
    if (name, text) not in _said:
        _said.add((name, text))
        warn(text)


def here() -> Cache:
    """Return the cache of this machine; nothing is created."""
    return _of_state(probe.state_directory())


@functools.lru_cache(maxsize=4)
def _of_state(state: str) -> Cache:
    return Cache(
        _places.planned() / "cache",
        lambda: float(settings.get("jobs.cache_limit")),
        lambda: settings.get("jobs.cache_also"),
    )


# --- plain calls ---


def call(
    function: Callable[..., Any], version: object, policy: str, args: Sequence[Any], kwargs: Mapping[str, Any]
) -> Any:
    """Return the result of a call in this process: from the cache, or of the function, which is then kept.

    Raises
    ------
    NotFoundError
        The policy is ``"only"``, and there is no entry.
    """
    name = _travel.short_name(function)
    try:
        known = _function_key.of_function(function, version, runs_here=True)
        found = _function_key.arguments(function, tuple(args), kwargs)
    except NoDigestError as error:
        say_uncached(name, error)
        return function(*args, **kwargs)
    key, cache = _function_key.of_call(known, found), here()
    if policy in ("use", "only") and (hit := cache.find(known, key)) is not None:
        try:
            return hit.value(f"the cached result of {name}()")
        except Exception as error:  # noqa: BLE001  its class is gone, or changed
            _say_once(known.name, f"the cached result of {name}() cannot be read: {error}; the call runs again")
    if policy == "only":
        raise not_cached(known, key, found)
    value = function(*args, **kwargs)
    try:
        made = _blobs.pickled(value)
        cache.keep(known, key, found, Result(made, list(_modules.collect(made.modules).values())))
    except Exception as error:  # noqa: BLE001  whatever pickling raises, or a full disk: the result is there
        _say_once(known.name, f"the result of {name}() was not kept: {error}")
    return value


def not_cached(function: FunctionKey, key: str, found: Mapping[str, str]) -> NotFoundError:
    """Return the error of the policy ``"only"``."""
    why = here().why(function, key, found)
    return NotFoundError("cached result of", f"{short(function.name)}()", f"{why}; cache='use' computes it")


def say_uncached(name: str, error: NoDigestError) -> None:
    """Say once that calls of a function are not cached."""
    if isinstance(error, _function_key.ChangedError):
        text = f"{error.what} has changed since it was imported; reload it, or start Python again"
        _say_once(name, f"{name}() is not cached, because {text}")
        return
    _say_once(
        name,
        f"{name}() is not cached, because {error.what} has no digest; "
        "give its class __ports_key__, or pass what it is made from",
    )
