"""A route to a host: its hops, each reached through the one before; `resolve` makes it, once for a command."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass

from ports.errors import HostKeyError, NetworkError, SSHError, UnknownHostError
from ports.hosts.openssh import ssh_config


@dataclass(frozen=True)
class Hop:
    """One host of a route, as the user's configuration describes it.

    Attributes
    ----------
    alias : str
        How the user calls it. A node of a name that leads to several is ``alias/node``.
    proxy_command : str, optional
        The command that connects to it, where the configuration names one.
    control_path : str, optional
        The control socket of the user's own master, where the configuration names one.
    arguments : tuple of str
        What names it on a command line of ssh. A node shares the keys and the user of its alias.
    key : str
        The same for all routes to this host through the same hops; they share one connection.
    options : tuple
        All that the configuration says, as pairs of lower-case key and value.
    """

    alias: str
    hostname: str
    user: str
    port: int
    proxy_command: str | None = None
    host_key_checking: str = "ask"
    control_path: str | None = None
    arguments: tuple[str, ...] = ()
    key: str = ""
    options: tuple[tuple[str, str], ...] = ()

    @property
    def spelled(self) -> str:
        """What a person passes to ssh for it: with the user and the port that were named."""
        given = dict(zip(self.arguments, self.arguments[1:], strict=False))
        port = f"-p {given['-p']} " if "-p" in given else ""
        return port + shlex.quote(f"{given['-l']}@{self.alias}" if "-l" in given else self.alias)

    def values(self, key: str) -> list[str]:
        """Return all values of an option."""
        return [value for name, value in self.options if name == key]


@dataclass(frozen=True)
class Route:
    """The hops that lead to a host, each reached through the one before, and the transport that goes there.

    Attributes
    ----------
    transport : str
        ``ssh`` or ``paramiko``; ``none`` for this machine itself.
    """

    alias: str
    hops: tuple[Hop, ...]
    transport: str

    @property
    def end(self) -> Hop:
        """The host itself."""
        return self.hops[-1]

    def at_hop(self, error: SSHError, hop: Hop) -> SSHError:
        """Return an error of one hop as an error of the whole route, which names the hop."""
        is_unresolved = isinstance(error, UnknownHostError) or "cannot be resolved" in error.reason
        is_silent = isinstance(error, NetworkError)  # the address is right, but another entry leads there
        near = ssh_config.suggest(hop.alias, alike=is_unresolved) if is_unresolved or is_silent else ""
        reason = f"{error.reason}{near}".replace("?; did you", ", or did you")
        # the user may have named another user or port; and a login to the last hop asks for each hop before it
        reason = reason.replace(f"`ports login {hop.alias}`", f"`ports login {shlex.quote(self.alias)}`")
        reason = re.sub(rf"`(ssh(?: -v)?) {re.escape(hop.alias)}`", lambda one: f"`{one[1]} {hop.spelled}`", reason)
        if isinstance(error, HostKeyError) and hop.values("userknownhostsfile") == ["/dev/null"]:
            reason = reason.partition("; ")[0] + (
                f"; `UserKnownHostsFile /dev/null`, which ~/.ssh/config says for {hop.alias}, keeps no key: "
                "remove that line, then accept the key by running "
                f"`ssh {hop.spelled}` once"
            )
        if hop is self.hops[-1]:
            return type(error)(self.alias, reason)
        return type(error)(self.alias, f"the jump host {hop.alias}: {reason}")
