"""What is on disk: settings, paths, records, locks, tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.state import paths as paths
    from ports.state import records as records
    from ports.state import settings as settings
    from ports.state.host import record_this_interpreter as record_this_interpreter
    from ports.state.records import ProcessId as ProcessId
    from ports.state.records import Record as Record
    from ports.state.tokens import ensure_token as ensure_token
    from ports.state.waiting import wait_until as wait_until
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "host": ("record_this_interpreter",),
            "records": (
                "ProcessId",
                "Record",
            ),
            "tokens": ("ensure_token",),
            "waiting": ("wait_until",),
        },
        modules=(
            "paths",
            "records",
            "settings",
        ),
    )
