"""A memory cgroup of one's own, and in it a cluster beside another account that takes more and more memory.

All of it is bounded by the cgroup's limit: the machine around it has what it had.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from ports.probe import memory, read_bytes
from ports.state.waiting import wait_until

MB = 10**6
LIMIT = 2 * 2**30
N_WORKERS, HELD = 4, 280 * MB  # each worker's task holds that much and goes on running
RATE, PART = 200 * MB, 0.6  # the hog's bytes a second, and how much of the cluster's it takes beside what is available
STRANGER = 51234  # the uid of an account that nobody has, a person's
STAYS = 2.0  # seconds that the hog keeps what it has

HOLD = """
def hold(n, directory, number):
    import pathlib, time
    held = bytearray(b"x") * n
    pathlib.Path(directory, f"held-{number}").touch()
    time.sleep(600)
    return len(held)
"""
OURS = """
import ports, sys
ports.cluster(n_workers=int(sys.argv[1]), threads_per_worker=1, memory_limit="1GB", force=True, guard=sys.argv[2])
"""
THEIRS = """
import sys, time
from distributed import LocalCluster
if __name__ == "__main__":
    cluster = LocalCluster(n_workers=int(sys.argv[1]), threads_per_worker=1, dashboard_address=None)
    print(cluster.scheduler_address, flush=True)
    sys.stdin.read()
"""
WORK = f"""
import sys
{HOLD}
from distributed import fire_and_forget
if sys.argv[4] == "ports":
    import ports
    client = ports.client()
else:
    from distributed import Client
    client = Client(sys.argv[4])
for number in range(int(sys.argv[1])):
    fire_and_forget(client.submit(hold, int(sys.argv[2]), sys.argv[3], number, pure=False))
import pathlib, time
while len(list(pathlib.Path(sys.argv[3]).glob("held-*"))) < int(sys.argv[1]):
    time.sleep(0.05)
client.close()
"""


def why_not() -> str | None:
    """Return why there can be no memory cgroup here; None where there can."""
    if os.getuid():
        return "a memory cgroup and a process of another account need root"
    try:
        with cgroup(LIMIT):
            return None
    except OSError as error:
        return f"no memory cgroup can be made here: {error}"


@dataclass(frozen=True)
class Cgroup:
    """A memory cgroup below this process's own."""

    version: int
    directory: Path

    def argv(self, argv: list[str]) -> list[str]:
        """Return the command that runs `argv` in it."""
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self.directory), *argv]

    def used(self) -> int:
        """Return the bytes that its processes hold."""
        limit = memory.bound_of(str(self.directory), self.version) or 0
        return limit - memory.left_of(str(self.directory), self.version, limit)

    def oom_kills(self) -> int:
        """Return how many of its processes the kernel has killed for want of memory."""
        name = "memory.oom_control" if self.version == 1 else "memory.events"
        return memory.figures(read_bytes(str(self.directory / name))).get("oom_kill", 0)

    def pids(self) -> list[int]:
        """Return its processes."""
        return [int(pid) for pid in (self.directory / "cgroup.procs").read_text().split()]

    def end(self) -> None:
        """Kill what is left in it, and remove it."""
        for pid in self.pids():
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        wait_until(lambda: not self.pids() or None, timeout=20, what="end of what ran in the cgroup", every=0.05)
        wait_until(self._removed, timeout=20, what="removal of the cgroup", every=0.05)

    def _removed(self) -> bool | None:
        try:
            self.directory.rmdir()
        except OSError:
            return None
        return True


@contextlib.contextmanager
def cgroup(limit: int) -> Iterator[Cgroup]:
    """Make a memory cgroup of `limit` bytes for a while."""
    own = [one for one in memory.control_groups() if one.limits_memory]
    usable = [one for one in own if Path(one.directory, _limit_file(one.version)).exists() or one.version == 1]
    if not usable:
        raise FileNotFoundError("the memory controller is not there")
    made = Cgroup(usable[0].version, Path(tempfile.mkdtemp(prefix="ports-test-", dir=usable[0].directory)))
    try:
        (made.directory / _limit_file(made.version)).write_text(str(limit))
        yield made
    finally:
        made.end()


def _limit_file(version: int) -> str:
    return "memory.limit_in_bytes" if version == 1 else "memory.max"


@dataclass(frozen=True)
class Outcome:
    """What became of a cluster beside a hog."""

    oom_kills: int
    hog_reached: bool
    taken: int
    seconds: float


def beside(cluster: str, env: Mapping[str, str], *, guard: str = "restart") -> Outcome:
    """Start a cluster whose tasks hold memory, then a hog in the same cgroup, and return what became of them.

    Parameters
    ----------
    cluster : {"ports", "LocalCluster"}
    env : mapping
        With a ``PORTS_HOME`` of its own.
    """
    start = time.monotonic()
    with contextlib.ExitStack() as stack:
        group = stack.enter_context(cgroup(LIMIT))
        marks = stack.enter_context(tempfile.TemporaryDirectory(dir="/var/tmp", ignore_cleanup_errors=True))
        address = stack.enter_context(_ours(group, env, guard) if cluster == "ports" else _theirs(group, env, marks))
        argv = [sys.executable, "-c", WORK, str(N_WORKERS), str(HELD), marks, address]
        subprocess.run(argv, env=dict(env), check=True, timeout=120, cwd=marks)
        used = group.used()
        taken = int(LIMIT - used + PART * used)
        reached = hog(group, taken)
        return Outcome(group.oom_kills(), reached, taken, time.monotonic() - start)


@contextlib.contextmanager
def _ours(group: Cgroup, env: Mapping[str, str], guard: str) -> Iterator[str]:
    argv = group.argv([sys.executable, "-c", OURS, str(N_WORKERS), guard])
    subprocess.run(argv, env=dict(env), check=True, timeout=120, cwd="/var/tmp")
    try:
        yield "ports"
    finally:
        stop = [sys.executable, "-m", "ports", "cluster", "stop"]
        subprocess.run(stop, env=dict(env), check=True, timeout=60, capture_output=True)


@contextlib.contextmanager
def _theirs(group: Cgroup, env: Mapping[str, str], scratch: str) -> Iterator[str]:
    argv = group.argv([sys.executable, "-c", THEIRS, str(N_WORKERS)])
    pipe, quiet = subprocess.PIPE, subprocess.DEVNULL
    env = {**env, "DASK_TEMPORARY_DIRECTORY": scratch}  # a worker that is killed leaves its scratch there
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, stderr=quiet, text=True, env=env) as owner:
        assert owner.stdout is not None and owner.stdin is not None
        try:
            yield owner.stdout.readline().strip()
        finally:
            owner.kill()


def hog(group: Cgroup, n_bytes: int, *, rate: int = RATE, stays: float = STAYS) -> bool:
    """Let a process of another account grow to `n_bytes` in `group`; return whether it was left alive."""
    pid = os.fork()
    if not pid:
        try:
            (group.directory / "cgroup.procs").write_text("0")
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            _grow(n_bytes, rate)
            time.sleep(stays)
            os._exit(0)
        except BaseException:
            os._exit(1)
    return os.waitpid(pid, 0)[1] == 0


def _grow(n_bytes: int, rate: int) -> None:
    held: list[bytearray] = []
    start = time.monotonic()
    for n in range(n_bytes // MB):
        held.append(bytearray(b"x") * MB)
        time.sleep(max(0.0, start + (n + 1) * MB / rate - time.monotonic()))
