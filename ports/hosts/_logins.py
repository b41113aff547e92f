"""Connections that later commands use: made by a login, ended by a logout."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ports.errors import PortsError
from ports.hosts import _connect, openssh
from ports.hosts._resolve import is_here, resolve
from ports.hosts._several import HostRow, host_row
from ports.probe import user_name


def login(alias: str) -> dict[str, Any]:
    """Connect to `alias`, and return its row; where a person must answer a prompt, this is where they are asked.

    Raises
    ------
    LoginNeededError
        There is no terminal to ask at.
    SSHError
        There is no connection to the host.
    """
    if is_here(alias):
        row = {"host": alias, "kind": "host", "state": "connected", "user": user_name(os.geteuid()), "address": alias}
        return {**row, "note": "it is this machine, which needs no connection"}
    route = resolve(alias)
    connection = _connect.connect(route, warm=True)
    row = {"host": alias, "kind": "host", "state": "connected", "user": route.end.user, "address": route.end.hostname}
    connection.close()
    if connection.is_kept:
        return row
    return {**row, "note": "paramiko's connection lives as long as its command, so this one has ended"}


def logout(*aliases: str) -> list[HostRow]:
    """End connections that are kept for later commands, and return a row for each; the user's own ssh goes on.

    Connections that go through one of them, as through a jump host, end with it. One stays that a login goes through at
    which a person is asked at this moment: its row has the state ``connected``.

    Parameters
    ----------
    *aliases : str
        Hosts; the row of one to which no connection was kept has the state ``nothing``. None: all connections.
    """
    named = {alias: openssh.masters_of(resolve(alias)) for alias in dict.fromkeys(aliases)}
    kept = _kept(named)
    wanted = {chain[-1].control for chain in (named.values() if aliases else kept)}
    ended = [chain for chain in kept if any(master.control in wanted for master in chain)]
    needed = openssh.needed_by_logins() if ended else set()
    for chain in sorted(ended, key=len, reverse=True):  # a jump host's last
        if chain[-1].control not in needed:
            openssh.end_master(chain[-1])
    states = ["connected" if chain[-1].control in needed else "disconnected" for chain in ended]
    rows = [host_row(chain[-1].alias, state) for chain, state in zip(ended, states, strict=True)]
    if not aliases:
        return rows + [host_row(None, "disconnected") for _ in range(openssh.close_all())]
    there = {chain[-1].control for chain in ended}
    return rows + [host_row(alias, "nothing") for alias, chain in named.items() if chain[-1].control not in there]


def reached_through(aliases: Iterable[str], ended: Iterable[str | None]) -> list[str]:
    """Return those of `aliases` that lead to one of the hosts `ended` or through it, whatever each is called.

    Parameters
    ----------
    ended : iterable of str or None
        Hosts of the rows of `logout`; None is one that is in no configuration, and any of `aliases` may mean it.
    """
    names = set(ended)
    keys = {key for name in names if name is not None for key in _keys(name)[-1:]}
    return [
        alias
        for alias in aliases
        if not is_here(alias) and (None in names or alias.partition("/")[0] in names or keys.intersection(_keys(alias)))
    ]


def _keys(alias: str) -> list[str]:
    """Return what tells the hops to `alias` apart; empty where it cannot be read, or leads through none."""
    with contextlib.suppress(PortsError):
        return [hop.key for hop in resolve(alias).hops]
    return []


def _kept(named: dict[str, list[openssh.Master]]) -> list[list[openssh.Master]]:
    """Return the connections that are kept, each with those that it goes through, under the aliases that are known."""
    found: dict[Path, list[openssh.Master]] = {}
    if not openssh.kept():  # else ssh need not be asked what each alias means
        return []
    for alias in dict.fromkeys([*named, *openssh.aliases()]):
        with contextlib.suppress(PortsError):  # a line for another host that cannot be read
            chain = named.get(alias) or openssh.masters_of(resolve(alias))
            if chain[-1].control not in found and openssh.is_running(chain[-1].control):
                found[chain[-1].control] = chain
    return list(found.values())
