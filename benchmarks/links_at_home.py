"""The half of links.py that runs on the laptop: ``python -m benchmarks.links_at_home NAME JSON``."""

from __future__ import annotations

import concurrent.futures
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.at_home import REQUEST, Parameters, disconnect, ports_open
from benchmarks.measure import Samples, interleave

EVERY = 0.05  # seconds between two attempts to get an answer
ATTEMPT = 5.0
PATIENCE = 90.0


def heal(parameters: Parameters) -> None:
    """Answer each line of standard input by a line about both links, ours and theirs.

    ``up`` waits until both answer. ``down`` reports whether each answers now. ``mended`` reports after how many seconds
    each answered.
    """
    for line in sys.stdin:
        asked = line.strip()
        if asked == "down":
            told: list[Any] = [answers(port, 2.0) for port in parameters["ports"]]
        else:
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(2) as both:
                told = list(both.map(first_answer, parameters["ports"], (start, start)))
        print(json.dumps(told), flush=True)


def many(parameters: Parameters) -> list[Samples]:
    """Time from the command until the last of many links answers; the peers are started until each runs."""
    targets: list[str] = parameters["targets"]
    failed: list[int] = []

    def ours() -> float:
        disconnect()
        start = time.perf_counter()
        with ports_open(targets) as links:
            for _ in targets:
                first_answer(_port(next(links)), start)
            return time.perf_counter() - start

    def theirs() -> float:
        disconnect()
        start = time.perf_counter()
        with forwards(parameters["ssh"], targets) as (ports, failures):
            failed.append(failures)
            for port in ports:
                first_answer(port, start)
            return time.perf_counter() - start

    samples = interleave(ours, theirs, parameters["runs"])
    print(f"of {len(targets)} ssh, started at once, failed at first: {failed}", file=sys.stderr)
    disconnect()
    return [samples]


def hold(parameters: Parameters) -> None:
    """Run the peers, print a line when they answer, and end them when standard input ends."""
    with forwards(parameters["ssh"], parameters["targets"]) as (ports, _):
        for port in ports:
            first_answer(port, time.perf_counter())
        print("ready", flush=True)
        sys.stdin.read()


@contextlib.contextmanager
def forwards(ssh: list[str], targets: list[str]) -> Iterator[tuple[list[int], int]]:
    """Start ``ssh -f -N -L`` for all targets at once, and the failed ones again; return ports and failures."""
    ports = _free_ports(len(targets))
    failures = 0
    waiting = list(zip(ports, targets, strict=True))
    try:
        while waiting:
            started = [(one, subprocess.Popen(_forward(ssh, *one), stderr=subprocess.DEVNULL)) for one in waiting]
            waiting = [one for one, process in started if process.wait(60)]
            failures += len(waiting) if len(started) == len(targets) else 0
        yield ports, failures
    finally:
        for pid in _processes(ports):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        while _processes(ports):
            time.sleep(0.05)


def _forward(ssh: list[str], port: int, target: str) -> list[str]:
    host, _, far = target.partition(":")
    return [*ssh, "-f", "-N", "-o", "ExitOnForwardFailure=yes", "-L", f"127.0.0.1:{port}:127.0.0.1:{far}", host]


def first_answer(port: int, start: float) -> float:
    """Return the seconds from `start` until a connection to `port` has an answer of the service.

    Attempts overlap, so one that hangs in a dead tunnel delays nothing.
    """
    answered = threading.Event()
    took: list[float] = []

    def attempt() -> None:
        if answers(port, ATTEMPT):
            took.append(time.perf_counter() - start)
            answered.set()

    while not answered.is_set():
        if time.perf_counter() - start > PATIENCE:
            raise RuntimeError(f"no answer on port {port} within {PATIENCE:g} s")
        threading.Thread(target=attempt, daemon=True).start()
        answered.wait(EVERY)
    return min(took)


def answers(port: int, timeout: float) -> bool:
    """Return whether the service answers through `port`; the page of a link that is down does not count."""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout) as connection:
        connection.settimeout(timeout)
        connection.sendall(REQUEST)
        return connection.recv(4096).startswith(b"HTTP/1.1 200 ")
    return False


def _port(link: str) -> int:
    return int(link.split(":")[2].split("/")[0])


def _free_ports(n: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        free = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(n)]
        return [int(one.getsockname()[1]) for one in free]


def _processes(ports: list[int]) -> set[int]:
    """Return the ssh processes that forward these ports; those of their jump host end with them."""
    words = {f"127.0.0.1:{port}:".encode() for port in ports}
    found = set()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            argv = path.read_bytes().split(b"\0")
            if argv[0].endswith(b"ssh") and any(word.startswith(start) for word in argv for start in words):
                found.add(int(path.parts[2]))
    return found


def disconnect_all(_: Parameters) -> None:
    """End the master connections of `ports`."""
    disconnect()


BENCHMARKS: dict[str, Callable[[Parameters], list[Samples] | None]] = {
    "heal": heal,
    "many": many,
    "hold": hold,
    "disconnect": disconnect_all,
}

if __name__ == "__main__":
    measured = BENCHMARKS[sys.argv[1]](json.loads(sys.argv[2]))
    if measured is not None:
        print(json.dumps([[one.ours, one.theirs] for one in measured]))
