"""Kept results: what clusters held when they expired, in files that only their user removes.

The owner of the cluster writes them, and a note of their place in the state directory. Both outlive its records.
"""

from __future__ import annotations

import builtins
import contextlib
import os
import shutil
import stat
from dataclasses import dataclass
from pathlib import Path

from ports.errors import RecordError
from ports.state import paths, records


@dataclass(frozen=True)
class KeptResults:
    """The kept results of one cluster: `n_files` files with `n_bytes` bytes altogether, in the directory `path`."""

    cluster: str
    path: Path
    n_files: int
    n_bytes: int
    note: Path


def list_kept() -> builtins.list[KeptResults]:
    """Return all kept results on this machine, the oldest first. The note of files that are gone is removed.

    Where the disk that held them is not mounted, or their place cannot be looked at, the note stays.
    """
    found = []
    for note in paths.here().held.glob("*-held.json"):
        with contextlib.suppress(RecordError, OSError):
            data = records.read_json(note) or {}
            path, kept_at = Path(str(data.get("path", ""))), data.get("kept_at")
            if not _is_there(path):
                if _is_gone(path, str(data.get("mount") or "/")):
                    note.unlink()
                continue
            sizes = [file.lstat().st_size for file in path.iterdir()]
            kept = KeptResults(str(data.get("cluster")), path, len(sizes), sum(sizes), note)
            found.append((float(kept_at or 0), str(note), kept))
    return [kept for _, _, kept in sorted(found, key=lambda one: one[:2])]


def remove_kept(kept: KeptResults) -> bool:
    """Remove the files; say whether they are gone."""
    if _is_there(kept.path):
        shutil.rmtree(kept.path, ignore_errors=True)
    gone = not kept.path.exists()
    if gone:
        kept.note.unlink(missing_ok=True)
    return gone


def _is_gone(path: Path, mount: str) -> bool:
    """Say whether nothing is there for certain; the disk that was mounted at `mount` can be away for now."""
    try:
        path.lstat()
    except FileNotFoundError:
        return path.parent.is_dir() and os.path.ismount(mount)
    except OSError:
        return False
    return False


def _is_there(path: Path) -> bool:
    """Say whether `path` is a directory of this user's with a name for kept results, and no link."""
    if not (path.is_absolute() and path.name.endswith("-held")):
        return False
    try:
        found = path.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid()
