"""Frozen records on disk: JSON with a format number, 0600 from birth, replaced in one step."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
from pathlib import Path
from typing import Any, TypeVar

from ports.errors import BrokenRecordError, NewerRecordError, StoreError

FORMAT = 1

R = TypeVar("R", bound="Record")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """Base of what is kept on disk.

    A field whose value is itself a record names its class in the field's metadata, under ``record``.
    """

    format: int = FORMAT

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls: type[R], data: dict[str, Any]) -> R:
        """Return the record that `data` holds; keys that this version does not know are dropped.

        Raises
        ------
        TypeError, ValueError
            A field without a default is missing.
        """
        values = {}
        for field in dataclasses.fields(cls):
            if field.name in data:
                value = data[field.name]
                inner = field.metadata.get("record")
                if inner is not None and value is not None:
                    value = inner.from_json(value)
                elif isinstance(value, list):
                    value = tuple(value)
                values[field.name] = value
        return cls(**values)


@dataclasses.dataclass(frozen=True, kw_only=True)
class ProcessId(Record):
    """One process of one boot of one machine: a pid alone is reused.

    `start_ticks` are clock ticks since boot (field 22 of /proc/<pid>/stat), elsewhere the creation time. `node` is the
    hostname: machines that were made from one image may share their id.
    """

    machine: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int
    node: str = ""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Exit(Record):
    """How a session ended, as its launcher saw it: `status` of exit or the number of the `signal`."""

    status: int | None = None
    signal: int | None = None
    ended_at: float = 0.0
    reason: str | None = None

    def __str__(self) -> str:
        if self.reason:
            return self.reason
        return f"killed by signal {self.signal}" if self.signal else f"exit status {self.status}"


def write_json(path: Path, data: dict[str, Any]) -> None:
    """Replace the file `path` by `data` in one step, mode 0600.

    Raises
    ------
    StoreError
        The disk is full, or `path` may not be written.
    """
    import tempfile  # 3 ms with what it imports, which most commands that only read need not pay

    temporary = None
    try:
        fd, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")  # 0600 from birth
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            json.dump(data, file, indent=2, sort_keys=True)
        Path(temporary).replace(path)  # readers see the old record or the new one, never half
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise StoreError(path, error.strerror or str(error)) from error
        raise


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the document at `path`; None where there is no such file.

    Raises
    ------
    BrokenRecordError
        It is no JSON object, or cannot be read.
    NewerRecordError
        Its format number is higher than `FORMAT`.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise BrokenRecordError(path, error.strerror or str(error)) from error
    except ValueError as error:
        raise BrokenRecordError(path, f"it is not JSON ({error})") from error
    if not isinstance(data, dict) or not isinstance(data.get("format"), int):
        raise BrokenRecordError(path, "it has no format number")
    if data["format"] > FORMAT:
        raise NewerRecordError(path, data["format"], FORMAT)
    return data


def write(path: Path, record: Record) -> None:
    """Replace the file `path` by `record`; raises as `write_json`."""
    write_json(path, record.to_json())


def read(path: Path, cls: type[R]) -> R | None:
    """Return the record at `path`; None where there is none; raises as `read_json`."""
    data = read_json(path)
    if data is None:
        return None
    try:
        return cls.from_json(data)
    except (TypeError, ValueError, AttributeError) as error:
        raise BrokenRecordError(path, str(error)) from error


def claim(directory: Path, record: Record) -> bool:
    """Create `directory` already holding its ``record.json``; False where the name is taken.

    The directory is renamed into place: a crash leaves no half claim.
    """
    import tempfile

    try:
        temporary = Path(tempfile.mkdtemp(dir=directory.parent, prefix=f".{directory.name}."))
    except OSError as error:
        raise StoreError(directory, error.strerror or str(error)) from error
    try:
        write(temporary / "record.json", record)
        temporary.rename(directory)  # fails where `directory` holds something
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
