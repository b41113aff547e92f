"""From an alias to the route that leads to the host: this machine, or as the user's ssh configuration says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import socket
from dataclasses import dataclass, replace
from pathlib import Path

from ports.errors import SSHError, UnknownHostError, UsageError
from ports.hosts import targets
from ports.hosts._route import Hop, Route
from ports.hosts.openssh import jumps, ssh_config
from ports.probe import sha256
from ports.state import settings

MOST_HOPS = 8
#: What this machine is called in rows and targets, unless the ssh configuration has a Host of that name.
HERE = "localhost"
#: What a shell changes in a ProxyCommand, so that the command is left to ssh; and what it leaves as it is, or we do.
_FOR_A_SHELL = re.compile(r"[$`\\;&|<>()*?\[\]{}~#!\n]")
_NOT_FOR_A_SHELL = re.compile(r"(?<=-W)\s*['\"]?\[%h\]:%p['\"]?(?=\s)|(?<=-F)\s*~/|\[[0-9A-Fa-f:.]+\](?=\s*$)")


@dataclass(frozen=True)
class Destination:
    """A host or alias as a person or a ProxyJump names it, with a user, a port and a node of that name or without."""

    host: str
    user: str | None = None
    port: int | None = None
    node: str | None = None


def is_here(alias: str) -> bool:
    """Tell whether `alias` means this machine, to be reached without ssh.

    It is ``localhost``, an address of the loopback or this machine's own name. A Host of the configuration goes first.
    """
    own = socket.gethostname()
    names = (HERE, "127.0.0.1", "::1", "[::1]", own, own.partition(".")[0])
    return alias in names and os.name != "nt" and alias not in ssh_config.aliases()


def here() -> Route:
    """Return the route to this machine."""
    return Route(HERE, (Hop(HERE, HERE, "", 0, key=HERE),), "none")


def resolve(alias: str, *, timeout: float = 30.0) -> Route:
    """Return the route to `alias`, which can be this machine; nothing is connected, but ssh may look up names.

    Of ``alias/node`` the last hop is a node of the name `alias`, which leads to several. Any of them leads on to it.

    Parameters
    ----------
    timeout : float
        Seconds for each hop.

    Raises
    ------
    SSHError
        The configuration cannot be read, or `alias` is invalid.
    UsageError
        It names a thing on a host, as in ``login:22``.
    ToolMissingError
        There is no ssh program, and the setting ``ssh.transport`` asks for it.
    """
    if is_here(alias):
        return here()
    wanted, transport = parse_destination(alias, is_alias=True), choose_transport()
    node = wanted.node
    hops: list[Hop] = []
    before: tuple[Destination, ...] = ()
    while True:
        hop, jumps = read_hop(wanted, by_ssh=transport == "ssh" or _has_ssh(), timeout=timeout)
        hops.insert(0, hop)
        if len(hops) > MOST_HOPS:
            raise SSHError(hop.alias, f"more than {MOST_HOPS} jump hosts; does a ProxyJump lead in a circle?")
        # as ssh does: the first of several jumps goes by its own configuration, the others by the one before
        before = before or jumps
        if not before:
            break
        wanted, before = before[-1], before[:-1]
    if node is not None:
        hops.append(_node(hops[-1], node))
    keyed: list[Hop] = []
    for hop in hops:
        reached_by = keyed[-1].key if keyed else hop.proxy_command or ""
        parts = "\0".join([*ssh_config.config_arguments(), hop.hostname, hop.user, str(hop.port), reached_by])
        keyed.append(replace(hop, key=sha256(parts.encode())[:16]))
    return Route(alias, tuple(keyed), transport)


def choose_transport() -> str:
    """Return ``ssh`` or ``paramiko``: what the setting ``ssh.transport`` says, else what works on this machine."""
    wanted = str(settings.get("ssh.transport"))
    if wanted != "auto":
        return wanted
    # OpenSSH for Windows knows ControlMaster, but cannot share connections
    return "ssh" if os.name != "nt" and _has_ssh() else "paramiko"


def read_hop(wanted: Destination, *, by_ssh: bool = True, timeout: float = 30.0) -> tuple[Hop, tuple[Destination, ...]]:
    """Return the hop that the configuration describes, and the jump hosts before it.

    Parameters
    ----------
    by_ssh : bool
        Ask ``ssh -G``; else the configuration file is read without it.
    """
    user = ("-l", wanted.user) if wanted.user else ()
    port = ("-p", str(wanted.port)) if wanted.port else ()
    arguments = (*user, *port, "--", wanted.host)
    if by_ssh:
        command = [ssh_config.program(), *ssh_config.config_arguments(), "-G", *arguments]
        text = ssh_config.ask(command, timeout=timeout)
    else:
        from ports.hosts import paramiko

        chosen = settings.get("ssh.config")
        file = Path(chosen).expanduser() if chosen else None
        text = paramiko.read_config(file, wanted.host, user=wanted.user, port=wanted.port)
    hop, jump = parse_hop(text, alias=wanted.host, arguments=arguments)
    is_direct = jump is None and hop.proxy_command is None
    return (hop, ()) if is_direct else read_jumps(hop, jump)


def read_jumps(hop: Hop, jump: str | None) -> tuple[Hop, tuple[Destination, ...]]:
    """Return the hop and the hosts that its ProxyJump `jump` names; without one, those that its ProxyCommand means."""
    if jump is None:
        through_command = expand_tokens(hop, hop.proxy_command)
        return hop, recognise_proxy_command(through_command, ssh_config.config_arguments())
    expanded = expand_tokens(hop, jump)
    if expanded is None:
        reason = f"its ProxyJump {jump} has a token that ssh does not know; it knows %%, %h, %n, %p and %r"
        raise SSHError(hop.alias, reason)
    try:
        return hop, tuple(parse_destination(one.strip()) for one in expanded.split(","))
    except UnknownHostError:  # ssh may understand it
        return replace(hop, proxy_command=command_of_jump(expanded)), ()


def command_of_jump(jump: str) -> str:
    """Return the ProxyCommand that does what ssh does for a ProxyJump; each of its words reaches ssh as it stands."""
    *others, last = (one.strip() for one in jump.split(","))
    through = ["-J", ",".join(others)] if others else []
    # as a URI, because ssh reads a port behind a colon in nothing else; it may be a name of /etc/services
    end = last if last.startswith("ssh://") else f"ssh://{last}"
    words = [ssh_config.program(), *ssh_config.config_arguments(), *through, "-W", "[%h]:%p", "--", end]
    return " ".join(jumps.quote(word) for word in words)


def expand_tokens(hop: Hop, text: str | None) -> str | None:
    """Return a ProxyCommand or ProxyJump with its tokens expanded, except ``%h:%p`` and ``[%h]:%p``, which stay.

    ssh_config(5) names the tokens: ``%%``, ``%h``, ``%n``, ``%p`` and ``%r``. None: ssh knows none of the tokens.
    """
    known = {"%": "%", "h": hop.hostname, "n": hop.alias, "p": str(hop.port), "r": hop.user}
    found = re.split(r"((?:%h|\[%h\]):%p(?!\w)|%.?)", text or "", flags=re.DOTALL)
    if text is None or any(token[1:] not in known for token in found[1::2] if ":" not in token):
        return None
    expanded = (known[token[1:]] if at % 2 and ":" not in token else token for at, token in enumerate(found))
    return "".join(expanded)


def parse_hop(text: str, *, alias: str, arguments: tuple[str, ...] = ()) -> tuple[Hop, str | None]:
    """Return the hop that the output of ``ssh -G`` describes, and its ProxyJump."""
    pairs = [line.partition(" ") for line in text.splitlines()]
    options = tuple((key.lower(), value.strip()) for key, _, value in pairs)
    found = dict(reversed(options))  # the first one counts
    jump, proxy = _unless_none(found.get("proxyjump")), _unless_none(found.get("proxycommand"))
    hop = Hop(
        alias=alias,
        hostname=found.get("hostname", alias),
        user=found.get("user", ""),
        port=int(found.get("port", 22)),
        proxy_command=proxy,
        host_key_checking=found.get("stricthostkeychecking", "ask"),
        control_path=_unless_none(found.get("controlpath")),
        arguments=arguments,
        options=options,
    )
    return hop, jump


def parse_destination(text: str, *, is_alias: bool = False) -> Destination:
    """Return what ``[ssh://][user@]host[:port]`` says.

    Parameters
    ----------
    is_alias : bool
        A person names the host: it can be ``host/node``, and it has a port as ``ssh://host:port`` only.

    Raises
    ------
    UnknownHostError
        It is not the name of a host.
    UsageError
        A person named a thing on a host, as in ``login:22``.
    """
    found = targets.HOST.fullmatch(text)
    thing = None if found is None else found["thing"]
    is_word = is_alias and not text.startswith("ssh://")
    if found is not None and is_word and thing is not None and not thing.startswith("//"):
        raise UsageError(
            f"{text!r} names a thing on a host, and this takes a host only: pass {found['whole']}, or open it with "
            f"`ports open {shlex.quote(text)}`; the port of sshd is named as in ssh://{found['whole']}:22"
        )
    is_port = thing is None or re.fullmatch(r"[0-9]+", thing)
    if found is None or not is_port or (found["node"] and not is_word):
        raise UnknownHostError(text, "that is not the name of a host")
    host = found["host"] or found["ipv6"] or found["bracketed"]
    return Destination(host, found["user"], None if thing is None else int(thing), found["node"])


def recognise_proxy_command(command: str | None, config: list[str]) -> tuple[Destination, ...]:
    """Return the jump host of ``ssh [-q] -W %h:%p login``; nothing where the command is another, which is left to ssh.

    Parameters
    ----------
    command : str, optional
        With its tokens expanded, as by `expand_tokens`.
    config : list of str
        The ``-F file`` in use: a command that names another file is another command.
    """
    if _FOR_A_SHELL.search(_NOT_FOR_A_SHELL.sub(" ", command or "")):
        return ()
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
    try:
        jump = parse_destination(rest[0])
    except UnknownHostError:
        return ()
    port = options.get("-p", "")
    return (Destination(jump.host, options.get("-l", jump.user), int(port) if port.isdigit() else jump.port),)


def _node(host: Hop, node: str) -> Hop:
    """Return a node of the name `host`, which another node leads to."""
    known_as = next(iter(host.values("hostkeyalias")), host.hostname)
    named = ("-o", f"HostName={node}", "-o", f"HostKeyAlias={known_as}")
    return replace(
        host,
        alias=f"{host.alias}/{node}",
        hostname=node,
        control_path=None,
        proxy_command=None,
        arguments=(*named, *host.arguments),
        options=(("hostkeyalias", known_as), ("hostname", node), *host.options),
    )


def _has_ssh() -> bool:
    return shutil.which(ssh_config.program()) is not None


def _unless_none(value: str | None) -> str | None:
    return None if value is None or value.lower() == "none" else value
