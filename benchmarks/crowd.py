"""A busy machine: ``crowd.py N`` becomes N processes of this user, each with a listener that says nothing."""

from __future__ import annotations

import os
import signal
import socket
import sys


def main(n: int) -> None:
    """Start the processes, print a line, and end them when standard input ends."""
    group = os.getpid()
    os.setpgid(0, 0)
    for _ in range(n):
        if os.fork() == 0:
            listener = socket.create_server(("127.0.0.1", 0))
            while True:
                signal.pause()
                listener.fileno()
    print("ready", flush=True)
    sys.stdin.read()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(group, signal.SIGTERM)


if __name__ == "__main__":
    main(int(sys.argv[1]))
