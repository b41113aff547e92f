"""Connections that say "running" and carry nothing: found by asking the far end, and left aside."""

from __future__ import annotations

import threading
import time

from ports.errors import ConnectionLostError, TimedOutError
from ports.hosts.openssh import control_sockets, processes
from ports.hosts.openssh.control_sockets import Master
from ports.hosts.openssh.login import client_arguments
from ports.hosts.openssh.ssh_config import route

# ssh notices a dead connection after three keepalives, and says that the master is "running" until then.
ANSWER_SECONDS = 2.5


def carries(master: Master, limit: float = ANSWER_SECONDS) -> bool:
    """Tell whether the server still answers over `master`, be it with a refusal; no shell runs there for ours."""
    # the user's own would tell of the refusal on the user's terminal
    asked = ["-T", "--", master.alias, "true"] if master.users else ["-W", "127.0.0.1:1", "--", master.alias]
    try:
        processes.run_to_end(client_arguments(master, asked), stderr=None, limit=limit)
    except TimedOutError:
        return False
    return True


def retire(alias: str) -> None:
    """Leave aside, on the way to `alias`, the connections that carry nothing: the next `connect` makes new ones.

    All are asked at once; it takes `ANSWER_SECONDS` where one does not answer. They are not ended: what goes through
    them goes on when the packets flow again in time, else they end by their keepalives.

    Raises
    ------
    SSHError
        The configuration cannot be read.
    """
    hops = route(alias)
    asked: list[threading.Thread] = []
    for key, hop in zip(control_sockets.keys(hops), hops, strict=True):
        for master in (control_sockets.ours(key, hop), control_sockets.users(key, hop)):
            if master is not None and control_sockets.is_running(master.control):
                asked.append(threading.Thread(target=_leave_if_silent, args=(key, master), daemon=True))
                asked[-1].start()
    for thread in asked:
        thread.join()


def doubt(key: str, master: Master, limit: float) -> None:
    """Leave a jump host's connection aside where it carries nothing, and raise ConnectionLostError then."""
    started = time.monotonic()
    limit = min(ANSWER_SECONDS, limit)
    if not carries(master, limit=max(0.5, limit - 0.2)):
        control_sockets.mark_silent(key, master)
        waited = time.monotonic() - started
        raise ConnectionLostError(master.alias, f"its connection carried nothing for {waited:.2g} s")


def _leave_if_silent(key: str, master: Master) -> None:
    if not carries(master):
        control_sockets.mark_silent(key, master)
