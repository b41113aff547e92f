"""Dead connections whose ssh still says "running": found by asking the far end, then marked and not used again."""

from __future__ import annotations

import threading
import time

from ports.errors import ConnectionLostError, TimedOutError
from ports.hosts._route import Route
from ports.hosts.openssh import control_sockets, processes
from ports.hosts.openssh.control_sockets import Master, client_arguments

# ssh notices a dead connection after three keepalives, and says that the master is "running" until then.
ANSWER_SECONDS = 2.5


def carries(master: Master, limit: float = ANSWER_SECONDS) -> bool:
    """Tell whether the server still answers over `master`; a refusal is an answer. For ours, no shell runs there."""
    # the user's own would print the refusal on the user's terminal
    asked = ["-T", "--", master.alias, "true"] if master.users else ["-W", "127.0.0.1:1", "--", master.alias]
    try:
        processes.run_to_end(client_arguments(master, asked), stderr=None, limit=limit)
    except TimedOutError:
        return False
    return True


def retire(route: Route) -> None:
    """Mark the dead connections of a route as silent; the next `connect` makes new ones.

    All are asked at once; it takes `ANSWER_SECONDS` where one does not answer. They are not ended: what goes through
    them continues when packets flow again in time, else they end by their keepalives.
    """
    asked: list[threading.Thread] = []
    for hop in route.hops:
        for master in control_sockets.candidates(hop):
            if control_sockets.is_running(master.control):
                asked.append(threading.Thread(target=_mark_if_silent, args=(master,), daemon=True))
                asked[-1].start()
    for thread in asked:
        thread.join()


def doubt(master: Master, limit: float) -> None:
    """Mark a jump host's connection as silent where it is dead, and raise ConnectionLostError then."""
    started = time.monotonic()
    limit = min(ANSWER_SECONDS, limit)
    if not carries(master, limit=max(0.5, limit - 0.2)):
        control_sockets.mark_silent(master)
        waited = time.monotonic() - started
        raise ConnectionLostError(master.alias, f"its connection carried nothing for {waited:.2g} s")


def _mark_if_silent(master: Master) -> None:
    if not carries(master):
        control_sockets.mark_silent(master)
