"""Whose a listener is: looked at before anything is said to it, whatever a record says.

A record names a port. Where what listened there has ended, any user of the machine may listen there since.
"""

from __future__ import annotations

import os
import socket
import sys

from ports.errors import ForeignListenerError
from ports.probe import holder_of, peer_uid, user_name


def check(address: str, hint: str) -> bool | None:
    """Raise ForeignListenerError where a connection to `address` would reach another user.

    Parameters
    ----------
    address : str
        ``127.0.0.1:8888``, or as Dask writes it, ``tls://127.0.0.1:8786``. What is no address of the internet (a Unix
        socket, whose peer tells the uid) passes.
    hint : str
        What to do then, for the error.

    Returns
    -------
    bool or None
        True: it is this user's. False: nothing listens there. None: it cannot be known here.
    """
    protocol, _, place = address.rpartition("://")
    if os.name == "nt" or protocol not in ("", "tcp", "tls"):
        return None
    try:
        holder = holder_of(place)
    except (ValueError, OSError):
        return None
    if holder is None:
        return False if sys.platform == "linux" else None  # elsewhere others' listeners are not shown
    _check_uid(holder[0], address, hint)
    return True


def is_own_address(address: str) -> bool:
    """Tell whether the IPv4 `address` is this machine's: only on such a one can a socket be bound."""
    with socket.socket() as trial:
        try:
            trial.bind((address, 0))
        except OSError:
            return False
    return True


def connect(port: int, hint: str, *, timeout: float) -> socket.socket:
    """Return a connection to this user's own listener on `port` of 127.0.0.1.

    It is looked at before and after: one that was exchanged meanwhile may be anybody's, and so may one that was not
    there and one of which nothing is known. Where the system shows no listener of others it takes what is there.

    Raises
    ------
    ForeignListenerError
        Another user listens there.
    OSError
        Nothing listens there, or it changed hands in this moment.
    """
    place = f"127.0.0.1:{port}"
    before = _own_holder(place, hint)
    if before is None and sys.platform == "linux":
        raise ConnectionRefusedError(f"nothing listens on {place}")
    connection = socket.create_connection(("127.0.0.1", port), timeout)
    try:
        if _own_holder(place, hint) != before and sys.platform == "linux":
            raise ConnectionAbortedError(f"{place} changed hands in this moment")
    except BaseException:
        connection.close()
        raise
    return connection


def _own_holder(place: str, hint: str) -> tuple[int, int] | None:
    """Return uid and inode of the listener at `place`; None where nothing listens, or that is not shown."""
    try:
        holder = holder_of(place)
    except OSError:
        if sys.platform == "linux":
            raise
        return None
    if holder is not None:
        _check_uid(holder[0], place, hint)
    return holder


def _check_uid(uid: int, address: str, hint: str) -> None:
    if uid != os.getuid():
        raise ForeignListenerError(address, user_name(uid), hint)


def check_socket(path: str, hint: str) -> None:
    """Raise ForeignListenerError where the Unix socket at `path` is another user's: it is not even connected to."""
    try:
        owner = os.lstat(path).st_uid
    except OSError:
        return  # to connect tells why
    if owner != os.getuid():
        raise ForeignListenerError(path, user_name(owner), hint)


def check_connection(connection: socket.socket, path: str, hint: str) -> None:
    """Raise ForeignListenerError where another user listens at the other end of a connection to a Unix socket.

    The kernel says who; `check_socket` looks at a name, which may have been exchanged since.
    """
    uid = peer_uid(connection)
    if uid is not None and uid != os.getuid():
        raise ForeignListenerError(path, user_name(uid), hint)
