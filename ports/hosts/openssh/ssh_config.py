"""What the user's configuration says: `ssh -G` for one host, destinations in it, and the aliases that it names."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ports.errors import NetworkError, SSHError, ToolMissingError, UnknownHostError
from ports.hosts import targets
from ports.hosts.openssh import ssh_config_cache
from ports.hosts.openssh.errors import explain
from ports.state import settings


@dataclass(frozen=True)
class Destination:
    """A host or alias as a ProxyJump names it, with a user and port or without."""

    host: str
    user: str | None = None
    port: int | None = None

    @property
    def arguments(self) -> tuple[str, ...]:
        """What names it on a command line of ssh."""
        user = ("-l", self.user) if self.user else ()
        port = ("-p", str(self.port)) if self.port else ()
        return (*user, *port, "--", self.host)


def program() -> str:
    """Return the ssh program of the settings."""
    return str(settings.get("ssh.program"))


def config_arguments() -> list[str]:
    """Return the arguments that choose the user's configuration."""
    chosen = settings.get("ssh.config")
    return ["-F", str(Path(chosen).expanduser())] if chosen else []


def ask(wanted: Destination, *, timeout: float = 30.0) -> str:
    """Return what ``ssh -G`` says of `wanted`; nothing is connected, but ssh may look up names.

    Raises
    ------
    SSHError
        The configuration cannot be read.
    ToolMissingError
        There is no ssh program.
    """
    chosen = config_arguments()
    command = [program(), *chosen, "-G", *wanted.arguments]
    if (known := ssh_config_cache.recall(command)) is not None:
        return known
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
    return text


def parse_destination(text: str) -> Destination:
    """Return what ``[ssh://][user@]host[:port]`` says.

    Raises
    ------
    UnknownHostError
        It is not the name of a host.
    """
    found = targets.HOST.fullmatch(text)
    if found is None or found["node"] or not re.fullmatch(r"[0-9]*", found["thing"] or ""):
        raise UnknownHostError(text, "that is not the name of a host")
    host = found["host"] or found["ipv6"] or found["bracketed"]
    return Destination(host, found["user"], int(found["thing"]) if found["thing"] else None)


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
                base = Path("/") if pattern.is_absolute() else Path.home() / ".ssh"
                for included in sorted(base.glob(str(pattern).lstrip("/"))):
                    yield from _aliases_in(included, depth + 1)
