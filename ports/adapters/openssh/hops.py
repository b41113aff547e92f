"""Ways from a jump host to the next host: sshd's forwarding, and where that is prohibited, a command there."""

from __future__ import annotations

import contextlib
import re
import shlex
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
# each in its own way. What nc cannot do, it does not say without -v, which in some of them asks for names; and without
# -N or -q it stays when the near end has gone.
_SCRIPT = (
    "if command -v nc >/dev/null 2>&1; then "
    'case $(nc -h 2>&1) in *-N*) N=-N;; *"-q "*) N="-q 0";; *) N=;; esac; '
    'nc $N "$0" "$1" && exit 0; echo "relay: connect failed: by nc to $0 port $1" >&2; exit 1; fi; '
    'if command -v python3 >/dev/null 2>&1; then exec python3 -I -S -c "' + _PYTHON + '" "$0" "$1"; fi; '
    "if command -v bash >/dev/null 2>&1; then "
    'exec bash -c "exec 3<>/dev/tcp/$0/$1 || exit 1; (cat <&3; kill 0) & cat >&3; kill 0"; fi; '
    'echo "relay: no nc, python3 or bash there" >&2; exit 127'
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


def arguments(door: Door, host: Host, jump: str) -> list[str]:
    """Return what to ask the master to `jump` for, so that its standard input and output lead to `host`."""
    if door == "forward":
        return ["-W", "[%h]:%p", "--", jump]
    return ["-T", "--", jump, command(host)]


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
