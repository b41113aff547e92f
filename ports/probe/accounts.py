"""Which accounts of this machine are people's, and which are the system's."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from pathlib import Path

_LOGIN_DEFS = Path("/etc/login.defs")
# Among those of people: systemd's dynamic services; nobody, whom a container shows for those that it does not know.
_SERVICES = (range(61184, 65520), range(65534, 65536))
NOBODY = 65534


@functools.cache
def first_person() -> int:
    """Return the lowest uid of people on this machine; those below are accounts of the system.

    ``UID_MIN`` of /etc/login.defs, which was 500 for long, and at most 1000: accounts of a directory do not go by that
    file.
    """
    if sys.platform == "darwin":
        return 500
    with contextlib.suppress(OSError):
        text = _LOGIN_DEFS.read_text(encoding="utf-8", errors="replace")
        if found := re.findall(r"^[ \t]*UID_MIN[ \t]+([0-9]+)", text, re.MULTILINE):
            return max(1, min(1000, int(found[-1])))
    return 1000


def is_person(uid: int) -> bool:
    """Say whether a uid is a person's, and not a service's."""
    return uid >= first_person() and not any(uid in services for services in _SERVICES)
