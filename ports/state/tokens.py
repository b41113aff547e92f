"""Tokens of notebook servers and dashboards: in files of this user alone, the same today and tomorrow."""

from __future__ import annotations

import secrets
from pathlib import Path

from ports import probe
from ports.state import paths, records


def ensure_token(path: Path) -> None:
    """Make sure that a token is at `path`; one that others may have read is replaced."""
    paths.make_private(path.parent)
    if probe.read_token(str(path)) is not None:
        return
    records.write_text(path, secrets.token_hex(24) + "\n")
