"""Submission files: what is submitted, or cancelled, while no resource runs. The next resource takes them in.

How they are written and read stands in `ports.probe.left`, which also a program on a host without `ports` uses.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from pathlib import Path

from ports.jobs import _durable
from ports.jobs._places import Places
from ports.probe import left as left_files

#: One file that was left: path, number (0: a request), header, blobs, and why it is broken, if so.
Left = left_files.LeftFile


def read(places: Places, *, has_blobs: bool = True) -> list[Left]:
    """Return what was left: submissions in the order of their ids, then requests in the order of their times."""
    with _durable.translated(places.submissions):
        return left_files.read_left(str(places.root), has_blobs)


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
