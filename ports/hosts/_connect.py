"""Connect to the end of a route, by the transport that the route names."""

from __future__ import annotations

from collections.abc import Callable

from ports.errors import ConnectionLostError
from ports.hosts._connection import Completed, Connection, NothingRanError
from ports.hosts._route import Route


def connect(route: Route, *, batch: bool | None = None, timeout: float | None = None, warm: bool = False) -> Connection:
    """Return a connection to the end of `route`, made where none runs.

    Parameters
    ----------
    batch : bool, optional
        Nobody is asked for a passphrase, password or code. Default: ask where there is a terminal.
    timeout : float, optional
        Seconds that it may take. Default: the settings'.
    warm : bool
        Let a new connection execute something, so that the server does not delay small packets; a caller that runs
        something at once does not need it.

    Raises
    ------
    UnknownHostError, HostKeyError, LoginNeededError, ProhibitedError, NetworkError, SSHError
        There is no connection; the message names the hop that failed.
    """
    if route.transport == "ssh":
        from ports.hosts import openssh

        return openssh.SSHConnection(route, openssh.start(route, batch=batch, timeout=timeout, warm=warm))
    if route.transport == "none":
        from ports.hosts import _this_machine

        return _this_machine.LocalConnection(route)
    from ports.hosts import paramiko

    return paramiko.ParamikoConnection(route, paramiko.connect(route, batch=batch, timeout=timeout))


def run(
    route: Route,
    command: str,
    *,
    input: bytes = b"",
    timeout: float = 60.0,
    batch: bool | None = None,
    repeatable: bool = False,
    on_start: Callable[[], None] | None = None,
) -> Completed:
    """Connect, and run a line of the login shell there as `Connection.run` does.

    Parameters
    ----------
    repeatable : bool
        It may be run twice: where a connection from before turns out to be dead, a new one is made.
    """
    for attempt in (1, 2):
        connection = connect(route, batch=batch)
        try:
            return connection.run(command, input=input, timeout=timeout, on_start=on_start)
        except ConnectionLostError as error:
            connection.give_up()
            again = isinstance(error, NothingRanError) or (repeatable and not connection.is_fresh)
            if attempt == 2 or not again:
                raise ConnectionLostError(error.host, error.reason) from error
    raise AssertionError("two attempts return or raise")


def is_connected(route: Route) -> bool:
    """Tell whether a connection to the end of `route` is kept; it may be dead all the same."""
    if route.transport == "ssh":
        from ports.hosts import openssh

        return openssh.running(route.end) is not None
    if route.transport == "none":
        return True
    from ports.hosts import paramiko

    return paramiko.is_connected(route)


def login_keys(route: Route) -> frozenset[object] | None:
    """Return what there is to log in with, where a new key may help; None where only a login does.

    What paramiko connects lives in one process: nobody can log in for another, but a key can be loaded.
    """
    if route.transport in ("ssh", "none"):
        return None
    from ports.hosts import paramiko

    return paramiko.keys(route)
