"""What logout does to processes that should outlive it, and the way out."""

from __future__ import annotations

from ports.probe import logout_ends
from ports.state import paths

LOGOUT_HINT = "run `loginctl enable-linger` once to keep them"


def logout_warning() -> str | None:
    """Say what ends sessions at logout on this machine, and the way out; None where nothing does.

    systemd-logind kills a user's processes where ``KillUserProcesses=yes``, except for users who linger.
    """
    if not logout_ends(paths.user_name()):
        return None
    return f"this machine ends your processes when you log out; {LOGOUT_HINT}"
