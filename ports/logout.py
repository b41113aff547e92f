"""What logout does to processes that should outlive it, and the way out."""

from __future__ import annotations

from ports import paths
from ports.probe.logout import logout_ends

WAY_OUT = "run `loginctl enable-linger` once to keep them"


def warning() -> str | None:
    """Say what ends sessions at logout on this machine, and the way out; None where nothing does.

    systemd-logind kills a user's processes where ``KillUserProcesses=yes``, except for users who linger.
    """
    if not logout_ends(paths.user_name()):
        return None
    return f"this machine ends your processes when you log out; {WAY_OUT}"
