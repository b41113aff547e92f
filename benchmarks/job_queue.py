"""The queue of jobs alone, without processes: ``python -m benchmarks.job_queue [DIRECTORY]``.

10,000 no-op jobs of one map go through it, with every transition kept, for four slots: submitted, given out, ended, and
each turn committed. On a tmpfs, the default, that is its own cost, without the disk's. Then the newest 50 of 200,000
submissions are listed.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

from ports.jobs._model import Capacity
from ports.jobs._turn import Request
from tests.lab.job_queue import Desk

N_JOBS, N_LISTED, SLOTS = 10_000, 200_000, ("s1", "s2", "s3", "s4")


def run_map(root: Path) -> float:
    """Return how many jobs a second go through the queue."""
    desk = Desk(root, Capacity(cpus=len(SLOTS)))
    begin = time.perf_counter()
    desk.submit(N_JOBS, arguments=[b"x" * 20] * N_JOBS)
    held: dict[object, list[dict[str, object]]] = {slot: [] for slot in SLOTS}
    n_done = 0
    while n_done < N_JOBS:
        inbox = []
        for slot in SLOTS:
            now = desk.clock
            told = {"state": "finished", "began": now, "ended": now + 0.0001}
            results = [{"id": job["id"], "attempt": job["attempt"], **told} for job in held[slot]]
            if results:
                inbox.append(
                    Request(slot, {"op": "ended", "slot": slot, "results": results}, [b"result"] * len(results))
                )
                n_done += len(results)
            held[slot] = []
            inbox.append(Request(slot, {"op": "claim", "slot": slot, "worker": slot, "lease": f"/{slot}", "most": 64}))
        for reply in desk.turn(*inbox):
            if "jobs" in reply.header:
                held[reply.connection] = reply.header["jobs"]
    seconds = time.perf_counter() - begin
    assert desk.answer("status")["counts"]["finished"] == N_JOBS
    desk.close()
    return N_JOBS / seconds


def list_newest(root: Path) -> tuple[float, float, float]:
    """Return the seconds of a list of an empty queue and of a full one, and the bytes of memory that this one takes."""

    def median() -> float:
        times = []
        for _ in range(21):
            begin = time.perf_counter()
            desk.answer("list", newest=50)
            times.append(time.perf_counter() - begin)
        return statistics.median(times)

    desk = Desk(root)
    empty, before = median(), _memory()
    for _ in range(N_LISTED // 1000):
        asked = {"kind": "function", "name": "fit"}
        header = {"op": "submit", "submission": asked, "count": None}
        desk.turn(*(Request("c", {**header, "key": desk.key()}, [b"f", b"x"]) for _ in range(1000)))
    full, after = median(), _memory()
    desk.close()
    return empty, full, after - before


def _memory() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    """Measure, and print a line for each figure."""
    base = sys.argv[1] if len(sys.argv) > 1 else "/dev/shm"
    with tempfile.TemporaryDirectory(dir=base) as directory:
        os.environ["PORTS_HOME"] = f"{directory}/state"
        rates = [run_map(Path(directory) / f"map-{number}") for number in range(5)]
        print(f"{N_JOBS:,} no-op jobs through the queue: {statistics.median(rates):,.0f} a second")
        empty, full, memory = list_newest(Path(directory) / "list")
        print(f"newest 50 of {N_LISTED:,}: {full * 1000:.2f} ms, of none {empty * 1000:.2f} ms")
        print(f"memory with {N_LISTED:,} pending: {memory / 1e6:.0f} MB more")


if __name__ == "__main__":
    main()
