"""The process that keeps tunnels after `ports open --background` has returned; `ports.tunnels` starts it.

One process keeps all background tunnels. Requests come through its control socket, so its arguments show nothing. It
ends with its last tunnel, by SIGTERM, or if it gets no request.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

from ports.state import settings
from ports.tunnels._group import TunnelGroup

_IDLE_SECONDS = 20.0
_MANY_FILES = 10240  # macOS gives 256; where it says that there is no limit, it gives no more than these


def main() -> int:
    """Say on standard output when other processes can send requests; keep the tunnels that they request."""
    heed_signals()
    share_turns()
    allow_many_files()
    with TunnelGroup(on_event=partial(_log, Path(sys.argv[1])), log=sys.argv[1]) as group:
        group.serve()
        os.write(1, b"ready\n")
        _leave_starter()
        try:
            idle = 0
            while not group.wait(_IDLE_SECONDS / 4):
                idle = idle + 1 if group.is_idle else 0
                if idle > 4:
                    break
        except KeyboardInterrupt:
            pass
    return 0


def keep(group: TunnelGroup) -> int:
    """Wait until the last tunnel is closed, or until a signal ends this process; return the exit status."""
    # Windows reports Ctrl-C only between two waits
    turn = 0.5 if os.name == "nt" else None
    try:
        while not group.is_idle and not group.wait(turn):
            pass
    except KeyboardInterrupt:
        pass
    finally:
        group.close()
    return 0


def share_turns() -> None:
    """Let threads take turns more often than every 5 ms: with paramiko, an answer passes through three threads."""
    sys.setswitchinterval(0.0005)


def allow_many_files() -> None:
    """Allow as many open files as this user can have: each connection of a browser takes up to three."""
    with contextlib.suppress(ImportError, OSError, ValueError):  # Windows has no such limit
        import resource

        least, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = _MANY_FILES if most == resource.RLIM_INFINITY else min(most, _MANY_FILES)
        if least < wanted:
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def heed_signals() -> None:
    """Handle SIGTERM and the end of the terminal as Ctrl-C: tunnels are closed before the process ends.

    Call it from the main thread. A SIGHUP that is ignored (``nohup``) stays ignored.
    """
    names = ("SIGTERM", "SIGHUP", "SIGBREAK")  # Windows has the first and the last
    for number in (getattr(signal, name) for name in names if hasattr(signal, name)):
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _interrupt)


def _leave_starter() -> None:
    """Close the pipe of the process that started this one, which waits for its end."""
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    os.close(nowhere)


def _log(log: Path, row: dict[str, Any]) -> None:
    """Write a line to the log. It has no link, because a link has a token."""
    what = ":".join(str(row[key]) for key in ("host", "name") if row.get(key))
    parts = [time.strftime("%Y-%m-%d %H:%M:%S"), what, str(row["state"]), str(row.get("local_port") or "")]
    parts += [str(row.get("error") or row.get("note") or "")]
    _rotate(log)
    sys.stderr.write(" ".join(part for part in parts if part) + "\n")


def _rotate(log: Path) -> None:
    """Move a log that has grown too large to ``<log>.1``; standard error continues in a new one."""
    with contextlib.suppress(OSError):  # a full disk: it continues in the old one
        if os.fstat(2).st_size < int(settings.get("log_bytes")):
            return
        log.replace(f"{log}.1")
        fresh = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(fresh, 2)
        os.close(fresh)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
