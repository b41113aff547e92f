"""What a server lets be forwarded and how fast that is, tried on a program of ours that sends back what it gets."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import secrets
import socket
import statistics
import time
from collections.abc import Callable, Iterator

from ports import hosts, probe
from ports.doctor import _judge
from ports.doctor._checks import Check, failed, from_error, ok, skipped, warning
from ports.errors import PortsError, ProhibitedError, RefusedError, SSHError
from ports.hosts import Connection, Route

FORWARD_CHECKS = ("forward-port", "forward-socket", "latency")

_SECONDS = 10.0
_ECHO_SECONDS = 40.0
_PINGS, _CONNECTIONS, _ROUNDS, _REPEATS = 15, 6, 4, 5

Dial = Callable[[], socket.socket]


def forwards(route: Route, command: str | None) -> Iterator[Check]:
    """Yield the checks; `command` is the line that runs python3 there, None where there is none."""
    alias = route.alias
    if command is None:
        yield from (skipped(name, f"needs python on {alias}") for name in FORWARD_CHECKS)
        return
    secret, marker = secrets.token_hex(16), f"ports-{os.urandom(8).hex()}:"
    request = {"do": "echo", "marker": marker, "secret": secret, "seconds": _ECHO_SECONDS}
    try:
        connection = hosts.connect(route, batch=True)
    except SSHError as error:
        yield from_error("forward-port", error, alias, "run it again")
        yield from (skipped(name, "needs forward-port") for name in FORWARD_CHECKS[1:])
        return
    _open_ones.append(connection)
    try:
        text = probe.script(request).encode()
        with connection.exec_channel(command) as channel:
            where = json.loads(_start(alias, channel, text, marker.encode()))
            if "error" in where:
                raise SSHError(alias, f"the program to forward to failed there: {where['message']}")
            remotes = {"forward-port": f"127.0.0.1:{where['port']}", "forward-socket": str(where["path"])}
            yield from _try_all(connection, remotes, secret.encode())
    except SSHError as error:
        yield from_error(
            "forward-port", error, alias, "ask for `MaxSessions 10` there: this check needs two sessions at once"
        )
        yield from (skipped(name, "needs forward-port") for name in FORWARD_CHECKS[1:])
    finally:
        connection.close()
        _open_ones.remove(connection)


_open_ones: list[Connection] = []


def cancel_all() -> None:
    """Undo what is being tried at this moment, where this process ends before."""
    for connection in list(_open_ones):
        connection.close()


def _start(alias: str, channel: socket.socket, text: bytes, marker: bytes) -> str:
    """Write `text` to the stdin of a command, and return the line that it prints after `marker`."""
    channel.settimeout(_SECONDS)
    output = b""
    try:
        channel.sendall(text)
        channel.shutdown(socket.SHUT_WR)
        while b"\n" not in output.partition(marker)[2]:
            chunk = channel.recv(65536)
            if not chunk:
                raise SSHError(alias, "a program there ended while it started")
            output += chunk
    except TimeoutError as error:
        raise SSHError(alias, f"a program there did not start within {_SECONDS:g} s") from error
    except OSError as error:
        raise SSHError(alias, f"a program there did not start: {error}") from error
    return output.partition(marker)[2].partition(b"\n")[0].decode(errors="replace")


def _try_all(connection: Connection, remotes: dict[str, str], secret: bytes) -> Iterator[Check]:
    alias = connection.route.alias
    permitted: list[Dial] = []
    for name, remote in remotes.items():
        dial = functools.partial(connection.dial, remote, timeout=_SECONDS)
        try:
            with _opened(dial, secret):
                permitted.append(dial)
        except (PortsError, OSError) as error:
            reason = error if isinstance(error, PortsError) else connection.refusal(remote)
            yield _refused(name, alias, reason or SSHError(alias, f"nothing came back through the forward: {error}"))
        else:
            yield ok(name, f"{'ports' if name == 'forward-port' else 'Unix sockets'} can be reached")
    yield _latency(permitted[0], secret) if permitted else skipped("latency", "needs forward-port or forward-socket")


def _refused(name: str, alias: str, reason: PortsError) -> Check:
    found = from_error(name, reason, alias)
    # of a Unix socket sshd does not say that it is prohibited; that it is there we know
    if name == "forward-port" and not isinstance(reason, (ProhibitedError, RefusedError)):
        return failed(name, found.cause, found.hint or f"`ssh -v {alias}` tells more")
    told = reason.reason if isinstance(reason, SSHError) else str(reason)
    if isinstance(reason, RefusedError):  # by the server, as our own program listens there
        told = f"its SSH server forwards nothing to ports ({told.partition('(')[2].partition(')')[0] or 'refused'})"
    if "SSH server forwards nothing" in told:  # dropbear, or an sshd in Go: it has no such option
        return warning(
            name, f"{told}; `ports open` goes through a session of its own instead", "it works; OpenSSH there is faster"
        )
    option = "AllowTcpForwarding" if name == "forward-port" else "AllowStreamLocalForwarding"
    what = "ports" if name == "forward-port" else "Unix sockets"
    return warning(
        name,
        f"its sshd prohibits forwarding to {what} ({option}); `ports open` goes through a session of its own instead",
        f"it works; to make it faster, ask its administrator for `{option} yes` in sshd_config",
    )


def _latency(dial: Dial, secret: bytes) -> Check:
    """Return how long small answers take through a forward."""
    try:
        began = time.monotonic()
        with _opened(dial, secret) as one:
            first_byte = time.monotonic() - began
            round_trip = statistics.median(_lock_step([one]) for _ in range(_PINGS))
        rounds = [took for _ in range(_REPEATS) for took in _several(dial, secret)]
    except (OSError, PortsError) as error:
        return warning("latency", f"the answers stopped: {error}", "run it again")
    return _judge.latency(round_trip, first_byte, rounds)


def _several(dial: Dial, secret: bytes) -> list[float]:
    """Return the seconds of rounds in which several new connections write, and then wait for all answers."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(_opened(dial, secret)) for _ in range(_CONNECTIONS)]
        return [_lock_step(connections) for _ in range(_ROUNDS)]


def _opened(dial: Dial, secret: bytes) -> socket.socket:
    """Return a connection to the far program, which has answered; raises OSError or PortsError."""
    connection = dial()
    try:
        connection.settimeout(_SECONDS)
        connection.sendall(secret)
        _receive(connection, len(secret))
    except BaseException:
        connection.close()
        raise
    return connection


def _lock_step(connections: list[socket.socket]) -> float:
    """Return the seconds until all of several connections have their answer to a small request."""
    began = time.monotonic()
    for connection in connections:
        connection.sendall(b"x" * 64)
    for connection in connections:
        _receive(connection, 64)
    return time.monotonic() - began


def _receive(connection: socket.socket, n_bytes: int) -> None:
    while n_bytes:
        data = connection.recv(n_bytes)
        if not data:
            raise ConnectionResetError("the connection was closed")
        n_bytes -= len(data)
