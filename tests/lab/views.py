# ruff: noqa: E501 (rows of data)
"""Views of hosts with fixed data, as `ports.tunnels.watch` gives them: for tests of the page and its pictures."""

from __future__ import annotations

import math
from typing import Any

GIB = 2**30
NOW = 1_790_000_000.0
DAY, HOUR, MINUTE = 86_400.0, 3600.0, 60.0


def user(name: str, memory: float, cores: float, **more: Any) -> dict[str, Any]:
    """Return a user of a machine; sizes in GiB."""
    made = {"user": name, "uid": 1000 + len(name), "is_person": name != "root", "is_me": name == "alice"}
    made |= {"n_processes": 7, "memory_bytes": int(memory * GIB), "cores": cores, "dask_bytes": 0, "dask_cores": 0.0}
    made |= {"promised_bytes": 0, "promised_threads": 0, "held_bytes": 0, "unfilled_bytes": 0, "lent_bytes": 0}
    return made | more


def promise(total: float, held: float) -> dict[str, Any]:
    """Return what clusters of a user are promised, and use; in GiB."""
    sizes = {"promised_bytes": total, "held_bytes": held, "unfilled_bytes": total - held}
    return {key: int(value * GIB) for key, value in sizes.items()}


def machine(host: str, cores: int, busy: float, memory: float, free: float, users: list[Any], **more: Any) -> Any:
    """Return the document of ``ports who --json``."""
    made = {"host": host, "kind": "machine", "name": host, "state": "running", "time": NOW, "n_cores": cores}
    made |= {"usable_cores": cores, "busy_cores": busy, "load": [busy, busy, busy], "memory_bytes": int(memory * GIB)}
    made |= {"available_bytes": int(free * GIB), "limit_bytes": int(memory * GIB), "hidden": False, "users": users}
    made |= {"limit_available_bytes": int(free * GIB), "swap_bytes": 0, "swap_free_bytes": 0, "gpus": None}
    made |= {"pressure": {"cpu_some": 3.1, "memory_some": 0.0, "memory_full": 0.0, "io_some": 0.4}}
    return made | more


def cluster(name: str, n_workers: int, used: float, limit: float, n_tasks: int, age: float, **more: Any) -> Any:
    """Return the row of a cluster whose workers have one thread each; sizes in GiB."""
    made: dict[str, Any] = {"host": "atlas", "kind": "cluster", "name": name, "state": "running", "managed": True}
    made |= {"n_workers": n_workers, "n_asked": n_workers, "n_threads": n_workers, "n_tasks": n_tasks, "n_clients": 3}
    made |= {"memory_bytes": int(used * GIB), "memory_limit_bytes": int(limit * GIB), "started_at": NOW - age}
    made |= {"directory": "/home/alice/thesis", "log": f"/home/alice/.local/state/ports/{name}.log", "note": None}
    made |= {"reason": None, "stopped_at": None, "security": "sockets", "n_running": n_workers, "tunnel": None}
    return made | more


def notebook(name: str, root: str, age: float, **more: Any) -> Any:
    """Return the row of a notebook server."""
    made: dict[str, Any] = {"host": "atlas", "kind": "notebook", "name": name, "state": "running", "managed": True}
    made |= {"root": root, "directory": root, "port": 8888, "started_at": NOW - age, "http": True, "tunnel": None}
    return made | {"warnings": [], "exposed": [], "reason": None} | more


def link(port: int, state: str = "open") -> dict[str, Any]:
    """Return the tunnel of a row."""
    return {"state": state, "local_url": f"http://localhost:{port}/status", "reason": None}


def view(host: str, **more: Any) -> dict[str, Any]:
    """Return the view of a host that is connected and has nothing."""
    made: dict[str, Any] = {"host": host, "here": False, "condition": "connected", "since": NOW - HOUR}
    made |= {"seen_at": NOW - 1, "reason": None, "way_out": None, "rows": [], "machine": None, "jobs": None}
    return made | {"history": {"machine": [], "clusters": {}}, "warnings": []} | more


def waves(memory: float, cores: float, *, every: float = 60.0) -> list[list[float]]:
    """Return eight hours of a machine: memory around `memory` GiB and cores around `cores`."""
    times = [NOW - 8 * HOUR + every * n for n in range(int(8 * HOUR / every) + 1)]
    return [
        [one, GIB * memory * (1 + 0.06 * math.sin(one / 900)), cores * (1 + 0.12 * math.sin(one / 500))]
        for one in times
    ]


def band(n_workers: int, memory: float, limit: float, *, grows: float = 0.5) -> list[list[float]]:
    """Return eight hours of a cluster whose workers use about `memory` GiB each, of `limit`."""
    made = []
    for n in range(-400, 61):
        middle = GIB * memory * (1 - grows + grows * (n + 400) / 460 + 0.05 * math.sin(n / 4))
        spread = 0.18 + 0.1 * math.sin(n / 9)
        rate = max(0.0, 40 + 25 * math.sin(n / 5))
        made.append([NOW - HOUR + 60.0 * n, n_workers, middle * (1 - spread), middle, middle * (1 + spread)])
        made[-1] += [GIB * limit, rate]
    return made


def atlas() -> dict[str, Any]:
    """Return a busy server that many share."""
    users = [
        user("alice", 212, 31.0, **promise(288, 212)),
        user("wenzel", 141, 22.4),
        user("priya", 88, 9.1, **promise(128, 88)),
        user("marco", 34, 0.1),
        user("jin", 12, 4.0),
        *(user(f"guest{n}", 0.27, 0.0) for n in range(3)),
        user("root", 25.2, 1.6),
    ]
    open_kernels = (
        "everybody on this machine can read what its kernels run and print; start it with `ports notebook start`"
    )
    rows = [
        cluster("main", 24, 201, 288, 18_432, 3 * DAY, tunnel=link(29516)),
        cluster("cardamom", 96, 19, 96, 212, 2 * HOUR, n_asked=128, note="memory guard: 4 % of the memory is available, workers spill"),
        notebook("lab", "/home/alice/thesis/chapters", 6 * DAY, tunnel=link(25564)),
        notebook("bgc-md2", "/home/alice/src/bgc_md2", 66 * MINUTE, managed=False, tunnel=link(20113), warnings=[open_kernels]),
        {"kind": "tensorboard", "name": "tensorboard", "state": "running", "port": 6006, "started_at": NOW - 13 * MINUTE, "http": True, "tunnel": None},
        {"kind": "cluster", "name": "short", "state": "stopped", "started_at": NOW - DAY, "tunnel": None, "reason": "killed by signal 9; the kernel ended it: memory was short"},
    ]  # fmt: skip
    history = {
        "machine": waves(400, 62),
        "clusters": {"main": band(24, 8.4, 12), "cardamom": band(96, 0.2, 1, grows=0)},
    }
    jobs = {"rows": [], "counts": {"running": 12, "pending": 230, "finished": 1888}, "resource": None}
    usage = machine("atlas", 96, 68.2, 754, 241, users)
    return view("atlas", rows=rows, machine=usage, history=history, jobs=jobs)


def minerva() -> dict[str, Any]:
    """Return a server with GPUs, whose cluster is known by what it says itself only."""
    gpus = [
        {"index": 0, "name": "A100 80GB", "memory_bytes": 80 * GIB, "used_bytes": 71 * GIB, "busy": 98, "users": {"wenzel": 71 * GIB}},
        {"index": 1, "name": "A100 80GB", "memory_bytes": 80 * GIB, "used_bytes": 12 * GIB, "busy": 41, "users": {"alice": 12 * GIB}},
        {"index": 2, "name": "A100 80GB", "memory_bytes": 80 * GIB, "used_bytes": 0, "busy": 0, "users": {}},
    ]  # fmt: skip
    users = [user("alice", 22, 2.1, **promise(60, 22)), user("wenzel", 41, 4.0), user("root", 22, 0.1)]
    told = {"n_workers": 8, "n_asked": 8, "n_threads": 8, "n_tasks": 0, "n_running": 0, "n_clients": 1}
    told |= {"memory_bytes": 17 * GIB, "memory_limit_bytes": 60 * GIB, "worker_memory_bytes": None, "asleep": None}
    row = {"kind": "cluster", "name": "main", "state": "running", "started_at": NOW - 5 * HOUR, "tunnel": link(30556)}
    history = {"machine": waves(84, 6.2), "clusters": {"main": band(8, 2.1, 7.5)}}
    usage = machine("minerva", 64, 6.2, 503, 418, users, gpus=gpus)
    return view("minerva", rows=[row | {"cluster": told}], machine=usage, history=history)


def second_factor() -> dict[str, Any]:
    """Return a host that asks for a code."""
    reason = "login2 asks for a second factor, and nobody can answer here"
    return view("login2", condition="needs login", seen_at=None, reason=reason, way_out="ports login login2")


def down() -> dict[str, Any]:
    """Return a host that was seen 40 minutes ago."""
    users = [user("alice", 9, 1.0, **promise(24, 9)), user("root", 52, 2.0)]
    return view(
        "old-iron",
        condition="down",
        since=NOW - 40 * MINUTE,
        seen_at=NOW - 40 * MINUTE,
        reason="old-iron: no answer from login within 10 s",
        way_out="ports doctor old-iron",
        rows=[cluster("main", 4, 9, 24, 3, 150 * MINUTE, tunnel=link(31000, "down"))],
        machine=machine("old-iron", 40, 3.0, 251, 190, users),
    )


def idle() -> dict[str, Any]:
    """Return a host on which nothing of mine runs."""
    users = [user("alice", 0.1, 0.0), user("root", 5.9, 0.2)]
    return view("hydra", machine=machine("hydra", 32, 0.2, 125, 119, users))


def several() -> list[dict[str, Any]]:
    """Return the hosts of the picture in README."""
    return [atlas(), minerva(), second_factor(), down(), idle()]


def hostile() -> dict[str, Any]:
    """Return a host whose every text is markup."""
    evil = "<img src=x onerror=alert(1)>\"'&\x1b[2J\u202e"
    users = [user(evil, 4, 1.0), user("alice", 1, 1.0)]
    gpu = {"index": 0, "name": evil, "memory_bytes": GIB, "used_bytes": GIB, "busy": 400, "users": {evil: 2 * GIB}}
    rows = [
        cluster(evil, 2, 1, 2, 5, HOUR, note=evil, tunnel=link(1, evil)),
        notebook(evil, evil, HOUR, warnings=[evil, f"`{evil}`"], tunnel={"state": "open", "local_url": f"javascript:{evil}"}),
        {"kind": evil, "name": evil, "state": evil, "port": 80, "tunnel": None, "reason": evil},
    ]  # fmt: skip
    usage = machine(evil, 4, 1.0, 8, 2, users, gpus=[gpu])
    return view(evil, condition="down", reason=evil, way_out=evil, rows=rows, machine=usage, warnings=[evil])
