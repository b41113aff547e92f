"""The options of a cluster: how they merge, the record that holds them, and how a running one differs. Pure."""

from __future__ import annotations

import difflib
import functools
import json
import math
import os
import socket
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from ports.errors import UsageError
from ports.machine import fair_share
from ports.probe import size
from ports.sessions import Running, SessionRecord
from ports.state import settings

HAVE_SOCKETS = hasattr(socket, "SO_PEERCRED") and sys.platform == "linux"
# Options, and values of options, that no running cluster differs from.
_NEVER_DIFFER = ("force", "env", ("memory_limit", "auto"), ("security", "auto"))
# Keywords of `LocalCluster` that `ports` decides itself: another value would let other users in.
OURS = {
    "name": "pass name= to ports itself",
    "protocol": "security= selects Unix sockets or TLS",
    "host": "a cluster of ports listens on Unix sockets, on 127.0.0.1, or (with TLS) on interface=",
    "dashboard_address": "the dashboard is on a private socket; `ports open` shows it at home",
    "worker_dashboard_address": "workers have no HTTP server",
    "worker_class": "ports has its own class of workers, without HTTP servers",
    "asynchronous": "the cluster runs in its own process",
    "loop": "the cluster runs in its own process",
    "silence_logs": "its output goes to its log",
    "nthreads": "pass threads_per_worker= (--threads-per-worker)",
    "scheduler_port": "the address can change; clients find the cluster by its name",
}


# Keys of Dask's configuration that stay in the process that sets them: credentials, and what `ports` decides.
NOT_TRAVELLING = (
    "ports",
    "get",  # this and three others say where this process computes; a client sets them
    "scheduler",
    "shuffle",
    "pool",
    "temporary-directory",
    "scheduler-address",
    "distributed.client",
    "distributed.comm.tls",
    "distributed.comm.require-encryption",
    "distributed.comm.default-scheme",
    "distributed.worker.daemon",
    "distributed.worker.multiprocessing-method",
)
CLIENT_KEYWORDS = (
    "connection_limit",
    "deserializers",
    "direct_to_workers",
    "extensions",
    "heartbeat_interval",
    "serializers",
    "set_as_default",
)

R = TypeVar("R", bound="ClusterRecord")
KIND = "cluster"


@dataclass(frozen=True, kw_only=True)
class ClusterRunning(Running):
    """``running.json`` of a cluster: the scheduler's address, where the dashboard listens, versions."""

    address: str
    dashboard: str
    versions: dict[str, str]
    started_at: float
    dashboard_port: int | None = None


@dataclass(frozen=True, kw_only=True)
class ClusterRecord(SessionRecord):
    """A cluster as it was started. None means Dask's own choice, in a record of an older `ports`.

    `memory_typed`: the limit as it was typed, ``1GB``. `divided_bytes`: what the workers divide if their number
    changes, each of them getting `most_memory` at most; 0: their memory was asked for. `takes_all`: the whole machine
    was asked for. `explained`: how the size was decided. `promise`: the file in which all users read what the cluster
    may use. `for_owner`: the options that only the owner obeys; in ``record.json`` they are keys beside the others.
    """

    n_workers: int | None = None
    threads_per_worker: int | None = None
    memory_limit: int | float | str | None = None
    memory_typed: str = ""
    divided_bytes: int = 0
    most_memory: int = 0
    force: bool = False
    takes_all: bool = False
    explained: str = ""
    promise: str = ""
    processes: bool = True
    security: str = "tls"  # what a record without it means
    interface: str | None = None
    local_directory: str | None = None
    env: str | None = None
    environ: dict[str, str] = field(default_factory=dict, repr=False)
    gpus: int = 0
    gpu_ids: tuple[str, ...] = ()
    for_owner: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)  # keywords of LocalCluster
    dask_config: dict[str, Any] = field(default_factory=dict, repr=False)  # what the starter has set, a.b.c → value
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

    @property
    def after(self) -> tuple[str, ...]:
        """Remove what workers spilled: an owner that is killed leaves it, and others lack that disk space."""
        return ("rm", "-rf", "--", f"{self.scratch}/dask-scratch-space") if self.scratch else ()

    def option(self, name: str) -> Any:
        """Return the value of an option, or of a keyword of `LocalCluster`; None where it has none."""
        if name == "dashboard":
            return "tcp" if self.token_file else "socket"
        if name not in settings.options(KIND):
            return self.options.get(name)
        own = getattr(self, name, None)
        return own if own is not None else self.for_owner.get(name, _without(name))

    def to_json(self) -> dict[str, Any]:
        """Return the record as JSON-able data."""
        data = super().to_json()
        return {**data.pop("for_owner"), **data}

    @classmethod
    def from_json(cls: type[R], data: Mapping[str, Any]) -> R:
        """Return the record that `data` holds; raises as `Record.from_json`."""
        others = {name: data[name] for name in settings.options(KIND) if name in data and name not in _fields()}
        return super().from_json({**data, "for_owner": others})


def _without(name: str) -> Any:
    """Return what a record of an older `ports` without the option `name` means: as its owner reads it."""
    from ports.clusters.owner.ports_owner.record import Record

    return getattr(Record, name, None)


@functools.cache
def _fields() -> frozenset[str]:
    return frozenset(one.name for one in fields(ClusterRecord))


def recorded(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a record that hold the merged `options`; its `dashboard` is an address, none of them."""
    takes_all = options["n_workers"] == fair_share.ALL
    own = {name: value for name, value in options.items() if name in _fields() and name != "dashboard"}
    others = {name: value for name, value in options.items() if name not in _fields()}
    size = {"n_workers": None, "takes_all": True} if takes_all else {}
    return {**own, **size, "for_owner": others}


def merge(
    defaults: Mapping[str, Any], asked: Mapping[str, Any], *, have_sockets: bool = HAVE_SOCKETS
) -> dict[str, Any]:
    """Return all options of a start: what is asked for, else the settings `defaults`.

    Keywords that are not options of `ports` are keywords of `LocalCluster`; they are returned as ``options``.

    Raises
    ------
    UsageError
        An option is invalid, or a keyword would open the cluster to other users.
    """
    options = {name: defaults[name] if asked.get(name) is None else asked[name] for name in settings.options(KIND)}
    keywords = {**defaults["options"], **{name: asked[name] for name in asked if name not in settings.options(KIND)}}
    check_keywords(keywords)
    settings.check(KIND, options)
    if options["gpus"] and not options["processes"]:
        raise UsageError(
            f"gpus is {options['gpus']}, but with processes=False all workers are one process, which sees all the GPUs "
            "that you see; pass processes=True, or gpus=0"
        )
    options["environ"] = {name: str(value) for name, value in options["environ"].items()}
    opens = {name: options[name] for name in ("dashboard", "interface") if options[name] not in (None, "socket")}
    options["security"] = _security(options["security"], opens, have_sockets)
    return {**options, "options": keywords}


def check_keywords(keywords: Mapping[str, Any]) -> None:
    """Raise UsageError for a keyword of Dask's that is misspelt, not Dask's, decided by `ports`, or not JSON."""
    within = keywords.get("scheduler_kwargs")
    for name, value in [*keywords.items(), *(within.items() if isinstance(within, dict) else ())]:
        near = difflib.get_close_matches(name, settings.options(KIND), n=1, cutoff=0.85)
        if name in settings.options(KIND):
            raise UsageError(f"{name}={value!r} is an option of ports, not of Dask; pass it to ports itself")
        if near:
            raise UsageError(f"there is no option {name!r}; did you mean {near[0]!r}?")
        if name in OURS:
            raise UsageError(f"option {name}={value!r} cannot be given: {OURS[name]}")
    for name, value in keywords.items():
        try:
            json.dumps(value)
        except (TypeError, ValueError) as error:
            raise UsageError(f"option {name} is {value!r}; it must be a value that JSON can hold") from error


def no_option(name: str, value: Any, known: Iterable[str], *, of: str) -> str:
    """Return the sentence that refuses a keyword that is none of `known`, with the nearest name. Pure."""
    near = difflib.get_close_matches(name, [*known], n=1)
    shown = "`ports cluster start --help` shows those of ports"
    return f"there is no option {name}={value!r} of {of}; {shown}" + (f"; did you mean {near[0]!r}?" if near else "")


def changed(config: Mapping[str, Any], written: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Return the keys of Dask's `config` that differ from what is `written` in files, ``a.b.c`` → value. Pure."""
    found: dict[str, Any] = {}
    for key, value in config.items():
        path = f"{before}{key}".replace("_", "-")
        other = written.get(key, written.get(str(key).replace("_", "-")))
        if value == other or any(path == one or path.startswith(f"{one}.") for one in NOT_TRAVELLING):
            continue
        if isinstance(value, Mapping) and (isinstance(other, Mapping) or (other is None and value)):
            found.update(changed(value, other or {}, f"{path}."))
        elif _is_json(value):
            found[path] = value
    return found


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError):
        return False


def how_many(
    record: ClusterRecord, n: int | None, cores: int | None, memory_bytes: int | None, asked: object = None
) -> int:
    """Return the number of workers that `scale` asks for: the most of a number, of cores and of memory, as Dask. Pure.

    `asked` is the memory as it was asked for, ``"16GB"``.

    Raises
    ------
    UsageError
        None is given, or the workers have no limit of memory.
    """
    numbers = [] if n is None else [n]
    if cores is not None:
        numbers.append(-(-cores // (record.threads_per_worker or 1)))
    if memory_bytes is not None:
        if not isinstance(record.memory_limit, int) or not record.memory_limit:
            raise UsageError(
                f"memory is {asked or memory_bytes}, but these workers have no memory limit; pass a number n"
            )
        numbers.append(-(-memory_bytes // record.memory_limit))
    if not numbers:
        raise UsageError("scale needs a number of workers n, or cores=, or memory=")
    return max(numbers)


def adapt_bounds(record: ClusterRecord, asked: Mapping[str, Any]) -> tuple[int, int]:
    """Return the fewest and the most workers that `adapt` asks for, as Dask reckons; by default what it has. Pure.

    Raises
    ------
    UsageError
        A bound is no number of workers, or the fewest are more than the most.
    """
    lows = [asked.get("minimum") or 0]
    for cores, memory in [(asked.get("minimum_cores"), None), (None, asked.get("minimum_memory"))]:
        if cores is not None or memory is not None:
            lows.append(how_many(record, None, cores, memory))
    most = asked.get("maximum")
    highs = [] if most is None or most == math.inf else [most]
    if (cores := asked.get("maximum_cores")) is not None:
        highs.append(max(1, cores // (record.threads_per_worker or 1)))
    if (memory := asked.get("maximum_memory")) is not None:
        each = record.memory_limit if isinstance(record.memory_limit, int) else 0
        highs.append(max(1, memory // each if each else how_many(record, None, None, memory)))
    low = max(lows)
    high = min(highs) if highs else max(record.n_workers or 1, low)
    for name, value in (("minimum", low), ("maximum", high)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UsageError(f"{name} is {value!r}; pass a number of workers")
    if low > high:
        raise UsageError(f"minimum is {low}, more than maximum, which is {high}")
    return low, high


def directory_matters(running: ClusterRecord, directory: str, files: Iterable[str]) -> bool:
    """Say whether tasks miss the directory: modules of it are in use, and workers do not look there. Pure."""
    if directory in (running.directory, *running.sys_path):
        return False
    return any(file.rpartition(os.sep)[0] == directory for file in files)


def _security(asked: str, opens: Mapping[str, str], have_sockets: bool) -> str:
    """Return how other users are kept out, ``"sockets"`` or ``"tls"``; `opens` are options that open a port."""
    if asked == "auto":
        return "sockets" if have_sockets and not opens else "tls"
    for name, value in opens.items() if asked == "sockets" else ():
        raise UsageError(f"{name}={value!r} opens a port, which security='sockets' rules out; pass security='tls'")
    if asked == "sockets" and not have_sockets:
        raise UsageError("security='sockets' needs a kernel that says who connects (Linux); pass security='tls'")
    return asked


def differences(
    running: ClusterRecord,
    asked: Mapping[str, Any],
    *,
    interpreter: str,
    directory: str,
    dask_config: Mapping[str, Any] | None = None,
    typed: str = "",
) -> tuple[str, ...]:
    """Return how the running cluster differs from what is asked for, a phrase each.

    Only what is asked for counts. `typed` is the memory limit as it was asked for, ``2GB``.
    """
    found = []
    if running.interpreter != interpreter:
        found.append(f"its interpreter is {running.interpreter}, not {interpreter}")
    if running.directory != directory:
        found.append(f"its directory is {running.directory}, not {directory}")
    for key, value in (dask_config or {}).items():
        if key not in running.dask_config:
            found.append(f"dask's {key} is not {value!r} there")
        elif running.dask_config[key] != value:
            found.append(f"dask's {key} is {running.dask_config[key]!r}, not {value!r}")
    for name, value in asked.items():
        has = running.option(name)
        if (name, value) == ("n_workers", fair_share.ALL):
            found += [] if running.takes_all else [f"n_workers is {running.n_workers}, not the whole machine"]
        elif name == "memory_limit" and value is not None and (name, value) not in _NEVER_DIFFER and has != value:
            found.append(f"memory_limit is {_limit(has, running.memory_typed)}, not {_limit(value, typed)}")
        elif name == "environ":
            found += [f"${key} differs" for key, text in (value or {}).items() if running.environ.get(key) != str(text)]
        elif value is not None and has != value and name not in _NEVER_DIFFER and (name, value) not in _NEVER_DIFFER:
            found.append(f"{name} is {has}, not {value}")
    return tuple(found)


def way_back(name: str) -> str:
    """Return what to do where somebody else, or nobody, listens for the cluster `name`."""
    again = f"`ports cluster start {name}` starts it again"
    return f"`ports cluster stop {name}` ends what is left of the cluster, and {again}"


def way_to(running: ClusterRecord, n_workers: Any) -> str:
    """Return the commands that give a running cluster another number of workers; empty if it has that, or none is."""
    if not isinstance(n_workers, int) or n_workers == running.n_workers:
        return ""
    command = f"`ports cluster scale {running.name} {n_workers}`"
    return f"{command} or client.cluster.scale({n_workers}) changes the number of workers; else "


def _limit(n_bytes: Any, typed: str) -> str:
    """Return a memory limit as it was typed, else in words."""
    return typed or (
        size(n_bytes) if isinstance(n_bytes, int) and n_bytes else "no limit" if n_bytes == 0 else str(n_bytes)
    )


def typed(limit: Any) -> str:
    """Return a memory limit that was typed as a size, ``1GB``; empty for numbers and words."""
    text = limit.strip() if isinstance(limit, str) else ""
    return text if text[:1] in tuple("0123456789.") and text[-1:].isalpha() else ""
