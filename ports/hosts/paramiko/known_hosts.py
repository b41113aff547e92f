"""known_hosts, as the ssh program reads it: patterns, hashed names, ports, markers; pure but for `read`."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ports.errors import SSHError

# A key of one kind can sign by several algorithms.
_ALGORITHMS = {"ssh-rsa": ("rsa-sha2-512", "rsa-sha2-256")}


@dataclass(frozen=True)
class Known:
    """A line of a known_hosts file that holds a key."""

    where: str
    marker: str
    names: tuple[str, ...]
    kind: str
    key: str

    def is_for(self, name: str) -> bool:
        """Tell whether the line is about the host `name`."""
        found = False
        for pattern in self.names:
            refused, pattern = pattern.startswith("!"), pattern.removeprefix("!")
            if _matches(pattern, name):
                if refused:
                    return False
                found = True
        return found


@dataclass(frozen=True)
class Verdict:
    """What known_hosts says of a key: ``known``, ``unknown``, ``changed``, ``revoked`` or ``authority``, and where."""

    is_: str
    where: str = ""


def judge(lines: Iterable[Known], name: str, kind: str, key: str) -> Verdict:
    """Return the verdict on the key that the host `name` shows.

    Parameters
    ----------
    name : str
        As it stands in the file: ``server1`` or ``[server1]:2222``.
    kind, key : str
        ``ssh-ed25519``, and the key in base64.
    """
    bare = re.sub(r"^\[(.*)\]:\d+$", r"\1", name)
    about = [line for line in lines if line.is_for(name)]
    same = [line for line in about if (line.kind, line.key) == (kind, key)]
    without_port = [line for line in lines if (line.kind, line.key) == (kind, key) and line.is_for(bare)]
    for line in (*same, *without_port):
        if line.marker == "@revoked":
            return Verdict("revoked", line.where)
    plain = [line for line in about if not line.marker]
    if any(not line.marker for line in same):
        return Verdict("known")
    for line in plain:
        if line.kind == kind:
            return Verdict("changed", line.where)
    if any(not line.marker for line in without_port):
        return Verdict("known")  # as ssh does: a key that is known for the host's other ports
    for line in about:
        if line.marker == "@cert-authority":
            return Verdict("authority", line.where)
    return Verdict("unknown")


def preferred(lines: Iterable[Known], name: str, algorithms: Iterable[str]) -> list[str]:
    """Return `algorithms` with those first by which the host `name` can show a key that is known."""
    kinds = {line.kind for line in lines if not line.marker and line.is_for(name)}
    known = {algorithm for kind in kinds for algorithm in _ALGORITHMS.get(kind, (kind,))}
    every = list(algorithms)
    return [one for one in every if one in known] + [one for one in every if one not in known]


def parse(text: str, file: str) -> Iterator[Known]:
    """Yield the lines of a known_hosts file that hold a key; others are passed over, as ssh does."""
    for number, line in enumerate(text.splitlines(), start=1):
        words = line.split()
        marker = words.pop(0) if words and words[0].startswith("@") else ""
        if len(words) >= 3 and not words[0].startswith("#"):
            names, kind, key = words[:3]
            yield Known(f"{file}:{number}", marker, tuple(names.split(",")), kind, key)


def read(host: str, files: Iterable[str]) -> list[Known]:
    """Return the lines of known_hosts files; one that is not there has none.

    Raises
    ------
    SSHError
        A file cannot be read: what it says of the host is not known.
    """
    found: list[Known] = []
    for file in files:
        try:
            found += parse(Path(file).read_text(encoding="utf-8", errors="replace"), file)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise SSHError(host, f"{file} cannot be read ({error.strerror}), so its key cannot be checked") from error
    return found


def fingerprint(key: bytes) -> str:
    """Return what ssh shows of a key."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")


def _matches(pattern: str, name: str) -> bool:
    if pattern.startswith("|1|"):
        try:
            _, _, salt, digest = pattern.split("|")
            made = hmac.new(base64.b64decode(salt), name.encode(), hashlib.sha1).digest()
            return hmac.compare_digest(made, base64.b64decode(digest))
        except ValueError:
            return False
    # brackets are part of a name with a port, not a class of characters
    parts = (".*" if one == "*" else "." if one == "?" else re.escape(one) for one in pattern.lower())
    return re.fullmatch("".join(parts), name) is not None
