"""What goes wrong with SSH, in the words that both transports use: reason and hint of an error. Pure."""

from __future__ import annotations

import re

REFUSES = "refuses connections: sshd is not running there, or listens on another port"
NO_ANSWER = "does not answer: it is down, or a firewall or a missing VPN is in between"
NO_EXEC = (
    "refuses another session on this connection (MaxSessions); close a tunnel to it (`ports tunnel list`) or a shell "
    "there, or ask its administrator for `MaxSessions 10`"
)
HOP_PROHIBITED = (
    "forwarding to it is prohibited (AllowTcpForwarding or PermitOpen in the sshd_config of the host before it)"
)
DEAD = "the connection was lost: it no longer answers; run the command again"
SLOW_LOGIN = "is the host overloaded, or does your key or its agent wait to be touched or confirmed?"
SLOW_ANSWER = "it is overloaded, your start files there take as long, or the connection is down"
CHECK_LOGIN = "check user, key and password"


def name_not_resolved(name: str) -> str:
    """Return the reason where no name server answers."""
    return f"the name {name} cannot be resolved now; is the network or the VPN up?"


def unknown_name(name: str) -> str:
    """Return the reason where there is no such name."""
    return f"the name {name!r} is unknown; check its spelling, ~/.ssh/config and the VPN"


def unreachable(said: str) -> str:
    """Return the reason of an address that cannot be reached; `said` is the system's."""
    return f"cannot be reached: {said}; is the network or the VPN up?"


def closed_before_login(command: str) -> str:
    """Return the reason where the server hung up; `command` is what to try in a minute."""
    return (
        "closed the connection before the login: too many connections at once, a ban after failed logins, or no SSH "
        f"server; wait a minute, then try {command}"
    )


def quoted(said: str) -> str:
    """Return a half sentence with the host's own words; empty where it said nothing."""
    words = " ".join("".join(one if one.isprintable() else " " for one in said).split())
    return f" (the host says: {words[:300]!r})" if words else ""


def too_many_keys(host: str) -> str:
    """Return the reason where the server hung up because the agent offered too many keys."""
    return (
        "refused the login after too many keys: the agent offers all of its keys, and the server accepts only a few "
        "attempts; name the right one in the Host entry of ~/.ssh/config (`IdentityFile ~/.ssh/NAME` and "
        f"`IdentitiesOnly yes`), then run `ports login {host}`"
    )


def only_keys(host: str) -> str:
    """Return the reason where the server takes keys only, and none of the person's."""
    return (
        "the server takes keys only, and accepted none of yours; name the right one in the Host entry of "
        "~/.ssh/config (`IdentityFile ~/.ssh/NAME`), or add your public key to ~/.ssh/authorized_keys there; "
        f"`ssh -v {host}` shows more"
    )


def unknown_key(key: str, accept: str) -> str:
    """Return the reason of a host key that known_hosts does not have; `accept` is the command that adds it."""
    shown = f" ({key})" if key else ""
    return f"unknown host key{shown}; compare it with the administrator's, then accept it by running `{accept}` once"


def changed_key(fingerprint: str | None, known: str | None, forget: str) -> str:
    """Return the reason of a host key that is not the known one; `forget` is what removes the known one."""
    now = f" to {fingerprint}" if fingerprint else ""
    before = f" (known: {known})" if known else ""
    return (
        f"its host key has CHANGED{now}{before}: somebody may intercept the connection. Ask the administrator; only if "
        f"the change was announced, forget the old key with {forget}"
    )


def revoked_key(fingerprint: str | None, known: str | None) -> str:
    """Return the reason of a host key that known_hosts revokes."""
    return f"its host key{_part(fingerprint)} is marked as revoked{_in_brackets(known)}; ask the administrator"


def no_common(what: str, who: str, hint: str) -> str:
    """Return the reason where two sides have no algorithm in common."""
    return f"{who} and this server share no {what}; {hint}"


def key_not_used(file: str) -> str:
    """Return the half sentence about a key file that others can read."""
    return f"the key {file} was not used because others can read it (`chmod 600 {file}`)"


def unknown_name_at_hop(said: str) -> str:
    """Return the reason where the jump host does not know the next hop's name."""
    return f"the jump host does not know its name ({said})"


def unreachable_from_hop(said: str) -> str:
    """Return the reason where the jump host reaches nothing at the next hop."""
    return f"the jump host cannot connect to it: {said}"


def forward_prohibited(remote: str) -> str:
    """Return the reason where sshd forwards nothing to `remote`."""
    options = "AllowStreamLocalForwarding" if remote.startswith("/") else "AllowTcpForwarding, PermitOpen"
    return f"its sshd prohibits forwarding to {remote} ({options}); ask the administrator"


def forwards_nothing(remote: str, said: str) -> str:
    """Return the reason where a server opens no such channel at all: dropbear, or an sshd in Go."""
    return f"its SSH server forwards nothing to {remote} ({said})"


def hop_forwards_nothing(said: str) -> str:
    """Return the reason where a jump host's server opens no channel to the next hop."""
    return f"the SSH server of the host before it opens no connection to it ({said})"


def is_answer(said: str) -> bool:
    """Tell whether a failed connect is the service's or the network's answer, not a refusal of the SSH server."""
    return (
        re.search(r"refused|timed? ?out|unreachable|no route|reset|resol|not known|no such host", said, re.I)
        is not None
    )


def no_socket_or_prohibited(path: str) -> str:
    """Return the reason of a Unix socket: sshd gives the same answer where none listens and where it prohibits it."""
    return f"nothing answers at {path} there, or its sshd prohibits forwarding to it (AllowStreamLocalForwarding)"


def no_listener(remote: str, said: str) -> str:
    """Return the reason where nothing listens at `remote`."""
    return f"nothing answers at {remote} there ({said}); has it just ended?"


def _part(text: str | None) -> str:
    return f" {text}" if text else ""


def _in_brackets(text: str | None) -> str:
    return f" ({text})" if text else ""
