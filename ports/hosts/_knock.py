"""Whether the network leads to a route's first hop: a connection that is begun again and again, until one is taken.

An attempt to log in sends a packet after 0, 1 and 3 seconds, so it sees late that the network is back.
"""

from __future__ import annotations

import errno
import selectors
import socket
import threading
import time
from collections.abc import Sequence
from typing import Any

from ports.hosts._route import Route

Address = tuple[socket.AddressFamily, Any]

_EVERY = 0.25  # seconds
_KEPT_SECONDS = 1.0  # for which a connection is awaited that was begun
_BEGUN = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, getattr(errno, "WSAEWOULDBLOCK", 0)}
_ANSWERS = {0, errno.ECONNREFUSED, getattr(errno, "WSAECONNREFUSED", errno.ECONNREFUSED)}


def first_addresses(route: Route) -> list[Address]:
    """Return the addresses to which a route begins; none where a command of the user's connects, or it is unknown."""
    hop = route.hops[0]
    if route.transport == "none" or hop.proxy_command is not None:
        return []
    try:
        found = socket.getaddrinfo(hop.hostname, hop.port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def await_answer(addresses: Sequence[Address], *, timeout: float, over: threading.Event) -> bool:
    """Wait until one of `addresses` takes or refuses a connection; False after `timeout` seconds, or once it is `over`.

    At most one connection is taken: it is closed without a word.
    """
    end = time.monotonic() + timeout
    with selectors.DefaultSelector() as selector:
        try:
            while time.monotonic() < end and not over.is_set():
                if _begin(addresses, selector) or _taken(selector):
                    return True
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]
    return False


def _begin(addresses: Sequence[Address], selector: selectors.BaseSelector) -> bool:
    """Begin a connection to each address; return whether one stands already."""
    for family, address in addresses:
        try:
            begun = socket.socket(family, socket.SOCK_STREAM)
        except OSError:  # no such family here, or too many files are open
            continue
        begun.setblocking(False)
        code = begun.connect_ex(address)
        if code in _BEGUN:
            selector.register(begun, selectors.EVENT_WRITE, time.monotonic())
            continue
        begun.close()
        if code in _ANSWERS:
            return True
    return False


def _taken(selector: selectors.BaseSelector) -> bool:
    """Wait a moment; return whether one of the connections was taken or refused, and give up the old ones."""
    end = time.monotonic() + _EVERY
    while (left := end - time.monotonic()) > 0:
        if not selector.get_map():
            time.sleep(left)
            return False
        for key, _ in selector.select(left):
            assert isinstance(key.fileobj, socket.socket)
            if key.fileobj.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) in _ANSWERS:
                return True
            _drop(selector, key.fileobj)
    for key in list(selector.get_map().values()):
        assert isinstance(key.fileobj, socket.socket)
        if time.monotonic() - key.data > _KEPT_SECONDS:
            _drop(selector, key.fileobj)
    return False


def _drop(selector: selectors.BaseSelector, begun: socket.socket) -> None:
    selector.unregister(begun)
    begun.close()
