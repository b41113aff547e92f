"""The interpreter in which `ports` last ran on this machine. Commands that arrive over SSH use it.

Commands that start, stop or change something record it, and so does `ports.client()`. Commands that only look do not,
because they must create no files.
"""

from __future__ import annotations

from ports.errors import RecordError, StoreError, UnsafePathError
from ports.state import paths, records


def record_this_interpreter() -> None:
    """Record this interpreter in ``host.json``. If that cannot be written, the old record stays."""
    try:
        host = paths.make_state().host
        try:
            before = records.read_json(host) or {}
        except RecordError:
            before = {}
        now = paths.this_machine(before)
        if before != now:
            records.write_json(host, now)
    except (StoreError, UnsafePathError):
        pass  # the next step of this process reports it, or does not need the disk
