"""What the programs of the probe answer, field by field: for types, and for the tests that hold both sides equal.

Nothing that is piped loads this file. Names with ``total=False`` can be missing from a document.
"""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class OthersListener(TypedDict):
    """A listener as far as its socket tells: all that is shown of another user's."""

    family: Literal["tcp", "tcp6", "unix"]
    address: str
    path: str | None
    port: int | None
    uid: int
    user: str
    kind: str
    open_to_network: bool


class _Recognised(TypedDict, total=False):
    of: str | None  # "cluster:main", "notebook:lab", "server:PID" or "dask:PID": the session that it belongs to
    task_of: str  # the cluster, one of whose tasks listens
    root: str | None
    token: str | None
    password: bool
    hub: bool  # a JupyterHub started it
    job: str | None  # the id of the job that started it


class Listener(OthersListener, _Recognised):
    """A listener of this user."""

    pid: int | None
    argv: list[str]
    cwd: str | None
    started_at: float | None
    http: bool | None
    scheme: Literal["http", "https"]
    url_path: str
    exposed: list[str]


class ProcessDocument(TypedDict):
    """A process, inside of other documents."""

    machine: str
    boot_id: str
    pid_namespace: str
    pid: int
    start_ticks: int


class RecordDocument(TypedDict, total=False):
    """``record.json`` of a session, as far as the probe reads it; `root` and `token_file` are a notebook server's."""

    started_by: ProcessDocument
    launcher: ProcessDocument | None
    created_at: float
    directory: str
    root: str
    token_file: str
    asked: list[str]


class RunningDocument(TypedDict, total=False):
    """``running.json`` of a session, as far as the probe reads it; some keys are a cluster's or a notebook server's."""

    process: ProcessDocument
    address: str
    dashboard: str
    dashboard_port: int | None
    started_at: float
    port: int
    base_url: str
    url_path: str
    root: str
    token_file: str


class ExitDocument(TypedDict, total=False):
    """``exit.json`` of a session."""

    format: int
    status: int | None
    signal: int | None
    ended_at: float
    reason: str | None


class _SessionParts(TypedDict, total=False):
    record: RecordDocument | None
    running: RunningDocument | None
    exit: ExitDocument | None
    token: str | None
    error: str
    newer: bool


class _SessionFindings(TypedDict, total=False):
    gone: str  # the socket of its page, where somebody removed it


class Session(_SessionParts, _SessionFindings):
    """A cluster or notebook server as its records tell: either its three records, or an error."""

    name: str
    alive: bool | None


class Elsewhere(TypedDict):
    """Another host of this home on which sessions were started and have no end."""

    node: str
    sessions: list[str]


class Document(TypedDict):
    """The answer of ``probe``."""

    format: int
    host: str
    machine_id: str
    boot_id: str
    pid_namespace: str
    platform: str
    python: str
    user: str
    uid: int
    time: float
    listeners: list[Listener]  # of other users' rows only `OthersListener`
    clusters: list[Session]
    notebooks: list[Session]
    resources: list[Session]
    ports: dict[str, Any] | None
    elsewhere: list[Elsewhere]
    warnings: list[str]


class UserOfMachine(TypedDict):
    """What the processes of one user have at a moment: bytes and cores, Dask's part beside the whole."""

    uid: int
    user: str
    memory_bytes: int
    cores: float
    dask_bytes: int
    dask_cores: float
    n_processes: int


class PromiseOfCluster(TypedDict):
    """What one cluster was promised; `held_bytes` is what it has of that, None where its owner is not seen."""

    path: str
    published: int
    uid: int
    pid: int
    n_workers: int
    n_threads: int
    bytes: int
    lent_bytes: int
    held_bytes: int | None


class Limits(TypedDict):
    """What a process may use of a machine, and what is left of it."""

    total_bytes: int
    available_bytes: int
    swap_bytes: int
    swap_free_bytes: int
    limit_bytes: int
    limit_available_bytes: int
    n_cores: int
    usable_cores: float
    pressure: dict[str, float] | None


class KeptByJobs(TypedDict):
    """What files of jobs take on the disk; `is_all`: all were counted."""

    directory: str
    bytes: int
    is_all: bool
    free_bytes: int


class _Asked(TypedDict, total=False):
    gpus: list[dict[str, Any]] | None
    jobs: KeptByJobs | None


class Use(Limits, _Asked):
    """The answer of ``who``."""

    format: int
    host: str
    uid: int
    time: float
    hidden: bool
    seconds: float
    busy_cores: float | None
    load: tuple[float, ...]
    promises: list[PromiseOfCluster]
    users: list[UserOfMachine]


class Facts(TypedDict, total=False):
    """The answer of ``examine``; ``ports`` is there where it was asked for."""

    format: int
    began: float
    time: float
    host: str
    platform: str
    user: str
    python: str
    executable: str
    logout_ends: bool | None
    login_ends: bool
    start_files: str | None
    state: dict[str, Any]
    memory: dict[str, Any]
    tmux: str | None
    ports: dict[str, str]
