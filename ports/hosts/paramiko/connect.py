"""From hops to connections: one for each way, shared by all uses in this process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ports.errors import ConnectionLostError, NetworkError, ProhibitedError, SSHError, TimedOutError
from ports.hosts import _hop_command
from ports.hosts.paramiko import auth, known_hosts, prompts
from ports.hosts.paramiko.channels import Wire
from ports.hosts.paramiko.connection import Connection
from ports.hosts.paramiko.errors import (
    FAILURES,
    explain_connect,
    explain_handshake,
    explain_jump,
    explain_key,
    known_line,
)
from ports.hosts.paramiko.hop import Hop
from ports.hosts.paramiko.transport import Link

_CHECK_SECONDS = 3.0


@dataclass
class _Entry:
    """A way's connection, and what depends on it."""

    lock: threading.Lock
    connection: Connection | None = None
    #: Ways that lead on from here, and whether somebody was given the connection itself.
    onward: int = 0
    given: bool = False


_entries: dict[tuple[Hop, ...], _Entry] = {}
_lock = threading.Lock()


def connect(hops: Sequence[Hop], *, batch: bool | None = None, timeout: float = 10.0) -> Connection:
    """Return a connection that stands to the last of `hops`, each reached through the one before.

    Parameters
    ----------
    batch : bool, optional
        Nobody is asked for a passphrase, password or code. Default: ask where there is a terminal.
    timeout : float
        Seconds until a hop that does not answer is given up.

    Raises
    ------
    UnknownHostError, HostKeyError, LoginNeededError, ProhibitedError, NetworkError, SSHError
        There is no way to the host; the message names the hop that failed.
    """
    way = tuple(hops)
    asking = batch is not True and prompts.can_ask()
    entry = _entry(way)
    standing = entry.connection
    if standing is not None and standing.is_alive(_CHECK_SECONDS):
        entry.given = True
        return standing
    connection: Connection | None = None
    for length in range(1, len(way) + 1):
        try:
            connection = _ensure(way[:length], connection, asking=asking, timeout=timeout)
        except SSHError as error:
            raise _at_hop(error, way, length) from error
    assert connection is not None
    entry.given = True
    return connection


def is_connected(hops: Sequence[Hop]) -> bool:
    """Tell whether this process has a connection to the last of `hops`; whether it carries is not asked."""
    standing = _entry(tuple(hops)).connection
    return standing is not None and standing.is_there()


def close_all() -> None:
    """End all connections of this process."""
    with _lock:
        standing = [entry.connection for entry in _entries.values() if entry.connection is not None]
    for connection in reversed(standing):
        connection.close()


def _ensure(way: tuple[Hop, ...], via: Connection | None, *, asking: bool, timeout: float) -> Connection:
    entry = _entry(way)
    patience = auth.LOGIN_TIMEOUT if asking else 3 * timeout + 20
    if not entry.lock.acquire(timeout=patience):
        raise NetworkError(way[-1].alias, f"another login to it has not ended within {patience:g} s")
    try:
        if entry.connection is not None:
            if entry.connection.is_alive(_CHECK_SECONDS):
                return entry.connection
            entry.connection.close()
        entry.connection = connection = _make(way, via, asking=asking, timeout=timeout)
    finally:
        entry.lock.release()
    if len(way) > 1:
        with _lock:
            _entry_locked(way[:-1]).onward += 1
    connection.warm()
    return connection


def _make(way: tuple[Hop, ...], via: Connection | None, *, asking: bool, timeout: float) -> Connection:
    hop = way[-1]
    wire: Wire | None = None
    helper: subprocess.Popen[bytes] | None = None
    prohibited: SSHError | None = None
    if via is not None:
        wire, prohibited = _through(via, hop, timeout)
        end = wire.local
    elif hop.proxy_command:
        end, helper = _by_proxy_command(hop, hop.proxy_command)
    else:
        end = _by_tcp(hop, timeout)
    link = Link(end, hop.alias, timeout=timeout, via=wire)
    try:
        try:
            _handshake(link, hop, timeout, wire)
        except NetworkError as error:
            if prohibited is None:
                raise
            hint = "; nor does nc, python3 or bash there lead to it"
            raise ProhibitedError(hop.alias, f"{prohibited.reason}{hint}: {error.reason}") from error
        try:
            auth.log_in(link, hop, asking=asking)
        except TimedOutError as error:
            raise NetworkError(hop.alias, str(error)) from error
        except FAILURES as error:
            raise ConnectionLostError(hop.alias, f"the connection was lost during the login ({error})") from error
    except BaseException:
        link.close()
        _reap(helper)
        raise
    link.relax()
    return Connection(link, hop, on_close=lambda: _closed(way, link, helper))


def _closed(way: tuple[Hop, ...], link: Link, helper: subprocess.Popen[bytes] | None) -> None:
    """Forget a connection that ended, and end the one to the jump host that served nothing else."""
    _reap(helper)
    before: Connection | None = None
    with _lock:
        entry = _entry_locked(way)
        if entry.connection is not None and entry.connection.link is link:
            entry.connection, entry.given = None, False
        if len(way) > 1:
            jump = _entry_locked(way[:-1])
            jump.onward = max(0, jump.onward - 1)
            if not jump.onward and not jump.given:
                before = jump.connection
    if before is not None:
        before.close()


def _entry(way: tuple[Hop, ...]) -> _Entry:
    with _lock:
        return _entry_locked(way)


def _entry_locked(way: tuple[Hop, ...]) -> _Entry:
    return _entries.setdefault(way, _Entry(threading.Lock()))


def _by_tcp(hop: Hop, timeout: float) -> socket.socket:
    """Connect to the addresses of `hop` in turn."""
    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(hop.family or 0, socket.AF_UNSPEC)
    failure: OSError = TimeoutError()
    end = time.monotonic() + 2 * timeout
    try:
        for kind, form, protocol, _, address in socket.getaddrinfo(hop.hostname, hop.port, family, socket.SOCK_STREAM):
            connection = socket.socket(kind, form, protocol)
            try:
                connection.settimeout(max(0.1, min(timeout, end - time.monotonic())))
                connection.connect(address)
                return connection
            except OSError as error:
                failure = error
                connection.close()
    except (OSError, UnicodeError) as error:
        failure = error if isinstance(error, OSError) else socket.gaierror(socket.EAI_NONAME, str(error))
    raise explain_connect(hop, failure) from failure


def _by_proxy_command(hop: Hop, command: str) -> tuple[socket.socket, subprocess.Popen[bytes]]:
    """Connect through a command on this machine."""
    ours, theirs = socket.socketpair()
    try:
        with theirs:
            helper = subprocess.Popen(
                ["sh", "-c", f"exec {command}"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
    except OSError as error:
        ours.close()
        reason = f"its ProxyCommand cannot be run without the ssh program here ({error.strerror}); use a ProxyJump"
        raise SSHError(hop.alias, reason) from error
    return ours, helper


def _reap(helper: subprocess.Popen[bytes] | None) -> None:
    if helper is not None:
        with contextlib.suppress(ProcessLookupError):
            helper.terminate()
        try:
            helper.wait(2)
        except subprocess.TimeoutExpired:
            helper.kill()
            helper.wait()


def _through(via: Connection, hop: Hop, timeout: float) -> tuple[Wire, SSHError | None]:
    """Open a channel of the jump host's connection to `hop`; by a command, and why, where it may not forward."""
    try:
        wire = via.link.open_wire("direct-tcpip", hop.hostname, hop.port, "127.0.0.1", 0, timeout=timeout + 5)
    except FAILURES as error:
        refusal = explain_jump(hop, error)
        if not isinstance(refusal, ProhibitedError):
            raise refusal from error
    else:
        wire.begin()
        return wire, None
    try:
        return via.start(_hop_command.line(hop.hostname, hop.port)), refusal
    except SSHError:
        raise refusal from None


def _handshake(link: Link, hop: Hop, timeout: float, wire: Wire | None) -> None:
    """Agree on keys with the host, and check that it is the one that is known."""
    known = known_hosts.read(hop.alias, hop.known_hosts)
    options = link.get_security_options()
    options.key_types = known_hosts.preferred(known, hop.known_as, options.key_types)
    start = time.monotonic()
    failure: BaseException | None = None
    try:
        link.start_client(timeout=2 * timeout)
    except FAILURES as error:
        failure = error
    if failure is not None or not link.initial_kex_done:
        timed_out = time.monotonic() - start >= timeout
        raise explain_handshake(hop, failure, timed_out=timed_out, said=wire.said if wire else "") from failure
    shown = link.get_remote_server_key()
    kind, key = shown.get_name(), shown.asbytes()
    verdict = known_hosts.judge(known, hop.known_as, kind, shown.get_base64())
    if verdict.is_ == "unknown" and hop.host_key_checking == "accept-new" and hop.known_hosts:
        return _accept(hop, kind, key)
    if verdict.is_ != "known":
        raise explain_key(hop, verdict, kind, key)


def _accept(hop: Hop, kind: str, key: bytes) -> None:
    """Note the key of a host that was never seen, as ``StrictHostKeyChecking accept-new`` asks."""
    file = Path(hop.known_hosts[0])
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.open("a+b") as stream:
            if stream.tell() and _last_byte(file) != b"\n":
                stream.write(b"\n")
            stream.write(known_line(hop, kind, key).encode() + b"\n")
    except OSError as error:
        raise SSHError(hop.alias, f"its host key cannot be noted in {file}: {error.strerror}") from error


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1)


def _at_hop(error: SSHError, way: tuple[Hop, ...], length: int) -> SSHError:
    hop, alias = way[length - 1], way[-1].alias
    return type(error)(alias, error.reason if length == len(way) else f"the jump host {hop.alias}: {error.reason}")
