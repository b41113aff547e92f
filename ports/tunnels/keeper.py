"""The process that keeps tunnels after `ports open --background` has returned: one for all, `ports.tunnels` starts it.

What it is to open comes through its control socket, so that nothing stands in its arguments. It ends with its last
tunnel, by SIGTERM, or when nobody has given it anything.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from types import FrameType
from typing import Any

from ports.tunnels.opening import Opening

_IDLE_SECONDS = 20.0


def main() -> int:
    """Say on standard output when other processes can ask, and keep what they want open."""
    heed_signals()
    share_turns()
    with Opening(on_event=_log, log=sys.argv[1]) as opening:
        opening.serve()
        os.write(1, b"ready\n")
        _leave_starter()
        try:
            idle = 0
            while not opening.wait(_IDLE_SECONDS / 4):
                idle = idle + 1 if opening.is_idle else 0
                if idle > 4:
                    break
        except KeyboardInterrupt:
            pass
    return 0


def keep(opening: Opening) -> int:
    """Wait until the last tunnel is closed, or until this process is told to end; return the exit status."""
    # Windows tells of Ctrl-C only between two waits
    turn = 0.5 if os.name == "nt" else None
    try:
        while not opening.is_idle and not opening.wait(turn):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        opening.close()
    return 0


def share_turns() -> None:
    """Let threads take turns more often than each 5 ms: by paramiko, an answer passes three of them."""
    sys.setswitchinterval(0.0005)


def heed_signals() -> None:
    """Let SIGTERM and the end of the terminal be what Ctrl-C is: tunnels are taken back before the process ends.

    It must be called from the main thread. A SIGHUP that is ignored (``nohup``) stays so.
    """
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")  # of these Windows has the first and the last
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _leave_starter() -> None:
    """Let go of the starter's pipe: it waits for the end of it."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _log(row: dict[str, Any]) -> None:
    """Write a line to the log, which holds no link: a link holds a token."""
    what = ":".join(str(row[key]) for key in ("host", "name") if row.get(key))
    parts = [time.strftime("%Y-%m-%d %H:%M:%S"), what, str(row["state"]), str(row.get("local_port") or "")]
    parts += [str(row.get("error") or row.get("note") or "")]
    sys.stderr.write(" ".join(part for part in parts if part) + "\n")


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
