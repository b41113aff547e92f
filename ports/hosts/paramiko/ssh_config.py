"""~/.ssh/config without an ssh program to read it: what cannot be evaluated is an error that names file and line."""

from __future__ import annotations

import getpass
import re
from pathlib import Path

import paramiko

from ports.errors import SSHError

_MATCHED = ("all", "host", "originalhost", "user", "localuser")
_ALONE = ("all",)
_LINE = re.compile(r"\s*(\w+)(?:\s*=\s*|\s+)(.*?)\s*$")


def read_config(file: Path | None, host: str, *, user: str | None = None, port: int | None = None) -> str:
    """Return what ``ssh -G host`` would say of the options that matter here, from `file` alone.

    Parameters
    ----------
    file : Path, optional
        The configuration. Default: the user's, then the system's.
    user, port : optional
        What was named together with the host, which comes before the configuration.

    Raises
    ------
    SSHError
        A line that only the ssh program can evaluate, or that is none.
    """
    files = [file] if file else [Path.home() / ".ssh" / "config", Path("/etc/ssh/ssh_config")]
    text = "\n".join(_checked(host, one) for one in files)
    try:
        found = paramiko.SSHConfig.from_text(text).lookup(host)
    except (paramiko.SSHException, ValueError, KeyError) as error:
        raise SSHError(host, f"{files[0]} cannot be read: {error}") from error
    found["user"] = user or found.get("user", getpass.getuser())
    found["port"] = str(port or found.get("port", 22))
    known = {"userknownhostsfile": "~/.ssh/known_hosts", "globalknownhostsfile": "/etc/ssh/ssh_known_hosts"}
    lines: list[str] = []
    for key, value in ({**known, **found}).items():
        lines += [f"{key} {one}" for one in (value if isinstance(value, list) else [value])]
    return "\n".join(lines)


def _checked(host: str, file: Path) -> str:
    """Return the text of a file in which everything can be evaluated; empty where there is none."""
    try:
        text = file.expanduser().read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise SSHError(host, f"{file} cannot be read: {error.strerror}") from error
    for number, line in enumerate(text.splitlines(), start=1):
        found = None if line.lstrip().startswith("#") else _LINE.match(line)
        if found is None:
            continue
        key, value = found.group(1).lower(), found.group(2)
        reason = None
        if key == "include" and _included(value, file):
            reason = f"Include {value} is not followed"
        elif key == "match" and not _can_match(value):
            reason = f"Match {value} cannot be evaluated"
        elif key == "canonicalizehostname" and value.lower() not in ("no", "none"):
            reason = "CanonicalizeHostname cannot be evaluated"
        if reason is not None:
            raise SSHError(
                host,
                f"{file}, line {number}: {reason} without the ssh program; install OpenSSH, or name a configuration "
                "without it in the setting ports.ssh.config",
            )
    return text


def _included(value: str, file: Path) -> bool:
    """Tell whether an Include names a file that exists."""
    base = Path.home() / ".ssh" if Path.home() in file.parents else Path("/etc/ssh")
    for word in value.replace('"', "").split():
        pattern = Path(word).expanduser()
        root = Path(pattern.anchor) if pattern.is_absolute() else base
        if any(root.glob(str(pattern).removeprefix(pattern.anchor))):
            return True
    return False


def _can_match(value: str) -> bool:
    """Tell whether each criterion is one that is known here."""
    words = value.split()
    while words:
        kind = words.pop(0).lower()
        if kind.removeprefix("!") not in _MATCHED or '"' in value:
            return False
        if kind not in _ALONE and not words:
            return False
        if kind not in _ALONE:
            words.pop(0)
    return True
