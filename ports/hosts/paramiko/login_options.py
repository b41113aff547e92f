"""What a login to a hop takes, from the options of its configuration: keys, methods, known_hosts. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ports.errors import SSHError
from ports.hosts._route import Hop
from ports.state import settings

_DEFAULT_KEYS = ("id_rsa", "id_ecdsa", "id_ed25519")
# options on which the trust in a host key depends
_NOT_EVALUATED = {"revokedhostkeys": "RevokedHostKeys", "knownhostscommand": "KnownHostsCommand"}


@dataclass(frozen=True)
class LoginOptions:
    """The options of one hop that decide on its login."""

    hop: Hop
    identity_files: tuple[str, ...] = ()
    identities_only: bool = False
    #: ``none``, a socket's path, or None: the one of the environment.
    identity_agent: str | None = None
    known_hosts: tuple[str, ...] = ()
    host_key_alias: str | None = None
    #: Methods of authentication that the configuration allows.
    methods: tuple[str, ...] = ("publickey", "keyboard-interactive", "password")
    prompts: int = 3
    #: Command whose input and output are the connection to the first hop, with ``%h`` and the like filled in.
    proxy_command: str | None = None
    #: 4 or 6, where the configuration asks for that kind of address.
    family: int | None = None

    @property
    def known_as(self) -> str:
        """The host's name in known_hosts."""
        if self.host_key_alias:
            return self.host_key_alias.lower()
        hostname = self.hop.hostname.lower()
        return hostname if self.hop.port == 22 else f"[{hostname}]:{self.hop.port}"


def login_options(hop: Hop, *, variable: Callable[[str], str | None] = settings.variable) -> LoginOptions:
    """Return the options of a login to `hop`.

    Parameters
    ----------
    variable : callable
        Returns the value of an environment variable: paths may name some.

    Raises
    ------
    SSHError
        An option decides whether the host can be trusted, and is not evaluated here.
    """
    found = dict(reversed(hop.options))  # the first one counts
    for key, name in _NOT_EVALUATED.items():
        if found.get(key, "none").lower() != "none":
            raise SSHError(hop.alias, f"paramiko cannot evaluate its option {name}; use the ssh program")
    words = _Words(hop, variable)
    keys = hop.values("identityfile") or [f"~/.ssh/{name}" for name in _DEFAULT_KEYS]
    known_as = found.get("hostkeyalias", "none")
    return LoginOptions(
        hop,
        identity_files=tuple(words.path(key) for key in keys if key != "none"),
        identities_only=found.get("identitiesonly") == "yes",
        identity_agent=words.agent(found.get("identityagent")),
        known_hosts=tuple(words.files(found, "userknownhostsfile", "globalknownhostsfile")),
        host_key_alias=None if known_as.lower() == "none" else known_as,
        methods=_methods(found),
        prompts=int(found.get("numberofpasswordprompts", "3")),
        proxy_command=words.expand(hop.proxy_command) if hop.proxy_command else None,
        family={"inet": 4, "inet6": 6}.get(found.get("addressfamily", "any")),
    )


class _Words:
    """Fills in tokens and variables in values of the configuration."""

    def __init__(self, hop: Hop, variable: Callable[[str], str | None]) -> None:
        self._variable = variable
        self._tokens = {"%": "%", "d": str(Path.home()), "n": hop.alias, "r": hop.user, "u": hop.user}
        self._tokens |= {"h": hop.hostname, "p": str(hop.port)}

    def expand(self, text: str) -> str:
        """Fill in ``%h`` and the like."""
        return re.sub(r"%(.)", lambda one: self._tokens.get(one.group(1), one.group()), text)

    def path(self, text: str) -> str:
        """Return a path, with the home and variables filled in."""
        text = re.sub(r"\$\{(\w+)\}", lambda one: self._variable(one.group(1)) or "", self.expand(text))
        return str(Path(text).expanduser())

    def agent(self, text: str | None) -> str | None:
        """Return the socket of the agent; None: the one of the environment."""
        if text is None or text == "SSH_AUTH_SOCK":
            return None
        return "none" if text.lower() == "none" else self.path(re.sub(r"^\$(\w+)$", r"${\1}", text))

    def files(self, found: dict[str, str], *keys: str) -> Iterator[str]:
        """Yield the files that options list; a name that contains blanks is the only one."""
        for key in keys:
            text = found.get(key, "")
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
