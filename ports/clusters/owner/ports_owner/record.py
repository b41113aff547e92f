"""What the owner reads of ``record.json``: the options of its cluster.

`ports` writes that file, from ``ClusterRecord`` in ``ports/clusters/_options.py``; the owner may run where there is no
`ports`. A test holds the fields, types and defaults of both equal.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Record:
    """A cluster as it was asked for; None leaves the choice to Dask."""

    name: str
    started_by: dict[str, Any]  # the process that started it, for the machine and the boot that it names
    n_workers: int | None = None
    threads_per_worker: int | None = None
    memory_limit: int | float | str | None = None
    memory_typed: str = ""
    processes: bool = True
    daemon: bool = False
    worker_start: str = "auto"
    interface: str | None = None
    nice: int = 0
    guard: str = "off"
    guard_mark: int | float = 0.1
    guard_pressure: int | float = 20
    idle: int | float = 0
    expire: int | float = 0
    calm_after: int | float | bool = False
    lend_after: int | float | bool = False
    gpus: int = 0
    gpu_ids: tuple[str, ...] = ()
    options: dict[str, Any] = field(default_factory=dict)
    dask_config: dict[str, Any] = field(default_factory=dict)
    sys_path: tuple[str, ...] = ()
    explained: str = ""
    scratch: str = ""
    dashboard: str = ""
    sockets: str = ""
    token_file: str = ""
    promise: str = ""


def read_record(directory: Path) -> Record:
    """Return the record in `directory`; what this version does not know is passed over."""
    found = json.loads((directory / "record.json").read_text(encoding="utf-8"))
    names = {one.name for one in dataclasses.fields(Record)}
    values: dict[str, Any] = {name: value for name, value in found.items() if name in names}
    for name, value in values.items():
        if isinstance(value, list):
            values[name] = tuple(value)  # JSON has lists where a record has tuples
    return Record(**values)
