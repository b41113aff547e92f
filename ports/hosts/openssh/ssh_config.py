"""From an alias to the hops that lead to the host: `ssh -G`, ProxyJump and the older ProxyCommand form."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from ports.errors import NetworkError, SSHError, ToolMissingError, UnknownHostError
from ports.hosts.openssh import ssh_config_cache
from ports.hosts.openssh.errors import explain
from ports.state import settings

MOST_HOPS = 8


@dataclass(frozen=True)
class Destination:
    """What stands in a ProxyJump: a host or alias, with a user and port of its own or none."""

    host: str
    user: str | None = None
    port: int | None = None

    def arguments(self) -> list[str]:
        """Return the arguments of ssh that name it."""
        user = ["-l", self.user] if self.user else []
        port = ["-p", str(self.port)] if self.port else []
        return [*user, *port, "--", self.host]


@dataclass(frozen=True)
class Host:
    """A destination as ssh resolves it from the user's configuration."""

    destination: Destination
    hostname: str
    user: str
    port: int
    jumps: tuple[Destination, ...] = ()
    proxy_command: str | None = None
    host_key_checking: str = "ask"
    #: Control socket of the user's own master, where the configuration names one.
    control_path: str | None = None
    #: The node of a name that leads to several, reached through whichever of them the name leads to.
    node: str | None = None
    #: All that the configuration says, as pairs of lower-case key and value.
    options: tuple[tuple[str, str], ...] = field(default=(), compare=False, repr=False)

    @property
    def alias(self) -> str:
        """How the user calls it; a node of it is ``alias/node``."""
        return f"{self.destination.host}/{self.node}" if self.node else self.destination.host

    def arguments(self) -> list[str]:
        """Return the arguments of ssh that name it: those of its alias, whose keys and user a node shares."""
        if self.node is None:
            return self.destination.arguments()
        known_as = dict(reversed(self.options))["hostkeyalias"]
        return ["-o", f"HostName={self.hostname}", "-o", f"HostKeyAlias={known_as}", *self.destination.arguments()]


def program() -> str:
    """Return the ssh program of the settings."""
    return str(settings.get("ssh.program"))


def config_arguments() -> list[str]:
    """Return the arguments that choose the user's configuration."""
    chosen = settings.get("ssh.config")
    return ["-F", str(Path(chosen).expanduser())] if chosen else []


def resolve(destination: Destination | str, *, timeout: float = 30.0) -> Host:
    """Return `destination` as ssh resolves it; nothing is connected, but ssh may ask for names.

    Raises
    ------
    SSHError
        The configuration cannot be read, or `destination` cannot be a host.
    ToolMissingError
        There is no ssh program.
    """
    wanted = destination if isinstance(destination, Destination) else parse_destination(destination)
    chosen = config_arguments()
    command = [program(), *chosen, "-G", *wanted.arguments()]
    if (known := ssh_config_cache.recall(command)) is not None:
        return parse_resolved(wanted, known)
    stamps = ssh_config_cache.stamp(program(), Path(chosen[1]) if chosen else None)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except (FileNotFoundError, PermissionError) as error:  # EACCES: a directory of PATH that may not be read
        raise ToolMissingError(program(), "install the OpenSSH client (`apt install openssh-client`)") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(
            wanted.host, f"its name was not resolved within {timeout:.3g} s; is the network or the VPN up?"
        ) from error
    except OSError as error:
        raise SSHError(wanted.host, f"ssh -G: {error}") from error
    if done.returncode:
        raise explain(wanted.host, done.stderr.decode(errors="replace"))
    text = done.stdout.decode(errors="replace")
    ssh_config_cache.keep(command, text, stamps)
    return parse_resolved(wanted, text)


def route(
    destination: Destination | str, *, timeout: float = 30.0, by: Callable[[Destination], Host] | None = None
) -> tuple[Host, ...]:
    """Return the hosts on the way to `destination`, each reached through the one before; raises as `resolve`.

    Of ``alias/node`` the last hop is a node of the name `alias`, which leads to several, through any of them.

    Parameters
    ----------
    by : callable, optional
        What resolves a destination, where there is no ssh program to do it.
    """
    node = None
    if isinstance(destination, str) and not destination.startswith("ssh://"):
        destination, _, node = destination.partition("/")
    wanted = destination if isinstance(destination, Destination) else parse_destination(destination)
    hops: list[Host] = []
    before: tuple[Destination, ...] = ()
    while True:
        host = by(wanted) if by else resolve(wanted, timeout=timeout)
        hops.insert(0, host)
        if len(hops) > MOST_HOPS:
            raise SSHError(hops[-1].alias, f"more than {MOST_HOPS} jump hosts; does a ProxyJump lead in a circle?")
        # as ssh does: the first of several jumps goes by its own configuration, the others by the one before
        before = before or host.jumps or recognise_proxy_command(host.proxy_command, config_arguments())
        if not before:
            return (*hops, _node(hops[-1], node)) if node else tuple(hops)
        wanted, before = before[-1], before[:-1]


def _node(host: Host, node: str) -> Host:
    """Return a node of the name `host`, which another node leads to."""
    known_as = dict(reversed(host.options)).get("hostkeyalias", host.hostname)
    options = (("hostkeyalias", known_as), *host.options)
    name = parse_destination(node).host
    return replace(host, node=name, hostname=name, control_path=None, jumps=(), proxy_command=None, options=options)


def parse_destination(text: str) -> Destination:
    """Return what ``[ssh://][user@]host[:port]`` says.

    Raises
    ------
    UnknownHostError
        It cannot be a host.
    """
    rest = text.removeprefix("ssh://")
    user, at, rest = rest.rpartition("@")
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]]+))(?::(\d+))?", rest)
    host, port = (found.group(1) or found.group(2), found.group(3)) if found else (rest, None)
    if re.fullmatch(r"[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*", rest):
        host, port = rest, None  # a bare IPv6 address
    if not host or host.startswith("-") or re.search(r"[\s\x00-\x1f'\"`$\\;&<>|(){}]", host):
        raise UnknownHostError(text, "that is no name of a host")
    return Destination(host, user if at else None, int(port) if port else None)


def parse_resolved(wanted: Destination, text: str) -> Host:
    """Return the host in the output of `ssh -G`."""
    pairs = [line.partition(" ") for line in text.splitlines()]
    options = tuple((key.lower(), value.strip()) for key, _, value in pairs)
    found = dict(reversed(options))  # the first one counts
    jump, proxy, control = (_unless_none(found.get(key)) for key in ("proxyjump", "proxycommand", "controlpath"))
    return Host(
        destination=wanted,
        hostname=found.get("hostname", wanted.host),
        user=found.get("user", wanted.user or ""),
        port=int(found.get("port", wanted.port or 22)),
        jumps=tuple(parse_destination(one.strip()) for one in jump.split(",")) if jump else (),
        proxy_command=proxy,
        host_key_checking=found.get("stricthostkeychecking", "ask"),
        control_path=control,
        options=options,
    )


def recognise_proxy_command(command: str | None, config: list[str]) -> tuple[Destination, ...]:
    """Return the jump host of ``ssh [-q] -W %h:%p login``; nothing where the command is another, which is left to ssh.

    Parameters
    ----------
    config : list of str
        The ``-F file`` in use: a command that names another file is another command.
    """
    try:
        words = shlex.split(command or "")
    except ValueError:
        return ()
    if words[:1] == ["exec"]:
        words = words[1:]
    if not words or Path(words[0]).name != "ssh":
        return ()
    options: dict[str, str] = {}
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        option, value = rest[0][:2], rest[0][2:]
        if option in ("-q", "-T", "-x", "-a"):
            rest = [f"-{value}", *rest[1:]] if value else rest[1:]
            continue
        if option not in ("-W", "-l", "-p", "-F") or not (value or len(rest) > 1):
            return ()
        options[option], rest = (value, rest[1:]) if value else (rest[1], rest[2:])
    # without a -F the command means the file in use too: it stands in it
    others = "-F" in options and ["-F", str(Path(options["-F"]).expanduser())] != config
    if len(rest) != 1 or options.get("-W") not in ("%h:%p", "[%h]:%p") or others:
        return ()
    jump = parse_destination(rest[0])
    port = options.get("-p", "")
    return (Destination(jump.host, options.get("-l", jump.user), int(port) if port.isdigit() else jump.port),)


def aliases() -> list[str]:
    """Return the hosts that the user's configuration names, without patterns, as they stand there."""
    chosen = settings.get("ssh.config")
    file = Path(chosen).expanduser() if chosen else Path.home() / ".ssh" / "config"
    return list(dict.fromkeys(_aliases_in(file, depth=0)))


def suggest(alias: str) -> str:
    """Return a half sentence with the aliases that resemble `alias`; empty where none does."""
    import difflib

    near = difflib.get_close_matches(alias, [one for one in aliases() if one != alias], n=3, cutoff=0.6)
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _aliases_in(file: Path, depth: int) -> Iterator[str]:
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if depth < 16 else []
    except OSError:
        return
    for line in lines:
        key, _, value = line.strip().replace("=", " ", 1).partition(" ")
        try:
            words = shlex.split(value, comments=True)
        except ValueError:
            continue
        if key.lower() == "host":
            yield from (word for word in words if not set(word) & set("*?!"))
        elif key.lower() == "include":
            for word in words:
                pattern = Path(word).expanduser()
                place = Path("/") if pattern.is_absolute() else Path.home() / ".ssh"
                for included in sorted(place.glob(str(pattern).lstrip("/"))):
                    yield from _aliases_in(included, depth + 1)


def _unless_none(value: str | None) -> str | None:
    return None if value is None or value.lower() == "none" else value
