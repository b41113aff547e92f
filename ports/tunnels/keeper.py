"""The process that keeps tunnels after `ports open --background` has returned; `ports.tunnels` starts it.

What it is to open comes as JSON on its standard input, so that nothing but targets stands in its arguments; rows go to
its standard output, a JSON line each, until all are up or have failed. It ends with its last tunnel, or by SIGTERM.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from ports import tunnels
from ports.tunnels.opening import Opening


def main() -> int:
    """Open what standard input says, report it, and keep it."""
    request = json.loads(sys.stdin.buffer.read())
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    settled = threading.Event()

    def report(row: dict[str, Any]) -> None:
        _log(row)
        if not settled.is_set():
            output.write(json.dumps(row) + "\n")
            output.flush()

    heed_signals()
    opening = tunnels.open_many(
        request["targets"],
        on_event=report,
        local_port=request["local_port"],
        owner=request["owner"],
        batch=True,
        log=request["log"],
        skip={(host, kind, name) for host, kind, name in request["skip"]},
    )
    settled.set()
    output.write(json.dumps({"settled": opening.rows()}) + "\n")
    output.close()
    _leave_starter()
    return keep(opening)


def keep(opening: Opening) -> int:
    """Wait until the last tunnel is closed, or until this process is told to end; return the exit status."""
    try:
        if any(one.url for one in opening.tunnels):
            opening.wait()
    except KeyboardInterrupt:
        pass
    finally:
        opening.close()
    return 0


def heed_signals() -> None:
    """Let SIGTERM and the end of the terminal be what Ctrl-C is: tunnels are taken back before the process ends.

    It must be called from the main thread. A SIGHUP that is ignored (``nohup``) stays so.
    """
    for number in (signal.SIGTERM, signal.SIGHUP):
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
