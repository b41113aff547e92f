"""What goes wrong on the way to a host, as errors with a reason and a way out: nothing of paramiko's goes further."""

from __future__ import annotations

import errno
import shutil
import socket

import paramiko

from ports.errors import (
    ConnectionLostError,
    HostKeyError,
    NetworkError,
    ProhibitedError,
    RefusedError,
    SSHError,
    UnknownHostError,
)
from ports.hosts._route import Hop
from ports.hosts.paramiko.channels import PROHIBITED, Refusal
from ports.hosts.paramiko.known_hosts import Verdict, fingerprint
from ports.hosts.paramiko.login_options import LoginOptions

# what a call of paramiko raises
FAILURES = (paramiko.SSHException, EOFError, OSError)


def explain_connect(hop: Hop, error: OSError) -> SSHError:
    """Return the error of a TCP connection to `hop` that did not come about."""
    host = hop.alias
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return NetworkError(host, f"the name {hop.hostname} cannot be resolved now; is the network or the VPN up?")
        return UnknownHostError(
            host, f"the name {hop.hostname!r} is not known; check its spelling, ~/.ssh/config and the VPN"
        )
    if isinstance(error, ConnectionRefusedError):
        return NetworkError(host, "refuses connections: sshd is down there, or listens on another port")
    if isinstance(error, TimeoutError):
        return NetworkError(host, "does not answer: it is down, or a firewall or a missing VPN is in between")
    if error.errno in (errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EHOSTDOWN):
        return NetworkError(host, f"cannot be reached: {error.strerror}; is the network or the VPN up?")
    return NetworkError(host, f"cannot be reached: {error.strerror or error}")


def explain_handshake(hop: Hop, error: BaseException | None, *, timed_out: bool, said: str = "") -> SSHError:
    """Return the error of a connection that stands, but on which no SSH came about.

    Parameters
    ----------
    said : str
        What the command through which the host is reached wrote to its stderr.
    """
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        what = str(error).partition("(")[2].rstrip(")").removeprefix("no acceptable ") or "algorithm"
        return SSHError(hop.alias, f"it and paramiko have no {what} in common; use the ssh program (`--transport ssh`)")
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if lines:
        return NetworkError(hop.alias, f"the command on the host before it cannot connect to it: {lines[-1]}")
    if timed_out:
        return NetworkError(hop.alias, "does not answer: it is overloaded, or a firewall is in between")
    if isinstance(error, paramiko.SSHException) and "banner" not in str(error).lower():
        return SSHError(hop.alias, f"the connection could not be secured: {error}")
    return NetworkError(
        hop.alias,
        "closed the connection before the login: too many at once, a ban after failed logins, or no SSH server; "
        "wait a minute, then try again",
    )


def explain_key(options: LoginOptions, verdict: Verdict, kind: str, key: bytes) -> HostKeyError:
    """Return the error of a host key that is not known, or not what is known."""
    shown, host = fingerprint(key), options.hop.alias
    if verdict.is_ == "revoked":
        return HostKeyError(host, f"its host key {shown} is marked as revoked ({verdict.place}); ask the administrator")
    if verdict.is_ == "changed":
        return HostKeyError(
            host,
            f"its host key has CHANGED to {shown} (known: {verdict.place}): somebody may stand in between. Ask the "
            "administrator; only if the change is announced, forget the old key with "
            f"`ssh-keygen -R {options.known_as}`, or delete that line",
        )
    if verdict.is_ == "authority":
        return HostKeyError(
            host,
            f"its host key ({kind} {shown}) is vouched for by a certificate ({verdict.place}), which paramiko cannot "
            f"check; use the ssh program (`--transport ssh`), or {_accept(options, kind, key)}",
        )
    return HostKeyError(
        host, f"its host key is not known here ({kind} {shown}); compare it, and {_accept(options, kind, key)}"
    )


def _accept(options: LoginOptions, kind: str, key: bytes) -> str:
    if shutil.which("ssh"):
        return f"accept it once with `ssh {options.hop.alias}`"
    file = options.known_hosts[0] if options.known_hosts else "~/.ssh/known_hosts"
    return f"accept it once with `echo {known_line(options, kind, key)} >> {file}`"


def known_line(options: LoginOptions, kind: str, key: bytes) -> str:
    """Return the line of known_hosts that accepts a key."""
    import base64

    return f"{options.known_as} {kind} {base64.b64encode(key).decode()}"


def explain_jump(hop: Hop, error: BaseException) -> SSHError:
    """Return the error of a hop that the host before it does not connect to."""
    if isinstance(error, Refusal):
        if error.code == PROHIBITED:
            return ProhibitedError(
                hop.alias,
                "forwarding is prohibited (AllowTcpForwarding or PermitOpen in the sshd_config of the host before it)",
            )
        if "name" in error.reason.lower() or "resol" in error.reason.lower():
            return UnknownHostError(hop.alias, f"the jump host does not know its name ({error.reason})")
        return NetworkError(hop.alias, f"the jump host cannot connect to it: {error.reason}")
    return NetworkError(hop.alias, f"the jump host does not connect to it: {error}")


def explain_dial(host: str, remote: str, error: BaseException) -> SSHError:
    """Return why there is no connection to `remote` on `host`."""
    if not isinstance(error, Refusal):
        return ConnectionLostError(host, f"the connection was lost ({error or 'it ended'})")
    if remote.startswith("/"):  # sshd gives the same answer to both, and only another door to it tells
        reason = f"nothing answers at {remote} there, or its sshd prohibits it (AllowStreamLocalForwarding)"
        return ProhibitedError(host, f"{reason}; has it just ended?")
    if error.code == PROHIBITED:
        return ProhibitedError(
            host, f"its sshd prohibits forwarding to {remote} (AllowTcpForwarding, PermitOpen); ask the administrator"
        )
    return RefusedError(host, f"nothing answers at {remote} there ({error.reason}); has it just ended?")


def explain_exec(host: str, error: BaseException) -> SSHError:
    """Return why there is no session on `host`."""
    if isinstance(error, Refusal):
        return SSHError(host, "refuses another session on this connection (MaxSessions); close a shell or tunnel there")
    return ConnectionLostError(host, f"the connection was lost ({error or 'it ended'}); run the command again")
