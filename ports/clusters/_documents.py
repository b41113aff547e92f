"""The documents about a cluster that cross a process: what its owner answers, and the row of ``--json``."""

from __future__ import annotations

from typing import TypedDict


class GuardShown(TypedDict):
    """The memory guard while it acts: `level`, `since` when (epoch), why, and how many workers it restarted."""

    level: str
    since: float
    reason: str
    restarts: int


class Short(TypedDict):
    """How many workers are wanted, how many fit in the memory that is free, the limit of each, and the free bytes."""

    wanted: int
    fitting: int
    limit_bytes: int
    free_bytes: int


class _Bounds(TypedDict):
    minimum: int
    maximum: int


class Adapts(_Bounds, total=False):
    """Between which numbers of workers a cluster adapts; `short` where there is no memory for all that are wanted."""

    short: Short | None


class MemoryDeaths(TypedDict):
    """Workers that ended at their memory limit: how many, the limit, when the last one did, and with which task."""

    n_workers: int
    limit_bytes: int
    at: float
    task: str | None


class Reduced(TypedDict):
    """Workers with a smaller memory limit than they had, because others use what they had. Sizes of each."""

    limit_bytes: int
    full_bytes: int


class Summary(TypedDict, total=False):
    """What the owner of a running cluster answers on its dashboard's socket, at ``/ports.json``.

    Sizes are bytes, times seconds since 1970. `asleep` workers come back at the first task; `ends_at` is known once
    the end is near. `waiting` says why tasks wait in vain, `failure` why workers do not start. `worker_memory_bytes`
    are those of the worker that uses least, of the middle one, and of the one that uses most. An owner that is just
    starting leaves out what comes after `n_clients`. With ``?since=EPOCH`` there is ``history``: the later points, one
    in 15 s, each a time, the number of workers, the three sizes, the limit of a worker, and tasks per second.
    """

    n_workers: int
    n_threads: int
    memory_bytes: int
    memory_limit_bytes: int
    n_tasks: int
    n_running: int
    n_clients: int
    adapts: Adapts | None
    guard: GuardShown | None
    gpu_ids: list[str]
    n_asked: int
    failure: str | None
    memory_deaths: MemoryDeaths | None
    asleep: int | None
    lent_bytes: int | None
    reduced: Reduced | None
    waiting: str | None
    last_task: float
    ends_at: float | None
    worker_memory_bytes: list[int] | None
    worker_limit_bytes: int | None
    tasks_per_second: float


class _Always(TypedDict):
    host: str
    kind: str
    name: str
    state: str
    reason: str | None
    stopped_at: float | None
    url: str | None
    link: str
    command: str
    command_note: str | None
    log: str
    n_workers: int | None
    n_asked: int | None
    n_threads: int | None
    memory_bytes: int | None
    memory_limit_bytes: int | None
    n_tasks: int | None
    n_running: int | None
    n_clients: int | None
    worker_memory_bytes: list[int] | None
    worker_limit_bytes: int | None
    tasks_per_second: float | None
    guard: GuardShown | None
    asleep: int | None
    ends_at: float | None
    note: str | None


class ClusterRow(_Always, total=False):
    """A cluster in ``--json``; docs/json.md says what each key means. What follows is missing without its record."""

    pid: int | None
    address: str | None
    security: str
    interface: str | None
    tcp_link: str | None
    started_at: float
    directory: str
    interpreter: str
    scratch: str
    memory_typed: str | None
    explained: str | None
    tmux: str | None
    versions: dict[str, str] | None
