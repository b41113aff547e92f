"""How a cluster that is to be started will be: its environment, its GPUs, its size, and where its files lie."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ports import machine, sessions
from ports.clusters import _dask, _gpus, _scratch
from ports.clusters._options import ClusterRecord
from ports.clusters._snapshot import KIND
from ports.errors import UsageError, warn
from ports.machine import fair_share
from ports.probe import promises
from ports.sessions import environments
from ports.state import paths


def plan(name: str, merged: Mapping[str, Any]) -> tuple[ClusterRecord, dict[str, str]]:
    """Return the record of a cluster that is to be started, and its environment variables."""
    mine, now = sessions.new_identity()
    environ = sessions.starter_environ()
    interpreter, sys_path = sys.executable, _own_path()
    if merged["env"] is not None:
        found = environments.find(merged["env"], Path.cwd(), environ=environ)
        interpreter, environ = str(found.python), environments.activated(found, environ)
        sys_path = _foreign_path(sys_path)
    environ.update(merged["environ"])
    if merged["interface"] is not None:
        _check_interface(merged["interface"])
    own = f"cluster-{name}-{secrets.token_hex(3)}"
    takes_all = merged["n_workers"] == fair_share.ALL
    merged = {**merged, **_gpus.for_start(name, merged, environ)}
    merged = {**merged, **_sized(merged, takes_all=takes_all)}
    record = ClusterRecord(
        kind=KIND,
        name=name,
        created_at=now,
        interpreter=interpreter,
        directory=str(Path.cwd()),
        started_by=mine,
        sys_path=sys_path,
        scratch=str(_scratch.choose(name, merged["local_directory"])),
        sockets=str(paths.runtime_directory() / own) if merged["security"] == "sockets" else "",
        token_file=str(paths.here().token(KIND, name)) if merged["dashboard"] == "tcp" else "",
        **{
            **merged,
            "dashboard": str(paths.runtime_directory() / f"{own}.sock"),
            "promise": f"{promises.PLACE}/ports-promise-{os.getuid()}-{secrets.token_hex(8)}",
        },
    )
    return record, environ


def _check_interface(name: str) -> None:
    there = _dask.interfaces()
    if name not in there:
        known = ", ".join(f"{one} ({address})" for one, address in sorted(there.items()))
        raise UsageError(f"interface is {name!r}, and this machine has no such one with IPv4; there are {known}")


def _sized(merged: Mapping[str, Any], *, takes_all: bool) -> dict[str, Any]:
    """Return workers, threads and memory as numbers, what is not asked for a fair share, and how they came about."""
    room = machine.room()
    asked = {name: merged[name] for name in ("n_workers", "threads_per_worker")}
    asked["memory_limit"] = _memory(merged["memory_limit"], room.may_have)
    size = fair_share.decide(room, asked, processes=merged["processes"], takes_all=takes_all)
    # what nobody asked for has become smaller instead, down to a least worker, which always starts
    is_asked = asked["memory_limit"] is not None or size.n_workers > 1 or size.promised_bytes > room.may_have
    if is_asked and not merged["force"]:
        fair_share.check(room, size.n_workers, size.memory_limit)
    for warning in size.warnings:
        warn(warning)
    return {
        "n_workers": size.n_workers,
        "threads_per_worker": size.threads_per_worker,
        "memory_limit": size.memory_limit,
        "takes_all": takes_all,
        "explained": size.explained,
    }


def _memory(asked: Any, whole: int) -> int | None:
    """Return the limit of a worker in bytes; of a part, ``0.5``, that of `whole`; None for ``"auto"``."""
    with contextlib.suppress(TypeError, ValueError):
        if not isinstance(asked, int) and 0 < float(asked) <= 1:
            return int(float(asked) * whole)
    found = _dask.parse_bytes(asked)
    return None if found in (None, "auto") else int(found)


def _own_path() -> tuple[str, ...]:
    return tuple(entry or str(Path.cwd()) for entry in sys.path)


def _foreign_path(entries: tuple[str, ...]) -> tuple[str, ...]:
    """Leave out what belongs to this interpreter: another one has its own."""
    own = (sys.prefix, sys.base_prefix, sys.exec_prefix)
    return tuple(entry for entry in entries if "site-packages" not in entry and not entry.startswith(own))
