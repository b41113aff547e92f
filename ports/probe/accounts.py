"""Which accounts of this machine are people's, and which are the system's."""

import re
import sys

if __name__ != "__main__":  # piped, these names are there already
    from .identity import read_bytes

MYPY = False
if MYPY:
    from typing import List  # noqa: F401 - in a comment

LOGIN_DEFS = "/etc/login.defs"
# These are in the range of people: systemd's dynamic services, and the account that a container shows for unknown ones.
SERVICES = (range(61184, 65520), range(65534, 65536))
NOBODY = 65534
FIRST = []  # type: List[int]


def first_person() -> int:
    """Return the lowest uid of people on this machine; lower ones are accounts of the system.

    It is ``UID_MIN`` of /etc/login.defs, which was 500 for long, but at most 1000: accounts of a directory service do
    not follow that file.
    """
    if not FIRST:
        found = re.findall(rb"^[ \t]*UID_MIN[ \t]+([0-9]+)", read_bytes(LOGIN_DEFS), re.MULTILINE)
        FIRST.append(500 if sys.platform == "darwin" else max(1, min(1000, int(found[-1]) if found else 1000)))
    return FIRST[0]


def is_person(uid: int) -> bool:
    """Tell whether a uid is a person's, and not a service's."""
    return uid >= first_person() and not any(uid in services for services in SERVICES)
