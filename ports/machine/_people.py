"""Who else uses this machine: people, and not the accounts of its services."""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path

from ports.probe import is_person, is_zombie


def other_users() -> tuple[str, ...]:
    """Return the names of the people who use this machine beside this user.

    They are logged in, or a process of theirs runs. An account without a name counts for nobody: the processes of a
    container have uids that this machine does not know.
    """
    import psutil

    names = {one.name for one in psutil.users()}
    if os.name == "nt":
        return tuple(sorted(names - {psutil.Process().username().rpartition("\\")[2]}))
    import pwd

    for uid in filter(is_person, _uids()):
        with contextlib.suppress(KeyError):
            names.add(pwd.getpwuid(uid).pw_name)
    with contextlib.suppress(KeyError):
        names.discard(pwd.getpwuid(os.getuid()).pw_name)
    return tuple(sorted(names - {"root"}))


def _uids() -> set[int]:
    """Return the uids of all processes that live; a zombie does not."""
    if sys.platform != "linux":
        import psutil

        return {found.real for one in psutil.process_iter(["uids"]) if (found := one.info["uids"])}
    uids = set()
    for entry in Path("/proc").glob("[0-9]*"):  # psutil takes ten times as long for each process
        with contextlib.suppress(OSError):
            uid = entry.stat().st_uid
            if uid not in uids and not is_zombie(int(entry.name)):
                uids.add(uid)
    return uids
