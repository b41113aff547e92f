"""A storm: jobs that each append to a file, while all that runs them is killed at random moments.

What is compared is counted outside the queue: what the client was told, and what is in the file.
"""

from __future__ import annotations

import collections
import contextlib
import json
import os
import random
import re
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from ports.errors import PortsError, ResourceLostError, TimedOutError
from ports.jobs import _resource, _travel
from ports.jobs._connection import Connection
from ports.state import wait_until

#: What is killed: each of these at least once in a round. The nanny of the worker is a part of the cluster's owner.
PARTS = ("child", "worker", "owner", "resource", "tmux")

#: How each of them is known by its command line.
MARKS = {
    "other": r"launch\.(py|json)|script\.py|resource_tracker",
    "child": r"/child\.py ",
    "worker": r"spawn_main",
    "resource": r"loop\.main\(",
    "owner": r"ports_owner",
    "tmux": r"^\S*tmux",
}


class Client:
    """One who submits and asks, connects again when the resource dies, and notes what was acknowledged."""

    def __init__(self) -> None:
        self.connection: Connection | None = None

    def ask(self, op: str, blobs: Any = (), **fields: Any) -> dict[str, Any]:
        """Ask until there is an answer; a submission has a key, so that it is one all the same."""
        end = time.monotonic() + 120
        while True:
            try:
                if self.connection is None or self.connection.is_lost:
                    self.connection = _resource.connect()
                return self.connection.ask(op, blobs, timeout=60, **fields).header
            except (ResourceLostError, TimedOutError):
                if time.monotonic() > end:
                    raise
                time.sleep(0.05)

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()


def pids(processes: Callable[[], list[psutil.Process]], part: str) -> list[int]:
    """Return the processes that are a part of the resource at this moment."""
    found: dict[str, list[int]] = collections.defaultdict(list)
    for one in processes():
        with contextlib.suppress(psutil.Error):
            line = " ".join(one.cmdline())
            found[next((name for name, mark in MARKS.items() if re.search(mark, line)), "")].append(one.pid)
    return found[part]


class Storm:
    """One round.

    Parameters
    ----------
    processes : callable
        Returns the processes of the home in which it runs.
    file : path
        Gets a line for each beginning of a job.
    """

    def __init__(self, processes: Callable[[], list[psutil.Process]], file: Path, seed: int) -> None:
        self.processes, self.file, self.chance = processes, file, random.Random(seed)
        self.client = Client()
        self.jobs: dict[str, str] = {}  # id → what it writes, of all that were acknowledged
        self.cancelled: dict[str, float] = {}  # when the client was told
        self.killed: list[str] = []
        self.n_maps = 0

    def functions(self, count: int) -> None:
        """Submit a map."""
        self.n_maps += 1
        names = [f"m{self.n_maps}.{number}" for number in range(count)]
        parcel = _travel.pack(append, [((str(self.file), name), {}) for name in names])
        submission = {"kind": "function", "name": "append", "retries": {"lost": 100}}
        blobs, key = [parcel.function, *parcel.arguments], secrets.token_hex(16)
        told = self.client.ask("submit", blobs, key=key, submission=submission, count=count)
        self.jobs |= {f"{told['id']}.{number}": name for number, name in enumerate(names)}

    def script(self) -> None:
        """Submit a script."""
        self.n_maps += 1
        name = f"s{self.n_maps}"
        line = f"echo {name} $(date +%s.%N) >> {self.file}; sleep 0.2"
        told = {"argv": ["sh", "-c", line], "directory": "/", "umask": 0o22, "environ": None, "log_bytes": 10_000}
        submission = {
            "kind": "script",
            "script": {"argv": told["argv"]},
            "retries": {"lost": 100},
            "needs": {"cpus": 0.1},
        }
        blobs, key = [json.dumps(told).encode()], secrets.token_hex(16)
        answer = self.client.ask("submit", blobs, key=key, submission=submission, count=None)
        self.jobs[str(answer["id"])] = name

    def cancel(self, n: int) -> None:
        """Cancel some jobs."""
        ids = self.chance.sample(sorted(self.jobs), n)
        told = self.client.ask("cancel", ids=ids, reason="")
        now = time.time()
        self.cancelled |= dict.fromkeys(set(told["cancelled"]) - self.cancelled.keys(), now)

    def kill(self, part: str) -> None:
        """Kill a part, once it is there; it may be about to start."""

        def look() -> list[int] | None:
            found = pids(self.processes, part)
            if not found:
                self.client.ask("status")  # who asks starts the resource again
            return found or None

        for pid in wait_until(look, timeout=60, what=f"{part} of the resource", every=0.05):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.killed.append(part)

    def run(self, n_jobs: int, n_scripts: int, n_kills: int) -> None:
        """Submit, cancel and kill in an order of chance; wait until all have ended."""
        parts = [*PARTS, *self.chance.choices(PARTS, weights=(6, 3, 1, 4, 1), k=max(0, n_kills - len(PARTS)))]
        n_functions, chunk = n_jobs - n_scripts, 190
        sizes = [chunk] * (n_functions // chunk) + ([n_functions % chunk] if n_functions % chunk else [])
        steps: list[Callable[[], object]] = [lambda part=part: self.kill(part) for part in parts]  # type: ignore[misc]
        steps += [lambda size=size: self.functions(size) for size in sizes[1:]]  # type: ignore[misc]
        steps += [self.script] * n_scripts + [lambda: self.cancel(5)] * 6
        self.chance.shuffle(steps)
        for step in (lambda: self.functions(sizes[0]), *steps):
            step()
            time.sleep(self.chance.uniform(0, 0.1))
        wait_until(self.is_over, timeout=240, what="the end of all jobs", every=0.2)

    def is_over(self) -> bool | None:
        """Say whether nothing waits or runs."""
        counts = self.client.ask("status")["counts"]
        return True if not counts.get("pending") and not counts.get("running") else None

    def begun(self) -> dict[str, list[float]]:
        """Return when each job began, as the file says."""
        found: dict[str, list[float]] = collections.defaultdict(list)
        for line in self.file.read_text().splitlines() if self.file.exists() else ():
            name, at = line.split()
            found[name].append(float(at))
        return found

    def faults(self) -> Iterator[str]:
        """Yield what must not be."""
        begun = self.begun()
        counts = self.client.ask("status")["counts"]
        if (n := sum(counts.values())) != len(self.jobs):
            yield f"the queue has {n} jobs, acknowledged were {len(self.jobs)}: {counts}"
        for id, name in self.jobs.items():
            try:
                row = self.client.ask("show", id=id)["row"]
            except PortsError as error:
                yield f"{id} ({name}): {error}"
                continue
            times, state = begun.get(name, []), row["state"]
            wrong = [
                state not in ("finished", "cancelled") and f"is {state} ({row.get('reason')})",
                state == "finished" and not times and "is finished, and never ran",
                len(times) > row["attempt"] and f"ran {len(times)} times, with {row['attempt']} attempts recorded",
                state == "cancelled" and id in self.cancelled and _after(times, self.cancelled[id]),
                id in self.cancelled and state != "cancelled" and f"was cancelled, and is {state}",
            ]
            yield from (f"{id} ({name}) {one}; {row['transitions']}" for one in wrong if one)
        unknown = begun.keys() - set(self.jobs.values())
        if unknown:
            yield f"ran without being acknowledged: {sorted(unknown)[:10]}"


def _after(times: list[float], cancelled: float) -> str:
    late = [one for one in times if one > cancelled + 0.005]
    return f"ran {late[0] - cancelled:.3f} s after it was cancelled" if late else ""


def append(file: str, name: str) -> str:
    """Append a line, in one write; this is the job."""
    import os
    import time

    descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, f"{name} {time.time():.6f}\n".encode())
    os.close(descriptor)
    time.sleep(0.002)
    return name
