"""The plan of a cluster that is about to start: its environment, its GPUs, its size, and where its files are."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from ports import machine, sessions
from ports.clusters import _dask, _gpus, _options, _scratch
from ports.clusters._options import KIND, ClusterRecord
from ports.clusters._snapshot import with_promises
from ports.errors import UsageError, warn
from ports.machine import fair_share
from ports.probe import promises
from ports.sessions import environments
from ports.state import paths, runtime_directory


class Plan(NamedTuple):
    """A cluster that is about to start.

    Attributes
    ----------
    record : ClusterRecord
        With its size.
    environ : dict
        Its environment variables.
    known : frozenset
        Files of the promises that its size reckons with.
    """

    record: ClusterRecord
    environ: dict[str, str]
    known: frozenset[str]


def plan(name: str, options: Mapping[str, Any]) -> Plan:
    """Return the plan of a cluster that is about to start."""
    mine, now = sessions.new_identity()
    environ = sessions.surroundings.of_a_session()
    interpreter, sys_path = sys.executable, _own_path()
    if options["env"] is not None:
        found, environ = environments.of_a_start(options["env"], environ)
        interpreter = str(found.python)
        sys_path = _foreign_path(sys_path)
    environ.update(options["environ"])
    if options["interface"] is not None:
        _check_interface(options["interface"])
    own = f"cluster-{name}-{secrets.token_hex(3)}"
    record = ClusterRecord(
        kind=KIND,
        name=name,
        created_at=now,
        interpreter=interpreter,
        directory=str(Path.cwd()),
        started_by=mine,
        dask_config=_dask.changed_config(),
        sys_path=sys_path,
        scratch=str(_scratch.choose(name, options["local_directory"])),
        dashboard=str(runtime_directory() / f"{own}.sock"),
        sockets=str(runtime_directory() / own) if options["security"] == "sockets" else "",
        token_file=str(paths.here().token(KIND, name)) if options["dashboard"] == "tcp" else "",
        promise=f"{promises.DIRECTORY}/ports-promise-{os.getuid()}-{secrets.token_hex(8)}",
        **_options.recorded(options),
    )
    if record.gpus:
        record = _gpus.for_start(record, environ)
    room = replace(machine.room(), own_clusters=with_promises(name))
    return Plan(_sized(record, room), environ, room.promises)


def _check_interface(name: str) -> None:
    there = _dask.interfaces()
    if name not in there:
        known = ", ".join(f"{one} ({address})" for one, address in sorted(there.items()))
        raise UsageError(f"interface is {name!r}; it must be one of this machine's with an IPv4 address: {known}")


def _sized(record: ClusterRecord, room: fair_share.Room) -> ClusterRecord:
    """Return the record with its size in numbers: what is asked for, and else a fair share."""
    typed = _options.typed(record.memory_limit)
    asked = {"n_workers": record.n_workers, "threads_per_worker": record.threads_per_worker}
    limit = _bytes(record.memory_limit, room.may_have)
    size = fair_share.decide(
        room,
        {**asked, "memory_limit": limit, "memory_typed": typed},
        processes=record.processes,
        takes_all=record.takes_all,
    )
    # a size that nobody asked for has been reduced instead, down to one least worker, which always starts
    is_asked = limit is not None or size.n_workers > 1 or size.promised_bytes > room.may_have
    if is_asked and not record.force:
        fair_share.check(room, size.n_workers, size.memory_limit, typed)
    for warning in size.warnings:
        warn(warning)
    return replace(
        record,
        n_workers=size.n_workers,
        threads_per_worker=size.threads_per_worker,
        memory_limit=size.memory_limit,
        memory_typed=typed,
        divided_bytes=size.divided_bytes,
        most_memory=size.memory_limit if size.divided_bytes else 0,
        explained=size.explained,
    )


def _bytes(asked: Any, whole: int) -> int | None:
    """Return the limit of a worker in bytes; a fraction, ``0.5``, is of `whole`; None for ``"auto"``."""
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(asked, int) and 0 < float(asked) <= 1:
            return int(float(asked) * whole)
    found = _dask.parse_bytes(asked)
    return None if found in (None, "auto") else int(found)


def _own_path() -> tuple[str, ...]:
    return tuple(entry or str(Path.cwd()) for entry in sys.path)


def _foreign_path(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Return `entries` without this interpreter's own; another interpreter has its own."""
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return tuple(entry for entry in entries if "site-packages" not in entry and not entry.startswith(own))
