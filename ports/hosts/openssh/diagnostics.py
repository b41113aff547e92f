"""What `ports doctor` asks of the ssh program; each question ends by itself, and changes nothing."""

from __future__ import annotations

import contextlib
import os
import re
import select
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from ports.errors import TimedOutError, ToolMissingError
from ports.hosts._route import Hop
from ports.hosts.openssh import processes
from ports.hosts.openssh.control_sockets import Master, client_arguments
from ports.hosts.openssh.errors import explain, readable
from ports.hosts.openssh.ssh_config import config_arguments, program
from ports.probe import sha256
from ports.state import settings

_SECONDS = 10.0


@dataclass(frozen=True)
class Program:
    """The ssh program: what it calls itself, its version where that is OpenSSH's, and whether it shares connections."""

    name: str
    version: tuple[int, int] | None
    multiplexes: bool


@dataclass(frozen=True)
class Configuration:
    """What the configuration says for a host: values by lower-case key, and the lines that say it, ``file line 4``."""

    values: dict[str, list[str]]
    lines: tuple[str, ...]
    files: tuple[str, ...]
    names_it: bool


@dataclass(frozen=True)
class Banner:
    """What came through a forward: the first line, or what ssh said of why nothing came, and after how long."""

    line: str
    said: str
    seconds: float


@dataclass(frozen=True)
class Keys:
    """What there is to log in with.

    Attributes
    ----------
    in_agent : int, optional
        Keys in the agent; None: no agent.
    files, locked, on_token : tuple of str
        Key files; those with a passphrase; and those whose key is on a token, which may ask for a PIN.
    """

    in_agent: int | None
    files: tuple[str, ...]
    locked: tuple[str, ...]
    on_token: tuple[str, ...] = ()


def examine_program() -> Program:
    """Return what the ssh program is.

    Raises
    ------
    ToolMissingError
        There is none.
    """
    name = _output([program(), "-V"])[1].strip().splitlines()
    found = re.search(r"OpenSSH\w*_(?:for_Windows_)?(\d+)\.(\d+)", name[0] if name else "")
    # a program without control sockets (Windows) does not come as far as to look for one
    said = _output([program(), "-F", "none", "-S", "/nonexistent", "-O", "check", "--", "localhost"])[1]
    version = (int(found.group(1)), int(found.group(2))) if found else None
    return Program(name[0].partition(",")[0] if name else program(), version, "Control socket connect" in said)


def configuration(hop: Hop) -> Configuration:
    """Return what ssh reads for `hop`; raises SSHError or ToolMissingError."""
    output, said = _output([program(), *config_arguments(), "-G", "-v", *hop.arguments])
    said = readable(said)
    values: dict[str, list[str]] = {}
    for line in output.splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key.lower(), []).append(value.strip())
    if "hostname" not in values:
        raise explain(hop.alias, "\n".join(line for line in said.splitlines() if not line.startswith("debug")))
    applied = re.findall(r"^debug\d: (\S.*? line \d+): Applying options for (.*?)\s*$", said, re.MULTILINE)
    files = re.findall(r"^debug\d: Reading configuration data (.*?)\s*$", said, re.MULTILINE)
    own = [line for line, pattern in applied if pattern.strip() != "*"]
    return Configuration(values, tuple(dict.fromkeys(own)), tuple(dict.fromkeys(files)), bool(own))


def keys(identity_files: list[str]) -> Keys:
    """Return what there is to log in with; `identity_files` as in `Configuration.values`."""
    held: int | None = None
    with contextlib.suppress(ToolMissingError):
        listed, said = _output(["ssh-add", "-l"])
        if "Could not open" not in said and "Error connecting" not in said:
            held = sum(1 for line in listed.splitlines() if re.match(r"\d+ ", line))
    files = [name for name in identity_files if Path(name).expanduser().is_file()]
    locked, on_token = [], []
    for name in files:
        with contextlib.suppress(ToolMissingError):
            public, said = _output(["ssh-keygen", "-y", "-P", "", "-f", str(Path(name).expanduser())])
            locked += [name] if "incorrect passphrase" in said else []
            on_token += [name] if public.startswith("sk-") else []
    return Keys(held, tuple(files), tuple(locked), tuple(on_token))


def credentials(hop: Hop) -> str:
    """Return a text that changes when a key, the agent's keys, a ticket or what the configuration says changes."""
    named = [*hop.values("identityfile"), *hop.values("certificatefile")]
    ticket = settings.variable("KRB5CCNAME") or (f"/tmp/krb5cc_{os.getuid()}" if hasattr(os, "getuid") else "")
    stamps = []
    for path in [Path(name).expanduser() for name in named] + [Path(ticket.removeprefix("FILE:"))]:
        with contextlib.suppress(OSError):
            found = path.stat()
            stamps.append((str(path), found.st_ctime_ns, found.st_mode))
    agent = next(iter(hop.values("identityagent")), "SSH_AUTH_SOCK")
    held = ""
    with contextlib.suppress(ToolMissingError, TimedOutError):
        where = [] if agent in ("SSH_AUTH_SOCK", "none") else ["env", f"SSH_AUTH_SOCK={Path(agent).expanduser()}"]
        held = _output([*where, "ssh-add", "-L"])[0]
    return sha256(repr((stamps, held, hop.options)).encode())


def knock(via: Master, host: str, port: int, *, timeout: float) -> Banner:
    """Connect to ``host:port`` as seen from `via`, and return the first line that comes."""
    before, began = via.said_bytes(), time.monotonic()
    process = processes.start(
        client_arguments(via, ["-W", f"[{host}]:{port}", "--", via.alias]),
        stdin=subprocess.PIPE,  # kept open: at its end the server would hang up
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = b""
        while b"\n" not in line and len(line) < 1024:
            left = timeout - (time.monotonic() - began)
            if left <= 0 or not select.select([process.stdout], [], [], left)[0]:
                break
            chunk = os.read(process.stdout.fileno(), 1024)
            if not chunk:
                break
            line += chunk
    finally:
        processes.end(process)
    text = line.decode(errors="replace").partition("\n")[0].strip()
    return Banner(text, via.said(before), time.monotonic() - began)


def execute(master: Master, *, timeout: float = _SECONDS) -> str:
    """Execute ``true`` in a session; return why none can be had, else nothing, whatever the command did."""
    process = processes.start(
        client_arguments(master, ["-T", "--", master.alias, "true"]), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        said = process.communicate(timeout=timeout)[1].decode(errors="replace")
    except subprocess.TimeoutExpired:
        return f"it did not end within {timeout:g} s"
    finally:
        processes.end(process)
    return explain(master.alias, "", said).reason if process.returncode == 255 else ""


def _output(arguments: list[str]) -> tuple[str, str]:
    """Return what a program prints on stdout and on stderr."""
    process = processes.start(arguments, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        output, said = process.communicate(timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        raise TimedOutError(f"an answer of `{' '.join(arguments[:4])} …`", _SECONDS) from None
    finally:
        processes.end(process)
    return output.decode(errors="replace"), said.decode(errors="replace")
