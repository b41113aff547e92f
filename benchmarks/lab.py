"""Benchmarks on a site of several hosts: commands on a busy machine, and everything over SSH."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from benchmarks.commands import PORTS, seconds
from benchmarks.job_commands import CLI_SECONDS
from benchmarks.measure import Aim, Result, Samples, interleave
from ports.state.waiting import wait_until
from tests.lab.disk import CHECKOUT
from tests.lab.site import Site, open_site

CROWD = 1500
IN_PROBE = """
import json, sys, time
from ports.probe import probe
took = []
for _ in range(int(sys.argv[1])):
    start = time.perf_counter()
    found = probe()
    took.append(time.perf_counter() - start)
print(json.dumps({"took": took, "listeners": len(found["listeners"])}))
"""


@contextlib.contextmanager
def hosts() -> Iterator[Site]:
    """Yield a site for this benchmark alone."""
    site, reason = open_site()
    if reason is not None:
        print(f"sshds on loopback, because {reason}", file=sys.stderr)
    with contextlib.closing(contextlib.ExitStack()) as stack:
        stack.callback(site.down)
        yield site


def listing(runs: int) -> Iterator[Result]:
    """Time ``ports list --json`` among 1,500 listeners in as many processes: a tenth of them this user's, then all."""
    with hosts() as site:
        if len(site.users) > 1:
            with crowd(site, site.users[0], CROWD // 10), crowd(site, site.users[1], CROWD - CROWD // 10):
                yield from _list(site, "", runs, mine=CROWD // 10)
        with crowd(site, site.users[0], CROWD):
            yield from _list(site, "-mine", runs, mine=CROWD)


def _list(site: Site, suffix: str, runs: int, *, mine: int) -> Iterator[Result]:
    ours = [*PORTS, "list", "--json"]
    theirs = [site.python, "-c", "import dask"]
    samples = interleave(lambda: _on(site, "server1", ours), lambda: _on(site, "server1", theirs), runs)
    told = json.loads(site.run("server1", [site.python, "-c", IN_PROBE, str(runs + 1)], check=True).stdout)
    assert told["listeners"] >= mine, told["listeners"]
    what = f"{mine:,} of {CROWD:,} mine:"
    yield Result(f"list{suffix}", f"{what} ports list --json", "import dask", "ms", Aim("difference", 0.1), samples)
    probed = Samples(tuple(told["took"][1:]), ())
    yield Result(f"probe{suffix}", f"{what} the probe itself", "", "ms", Aim("alone", 0.05), probed)


@contextlib.contextmanager
def crowd(site: Site, user: str, n: int) -> Iterator[None]:
    """Run `n` processes of `user` on server1, each with a listener that says nothing."""
    argv = _module(site, "benchmarks/crowd.py", str(n))
    with site.popen("server1", argv, user=user, stdin=subprocess.PIPE) as running:
        assert running.stdin is not None and running.stdout is not None
        assert running.stdout.readline() == "ready\n", "no crowd"
        try:
            yield
        finally:
            running.stdin.close()
            running.wait(30)


def help_(runs: int) -> Iterator[Result]:
    """Time ``ports --help``, the start of every command."""
    ours, theirs = [*PORTS, "--help"], [sys.executable, "-c", "import click"]
    samples = interleave(lambda: seconds(ours), lambda: seconds(theirs), max(runs, 15))
    yield Result("help", "ports --help", "import click", "ms", Aim("ratio", 1.5), samples)


def list_host(runs: int) -> Iterator[Result]:
    """Time ``ports list HOST`` over an established connection, where `ports` is not installed."""
    with hosts() as site:
        (samples,) = at_home(site, "list-host", runs=max(runs, 15))
    peer = "ssh -S SAME server2 python3 -c pass"
    yield Result("list-host", "ports list server2", peer, "ms", Aim("difference", 0.06), samples)


def remote_job(runs: int) -> Iterator[Result]:
    """Time the submission of a job to server1 through the login node, from Python and from the command line."""
    with hosts() as site:
        from_python, typed = at_home(site, "remote", module="jobs_at_home", runs=runs)
    what, peer = "ports.submit in a new process, imported", "ssh -S SAME server1 true"
    yield Result("job-remote", what, peer, "ms", Aim("difference", 0.08), from_python)
    what = "ports job submit -H server1 -- true"
    yield Result("job-remote-cli", what, "ports list server1", "ms", Aim("ratio", 1.1), typed)


def send(runs: int) -> Iterator[Result]:
    """Time the second submission of a directory to server1, and rsync over the same connection."""
    for name, what, files, limit in (
        ("large", "500 MB unchanged", {"n": 500, "size": 1_000_000, "changes": False}, 1.1),
        ("many", "20,000 files, one changed", {"n": 20_000, "size": 1000, "changes": True}, 1.5),
    ):
        with hosts() as site:
            submission, command = at_home(site, "send", module="jobs_at_home", runs=runs, **files)
        peer = "rsync -a, the same connection"
        ours = f"submit to server1, {what}"
        yield Result(f"job-send-{name}", ours, peer, "ms", Aim("ratio", limit), submission)
        ours = f"the same, as a command: ports job submit -H server1, {what}"
        yield Result(f"job-send-{name}-cli", ours, peer, "ms", Aim("difference", CLI_SECONDS), command)


def open_two(runs: int) -> Iterator[Result]:
    """Time ``ports open`` of two hosts."""
    with hosts() as site, notebooks(site, "server1", "server2"):
        (samples,) = at_home(site, "open", runs=runs)
    yield Result("open", "ports open server1 server2", "ssh server1 true", "s", Aim("ratio", 3), samples)


def requests(runs: int) -> Iterator[Result]:
    """Time small requests."""
    with hosts() as site, service(site) as port:
        lock_step, trip = at_home(site, "requests", port=port, target=port, runs=runs)
    ours, theirs = "ports open server1:PORT", "ssh -N -L"
    yield Result("lock-step", ours, theirs, "ms", Aim("ratio", 0.1), lock_step)
    yield Result("round-trip", ours, theirs, "ms", Aim("difference", 0.00015), trip)


def websocket(runs: int) -> Iterator[Result]:
    """Time a message and its echo."""
    with hosts() as site, service(site) as port:
        (samples,) = at_home(site, "websocket", port=port, target=port, runs=runs)
    yield Result("websocket", "ports open server1:PORT", "ssh -N -L", "ms", Aim("difference", 0.00015), samples)


def download(runs: int) -> Iterator[Result]:
    """Time a download of 256 MiB."""
    with hosts() as site, service(site) as port:
        (samples,) = at_home(site, "download", port=port, target=port, runs=runs)
    yield Result("download", "ports open server1:PORT", "ssh -N -L", "s", Aim("speed", 0.95), samples)


def paramiko(runs: int) -> Iterator[Result]:
    """Time the same with paramiko in the process of ``ports open``."""
    ours, theirs = "ports open --transport paramiko", "ssh -N -L"
    with hosts() as site, service(site) as port:
        common = {"port": port, "target": port, "runs": runs, "options": ["--transport", "paramiko"]}
        lock_step, trip = at_home(site, "requests", **common)
        (samples,) = at_home(site, "download", **common)
    yield Result("paramiko-lock-step", ours, theirs, "ms", Aim("ratio", 0.1), lock_step)
    yield Result("paramiko-round-trip", ours, theirs, "ms", Aim("difference", 0.0005), trip)
    yield Result("paramiko-download", ours, theirs, "s", Aim("speed", 0.6), samples)


def page(runs: int) -> Iterator[Result]:
    """Time JupyterLab's first page."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        raise RuntimeError("there is no chromium; `apt install chromium`")
    with hosts() as site, notebooks(site, "server1") as ports:
        (samples,) = at_home(site, "page", port=ports[0], target=ports[0], chromium=chromium, runs=runs)
    yield Result("page", "ports open server1:PORT", "ssh -N -L", "s", Aim("ratio", 1.1), samples)


@contextlib.contextmanager
def service(site: Site) -> Iterator[int]:
    """Run the web server of service.py on server1, and yield its port."""
    with services(site, "server1", 1) as ports:
        yield ports[0]


@contextlib.contextmanager
def services(site: Site, host: str, n: int) -> Iterator[list[int]]:
    """Run the web server of service.py on `host`, and yield its `n` ports."""
    text = (CHECKOUT / "benchmarks/service.py").read_text()  # server2 does not even have this checkout
    with site.popen(host, ["python3", "-c", text, str(n)]) as running:
        try:
            assert running.stdout is not None
            yield [int(running.stdout.readline()) for _ in range(n)]
        finally:
            running.kill()


@contextlib.contextmanager
def notebooks(site: Site, *names: str) -> Iterator[list[int]]:
    """Run JupyterLab by hand on each host, and yield the ports."""
    command = [site.notebook_python, "-m", "jupyterlab", "--no-browser", "--port=0", "--ServerApp.log_level=ERROR"]
    with contextlib.ExitStack() as stack:
        for name in names:
            running = stack.enter_context(
                site.popen(name, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            )
            stack.callback(running.kill)
        yield [_notebook_port(site, name) for name in names]


def _notebook_port(site: Site, name: str) -> int:
    return wait_until(lambda: _recorded_port(site, name), timeout=60, what=f"notebook server on {name}")


def _recorded_port(site: Site, name: str) -> int | None:
    directory = site.host(name).path("~/.local/share/jupyter/runtime")
    for record in directory.glob("jpserver-*.json"):
        with contextlib.suppress(ValueError, OSError):
            return int(json.loads(record.read_text())["port"])
    return None


def at_home(site: Site, name: str, *, module: str = "at_home", **parameters: object) -> list[Samples]:
    """Run a benchmark of at_home.py, or of another `module`, on the laptop."""
    argv = [site.python, "-m", f"benchmarks.{module}", name, json.dumps({"ssh": site.ssh, **parameters})]
    done = site.run("laptop", argv, timeout=600, env={"PYTHONPATH": str(CHECKOUT)})
    if done.returncode:
        raise RuntimeError(done.stderr[-3000:])
    return [Samples(tuple(ours), tuple(theirs)) for ours, theirs in json.loads(done.stdout.splitlines()[-1])]


def _module(site: Site, path: str, *words: str) -> list[str]:
    return [site.python, str(CHECKOUT / path), *words]


def _on(site: Site, host: str, argv: list[str]) -> float:
    """Return how many seconds `argv` runs on `host`; both peers pay for reaching it."""
    start = time.perf_counter()
    site.run(host, argv, check=True)
    return time.perf_counter() - start


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {
    "list": listing,
    "help": help_,
    "list-host": list_host,
    "job-remote": remote_job,
    "job-send": send,
    "open": open_two,
    "requests": requests,
    "websocket": websocket,
    "page": page,
    "download": download,
    "paramiko": paramiko,
}
