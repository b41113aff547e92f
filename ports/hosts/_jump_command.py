"""The command that leads on from a jump host that prohibits forwarding: nc there, else python3, else bash. Pure."""

from __future__ import annotations

import re

from ports.errors import SSHError
from ports.hosts._route import Hop

_PYTHON = (
    "import os,socket,sys,threading;"
    "c=socket.create_connection((sys.argv[1],int(sys.argv[2])));"
    "c.setsockopt(6,1,1);"  # TCP_NODELAY
    "r=iter(lambda:os.read(0,65536),bytes());"
    "threading.Thread(target=lambda:(any(c.sendall(b) for b in r),c.shutdown(1)),daemon=True).start();"
    "any(os.write(1,b)<0 for b in iter(lambda:c.recv(65536),bytes()))"
)
# One line for any login shell, without `exec`: a restricted shell refuses it. The single quotes contain neither ', \,
# ! nor a newline: fish, tcsh and others each read these differently. `kill 0` ends the whole process group when either
# end has gone. Without it, nc would stay while it connects, and some versions of nc would stay always. An SSH server
# that is not OpenSSH's may run commands in its own group, which is seen by its leader: then this shell alone is ended.
_SCRIPT = (
    "k=0; if read a b c d g h </proc/$$/stat && v=$(cat /proc/$g/cmdline); then "
    "case $v in *relay:*) ;; *) k=$$;; esac; fi 2>/dev/null; "
    "(cat; kill $k 2>/dev/null) | ("
    'if command -v nc >/dev/null 2>&1; then w=nc; nc "$0" "$1"; '
    'elif command -v python3 >/dev/null 2>&1; then w=python3; python3 -I -S -c "' + _PYTHON + '" "$0" "$1"; '
    "elif command -v bash >/dev/null 2>&1; then w=bash; "
    'bash -c "exec 3<>/dev/tcp/$0/$1 || exit 1; cat <&0 >&3 & cat <&3"; '
    'else echo "relay: no nc, python3 or bash there" >&2; fi '
    '|| echo "relay: connect failed: by $w to $0 port $1" >&2; kill $k 2>/dev/null)'
)


def jump_command(hop: Hop) -> str:
    """Return the line for any login shell that connects its standard input and output to `hop`.

    Raises
    ------
    SSHError
        The name of `hop` cannot be passed to a shell safely.
    """
    if not re.fullmatch(r"[\w.:%][\w.:%-]*", hop.hostname):
        reason = f"the name {hop.hostname!r} cannot be passed to a shell safely; use another name of the host"
        raise SSHError(hop.alias, reason)
    assert not set(_SCRIPT) & set("'\\!\n")
    return f"sh -c '{_SCRIPT}' {hop.hostname} {hop.port}"
