"""Where a link is served on this machine: at a port of the loopback, at a Unix socket, or to the network."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import machine
from ports.errors import ConflictError, PortInUseError, PortsError, SharedMachineError, UsageError
from ports.listeners import links
from ports.probe import callers
from ports.state import settings
from ports.tunnels import _records as tunnel_records
from ports.tunnels._event_loop import LOOPBACK, bind, bind_first
from ports.tunnels._services import Service
from ports.tunnels._visitors import Visitors

_EVERYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, kw_only=True)
class LocalAddress:
    """Where the links of one `ports open` are served on this machine, and to whom.

    Parameters
    ----------
    port : int, optional
        The local port; 0 for any free one. Default: the usual port of each link.
    address : str, optional
        Address of this machine to listen on, instead of the loopback.
    public : bool
        Others on the network can use the link.
    socket : str, optional
        Path of a Unix socket to serve at, instead of a port; only this user can connect to it.
    share : bool
        Other users of this machine can use the link. Otherwise the kernel is asked which user each connection is from.
    """

    port: int | None = None
    address: str | None = None
    public: bool = False
    socket: str | None = None
    share: bool = False

    @property
    def is_one(self) -> bool:
        """Whether it is for one link only."""
        return self.port is not None or self.socket is not None

    def check(self) -> None:
        """Raise UsageError if the parts contradict each other."""
        if self.address is not None and not self.public:
            raise UsageError(
                f"on {self.address}, others on the network can use the link; pass --public if you want that"
            )
        if self.public and self.address is None:
            raise UsageError("public needs an address to listen on; pass --bind ADDRESS (0.0.0.0 for all)")
        if self.socket is not None and not hasattr(socket, "AF_UNIX"):
            raise UsageError(f"Python has no Unix sockets on Windows, so no {self.socket}; leave out --local-socket")
        if self.socket is not None and (self.port is not None or self.address is not None):
            raise UsageError(f"the Unix socket {self.socket} has no port and no address; leave out one of them")

    @property
    def host(self) -> str:
        """The name of this machine in links."""
        return "localhost" if self.address is None or self.address in _EVERYWHERE else self.address

    @property
    def address_here(self) -> str:
        """The address by which this machine itself connects."""
        return "127.0.0.1" if self.address is None else _EVERYWHERE.get(self.address, self.address)


@dataclass(frozen=True)
class Bound:
    """The sockets that were bound for a tunnel, its usual port, and what the user should know."""

    sockets: list[socket.socket]
    usual: int | None = None
    note: str | None = None

    def close(self) -> None:
        """Free the ports."""
        for one in self.sockets:
            one.close()


def take(local: LocalAddress, service: Service, what: tuple[str, str | None, str | None]) -> Bound:
    """Bind the local port or socket of `service`.

    Parameters
    ----------
    what : tuple
        Host, kind and name, by which another `ports open` of the same is recognised.

    Raises
    ------
    SharedMachineError
        Other users are on this machine, it does not show which user a connection is from, and the service asks for no
        password.
    PortInUseError
        The requested port is in use; the error says by whom.
    PortsError
        No port or socket can be opened.
    """
    if visitors(local, service) is not None and not service.token and not callers.kernel_tells():
        others = machine.other_users()
        if others:
            raise SharedMachineError(f"{service.host}:{service.name}", others)
    if local.socket is not None:
        return Bound([bind_path(Path(local.socket))])
    limits = settings.get("open")
    first, last = int(limits["first_port"]), int(limits["last_port"])
    usual = tunnel_records.port_of(service, first, last) if local.port is None else local.port
    addresses = LOOPBACK if local.address is None else (local.address,)
    try:
        bound = bind(usual, addresses)
        return Bound(bound, usual or None, _seen_by_others(local, bound))
    except PortInUseError as error:
        user = tunnel_records.port_user(usual, what)
        if local.port is not None:
            raise PortInUseError(usual, user) from error
    later = tunnel_records.remembered_port(service, first, last)  # another one where `usual` is the service's own
    candidates = itertools.chain([later] if later != usual else [], links.next_ports(later, first, last))
    bound = bind_first(candidates, addresses)
    port = bound[0].getsockname()[1]
    note = f"port {usual} is used by {user}; using {port} until {usual} is free"
    return Bound(bound, usual, "; ".join(filter(None, (note, _seen_by_others(local, bound)))))


def visitors(local: LocalAddress, service: Service) -> Visitors | None:
    """Return what decides which connections the link of `service` lets in; None: all that reach it."""
    if local.share or local.public or local.socket or settings.get("open.share"):
        return None
    return Visitors(f"{service.host}:{service.name}", asks_for_password=bool(service.token))


def _seen_by_others(local: LocalAddress, bound: list[socket.socket]) -> str | None:
    """Return a note of how others reach a link on all addresses: the link itself works on this machine only."""
    port = bound[0].getsockname()[1]
    return f"from the network it is port {port} of {socket.gethostname()}" if local.address in _EVERYWHERE else None


def bind_path(path: Path) -> socket.socket:
    """Return a socket bound to the Unix socket `path`, 0600 from birth. One that a dead process left is replaced.

    Raises
    ------
    ConflictError
        Something else is at that path, or a process listens there.
    PortsError
        The socket cannot be made.
    """
    path = path.expanduser().absolute()
    half = socket.socket(socket.AF_UNIX)
    try:
        if path.is_socket() and path.lstat().st_uid == os.getuid() and not _is_served(path):
            path.unlink()
        before = os.umask(0o177)
        try:
            half.bind(str(path))
        finally:
            os.umask(before)
        half.listen(512)
        half.setblocking(False)
    except (OSError, ValueError) as error:
        half.close()
        if path.exists():
            raise ConflictError(f"{path} exists; name another path, or remove it") from error
        reason = getattr(error, "strerror", None) or str(error)
        raise PortsError(f"the Unix socket {path} cannot be made: {reason}") from error
    return half


def where(bound: list[socket.socket], local: LocalAddress) -> tuple[str, int] | str:
    """Return where this machine connects to what was bound."""
    name: Any = bound[0].getsockname()
    return name if isinstance(name, str) else (local.address_here, int(name[1]))


def _is_served(path: Path) -> bool:
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as asked:
        asked.settimeout(2)
        asked.connect(str(path))
        return True
    return False
