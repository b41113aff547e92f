"""What is on disk: settings, paths, records, locks, tokens.

>>> from ports import state
>>> state.paths.check_name("main")
'main'
>>> state.paths.check_name("Main cluster")
Traceback (most recent call last):
    ...
ports.errors.InvalidNameError: 'Main cluster' is not a name; use a letter a-z, then up to 30 of a-z, 0-9 and '-'
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ports.probe import face

if TYPE_CHECKING:
    from ports.state import paths as paths
    from ports.state import records as records
    from ports.state import settings as settings
    from ports.state.host import record_this_interpreter as record_this_interpreter
    from ports.state.private import exchangeable as exchangeable
    from ports.state.private import is_private as is_private
    from ports.state.private import make_private as make_private
    from ports.state.records import ProcessId as ProcessId
    from ports.state.records import Record as Record
    from ports.state.runtime import locked as locked
    from ports.state.runtime import prune_runtime as prune_runtime
    from ports.state.runtime import runtime_directory as runtime_directory
    from ports.state.tokens import ensure_token as ensure_token
    from ports.state.waiting import said_when_slow as said_when_slow
    from ports.state.waiting import tell as tell
    from ports.state.waiting import telling as telling
    from ports.state.waiting import wait_until as wait_until
else:
    __getattr__, __dir__, __all__ = face(
        __name__,
        {
            "host": ("record_this_interpreter",),
            "private": (
                "exchangeable",
                "is_private",
                "make_private",
            ),
            "runtime": (
                "locked",
                "prune_runtime",
                "runtime_directory",
            ),
            "records": (
                "ProcessId",
                "Record",
            ),
            "tokens": ("ensure_token",),
            "waiting": ("said_when_slow", "tell", "telling", "wait_until"),
        },
        modules=(
            "paths",
            "records",
            "settings",
        ),
    )
