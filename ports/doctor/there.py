"""The far end: its python3, shell, programs, disk, memory, clock; what it lets be forwarded, and how fast that is."""

from __future__ import annotations

import contextlib
import json
import os
import re
import secrets
import socket
import statistics
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ports import config, paths, probe
from ports._version import VERSION
from ports.adapters import openssh
from ports.adapters.openssh import checks as ssh
from ports.doctor import judge
from ports.doctor.checks import Check, failed, from_error, ok, skipped, warning
from ports.errors import PortsError, SSHError

SERVER_CHECKS = ("python", "shell", "ports", "tmux", "logout", "state-directory", "memory", "clock")
FORWARD_CHECKS = ("forward-port", "forward-socket", "latency")

PATIENCE = 60.0  # start files of a loaded server, and programs that say their version
_SECONDS = 10.0
_ECHO_SECONDS = 40.0
_PYTHON = "exec python3 -I -S -"
_NO_PYTHON = re.compile(
    r"python.*(not found|No such file|[Uu]nknown command|[Pp]ermission denied)|(not found|nknown command).*python"
)
_forwards: list[tuple[openssh.Master, list[tuple[Path, str]]]] = []
_PINGS, _CONNECTIONS, _ROUNDS, _REPEATS = 15, 6, 4, 5


@dataclass(frozen=True)
class Answer:
    """What came back of a program that was piped to the far python3, and when."""

    facts: dict[str, Any] | None
    printed: str
    complaints: str
    status: int
    sent: float
    received: float


def ask(alias: str, *, batch: bool) -> Answer:
    """Examine the far side by one program, piped to its python3; raises SSHError where there is no way to it."""
    marker = f"ports-{os.urandom(8).hex()}:"
    request = {"do": "examine", "marker": marker, "ports": True, "env": config.host(alias).get("env")}
    text = probe.script(request).encode()
    openssh.connect(
        alias, batch=batch, warm=False
    )  # first, so that the clock is not asked while a login takes its time
    for command in dict.fromkeys((_PYTHON, _named(alias))):
        sent = time.time()
        done = openssh.run(alias, command, input=text, timeout=PATIENCE, batch=batch, repeatable=True)
        received = time.time()
        facts = probe.read_answer(done.output, marker)
        if facts is not None or not _NO_PYTHON.search(done.stderr + done.output):
            break
    printed = done.output.partition(f"\n{marker}")[0] if facts is not None else done.output
    return Answer(facts, printed, done.stderr, done.status, sent, received)


def judge_answer(alias: str, answer: Answer) -> Iterator[Check]:
    """Yield the checks that the answer allows."""
    facts = answer.facts
    if facts is None:
        yield _no_answer(alias, answer)
        yield from (skipped(name, f"needs python on {alias}") for name in SERVER_CHECKS[1:])
        return
    if "error" in facts:
        yield failed("python", f"the examination failed there: {facts.get('message')}", "report it, with this line")
        yield from (skipped(name, f"needs python on {alias}") for name in SERVER_CHECKS[1:])
        return
    yield judge.python(facts["python"], facts["executable"])
    took = facts["began"] - answer.sent, answer.received - facts["time"]
    yield judge.shell(answer.printed, answer.complaints, max(0.0, sum(took)))
    yield judge.installed(facts["ports"], VERSION, alias)
    yield judge.tmux(facts["tmux"])
    yield judge.logout(facts["logout_ends"], f"run `ssh {alias} loginctl enable-linger` once to keep them")
    yield judge.state_directory(facts["state"])
    yield judge.memory(facts["memory"])
    yield judge.clock(facts["time"] - answer.received, facts["began"] - answer.sent)


def _no_answer(alias: str, answer: Answer) -> Check:
    lines = [line.strip() for line in (answer.complaints + "\n" + answer.printed).splitlines() if line.strip()]
    if "SyntaxError" in answer.complaints:
        return failed(
            "python", "python3 there is older than 3.6", "load a newer one in the start file of your shell there"
        )
    missing = [line for line in lines if _NO_PYTHON.search(line)]
    if missing:
        return failed(
            "python",
            f"there is no python3 ({missing[-1]})",
            "load one in the start file of your shell there, or name an environment by its path as "
            f"ports.hosts.{alias}.env in the settings",
        )
    last = f": {lines[-1]}" if lines else ""
    cause = f"the shell there ended with status {answer.status} before python3 answered{last}"
    return failed("python", cause, f"try `ssh {alias} python3 -V`")


def forwards(alias: str, executable: str | None) -> Iterator[Check]:
    """Yield what the server lets be forwarded and how fast that is, tried on a program that sends back what it gets."""
    if executable is None or not re.fullmatch(r"/[\w@%+=:,./-]*", executable):
        yield from (skipped(name, f"needs python on {alias}") for name in FORWARD_CHECKS)
        return
    master = openssh.running(alias)
    if master is None:
        yield from (skipped(name, "the connection was lost meanwhile") for name in FORWARD_CHECKS)
        return
    secret, marker = secrets.token_hex(16), f"ports-{os.urandom(8).hex()}:"
    text = probe.script({"do": "echo", "marker": marker, "secret": secret, "seconds": _ECHO_SECONDS}).encode()
    try:
        process, line = ssh.start_program(
            master, f"exec {executable} -I -S -", text, marker=marker.encode(), timeout=_SECONDS
        )
    except SSHError as error:
        yield from_error("forward-port", error, alias, f"`ssh {alias} true` must work twice at once (MaxSessions)")
        yield from (skipped(name, "needs forward-port") for name in FORWARD_CHECKS[1:])
        return
    try:
        where = json.loads(line)
        yield from _try_forwards(master, f"127.0.0.1:{where['port']}", where["path"], secret.encode())
    finally:
        openssh.end(process)


def _try_forwards(master: openssh.Master, port: str, path: str, secret: bytes) -> Iterator[Check]:
    permitted: list[Path] = []
    directory = paths.make_private(paths.runtime_directory() / "ssh")
    locals_ = [directory / f"doctor-{secrets.token_hex(4)}" for _ in range(2)]
    pairs = list(zip(locals_, (port, path), strict=True))
    _forwards.append((master, pairs))
    try:
        for name, pair in zip(FORWARD_CHECKS, pairs, strict=False):
            reason = _try_forward(master, pair, secret)
            if reason is None:
                permitted.append(pair[0])
                kind = "ports" if name == "forward-port" else "Unix sockets"
                yield ok(name, f"{kind} can be reached")
            else:
                yield _refused(name, master.alias, reason)
        yield (
            _latency(permitted[0], secret) if permitted else skipped("latency", "needs forward-port or forward-socket")
        )
    finally:
        openssh.cancel(master, pairs)
        _forwards.remove((master, pairs))


def cancel_forwards() -> None:
    """Take back what is being tried at this moment, where this process ends before."""
    for master, pairs in list(_forwards):
        openssh.cancel(master, pairs)


def _try_forward(master: openssh.Master, pair: tuple[Path, str], secret: bytes) -> PortsError | None:
    """Return why what is at the far end of a forward cannot be reached; None where its answer came back."""
    before = master.said_bytes()
    try:
        openssh.forward(master, [pair])
        with _open(pair[0], secret):
            return None
    except PortsError as error:
        return error
    except OSError:
        refusal = openssh.explain_forward(master.alias, pair[1], master.said(before))
        return refusal or SSHError(master.alias, "nothing came back through the forward; `ssh -v` to it tells more")


def _refused(name: str, alias: str, reason: PortsError) -> Check:
    found = from_error(name, reason, alias)
    # of a Unix socket sshd does not say that it is prohibited; that it is there we know
    if name == "forward-port" and "prohibits" not in found.cause:
        return failed(name, found.cause, found.way_out or f"`ssh -v {alias}` tells more")
    option = "AllowTcpForwarding" if name == "forward-port" else "AllowStreamLocalForwarding"
    what = "notebooks and other ports" if name == "forward-port" else "dashboards of clusters"
    cause = f"its sshd prohibits forwarding to {'ports' if name == 'forward-port' else 'Unix sockets'} ({option})"
    way_out = f"ask the administrator for `{option} yes`; {what} are not reached until then"
    return failed(name, cause, way_out)


def _latency(local: Path, secret: bytes) -> Check:
    """Return how long small answers take through a forward."""
    try:
        with contextlib.ExitStack() as stack:
            began = time.monotonic()
            one = stack.enter_context(_open(local, secret))
            first_byte = time.monotonic() - began
            round_trip = statistics.median(_lock_step([one]) for _ in range(_PINGS))
        rounds = [took for _ in range(_REPEATS) for took in _several(local, secret)]
    except OSError as error:
        return warning("latency", f"the answers stopped: {error}", "run it again")
    return judge.latency(round_trip, first_byte, rounds)


def _several(local: Path, secret: bytes) -> list[float]:
    """Return the seconds of rounds in which several new connections write, and then wait for all answers."""
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(_open(local, secret)) for _ in range(_CONNECTIONS)]
        return [_lock_step(connections) for _ in range(_ROUNDS)]


def _open(local: Path, secret: bytes) -> socket.socket:
    """Return a connection to the far program, which has answered; raises OSError."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.settimeout(_SECONDS)
        connection.connect(str(local))
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


def _named(alias: str) -> str:
    """Return how the interpreter of the environment that the settings name is started, where that needs no quoting."""
    env = str(config.host(alias).get("env") or "")
    return f"exec {env.rstrip('/')}/bin/python -I -S -" if re.fullmatch(r"[~/][\w@%+=:,./-]*", env) else _PYTHON
