"""Submission files: what is submitted while no resource runs. The next resource takes them in.

An id is reserved first, by a directory that names the key; then the file is written under the key. A client that was
interrupted submits again with the same key, and gets the same id.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ports.errors import UsageError
from ports.jobs import _durable, _protocol
from ports.jobs._model import JobId, Submission, check_key
from ports.jobs._places import Places

_NEWEST = 256  # ids whose names stay, so that a repeated submission finds its key


class Left(NamedTuple):
    """One submission file: its path, the id that was printed, and the request; why it cannot be read, if so."""

    path: Path
    number: int
    header: dict[str, Any]
    blobs: Sequence[bytes]
    broken: str | None = None


def leave(
    places: Places, key: str, submission: Submission, blobs: Sequence[bytes], *, count: int | None = None
) -> JobId:
    """Leave a submission for the next resource, and return its id, when a power cut cannot undo it any more.

    Parameters
    ----------
    key : str
        32 hexadecimal digits that the client chose; the same key gets the same id again.
    blobs : sequence of bytes
        The function or script, then the arguments of each job.

    Raises
    ------
    UsageError
        The key is invalid, or the submission is too large.
    StoreError
        The disk is full, or not writable.
    """
    check_key(key)
    path = places.submissions / key
    number = _number_of(places, key)
    if number is None:
        number = _durable.reserve(places.ids, max(_durable.numbers(places.ids), default=0))
        _durable.write(places.ids / str(number) / "key", key.encode())
        _durable.sync_directory(places.ids)
    elif _is_taken_in(places, number, path):
        return JobId(number)
    header = {"op": "submit", "key": key, "id": number, "at": time.time(), "count": count}
    try:
        data = _protocol.encode({**header, "submission": submission.to_json()}, blobs)
    except _protocol.ProtocolError as error:
        raise UsageError(f"the submission is too large: {error}") from error
    if not _durable.create(path, data) and (first := _number_in(path)) is not None:
        return JobId(first)  # another process submitted with this key at the same moment
    return JobId(number)


def _number_of(places: Places, key: str) -> int | None:
    """Return the id that was reserved for a key."""
    if (number := _number_in(places.submissions / key)) is not None:
        return number
    for number in sorted(_durable.numbers(places.ids), reverse=True):
        with contextlib.suppress(OSError):
            if (places.ids / str(number) / "key").read_bytes() == key.encode():
                return number
    return None


def _is_taken_in(places: Places, number: int, path: Path) -> bool:
    """Say whether a resource has taken the submission with this id in, or the file is still there."""
    return path.exists() or (places.ids / str(number) / "taken").exists()


def _number_in(path: Path) -> int | None:
    left = _read(path)
    return left.number or None if left is not None else None


def read(places: Places) -> Iterator[Left]:
    """Yield the submissions that were left, in the order of their ids."""
    found = [left for path in places.submissions.iterdir() if not path.name.startswith(".") and (left := _read(path))]
    yield from sorted(found, key=lambda left: left.number)


def _read(path: Path) -> Left | None:
    """Return what a submission file contains; None if there is no such file."""
    try:
        data = path.read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        return None
    except OSError as error:
        return Left(path, 0, {}, (), error.strerror or str(error))
    try:
        (frame,) = _protocol.Decoder().feed(data)
    except ValueError as error:
        return Left(path, 0, {}, (), f"it is damaged: {error}")
    number = frame.header.get("id")
    if not isinstance(number, int) or isinstance(number, bool) or not 0 < number < 10**12:
        return Left(path, 0, {}, (), "it has no id")
    return Left(path, number, frame.header, frame.blobs)


def taken(places: Places, lefts: Sequence[Left]) -> None:
    """Remove the files of submissions that are in the store now, and the directories of ids that are long past."""
    for left in lefts:
        with contextlib.suppress(OSError):
            (places.ids / str(left.number) / "taken").touch(mode=0o600)
            left.path.unlink()
    tidy(places)


def tidy(places: Places) -> None:
    """Remove the names of all but the newest ids: the store has the others."""
    for number in sorted(_durable.numbers(places.ids))[:-_NEWEST]:
        path = places.ids / str(number)
        with contextlib.suppress(OSError):
            if path.is_dir():
                for name in ("key", "taken"):
                    (path / name).unlink(missing_ok=True)
                path.rmdir()
            else:
                path.unlink()


def put_aside(left: Left) -> Path:
    """Rename a submission file that cannot be read, and return its new name."""
    aside = left.path.with_name(f".{left.path.name}.broken")
    with contextlib.suppress(OSError):
        left.path.rename(aside)
    return aside
