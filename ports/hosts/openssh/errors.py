"""What ssh says on its stderr, as errors with a reason and a way out; pure."""

from __future__ import annotations

import re
from collections.abc import Callable

from ports.errors import (
    ConnectionLostError,
    HostKeyError,
    LoginNeededError,
    NetworkError,
    ProhibitedError,
    RefusedError,
    SSHError,
    UnknownHostError,
)

Reason = Callable[[str, "re.Match[str]", str], str]

_LOST = r"Timeout, server \S+ not responding|client_loop: .*|Connection to \S+ closed by remote host"


def explain(host: str, stderr: str, *, asked: bool = False) -> SSHError:
    """Return the error that the stderr of ssh means for `host`.

    Parameters
    ----------
    asked : bool
        A person was asked for a password or code: a denial is then final, not a call for `ports login`.
    """
    for pattern, kind, reason in _TABLE:
        found = re.search(pattern, stderr)
        if found:
            if kind is LoginNeededError and asked:
                return SSHError(
                    host, f"the login was refused; {_unused_key(stderr)}check user and password in `ssh {host}`"
                )
            return kind(host, reason(host, found, stderr))
    lines = [line.strip() for line in stderr.splitlines() if line.strip()]
    return SSHError(host, f"ssh failed: {lines[-1] if lines else 'it said nothing'}; `ssh -v {host}` tells more")


def explain_forward(host: str, remote: str, stderr: str) -> SSHError | None:
    """Return why connections to `remote` on `host` were refused; None where the master complained of nothing.

    `ssh -O forward` succeeds whatever the far end is like: the reason comes with the first connection. The last line
    that tells one counts.

    Returns
    -------
    ProhibitedError
        sshd there forwards nothing to `remote`, now and later. Of a Unix socket it may also mean that none listens:
        sshd gives the same answer to both, and only another door to it tells.
    RefusedError
        It forwards, and nothing answers there.
    ConnectionLostError
        The connection itself ended.
    SSHError
        Anything else that sshd says.
    """
    told = re.findall(rf"open failed: (.+?)\s*$|({_LOST})", stderr, re.MULTILINE)
    if not told:
        return None
    refusal, lost = told[-1]
    if lost:
        return ConnectionLostError(host, f"the connection was lost: {lost.strip()}")
    if "prohibited" in refusal:
        kind = "AllowStreamLocalForwarding" if remote.startswith("/") else "AllowTcpForwarding, PermitOpen"
        return ProhibitedError(host, f"its sshd prohibits forwarding to {remote} ({kind}); ask the administrator")
    if refusal.startswith("connect failed") and remote.startswith("/"):
        return ProhibitedError(
            host, f"nothing answers at {remote} there, or its sshd prohibits that (AllowStreamLocalForwarding)"
        )
    if refusal.startswith("connect failed"):
        return RefusedError(host, f"nothing answers at {remote} there ({refusal}); has it just ended?")
    return SSHError(host, f"its sshd opens no connection to {remote} ({refusal}); wait a minute and try again")


def is_multiplexing_failure(stderr: str) -> bool:
    """Tell whether ssh failed because the master could not be asked, before anything ran on the host."""
    return bool(
        re.search(r"Control socket connect|mux_client_hello|master hello|ControlSocket .* already exists", stderr)
    )


def is_session_refused(stderr: str) -> bool:
    """Tell whether the server refused one more session on the connection."""
    return "Session open refused by peer" in stderr


def _changed_key(host: str, _: re.Match[str], text: str) -> str:
    fingerprint = _first(r"(SHA256:[\w+/=]+)", text)
    place = _first(r"Offending \S+ key in (\S+)", text)
    remove = _first(r"(ssh-keygen -f .*?)\s*$", text) or f"ssh-keygen -R {host}"
    now = f" to {fingerprint}" if fingerprint else ""
    known = f" (known: {place})" if place else ""
    return (
        f"its host key has CHANGED{now}{known}: somebody may stand in between. Ask the administrator; only if the "
        f"change is announced, forget the old key with `{remove}`"
    )


def _unknown_key(host: str, _: re.Match[str], text: str) -> str:
    kind = _first(r"No (\S+) host key is known", text) or _first(r"Server host key: (\S+) SHA256", text)
    fingerprint = _first(r"Server host key: \S+ (SHA256:[\w+/=]+)", text) or _first(r"(SHA256:[\w+/=]+)", text)
    key = " ".join(part for part in (kind, fingerprint) if part)
    return (
        f"its host key is not known here{f' ({key})' if key else ''}; compare it, and accept it once with `ssh {host}`"
    )


def _denied(host: str, found: re.Match[str], text: str) -> str:
    methods = found.groupdict().get("methods")
    accepted = f" ({methods})" if methods else ""
    hint = f"run `ports login {host}` in a terminal, or load your key with `ssh-add`"
    return f"needs a login{accepted}; {_unused_key(text)}{hint}"


def _unused_key(text: str) -> str:
    key = _first(r"Permissions \d+ for '([^']+)' are too open", text)
    return f"the key {key} was not used, as others may read it (`chmod 600 {key}`); " if key else ""


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).rstrip(".") if found else None


def _say(text: str) -> Reason:
    """Return a reason that fills the groups of the match and the host into `text`."""
    return lambda host, found, _: text.format(*found.groups(), host=host)


# compiled at their use, on the way to an error
_TABLE: tuple[tuple[str, type[SSHError], Reason], ...] = (
    (
        r"Could not resolve hostname (\S*): (?:Temporary failure|Try again)",
        NetworkError,
        _say("the name {0} cannot be resolved now; is the network or the VPN up?"),
    ),
    (
        r"Could not resolve hostname (.*?):",
        UnknownHostError,
        _say("the name {0!r} is not known; check its spelling, ~/.ssh/config and the VPN"),
    ),
    (r"hostname contains invalid characters", UnknownHostError, _say("that is no name of a host")),
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|has changed and you have requested", HostKeyError, _changed_key),
    (
        r"is marked as revoked|REVOKED HOST KEY",
        HostKeyError,
        _say("its host key is marked as revoked; ask the administrator"),
    ),
    (r"No \S+ host key is known for|Host key verification failed", HostKeyError, _unknown_key),
    (r"Permission denied \((?P<methods>[^)]*)\)", LoginNeededError, _denied),
    (r"Too many authentication failures|Permission denied, please try again", LoginNeededError, _denied),
    (
        r"administratively prohibited",
        ProhibitedError,
        _say("forwarding is prohibited (AllowTcpForwarding or PermitOpen in the sshd_config of the host before it)"),
    ),
    (
        r"open failed: connect failed: (.*(?:[Nn]ame|resolution)[^\r\n]*)",
        UnknownHostError,
        _say("the jump host does not know its name ({0})"),
    ),
    (r"open failed: connect failed: ([^\r\n]+)", NetworkError, _say("the jump host cannot connect to it: {0}")),
    (r"relay: connect failed: ([^\r\n]+)", NetworkError, _say("the jump host cannot connect to it: {0}")),
    (
        r"relay: (no nc[^\r\n]+)",
        SSHError,
        _say("{0}, and sshd forwards nothing on the jump host; ask the administrator"),
    ),
    (
        r"(Not allowed at this time|Exceeded MaxStartups)",
        SSHError,
        _say("sends newcomers away ({0}): too many logins, or failed ones; wait a few minutes"),
    ),
    (
        r"(?:port (\d+))?: Connection refused",
        NetworkError,
        _say("refuses connections: sshd is down there, or listens on another port"),
    ),
    (
        r"(?i)(?:connection|operation) timed out|timed out during",
        NetworkError,
        _say("does not answer: it is down, or a firewall or a missing VPN is in between"),
    ),
    (
        r"(No route to host|Network is unreachable|Host is down)",
        NetworkError,
        _say("cannot be reached: {0}; is the network or the VPN up?"),
    ),
    (
        r"no matching (.+?) found",
        SSHError,
        _say("it and this ssh have no {0} in common; an entry for it in ~/.ssh/config may allow an older one"),
    ),
    (
        r"Session open refused by peer",
        SSHError,
        _say("refuses another session on this connection (MaxSessions); close a shell or tunnel there"),
    ),
    (r"Timeout, server \S+ not responding", ConnectionLostError, _say("the connection was lost: it answers no longer")),
    (
        r"(?:Can't open user config file|Bad owner or permissions on) (.+)",
        SSHError,
        _say("ssh cannot use its configuration {0}"),
    ),
    (r"(.+ line \d+: .+)", SSHError, _say("the configuration of ssh is wrong: {0}")),
    (
        r"[Aa]ccount .*(expired|locked|not available)",
        SSHError,
        _say("the account there is {0}; ask the administrator"),
    ),
    (
        r"(?:unix_listener|bind|channel_setup_fwd_listener\S*): (.*(?:too long|cannot bind|Address already).*)",
        SSHError,
        _say("the local end could not be made: {0}"),
    ),
    (
        r"read: Connection reset by peer|Connection reset by \S+ port",
        NetworkError,
        _say("the connection was reset before the login: a firewall, a restart, or too many at once; try again"),
    ),
    (
        r"client_loop: [^\r\n]+|Connection to \S+ closed by remote host",
        ConnectionLostError,
        _say("the connection was lost; try again"),
    ),
    (
        r"kex_exchange_identification|Connection (?:closed|reset) by|Connection to \S+ closed|Broken pipe",
        SSHError,
        _say(
            "closed the connection before the login: too many at once, a ban after failed logins, or no SSH "
            "server; wait a minute, then try `ssh {host}`"
        ),
    ),
)
