"""The route to a host as a checklist, and the removal of what dead processes left behind.

>>> from ports import doctor
>>> doctor.is_well([{"state": "ok"}, {"state": "warning"}])
True
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.doctor._examine import examine as examine
    from ports.doctor._examine import is_well as is_well
    from ports.doctor._prune import prune as prune
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "_examine": (
                "examine",
                "is_well",
            ),
            "_prune": ("prune",),
        },
    )
