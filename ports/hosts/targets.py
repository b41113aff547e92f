"""What a person names: HOST, HOST:NAME or HOST:PORT. Pure."""

from __future__ import annotations

import re
from dataclasses import dataclass

from ports.errors import InvalidTargetError

# No host here can be taken for an option or read by a shell. A user can be of a Windows domain: `DOMAIN\alice`.
_NOT = r"\s\x00-\x1f'\"`$\\;&<>|(){}\[\]*?!:/"
#: ``[ssh://][user@]HOST[/NODE]``, and what stands behind a colon. The only check of an alias.
HOST = re.compile(
    rf"(?:ssh://)?(?P<whole>(?:(?P<user>[^{_NOT}@-](?:[^{_NOT}]|\\(?!@))*)@)?"
    r"(?:\[(?P<bracketed>[0-9A-Fa-f:.%\w]+)\]|(?P<ipv6>[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.]*(?:%[\w.-]+)?)"
    rf"|(?P<host>[^{_NOT}@-][^{_NOT}@]*))(?:/(?P<node>\w[\w.-]*))?)(?::(?P<thing>.*))?",
    re.DOTALL,
)
NO_HOST = "it does not begin with a host: an alias of ~/.ssh/config, a name or an address"


@dataclass(frozen=True)
class Target:
    """A host, or one thing on it: by its name, or by its port."""

    host: str
    name: str | None = None
    port: int | None = None

    def __str__(self) -> str:
        thing = self.name if self.port is None else str(self.port)
        return self.host if thing is None else f"{self.host}:{thing}"


def parse(text: str, *, on: str | None = None) -> Target:
    """Return the target that `text` says; a HOST may be ``ALIAS/NODE``, a node of a name that leads to several.

    ``login:22`` is what listens at port 22 of `login`; ``ssh://login:22`` is `login`, whose sshd listens at port 22.

    Parameters
    ----------
    on : str, optional
        The HOST that another word names, as the option ``-H`` does: `text` is a NAME or PORT there.

    Raises
    ------
    InvalidTargetError
        There is no host, the name is empty, or the port is not in 1 to 65535.
    """
    if on is not None:
        text = f"{in_brackets(on)}:{text}"
    found = HOST.fullmatch(text)
    if found is None:
        raise InvalidTargetError(text, NO_HOST)
    host, thing = found["whole"], found["thing"]
    if text.startswith("ssh://") and (port := re.fullmatch(r"([0-9]+)(?::(.*))?", thing or "", re.DOTALL)):
        host, thing = f"ssh://{host}:{port[1]}", port[2]  # of a URI of ssh, it is the port of sshd
    if thing is None:
        return Target(host)
    if thing.startswith("//"):
        raise InvalidTargetError(text, "that is a URL")
    if re.fullmatch(r"[0-9]+", thing):
        if not 1 <= int(thing) <= 65535:
            raise InvalidTargetError(text, f"{thing} is not a port (1 to 65535)")
        return Target(host, port=int(thing))
    if not thing or re.search(r"[\s\x00-\x1f\x7f]", thing):
        raise InvalidTargetError(text, "the name after ':' is empty or contains a blank")
    return Target(host, name=thing)


def before_colon(host: str) -> str:
    """Return a host without its node, as it stands before ``:NAME``: an IPv6 address in brackets."""
    bare = in_brackets(host)
    return bare if bare != host or host.startswith("ssh://") else host.partition("/")[0]


def in_brackets(host: str) -> str:
    """Return a host with an IPv6 address in brackets; a URI and every other host as it is."""
    found = HOST.fullmatch(host)
    address = None if found is None or host.startswith("ssh://") else found["ipv6"]
    return host if address is None else host.replace(address, f"[{address}]")


def guess(alias: str) -> str:
    """Return in words that the alias of a machine at home is a guess, made from its name."""
    return f"replace {alias} by your own alias for this machine"


def said_by(host: str | None, text: str) -> str:
    """Return an error of `host` in a sentence that names it, with hints as they are to be typed here."""
    text = hints_at(host, text)
    return f"{host}: {text}" if host and not text.startswith((f"{host}: ", f"{host} ")) else text


def hints_at(host: str | None, text: str) -> str:
    """Return what `ports` on `host` said, its hints as they are to be typed here: ``-H`` added, the alias of here.

    Where it calls its alias a guess, that is left out.

    ``None`` is this machine, whose text stays as it is.
    """
    if host is None:
        return text
    text = re.sub(rf" \({guess(r'[^ ]+')}\)", "", text)

    def here(found: re.Match[str]) -> str:
        command = found[1]
        if re.match(r"ports open [^\s:]+:", command):  # there, the alias was a guess
            return f"`{re.sub(r' [^ :]+:', lambda _: f' {host}:', command, count=1)}`"
        if f" {host}:" in command:  # a job: its id has the host
            return found[0]
        return found[0] if re.search(r" (-H|--host)\b", command) else f"`{command} -H {host}`"

    return re.sub(
        r"(?<!\bby )`(ports (?:(?:cluster|notebook|job|resource|prune|shell(?= --))\b|open [^\s:`]+:)[^`]*)`",
        here,
        text,
    )
