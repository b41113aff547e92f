"""What this machine is called at home, and what to type there. It is computed here, where the notebook runs."""

from __future__ import annotations

import shlex
import socket
from collections.abc import Mapping, Sequence

from ports import probe
from ports.errors import PortsError
from ports.hosts import targets
from ports.listeners import links
from ports.state import paths, settings


def alias() -> str:
    """Return what this machine is called in ``~/.ssh/config`` at home.

    It is the setting ``alias``, else what `ports` at home called this machine, else a guess, its short name.
    """
    return str(settings.get("alias") or _told() or short_name())


def short_name() -> str:
    """Return the name of this machine without its domain."""
    return socket.gethostname().partition(".")[0]


def is_guess() -> bool:
    """Tell whether nothing is known of the alias."""
    return not (settings.get("alias") or _told())


def guess_note() -> str | None:
    """Return in words that the alias is a guess; None where it is known."""
    return targets.guess(alias()) if is_guess() else None


def guess_in_brackets() -> str:
    """Return what follows a command with the alias: that it is a guess, or nothing."""
    return f" ({note})" if (note := guess_note()) else ""


def last_alias(clients: Sequence[Mapping[str, str]], address: str) -> str | None:
    """Return the alias that the last client used, of those at `address` where there is one. Pure.

    Parameters
    ----------
    clients : sequence
        Rows with ``alias`` and ``address``, the last one last. What is no alias is left out.
    address : str
        From which this session was reached; empty if it was not reached by ssh.
    """
    valid = [one for one in clients if _is_alias(one["alias"])]
    from_there = [one for one in valid if address and one["address"] == address]
    return next((one["alias"] for one in reversed(from_there or valid)), None)


def _told() -> str | None:
    """Return the alias that `ports` at home told, None where that is unknown."""
    try:
        paths.here()  # refuses a directory of records that is another user's
        return last_alias(probe.clients.known_clients(), probe.clients.client_address())
    except (PortsError, OSError, ValueError):
        return None


def _is_alias(text: str) -> bool:
    try:
        found = targets.parse(text)
    except PortsError:
        return False
    return found.name is None and found.port is None


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
