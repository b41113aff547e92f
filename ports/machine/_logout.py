"""What logout does to processes that should outlive it, and what to do about it."""

from __future__ import annotations

from ports.probe import logout_ends
from ports.state import paths

LOGOUT_HINT = "run `loginctl enable-linger` once to keep them"


def logout_warning() -> str | None:
    """Return a sentence if logout ends sessions on this machine, with what to do about it; None if it does not.

    With ``KillUserProcesses=yes`` systemd-logind kills the processes of a user at logout, unless the user lingers.
    """
    if not logout_ends(paths.user_name()):
        return None
    return f"this machine ends your processes when you log out; {LOGOUT_HINT}"
