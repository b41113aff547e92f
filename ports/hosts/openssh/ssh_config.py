"""What the user's configuration says: ``ssh -G`` for one host, and the aliases that it names."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

from ports.errors import NetworkError, SSHError, ToolMissingError
from ports.hosts.openssh import ssh_config_cache
from ports.hosts.openssh.errors import explain
from ports.state import settings


def program() -> str:
    """Return the ssh program of the settings."""
    return str(settings.get("ssh.program"))


def config_arguments() -> list[str]:
    """Return the arguments that choose the user's configuration."""
    chosen = settings.get("ssh.config")
    return ["-F", str(Path(chosen).expanduser())] if chosen else []


def ask(command: list[str], *, timeout: float = 30.0) -> str:
    """Return what an ``ssh -G`` says; nothing is connected, but ssh may look up names.

    Parameters
    ----------
    command : list of str
        The command line, whose last word is the host.

    Raises
    ------
    SSHError
        The configuration cannot be read.
    ToolMissingError
        There is no ssh program.
    """
    host, chosen = command[-1], config_arguments()
    if (known := ssh_config_cache.recall(command)) is not None:
        return known
    stamps = ssh_config_cache.stamp(program(), Path(chosen[1]) if chosen else None)
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=timeout, check=False)
    except (FileNotFoundError, PermissionError) as error:  # EACCES: a directory of PATH that may not be read
        raise ToolMissingError(program(), "install the OpenSSH client (`apt install openssh-client`)") from error
    except subprocess.TimeoutExpired as error:
        raise NetworkError(
            host, f"its name was not resolved within {timeout:.3g} s; is the network or the VPN up?"
        ) from error
    except OSError as error:
        raise SSHError(host, f"ssh -G: {error}") from error
    if done.returncode:
        raise explain(host, done.stderr.decode(errors="replace"))
    text = done.stdout.decode(errors="replace")
    ssh_config_cache.keep(command, text, stamps)
    return text


def aliases() -> list[str]:
    """Return the hosts that the user's configuration names, without patterns, as they stand there."""
    return list(names())


def names() -> dict[str, str]:
    """Return each alias with its HostName; an empty text where the configuration names none."""
    return dict(_hosts())


def suggest(alias: str, *, alike: bool = True) -> str:
    """Return a half sentence with the aliases that are meant by `alias`; empty where none is.

    Parameters
    ----------
    alike : bool
        Also those that resemble it, or whose HostName does; else only those whose HostName it is, if it is no alias.
    """
    import difflib

    found = _hosts()
    if not alike and alias in dict(found):
        return ""
    named = [one for one in found if one[0] != alias]
    same = [one for one, name in named if name and _short(name) in (_short(alias), alias.lower())]
    if not alike:
        return f"; did you mean {' or '.join(dict.fromkeys(same[:3]))}?" if same else ""
    close = difflib.get_close_matches(alias, [word for one in named for word in one if word], n=3, cutoff=0.6)
    near = list(dict.fromkeys(same or [one for word in close for one, name in named if word in (one, name)]))[:3]
    return f"; did you mean {' or '.join(near)}?" if near else ""


def _short(name: str) -> str:
    """Return a name without its domain; an address stays whole."""
    first = name.partition(".")[0]
    return (name if first.isdigit() else first).lower()


def _hosts() -> list[tuple[str, str]]:
    """Return each alias with the HostName that stands below it; an empty text where none does."""
    chosen = settings.get("ssh.config")
    file = Path(chosen).expanduser() if chosen else Path.home() / ".ssh" / "config"
    found: dict[str, str] = {}
    current: list[str] = []
    for key, words in _lines_of(file, depth=0):
        if key == "host":
            current = [word for word in words if not set(word) & set("*?!")]
            for alias in current:
                found.setdefault(alias, "")
        elif key == "match":
            current = []
        elif words:
            for alias in current:
                found[alias] = found[alias] or words[0].replace("%h", alias)
    return list(found.items())


def _lines_of(file: Path, depth: int) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines ``Host``, ``Match`` and ``HostName`` of a configuration and of what it includes."""
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
        if key.lower() in ("host", "match", "hostname"):
            yield key.lower(), words
        elif key.lower() == "include":
            for word in words:
                pattern = Path(word).expanduser()
                base = Path("/") if pattern.is_absolute() else Path.home() / ".ssh"
                for included in sorted(base.glob(str(pattern).lstrip("/"))):
                    yield from _lines_of(included, depth + 1)
