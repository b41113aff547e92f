"""Frozen records on disk: JSON with a format number, in files of mode 0600 that are replaced in one step."""

from __future__ import annotations

import dataclasses
import errno
import functools
import json
import os
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from ports.errors import BrokenRecordError, NewerRecordError, StoreError
from ports.probe import files

FORMAT = 1
_LARGEST = 2**62  # larger numbers fit no type of the operating system

R = TypeVar("R", bound="Record")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of all records on disk.

    A field whose value is itself a record names its class in the field's metadata, under ``record``.
    """

    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls: type[R], data: Mapping[str, Any]) -> R:
        """Return the record in `data`. Keys that this version does not know are dropped.

        Raises
        ------
        TypeError
            A field without a default is missing, or a value is of another type than its field.
        """
        values, hints = {}, _hints(cls)  # type: ignore[arg-type]
        for field in dataclasses.fields(cls):
            if field.name in data:
                value = data[field.name]
                inner = field.metadata.get("record")
                if inner is not None and isinstance(value, dict):
                    value = inner.from_json(value)
                elif isinstance(value, list):
                    value = tuple(value)
                if not _fits(value, hints[field.name]):
                    raise TypeError(f"its {field.name!r} has the invalid value {_short(value)}")
                values[field.name] = value
        return cls(**values)


@functools.cache
def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls)


def _fits(value: Any, hint: Any) -> bool:
    """Say whether a field of the type `hint` can hold `value`; a record may be incomplete, or edited by hand."""
    arguments = get_args(hint)
    if get_origin(hint) is types.UnionType:
        return any(_fits(value, one) for one in arguments)
    if get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_fits(one, arguments[0]) for one in value)
    if get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(one, arguments[1]) for one in value.values())
    if hint is Any:
        return True
    if hint is str:
        return isinstance(value, str) and _is_text(value)
    if hint in (int, float):
        number = isinstance(value, int | hint) and not isinstance(value, bool)
        return number and abs(value) < _LARGEST  # neither is NaN
    return isinstance(value, hint)


def _is_text(value: str) -> bool:
    """Say whether it can be a path: no NUL, and no lone surrogates except those of undecodable file names."""
    try:
        return b"\0" not in value.encode("utf-8", "surrogateescape")  # a record reads the same in every locale
    except UnicodeEncodeError:
        return False


def _short(value: Any) -> str:
    text = ascii(value)
    return text if len(text) < 40 else f"{text[:36]} …"


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessId(Record):
    """One process of one boot of one machine. The pid alone does not identify it, because pids are reused.

    `start_ticks` are clock ticks since boot (field 22 of /proc/<pid>/stat); without /proc, the creation time. `node` is
    the hostname, because machines made from one image may share their id.
    """

    machine: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int
    node: str = ""


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replace the file `path` by `data` in one step, mode 0600.

    Raises
    ------
    StoreError
        The disk is full, or `path` is not writable.
    """
    write_text(path, json.dumps(data, indent=2, sort_keys=True))


def create_json(path: Path, data: dict[str, Any]) -> bool:
    """Create the file `path` with `data` in one step, mode 0600; return False if it exists; raises as `write_json`."""
    temporary = path.with_name(f".{path.name}.{os.urandom(8).hex()}")
    write_json(temporary, data)
    try:
        os.link(temporary, path)  # fails if it exists, on NFS too
    except FileExistsError:
        return False
    except OSError:  # a disk without links: of two at once, the later one counts
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    return True


def write_text(path: Path, text: str) -> None:
    """Replace the file `path` by `text` in one step, mode 0600; raises as `write_json`."""
    try:
        files.write_text(str(path), text)
    except OSError as error:
        raise StoreError(path, error.strerror or str(error)) from error


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the document at `path`; None if there is no such file.

    Raises
    ------
    BrokenRecordError
        It is not a JSON object, cannot be read, is a link, or belongs to another user.
    NewerRecordError
        Its format number is higher than `FORMAT`.
    """
    try:
        data = json.loads(files.own_text(str(path)))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BrokenRecordError(path, error.strerror or str(error)) from error
    except files.NotOwnError as error:
        raise BrokenRecordError(path, str(error)) from error
    except (ValueError, RecursionError) as error:
        raise BrokenRecordError(path, f"it is not JSON ({error})") from error
    if not isinstance(data, dict) or not _fits(data.get("format"), int):
        raise BrokenRecordError(path, "it has no format number")
    if data["format"] > FORMAT:
        raise NewerRecordError(path, data["format"], FORMAT)
    return data


def write(path: Path, record: Record) -> None:
    """Replace the file `path` by `record`; raises as `write_json`."""
    write_json(path, record.to_json())


def read(path: Path, cls: type[R]) -> R | None:
    """Return the record at `path`; None if there is none; raises as `read_json`."""
    data = read_json(path)
    if data is None:
        return None
    try:
        return cls.from_json(data)
    except (TypeError, ValueError, AttributeError) as error:
        raise BrokenRecordError(path, str(error)) from error


def claim(directory: Path, record: Record) -> bool:
    """Create `directory` with its ``record.json`` in it; return False if the name is taken.

    The directory gets its name after the record is written, so a crash leaves no incomplete claim.
    """
    import tempfile

    try:
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    except OSError as error:
        raise StoreError(directory, error.strerror or str(error)) from error
    try:
        write(temporary / "record.json", record)
        temporary.rename(directory)  # fails if `directory` is not empty
    except OSError as error:
        _remove(temporary)
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            return False
        raise StoreError(directory, error.strerror or str(error)) from error
    except BaseException:
        if temporary.exists():
            _remove(temporary)
        raise
    return True


def _remove(directory: Path) -> None:
    for file in directory.iterdir():
        file.unlink(missing_ok=True)
    directory.rmdir()
