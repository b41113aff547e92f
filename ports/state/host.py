"""The interpreter in which `ports` last ran on this machine: commands that come over SSH take it.

What starts, stops or changes something records it, and so does `ports.client()`; what only looks does not, as it leaves
no file where there was none.
"""

from __future__ import annotations

import sys

from ports._version import VERSION
from ports.errors import RecordError, StoreError, UnsafePathError
from ports.state import paths, records


def record_this_interpreter() -> None:
    """Record this interpreter in ``host.json``; where the disk does not take it, the old one stays."""
    now = {
        "format": records.FORMAT,
        "id": paths.machine(),
        "name": paths.host_name(),
        "python": sys.executable,
        "version": VERSION,
    }
    try:
        host = paths.make_state().host
        try:
            unchanged = records.read_json(host) == now
        except RecordError:
            unchanged = False
        if not unchanged:
            records.write_json(host, now)
    except (StoreError, UnsafePathError):
        pass  # whatever this process is about to do says so, or does not need the disk
