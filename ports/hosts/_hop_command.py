"""The command that leads on from a jump host which prohibits forwarding: nc there, else python3, else bash; pure."""

from __future__ import annotations

import re

from ports.errors import SSHError

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


def line(hostname: str, port: int) -> str:
    """Return the line for any login shell that connects its standard input and output to a port.

    Raises
    ------
    SSHError
        The name is none that a shell could be handed.
    """
    if not re.fullmatch(r"[\w.:%][\w.:%-]*", hostname):
        raise SSHError(hostname, f"the name {hostname!r} cannot be handed to a shell; name the host by another")
    assert not set(_SCRIPT) & set("'\\!\n")
    return f"exec sh -c '{_SCRIPT}' {hostname} {port}"
