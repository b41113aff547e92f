"""Ways from a jump host to the next host: sshd's forwarding, and where that is prohibited, a command there."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ports.errors import RecordError, SSHError, StoreError
from ports.hosts import _hop_command
from ports.hosts.openssh.ssh_config import Host
from ports.state import make_private, paths, records

Door = Literal["forward", "command"]
DOORS: tuple[Door, ...] = ("forward", "command")


def command(host: Host) -> str:
    """Return the line for the jump host's login shell that connects standard input and output to `host`.

    Raises
    ------
    SSHError
        The name of `host` is none that a shell could be handed.
    """
    try:
        return _hop_command.line(host.hostname, host.port)
    except SSHError as error:
        raise SSHError(host.alias, error.reason) from None


def proxy_command(door: Door, host: Host, jump: str, ssh: Callable[[list[str]], list[str]], log: Path) -> list[str]:
    """Return the command whose standard input and output lead to `host`.

    Parameters
    ----------
    ssh : callable
        Makes the command that asks the master to `jump` for something.
    log : Path
        Gets what is said of it.
    """
    if door == "forward":
        return ssh(["-E", str(log), "-W", "[%h]:%p", "--", jump])
    # of a proxy command of a connection that persists, ssh closes stderr; -E is for what ssh itself says
    return ["sh", "-c", 'exec "$@" 2>>"$0"', str(log), *ssh(["-T", "--", jump, command(host)])]


def quote(word: str) -> str:
    """Quote for the user's shell, which reads a ProxyCommand; ssh's own %h and %p stay, other % are doubled."""
    return shlex.quote(word if word == "[%h]:%p" else word.replace("%", "%%"))


def order(jump_key: str) -> tuple[Door, ...]:
    """Return the doors in the order in which to try them: the one that worked last time first."""
    with contextlib.suppress(RecordError, StoreError):
        kept = records.read_json(_record(jump_key))
        if kept is not None and kept.get("hop") == "command":
            return ("command", "forward")
    return DOORS


def remember(jump_key: str, jump: str, door: Door) -> None:
    """Note which door leads on from a jump host; the first one needs no note."""
    record = _record(jump_key)
    with contextlib.suppress(RecordError, StoreError, OSError):  # without it, both are tried again
        if door == DOORS[0]:
            record.unlink(missing_ok=True)
        elif order(jump_key)[0] != door:
            make_private(paths.make_state().root / "doors")
            records.write_json(record, {"format": records.FORMAT, "host": jump, "hop": door})


def _record(jump_key: str) -> Path:
    return paths.here().root / "doors" / f"{jump_key}.json"
