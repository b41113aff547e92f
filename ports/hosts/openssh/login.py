"""The start of one master connection: first without asking, then, where a person is needed, at the terminal."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from ports.errors import (
    ConnectionLostError,
    HostKeyError,
    LoginNeededError,
    NetworkError,
    ProhibitedError,
    SlowError,
    SSHError,
    StoreError,
    TimedOutError,
)
from ports.hosts._prompts import LOGIN_TIMEOUT, announce
from ports.hosts._route import Hop
from ports.hosts.openssh import jumps, liveness, processes
from ports.hosts.openssh.control_sockets import Master, client_arguments, is_running
from ports.hosts.openssh.errors import explain
from ports.hosts.openssh.jumps import JumpMethod
from ports.hosts.openssh.ssh_config import config_arguments, program
from ports.state import locked, make_private, paths, records, settings

# This connection carries only what ports asks for: nothing of the user's configuration may add to it or limit it.
_OPTIONS = {
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "Tunnel": "no",
    "LogLevel": "INFO",  # below it, refused forwards are not logged
    "ServerAliveCountMax": "3",
    "StreamLocalBindMask": "0177",
}
_QUICK_SECONDS = 3  # for the first answer in a series of attempts; with more, too few packets would test the network
_DOUBT_SECONDS = 2.0  # after this, the jump host's connection is tested


@dataclass(frozen=True)
class Attempt:
    """How a master is started.

    Attributes
    ----------
    via : Master, optional
        The master to the jump host.
    asking : bool
        A person may be asked.
    until : float, optional
        Monotonic time at which to give up, whatever the settings say.
    """

    via: Master | None
    asking: bool
    until: float | None

    def left(self, usual: float) -> float:
        """Return the seconds that a step may take."""
        return usual if self.until is None else max(0.05, min(usual, self.until - time.monotonic()))


def log_in(master: Master, attempt: Attempt) -> None:
    """Start the master: first without asking; then, where a person is needed, one login at a time.

    Raises
    ------
    LoginNeededError
        A person must answer a prompt and nobody can; no new attempt is made until somebody has logged in.
    SSHError
        The host cannot be reached, or refuses.
    """
    note = _note(master.hop.key)
    start = partial(_start, "forward") if attempt.via is None else partial(_start_through, attempt.via)
    if records.read_json(note) is None:
        try:
            return start(master, attempt, asking=False)
        except LoginNeededError as error:
            noted = {"format": records.FORMAT, "host": master.alias, "reason": error.reason, "since": time.time()}
            with contextlib.suppress(StoreError):  # the refusal is what counts
                make_private(note.parent)
                records.write_json(note, noted)
            if not attempt.asking:
                raise
    if not attempt.asking:
        raise LoginNeededError(
            master.alias,
            f"waits for a login and is not tried again until then; run `ports login {master.alias}` in a terminal",
        )
    with locked("login", timeout=attempt.left(LOGIN_TIMEOUT)):
        announce(master.hop)
        start(master, attempt, asking=True)


def forget_refusal(key: str) -> None:
    """Let unattended commands try again: the host was reached."""
    _note(key).unlink(missing_ok=True)


def _start_through(via: Master, master: Master, attempt: Attempt, *, asking: bool) -> None:
    """Start it by the method that worked at the jump host last time, else by the next one."""
    first: SSHError | None = None
    for method in jumps.order(via.hop.key):
        try:
            _start(method, master, attempt, asking=asking)
        except (LoginNeededError, HostKeyError, NetworkError) as error:
            if not error.is_network:
                jumps.remember(via.hop.key, via.alias, method)  # the host was reached by it
            raise
        except SSHError as error:
            if method == "forward" and not isinstance(error, ProhibitedError):
                raise
            first = _both(first, error)
        else:
            jumps.remember(via.hop.key, via.alias, method)
            return
    assert first is not None
    raise first


def _both(first: SSHError | None, second: SSHError) -> SSHError:
    """Return the error of two methods that both failed."""
    by_forward, by_command = (second, first) if isinstance(second, ProhibitedError) else (first, second)
    if by_forward is None or by_command is None:
        return second
    return ProhibitedError(second.host, f"{by_forward.reason}; and a command there failed too: {by_command.reason}")


def _start(method: JumpMethod, master: Master, attempt: Attempt, *, asking: bool) -> None:
    via = attempt.via
    limit = LOGIN_TIMEOUT if asking else 2 * float(settings.get("ssh.connect_timeout")) + 10
    limit = attempt.left(limit)
    arguments = _arguments(method, master, attempt, asking=asking)
    doubted: tuple[float, Callable[[], None]] | None = None
    if via is not None and not via.fresh and not asking:
        pause = min(_DOUBT_SECONDS, limit / 3)
        until = time.monotonic() + limit
        jump = via
        doubted = (pause, lambda: liveness.doubt(jump, until - time.monotonic()))
    with master.log.open("ab") as log:
        before = log.tell()
        try:
            status = processes.run_to_end(
                arguments, stderr=None if asking else log, limit=limit, own_session=not asking, doubt=doubted
            )
        except TimedOutError as error:
            raise SlowError(
                master.alias, f"the login did not end within {error.timeout:.3g} s; is the host overloaded?"
            ) from error
    if status == 0 and is_running(master.control):
        return
    if via is not None and not via.is_there():
        raise ConnectionLostError(master.alias, f"the connection to {via.alias} ended meanwhile")
    said = master.said(before)
    if status == 0:
        raise ConnectionLostError(master.alias, f"the connection ended at once: {said.strip()[-200:] or 'it idled'}")
    if via is not None and method == "forward" and ("tdio forwarding" in said or "Session open refused" in said):
        said = _reason_at(via, master.hop, attempt) or said
    refusal = explain(master.alias, said, asked=asking)
    if isinstance(refusal, HostKeyError) and "SHA256:" not in refusal.reason:
        refusal = explain(master.alias, said + _verbose(arguments, attempt.left(20)))
    raise refusal


def _arguments(method: JumpMethod, master: Master, attempt: Attempt, *, asking: bool) -> list[str]:
    timeout = float(settings.get("ssh.connect_timeout"))
    if attempt.until is not None:
        timeout = min(timeout, _QUICK_SECONDS)
    options = {
        **_OPTIONS,
        "ConnectTimeout": str(max(1, int(min(timeout, attempt.left(max(1.0, timeout)))))),
        "ServerAliveInterval": str(settings.get("ssh.keepalive")),
        "ControlPersist": str(max(1, round(float(settings.get("ssh.persist"))))),  # 0 would mean for ever
        "BatchMode": "no" if asking else "yes",
    }
    if master.hop.host_key_checking != "accept-new":
        options["StrictHostKeyChecking"] = "yes"
    if attempt.via is not None:
        ssh = partial(client_arguments, attempt.via)
        inner = jumps.proxy_command(method, master.hop, attempt.via.alias, ssh, master.log)
        if asking:  # the master detaches, its proxy command does not: Ctrl-C and a closed terminal must not end it
            inner = [sys.executable, "-ISc", "import os,sys;os.setsid();os.execvp(sys.argv[1],sys.argv[1:])", *inner]
        options["ProxyCommand"] = " ".join(jumps.quote(word) for word in inner)
        options["ProxyUseFdpass"] = "no"
    listed = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    detached = ["-f", "-N", "-M", "-T", "-S", str(master.control), "-E", str(master.log)]
    return [program(), *config_arguments(), *detached, *listed, *master.hop.arguments]


def _reason_at(via: Master, hop: Hop, attempt: Attempt) -> str:
    """Return why `via` opens no connection to `hop`: asked once more, alone, as the log names no request."""
    if via.users:  # its stderr is on the user's terminal; what it refuses is tried by the other method
        return "administratively prohibited"
    with contextlib.suppress(TimedOutError), locked(f"ssh-why-{via.control.name}", timeout=attempt.left(30)):
        before = via.said_bytes()
        arguments = client_arguments(via, ["-W", f"[{hop.hostname}]:{hop.port}", "--", via.alias])
        with contextlib.suppress(TimedOutError):
            processes.run_to_end(arguments, stderr=None, limit=attempt.left(10))
        return via.said(before)
    return ""


def _verbose(arguments: list[str], limit: float) -> str:
    """Return what the same attempt prints with -v, for the fingerprint of the unknown key."""
    rest = [*arguments[1:]]
    del rest[rest.index("-E") : rest.index("-E") + 2]
    plain = [word for word in rest if word not in ("-f", "-M")]
    verbose = ["LogLevel=DEBUG1" if word.startswith("LogLevel=") else word for word in plain]
    verbose = ["BatchMode=yes" if word.startswith("BatchMode=") else word for word in verbose]
    try:
        done = subprocess.run(
            [arguments[0], *verbose],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=limit,
            check=False,
            start_new_session=True,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return "\n" + "\n".join(
        line for line in done.stderr.decode(errors="replace").splitlines() if "Server host key" in line
    )


def _note(key: str) -> Path:
    return paths.here().root / "logins" / f"{key}.json"
