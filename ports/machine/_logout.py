"""What logout does to processes that should outlive it, and what to do about it."""

from __future__ import annotations

from pathlib import Path

from ports.probe import logout_ends
from ports.state import paths

LOGOUT_HINT = (
    "to keep them, run `loginctl enable-linger` once, and start them on this machine with `systemd-run --user --scope` "
    "before the command"
)


def logout_warning() -> str | None:
    """Return a sentence if logout ends sessions on this machine, with what to do about it; None if it does not.

    With ``KillUserProcesses=yes`` systemd-logind kills the processes of a login with it. It spares what the user's own
    manager runs, if the user lingers.
    """
    own = Path("/proc/self/cgroup")
    if not logout_ends(paths.user_name(), own.read_text(encoding="utf-8") if own.exists() else ""):
        return None
    return f"this machine ends your processes when you log out; {LOGOUT_HINT}"
