"""``ports who`` on a machine with many users and processes, beside ps."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

from benchmarks.commands import PORTS, home, seconds, until_ready
from benchmarks.measure import Aim, Result, interleave

USERS, PROCESSES = 30, 2000
FIRST_UID = 43000
LONGEST = 900  # seconds that they live, even if the benchmark is killed
PS = ["ps", "-eo", "user,rss,pcpu"]


def who(runs: int) -> Iterator[Result]:
    """Time ``ports who``, without the start of the interpreter."""
    crowd = [sys.executable, "-m", "benchmarks.who", str(PROCESSES), str(USERS)]
    with home() as env, until_ready(crowd):
        shown = subprocess.run([*PORTS, "who", "--json"], env=env, capture_output=True, text=True, check=True).stdout
        assert shown.count('"n_processes"') >= (USERS if os.getuid() == 0 else 1)

        def ours() -> float:
            return seconds([*PORTS, "who"], env=env) - seconds([sys.executable, "-c", "pass"])

        samples = interleave(ours, lambda: seconds(PS), runs)
    users = f"{USERS} users" if os.getuid() == 0 else "one user"  # only root can start processes of other users
    what = f"{PROCESSES:,} processes of {users}: ports who, without the interpreter's start"
    yield Result("who", what, " ".join(PS), "ms", Aim("ratio", 2.0), samples)


def main(n: int, n_users: int) -> None:
    """Start `n` processes of `n_users` users, half of them Python. Print a line; end them when standard input ends."""
    os.setpgid(0, 0)
    for number in range(n):
        if os.fork() == 0:
            if os.getuid() == 0:
                os.setgid(FIRST_UID + number % n_users)
                os.setuid(FIRST_UID + number % n_users)
            if number % 2:
                os.execvp("sleep", ["sleep", str(LONGEST)])
            signal.alarm(LONGEST)
            while True:
                signal.pause()
    print("ready", flush=True)
    sys.stdin.read()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    os.killpg(os.getpgrp(), signal.SIGTERM)


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {"who": who}

if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
