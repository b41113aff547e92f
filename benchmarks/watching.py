"""What it costs a server that its views are watched at home, and how late they are."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.commands import PORTS
from benchmarks.lab import hosts, service
from benchmarks.measure import Aim, Result, Samples
from ports import probe
from ports.state.waiting import wait_until
from tests.lab.disk import CHECKOUT
from tests.lab.site import Running, Site

LOOKS, EVERY = 8, 2.0
CUT = 30.0
PATIENCE = 60.0
_OURS = "sys.stdin.buffer.readline()"  # how our program on a host begins
WATCH = """
import json, sys, time
from ports import tunnels
def show(view):
    told = {"condition": view["condition"], "seen": view["seen_at"] or 0}
    told["ports"] = [row["port"] for row in view["rows"]]
    print(json.dumps({**told, "at": time.time()}), flush=True)
with tunnels.watch(["server1"], on_change=show):
    sys.stdin.read()
"""
#: Runs a command whose input is its own, and prints for how many seconds that computed.
COMPUTED = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stdin=sys.stdin, stdout=subprocess.DEVNULL, check=True)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


class Watcher:
    """A process on the laptop that watches server1."""

    def __init__(self, running: Running) -> None:
        self.running = running
        self.seen: list[dict[str, Any]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def wait(self, is_so: Callable[[dict[str, Any]], bool]) -> float:
        """Wait for a view, and return when it came."""
        found = lambda: next((one["at"] for one in list(self.seen) if is_so(one)), None)  # noqa: E731
        return float(wait_until(found, timeout=PATIENCE, what="a view"))

    def _read(self) -> None:
        assert self.running.stdout is not None
        for line in self.running.stdout:
            self.seen.append(json.loads(line))


@contextlib.contextmanager
def watcher(site: Site) -> Iterator[Watcher]:
    """Watch server1 from the laptop; yield once it was looked at."""
    with site.popen("laptop", [site.python, "-c", WATCH], env={"PYTHONPATH": str(CHECKOUT)}, stdin=-1) as running:
        assert running.stdin is not None
        made = Watcher(running)
        try:
            made.wait(lambda view: view["seen"] > 0)
            yield made
        finally:
            running.stdin.close()
            running.wait(30)


def watch_cpu(runs: int) -> Iterator[Result]:
    """Measure what a look costs the server, beside a new python3; and what an open link costs when nobody looks."""
    with hosts() as site, service(site) as port:
        with watcher(site):
            time.sleep(2 * EVERY)  # its first looks load the program
            looked = [_computed(site) / LOOKS for _ in range(runs)]
        fresh = [_fresh(site) for _ in range(runs)]
        _until_nothing_runs(site)
        quiet = [_seconds(site) for _ in range(1)]
        site.run("laptop", [*PORTS, "open", "--background", f"server1:{port}"], check=True)
        time.sleep(2 * EVERY)
        open_only = [_computed(site) / LOOKS for _ in range(runs)]
        site.run("laptop", [*PORTS, "tunnel", "close", "--all"], check=True)
    own = tuple(max(0.0, all_ - glance) for all_, glance in zip(looked, open_only, strict=True))
    print(
        f"with the glance at listeners, which an open link has too: {looked}; that alone: {open_only}", file=sys.stderr
    )
    yield Result("watch-cpu", "a look at a server", "python3 - by ssh", "ms", Aim("alone", 0.003), Samples(own, ()))
    samples = Samples(tuple(looked), tuple(fresh))
    yield Result("watch-peer", "a look, all in all", "a new python3 for each look", "ms", Aim("ratio", 0.2), samples)
    yield Result("watch-quiet", "nobody looks", "", "ms", Aim("alone", 0.0), Samples(tuple(quiet), ()))


def watch_change(runs: int) -> Iterator[Result]:
    """Time from a listener's start on the server to the view at home that has it."""
    took: list[float] = []
    with hosts() as site, watcher(site) as watched:
        for number in range(runs):
            time.sleep(EVERY * number / runs)
            with service(site) as port:
                began = time.time()
                took.append(watched.wait(lambda view, port=port: port in view["ports"]) - began)
    yield Result(
        "watch-change", "change on a server → view", "", "s", Aim("alone", EVERY + 1.0), Samples(tuple(took), ())
    )


def watch_heal(runs: int) -> Iterator[Result]:
    """Time from the end of a cut of 30 s to the view that is true again."""
    took: list[float] = []
    with hosts() as site, watcher(site) as watched:
        for number in range(runs):
            time.sleep(2 + number / runs)
            site.host("login").cut()
            with service(site) as port:
                time.sleep(CUT)
                site.host("login").mend()
                mended = time.time()
                true = lambda view, port=port: view["condition"] == "connected" and port in view["ports"]  # noqa: E731
                took.append(watched.wait(true) - mended)
            print(f"{took[-1]:.2f} s", file=sys.stderr, flush=True)
    yield Result("watch-heal", "network mended → view true", "", "s", Aim("alone", 1.0), Samples(tuple(took), ()))


def _computed(site: Site) -> float:
    """Return how many seconds our program on the server computes during some looks."""
    before = _seconds(site)
    time.sleep(LOOKS * EVERY)
    return _seconds(site) - before


def _seconds(site: Site) -> float:
    """Return how many seconds our processes on the server have computed."""
    return sum(
        int((task / "schedstat").read_text().split()[0]) / 1e9
        for pid in _ours(site)
        for task in Path(f"/proc/{pid}/task").iterdir()
    )


def _ours(site: Site) -> list[int]:
    found = site.host("server1").processes()
    return [one.pid for one in found if _OURS in " ".join(one.command) and "python" in one.command[0]]


def _until_nothing_runs(site: Site) -> None:
    wait_until(lambda: not _ours(site) or None, timeout=PATIENCE, what="end of our program on the server")


def _fresh(site: Site) -> float:
    """Return how many seconds a new python3 computes that looks once."""
    text = probe.script({"do": "who", "marker": "m:"})
    argv = ["/usr/bin/python3", "-c", COMPUTED, "/usr/bin/python3", "-"]
    with site.popen("server1", argv, stdin=-1) as running:
        said, _ = running.communicate(text, timeout=60)
    return float(said.split()[-1])


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "watch-cpu": watch_cpu,
    "watch-change": watch_change,
    "watch-heal": watch_heal,
}
