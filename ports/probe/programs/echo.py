"""Something to forward to: a TCP port on loopback and a Unix socket that send back what they get, for some seconds.

`ports doctor` finds out through them what a server's sshd permits, and how long a round trip takes. They answer only
connections that begin with the secret of the request, and end with the ssh session that started them.
"""

import os
import select
import shutil
import signal
import socket
import sys
import tempfile
import time

if __name__ != "__main__":  # piped, these names are there already
    from ..answer import send

MYPY = False
if MYPY:
    from typing import Any, Dict, List, Set  # noqa: F401 - in comments

    Json = Dict[str, Any]

MOST_CONNECTIONS = 32


def serve(listeners: "List[socket.socket]", secret: bytes, seconds: float) -> None:
    """Send back all that comes on connections that begin with `secret`, for `seconds` or until nobody reads stdout."""
    poller = select.poll()
    poller.register(1, 0)  # even so there is an event when the reader is gone
    known = {one.fileno(): one for one in listeners}  # type: Dict[int, socket.socket]
    own, admitted = set(known), set()  # type: Set[int], Set[int]
    for number in own:
        poller.register(number, select.POLLIN)
    end = time.time() + seconds
    while time.time() < end:
        for number, _ in poller.poll(200):
            if number == 1:
                return
            if number in own:
                connection = known[number].accept()[0]
                if len(known) >= MOST_CONNECTIONS:
                    connection.close()
                    continue
                connection.settimeout(2)
                if connection.family == socket.AF_INET:
                    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                known[connection.fileno()] = connection
                poller.register(connection.fileno(), select.POLLIN)
            elif not send_back(known[number], secret, number in admitted):
                poller.unregister(number)
                admitted.discard(number)
                known.pop(number).close()
            else:
                admitted.add(number)


def send_back(connection: "socket.socket", secret: bytes, is_admitted: bool) -> bool:
    """Send back what is there; False where the connection is to be closed."""
    try:
        data = connection.recv(65536)
        if not data or not (is_admitted or data.startswith(secret)):
            return False
        connection.sendall(data)
    except OSError:
        return False
    return True


def echo(request: "Json") -> None:
    """Listen, say where in one line, and serve."""
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(0))
    directory = tempfile.mkdtemp(prefix="ports-echo-")  # 0700
    try:
        port = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        port.bind(("127.0.0.1", 0))
        path = os.path.join(directory, "s")
        unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        unix.bind(path)
        for one in (port, unix):
            one.listen(16)
        send(request, {"port": port.getsockname()[1], "path": path})
        serve([port, unix], request["secret"].encode(), request["seconds"])
    finally:
        shutil.rmtree(directory, ignore_errors=True)
