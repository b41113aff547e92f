"""The start of one master connection: first without asking, then, where a person is needed, at the terminal."""

from __future__ import annotations

import contextlib
import os
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
from ports.hosts.openssh import jumps, processes
from ports.hosts.openssh.control_sockets import Master, is_running
from ports.hosts.openssh.errors import explain
from ports.hosts.openssh.jumps import Door
from ports.hosts.openssh.ssh_config import Host, config_arguments, program
from ports.state import locked, make_private, paths, records, settings

# Nothing of the user's configuration may add to, or take away from, a connection that only carries what ports asks for.
_OPTIONS = {
    "ClearAllForwardings": "yes",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "Tunnel": "no",
    "LogLevel": "INFO",  # below it, refused forwards are not told
    "ServerAliveCountMax": "3",
    "StreamLocalBindMask": "0177",
}
LOGIN_TIMEOUT = 300.0  # a person looks for the telephone with the second factor
_QUICK_SECONDS = 3  # for the first answer, where it is tried again and again: else too few packets see the network
_DOUBT_SECONDS = 2.0  # after which a jump host's connection is asked whether it carries anything


@dataclass(frozen=True)
class Attempt:
    """How a master is started.

    Attributes
    ----------
    key : str
        Of the way to the host.
    via : Master, optional
        The jump host's.
    via_key : str
        Of the way to the jump host.
    asking : bool
        A person may be asked.
    until : float, optional
        Monotonic time at which it is given up, whatever the settings say.
    doubt : callable
        Is called when the host does not answer through `via`, and raises ConnectionLostError where `via` is at fault.
    """

    key: str
    via: Master | None
    via_key: str
    asking: bool
    until: float | None
    doubt: Callable[[Master, float], None]

    def left(self, usual: float) -> float:
        """Return the seconds that a step may take."""
        return usual if self.until is None else max(0.05, min(usual, self.until - time.monotonic()))


def log_in(place: Master, attempt: Attempt) -> None:
    """Start the master: first without asking, as that needs no turn; then, where a person is needed, one at a time.

    Raises
    ------
    LoginNeededError
        A person must answer, and nobody can; it is not tried again until somebody has logged in.
    SSHError
        The host cannot be reached, or refuses.
    """
    note = _note(attempt.key)
    if records.read_json(note) is None:
        try:
            return _start(place, attempt, asking=False)
        except LoginNeededError as error:
            noted = {"format": records.FORMAT, "host": place.alias, "reason": error.reason, "since": time.time()}
            with contextlib.suppress(StoreError):  # the refusal is what counts
                make_private(note.parent)
                records.write_json(note, noted)
            if not attempt.asking:
                raise
    if not attempt.asking:
        raise LoginNeededError(
            place.alias,
            f"waits for a login and is not tried again until then; run `ports login {place.alias}` in a terminal",
        )
    with locked("login", timeout=attempt.left(LOGIN_TIMEOUT)):
        _announce(place)
        _start(place, attempt, asking=True)


def forget_refusal(key: str) -> None:
    """Let unattended commands try again: the host was reached."""
    _note(key).unlink(missing_ok=True)


def can_ask() -> bool:
    """Tell whether there is a terminal, and this process is the one that may use it."""
    try:
        terminal = os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def client_arguments(master: Master, rest: list[str]) -> list[str]:
    """Return the command line of an ssh that asks `master` for something, and never logs in by itself.

    The configuration was the master's affair: its forwards would be asked for again by ``-O forward``.
    """
    return control_arguments(master.control, rest)


def control_arguments(control: Path, rest: list[str]) -> list[str]:
    """Return the same for the master that listens on `control`."""
    # a full or dying master makes ssh open a connection of its own, silently; the proxy command ends that attempt
    guard = ["-o", "ControlMaster=no", "-o", "BatchMode=yes", "-o", "ProxyCommand=false"]
    return [program(), "-F", "none", "-S", str(control), *guard, *rest]


def _start(place: Master, attempt: Attempt, *, asking: bool) -> None:
    """Start it by the door of the jump host that worked last time, else by the next one."""
    via = attempt.via
    doors = jumps.order(attempt.via_key) if via is not None else jumps.DOORS[:1]
    shut: SSHError | None = None
    for door in doors:
        try:
            _start_by(door, place, attempt, asking=asking)
        except (LoginNeededError, HostKeyError, NetworkError) as error:
            if via is not None and not error.is_network:
                jumps.remember(attempt.via_key, via.alias, door)  # the host was reached by it
            raise
        except SSHError as error:
            if door == "forward" and not isinstance(error, ProhibitedError):
                raise
            shut = _both(shut, error)
        else:
            if via is not None:
                jumps.remember(attempt.via_key, via.alias, door)
            return
    assert shut is not None
    raise shut


def _both(first: SSHError | None, second: SSHError) -> SSHError:
    """Return the error of two doors that do not lead on."""
    by_forward, by_command = (second, first) if isinstance(second, ProhibitedError) else (first, second)
    if by_forward is None or by_command is None:
        return second
    return ProhibitedError(second.host, f"{by_forward.reason}; and a command there leads nowhere: {by_command.reason}")


def _start_by(door: Door, place: Master, attempt: Attempt, *, asking: bool) -> None:
    via, before = attempt.via, place.said_bytes()
    limit = LOGIN_TIMEOUT if asking else 2 * float(settings.get("ssh.connect_timeout")) + 10
    limit = attempt.left(limit)
    arguments = _arguments(door, place, attempt, asking=asking)
    doubted: tuple[float, Callable[[], None]] | None = None
    if via is not None and not via.fresh and not asking:
        pause = min(_DOUBT_SECONDS, limit / 3)
        until = time.monotonic() + limit
        jump = via
        doubted = (pause, lambda: attempt.doubt(jump, until - time.monotonic()))
    with place.log.open("ab") as log:
        try:
            status = processes.run_to_end(
                arguments, stderr=None if asking else log, limit=limit, own_session=not asking, doubt=doubted
            )
        except TimedOutError as error:
            raise SlowError(
                place.alias, f"the login did not end within {error.timeout:.3g} s; is the host overloaded?"
            ) from error
    if status == 0 and is_running(place.control):
        return
    if via is not None and not via.is_there():
        raise ConnectionLostError(place.alias, f"the connection to {via.alias} ended meanwhile")
    said = place.said(before)
    if status == 0:
        raise ConnectionLostError(place.alias, f"the connection ended at once: {said.strip()[-200:] or 'it idled'}")
    if via is not None and door == "forward" and ("tdio forwarding" in said or "Session open refused" in said):
        said = _reason_at(via, place.host, attempt) or said
    refusal = explain(place.alias, said, asked=asking)
    if isinstance(refusal, HostKeyError) and "SHA256:" not in refusal.reason:
        refusal = explain(place.alias, said + _verbose(arguments, attempt.left(20)))
    raise refusal


def _arguments(door: Door, place: Master, attempt: Attempt, *, asking: bool) -> list[str]:
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
    if place.host.host_key_checking != "accept-new":
        options["StrictHostKeyChecking"] = "yes"
    if attempt.via is not None:
        ssh = partial(client_arguments, attempt.via)
        inner = jumps.proxy_command(door, place.host, attempt.via.alias, ssh, place.log)
        if asking:  # the master detaches, its proxy command does not: Ctrl-C and a closed terminal must not end it
            inner = [sys.executable, "-ISc", "import os,sys;os.setsid();os.execvp(sys.argv[1],sys.argv[1:])", *inner]
        options["ProxyCommand"] = " ".join(jumps.quote(word) for word in inner)
        options["ProxyUseFdpass"] = "no"
    listed = [word for key, value in options.items() for word in ("-o", f"{key}={value}")]
    detached = ["-f", "-N", "-M", "-T", "-S", str(place.control), "-E", str(place.log)]
    return [program(), *config_arguments(), *detached, *listed, *place.host.arguments()]


def _reason_at(via: Master, host: Host, attempt: Attempt) -> str:
    """Return why `via` cannot open a way to `host`: asked once more, alone: the log does not tell who."""
    if via.users:  # its stderr is on the user's terminal; what it refuses is tried by the other door
        return "administratively prohibited"
    with contextlib.suppress(TimedOutError), locked(f"ssh-why-{via.control.name}", timeout=attempt.left(30)):
        before = via.said_bytes()
        arguments = client_arguments(via, ["-W", f"[{host.hostname}]:{host.port}", "--", via.alias])
        with contextlib.suppress(TimedOutError):
            processes.run_to_end(arguments, stderr=None, limit=attempt.left(10))
        return via.said(before)
    return ""


def _verbose(arguments: list[str], limit: float) -> str:
    """Return what the same attempt says with -v, for the fingerprint of the key that is not known."""
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


def _announce(place: Master) -> None:
    """Say on the terminal whose prompt comes: ssh names the address only, and several hosts may ask in turn."""
    with contextlib.suppress(OSError), Path("/dev/tty").open("w", encoding="utf-8") as terminal:
        terminal.write(f"login to {place.alias} ({place.host.user}@{place.host.hostname}):\n")
