"""Master connections: one per hop, each with a private control socket, chained through jump hosts."""

from __future__ import annotations

import contextlib
import threading
import time
from dataclasses import replace
from pathlib import Path

from ports.errors import BusyError, ConnectionLostError, SSHError, TimedOutError
from ports.hosts._prompts import LOGIN_TIMEOUT, can_ask
from ports.hosts._route import Hop, Route
from ports.hosts.openssh import control_sockets, liveness, login, processes
from ports.hosts.openssh.control_sockets import Master, client_arguments, control_arguments, is_running, kept
from ports.hosts.openssh.login import Attempt
from ports.state import locked, settings, wait_until

_ATTEMPTS = 3


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
        first, master = _last_running(route.hops, until)
        try:
            for hop in route.hops[first + 1 :]:
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


def running(hop: Hop) -> Master | None:
    """Return the master to `hop` that runs, held open: ours before the user's own, as tunnels may go through it."""
    for control, log, users in control_sockets.candidates(hop.key, hop.control_path):
        with contextlib.suppress(OSError):
            hold = control_sockets.MasterHold(control)
            return Master(hop.alias, control, log, hop, users=users, hold=hold)
    return None


def masters_of(route: Route) -> list[Master]:
    """Return the masters of `ports` for each hop, those that run and those that would be started."""
    return [Master(hop.alias, *control_sockets.serving(hop.key), hop) for hop in route.hops]


def retire(route: Route) -> None:
    """Mark the dead connections of a route as silent; the next `connect` makes new ones.

    All are tested at once, in `liveness.ANSWER_SECONDS` at most. They are not ended: what goes through
    them continues when packets flow again in time, else they end by their keepalives.
    """
    asked: list[threading.Thread] = []
    for hop in route.hops:
        for control, log, users in control_sockets.candidates(hop.key, hop.control_path):
            if is_running(control):
                master = Master(hop.alias, control, log, hop, users=users)
                asked.append(threading.Thread(target=_mark_if_silent, args=(master,), daemon=True))
                asked[-1].start()
    for thread in asked:
        thread.join()


def close_all() -> int:
    """End all masters of `ports`, and return how many there were; the user's own ssh processes are not touched."""
    ended = kept()
    for control in ended:
        _end(control)
    control_sockets.sweep_all()
    return len(ended)


def end_master(master: Master) -> None:
    """End one master, and those on the same route that fell silent, with all that uses them; never the user's own."""
    if master.users:
        return
    for control in control_sockets.siblings(master.control):
        _end(control)


def _last_running(hops: tuple[Hop, ...], until: float | None) -> tuple[int, Master | None]:
    """Return the master that runs nearest to the last hop, and its number; -1 where none does.

    It needs none before it: the user's own to a host may be there without one to the jump host.
    """
    for number in reversed(range(len(hops))):
        master = running(hops[number])
        # nobody else tests the user's own; and a caller with little time comes again because something was silent
        if master is not None and (master.users or until is not None):
            left = liveness.ANSWER_SECONDS if until is None else max(0.5, (until - time.monotonic()) / 2)
            if not liveness.carries(master, min(left, liveness.ANSWER_SECONDS)):
                control_sockets.mark_silent(master)
                continue
        if master is not None:
            return number, master
    return -1, None


def _ensure(hop: Hop, attempt: Attempt) -> Master:
    limit = LOGIN_TIMEOUT if attempt.asking else 2 * float(settings.get("ssh.connect_timeout")) + 20
    limit = attempt.left(limit)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(locked(f"ssh-{hop.key}", timeout=limit))
        except TimedOutError as error:
            reason = f"another process is still connecting to it after {limit:.3g} s; try again"
            raise BusyError(hop.alias, reason) from error
        standing = running(hop)
        if standing is not None:  # another process was faster
            return standing
        master = Master(hop.alias, *control_sockets.following(hop.key), hop)
        control_sockets.sweep(hop.key)  # after the choice of a number, as none is used again
        master.log.touch(mode=0o600)
        try:
            login.log_in(master, attempt)
        except BaseException:
            if not is_running(master.control):  # Ctrl-C a moment too late: the connection stands, and keeps its log
                control_sockets.forget(master.control)
                master.log.unlink(missing_ok=True)
            raise
        started = running(hop)
    login.forget_refusal(hop.key)
    if started is None:
        raise ConnectionLostError(hop.alias, "the connection ended at once; is `ssh.persist` very short?")
    return replace(started, fresh=True)


def _end(control: Path) -> None:
    """End what listens on the control socket, and remove its files."""
    if is_running(control):
        with contextlib.suppress(TimedOutError, OSError):
            processes.run_to_end(control_arguments(control, ["-O", "exit", "--", "master"]), stderr=None, limit=5)
            wait_until(lambda: True if not is_running(control) else None, timeout=5, what="the end of ssh")
    if not is_running(control):
        control_sockets.forget(control)


def _mark_if_silent(master: Master) -> None:
    if not liveness.carries(master):
        control_sockets.mark_silent(master)
