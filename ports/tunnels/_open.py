"""Open links at home to what runs on other hosts, for as long as this process holds them.

::

    with ports.tunnels.open("server1:main") as tunnel:
        print(tunnel.url)

A target is ``HOST`` (all of one's clusters and notebook servers there), ``HOST:NAME`` or ``HOST:PORT``.
"""

from __future__ import annotations

from collections.abc import Iterable

from ports.errors import NotFoundError
from ports.tunnels._events import Event
from ports.tunnels._group import TunnelGroup
from ports.tunnels._local_address import LocalAddress


def open(
    target: str,
    *more: str,
    local_port: int | None = None,
    local: LocalAddress | None = None,
    owner: str | None = None,
    batch: bool | None = None,
) -> TunnelGroup:
    """Open links to all targets until they are closed; a context manager, whose `url` is the first link.

    A link that is open already, in this process or in another one, is not opened twice: the result has the same link,
    and its `close` leaves that open. A `local_port` opens it once more.

    Parameters
    ----------
    local_port : int, optional
        Port on this machine, for one link only; 0 picks a free one. Default: always the same for the same host and
        name.
    local : LocalAddress, optional
        More about where the links are served, and to whom; instead of `local_port`.
    owner : str, optional
        User whose listener may be opened, if a target names a port.
    batch : bool, optional
        Ask nobody for a password. Default: ask if there is a terminal.

    Raises
    ------
    PortsError
        The first failure, or NotFoundError if there is nothing to open. Nothing stays open then.
    """
    chosen = local or LocalAddress(port=local_port)
    group = open_many((target, *more), local=chosen, owner=owner, batch=batch)
    errors = [one.error for one in group.tunnels if one.error is not None]
    if errors or not any(one.ports or one.is_elsewhere for one in group.tunnels):
        group.close()
        raise errors[0] if errors else NotFoundError("cluster or notebook", target, "nothing of yours runs there")
    return group


def open_many(
    wanted: Iterable[str],
    *,
    on_event: Event | None = None,
    local: LocalAddress | None = None,
    owner: str | None = None,
    batch: bool | None = None,
) -> TunnelGroup:
    """Open links to all targets at once. A target that fails stays in the result with its error; the others open.

    Parameters
    ----------
    wanted : iterable of str
        Targets. None: the hosts of the setting ``hosts``.
    on_event : callable, optional
        Called with the row of a tunnel at each change, one at a time, in a thread of its own.

    Raises
    ------
    UsageError
        See `TunnelGroup.open`.
    """
    group = TunnelGroup(on_event=on_event)
    try:
        group.open(wanted, local=local, owner=owner, batch=batch, reuse=True)
    except BaseException:  # Ctrl-C at any moment leaves nothing
        group.close()
        raise
    return group
