"""Dead connections whose ssh still says "running": found by asking the far end, then marked and not used again.

Also: how far an ssh has come that is silent.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from ports.errors import ConnectionLostError, TimedOutError
from ports.hosts.openssh import control_sockets, processes
from ports.hosts.openssh.control_sockets import Master, client_arguments

# ssh notices a dead connection after three keepalives, and says that the master is "running" until then.
ANSWER_SECONDS = 2.5
_TABLES = {"tcp": (9, 3), "tcp6": (9, 3), "unix": (6, 5)}  # the columns of inode and state


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


def is_logging_in(pid: int) -> bool | None:
    """Tell whether the ssh process `pid` has come so far that a key or an agent can wait for a person.

    Then it holds a connection to the agent, or a helper of it asks a token. Before, as long as no packet comes through,
    it has neither.

    Returns
    -------
    bool or None
        None where the system does not show it.
    """
    if sys.platform != "linux":
        return None
    process = Path("/proc") / str(pid)
    try:
        links = [_link(one) for one in (process / "fd").iterdir()]
        sockets = {link[8:-1] for link in links if link.startswith("socket:[")}
        states = {family: _states(process / "net" / family, sockets) for family in _TABLES}
        helpers = [(Path("/proc") / child / "comm").read_text() for child in _children(process)]
    except OSError:
        return None
    if not links:  # it has ended
        return None
    if any(state != "01" for family in ("tcp", "tcp6") for state in states[family]):  # the connection does not stand
        return False
    return "03" in states["unix"] or any(name.startswith("ssh-") for name in helpers)


def _link(path: Path) -> str:
    """Return where a link leads; nothing if it is gone by now, as a file that the process has closed."""
    try:
        return str(path.readlink())
    except FileNotFoundError:
        return ""


def _states(table: Path, sockets: set[str]) -> list[str]:
    """Return the states of `sockets` in a table of the kernel, by inode; 01 of TCP and 03 of Unix are connected."""
    inode, state = _TABLES[table.name]
    rows = [line.split() for line in table.read_text().splitlines()[1:]] if table.exists() else []
    return [row[state] for row in rows if len(row) > max(inode, state) and row[inode] in sockets]


def _children(process: Path) -> list[str]:
    return (process / "task" / process.name / "children").read_text().split()
