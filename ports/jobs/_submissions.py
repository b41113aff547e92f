"""Submission files: what is submitted, or cancelled, while no resource runs. The next resource takes them in.

How they are written and read stands in `ports.probe.left`, which also a program on a host without `ports` uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ports.errors import UsageError
from ports.jobs import _durable
from ports.jobs._model import JobId, Submission
from ports.jobs._places import Places
from ports.probe import left as left_files
from ports.probe import words

#: One file that was left: path, number (0: a request), header, blobs, and why it is broken, if so.
Left = left_files.LeftFile


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
    try:
        with _durable.translated(places.submissions / str(key)):
            return JobId(left_files.leave_submission(str(places.root), key, submission.to_json(), blobs, count))
    except words.Refused as refused:
        raise UsageError(refused.text) from refused


def read(places: Places) -> list[Left]:
    """Return what was left: submissions in the order of their ids, then requests in the order of their times."""
    with _durable.translated(places.submissions):
        return left_files.read_left(str(places.root))


def taken(places: Places, lefts: Sequence[Left]) -> None:
    """Remove the files of what is in the store now, and the directories of ids that are long past."""
    left_files.note_taken(str(places.root), lefts)


def tidy(places: Places) -> None:
    """Remove the names of all but the newest ids: the store has the others."""
    left_files.tidy_ids(str(places.root))


def put_aside(left: Left) -> Path:
    """Rename a file that cannot be read, and return its new name."""
    path = Path(left.path)
    aside = path.with_name(f".{path.name}.broken")
    with contextlib.suppress(OSError):
        path.rename(aside)
    return aside
