"""Ways from a jump host to the next host: sshd's forwarding, and where that is prohibited, a command there."""

from __future__ import annotations

import contextlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from ports import paths, records
from ports.adapters.openssh.routes import Host
from ports.errors import RecordError, SSHError, StoreError

Door = Literal["forward", "command"]
DOORS: tuple[Door, ...] = ("forward", "command")

_PYTHON = (
    "import os,socket,sys,threading;"
    "c=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
    "c.setsockopt(6,1,1);"  # TCP_NODELAY
    "r=iter(lambda:os.read(0,65536),bytes());"
    "threading.Thread(target=lambda:(any(c.sendall(b) for b in r),c.shutdown(1)),daemon=True).start();"
    "any(os.write(1,b)<0 for b in iter(lambda:c.recv(65536),bytes()))"
)
# One line for any login shell: in the single quotes neither ', \, ! nor a line's end, which fish, tcsh and others read
# each in its own way. `kill 0` ends all of it, its process group, when either end has gone: nc while it connects, and
# some of them always, would stay.
_SCRIPT = (
    "(cat; kill 0) | ("
    'if command -v nc >/dev/null 2>&1; then w=nc; nc "$0" "$1"; '
    'elif command -v python3 >/dev/null 2>&1; then w=python3; python3 -I -S -c "' + _PYTHON + '" "$0" "$1"; '
    "elif command -v bash >/dev/null 2>&1; then w=bash; "
    'bash -c "exec 3<>/dev/tcp/$0/$1 || exit 1; (cat <&3; kill 0) & cat >&3"; '
    'else echo "relay: no nc, python3 or bash there" >&2; fi '
    '|| echo "relay: connect failed: by $w to $0 port $1" >&2; kill 0)'
)


def command(host: Host) -> str:
    """Return the line for the jump host's login shell that connects standard input and output to `host`.

    Raises
    ------
    SSHError
        The name of `host` is none that a shell could be handed.
    """
    if not re.fullmatch(r"[\w.:%-]+", host.hostname):
        raise SSHError(host.alias, f"{host.hostname!r} cannot be handed to a shell")
    assert not set(_SCRIPT) & set("'\\!\n")
    return f"exec sh -c '{_SCRIPT}' {host.hostname} {host.port}"


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
            paths.make_private(paths.make_state().root / "doors")
            records.write_json(record, {"format": records.FORMAT, "host": jump, "hop": door})


def _record(jump_key: str) -> Path:
    return paths.here().root / "doors" / f"{jump_key}.json"
