"""What a cluster is asked to be: options, the record that holds them, and how two of them differ. Pure."""

from __future__ import annotations

import difflib
import json
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ports.clusters import _fairness
from ports.errors import UsageError
from ports.machine import fair_share
from ports.sessions import SessionRecord
from ports.state import Running

NAMES = (
    "n_workers",
    "threads_per_worker",
    "memory_limit",
    "force",
    "processes",
    "daemon",
    "worker_start",
    "security",
    "dashboard",
    "interface",
    "local_directory",
    "env",
    "environ",
    *_fairness.NAMES,
)
SECURITY = ("auto", "sockets", "tls")
DASHBOARD = ("socket", "tcp")
HAVE_SOCKETS = hasattr(socket, "SO_PEERCRED") and sys.platform == "linux"
# `LocalCluster` keywords that ports decides itself: opened, they would be doors for other users.
OURS = {
    "name": "pass name= to ports itself",
    "protocol": "security= chooses between Unix sockets and TLS",
    "host": "a cluster of ports listens on Unix sockets, on 127.0.0.1, or with TLS on interface=",
    "dashboard_address": "the dashboard is on a private socket; `ports open` shows it at home",
    "worker_dashboard_address": "workers have no HTTP server",
    "worker_class": "workers without HTTP servers are a class of ports",
    "asynchronous": "the cluster runs in a process of its own",
    "loop": "the cluster runs in a process of its own",
    "silence_logs": "its output goes to its log",
    "scheduler_port": "the address is free to change; clients find it by name",
}


@dataclass(frozen=True, kw_only=True)
class ClusterRunning(Running):
    """What the owner of a cluster says of itself: address of the scheduler, where the dashboard is, versions."""

    address: str
    dashboard: str
    versions: dict[str, str]
    started_at: float
    dashboard_port: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterRecord(SessionRecord):
    """A cluster as it was started; None means Dask's own choice, as older versions of `ports` left it.

    `takes_all`: all of the machine was asked for; `explained`: how its size came about; `promise`: the file that tells
    all users what it is promised.
    """

    n_workers: int | None = None
    threads_per_worker: int | None = None
    memory_limit: int | float | str | None = None
    force: bool = False
    takes_all: bool = False
    explained: str = ""
    promise: str = ""
    processes: bool = True
    daemon: bool = False
    worker_start: str = "auto"
    security: str = "tls"  # what a record without it means
    interface: str | None = None
    local_directory: str | None = None
    env: str | None = None
    environ: dict[str, str] = field(default_factory=dict, repr=False)
    nice: int = 0
    guard: str = "off"
    guard_mark: int | float = 0.1
    guard_pressure: int | float = 20
    idle: int | float = 0
    expire: int | float = 0
    gpus: int = 0
    gpu_ids: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    sys_path: tuple[str, ...] = ()
    scratch: str = ""
    dashboard: str = ""
    sockets: str = ""
    token_file: str = ""  # where the dashboard is on a TCP port too
    answers: ClassVar[type[Running]] = ClusterRunning

    @property
    def outside(self) -> tuple[str, ...]:
        """Its scratch, the dashboard's socket, the directory of all others, and its promise."""
        return (self.scratch, self.dashboard, *(one for one in (self.sockets, self.promise) if one))


def merge(
    settings: Mapping[str, Any], asked: Mapping[str, Any], *, have_sockets: bool = HAVE_SOCKETS
) -> dict[str, Any]:
    """Return all options of a start: what is asked for wins over the settings.

    Keywords that are not options of `ports` are passed on to `LocalCluster`, below ``options``.

    Raises
    ------
    UsageError
        A keyword that would take the cluster's privacy away.
    """
    merged = {name: settings[name] for name in NAMES}
    extra = dict(settings["options"])
    for name, value in asked.items():
        if name not in NAMES:
            extra[name] = value
        elif value is not None:
            merged[name] = value
    within = extra.get("scheduler_kwargs")
    for name, value in [*extra.items(), *(within.items() if isinstance(within, dict) else ())]:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.85)
        if name in NAMES:
            raise UsageError(f"option {name}={value!r} cannot be given among Dask's: pass it to ports itself")
        if near:
            raise UsageError(f"there is no option {name!r}; did you mean {near[0]!r}?")
        if name in OURS:
            raise UsageError(f"option {name}={value!r} cannot be given: {OURS[name]}")
    _check(merged)
    ports = [f"{name}={merged[name]!r}" for name in ("dashboard", "interface") if merged[name] not in (None, "socket")]
    if merged["security"] == "auto":
        merged["security"] = "sockets" if have_sockets and not ports else "tls"
    elif merged["security"] == "sockets" and ports:
        raise UsageError(f"{ports[0]} opens a port, which security='sockets' rules out; pass security='tls'")
    elif merged["security"] == "sockets" and not have_sockets:
        raise UsageError("security='sockets' needs a kernel that tells who is at the other end: Linux; pass 'tls'")
    merged["environ"] = {name: str(value) for name, value in merged["environ"].items()}
    for name, value in extra.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"option {name} is {value!r}; it must be what JSON can hold") from error
    return {**merged, "options": extra}


def _check(options: Mapping[str, Any]) -> None:
    for name, least in (("n_workers", 0), ("threads_per_worker", 1)):
        value = options[name]
        if name == "n_workers" and value == fair_share.ALL:
            continue
        if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < least):
            raise UsageError(f"{name} is {value!r}; it must be a whole number of at least {least}")
    for name in ("processes", "daemon", "force"):
        if not isinstance(options[name], bool):
            raise UsageError(f"{name} is {options[name]!r}; it must be True or False")
    for name in ("local_directory", "env", "interface"):
        if not isinstance(options[name], str | None):
            raise UsageError(f"{name} is {options[name]!r}; it must be a text")
    memory_limit = options["memory_limit"]
    if isinstance(memory_limit, bool) or not isinstance(memory_limit, int | float | str | None):
        raise UsageError(f"memory_limit is {memory_limit!r}; it must be bytes, or a text such as 4GB")
    if options["security"] not in SECURITY:
        raise UsageError(
            f"security is {options['security']!r}; it must be one of {', '.join(SECURITY)}: "
            "a cluster of ports makes its own credentials"
        )
    if options["dashboard"] not in DASHBOARD:
        raise UsageError(f"dashboard is {options['dashboard']!r}; it must be socket or tcp")
    _fairness.check(options)
    if options["gpus"] and not options["processes"]:
        raise UsageError(
            f"gpus is {options['gpus']}, and with processes=False all workers are one process, which sees what you see"
            "; pass processes=True, or gpus=0"
        )
    if not isinstance(options["environ"], Mapping):
        raise UsageError(f"environ is {options['environ']!r}; it must be a mapping of names to values")
    for variable in options["environ"]:
        if not isinstance(variable, str) or not variable or "=" in variable or "\0" in variable:
            raise UsageError(f"environ has {variable!r}; that is no name of a variable")
    if options["worker_start"] not in ("auto", "spawn", "forkserver"):
        raise UsageError(f"worker_start is {options['worker_start']!r}; it must be auto, spawn or forkserver")


def differences(
    running: ClusterRecord, asked: Mapping[str, Any], *, interpreter: str, directory: str
) -> tuple[str, ...]:
    """Return how the running cluster differs from what is asked for, a phrase each.

    Only what is asked for counts: an option that is not named differs from nothing.
    """
    found = []
    if running.interpreter != interpreter:
        found.append(f"its interpreter is {running.interpreter}, not {interpreter}")
    if running.directory != directory:
        found.append(f"its directory is {running.directory}, not {directory}")
    for name, value in asked.items():
        has = getattr(running, name) if name in NAMES else running.options.get(name)
        if name == "force" or (name, value) in (("memory_limit", "auto"), ("n_workers", fair_share.ALL)):
            if value == fair_share.ALL and not running.takes_all:
                found.append(f"n_workers is {running.n_workers}, not all that the machine has")
            continue
        if name == "dashboard":
            has = "tcp" if running.token_file else "socket"
        if name == "environ":
            found += [f"${key} differs" for key, text in (value or {}).items() if running.environ.get(key) != str(text)]
        elif value is not None and name != "env" and has != value and (name, value) != ("security", "auto"):
            found.append(f"{name} is {has}, not {value}")
    return tuple(found)
