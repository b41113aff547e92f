"""From hops to connections: one for each sequence of hops, shared by all uses in this process."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from ports.errors import ConnectionLostError, NetworkError, ProhibitedError, SSHError, TimedOutError
from ports.hosts._jump_command import jump_command
from ports.hosts._prompts import LOGIN_TIMEOUT, can_ask
from ports.hosts._route import Hop, Route
from ports.hosts.paramiko import auth, known_hosts
from ports.hosts.paramiko.channels import Channel
from ports.hosts.paramiko.errors import (
    FAILURES,
    explain_connect,
    explain_handshake,
    explain_jump,
    explain_key,
    known_line,
)
from ports.hosts.paramiko.login_options import LoginOptions, login_options
from ports.hosts.paramiko.shared_connection import SharedConnection
from ports.hosts.paramiko.transport import Transport
from ports.state import settings

_CHECK_SECONDS = 3.0


@dataclass
class _Entry:
    """A route's connection, and what depends on it."""

    lock: threading.Lock
    connection: SharedConnection | None = None
    #: Connections that go through this one, and whether a caller has it.
    onward: int = 0
    given: bool = False


_entries: dict[tuple[Hop, ...], _Entry] = {}
_lock = threading.Lock()


def connect(route: Route, *, batch: bool | None = None, timeout: float | None = None) -> SharedConnection:
    """Return a connection that stands to the end of `route`, each hop reached through the one before.

    Parameters
    ----------
    batch : bool, optional
        Nobody is asked for a passphrase, password or code. Default: ask where there is a terminal.
    timeout : float, optional
        Seconds after which to give up a hop that does not answer. Default: the setting ``ssh.connect_timeout``.

    Raises
    ------
    UnknownHostError, HostKeyError, LoginNeededError, ProhibitedError, NetworkError, SSHError
        There is no connection; the message names the hop that failed.
    """
    limit = float(settings.get("ssh.connect_timeout")) if timeout is None else timeout
    asking = batch is not True and can_ask()
    entry = _entry(route.hops)
    standing = entry.connection
    if standing is not None and standing.is_alive(_CHECK_SECONDS):
        entry.given = True
        return standing
    connection: SharedConnection | None = None
    for number, hop in enumerate(route.hops):
        try:
            connection = _ensure(route.hops[: number + 1], connection, asking=asking, timeout=limit)
        except SSHError as error:
            raise route.at_hop(error, hop) from error
    assert connection is not None
    entry.given = True
    return connection


def is_connected(route: Route) -> bool:
    """Tell whether this process has a connection to the end of `route`; it may be dead all the same."""
    standing = _entry(route.hops).connection
    return standing is not None and standing.is_there()


def close_all() -> None:
    """End all connections of this process."""
    with _lock:
        standing = [entry.connection for entry in _entries.values() if entry.connection is not None]
    for connection in reversed(standing):
        connection.close()


def _ensure(hops: tuple[Hop, ...], via: SharedConnection | None, *, asking: bool, timeout: float) -> SharedConnection:
    entry = _entry(hops)
    patience = LOGIN_TIMEOUT if asking else 3 * timeout + 20
    if not entry.lock.acquire(timeout=patience):
        raise NetworkError(hops[-1].alias, f"another login to it has not ended within {patience:g} s")
    try:
        if entry.connection is not None:
            if entry.connection.is_alive(_CHECK_SECONDS):
                return entry.connection
            entry.connection.close()
        entry.connection = connection = _make(hops, via, asking=asking, timeout=timeout)
    finally:
        entry.lock.release()
    if len(hops) > 1:
        with _lock:
            _entry_locked(hops[:-1]).onward += 1
    connection.warm()
    return connection


def _make(hops: tuple[Hop, ...], via: SharedConnection | None, *, asking: bool, timeout: float) -> SharedConnection:
    hop, options = hops[-1], login_options(hops[-1])
    channel: Channel | None = None
    helper: subprocess.Popen[bytes] | None = None
    prohibited: SSHError | None = None
    if via is not None:
        channel, prohibited = _through(via, hop, timeout)
        end = channel.local
    elif options.proxy_command:
        end, helper = _by_proxy_command(hop, options.proxy_command)
    else:
        end = _by_tcp(options, timeout)
    transport = Transport(end, hop.alias, timeout=timeout, via=channel)
    try:
        try:
            _handshake(transport, options, timeout, channel)
        except NetworkError as error:
            if prohibited is None:
                raise
            hint = "; nor does nc, python3 or bash there lead to it"
            raise ProhibitedError(hop.alias, f"{prohibited.reason}{hint}: {error.reason}") from error
        try:
            auth.log_in(transport, options, asking=asking)
        except TimedOutError as error:
            raise NetworkError(hop.alias, str(error)) from error
        except FAILURES as error:
            raise ConnectionLostError(hop.alias, f"the connection was lost during the login ({error})") from error
    except BaseException:
        transport.close()
        _reap(helper)
        raise
    transport.relax()
    return SharedConnection(transport, hop, on_close=lambda: _closed(hops, transport, helper))


def _closed(hops: tuple[Hop, ...], transport: Transport, helper: subprocess.Popen[bytes] | None) -> None:
    """Forget a connection that ended, and end the one to the jump host that served nothing else."""
    _reap(helper)
    before: SharedConnection | None = None
    with _lock:
        entry = _entry_locked(hops)
        if entry.connection is not None and entry.connection.transport is transport:
            entry.connection, entry.given = None, False
        if len(hops) > 1:
            jump = _entry_locked(hops[:-1])
            jump.onward = max(0, jump.onward - 1)
            if not jump.onward and not jump.given:
                before = jump.connection
    if before is not None:
        before.close()


def _entry(hops: tuple[Hop, ...]) -> _Entry:
    with _lock:
        return _entry_locked(hops)


def _entry_locked(hops: tuple[Hop, ...]) -> _Entry:
    return _entries.setdefault(hops, _Entry(threading.Lock()))


def _by_tcp(options: LoginOptions, timeout: float) -> socket.socket:
    """Connect to the addresses of a hop in turn."""
    hop = options.hop
    family = {4: socket.AF_INET, 6: socket.AF_INET6}.get(options.family or 0, socket.AF_UNSPEC)
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


def _through(via: SharedConnection, hop: Hop, timeout: float) -> tuple[Channel, SSHError | None]:
    """Open a channel of the jump host's connection to `hop`; by a command, and why, where it may not forward."""
    try:
        channel = via.transport.new_channel("direct-tcpip", hop.hostname, hop.port, "127.0.0.1", 0, timeout=timeout + 5)
    except FAILURES as error:
        refusal = explain_jump(hop, error)
        if not isinstance(refusal, ProhibitedError):
            raise refusal from error
    else:
        channel.begin()
        return channel, None
    try:
        return via.start(jump_command(hop)), refusal
    except SSHError:
        raise refusal from None


def _handshake(transport: Transport, login: LoginOptions, timeout: float, channel: Channel | None) -> None:
    """Agree on keys with the host, and check that it is the one that is known."""
    hop = login.hop
    known = known_hosts.read(hop.alias, login.known_hosts)
    options = transport.get_security_options()
    options.key_types = known_hosts.preferred(known, login.known_as, options.key_types)
    start = time.monotonic()
    failure: BaseException | None = None
    try:
        transport.start_client(timeout=2 * timeout)
    except FAILURES as error:
        failure = error
    if failure is not None or not transport.initial_kex_done:
        timed_out = time.monotonic() - start >= timeout
        raise explain_handshake(hop, failure, timed_out=timed_out, said=channel.said if channel else "") from failure
    shown = transport.get_remote_server_key()
    kind, key = shown.get_name(), shown.asbytes()
    verdict = known_hosts.judge(known, login.known_as, kind, shown.get_base64())
    if verdict.is_ == "unknown" and hop.host_key_checking == "accept-new" and login.known_hosts:
        return _accept(login, kind, key)
    if verdict.is_ != "known":
        raise explain_key(login, verdict, kind, key)


def _accept(login: LoginOptions, kind: str, key: bytes) -> None:
    """Add the key of a host that was never seen, as ``StrictHostKeyChecking accept-new`` asks."""
    file = Path(login.known_hosts[0])
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with file.open("a+b") as stream:
            if stream.tell() and _last_byte(file) != b"\n":
                stream.write(b"\n")
            stream.write(known_line(login, kind, key).encode() + b"\n")
    except OSError as error:
        raise SSHError(login.hop.alias, f"its host key cannot be added to {file}: {error.strerror}") from error


def _last_byte(file: Path) -> bytes:
    with file.open("rb") as stream:
        stream.seek(-1, 2)
        return stream.read(1)
