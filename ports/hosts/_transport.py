"""The way to a host, by the ssh program or by paramiko in this process: a function per need picks the adapter."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from ports.errors import ConnectionLostError, UnknownHostError
from ports.hosts import openssh
from ports.hosts.openssh import Completed
from ports.hosts.openssh.ssh_config import Destination, Host, parse_resolved, program
from ports.state import settings

if TYPE_CHECKING:
    from ports.hosts.paramiko import Connection, Hop

__all__ = [
    "Completed",
    "choose_transport",
    "connection",
    "end_all",
    "hops",
    "hostname",
    "interactive",
    "login",
    "login_keys",
    "run_command",
]


def choose_transport() -> str:
    """Return ``ssh`` or ``paramiko``: what the setting ``ssh.transport`` says, else what works on this machine."""
    wanted = str(settings.get("ssh.transport"))
    if wanted != "auto":
        return wanted
    # OpenSSH for Windows knows ControlMaster, but cannot share connections
    return "ssh" if os.name != "nt" and _has_ssh() else "paramiko"


def run_command(
    alias: str,
    command: str,
    *,
    input: bytes = b"",
    timeout: float = 60.0,
    batch: bool | None = None,
    repeatable: bool = False,
    on_start: Callable[[], None] | None = None,
) -> Completed:
    """Run a line of the login shell of `alias`, with `input` on its standard input; see `openssh.run`.

    Raises
    ------
    SSHError
        There is no way to the host, the connection was lost, or nothing came within `timeout`.
    """
    if choose_transport() == "ssh":
        return openssh.run(
            alias, command, input=input, timeout=timeout, batch=batch, repeatable=repeatable, on_start=on_start
        )
    for attempt in (1, 2):
        over = connection(alias, batch=batch)
        try:
            done = over.run(command, input=input, timeout=timeout)
        except ConnectionLostError:
            over.close()
            if not repeatable or attempt == 2:
                raise
        else:
            return Completed(done.status, done.output, done.stderr)
    raise AssertionError("two attempts return or raise")


def login(alias: str) -> tuple[str, str, bool]:
    """Connect to `alias`, a person being asked where there is one; return user, address, and whether it is kept.

    Later commands use a connection that is kept; paramiko's lives as long as this process.

    Raises
    ------
    LoginNeededError
        There is no terminal to ask at.
    SSHError
        There is no way to the host.
    """
    if choose_transport() == "ssh":
        host = openssh.connect(alias).host
        return host.user, host.hostname, True
    hop = connection(alias).hop
    return hop.user, hop.hostname, False


def is_connected(alias: str) -> bool:
    """Tell whether a connection to `alias` is kept; nothing is connected, and whether it carries is not asked."""
    if choose_transport() == "ssh":
        return openssh.running(alias) is not None
    from ports.hosts import paramiko

    return paramiko.is_connected(hops(alias))


def login_keys(alias: str) -> frozenset[object] | None:
    """Return what there is to log in to `alias` with, where that may mend it; None where only a login does.

    What paramiko connects lives in one process: nobody can log in for another, but a key can be loaded.
    """
    if choose_transport() == "ssh":
        return None
    from ports.hosts import paramiko

    return paramiko.keys(hops(alias))


def interactive(alias: str, command: str | None) -> None:
    """Become a session on `alias` at this terminal: `command`, else the login shell; this process ends with it.

    Raises
    ------
    SSHError
        There is no way to the host.
    """
    if choose_transport() == "ssh":
        openssh.interactive(alias, command)
    from ports.hosts import paramiko

    status = paramiko.interact(connection(alias), command, kind=settings.variable("TERM") or "xterm")
    paramiko.close_all()
    raise SystemExit(status)


def connection(alias: str, *, batch: bool | None = None, timeout: float | None = None) -> Connection:
    """Return paramiko's connection to `alias`, which all uses in this process share.

    Parameters
    ----------
    batch : bool, optional
        Nobody is asked for a passphrase, password or code. Default: ask where there is a terminal.
    timeout : float, optional
        Seconds until a hop that does not answer is given up. Default: the setting ``ssh.connect_timeout``.

    Raises
    ------
    UnknownHostError, HostKeyError, LoginNeededError, ProhibitedError, NetworkError, SSHError
        There is no way to the host; the message names the hop that failed.
    """
    from ports.hosts import paramiko

    try:
        limit = float(settings.get("ssh.connect_timeout")) if timeout is None else timeout
        return paramiko.connect(hops(alias), batch=batch, timeout=limit)
    except UnknownHostError as error:
        raise UnknownHostError(error.host, error.reason + openssh.suggest(alias)) from error


def hops(alias: str) -> tuple[Hop, ...]:
    """Return the hops that lead to `alias`: as ``ssh -G`` resolves them, else from the configuration file alone.

    Raises
    ------
    SSHError
        The configuration cannot be read or evaluated.
    """
    from ports.hosts import paramiko

    by = None if _has_ssh() else _resolve_without_ssh
    return tuple(
        paramiko.hop_from_options(
            host.alias,
            [("hostname", host.hostname), ("user", host.user), ("port", str(host.port)), *host.options],
            variable=settings.variable,
        )
        for host in openssh.route(alias, by=by)
    )


def hostname(alias: str) -> str:
    """Return the name or address that the configuration gives for `alias`; raises as `hops`."""
    return openssh.route(alias, by=None if _has_ssh() else _resolve_without_ssh)[-1].hostname


def end_all() -> None:
    """End what this process started and has not ended yet, after Ctrl-C say."""
    openssh.end_all()


def _has_ssh() -> bool:
    return shutil.which(program()) is not None


def _resolve_without_ssh(wanted: Destination) -> Host:
    from ports.hosts import paramiko

    chosen = settings.get("ssh.config")
    file = Path(chosen).expanduser() if chosen else None
    return parse_resolved(wanted, paramiko.resolve(file, wanted.host, user=wanted.user, port=wanted.port))
