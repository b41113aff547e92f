"""My clusters, notebook servers and other listeners, on this machine or on others."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ports import probe
from ports.errors import PortsError, warn
from ports.listeners._from_probe import from_probe
from ports.listeners._listener import Listener


def list(
    host: str | None = None, *, all_users: bool = False, port: int | None = None, batch: bool | None = None
) -> tuple[Listener, ...]:
    """Return my clusters, notebook servers and other listeners.

    Warnings of the host, such as a record that cannot be read, are shown as `UserWarning`, or collected, see
    `ports.errors.collecting_warnings`. If its name leads to several
    nodes that share a home, what was started on another node is listed, too, with the host ``alias/node``.

    Parameters
    ----------
    host : str, optional
        An alias of ``~/.ssh/config``; the host needs only python3. Default: this machine.
    all_users : bool
        Add other users' listeners, as port and owner only.
    port : int, optional
        Only what listens on this port, of any user.
    batch : bool, optional
        Nobody is asked for a passphrase, password or code; threads want that. Default: ask where there is a terminal.

    Raises
    ------
    LoginNeededError
        With `batch`: a person must log in first.
    SSHError
        The host cannot be reached, or the probe failed there.
    """
    request = {"all": all_users, "port": port}
    document = probe.probe(request) if host is None else _ask(host, request, batch)
    for warning in document["warnings"]:
        warn(f"{host or 'this machine'}: {warning}")
    if host is None and not document["clusters"] and not document["notebooks"]:
        _warn_of_a_former_name()
    found = builtins.list(from_probe(document, host))
    for node in document["elsewhere"]:
        try:
            found += list(f"{host}/{node['node']}", all_users=all_users, port=port, batch=batch)
        except PortsError as error:
            warn(str(error))
    return tuple(found)


def _ask(host: str, request: dict[str, Any], batch: bool | None) -> Mapping[str, Any]:
    from ports import hosts  # 12 ms, needed for other hosts only

    return probe.probe(request) if hosts.is_here(host) else hosts.probe(host, request, batch=batch)


def _warn_of_a_former_name() -> None:
    """Warn if this machine may have been called otherwise: its records are another machine's until they are adopted."""
    there = {one["node"]: one["sessions"] for one in probe.left_running()}
    if not there:
        return
    from ports import sessions  # few users pay for it

    for name in sessions.other_names(same_id=True):
        if name in there:
            named = ", ".join(there[name]).replace(":", " ")
            adopts = f"if {name} is gone, or was this machine's name, run `ports prune --adopt {name}`"
            warn(f"this machine: {name}, which has the same machine id, started {named}; {adopts}")


def rows(
    hosts: Sequence[str] = (),
    *,
    all_users: bool = False,
    on_host: Callable[[str, Sequence[Mapping[str, Any]]], None] | None = None,
    raising: bool = True,
    batch: bool | None = None,
) -> Sequence[Mapping[str, Any]]:
    """Return the rows of `list` for all `hosts` at once; without any, of this machine.

    If one of several hosts fails, it has a row with the key ``error``, and the others are listed. A host on which
    nothing listens has a row with the state ``nothing``.

    Parameters
    ----------
    on_host : callable, optional
        Called with each host and its rows as soon as they are there.
    raising : bool
        Raise the error of the only host. False: it has a row, as if it were one of several.
    batch : bool, optional
        As of `list`.

    Raises
    ------
    PortsError
        The only host failed.
    """
    if not hosts:
        return [one.row() for one in list(all_users=all_users)]
    from ports.hosts import failed_row, nothing_rows, on_each

    found: dict[str, Sequence[Mapping[str, Any]]] = {}

    def take(alias: str, result: tuple[Listener, ...] | PortsError) -> None:
        if not isinstance(result, PortsError):
            found[alias] = [one.row() for one in result] or nothing_rows(alias, hosts)
        elif len(hosts) == 1 and raising:
            raise result
        else:
            found[alias] = [failed_row(alias, result)]
        if on_host is not None:
            on_host(alias, found[alias])

    on_each(hosts, lambda alias: list(alias, all_users=all_users, batch=batch), on_result=take)
    return [row for alias in dict.fromkeys(hosts) for row in found[alias]]
