"""What logout does to processes that should outlive it: KillUserProcesses of systemd-logind, and lingering."""

import glob
import os

MYPY = False
if MYPY:
    from typing import Any, Dict

    Json = Dict[str, Any]

LOGIND = "systemd/logind.conf"


def kills_user_processes() -> bool:
    """Return logind's KillUserProcesses; its files count in the order in which systemd reads them."""
    kills, dropins = False, {}
    for top in ("/usr/lib", "/run", "/etc"):
        for path in glob.glob(os.path.join(top, LOGIND + ".d", "*.conf")):
            dropins[os.path.basename(path)] = path
    for path in [os.path.join("/etc", LOGIND)] + [dropins[name] for name in sorted(dropins)]:
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                lines = file.readlines()
        except OSError:
            continue
        for line in lines:
            key, _, value = line.partition("=")
            if key.strip() == "KillUserProcesses":
                kills = value.strip().lower() in ("yes", "true", "1", "on")
    return kills


def logout_ends(user: str) -> bool:
    """Tell whether the processes of `user` end at logout: KillUserProcesses is set and the user does not linger."""
    if not os.path.exists("/run/systemd/system") or not kills_user_processes():
        return False
    return not os.path.exists(os.path.join("/var/lib/systemd/linger", user))
