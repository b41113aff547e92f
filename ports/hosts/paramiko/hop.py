"""A hop as this adapter needs it: a host with the options that a login takes, from ``ssh -G`` or the like; pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ports.errors import SSHError

_DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")
# what would have to be evaluated to know whether a host key or a login is good
_NOT_EVALUATED = {"revokedhostkeys": "RevokedHostKeys", "knownhostscommand": "KnownHostsCommand"}


@dataclass(frozen=True)
class Hop:
    """One host on the way, as the user's configuration resolves it."""

    alias: str
    hostname: str
    user: str
    port: int
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    #: ``none``, a socket's path, or None: the one of the environment.
    identity_agent: str | None = None
    known_hosts: tuple[str, ...] = ()
    host_key_alias: str | None = None
    host_key_checking: str = "ask"
    #: Methods of authentication that the configuration allows.
    methods: tuple[str, ...] = ("publickey", "keyboard-interactive", "password")
    prompts: int = 3
    #: Command whose input and output are the connection, for the first hop.
    proxy_command: str | None = None
    #: 4 or 6, where the configuration wants that kind of addresses.
    family: int | None = None

    @property
    def known_as(self) -> str:
        """The host's name in known_hosts."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        return self.hostname.lower() if self.port == 22 else f"[{self.hostname.lower()}]:{self.port}"


def hop_from_options(
    alias: str, options: Iterable[tuple[str, str]], *, variable: Callable[[str], str | None] = lambda _: None
) -> Hop:
    """Return the hop that lines of `ssh -G`, as pairs of lower-case key and value, describe.

    Parameters
    ----------
    variable : callable
        Returns the value of an environment variable: paths may name some.

    Raises
    ------
    SSHError
        An option that decides whether the host can be trusted, and that this path does not evaluate.
    """
    pairs = list(options)
    found = dict(reversed(pairs))  # the first one counts
    for key, name in _NOT_EVALUATED.items():
        if found.get(key, "none").lower() != "none":
            raise SSHError(alias, f"{name} of its configuration cannot be evaluated by paramiko; use the ssh program")
    words = _Words(alias, found, variable)
    keys = [value for key, value in pairs if key == "identityfile"] or [f"~/.ssh/{name}" for name in _DEFAULT_KEYS]
    proxy, known_as = (_unless_none(found.get(key)) for key in ("proxycommand", "hostkeyalias"))
    return Hop(
        alias=alias,
        hostname=found.get("hostname", alias),
        user=found.get("user", ""),
        port=int(found.get("port", "22")),
        identity_files=tuple(words.path(key) for key in keys if key != "none"),
        identities_only=found.get("identitiesonly") == "yes",
        identity_agent=words.agent(found.get("identityagent")),
        known_hosts=tuple(words.files("userknownhostsfile", "globalknownhostsfile")),
        host_key_alias=known_as,
        host_key_checking=found.get("stricthostkeychecking", "ask"),
        methods=_methods(found),
        prompts=int(found.get("numberofpasswordprompts", "3")),
        proxy_command=words.expand(proxy) if proxy else None,
        family={"inet": 4, "inet6": 6}.get(found.get("addressfamily", "any")),
    )


class _Words:
    """Values of the configuration, with what stands for something else put in."""

    def __init__(self, alias: str, found: dict[str, str], variable: Callable[[str], str | None]) -> None:
        self._found, self._variable = found, variable
        user = found.get("user", "")
        self._tokens = {"%": "%", "d": str(Path.home()), "n": alias, "r": user, "u": user}
        self._tokens |= {"h": found.get("hostname", alias), "p": found.get("port", "22")}

    def expand(self, text: str) -> str:
        """Put in the host for ``%h`` and the like."""
        return re.sub(r"%(.)", lambda one: self._tokens.get(one.group(1), one.group()), text)

    def path(self, text: str) -> str:
        """Return a path, with the home and variables put in."""
        text = re.sub(r"\$\{(\w+)\}", lambda one: self._variable(one.group(1)) or "", self.expand(text))
        return str(Path(text).expanduser())

    def agent(self, text: str | None) -> str | None:
        """Return the socket of the agent; None: the one of the environment."""
        if text is None or text == "SSH_AUTH_SOCK":
            return None
        return "none" if text.lower() == "none" else self.path(re.sub(r"^\$(\w+)$", r"${\1}", text))

    def files(self, *keys: str) -> Iterator[str]:
        """Yield the files that options list; one whose name has blanks in it stands alone."""
        for key in keys:
            text = self._found.get(key, "")
            alone = " " in text and Path(self.path(text)).exists()
            for file in [text] if alone else text.replace('"', "").split():
                if file.lower() != "none":
                    yield self.path(file)


def _methods(found: dict[str, str]) -> tuple[str, ...]:
    """Return the methods of authentication that are not switched off, in the order that is preferred."""
    options = {
        "publickey": "pubkeyauthentication",
        "keyboard-interactive": "kbdinteractiveauthentication",
        "password": "passwordauthentication",
    }
    preferred = found.get("preferredauthentications", "").split(",")
    order = [name for name in preferred if name in options] or list(options)
    return tuple(name for name in order if found.get(options[name], "yes") not in ("no", "false"))


def _unless_none(value: str | None) -> str | None:
    return None if value is None or value.lower() == "none" else value
