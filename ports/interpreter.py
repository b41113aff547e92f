"""The interpreter in which `ports` last ran on this machine: commands that come over SSH take it."""

from __future__ import annotations

import os
import sys

from ports import paths, records
from ports._version import VERSION
from ports.errors import RecordError


def remember() -> None:
    """Record this interpreter in ``host.json``; raises StoreError."""
    host = paths.make_state().host
    now = {
        "format": records.FORMAT,
        "id": paths.machine(),
        "name": os.uname().nodename,
        "python": sys.executable,
        "version": VERSION,
    }
    try:
        unchanged = records.read_json(host) == now
    except RecordError:
        unchanged = False
    if not unchanged:
        records.write_json(host, now)
