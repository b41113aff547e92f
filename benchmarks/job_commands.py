"""Jobs from the command line: the first one, a full queue, and copies of large directories."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from benchmarks.commands import PORTS, home, seconds
from benchmarks.measure import Aim, Result, Samples, interleave

SUBMIT = [*PORTS, "job", "submit", "--cpus", "1"]
N_LISTED = 200_000
LARGE_FILES, LARGE = 500, 1_000_000
MANY_FILES = 20_000
CLI_SECONDS = 0.25  # that the start of a command takes, with its imports
SUBMITTER = """
import sys, time
from ports import jobs

machine = jobs.at(sys.argv[1] if len(sys.argv) > 1 else None)
for _ in sys.stdin:
    begin = time.perf_counter()
    script = jobs.describe(["true"], cpus=1, is_far=machine.host is not None)
    machine.submit_script(jobs.plan_copy(script, root="."))
    print(time.perf_counter() - begin, flush=True)
"""
# Submits many jobs to the resource, a thousand at a time on one connection, without waiting for each answer.
FILL = """
import json, socket, struct, sys, uuid
from ports.jobs import _places, _protocol

n = int(sys.argv[1])
one = socket.socket(socket.AF_UNIX)
one.connect(str(_places.here().socket))
decoder = _protocol.Decoder()

def answers(count):
    while count:
        frames = decoder.feed(one.recv(1_000_000))
        assert not [frame for frame in frames if "error" in frame.header], frames[0].header
        count -= len(frames)

one.sendall(_protocol.encode({"n": 0, "op": "hello", "protocol": 1, "version": "benchmark"}))
answers(1)
asked = {"kind": "function", "name": "fit", "needs": {"cpus": 1}}
for begin in range(0, n, 1000):
    frames = (
        _protocol.encode({"n": number, "op": "submit", "key": uuid.uuid4().hex, "submission": asked}, [b"f", b"x"])
        for number in range(begin + 1, begin + 1001)
    )
    one.sendall(b"".join(frames))
    answers(1000)
"""


@contextlib.contextmanager
def resource(*, drained: bool = True) -> Iterator[dict[str, str]]:
    """Yield the environment of a compute resource that runs, and begins no job where it is `drained`."""
    with home() as env:
        seconds([*PORTS, "resource", "start"], env=env)
        try:
            if drained:
                seconds([*PORTS, "resource", "drain"], env=env)
            yield env
        finally:
            seconds([*PORTS, "resource", "stop", "--now"], env=env)


def first(runs: int) -> Iterator[Result]:
    """Time ``ports job submit -- true`` with nothing started before, until the id is printed and until it has ended."""
    printed, ended, started = [], [], []
    for _ in range(runs + 1):
        with home() as env:
            begin = time.perf_counter()
            done = subprocess.run([*SUBMIT, "--", "true"], env=env, capture_output=True, text=True, check=True)
            printed.append(time.perf_counter() - begin)
            seconds([*PORTS, "job", "wait", done.stdout.strip()], env=env)
            ended.append(time.perf_counter() - begin)
            seconds([*PORTS, "resource", "stop", "--now"], env=env)
        with home() as env:
            started.append(seconds([*PORTS, "cluster", "start", "main"], env=env))
            seconds([*PORTS, "cluster", "stop", "main"], env=env)
    what = "ports job submit -- true, nothing runs:"
    yield Result("job-first", f"{what} id printed", "", "s", Aim("alone", 3), Samples(tuple(printed[1:]), ()))
    samples = Samples(tuple(ended[1:]), tuple(started[1:]))
    yield Result(
        "job-first-end", f"{what} ended, and waited for", "ports cluster start", "s", Aim("ratio", 1.3), samples
    )


def listing(runs: int) -> Iterator[Result]:
    """Time the list of the newest 50 of many jobs, and compare the memory of the resource, with an empty queue."""
    with resource() as full, resource() as empty:
        subprocess.run([sys.executable, "-c", FILL, str(N_LISTED)], env=full, check=True, timeout=600)
        command = [*PORTS, "job", "list", "--json"]
        samples = interleave(lambda: seconds(command, env=full), lambda: seconds(command, env=empty), runs)
        memory = Samples((_memory(full),), (_memory(empty),))
    what = f"ports job list, newest 50 of {N_LISTED:,}"
    yield Result("job-list", what, "of none", "ms", Aim("difference", 0.02), samples)
    what = f"memory of the resource with {N_LISTED:,} jobs that wait"
    yield Result("job-memory", what, "with none", "MB", Aim("difference", 100e6), memory)


def _memory(env: Mapping[str, str]) -> float:
    """Return the resident memory of the resource."""
    shown = subprocess.check_output([*PORTS, "resource", "show", "--json"], env=env)
    statm = Path(f"/proc/{json.loads(shown)['pid']}/statm").read_text()
    return float(int(statm.split()[1]) * os.sysconf("SC_PAGE_SIZE"))


def workspace(runs: int) -> Iterator[Result]:
    """Time the submission of a directory that was submitted before: from Python, and as a command."""
    for name, what, limit, n, size in (
        ("large", "500 MB unchanged", 1.1, LARGE_FILES, LARGE),
        ("many", "20,000 files, one changed", 1.5, MANY_FILES, 1000),
    ):
        submission, command = _copied(runs, n=n, size=size, changes=name == "many")
        ours = f"submit with a copy, {what}"
        yield Result(f"job-copy-{name}", ours, "rsync -a", "ms", Aim("ratio", limit), submission)
        ours = f"the same, as a command: ports job submit --copy, {what}"
        yield Result(f"job-copy-{name}-cli", ours, "rsync -a", "ms", Aim("difference", CLI_SECONDS), command)


class Submitter:
    """A process that has imported `ports`, and submits the directory in which it is for each line that it gets."""

    def __init__(self, top: Path, env: Mapping[str, str] | None = None, host: str | None = None) -> None:
        pipe, words = subprocess.PIPE, [sys.executable, "-c", SUBMITTER, *([host] if host else [])]
        self._process = subprocess.Popen(words, stdin=pipe, stdout=pipe, text=True, env=env, cwd=top)

    def once(self) -> float:
        """Submit, and return how many seconds that took."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())

    def close(self) -> None:
        """End the process."""
        self._process.communicate(timeout=60)


def in_turn(submitter: Submitter, command: list[str], copy: list[str], top: Path, runs: int, change: Path | None,
            env: Mapping[str, str] | None = None) -> tuple[Samples, Samples]:  # fmt: skip
    """Return the seconds of a submission from Python, and those of a command, each in turn with rsync."""

    def changed() -> None:
        if change is not None:
            change.write_bytes(os.urandom(1000))

    def from_python() -> float:
        changed()
        return submitter.once()

    def once(argv: list[str]) -> float:
        changed()
        return seconds(argv, env=env, cwd=top)

    return (
        interleave(from_python, lambda: once(copy), runs),
        interleave(lambda: once(command), lambda: once(copy), runs),
    )


def _copied(runs: int, *, n: int, size: int, changes: bool = False) -> tuple[Samples, Samples]:
    """Return the seconds of submissions and of rsync; with `changes`, one file changes before each."""
    with resource() as env:
        top = Path(env["PORTS_HOME"]).parent / "work"
        make_files(top, n=n, size=size)
        copy = ["rsync", "-a", f"{top}/", f"{top}-copy/"]
        change = top / "3" / "3333.dat" if changes else None
        with contextlib.closing(Submitter(top, env)) as submitter:
            return in_turn(submitter, [*SUBMIT, "--copy", "--", "true"], copy, top, runs, change, env)


def make_files(top: Path, *, n: int, size: int) -> None:
    """Make `n` files of `size` random bytes, a thousand in a directory."""
    for number in range(n):
        path = top / f"{number // 1000}" / f"{number}.dat"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(os.urandom(size))


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "job-first": first,
    "job-list": listing,
    "job-copy": workspace,
}
