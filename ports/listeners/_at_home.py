"""What this machine is called at home, and what to type there. It is computed here, where the notebook runs."""

from __future__ import annotations

import shlex
import socket

from ports.listeners import links
from ports.state import paths, settings


def alias() -> str:
    """Return what this machine is called in ``~/.ssh/config`` at home: the setting ``alias``, else its short name."""
    return str(settings.get("alias") or socket.gethostname().partition(".")[0])


def open_command(name: str, local_port: int | None = None) -> str:
    """Return the command that opens the cluster or notebook server `name` at home."""
    command = ["ports", "open", f"{alias()}:{name}"]
    return shlex.join(command if local_port is None else [*command, "--local-port", str(local_port)])


def cluster_link(name: str, local_port: int | None = None) -> str:
    """Return the link of cluster `name`'s dashboard at home: its port follows from machine, user and name."""
    limits = settings.get("open")
    first, last = limits["first_port"], limits["last_port"]
    port = local_port or links.local_port(paths.machine(), paths.user_name(), f"cluster-{name}", first, last)
    return f"http://localhost:{port}/status"
