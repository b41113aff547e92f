"""Master connections: one per hop, each with a private control socket, chained through jump hosts."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

from ports.errors import BusyError, ConnectionLostError, SSHError, TimedOutError, UnknownHostError
from ports.hosts.openssh import control_sockets, liveness, login, processes
from ports.hosts.openssh.control_sockets import Master, is_running, kept
from ports.hosts.openssh.login import LOGIN_TIMEOUT, Attempt, client_arguments, control_arguments
from ports.hosts.openssh.ssh_config import Host, route, suggest
from ports.state import locked, settings, wait_until

_ATTEMPTS = 3


def connect(alias: str, *, batch: bool | None = None, warm: bool = True, timeout: float | None = None) -> Master:
    """Return a running master connection to `alias`; it and those to the jump hosts are started where they do not run.

    The user's own running master is taken where the configuration names one (ControlPath) and none of ours runs.

    Parameters
    ----------
    batch : bool, optional
        Nobody is asked for a password or code. Default: ask where there is a terminal.
    warm : bool
        Execute one session on the new connection, so that sshd sets TCP_NODELAY; a caller that runs something at once
        needs it not.
    timeout : float, optional
        Seconds for all of it, whatever the settings say: for one who tries again and again. What runs is asked whether
        it carries anything, and left aside where it does not.

    Raises
    ------
    UnknownHostError, HostKeyError, LoginNeededError, SSHError
        There is no way to the host; the message names the hop that failed. `SSHError.is_network` tells whether it was
        the network, and not a server that refused.
    """
    asking = login.can_ask() if batch is None else not batch and login.can_ask()
    until = None if timeout is None else time.monotonic() + timeout
    for attempt in range(_ATTEMPTS):
        try:
            return _connect(alias, asking=asking, warm=warm, until=until)
        except ConnectionLostError:  # a jump host's connection ended, or turned out to be dead, in this moment
            if attempt + 1 == _ATTEMPTS or (until is not None and until - time.monotonic() < 0.5):
                raise
    raise AssertionError


def running(alias: str) -> Master | None:
    """Return the master to `alias` where one runs; nothing is connected."""
    hops = route(alias)
    return _standing(control_sockets.keys(hops)[-1], hops[-1])


def places(alias: str) -> list[Master]:
    """Return where the masters of `ports` on the way to `alias` are, or would be, the last one being its own."""
    hops = route(alias)
    return [control_sockets.ours(key, hop) for key, hop in zip(control_sockets.keys(hops), hops, strict=True)]


def close(alias: str) -> bool:
    """End the master to `alias`, and with it all that uses it; False where none ran. Jump hosts' masters stay."""
    master = places(alias)[-1]
    there = any(is_running(control) for control in control_sockets.siblings(master.control))
    end_master(master)
    return there


def close_all() -> int:
    """End all masters of `ports`, and return how many there were; the user's own ssh processes are not touched."""
    ended = kept()
    for control in ended:
        _end(control)
    control_sockets.sweep_all()
    return len(ended)


def end_master(master: Master) -> None:
    """End one master, and those on the same way that fell silent, with all that uses them; never the user's own."""
    if master.users:
        return
    for control in control_sockets.siblings(master.control):
        _end(control)


def _connect(alias: str, *, asking: bool, warm: bool, until: float | None) -> Master:
    hops = route(alias, timeout=30.0 if until is None else max(0.1, until - time.monotonic()))
    keys = control_sockets.keys(hops)
    first, master = _last_standing(hops, keys, until)
    for number in range(first + 1, len(hops)):
        last, before = number == len(hops) - 1, keys[number - 1] if number else ""
        attempt = Attempt(keys[number], master, before, asking, until, partial(liveness.doubt, before))
        try:
            master = _ensure(hops[number], attempt)
        except SSHError as error:
            raise _at_hop(error, alias, hops[number], last=last) from error
        if master.fresh and (warm or not last):
            # for the next hop, TCP_NODELAY may come a moment later
            processes.start_and_forget(client_arguments(master, ["--", master.alias, "true"]), limit=10)
    assert master is not None
    return replace(master, alias=alias)


def _last_standing(hops: tuple[Host, ...], keys: list[str], until: float | None) -> tuple[int, Master | None]:
    """Return the master that runs nearest to the last hop, and its number; -1 where none does.

    It needs nothing before it: the user's own to a host may be there without one to the jump host.
    """
    for number in reversed(range(len(hops))):
        master = _standing(keys[number], hops[number])
        # nobody else watches over the user's own; and who comes with little time comes again as something was silent
        if master is not None and (master.users or until is not None):
            left = liveness.ANSWER_SECONDS if until is None else max(0.5, (until - time.monotonic()) / 2)
            if not liveness.carries(master, min(left, liveness.ANSWER_SECONDS)):
                control_sockets.mark_silent(keys[number], master)
                continue
        if master is not None:
            return number, master
    return -1, None


def _standing(key: str, hop: Host) -> Master | None:
    """Return the master that runs, ours before the user's own: tunnels may go through it."""
    for master in (control_sockets.ours(key, hop), control_sockets.users(key, hop)):
        if master is not None and (guard := control_sockets.guarded(master)) is not None:
            return replace(master, guard=guard)
    return None


def _ensure(hop: Host, attempt: Attempt) -> Master:
    limit = LOGIN_TIMEOUT if attempt.asking else 2 * float(settings.get("ssh.connect_timeout")) + 20
    limit = attempt.left(limit)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(f"ssh-{attempt.key}", timeout=limit))
        except TimedOutError as error:
            raise BusyError(
                hop.alias, f"another process is still connecting to it after {limit:.3g} s; try again"
            ) from error
        standing = _standing(attempt.key, hop)
        if standing is not None:  # another process was faster
            return standing
        place = control_sockets.following(attempt.key, hop)
        control_sockets.sweep(attempt.key)
        place.log.touch(mode=0o600)
        try:
            login.log_in(place, attempt)
        except BaseException:
            if not is_running(place.control):  # Ctrl-C a moment too late: the connection stands, and keeps its log
                control_sockets.forget(place.control)
                place.log.unlink(missing_ok=True)
            raise
        guard = control_sockets.guarded(place)
    login.forget_refusal(attempt.key)
    if guard is None:
        raise ConnectionLostError(hop.alias, "the connection ended at once; is `ssh.persist` very short?")
    return replace(place, fresh=True, guard=guard)


def _end(control: Path) -> None:
    """End what listens on the control socket, and remove its files."""
    if is_running(control):
        with contextlib.suppress(TimedOutError, OSError):
            processes.run_to_end(control_arguments(control, ["-O", "exit", "--", "master"]), stderr=None, limit=5)
            wait_until(lambda: True if not is_running(control) else None, timeout=5, what="the end of ssh")
    if not is_running(control):
        control_sockets.forget(control)


def _at_hop(error: SSHError, alias: str, hop: Host, *, last: bool) -> SSHError:
    reason = error.reason + (suggest(hop.alias) if isinstance(error, UnknownHostError) else "")
    if last:
        return type(error)(alias, reason)
    # a login to the last hop asks for each before it: that to the jump host alone would leave the links waiting
    reason = reason.replace(f"`ports login {hop.alias}`", f"`ports login {alias}`")
    return type(error)(alias, f"the jump host {hop.alias}: {reason}")
