"""Tokens of notebook servers and dashboards, in files that only this user can read. A name keeps its token."""

from __future__ import annotations

import secrets
from pathlib import Path

from ports import probe
from ports.state import records
from ports.state.private import make_private


def ensure_token(path: Path) -> None:
    """Write a token to `path` unless there is one already. A token that others may have read is replaced."""
    make_private(path.parent)
    if probe.read_token(str(path)) is not None:
        return
    records.write_text(path, secrets.token_hex(24) + "\n")
