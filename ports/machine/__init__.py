"""How much of a machine each user has, what a fair share of it is, and its GPUs.

>>> from ports.machine import fair_share
>>> bob = fair_share.Other(user="bob", memory_bytes=20 * 2**30, cores=8)
>>> room = fair_share.Room(cores=32, memory_bytes=128 * 2**30, available_bytes=100 * 2**30, others=(bob,))
>>> fair_share.decide(room, {"n_workers": None, "threads_per_worker": None, "memory_limit": None}).explained
'6 workers × 4 threads, 8.3 GiB each: half of 100.0 GiB available, one other active'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.machine import fair_share as fair_share
    from ports.machine import gpus as gpus
    from ports.machine._logout import LOGOUT_HINT as LOGOUT_HINT
    from ports.machine._logout import logout_warning as logout_warning
    from ports.machine._people import other_users as other_users
    from ports.machine._usage import Usage as Usage
    from ports.machine._usage import User as User
    from ports.machine._usage import from_probe as from_probe
    from ports.machine._usage import from_row as from_row
    from ports.machine._usage import prune as prune
    from ports.machine._usage import room as room
    from ports.machine._usage import usage as usage
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_logout": (
                "LOGOUT_HINT",
                "logout_warning",
            ),
            "_people": ("other_users",),
            "_usage": (
                "Usage",
                "User",
                "from_probe",
                "from_row",
                "prune",
                "room",
                "usage",
            ),
        },
        modules=(
            "fair_share",
            "gpus",
        ),
    )
