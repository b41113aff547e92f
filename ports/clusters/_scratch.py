"""Scratch of workers: a private directory on a disk, never in memory, never Dask's default.

Dask takes any writable ``$TMPDIR/dask-scratch-space``. Another user who makes it first can put modules there, and
workers import them.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from ports.errors import StoreError, UsageError
from ports.state import exchangeable, paths, settings

USUAL = ("/scratch", "/local", "/var/tmp")
_IN_MEMORY = ("tmpfs", "ramfs")


def choose(name: str, asked: str | None) -> Path:
    """Return the path of a new directory for the workers of cluster `name`; `create` makes it, once it is recorded.

    Parameters
    ----------
    asked : str or None
        Its parent, as `scratch_parent` takes it. Raises what that does.
    """
    user = paths.user_name().replace(" ", "-")  # without an account it is "uid 1000"
    return scratch_parent(asked) / f"ports-{user}-{name}-{secrets.token_hex(4)}"


def scratch_parent(asked: str | None) -> Path:
    """Return the directory in which workers get their scratch.

    The path contains no link: a user who can change one could exchange what workers import, long after this check.

    Parameters
    ----------
    asked : str or None
        None: Dask's ``temporary-directory``, else the largest of `USUAL`, by free space.

    Raises
    ------
    UsageError
        `asked` is in memory, where spilling frees nothing; or it is missing, or not writable; or other users could
        exchange files in it, from which workers import modules.
    StoreError
        No disk can be written to.
    """
    given = asked or _dask_directory()
    place = Path(given).expanduser().absolute() if given else _largest()
    parent = _resolved(place)
    if given and _file_system(parent) in _IN_MEMORY:
        raise UsageError(f"local_directory {place} is in memory ({_file_system(parent)}); name a directory on a disk")
    if given and not _is_writable(parent):
        raise UsageError(f"local_directory {place} is missing or not writable; name a directory of yours")
    if given and (why := exchangeable(parent)) is not None:
        raise UsageError(f"local_directory {place} is not safe: {why}; name a directory of yours")
    return parent


def create(path: Path) -> None:
    """Make the new directory `path`, 0700; raises StoreError, also where something of that name exists."""
    try:
        path.mkdir(mode=0o700)
    except OSError as error:
        raise StoreError(path, error.strerror or str(error), "pass another local_directory=") from error


def _dask_directory() -> str | None:
    found: Any = settings.dask_value("temporary-directory")
    return str(found) if found else None


def _largest() -> Path:
    disks: list[tuple[int, Path]] = []
    for place in map(Path, USUAL):
        with contextlib.suppress(OSError):
            real = _resolved(place)
            if real.is_dir() and _file_system(real) not in _IN_MEMORY and exchangeable(real) is None:
                disks.append((shutil.disk_usage(real).free, real))
    usable = [place for _, place in sorted(disks, key=lambda found: -found[0]) if _is_writable(place)]
    if not usable:
        raise StoreError(" or ".join(USUAL), "none of them is on a disk, writable and safe", "pass local_directory=")
    return usable[0]


def _resolved(place: Path) -> Path:
    return Path(os.path.realpath(place))  # `resolve` raises where links form a circle


def _is_writable(place: Path) -> bool:
    # no file is made to try: a start that is interrupted would leave it there
    return place.is_dir() and os.access(place, os.W_OK | os.X_OK)


def _file_system(path: Path) -> str:
    """Return the type of the file system of the resolved path `path`; empty where unknown."""
    try:
        lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    best = ("", "")
    for line in lines:
        point, kind = line.split(" ")[1:3]
        mount = Path(point.replace("\\040", " "))
        if path.is_relative_to(mount) and len(point) >= len(best[0]):
            best = (point, kind)
    return best[1]
