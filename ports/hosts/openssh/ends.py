"""The end of master connections: ended on request, or marked as dead and not used again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable
from pathlib import Path

from ports.errors import TimedOutError
from ports.hosts._route import Route
from ports.hosts.openssh import control_sockets, liveness, processes
from ports.hosts.openssh.control_sockets import Master, control_arguments, is_running, kept
from ports.state import wait_until


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
    """End all masters of `ports`, and return how many there were; the user's own ssh processes are not touched.

    Those stay that a login goes through at which a person is asked.
    """
    needed = control_sockets.needed_by_logins()
    ended = [control for control in kept() if control not in needed]
    for control in ended:
        _end(control)
    lost = end_orphans()
    control_sockets.sweep_all()
    return len(ended) + lost


def end_orphans(keys: Iterable[str] | None = None) -> int:
    """End the masters of some routes, or all, whose control sockets were removed; return how many there were."""
    found = control_sockets.orphans(keys)
    for pid in found.values():
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGTERM)
    with contextlib.suppress(TimedOutError):
        wait_until(
            lambda: not set(found.values()) & set(control_sockets.started().values()) or None,
            timeout=5,
            what="the end of ssh",
        )
    return len(found)


def end_master(master: Master) -> None:
    """End one master, and those on the same route that fell silent, with all that uses them; never the user's own."""
    if master.users:
        return
    for control in control_sockets.siblings(master.control):
        _end(control)
    end_orphans([master.hop.key])


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
