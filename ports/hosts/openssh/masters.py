"""Master connections: one for each hop, found running or started, chained through jump hosts.

Each is started without asking first; then, where a person is needed, at the terminal.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from ports.errors import (
    BusyError,
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
from ports.hosts import _wording
from ports.hosts._prompts import LOGIN_TIMEOUT, asking_at_terminal, can_ask, say_waiting
from ports.hosts._route import Hop, Route
from ports.hosts.openssh import control_sockets, diagnostics, jumps, liveness, processes
from ports.hosts.openssh.control_sockets import Master, client_arguments, is_running
from ports.hosts.openssh.errors import explain, takes_more_than_keys
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
_ATTEMPTS = 3
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


def start(route: Route, *, batch: bool | None = None, warm: bool = False, timeout: float | None = None) -> Master:
    """Return a running master connection to the end of `route`; it and those to jump hosts are started where needed.

    The user's own running master is used where the configuration names one (ControlPath) and none of ours runs.

    Parameters
    ----------
    batch : bool, optional
        Nobody is asked for a password or code. Default: ask where there is a terminal.
    warm : bool
        Execute one session on the new connection, so that sshd sets TCP_NODELAY. A caller that runs something at once
        does not need it.
    timeout : float, optional
        Seconds for all of it, whatever the settings say, for a caller that tries again and again. Running masters are
        tested then, and dead ones are replaced.

    Raises
    ------
    UnknownHostError, HostKeyError, LoginNeededError, SSHError
        There is no connection; the message names the hop that failed. `SSHError.is_network` tells whether the cause was
        the network, not a server that refused.
    """
    asking = batch is not True and can_ask()
    until = None if timeout is None else time.monotonic() + timeout
    for attempt in range(_ATTEMPTS):
        # a master needs none before it: the user's own to a host may be there without one to the jump host
        master, missing = None, list[Hop]()
        for hop in reversed(route.hops):
            if (master := running(hop, until=until, tested=True)) is not None:
                break
            missing.insert(0, hop)
        try:
            for hop in missing:
                master = _ensure(hop, Attempt(master, asking, until))
                if master.fresh and (warm or hop is not route.hops[-1]):
                    # for the next hop, TCP_NODELAY may come a moment later
                    processes.start_and_forget(client_arguments(master, ["--", master.alias, "true"]), limit=10)
        except SSHError as error:
            # a jump host's connection ended, or turned out to be dead, in this moment
            again = isinstance(error, ConnectionLostError) and attempt + 1 < _ATTEMPTS
            if not again or (until is not None and until - time.monotonic() < 0.5):
                raise route.at_hop(error, hop) from error
        else:
            assert master is not None
            return replace(master, alias=route.alias)
    raise AssertionError


def running(hop: Hop, *, tested: bool = False, until: float | None = None) -> Master | None:
    """Return the master to `hop` that runs, held open: ours before the user's own, as tunnels may go through it.

    Parameters
    ----------
    tested : bool
        One that turns out to be silent is marked, and None is returned. The user's own is tested, because nobody else
        does that. Ours is tested with `until`: a caller with little time comes again because something was silent.
    until : float, optional
        Monotonic time at which to give up; the test takes half of what is left at most.
    """
    found = None
    for control, log, users in control_sockets.candidates(hop.key, hop.control_path):
        with contextlib.suppress(OSError):
            hold = control_sockets.MasterHold(control)
            found = Master(hop.alias, control, log, hop, users=users, hold=hold)
            break
    if found is None or not tested or (until is None and not found.users):
        return found
    left = liveness.ANSWER_SECONDS if until is None else max(0.5, (until - time.monotonic()) / 2)
    if liveness.carries(found, min(left, liveness.ANSWER_SECONDS)):
        return found
    control_sockets.mark_silent(found)
    return None


def _ensure(hop: Hop, attempt: Attempt) -> Master:
    limit = LOGIN_TIMEOUT if attempt.asking else 2 * float(settings.get("ssh.connect_timeout")) + 20
    limit = attempt.left(limit)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(control_sockets.login_lock(hop.key), timeout=limit))
        except TimedOutError as error:
            reason = f"another process is still connecting to it after {limit:.3g} s; try again"
            raise BusyError(hop.alias, reason) from error
        standing = running(hop)
        if standing is not None:  # another process was faster
            return standing
        master = Master(hop.alias, *control_sockets.following(hop.key), hop)
        control_sockets.sweep(hop.key)  # after the choice of a number, as none is used again
        try:
            _log_in(master, attempt)
        except BaseException:
            if not is_running(master.control):  # Ctrl-C a moment too late: the connection stands, and keeps its log
                control_sockets.forget(master.control)
                master.log.unlink(missing_ok=True)
            raise
        started = running(hop)
    _note(hop.key).unlink(missing_ok=True)  # unattended commands may try again: the host was reached
    if started is None:
        why = "the connection ended at once; is the setting ports.ssh.persist very short?"
        raise ConnectionLostError(hop.alias, why)
    return replace(started, fresh=True)


def _log_in(master: Master, attempt: Attempt) -> None:
    """Start the master: first without asking; then, where a person is needed, one login at a time.

    Raises
    ------
    LoginNeededError
        A person must answer a prompt and nobody can. No new attempt is made until somebody has logged in, or until a
        key, the agent or the configuration has changed.
    SSHError
        The host cannot be reached, or refuses.
    """
    note = _note(master.hop.key)
    start = partial(_start, "forward") if attempt.via is None else partial(_start_through, attempt.via)
    refused = None if attempt.asking else records.read_json(note)
    if refused is not None and refused.get("credentials") == diagnostics.credentials(master.hop):
        raise LoginNeededError(
            master.alias,
            f"waits for a login and is not tried again until then; run `ports login {master.alias}` in a terminal",
        )
    try:
        return start(master, attempt, asking=False)
    except LoginNeededError as error:
        noted = {"format": records.FORMAT, "host": master.alias, "reason": error.reason, "since": time.time()}
        noted["credentials"] = diagnostics.credentials(master.hop)
        with contextlib.suppress(StoreError):  # the refusal is what counts
            make_private(note.parent)
            records.write_json(note, noted)
        if not attempt.asking:
            raise
    if not _can_be_asked(master):
        raise LoginNeededError(master.alias, _wording.only_keys(master.alias))
    with locked("login", timeout=attempt.left(LOGIN_TIMEOUT)), asking_at_terminal(master.hop, program=True):
        start(master, attempt, asking=True)


def _can_be_asked(master: Master) -> bool:
    """Tell whether ssh asks a person for anything at a login that was refused: a password, a code or a passphrase."""
    options = dict(reversed(master.hop.options))
    if takes_more_than_keys(master.said()) or options.get("pkcs11provider", "none") != "none":
        return True
    keys = diagnostics.keys(master.hop.values("identityfile"))
    return bool(keys.locked or keys.on_token)


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
    # a person may have to touch a key, or to confirm its use, without being asked by ssh
    limit = LOGIN_TIMEOUT if attempt.asking else 2 * float(settings.get("ssh.connect_timeout")) + 10
    limit = attempt.left(limit)
    arguments = _arguments(method, master, attempt, asking=asking)
    doubted = None if asking else (min(_DOUBT_SECONDS, limit / 3), partial(_doubt, master.hop, attempt, limit))
    master.log.unlink(missing_ok=True)
    master.log.touch(mode=0o600)  # what an attempt before this one said explains nothing
    with tempfile.TemporaryFile() as stderr:  # ssh logs to `master.log`; what comes here, the host says
        try:
            status = processes.run_to_end(
                arguments, stderr=None if asking else stderr, limit=limit, own_session=not asking, doubt=doubted
            )
        except TimedOutError as error:
            raise SlowError(
                master.alias,
                f"the login did not end within {error.timeout:.3g} s; {_wording.SLOW_LOGIN}",
            ) from error
        stderr.seek(0)
        host_said = stderr.read().decode(errors="replace")
    if status == 0 and is_running(master.control):
        return
    if via is not None and not via.is_there():
        raise ConnectionLostError(master.alias, f"the connection to {via.alias} ended meanwhile")
    said = master.said()
    if status == 0:
        raise ConnectionLostError(master.alias, f"the connection ended at once: {said.strip()[-200:] or 'it idled'}")
    if via is not None and method == "forward" and ("tdio forwarding" in said or "Session open refused" in said):
        said = _reason_at(via, master.hop, attempt) or said
    refusal = explain(master.alias, said, host_said, asked=asking)
    if isinstance(refusal, HostKeyError) and "SHA256:" not in refusal.reason:
        refusal = explain(master.alias, said + _verbose(arguments, attempt.left(20)), host_said)
    raise refusal


def _doubt(hop: Hop, attempt: Attempt, limit: float, pid: int) -> bool:
    """Look at the jump host's connection when a login is silent; then say what a person may have to do.

    Return whether to look again: the login of a slow server can come later to where it waits for a person.
    """
    if attempt.via is not None and not attempt.via.fresh:
        liveness.doubt(attempt.via, limit - _DOUBT_SECONDS)
    if not attempt.asking:
        return False
    if liveness.is_logging_in(pid) is False:
        return True
    say_waiting(hop)
    return False


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
