"""What logout does to processes that should outlive it: systemd-logind's KillUserProcesses, and lingering."""

from __future__ import annotations

from pathlib import Path

from ports import paths


def warning() -> str | None:
    """Say what ends sessions at logout on this machine, and the way out; None where nothing does.

    systemd-logind kills a user's processes where ``KillUserProcesses=yes``, except for users who linger.
    """
    if not Path("/run/systemd/system").exists() or not _kills_user_processes():
        return None
    user = paths.user_name()
    if Path("/var/lib/systemd/linger", user).exists():
        return None
    return "this machine ends your processes when you log out; run `loginctl enable-linger` once to keep them"


def _kills_user_processes() -> bool:
    """Return logind's KillUserProcesses, from its files in the order in which systemd reads them."""
    kills = False
    files = [Path("/etc/systemd/logind.conf")]
    dropins: dict[str, Path] = {}
    for place in ("/usr/lib/systemd", "/run/systemd", "/etc/systemd"):
        dropins.update({path.name: path for path in Path(place, "logind.conf.d").glob("*.conf")})
    for file in [*files, *(dropins[name] for name in sorted(dropins))]:
        try:
            lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip() == "KillUserProcesses":
                kills = value.strip().lower() in ("yes", "true", "1", "on")
    return kills
