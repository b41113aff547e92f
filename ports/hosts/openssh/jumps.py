"""How a jump host leads to the next hop: by sshd's forwarding, or where that is prohibited, by a command there."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ports.errors import RecordError, StoreError
from ports.hosts._jump_command import jump_command
from ports.hosts._route import Hop
from ports.state import make_private, paths, records

JumpMethod = Literal["forward", "command"]
METHODS: tuple[JumpMethod, ...] = ("forward", "command")


def proxy_command(
    method: JumpMethod, hop: Hop, jump: str, ssh: Callable[[list[str]], list[str]], log: Path
) -> list[str]:
    """Return the command whose standard input and output lead to `hop`; raises as `jump_command`.

    Parameters
    ----------
    ssh : callable
        Makes the command that asks the master to `jump` for something.
    log : Path
        Gets its error messages.
    """
    if method == "forward":
        return ssh(["-E", str(log), "-W", "[%h]:%p", "--", jump])
    # of a proxy command of a connection that persists, ssh closes stderr; -E is for what ssh itself says
    return ["sh", "-c", 'exec "$@" 2>>"$0"', str(log), *ssh(["-T", "--", jump, jump_command(hop)])]


def quote(word: str) -> str:
    """Quote for the user's shell, which reads a ProxyCommand; ssh's own %h and %p stay, other % are doubled."""
    return shlex.quote(word if word == "[%h]:%p" else word.replace("%", "%%"))


def order(jump_key: str) -> tuple[JumpMethod, ...]:
    """Return the methods in the order in which to try them: the one that worked last time first."""
    with contextlib.suppress(RecordError, StoreError):
        kept = records.read_json(_record(jump_key))
        if kept is not None and kept.get("method") == "command":
            return ("command", "forward")
    return METHODS


def remember(jump_key: str, jump: str, method: JumpMethod) -> None:
    """Note which method works at a jump host; the first one needs no note."""
    record = _record(jump_key)
    with contextlib.suppress(RecordError, StoreError, OSError):  # without it, both are tried again
        if method == METHODS[0]:
            record.unlink(missing_ok=True)
        elif order(jump_key)[0] != method:
            make_private(paths.make_state().root / "jump-methods")
            records.write_json(record, {"format": records.FORMAT, "host": jump, "method": method})


def _record(jump_key: str) -> Path:
    return paths.here().root / "jump-methods" / f"{jump_key}.json"
