"""Dead connections whose ssh still says "running": found by asking the far end, then marked and not used again."""

from __future__ import annotations

import time

from ports.errors import ConnectionLostError, TimedOutError
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


def doubt(master: Master, limit: float) -> None:
    """Mark a jump host's connection as silent where it is dead, and raise ConnectionLostError then."""
    started = time.monotonic()
    limit = min(ANSWER_SECONDS, limit)
    if not carries(master, limit=max(0.5, limit - 0.2)):
        control_sockets.mark_silent(master)
        waited = time.monotonic() - started
        raise ConnectionLostError(master.alias, f"its connection carried nothing for {waited:.2g} s")
