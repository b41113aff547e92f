"""Which user a listener belongs to: checked before anything is sent to it, whatever a record says.

A record names a port. If the service there has ended, any user of the machine can listen on that port now.
"""

from __future__ import annotations

import os
import socket
import sys

from ports.errors import ForeignListenerError
from ports.probe import holder_of, peer_uid, user_name


def check(address: str, hint: str) -> bool | None:
    """Raise ForeignListenerError if a connection to `address` would reach another user.

    Parameters
    ----------
    address : str
        ``127.0.0.1:8888``, or as Dask writes it, ``tls://127.0.0.1:8786``. Other addresses pass: at a Unix socket, the
        kernel names the user at the other end.
    hint : str
        What to do about it, for the error.

    Returns
    -------
    bool or None
        True: it is this user's. False: nothing listens there. None: it cannot be known here.
    """
    protocol, _, host_port = address.rpartition("://")
    if os.name == "nt" or protocol not in ("", "tcp", "tls"):
        return None
    try:
        holder = holder_of(host_port)
    except (ValueError, OSError):
        return None
    if holder is None:
        return False if sys.platform == "linux" else None  # other systems do not show others' listeners
    _check_uid(holder[0], address, hint)
    return True


def is_own_address(address: str) -> bool:
    """Tell whether the IPv4 `address` is this machine's: a socket can be bound to no other."""
    with socket.socket() as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
    return True


def connect(port: int, hint: str, *, timeout: float) -> socket.socket:
    """Return a connection to this user's own listener on `port` of 127.0.0.1.

    The listener is checked before and after connecting, as another user may have taken the port in between. On systems
    that do not show others' listeners, it connects to whatever listens there.

    Raises
    ------
    ForeignListenerError
        Another user listens there.
    OSError
        Nothing listens there, or its owner changed just now.
    """
    address = f"127.0.0.1:{port}"
    before = _own_holder(address, hint)
    if before is None and sys.platform == "linux":
        raise ConnectionRefusedError(f"nothing listens on {address}")
    connection = socket.create_connection(("127.0.0.1", port), timeout)
    try:
        if _own_holder(address, hint) != before and sys.platform == "linux":
            raise ConnectionAbortedError(f"{address} changed its owner just now")
    except BaseException:
        connection.close()
        raise
    return connection


def _own_holder(address: str, hint: str) -> tuple[int, int] | None:
    """Return uid and inode of the listener at `address`; None if nothing listens there, or none is shown."""
    try:
        holder = holder_of(address)
    except OSError:
        if sys.platform == "linux":
            raise
        return None
    if holder is not None:
        _check_uid(holder[0], address, hint)
    return holder


def _check_uid(uid: int, address: str, hint: str) -> None:
    if uid != os.getuid():
        raise ForeignListenerError(address, user_name(uid), hint)


def check_socket(path: str, hint: str) -> None:
    """Raise ForeignListenerError if the Unix socket at `path` is another user's; nothing connects to it."""
    try:
        owner = os.lstat(path).st_uid
    except OSError:
        return  # connecting to it says why
    if owner != os.getuid():
        raise ForeignListenerError(path, user_name(owner), hint)


def check_connection(connection: socket.socket, path: str, hint: str) -> None:
    """Raise ForeignListenerError if another user listens at the other end of a connection to a Unix socket.

    The kernel names that user. `check_socket` looks at a path, and the file there may have been replaced since.
    """
    uid = peer_uid(connection)
    if uid is not None and uid != os.getuid():
        raise ForeignListenerError(path, user_name(uid), hint)
