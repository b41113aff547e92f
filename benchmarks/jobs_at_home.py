"""Jobs that the laptop sends to server1: ``python -m benchmarks.jobs_at_home NAME JSON``, run on the laptop."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from benchmarks.at_home import Parameters, disconnect
from benchmarks.commands import PORTS, seconds
from benchmarks.job_commands import Submitter, in_turn, make_files
from benchmarks.measure import Samples, interleave

# A fresh process each time: what it has imported is what every script has imported that submits a function.
SUBMIT = """
import time
import ports
def add(x):
    return x + 1
submit = ports.submit
begin = time.perf_counter()
with ports.host("server1"):
    submit(add, 41)
print(time.perf_counter() - begin)
"""


def remote(parameters: Parameters) -> list[Samples]:
    """Time a submission from Python and one from the command line, over a master that stands."""
    from ports import hosts
    from ports.hosts import openssh

    host = ["-H", "server1"]
    try:
        master = openssh.start(hosts.resolve("server1"), warm=True)
        seconds([*PORTS, "resource", "start", *host])
        seconds([*PORTS, "resource", "drain", *host])
        over_it = [*parameters["ssh"], "-S", str(master.control), "server1", "true"]
        submit, listing = [*PORTS, "job", "submit", *host, "--cpus", "1", "--", "true"], [*PORTS, "list", "server1"]
        from_python = interleave(_submit, lambda: seconds(over_it), parameters["runs"])
        return [from_python, interleave(lambda: seconds(submit), lambda: seconds(listing), parameters["runs"])]
    finally:
        seconds([*PORTS, "resource", "stop", "--now", *host])
        disconnect()


def send(parameters: Parameters) -> list[Samples]:
    """Time the second submission of a directory, and rsync over the same connection; one file changes where asked."""
    from ports import hosts
    from ports.hosts import openssh

    host, top = ["-H", "server1"], Path.home() / "work"
    make_files(top, n=parameters["n"], size=parameters["size"])
    change = top / "3" / "3333.dat" if parameters["changes"] else None
    try:
        master = openssh.start(hosts.resolve("server1"), warm=True)
        seconds([*PORTS, "resource", "start", *host])
        seconds([*PORTS, "resource", "drain", *host])
        shell = shlex.join([*parameters["ssh"], "-S", str(master.control)])
        copy = ["rsync", "-a", "-e", shell, f"{top}/", "server1:copy/"]
        submit = [*PORTS, "job", "submit", *host, "--copy", "--cpus", "1", "--", "true"]
        with closing(Submitter(top, host="server1")) as submitter:
            return list(in_turn(submitter, submit, copy, top, parameters["runs"], change))
    finally:
        seconds([*PORTS, "resource", "stop", "--now", *host])
        disconnect()


def _submit() -> float:
    done = subprocess.run([sys.executable, "-c", SUBMIT], capture_output=True, text=True, check=True, timeout=120)
    return float(done.stdout.splitlines()[-1])


ROWS: dict[str, Callable[[Parameters], Any]] = {"remote": remote, "send": send}

if __name__ == "__main__":
    print(json.dumps([[one.ours, one.theirs] for one in ROWS[sys.argv[1]](json.loads(sys.argv[2]))]))
