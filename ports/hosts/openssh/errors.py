"""What ssh writes to its stderr, as errors with a reason and a hint. Pure."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

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
from ports.hosts import _wording

#: A line of ssh in which the server has the last word.
_HANGS_UP = re.compile(r"Received disconnect from \S+(?: port \d+)?:\d+: ?(?P<text>.*)|Disconnected from (?P<by>.*)")
#: Lines that ssh itself writes to stderr where there is no ``-E``: requests to a master, and a name or a route.
_OF_SSH = re.compile(
    r"mux_client_\w+: |muxclient: |Control socket connect\(|ControlSocket \S+ already exists|ssh: |"
    r"channel \d+: open failed: |stdio forwarding failed|Connection closed by UNKNOWN|relay: "
)

Reason = Callable[[str, "re.Match[str]", str], str]

_LOST = r"Timeout, server \S+ not responding|client_loop: .*|Connection to \S+ closed by remote host"


@dataclass(frozen=True)
class Voices:
    """Who said what: `ssh` itself, and the `host` (its banner, PAM, the text with which it hangs up, start files)."""

    ssh: str
    host: str


def split(log: str = "", stderr: str = "") -> Voices:
    """Return what ssh itself says, and what the host says.

    The file of ``-E`` has only what ssh logs. ssh prints the banner of a host, and what a command there writes, to
    stderr. A line of ssh is known there by its form. What a server sends within a line of ssh is the server's.

    Parameters
    ----------
    log : str
        What ssh wrote to the file of its ``-E``.
    stderr : str
        What else came on stderr.
    """
    ssh: list[str] = []
    host: list[str] = []
    for line in readable(log).splitlines():
        found = _HANGS_UP.match(line)
        (host if found else ssh).append((found["text"] or "").strip() if found else line)
    if any(line.startswith("kex_exchange_identification") for line in ssh):
        ssh = [*stderr.splitlines(), *ssh]  # no banner comes so early: it is a ProxyCommand that speaks
    else:
        for line in stderr.splitlines():
            ssh.append(readable(line)) if _OF_SSH.match(line) else host.append(line)
    return Voices("\n".join(ssh), "\n".join(host))


def readable(log: str) -> str:
    """Return what ssh logs with the letters that it writes as octal numbers: ``/home/\\303\\274``."""

    def letters(found: re.Match[str]) -> str:
        octal = re.findall(r"\\([0-7]{3})", found[0])
        try:
            return bytes(int(one, 8) for one in octal).decode()
        except ValueError:  # not UTF-8
            return found[0]

    return re.sub(r"(?<!\\)(?:\\[23][0-7]{2})+", letters, log)


def explain(host: str, log: str, stderr: str = "", *, asked: bool = False) -> SSHError:
    """Return the error that the words of ssh mean for `host`; the host's own words are quoted.

    Parameters
    ----------
    log, stderr : str
        As in `split`.
    asked : bool
        A person was asked for a password or code. Then a denial is final, and `ports login` would not help.
    """
    voices = split(log, stderr)
    if re.search(r"^Too many authentication failures", voices.host, re.MULTILINE):
        return LoginNeededError(host, _wording.too_many_keys(host))
    for pattern, kind, reason in _TABLE:
        found = re.search(pattern, voices.ssh, re.MULTILINE)
        if found is None:
            continue
        if kind is LoginNeededError and asked:
            return SSHError(
                host, f"the login was refused; {_unused_key(voices.ssh)}check user and password in `ssh {host}`"
            )
        if reason is _closed:
            return kind(host, _closed(host, found, voices.host))
        said = _wording.quoted(voices.host) if kind is LoginNeededError else ""
        return kind(host, reason(host, found, voices.ssh) + said)
    if voices.host.strip():
        return SSHError(host, f"it refuses the login{_wording.quoted(voices.host)}; `ssh -v {host}` shows more")
    lines = [line.strip() for line in voices.ssh.splitlines() if line.strip()]
    return SSHError(host, f"ssh failed: {lines[-1] if lines else 'it said nothing'}; `ssh -v {host}` shows more")


def takes_more_than_keys(log: str) -> bool:
    """Tell whether the server takes a password or a code, for which ssh asks a person; True where it does not say."""
    found = re.findall(r"Permission denied \(([^)]*)\)", split(log).ssh)
    return not found or not set(found[-1].split(",")) <= {"publickey", "hostbased", "gssapi-with-mic", "gssapi-keyex"}


def explain_forward(host: str, remote: str, stderr: str) -> SSHError | None:
    """Return why connections to `remote` on `host` were refused; None where the master wrote no reason.

    `ssh -O forward` succeeds whatever the far end is like: the reason comes with the first connection. The last line
    with a reason counts.

    Returns
    -------
    ProhibitedError
        sshd there forwards nothing to `remote`, now and later. For a Unix socket it can also mean that nothing listens:
        sshd gives the same answer to both, and only another method shows which. So does every other refusal to open a
        channel: dropbear and sshds in Go know no such channel, or have reasons of their own.
    RefusedError
        It forwards, but nothing answers there.
    ConnectionLostError
        The connection itself ended.
    """
    told = re.findall(rf"open failed: (.+?)\s*$|({_LOST})", stderr, re.MULTILINE)
    if not told:
        return None
    refusal, lost = told[-1]
    if lost:
        return ConnectionLostError(host, f"the connection was lost: {lost.strip()}")
    if "prohibited" in refusal:
        return ProhibitedError(host, _wording.forward_prohibited(remote))
    if refusal.startswith("connect failed") and remote.startswith("/"):
        return ProhibitedError(host, _wording.no_socket_or_prohibited(remote))
    if refusal.startswith("connect failed") and _wording.is_answer(refusal):
        return RefusedError(host, _wording.no_listener(remote, refusal))
    return ProhibitedError(host, _wording.forwards_nothing(remote, refusal))


def is_multiplexing_failure(stderr: str) -> bool:
    """Tell whether ssh failed because the master did not take the request, before anything ran on the host."""
    pattern = r"Control socket connect|mux_client_hello|master hello|ControlSocket .* already exists"
    return bool(re.search(pattern, split(stderr=stderr).ssh))


def is_session_refused(stderr: str) -> bool:
    """Tell whether the server refused one more session on the connection."""
    return "Session open refused by peer" in split(stderr=stderr).ssh


def _closed(host: str, _: re.Match[str], said: str) -> str:
    if said.strip():
        return f"closed the connection at the login{_wording.quoted(said)}; `ssh -v {host}` shows more"
    return _wording.closed_before_login(f"`ssh {host}`")


def _changed_key(host: str, _: re.Match[str], text: str) -> str:
    remove = _first(r"(ssh-keygen -f .*?)\s*$", text) or f"ssh-keygen -R {host}"
    known = _first(r"Offending \S+ key in (.+?)\s*$", text)
    return _wording.changed_key(_first(r"(SHA256:[\w+/=]+)", text), known, f"`{remove}`")


def _unknown_key(host: str, _: re.Match[str], text: str) -> str:
    kind = _first(r"No (\S+) host key is known", text) or _first(r"Server host key: (\S+) SHA256", text)
    fingerprint = _first(r"Server host key: \S+ (SHA256:[\w+/=]+)", text) or _first(r"(SHA256:[\w+/=]+)", text)
    return _wording.unknown_key(" ".join(part for part in (kind, fingerprint) if part), f"ssh {host}")


def _denied(host: str, found: re.Match[str], text: str) -> str:
    methods = found.groupdict().get("methods")
    accepted = f" ({methods})" if methods else ""
    hint = f"run `ports login {host}` in a terminal, or load your key with `ssh-add`"
    return f"needs a login{accepted}; {_unused_key(text)}{hint}"


def _unused_key(text: str) -> str:
    key = _first(r"Permissions \d+ for '([^']+)' are too open", text)
    return f"{_wording.key_not_used(key)}; " if key else ""


def _first(pattern: str, text: str) -> str | None:
    found = re.search(pattern, text, re.MULTILINE)
    return found.group(1).rstrip(".") if found else None


def _say(text: str) -> Reason:
    """Return a reason that fills the groups of the match and the host into `text`."""
    return lambda host, found, _: text.format(*found.groups(), host=host)


# compiled when they are used: only an error needs them
_TABLE: tuple[tuple[str, type[SSHError], Reason], ...] = (
    (
        r"Could not resolve hostname (\S*): (?:Temporary failure|Try again)",
        NetworkError,
        _say(_wording.name_not_resolved("{0}")),
    ),
    (
        r"Could not resolve hostname (.*?):",
        UnknownHostError,
        lambda _, found, __: _wording.unknown_name(found[1]),
    ),
    (r"hostname contains invalid characters", UnknownHostError, _say("that is not the name of a host")),
    (r"REMOTE HOST IDENTIFICATION HAS CHANGED|has changed and you have requested", HostKeyError, _changed_key),
    (
        r"is marked as revoked|REVOKED HOST KEY",
        HostKeyError,
        _say(_wording.revoked_key(None, None)),
    ),
    (r"No \S+ host key is known for|Host key verification failed", HostKeyError, _unknown_key),
    (r"Permission denied \((?P<methods>[^)]*)\)", LoginNeededError, _denied),
    (r"Permission denied, please try again", LoginNeededError, _denied),
    (
        r"administratively prohibited",
        ProhibitedError,
        _say(_wording.HOP_PROHIBITED),
    ),
    (
        r"open failed: ((?!connect failed|administratively)[^\r\n]+)",
        ProhibitedError,
        _say(_wording.hop_forwards_nothing("{0}")),
    ),
    (
        r"open failed: connect failed: (.*(?:[Nn]ame|resolution)[^\r\n]*)",
        UnknownHostError,
        _say(_wording.unknown_name_at_hop("{0}")),
    ),
    (r"open failed: connect failed: ([^\r\n]+)", NetworkError, _say(_wording.unreachable_from_hop("{0}"))),
    (r"relay: connect failed: ([^\r\n]+)", NetworkError, _say(_wording.unreachable_from_hop("{0}"))),
    (
        r"relay: (no nc[^\r\n]+)",
        SSHError,
        _say("{0}, and sshd on the jump host prohibits forwarding; ask the administrator"),
    ),
    (
        r"(Not allowed at this time|Exceeded MaxStartups)",
        SSHError,
        _say("is refusing new connections ({0}): too many logins, or too many failed ones; try again in a few minutes"),
    ),
    (
        r"(?:port (\d+))?: Connection refused",
        NetworkError,
        _say(_wording.REFUSES),
    ),
    (
        r"(?i)(?:connection|operation) timed out|timed out during",
        NetworkError,
        _say(_wording.NO_ANSWER),
    ),
    (
        r"(No route to host|Network is unreachable|Host is down)",
        NetworkError,
        _say(_wording.unreachable("{0}")),
    ),
    (
        r"no matching (.+?) found",
        SSHError,
        _say(_wording.no_common("{0}", "this ssh", "an entry for it in ~/.ssh/config can allow an older one")),
    ),
    (
        r"Session open refused by peer",
        SSHError,
        _say(_wording.NO_EXEC),
    ),
    (r"Timeout, server \S+ not responding", ConnectionLostError, _say("the connection was lost: it no longer answers")),
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
        _say("the connection was reset before the login: by a firewall, a restart, or too many at once; try again"),
    ),
    (
        r"client_loop: [^\r\n]+|Connection to \S+ closed by remote host",
        ConnectionLostError,
        _say("the connection was lost; try again"),
    ),
    (
        r"kex_exchange_identification|Connection (?:closed|reset) by|Connection to \S+ closed|Broken pipe",
        SSHError,
        _closed,
    ),
)
