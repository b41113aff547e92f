"""What was read of a directory before: files that did not change are not read again, nor directories made again.

A file counts as unchanged if its size, its times and its inode are as they were. What is here is a memory only: where
it is missing, damaged, or of another version, everything is read again.
"""

from __future__ import annotations

import contextlib
import dataclasses
import marshal
import os
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ports.errors import StoreError
from ports.jobs import _durable
from ports.jobs._workspace import Selection

_HEAD = b"ports-seen 3\n"
LINK = "link"  # in the place of a digest

#: A file as it was when it was read: size, mtime, ctime, inode, SHA-256; the last is empty for a private key.
Row = tuple[int, int, int, int, str]


def row(status: os.stat_result, digest: str) -> Row:
    """Return the row of a file."""
    return status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, digest


class Changes(NamedTuple):
    """What is another than before: paths that are new or changed, and the directories with a change below them."""

    changed: list[str]
    directories: set[str]

    @property
    def is_none(self) -> bool:
        """Whether nothing changed."""
        return not self.changed and not self.directories


@dataclasses.dataclass(frozen=True)
class Before:
    """What was read of a directory: rows by path, the tree, and digest and size of each directory in it."""

    files: Mapping[str, Row] = dataclasses.field(default_factory=dict)
    empty: tuple[str, ...] = ()
    tree: str = ""
    generation: str | None = None  # of the objects; empty: they are another machine's
    directories: Mapping[str, tuple[str, int]] = dataclasses.field(default_factory=dict)

    def changes(self, found: Selection) -> Changes:
        """Compare with what goes along now."""
        changed, known = [], self.files
        for path, status in found.files.items():
            one = known.get(path)
            if (
                one is None
                or one[1] != status.st_mtime_ns
                or one[0] != status.st_size
                or one[2] != status.st_ctime_ns
                or one[3] != status.st_ino
                or (not one[4] and path in found.meant)
            ):
                changed.append(path)
        gone = known.keys() - found.files.keys() if len(known) != len(found.files) or changed else ()
        return Changes(changed, above([*changed, *gone, *(set(found.empty) ^ set(self.empty))]))


def above(paths: Iterable[str]) -> set[str]:
    """Return the directories in which these paths are, up to the root, which is empty; and the paths' own."""
    found: set[str] = set()
    for path in paths:
        found.add(path)  # it can have been a directory
        while path:
            path = path.rpartition("/")[0]
            if path in found:
                break
            found.add(path)
    return found


def load(path: Path) -> Before:
    """Return what a file says; nothing of one that is missing, damaged, or of another version."""
    try:
        data = path.read_bytes()
        head, crc, body = data[: len(_HEAD)], data[len(_HEAD) : len(_HEAD) + 8], data[len(_HEAD) + 8 :]
        if head == _HEAD and crc == b"%08x" % zlib.crc32(body):
            return Before(*marshal.loads(body))
    except (OSError, ValueError, TypeError, EOFError):
        pass
    return Before()


def save(path: Path, found: Before) -> None:
    """Note what was read; a disk that is full takes nothing, and then everything is read again."""
    told: tuple[Any, ...] = (found.files, found.empty, found.tree, found.generation, found.directories)
    body = marshal.dumps(told, 2)  # without references among its parts: it is read more quickly
    with contextlib.suppress(StoreError, OSError):
        path.parent.mkdir(mode=0o700, exist_ok=True)
        _durable.write(path, _HEAD, b"%08x" % zlib.crc32(body), body, is_synced=False)
