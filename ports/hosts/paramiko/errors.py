"""What goes wrong on the route to a host, as errors with a reason and a hint: paramiko's own go no further."""

from __future__ import annotations

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
from ports.hosts import _wording
from ports.hosts._route import Hop
from ports.hosts.paramiko.channels import CONNECT_FAILED, PROHIBITED, Refusal
from ports.hosts.paramiko.known_hosts import Verdict, fingerprint
from ports.hosts.paramiko.login_options import LoginOptions

# what a call of paramiko raises
FAILURES = (paramiko.SSHException, EOFError, OSError)


def explain_connect(hop: Hop, error: OSError) -> SSHError:
    """Return the error of a TCP connection to `hop` that failed."""
    host = hop.alias
    if isinstance(error, socket.gaierror):
        if error.errno == socket.EAI_AGAIN:
            return NetworkError(host, _wording.name_not_resolved(hop.hostname))
        return UnknownHostError(host, _wording.unknown_name(hop.hostname))
    if isinstance(error, ConnectionRefusedError):
        return NetworkError(host, _wording.REFUSES)
    if isinstance(error, TimeoutError):
        return NetworkError(host, _wording.NO_ANSWER)
    return NetworkError(host, _wording.unreachable(error.strerror or str(error)))


def explain_handshake(hop: Hop, error: BaseException | None, *, timed_out: bool, said: str = "") -> SSHError:
    """Return the error of a TCP connection that stands, but on which the SSH handshake failed.

    Parameters
    ----------
    said : str
        What the command through which the host is reached wrote to its stderr.
    """
    if isinstance(error, paramiko.ssh_exception.IncompatiblePeer):
        what = str(error).partition("(")[2].rstrip(")").removeprefix("no acceptable ") or "algorithm"
        reason = _wording.no_common(what, "paramiko", "use the ssh program (`--transport ssh`)")
        return SSHError(hop.alias, reason)
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if lines:
        return NetworkError(hop.alias, f"the command on the host before it cannot connect to it: {lines[-1]}")
    if timed_out:
        return NetworkError(hop.alias, "does not answer: it is overloaded, or a firewall is in between")
    if isinstance(error, paramiko.SSHException) and "banner" not in str(error).lower():
        return SSHError(hop.alias, f"the connection could not be secured: {error}")
    return NetworkError(hop.alias, _wording.closed_before_login("again"))


def explain_key(options: LoginOptions, verdict: Verdict, kind: str, key: bytes) -> HostKeyError:
    """Return the error of a host key that is unknown, or not the known one."""
    shown, host = fingerprint(key), options.hop.alias
    if verdict.is_ == "revoked":
        return HostKeyError(host, _wording.revoked_key(shown, verdict.where))
    if verdict.is_ == "changed":
        forget = f"`ssh-keygen -R {options.known_as}`, or delete that line"
        return HostKeyError(host, _wording.changed_key(shown, verdict.where, forget))
    accept = f"ssh {host}"
    if not shutil.which("ssh"):
        file = options.known_hosts[0] if options.known_hosts else "~/.ssh/known_hosts"
        accept = f"echo {known_line(options, kind, key)} >> {file}"
    if verdict.is_ == "authority":
        certificate = f"{kind} {shown}, known by a certificate at {verdict.where}, which paramiko cannot check"
        reason = _wording.unknown_key(certificate, accept)
        return HostKeyError(host, f"{reason}; or use the ssh program (`--transport ssh`)")
    return HostKeyError(host, _wording.unknown_key(f"{kind} {shown}", accept))


def known_line(options: LoginOptions, kind: str, key: bytes) -> str:
    """Return the line of known_hosts that accepts a key."""
    import base64

    return f"{options.known_as} {kind} {base64.b64encode(key).decode()}"


def explain_jump(hop: Hop, error: BaseException) -> SSHError:
    """Return the error of a hop that the host before it does not connect to."""
    if not isinstance(error, Refusal):
        return NetworkError(hop.alias, _wording.unreachable_from_hop(str(error)))
    if error.code == PROHIBITED:
        return ProhibitedError(hop.alias, _wording.HOP_PROHIBITED)
    if error.code != CONNECT_FAILED:
        return ProhibitedError(hop.alias, _wording.hop_forwards_nothing(error.reason))
    if "name" in error.reason.lower() or "resol" in error.reason.lower():
        return UnknownHostError(hop.alias, _wording.unknown_name_at_hop(error.reason))
    return NetworkError(hop.alias, _wording.unreachable_from_hop(error.reason))


def explain_dial(host: str, remote: str, error: BaseException) -> SSHError:
    """Return why there is no connection to `remote` on `host`."""
    if not isinstance(error, Refusal):
        return ConnectionLostError(host, f"the connection was lost ({error or 'it ended'})")
    if remote.startswith("/"):
        return ProhibitedError(host, _wording.no_socket_or_prohibited(remote))
    if error.code == PROHIBITED:
        return ProhibitedError(host, _wording.forward_prohibited(remote))
    if error.code == CONNECT_FAILED and _wording.is_answer(error.reason):
        return RefusedError(host, _wording.no_listener(remote, error.reason))
    return ProhibitedError(host, _wording.forwards_nothing(remote, error.reason))


def explain_exec(host: str, error: BaseException) -> SSHError:
    """Return why nothing can be executed on `host`."""
    if isinstance(error, Refusal):
        return SSHError(host, _wording.NO_EXEC)
    return ConnectionLostError(host, f"the connection was lost ({error or 'it ended'}); run the command again")
