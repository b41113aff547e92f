"""Links at home: many at once, the cost of holding them, and the time to recover after the jump host was cut off."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.commands import PORTS
from benchmarks.lab import at_home, hosts, service, services
from benchmarks.measure import Aim, Result, Samples
from tests.lab.disk import CHECKOUT
from tests.lab.site import HostProcess, Running, Site

CUT, IDLE = 30.0, 60.0
MANY = 20
KEEPALIVE = 5.0  # of the peer
PEER_PORT = 18901
TICK = os.sysconf("SC_CLK_TCK")


def heal(runs: int) -> Iterator[Result]:
    """Time the recovery after 30 seconds without the jump host, both tunnels at the same time."""
    if shutil.which("autossh") is None:
        raise RuntimeError("there is no autossh; `apt install autossh`")
    samples: list[list[float]] = []
    with hosts() as site, service(site) as port, _ours(site, [f"server1:{port}"]) as links, _autossh(site, port):
        parameters = {"ports": [links[0], PEER_PORT]}
        with _laptop(site, "heal", parameters) as prober:
            _ask(prober, "up")
            for number in range(runs):
                time.sleep(2 + KEEPALIVE * number / runs)  # each cut at another time between the peer's keepalives
                site.host("login").cut()
                time.sleep(CUT / 2)
                answered = _ask(prober, "down")
                time.sleep(CUT / 2 - 2)
                assert not any(answered), "the cut cut nothing"
                site.host("login").mend()
                samples.append(_ask(prober, "mended"))
                print(f"{samples[-1][0]:.2f} s, {samples[-1][1]:.2f} s", file=sys.stderr, flush=True)
    ours, theirs = zip(*samples, strict=True)
    measured, what = Samples(ours, theirs), ("ports open", f"autossh -M 0, ServerAliveInterval {KEEPALIVE:g}")
    yield Result("heal", *what, "s", Aim("alone", 5.0), measured)
    yield Result("heal-ratio", *what, "s", Aim("ratio", 0.5), measured)


def many(runs: int) -> Iterator[Result]:
    """Time 20 tunnels to two hosts."""
    with hosts() as site, _many_services(site) as targets:
        (samples,) = at_home(site, "many", module="links_at_home", targets=targets, runs=runs)
    what = f"ports open, {MANY} targets on 2 hosts", f"{MANY} x ssh -f -N -L at once"
    yield Result("many", *what, "s", Aim("ratio", 0.4), samples)


def keeper(runs: int) -> Iterator[Result]:
    """Measure the cost of holding 20 tunnels; the CPU of a minute is measured once for each."""
    memory: dict[str, list[float]] = {"ours": [], "theirs": []}
    cpu: dict[str, float] = {}
    with hosts() as site, _many_services(site) as targets:
        for number in range(min(runs, 3)):
            with _ours(site, targets):
                memory["ours"].append(_memory(site, "ours"))
                if not number:
                    cpu |= _idle_cpu(site)
            with _laptop(site, "disconnect", {}):
                pass
            with _laptop(site, "hold", {"ssh": site.ssh, "targets": targets}) as peers:
                assert peers.stdout is not None
                assert peers.stdout.readline() == "ready\n", "the peers did not come up"
                memory["theirs"].append(_memory(site, "theirs"))
    what, peer = f"ports open --background, {MANY} tunnels", f"{MANY} x ssh -f -N -L"
    samples = Samples(tuple(memory["ours"]), tuple(memory["theirs"]))
    yield Result("keeper-memory", what, peer, "MB", Aim("ratio", 0.5), samples)
    yield Result("keeper-cpu", f"{what}, {IDLE:g} s idle", "", "s", Aim("alone", 0.3), Samples((cpu["laptop"],), ()))
    print(f"meanwhile on both servers: {cpu['servers']:.2f} s, on the jump host {cpu['login']:.2f} s", file=sys.stderr)


@contextlib.contextmanager
def _many_services(site: Site) -> Iterator[list[str]]:
    with services(site, "server1", MANY // 2) as first, services(site, "server2", MANY // 2) as second:
        yield [f"server1:{port}" for port in first] + [f"server2:{port}" for port in second]


@contextlib.contextmanager
def _ours(site: Site, targets: list[str]) -> Iterator[list[int]]:
    """Run a keeper with links, and yield their local ports."""
    command = [*PORTS, "open", *targets, "--background", "--no-browser", "--json"]
    done = site.run("laptop", command, timeout=120, check=True)
    rows = json.loads(done.stdout)
    try:
        yield [int(row["local_port"]) for row in rows]
    finally:
        site.run("laptop", [*PORTS, "tunnel", "close", "--all"], timeout=60)


@contextlib.contextmanager
def _autossh(site: Site, port: int) -> Iterator[None]:
    options = [f"ServerAliveInterval={KEEPALIVE:g}", "ServerAliveCountMax=3", "ExitOnForwardFailure=yes"]
    words = [word for option in options for word in ("-o", option)]
    forward = f"127.0.0.1:{PEER_PORT}:127.0.0.1:{port}"
    command = ["autossh", "-M", "0", "-N", *site.ssh[1:], *words, "-L", forward, "server1"]
    # without it, autossh gives up if its first ssh ends within 30 s
    patient = {"AUTOSSH_GATETIME": "0"}
    nowhere = subprocess.DEVNULL
    with site.popen("laptop", command, env=patient, stdout=nowhere, stderr=nowhere) as running:
        try:
            yield
        finally:
            running.terminate()


@contextlib.contextmanager
def _laptop(site: Site, name: str, parameters: dict[str, Any]) -> Iterator[Running]:
    """Run a benchmark of links_at_home.py until its standard input ends."""
    argv = [site.python, "-m", "benchmarks.links_at_home", name, json.dumps(parameters)]
    environment = {"PYTHONPATH": str(CHECKOUT)}
    with site.popen("laptop", argv, stdin=subprocess.PIPE, stderr=None, env=environment) as running:
        try:
            yield running
        finally:
            assert running.stdin is not None
            running.stdin.close()
            running.wait(60)


def _ask(prober: Running, what: str) -> list[float]:
    assert prober.stdin is not None and prober.stdout is not None
    prober.stdin.write(what + "\n")
    prober.stdin.flush()
    told: list[float] = json.loads(prober.stdout.readline())
    return told


def _memory(site: Site, whose: str) -> float:
    """Return the bytes (PSS) of the keeper and of all ssh on the laptop, and print the share of each."""
    time.sleep(2)
    holding = _of(site, "laptop", "ports.tunnels", "ssh")
    kept = {one.pid: _sizes(one.pid) for one in holding}
    keepers = [one.pid for one in holding if "ports.tunnels" in " ".join(one.command)]
    others = [pid for pid in kept if pid not in keepers]
    for what, pids in (("keeper", keepers), ("ssh", others)):
        shared, resident = (sum(kept[pid][which] for pid in pids) / 1e6 for which in ("Pss", "Rss"))
        print(f"{whose}: {len(pids)} {what}, PSS {shared:.1f} MB, RSS {resident:.1f} MB", file=sys.stderr)
    return float(sum(sizes["Pss"] for sizes in kept.values()))


def _idle_cpu(site: Site) -> dict[str, float]:
    """Return the CPU seconds of a minute of idle tunnels."""
    time.sleep(30)  # until the last requests of the start are over
    names = {"laptop": ("laptop",), "login": ("login",), "servers": ("server1", "server2")}
    watched = {
        name: [one for host in some for one in _of(site, host, "ports.tunnels", "ssh", "-I -S -c", "sshd:")]
        for name, some in names.items()
    }
    before = {name: [_cpu(one.pid) for one in some] for name, some in watched.items()}
    time.sleep(IDLE)
    took = {name: [_cpu(one.pid) for one in some] for name, some in watched.items()}
    for name, some in watched.items():
        for one, then, now in zip(some, before[name], took[name], strict=True):
            print(f"{name} {now - then:.2f} s {' '.join(one.command)[:100]}", file=sys.stderr)
    return {name: sum(took[name]) - sum(before[name]) for name in names}


def _of(site: Site, host: str, *words: str) -> list[HostProcess]:
    """Return the processes of `host` that hold tunnels."""
    found = [one for one in site.host(host).processes() if one.state != "Z" and one.command]
    return [
        one
        for one in found
        if "benchmarks" not in " ".join(one.command) and any(word in " ".join(one.command[:4]) for word in words)
    ]


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICK


def _sizes(pid: int) -> dict[str, int]:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}


BENCHMARKS: dict[str, Callable[[int], Iterator[Result]]] = {"many": many, "keeper": keeper, "heal": heal}
